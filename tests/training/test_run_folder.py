"""A run folder: never overwritten, one process at a time, stages kept or made again by key."""

import errno
import fcntl
import json
import os
import signal
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fewmask.config import Settings
from fewmask.data.records import Sample
from fewmask.errors import CheckpointError, DataError, Interrupted, ResourceError, UsageError
from fewmask.training.loop import Loop
from fewmask.training.run_folder import DONE, RunFolder
from fewmask.training.run_places import find_runs, free_path, refuse_inside
from fewmask.training.signals import stop_on_signals
from fewmask.training.stages import StageSpec, refuse_changed, run_stages, selected_stages
from fewmask.training.workspace import Workspace, open_array


def test_a_run_is_never_overwritten_and_the_way_to_go_on_is_said(run):
    before = (run.path / "run.yaml").read_bytes()
    with pytest.raises(UsageError) as raised:
        RunFolder.create(run.path, {"pipeline": "other"})
    assert f"fewmask resume {run.path}" in raised.value.problems[0].fix
    assert (run.path / "run.yaml").read_bytes() == before


def test_a_folder_or_file_of_something_else_is_refused_and_an_empty_one_is_taken(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for path in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UsageError) as raised:
            RunFolder.create(path, {})
        assert "resume" not in str(raised.value)
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", {"pipeline": "p"}).record["pipeline"] == "p"


