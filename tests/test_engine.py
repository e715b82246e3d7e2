"""Work on Ray: the same files as in this process, each once, also when workers are killed."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fewmask import engine
from fewmask.data.street import STREET_CLASS_NAMES, make_street
from fewmask.engine import Done, Engine, done_on_ray, each_done
from fewmask.errors import DataError, Problem, ResourceError
from fewmask.io.images import write_image, write_mask

ray = pytest.importorskip("ray")
RAY = ("--engine", "ray", "--workers", 2)
QUICK = ("--preset=smoke", "--threads=1", "--device=cpu")
PICTURES = 7


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all of these tests; its workers stand in another folder than the tests."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Pictures of two sizes, in folders, and one that is none."""
    root, rng = tmp_path_factory.mktemp("work"), np.random.default_rng(0)
    for number in range(PICTURES):
        path = root / "pictures" / ("a" if number % 2 else "b") / f"p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, rng.integers(0, 256, (40 + number % 2, 50, 3)).astype(np.uint8))
    (root / "pictures/a/p1.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def adapt_run(fewmask, work):
    """With a UNIT of two steps."""
    street = make_street(work / "street", day=8, night=6, test=4, width=64, height=48)
    result = fewmask(
        "adapt", "--source", street / "day", "--target", street / "night", "-o", work / "adapt",
        "--test", street / "test", *QUICK, "--class-names", *STREET_CLASS_NAMES,
        "--image-size=32", "--image-width=48", "--segment-min-steps=1", "--adapt-steps=1",
        "--encoder=mobilenetv3_small_050", "--encoder-weights=none", "--render-methods=unit",
        "--translate-steps=1", "--translate-width=4", "--translate-blocks=1",
        "--translate-scales=1", "--translate-crop-px=32", "--translate-discriminator-width=4",
        "--translate-lambda-perceptual=0", "--no-controls-source-only",
    )  # fmt: skip
    assert result.code == 0, result.err
    return work / "adapt"


@pytest.fixture(scope="module")
def factory_run(fewmask, work):
    """A generator of 16 px, and in it an interpreter."""
    rng, data, run, seeds = np.random.default_rng(0), work / "blobs", work / "factory", work / "s"
    data.mkdir()
    for number in range(24):
        write_image(data / f"{number}.png", rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    first = ("factory", "train", data, "-o", run, *QUICK), ("factory", "export-seeds", run, "-n", 3)
    for words in (first[0], (*first[1], "-o", seeds)):
        result = fewmask(*words)
        assert result.code == 0, result.err
    (seeds / "masks").mkdir()
    for path in (seeds / "images").iterdir():
        write_mask(seeds / "masks" / path.name, np.eye(16, dtype=np.uint8))
    result = fewmask("factory", "label", run, "--masks", seeds / "masks", "--interpret-steps=3")
    assert result.code == 0, result.err
    return run


def killing(marker):
    """A worker that kills itself when its second piece is done and not yet told; one does so."""

    class Mortal(engine._Worker):
        done = 0

        def __call__(self, row):
            told = super().__call__(row)
            self.done += 1
            if self.done == 2:
                with suppress(FileExistsError):
                    marker.touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            return told

    return Mortal


def words_of(command, request):
    """A command on the pictures, but for its ``-o``."""
    if command == "predict":
        return "predict", request.getfixturevalue("tiny_run").path, "pictures"
    if command == "explain":
        return ("explain", "pictures", "--network", "timm:mobilenetv3_small_050", "--size", "64",
                "64", "--weights=none", "--method=grad-cam,plain", "--batch-size=2", "--cache",
                "cache")  # fmt: skip
    if command == "translate":
        return "translate", request.getfixturevalue("adapt_run"), "pictures"
    return "factory", "sample", request.getfixturevalue("factory_run"), "-n", 40


@pytest.mark.parametrize(
    ("command", "killed"),
    [
        ("predict", True),
        ("explain", False),
        ("translate", False),
        ("sample", False),
        *(pytest.param(name, True, marks=pytest.mark.slow)
          for name in ("explain", "translate", "sample")),
    ],
)  # fmt: skip
def test_each_file_once_and_the_same_bytes_also_when_a_worker_is_killed(
    request, fewmask, work, tree, tmp_path, monkeypatch, command, killed
):
    monkeypatch.chdir(work)
    words = words_of(command, request)
    here = fewmask(*words, "-o", tmp_path / "here")
    if killed:
        monkeypatch.setattr(engine, "_Worker", killing(tmp_path / "killed"))
    there = fewmask(*words, "-o", tmp_path / "there", *RAY)
    assert there.code == here.code == (0 if command == "sample" else 10), there.err
    if there.code:
        assert there.err.splitlines()[-1].replace("/there", "/here") == here.err.splitlines()[-1]
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    assert len(tree(tmp_path / "here")) >= PICTURES - 1
    assert (tmp_path / "killed").exists() == killed


def opener():
    """Work that a module of tests brings along."""

    def work(piece):
        if piece == "damaged":
            return Done(problems=[Problem("CODE", piece, "this", "that", "mend it")])
        if piece == "refused":
            raise DataError.of("CODE", where=piece, found="this", expected="that", fix="mend it")
        if piece == "closed":
            Path("/dev/null/nothing").touch()
        return Done([piece, os.getpid()])

    return work


def test_results_come_once_and_in_order_and_problems_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_Worker", killing(tmp_path / "killed"))
    pieces = [*range(30), "damaged", "\udcff", 31]
    done = list(done_on_ray(Engine("ray", 2), pieces, opener, title="work", unit="piece"))
    assert [each.result and each.result[0] for each in done] == [*range(30), None, *pieces[31:]]
    assert os.getpid() not in {each.result[1] for each in done if each.result}
    assert (tmp_path / "killed").exists()
    assert [each.problems for each in done if each.problems] == [opener()("damaged").problems]


@pytest.mark.parametrize(("piece", "error"), [("refused", DataError), ("closed", ResourceError)])
def test_an_error_ends_the_work_as_what_it_is(piece, error):
    with pytest.raises(error, match=r"CODE refused|RESOURCES /dev/null/nothing"):
        list(done_on_ray(Engine("ray", 1), [1, piece, 2], opener, title="work", unit="piece"))


def test_without_pieces_nothing_is_opened():
    def refuse():
        raise AssertionError

    assert not list(each_done(Engine("ray", 2), [], refuse, refuse, title="work", unit="piece"))


def test_a_cluster_that_cannot_be_reached_is_told(monkeypatch):
    def unreachable(**how):
        assert how["address"] == "auto"
        raise ConnectionError("Could not find any running Ray instance.\nStart one.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
    with pytest.raises(ResourceError, match="RAY-CLUSTER auto: found Could not find any running"):
        list(done_on_ray(Engine("ray", 2, "auto"), [1], opener, title="work", unit="piece"))


@pytest.mark.parametrize(
    "flags", [("--workers=2",), ("--ray-address=auto",), ("--engine=ray", "--workers=-1")]
)
def test_flags_that_mean_nothing_are_refused(fewmask, work, tmp_path, flags):
    result = fewmask("explain", work / "pictures", "-o", tmp_path / "out", "--network",
                     "timm:mobilenetv3_small_050", "--weights=none", *flags)  # fmt: skip
    assert result.code == 2
    assert "ENGINE-FLAG" in result.err
    assert not (tmp_path / "out").exists()
