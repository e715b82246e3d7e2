"""Thirty broken data sets: each is told, none is changed, and each repaired copy is whole."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fewmask.checking import mend
from fewmask.cli import main
from fewmask.data.check import TOLERATED, check_folder

_SPEC = importlib.util.spec_from_file_location("worlds", Path(__file__).with_name("worlds.py"))
worlds = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(worlds)
every_world = pytest.mark.parametrize("world", worlds.WORLDS, ids=[w.name for w in worlds.WORLDS])


@pytest.fixture
def broken(world, tmp_path):
    root = tmp_path / "broken"
    root.mkdir()
    world.fill(root, np.random.default_rng(7))
    return root


def run(*words):
    """Exit code of a command."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    return stopped.value.code


def fingerprint(root):
    """Names and contents of all that is below a folder."""
    found = {}
    for path in root.rglob("*"):
        if path.is_file():
            found[os.fsencode(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_there_are_thirty():
    assert len({world.name for world in worlds.WORLDS}) >= 30


@every_world
def test_the_check_tells_what_is_wrong(world, broken):
    report = check_folder(broken)
    codes = {problem.code for problem in report.problems}
    assert world.told <= codes | {note.code for note in report.notes}
    assert all(problem.fix and problem.expected for problem in report.problems)


@every_world
def test_a_repaired_copy_is_whole_and_the_source_as_before(world, broken, tmp_path):
    before = fingerprint(broken)
    mended = mend(broken, tmp_path / "copy")
    assert fingerprint(broken) == before
    left = {p.code for p in mended.report.problems} - TOLERATED
    assert not left, mended.text()
    assert {problem.code for problem in mended.source.problems} == world.left_out
    assert mended.source.repairs or world.left_out
    world.holds(tmp_path / "copy")


@every_world
def test_a_repaired_copy_needs_no_repair(world, broken, tmp_path):
    mend(broken, tmp_path / "copy")
    again = mend(tmp_path / "copy", tmp_path / "again")
    assert not again.source.problems
    assert not [each for each in again.source.repairs if each.code != "SPLIT-FOLDERS"]
    for path in sorted((tmp_path / "copy").rglob("*.png")):
        twin = tmp_path / "again" / path.relative_to(tmp_path / "copy")
        assert twin.read_bytes() == path.read_bytes()


def test_the_command_line_mends_and_names_the_next_command(tmp_path, capsys):
    root = tmp_path / "broken"
    root.mkdir()
    worlds.masks_in_colours(root, np.random.default_rng(1))
    assert run("check", root) == 10
    assert f"fewmask check {root} --fix" in "".join(capsys.readouterr())
    assert run("check", root, "--fix", tmp_path / "copy") == 0
    said = "".join(capsys.readouterr())
    assert "#ff0000 is class_1, #0000ff is class_2" in said
    assert f"fewmask train {tmp_path / 'copy'}" in said


def test_json_has_repairs_and_the_check_of_the_copy(tmp_path, capsys):
    root = tmp_path / "broken"
    root.mkdir()
    worlds.masks_of_0_and_128(root, np.random.default_rng(1))
    assert run("check", root, "--fix", tmp_path / "copy", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["code"] for each in told["repairs"]] == ["MASK-VALUES"]
    assert told["copy"]["counts"]["masks"] == told["written"] == 6