def test_a_free_path_is_numbered_only_where_something_is_there(tmp_path):
    assert free_path(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").write_text("")
    assert free_path(tmp_path / "run") == tmp_path / "run-3"


def test_commands_in_fixes_can_be_pasted_and_a_finished_run_is_shown_not_resumed(tmp_path):
    run = RunFolder.create(tmp_path / "my run", {"pipeline": "tags"})
    with pytest.raises(UsageError, match=f"`fewmask resume '{run.path}'` to go on"):
        RunFolder.require_free(run.path)
    (run.path / "weights").mkdir()
    (run.path / "weights" / "card.json").write_text("{}")
    with pytest.raises(UsageError, match=f"found a finished run; .*`fewmask report '{run.path}'`"):
        RunFolder.require_free(run.path)
    with pytest.raises(UsageError, match="found a file; "):
        RunFolder.open(run.path / "run.yaml")


def test_a_run_records_versions_and_settings(tmp_path):
    settings = {"seed": 3, "class_name": "scar"}
    RunFolder.create(tmp_path / "run", {"pipeline": "tags", "settings": settings})
    record = RunFolder.open(tmp_path / "run").record
    assert record["settings"] == settings
    assert record["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("content", [None, b"", b"[1, 2]", b"a: [", b"\xff\xfe\x00", b"other: 1"])
def test_what_is_no_run_is_a_usage_error(tmp_path, content):
    if content is not None:
        (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(UsageError, match="RUN-MISSING"):
        RunFolder.open(tmp_path)


def test_a_disk_that_refuses_the_folder_is_a_resource_error(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match="Read-only"):
        RunFolder.create(tmp_path / "run", {})


def test_a_second_process_is_refused_with_the_number_of_the_first(run, in_child):
    with run.locked():
        assert run.is_locked()
        message = run.path / "message"

        def second():
            with pytest.raises(UsageError) as raised, RunFolder.open(run.path).locked():
                pytest.fail("two processes at work")
            message.write_text(str(raised.value))

        assert in_child(second) == 0
        assert f"process {os.getpid()} " in message.read_text()
    assert not run.is_locked()


def test_somebody_who_only_looks_keeps_no_run_from_starting(run):
    with (run.path / ".lock").open("a+") as looking:
        fcntl.flock(looking, fcntl.LOCK_EX)
        look = threading.Timer(0.1, fcntl.flock, (looking, fcntl.LOCK_UN))
        look.start()
        with run.locked():
            assert run.is_locked()
        look.join()


def test_a_lock_is_freed_by_a_kill_and_the_state_is_then_killed(run, in_child):
    def killed():
        with run.locked(), run.reporting():
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(killed) == -signal.SIGKILL
    assert run.status["state"] == "running"
    assert run.summary()["state"] == "killed"
    with run.locked():
        assert run.summary()["state"] == "running"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "finished"),
        (Interrupted.of("I", where="", found="", expected="", fix=""), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (DataError.of("D", where="w", found="", expected="", fix=""), "failed"),
        (ValueError("v"), "failed"),
    ],
)
def test_the_status_tells_how_the_work_ended(run, error, state):
    with pytest.raises(type(error)) if error else nullcontext(), run.reporting():
        assert run.status["state"] == "running"
        if error:
            raise error
    assert run.status["state"] == state
    assert ("error" in run.status) == (state == "failed")


def test_runs_are_listed_newest_first_and_damaged_ones_passed_over(tmp_path):
    for name, created in (("a", "2026-01-01"), ("deep/b", "2026-01-02"), ("broken", "x")):
        run = RunFolder.create(tmp_path / name, {"pipeline": "tags"})
        text = (run.path / "run.yaml").read_text().replace(run.record["created"], created)
        (run.path / "run.yaml").write_text("a: [" if name == "broken" else text)
    assert [run.path.name for run in find_runs(tmp_path)] == ["b", "a"]


@pytest.mark.parametrize("status", ["[1]", "3", "null", '"running"', "{", "\\xff"])
def test_a_status_of_another_kind_is_unknown_and_the_run_is_listed(run, status):
    (run.path / "status.json").write_text(status)
    (run.path / "metrics.json").write_text('{"metrics": [1]}')
    assert run.summary()["state"] == "unknown"
    assert run.summary()["score"] == ""


def finished(run, key="key", content="weights"):
    stage = run.stage(1, "train", key)
    (stage.path / "part").mkdir()
    (stage.path / "part" / "file").write_text(content)
    stage.finish(seconds=1.5)
    return stage


def test_a_finished_stage_is_done_and_knows_its_facts(run):
    finished(run)
    again = run.stage(1, "train", "key")
    assert again.done
    assert again.facts["seconds"] == 1.5
    assert again.facts["files"].keys() == {"part/file"}


@pytest.mark.parametrize("damage", ["altered", "missing", "no DONE", "bad DONE"])
def test_a_stage_whose_file_was_altered_is_emptied_to_be_made_again(run, damage):
    stage = finished(run)
    file, done = stage.path / "part" / "file", stage.path / DONE
    if damage == "altered":
        file.write_text("Weights")
    elif damage == "missing":
        file.unlink()
    elif damage == "bad DONE":
        done.write_text(done.read_text()[:-9])
    else:
        done.write_text(json.dumps({"key": "key"}))
    assert not stage.done
    again = run.stage(1, "train", "key")
    assert not again.done
    assert [path.name for path in again.path.iterdir()] == ["KEY"]


def test_a_stage_with_another_key_loses_its_files_and_checkpoints(run):
    stage = finished(run)
    (stage.checkpoints / "steps").mkdir(parents=True)
    again = run.stage(1, "train", "other")
    assert [path.name for path in again.path.iterdir()] == ["KEY"]
    assert not again.checkpoints.exists()


def test_a_stage_under_way_keeps_its_files_and_checkpoints(run):
    stage = run.stage(1, "train", "key")
    (stage.path / "half").write_text("half")
    (stage.checkpoints / "steps").mkdir(parents=True)
    again = run.stage(1, "train", "key")
    assert (again.path / "half").read_text() == "half"
    assert (again.checkpoints / "steps").is_dir()


def test_checkpoints_without_their_stage_are_not_gone_on_from(run):
    stage = run.stage(1, "train", "key")
    (stage.checkpoints / "steps").mkdir(parents=True)
    (stage.path / "KEY").unlink()
    stage.path.rmdir()
    assert not run.stage(1, "train", "key").checkpoints.exists()


def test_killed_while_it_empties_an_altered_stage_it_empties_it_next_time(
    run, in_child, monkeypatch
):
    for k in range(1, 7):
        stage = finished(run, key=f"key {k}")
        (stage.path / "part" / "file").write_text("altered")
        calls = []

        def killed(k=k, calls=calls):
            def watched(original):
                def call(*arguments, **options):
                    calls.append(1)
                    if len(calls) == k:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return original(*arguments, **options)

                return call

            for name in ("unlink", "rmdir"):
                monkeypatch.setattr(os, name, watched(getattr(os, name)))
            run.stage(1, "train", f"key {k}")

        assert in_child(killed) in (0, -signal.SIGKILL)
        again = run.stage(1, "train", f"key {k}")
        assert [path.name for path in again.path.iterdir()] == ["KEY"], k


def test_killed_when_only_its_marker_of_the_end_is_gone_an_altered_stage_is_still_emptied(
    run, in_child, monkeypatch
):
    stage = finished(run)
    (stage.path / "part" / "file").write_text("altered")

    def killed():
        def rmtree(path, **options):
            if path == stage.path:
                (path / DONE).unlink()
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr("shutil.rmtree", rmtree)
        run.stage(1, "train", "key")

    assert in_child(killed) == -signal.SIGKILL
    assert [path.name for path in run.stage(1, "train", "key").path.iterdir()] == ["KEY"]


def test_what_killed_writers_left_is_no_part_of_a_finished_stage(run):
    stage = run.stage(1, "train", "key")
    for name in (".tmp-weights.safetensors-4711", ".p001.png.0a1b2c3d.tmp", "kept.json"):
        (stage.path / name).write_text("x")
    stage.finish()
    assert stage.facts["files"].keys() == {"kept.json"}
    assert {path.name for path in stage.path.iterdir()} == {"kept.json", "KEY", DONE}


def test_an_array_is_there_whole_or_not_at_all_and_keeps_what_was_filled_in(
    tmp_path, in_child, monkeypatch
):
    path = tmp_path / "array.npy"

    def killed():
        monkeypatch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        open_array(path, np.uint8, (3, 2))

    assert in_child(killed) == -signal.SIGKILL
    assert not path.exists()
    open_array(path, np.uint8, (3, 2))[1] = 7
    assert open_array(path, np.uint8, (3, 2)).tolist() == [[0, 0], [7, 7], [0, 0]]


class Fake(Settings):
    """Settings of three stages: b reads a; c reads neither and borrows b's settings."""

    a_rate: int = 1
    b_file: Path | None = None
    b_rate: int = 1
    c_rate: int = 1
    other: int = 1


@pytest.fixture
def made(run):
    """``made(**settings)``: names of the stages that ran under these settings."""

    def go(**settings):
        ran = []

        def function(work, stage):
            ran.append(stage.name)
            (stage.path / "result").write_text(json.dumps(work.config.model_dump(mode="json")))

        specs = [
            StageSpec("a", function),
            StageSpec("b", function, reads=("a",)),
            StageSpec("c", function, settings=("b",)),
        ]
        data = SimpleNamespace(samples=[], root=run.path)
        work = Workspace(run, Fake(**settings), data, torch.device("cpu"))
        run_stages(work, specs, ["a", "b", "c"])
        return "".join(ran)

    return go


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, ""),
        ({"a_rate": 2}, "ab"),
        ({"b_rate": 2}, "bc"),
        ({"c_rate": 2}, "c"),
        ({"other": 2}, "abc"),
        ({"seed": 1}, "abc"),
        ({"device": "cuda", "workers": 2, "threads": 3, "save_probs": True}, ""),
    ],
)
def test_a_changed_setting_makes_again_only_the_stages_that_read_it(made, run, change, again):
    assert made() == "abc"
    results = {name: run.path / f"{n}-{name}" / "result" for n, name in enumerate("abc", 1)}
    before = {name: path.stat().st_mtime_ns for name, path in results.items()}
    assert made(**change) == again
    kept = set("abc") - set(again)
    assert {name for name in "abc" if results[name].stat().st_mtime_ns == before[name]} == kept


