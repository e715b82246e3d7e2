"""The command line's own promises: light start, help, JSON, flags, and what to do next."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

COMMANDS = (
    "tags", "train", "demo", "resume", "predict", "evaluate", "check", "report", "runs",
    "doctor", "networks",
)  # fmt: skip

HEAVY = {"torch", "torchvision", "timm", "numpy", "sklearn", "skimage", "matplotlib", "PIL"}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def one_json_value(text):
    """The single strict JSON value in a text: NaN is none."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def next_commands(result):
    """What stands behind the last ``next:``, which must be the last thing that was printed."""
    _, *tails = re.split(r"^next(?:, with your own [^:]+)?: ", result.out, flags=re.MULTILINE)
    assert tails, result.out
    lines = [line.strip() for line in tails[-1].strip().splitlines()]
    assert all(line.startswith("fewmask ") for line in lines), lines
    return lines


def test_importing_the_package_and_asking_for_help_stay_light():
    code = f"""
import sys, fewmask
fewmask.__version__
assert not {HEAVY | {"pydantic", "cyclopts"}!r} & set(sys.modules)
from fewmask.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
assert not {HEAVY | {"pydantic"}!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in COMMANDS)


def test_help_with_all_settings_needs_no_torch():
    done = python(f"""
import sys
from fewmask.cli import main
try:
    main(["tags", "--help"])
except SystemExit:
    pass
assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)
""")
    assert done.returncode == 0, done.stderr


def test_the_installed_module_runs_in_a_process_of_its_own(small_data, tmp_path):
    arguments = [sys.executable, "-m", "fewmask", "check", str(small_data), "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0
    assert re.fullmatch(r"check: image 24/24, \d+ s, 0 s left\n", done.stderr)
    assert one_json_value(done.stdout)["counts"]["images"] == 24
    arguments[4] = str(tmp_path / "gone")
    done = subprocess.run(arguments[:-1], capture_output=True, text=True)
    assert done.returncode == 10
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(fewmask, command):
    result = fewmask(command, "--help")
    assert result.code == 0
    assert f"Usage: fewmask {command}" in result.out
    assert "next:" not in result.out


def test_no_command_at_all_shows_the_help(fewmask):
    result = fewmask()
    assert result.code == 0
    assert "Usage: fewmask" in result.out


@pytest.mark.parametrize("pipeline", ["tags", "train"])
def test_every_setting_is_a_flag_with_an_explanation(pipeline):
    from fewmask.pipelines.supervised_config import SupervisedConfig
    from fewmask.pipelines.tags_config import TagsConfig

    # a process of its own: a console made by an earlier test would keep that test's width
    text = subprocess.run(
        [sys.executable, "-m", "fewmask", pipeline, "--help"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    ).stdout
    schema = {"tags": TagsConfig, "train": SupervisedConfig}[pipeline]
    for name, field in schema.model_fields.items():
        assert re.search(rf"--{name.replace('_', '-')}\b", text), name
        assert field.description, name


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["tags", "DATA", "--prest", "smoke"], "--preset"),
        (["tags", "DATA", "--segmnt-epochs", "3"], "--segment-epochs"),
        (["evaluate", "RUN", "DATA", "--jsn"], "--json"),
        (["tgas", "DATA"], "tags"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(fewmask, typed, meant):
    result = fewmask(*typed)
    assert result.code == 2
    assert re.search(rf'Did you mean "?{meant}"?\?', result.err), result.err
    assert "Traceback" not in result.err


def test_networks_have_the_published_numbers_of_parameters(fewmask):
    text = fewmask("networks").out
    for number in ("135,309,890", "1,049,346", "12,542,979", "662,977"):
        assert number in text
    rows = one_json_value(fewmask("networks", "--json").out)
    assert {"135309890", "12542979", "662977"} <= {str(row["parameters"]) for row in rows}
    assert 1_049_346 in {row["trainable"] for row in rows}


def test_json_is_exactly_one_value(fewmask, small_data, tiny_run, tmp_path):
    for arguments in (
        ["check", small_data],
        ["evaluate", tiny_run.path, small_data],
        ["networks"],
        ["doctor"],
        ["runs", tiny_run.path.parent],
        ["runs", tmp_path],
        ["check", tmp_path / "gone"],
    ):
        result = fewmask(*arguments, "--json")
        assert one_json_value(result.out) is not None, arguments


def test_each_command_names_the_next_one(fewmask, small_data, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tiny_run.path
    said = {
        "tags": next_commands(tiny_run.result),
        "report": next_commands(fewmask("report", run)),
        "resume": next_commands(fewmask("resume", run)),
        "predict": next_commands(fewmask("predict", run, small_data, "-o", tmp_path / "out")),
        "evaluate": next_commands(fewmask("evaluate", run, small_data)),
        "check": next_commands(fewmask("check", small_data)),
        "runs": next_commands(fewmask("runs", run.parent)),
        "no runs": next_commands(fewmask("runs", tmp_path / "none")),
        "doctor": next_commands(fewmask("doctor")),
        "networks": next_commands(fewmask("networks")),
    }
    assert said["tags"] == said["report"] == said["resume"]
    assert said["tags"] == [f"fewmask predict {run} IMAGES -o new_masks"]
    assert said["evaluate"] == [f"fewmask evaluate {run} {small_data} --json > scores.json"]
    assert f"report: {run / 'report.html'}\n" in fewmask("report", run).out
    assert said["check"] == [f"fewmask tags {small_data} -o runs/first"]
    assert said["runs"] == [f"fewmask report {run}"]
    assert said["no runs"] == ["fewmask demo tags"]


def test_runs_are_listed_with_state_and_score(fewmask, tiny_run):
    (row,) = fewmask("runs", tiny_run.path.parent, "--json").json
    score = tiny_run.table["metrics"]["iou.pooled.positive"]
    assert row == {
        "path": str(tiny_run.path),
        "pipeline": "tags",
        "preset": "smoke",
        "state": "finished",
        "score": f"iou.pooled.positive {score:.3f}",
        "error": "",
    }


def test_what_is_proposed_for_a_run_is_what_its_state_allows(fewmask, tiny_run, tmp_path):
    for name, state in (("a b", "interrupted"), ("bad", "failed"), ("done", "finished")):
        (tmp_path / name).mkdir()
        shutil.copy(tiny_run.path / "run.yaml", tmp_path / name)
        status = {"state": state, **({"error": "DISK full\nmore"} if name == "bad" else {})}
        (tmp_path / name / "status.json").write_text(json.dumps(status))
    result = fewmask("runs", tmp_path)
    assert sorted(next_commands(result)) == [
        f"fewmask report {tmp_path / 'done'}",
        f"fewmask resume '{tmp_path / 'a b'}'",
    ]
    assert "    DISK full\n" in result.out
    shutil.rmtree(tmp_path / "a b")
    shutil.rmtree(tmp_path / "done")
    assert "next" not in fewmask("runs", tmp_path).out


def test_the_next_command_works_when_it_is_pasted(fewmask, small_data, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_data, "odd names ü")
    (tmp_path / "runs" / "first").mkdir(parents=True)
    flags = ("--class-name", "land slide", "--group-pattern", r"^(\w+\d)")
    (command,) = next_commands(fewmask("check", "odd names ü", *flags))
    words = shlex.split(command)
    assert words[1:5] == ["tags", "odd names ü", "-o", "runs/first-2"]
    dry = fewmask(*words[1:], *tiny, "--no-seen-from-above", "--cam-scales", 1, 2, "--dry-run")
    plan = dry.json
    assert plan["data"]["classes"] == ["land slide"]
    assert plan["settings"]["group_pattern"] == flags[3]
    wet = shlex.split(dry.err.splitlines()[-1].removeprefix("next: "))
    assert "--dry-run" not in wet
    assert fewmask(*wet[1:], "--dry-run").json == plan


def test_images_without_tags_and_masks_are_for_the_newest_finished_run(
    fewmask, small_data, tiny_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_data / "positive", "images only")
    command = "fewmask predict {} 'images only' -o new_masks"
    assert next_commands(fewmask("check", "images only")) == [command.format("RUN")]
    (tmp_path / "runs" / "one").mkdir(parents=True)
    for name in ("run.yaml", "status.json"):
        shutil.copy(tiny_run.path / name, tmp_path / "runs" / "one")
    assert next_commands(fewmask("check", "images only")) == [command.format("runs/one")]


def test_a_wrong_flag_is_answered_with_the_help_of_its_command(fewmask):
    assert "Fix: fewmask tags --help" in fewmask("tags", "DATA", "--nope").err
    assert "Fix: fewmask --help" in fewmask("nope").err


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    fewmask, tiny, tree, small_data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = tree(small_data)
    result = fewmask("tags", small_data, "--dry-run", *tiny)
    plan = one_json_value(result.out)
    assert f"\nnext: fewmask tags {small_data} -o runs/tiles-tags --preset smoke " in result.err
    assert plan["data"]["images"] == 24
    assert sum(plan["parts"].values()) == 24
    assert plan["data"]["with a tag"] == plan["data"]["masks"] == 12
    assert plan["settings"]["classify_epochs"] == 1
    assert plan["folds"] == [0]
    assert "augment" not in plan["stages"]
    assert tree(small_data) == before
    assert not list(tmp_path.iterdir())


def problems(result):
    return [line for line in result.err.splitlines() if ": found " in line]


def test_a_dry_run_refuses_what_the_run_would_refuse(fewmask, tiny, small_data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("pipeline: tags\n")
    for flags in (
        ("-o", tmp_path / "run"),
        ("-o", small_data / "run"),
        ("--encoder", "no_such_network"),
        ("--fold", 9),
        ("--split-file", tmp_path / "none.csv"),
    ):
        dry = fewmask("tags", small_data, *tiny, "--dry-run", *flags)
        wet = fewmask("tags", small_data, *tiny, *flags)
        assert (dry.code, problems(dry)) == (wet.code, problems(wet))
        assert dry.code in (2, 10)
        assert problems(dry)


def test_settings_come_from_preset_then_file_then_flags(fewmask, small_data, tmp_path):
    from fewmask.pipelines.tags_config import PRESETS

    file = tmp_path / "settings.yaml"
    file.write_text("segment_epochs: 5\nclassify_epochs: 6\nseed: 3\n")
    flags = ("--preset", "smoke", "--config", file, "--classify-epochs", 7, "--dry-run")
    settings = fewmask("tags", small_data, *flags).json["settings"]
    assert settings["translate_steps"] == PRESETS["smoke"]["translate_steps"]  # preset
    assert (settings["segment_epochs"], settings["seed"]) == (5, 3)  # file over preset
    assert settings["classify_epochs"] == 7  # flag over file


def test_lists_switches_and_nothing_are_given_as_one_would(fewmask, small_data):
    flags = ("--stages", "classify", "evidence", "--cam-scales", "1", "1.5", "--no-seen-from-above")
    plan = fewmask("tags", small_data, "--preset=smoke", "--dry-run", *flags).json
    assert plan["settings"]["stages"] == ["classify", "evidence"]
    assert plan["settings"]["cam_scales"] == [1.0, 1.5]
    assert plan["settings"]["seen_from_above"] is False
    assert "segment" not in plan["stages"]


@pytest.mark.parametrize(
    ("wanted", "stages"),
    [
        ("segment", "prepare split classify evidence pseudo_masks segment evaluate export"),
        ("translate", "prepare split translate classify evaluate export"),
        ("augment", "prepare split translate augment classify evaluate export"),
    ],
)
def test_a_stage_that_is_asked_for_comes_with_those_that_it_cannot_do_without(
    fewmask, small_data, wanted, stages
):
    flags = ("--preset=smoke", "--augment-images=2", "--dry-run", "--stages", wanted)
    result = fewmask("tags", small_data, *flags)
    assert result.json["stages"] == stages.split(), result.err


def test_a_run_without_a_name_gets_the_next_free_one(fewmask, small_data, tmp_path, monkeypatch):
    from fewmask.api import free_run_path

    monkeypatch.chdir(tmp_path)
    assert free_run_path(small_data, "tags").as_posix() == "runs/tiles-tags"
    (tmp_path / "runs" / "tiles-tags").mkdir(parents=True)
    assert free_run_path(small_data, "tags").as_posix() == "runs/tiles-tags-2"


def test_the_demo_runs_on_the_data_it_makes(fewmask, tmp_path, monkeypatch):
    import functools

    from fewmask import demo
    from fewmask.pipelines import tags_config

    halves = functools.partial(demo.make_halves, train_images=8, test_images=3, image_size=32)
    short = {"image_size": 32, "cam_image_size": 64, "translate_steps": 2, "classify_epochs": 1,
             "segment_epochs": 1, "class_name": "scar", "threads": 1}  # fmt: skip
    monkeypatch.setattr(demo, "make_halves", halves)
    monkeypatch.setattr(demo, "SETTINGS", short)
    monkeypatch.setitem(tags_config.PRESETS, "fast", tags_config.PRESETS["smoke"])
    result = fewmask("demo", "tags", "-o", tmp_path / "demo")
    assert result.code == 0, result.err
    assert next_commands(result)[-1] == "fewmask tags DATA"
    table = json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())
    assert table["n"] == 6
    assert "synthetic" in (tmp_path / "demo" / "run" / "report.html").read_text().lower()
    assert result.out.startswith("synthetic data")


class Greedy(Dataset):
    """What a loader process does when memory ends: it is refused, or the system kills it."""

    def __init__(self, end):
        self.end = end

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if self.end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.empty(10**15)


@pytest.mark.parametrize(
    ("work", "found"),
    [
        (lambda: torch.empty(10**15), "memory"),
        (lambda: np.empty(10**15), "memory"),
        (lambda: list(DataLoader(Greedy("refused"), num_workers=1)), "memory"),
        (lambda: list(DataLoader(Greedy("killed"), num_workers=1)), "exited unexpectedly"),
    ],
)
def test_memory_that_ends_is_exit_14_and_the_way_out(fewmask, small_data, monkeypatch, work, found):
    from fewmask import checking

    monkeypatch.setattr(checking, "check_folder", lambda *_, **__: work())
    result = fewmask("check", small_data)
    assert result.code == 14
    assert result.err.startswith("RESOURCES this machine: found ")
    assert found in result.err.partition("; expected")[0]
    assert "fewer --workers" in result.err


@pytest.mark.parametrize(
    ("number", "expected", "fix"),
    [
        (errno.ENOSPC, "space left", "free some space"),
        (errno.EDQUOT, "space left", "free some space"),
        (errno.ENOMEM, "enough memory", "--image-size"),
        (errno.EMFILE, "open files", "ulimit -n"),
        (errno.EROFS, "write", "another place"),
        (errno.EACCES, "write", "chmod"),
        (errno.EIO, "read and written", "that file or device"),
        (errno.ENOENT, "read and written", "that file or device"),
    ],
)
def test_what_the_system_refuses_is_told_in_its_words_with_the_file_and_a_fitting_fix(
    fewmask, small_data, monkeypatch, number, expected, fix
):
    from fewmask import checking

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "the/file.png")

    monkeypatch.setattr(checking, "check_folder", refuse)
    result = fewmask("check", small_data)
    assert result.code == 14
    told, _, mend = result.err.partition(". Fix: ")
    assert told.startswith(f"RESOURCES the/file.png: found {os.strerror(number)}; expected ")
    assert expected in told
    assert fix in mend
    assert ("memory" in result.err) == (number == errno.ENOMEM)


def test_an_error_of_the_system_without_a_number_or_a_name_is_told_as_it_is(
    fewmask, small_data, monkeypatch
):
    from fewmask import checking

    def refuse(*_, **__):
        raise OSError("the reader gave up\nand more")

    monkeypatch.setattr(checking, "check_folder", refuse)
    result = fewmask("check", small_data)
    assert result.code == 14
    assert result.err.startswith("RESOURCES this machine: found the reader gave up; expected ")


def test_a_bug_is_not_called_a_lack_of_memory(fewmask, small_data, monkeypatch):
    from fewmask import checking

    monkeypatch.setattr(checking, "check_folder", lambda *_, **__: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        fewmask("check", small_data)


def test_ctrl_c_where_no_run_is_under_way_stops_with_75_and_promises_no_resume(
    fewmask, small_data, monkeypatch
):
    from fewmask import checking

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "check_folder", interrupt)
    result = fewmask("check", small_data)
    assert result.code == 75
    assert result.err.startswith("stopped; ")
    assert "resume" not in result.err
