"""SIGKILL at any moment, resume, and the results are bit-identical; for every stage of ``tags`` and
``adapt``, and those of ``saliency`` that are its own.

The reference runs once without interruption. Each test copies it as far as the stage before its
own, forks processes that resume it, and kills them.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml

from fewmask.pipelines import adapt, running, saliency, tags
from fewmask.randomness import generator
from fewmask.training.checkpoint import MANIFEST, CheckpointStore
from fewmask.training.loop import Loop

KILLS = 5
NAMES = {
    pipeline: [spec.name for spec in module.STAGES]
    for pipeline, module in (("tags", tags), ("adapt", adapt), ("saliency", saliency))
}
OWN = {**NAMES, "saliency": ["saliency", "segment"]}
STAGES = [(pipeline, name) for pipeline, names in OWN.items() for name in names]
GANS = {"gen_ab", "gen_ba", "disc_a", "disc_b", "generators", "discriminators", "pool_a", "pool_b"}
FIT = {"network", "optimizer"}
UNIT = {"unit", "disc_a", "disc_b", "optimizer_unit", "optimizer_judges"}
LOOPS = {  # (pipeline, stage, loop, interrupted after step): keys of its state
    ("tags", "prepare", "steps", 10): {"digests"},
    ("tags", "translate", "steps", 4): GANS,
    ("tags", "augment", "steps", 2): set(),
    ("tags", "classify", "steps", 4): FIT | {"best"},
    ("tags", "evidence", "steps", 2): set(),
    ("tags", "segment", "round-1", 2): FIT | {"ema"},
    ("tags", "segment", "probs-1", 1): set(),
    ("tags", "segment", "round-2", 2): FIT | {"ema"},
    ("tags", "controls", "masks-4", 2): FIT | {"ema"},
    ("tags", "evaluate", "steps", 4): set(),
    ("tags", "export", "steps", 10): {"manifest"},
    ("adapt", "translate", "steps", 2): UNIT,
    ("adapt", "render", "steps", 5): set(),
    ("adapt", "segment", "segmenter", 2): FIT | {"ema"},
    ("adapt", "adapt", "taught", 2): FIT | {"ema"},
    ("adapt", "controls", "source-only", 2): FIT | {"ema"},
    ("adapt", "evaluate", "steps", 2): set(),
    ("adapt", "export", "steps", 3): {"manifest"},
    ("adapt", "export", "translated", 3): set(),
    ("saliency", "saliency", "steps", 2): set(),
    ("saliency", "segment", "rgb+guided-1", 2): FIT | {"ema"},
}


@pytest.fixture(scope="module")
def references(smoke, settings, street, street_settings, saliency_settings, tmp_path_factory):
    """``references(pipeline)``: a run of it without interruption, made when first asked for."""
    made = {}
    inputs = {
        "tags": (smoke, settings),
        "adapt": (street / "day", street_settings),
        "saliency": (smoke, saliency_settings),
    }

    def run(pipeline):
        if pipeline not in made:
            path = tmp_path_factory.mktemp("reference") / "run"
            root, config = inputs[pipeline]
            made[pipeline] = running.start(pipeline, root, path, config, preset="smoke").path
        return made[pipeline]

    return run


def test_what_a_resume_could_lose_is_there(references):
    """Maps, targets and probabilities that were all zero would be the same with rows left out."""
    reference, names = references("tags"), NAMES["tags"]
    evidence = reference / f"{names.index('evidence') + 1}-evidence"
    tagged = np.load(evidence / "known_tags.npy").any(1)
    for name in ("cams", "differences"):
        maps = np.load(evidence / f"{name}.npy")[tagged]
        assert maps.reshape(len(maps), -1).any(1).mean() > 0.6
    targets = np.load(reference / f"{names.index('pseudo_masks') + 1}-pseudo_masks" / "targets.npy")
    assert (targets == 1).any((1, 2)).sum() > 8
    probs = np.load(reference / f"{names.index('segment') + 1}-segment" / "probs-1.npy")
    assert (probs[:, 1] > 0.5).any((1, 2)).sum() > 8  # the targets of round 2


@pytest.fixture
def fresh(references, tmp_path):
    """``fresh(pipeline, number)``: a copy of the reference as it was before that stage."""

    def copy(pipeline, number):
        reference = references(pipeline)
        path = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        path.mkdir()
        shutil.copy(reference / "run.yaml", path)
        for n, name in enumerate(NAMES[pipeline][: number - 1], start=1):
            shutil.copytree(reference / f"{n}-{name}", path / f"{n}-{name}")
        return path

    return copy


def names_of(path):
    return NAMES[yaml.safe_load((path / "run.yaml").read_text())["pipeline"]]


def result(path, number, records_of):
    """Digests of all that a stage wrote, and its records."""
    label = f"{number}-{names_of(path)[number - 1]}"
    files = [f for f in (path / label).rglob("*") if f.name not in {"DONE.json", "KEY"}]
    if label.endswith("export"):
        files += [f for folder in ("masks", "translated") for f in (path / folder).rglob("*.png")]
    digests = {
        f.relative_to(path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
        if f.is_file()
    }
    return digests, records_of(path, label)


def work_on(path, number, *, started=None, before=None):
    """What a child does: resume a run up to one stage, with a checkpoint after every step."""

    def up_to_here(work, specs, selected):
        def function(*arguments):
            if started:
                os.write(started[1], b"x")
            last.function(*arguments)

        last, specs = specs[number - 1], list(specs)
        specs[number - 1] = replace(last, function=function)
        known = [spec.name for spec in specs[:number]]
        run_stages(work, specs, [name for name in selected if name in known])

    run_stages, running.run_stages = running.run_stages, up_to_here
    running.finish = lambda works, module: None
    Loop.__init__.__kwdefaults__["save_every_seconds"] = 0.0
    os.fsync = lambda descriptor: None  # the page cache survives a kill of the process
    if before:
        before()
    running.resume(path)


@pytest.mark.parametrize(("pipeline", "name"), STAGES)
def test_killed_at_random_moments_a_stage_ends_with_the_same_bits(
    pipeline, name, fresh, references, in_child, records_of
):
    number, rng = NAMES[pipeline].index(name) + 1, generator("kills", name)
    expected = result(references(pipeline), number, records_of)
    assert expected[0]
    started = os.pipe()

    path = fresh(pipeline, number)
    assert in_child(lambda: work_on(path, number)) == 0
    begin, end = ((path / f"{number}-{name}" / file).stat() for file in ("KEY", "DONE.json"))
    assert result(path, number, records_of) == expected

    kills, longest, path = 0, end.st_mtime - begin.st_mtime, fresh(pipeline, number)
    while kills < KILLS:
        status = in_child(
            lambda path=path: work_on(path, number, started=started),
            kill_after=longest * float(rng.uniform(0, 0.6)),
            started=started,
        )
        if status == -signal.SIGKILL and not (path / f"{number}-{name}" / "DONE.json").exists():
            kills += 1
            continue
        longest *= 0.7
        assert status in (0, -signal.SIGKILL)
        assert result(path, number, records_of) == expected
        path = fresh(pipeline, number)
    assert in_child(lambda: work_on(path, number)) == 0
    assert result(path, number, records_of) == expected


def die_after(name, step):
    """SIGKILL the process as soon as the checkpoint of that step is written."""

    def save_and_die(self):
        save(self)
        if (self.name, self.step) == (name, step):
            os.kill(os.getpid(), signal.SIGKILL)

    save, Loop.save = Loop.save, save_and_die


def leave_out(key):
    """A resume that forgets one key of the state."""

    def restore_others(self, path, manifest, state):
        parts = {k: v for k, v in manifest["parts"].items() if k != key}
        others = {k: v for k, v in state.items() if k != key}
        restore(self, path, {**manifest, "parts": parts}, others)

    restore, CheckpointStore._restore = CheckpointStore._restore, restore_others


@pytest.mark.parametrize(("pipeline", "name", "loop", "step"), LOOPS)
def test_every_key_of_a_loops_state_is_demanded_and_matters(
    pipeline, name, loop, step, fresh, references, in_child, records_of, tmp_path
):
    number, keys = NAMES[pipeline].index(name) + 1, LOOPS[pipeline, name, loop, step]
    reference = references(pipeline)
    killed = fresh(pipeline, number)
    status = in_child(lambda: work_on(killed, number, before=lambda: die_after(loop, step)))
    assert status == -signal.SIGKILL
    newest = f"checkpoints/{number}-{name}/{loop}/step-{step:08d}"
    assert set(json.loads((killed / newest / MANIFEST).read_text())["parts"]) == keys

    for key in sorted(keys):
        without = shutil.copytree(killed, tmp_path / f"without-{key}")
        manifest = json.loads((without / newest / MANIFEST).read_text())
        (without / newest / manifest["parts"].pop(key)["file"]).unlink()
        (without / newest / MANIFEST).write_text(json.dumps(manifest))
        assert in_child(lambda path=without: work_on(path, number)) == 12
        error = json.loads((without / "status.json").read_text())["error"]
        assert "STATE-KEY" in error
        assert f"missing: {key};" in error

        forgetful = shutil.copytree(killed, tmp_path / f"forgetful-{key}")
        status = in_child(
            lambda path=forgetful, key=key: work_on(path, number, before=lambda: leave_out(key))
        )
        assert status == 0
        assert result(forgetful, number, records_of) != result(reference, number, records_of), key

    assert in_child(lambda: work_on(killed, number)) == 0
    assert result(killed, number, records_of) == result(reference, number, records_of)


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, f"ended with {process.returncode} before {path} appeared"
        time.sleep(0.02)


def test_signals_to_the_command_save_and_exit_75_and_resume_ends_with_the_same_bits(
    smoke, settings, references, tmp_path, records_of
):
    reference = references("tags")
    config, path = tmp_path / "settings.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True)))
    command = [sys.executable, "-m", "fewmask"]

    def begin(*arguments):
        return subprocess.Popen(
            [*command, *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )

    first = begin("tags", smoke, "-o", path, "--preset", "smoke", "--config", config)
    wait_for(path / "checkpoints/3-translate/steps", first)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=30)
    assert first.returncode == 75, said
    assert f"fewmask resume {path}" in said.decode()
    assert json.loads((path / "status.json").read_text())["state"] == "interrupted"

    second = begin("resume", path)
    wait_for(path / "5-classify" / "KEY", second)
    second.send_signal(signal.SIGINT)
    _, said = second.communicate(timeout=30)
    assert second.returncode == 75, said
    assert not (path / "metrics.json").exists()

    last = begin("resume", path)
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    for number in range(1, len(NAMES["tags"]) + 1):
        assert result(path, number, records_of) == result(reference, number, records_of)
    weights = [run / "weights" / "segmenter.safetensors" for run in (path, reference)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert json.loads((path / "status.json").read_text())["state"] == "finished"