def test_a_stage_whose_file_was_altered_is_made_again_alone(made, run):
    made()
    (run.path / "1-a" / "result").write_text("altered")
    assert made() == "a"
    assert made() == ""


@pytest.mark.parametrize("damage", ["altered", "missing", "DONE"])
def test_a_damaged_stage_that_is_made_again_is_logged_by_name(made, run, damage):
    made()
    result = run.path / "1-a" / "result"
    if damage == "altered":
        result.write_text("altered")
    elif damage == "missing":
        result.unlink()
    else:
        (run.path / "1-a" / DONE).write_text("{")
    assert made() == "a"
    (line,) = [x for x in (run.path / "log.txt").read_text().splitlines() if "made again" in x]
    assert "1-a: " in line
    assert (DONE if damage == "DONE" else "missing: result") in line


@pytest.fixture
def folder(run, tmp_path):
    """``folder(**settings)``: a workspace on three images, one of them with a mask, and stages."""
    for name in ("x", "y", "z", "mask"):
        (tmp_path / name).write_text(name)

    def workspace(**settings):
        samples = [
            Sample(n, tmp_path / n, tmp_path / "mask" if n == "x" else None, ("cat",), n)
            for n in ("x", "y", "z")
            if (tmp_path / n).exists()
        ]
        data = SimpleNamespace(samples=samples, root=tmp_path)
        return Workspace(run, Fake(**settings), data, torch.device("cpu"))

    def write(work, stage):
        (stage.path / "result").write_text("result")

    specs = [
        StageSpec("prepare", write),
        StageSpec("a", write, reads=("prepare",)),
        StageSpec("c", write, masks=True),
    ]
    names = [spec.name for spec in specs]
    run_stages(workspace(), specs, names)
    return lambda **settings: refuse_changed(workspace(**settings), specs, names)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"a_rate": 2}, "found a_rate 2, was 1; expected what its finished stages (a) were"),
        ({"seed": 3, "c_rate": 0}, "found seed 3, was 0; c_rate 0, was 1; expected"),
        ("remove y", "found images removed: y; expected what its finished stages (prepare, a, c)"),
        ("alter z", "found images altered (file, tags or group): z; expected"),
        ("alter mask", "found masks altered (file): x; expected what its finished stages (c)"),
    ],
    ids=str,
)
def test_a_finished_run_is_not_gone_on_with_from_other_data_or_settings(
    folder, run, tree, tmp_path, change, found
):
    folder()
    if isinstance(change, str):
        what, name = change.split()
        (tmp_path / name).unlink() if what == "remove" else (tmp_path / name).write_text("new")
    before = tree(run.path)
    with pytest.raises(CheckpointError, match="RUN-CHANGED") as raised:
        folder(**({} if isinstance(change, str) else change))
    assert found in str(raised.value)
    assert tree(run.path) == before


