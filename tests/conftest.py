"""One finished smoke run through the real command line, shared by the tests that read it."""

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Result:
    """What a command left behind: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@dataclass(frozen=True)
class Finished:
    """A finished run: the user's data folder, the run's folder and what the command printed."""

    data: Path
    path: Path
    result: Result

    @property
    def table(self):
        return json.loads((self.path / "metrics.json").read_text())


def run_command(*arguments):
    """Call the command line in this process; anything but SystemExit is a failure of ours."""
    from fewmask.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
    return Result(int(code or 0), out.getvalue(), err.getvalue())


def hash_tree(root):
    """Relative path to SHA-256 of every file below a folder; links by their target."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        ).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


TINY = (
    "--preset=smoke",
    "--threads=1",
    "--image-size=32",
    "--translate-steps=2",
    "--classify-epochs=1",
    "--classify-batch-size=8",
    "--cam-image-size=64",
    "--cam-views=single",
    "--segment-epochs=1",
    "--predict-views=single",
    "--predict-refine=none",
    "--pseudo-refine=none",
)
"""Settings for tests of what a run writes, not of how good it is: a few seconds."""


@pytest.fixture(scope="session")
def fewmask():
    """``fewmask("check", folder)`` runs a command and gives its code, stdout and stderr."""
    return run_command


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def tree():
    """``tree(folder)``: a digest of each file, to show that nothing was touched."""
    return hash_tree


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory):
    """40 tiles of 64 px with a scar and 40 without, with masks."""
    from fewmask.data.sample import make_sample

    root = tmp_path_factory.mktemp("sample") / "tiles"
    return make_sample(root, seed=0, images_per_class=40, image_size=64)


@pytest.fixture(scope="session")
def smoke_run(sample_data):
    """``fewmask tags`` on the sample with the smoke preset."""
    out = sample_data.parent / "run"
    result = run_command(
        "tags", sample_data, "-o", out, "--preset", "smoke", "--threads", 1, "--class-name", "scar"
    )
    assert result.code == 0, result.err
    return Finished(sample_data, out, result)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """12 tiles of 32 px with a scar and 12 without, with masks."""
    from fewmask.data.sample import make_sample

    root = tmp_path_factory.mktemp("small") / "tiles"
    return make_sample(root, seed=1, images_per_class=12, image_size=32)


@pytest.fixture(scope="session")
def tiny_run(small_data):
    """The shortest run that passes through every stage."""
    out = small_data.parent / "run"
    result = run_command("tags", small_data, "-o", out, *TINY, "--augment-images=4")
    assert result.code == 0, result.err
    return Finished(small_data, out, result)