def test_a_stage_that_is_unfinished_or_damaged_is_no_reason_to_refuse(folder, run, tmp_path):
    (run.path / "2-a" / DONE).unlink()
    (run.path / "3-c" / DONE).write_text("{")
    folder(a_rate=2, c_rate=2)
    (run.path / "1-prepare" / "result").write_text("altered")
    folder()


def test_a_change_is_refused_too_where_what_a_stage_was_made_from_is_not_recorded(folder, run):
    done = run.path / "2-a" / DONE
    record = json.loads(done.read_text())
    del record["made_from"]
    done.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="which, is not recorded"):
        folder(a_rate=2)


def test_a_file_that_a_setting_names_counts_by_its_content_wherever_it_lies(made, tmp_path):
    file = tmp_path / "rejected.txt"
    file.write_text("one")
    assert made(b_file=file) == "abc"
    assert made(b_file=file.rename(tmp_path / "moved.txt")) == ""
    (tmp_path / "moved.txt").write_text("two")
    assert made(b_file=tmp_path / "moved.txt") == "bc"


def test_other_weights_in_the_file_of_the_encoder_make_all_that_reads_it_again(made, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"one")
    assert made(encoder_weights=str(file)) == "abc"
    assert made(encoder_weights=str(file)) == ""
    file.write_bytes(b"two")
    assert made(encoder_weights=str(file)) == "abc"


def test_a_file_that_has_gone_is_named_before_any_stage_is_touched(made, run, tmp_path):
    made()
    with pytest.raises(UsageError, match=r"FILE-MISSING b_file: .*gone\.txt"):
        made(b_file=tmp_path / "gone.txt")
    assert made() == ""


def test_the_time_of_a_stage_is_that_of_all_processes_that_worked_on_it(run, in_child, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def killed(stage):
        for step in Loop(stage, 4, seed=0, state={}, save_every_steps=1):
            now[0] += 10  # saved after 10 and 20 s, killed after 30: the last 10 are lost
            if step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    def stopped(stage):
        now[0] += 300
        raise Interrupted.of("I", where="", found="", expected="", fix="")

    def finishes(stage):
        now[0] += 4000

    def work_on(function):
        now[0] += 50000  # between two processes
        work = Workspace(
            run, Fake(), SimpleNamespace(samples=[], root=run.path), torch.device("cpu")
        )
        run_stages(work, [StageSpec("a", lambda _, stage: function(stage))], ["a"])
        return work.stages["a"].facts["seconds"]

    assert in_child(lambda: work_on(killed)) == -signal.SIGKILL
    assert in_child(lambda: work_on(stopped)) == 75
    assert work_on(finishes) == 4320
    assert work_on(finishes) == 4320  # kept


def test_a_signal_is_obeyed_between_two_stages(run):
    ran = []
    specs = [
        StageSpec("a", lambda *_: ran.append("a") or os.kill(os.getpid(), signal.SIGTERM)),
        StageSpec("b", lambda *_: ran.append("b")),
    ]
    work = Workspace(run, Fake(), SimpleNamespace(samples=[], root=run.path), torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        run_stages(work, specs, ["a", "b"])
    assert ran == ["a"]
    run_stages(work, specs[1:], ["b"])
    assert ran == ["a", "b"]


def test_a_stage_of_another_fold_is_another_stage(run):
    work = Workspace(run, Fake(), SimpleNamespace(samples=[], root=run.path), torch.device("cpu"))
    folds, ran = [replace(work, fold=f, folder=f"fold-{f}", stages={}) for f in (0, 1)], []
    specs = [
        StageSpec("a", lambda work, stage: ran.append("a"), shared=True),
        StageSpec("b", lambda work, stage: ran.append(work.fold), reads=("a",)),
    ]
    for fold in folds:
        run_stages(fold, specs, ["a", "b"])
    assert ran == ["a", 0, 1]


def test_stages_are_chosen_by_name_with_all_that_they_cannot_do_without():
    specs = [StageSpec(name, lambda work, stage: None) for name in ("a", "b", "c", "d")]
    needs = {"d": ("b",), "b": ("a",)}
    assert selected_stages(specs, ["d"], needs) == ["a", "b", "d"]
    assert selected_stages(specs, ["c", "a"], needs) == ["a", "c"]
    with pytest.raises(UsageError, match=r"STAGE-UNKNOWN .*found x; expected some of a b c d"):
        selected_stages(specs, ["a", "x"], needs)


@pytest.mark.parametrize("out", ["data", "data/run", "data/deep/run", "link/run", "data/x/../run"])
def test_a_run_inside_the_users_data_is_refused(tmp_path, out):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(DataError, match="DATA-READ-ONLY"):
        refuse_inside(tmp_path / out, tmp_path / "data")


@pytest.mark.parametrize("out", ["run", "data-run", "data/../run"])
def test_a_run_beside_the_users_data_is_allowed(tmp_path, out):
    (tmp_path / "data").mkdir()
    refuse_inside(tmp_path / out, tmp_path / "data")
