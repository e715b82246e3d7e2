"""What benchmarks write: every row keeps saying where it was measured."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def recording():
    spec = importlib.util.spec_from_file_location("recording", FOLDER / "recording.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_measured_elsewhere_keeps_its_commit_date_and_machine(recording, tmp_path):
    old = {"name": "a", "commit": "0ld", "date": "2020-01-01", "machine": "a large one"}
    new = {"name": "b", **recording.provenance()}
    path = recording.write_results(
        "x", "python x.py", [old, new], machine=recording.machine(), data="none", folder=tmp_path
    )
    record = json.loads(path.read_text())
    assert path == tmp_path / "results" / "x.json"
    assert record["rows"] == [old, new]
    for key in ("commit", "date", "machine"):
        assert {old[key], new[key]} == set(record[key].split("; "))


def test_rows_without_a_commit_are_of_the_commit_of_the_file(recording, tmp_path):
    path = recording.write_results(
        "x", "python x.py", [{"name": "a"}], machine="this", data="none", folder=tmp_path
    )
    record = json.loads(path.read_text())
    assert record["commit"] == recording.commit()
    assert record["machine"] == "this"


def test_a_table_goes_into_the_readme_of_its_folder_or_to_the_terminal(recording, tmp_path, capsys):
    tracked = (FOLDER / "README.md").read_bytes()
    recording.write_table("paper_steps", ["a"], [["1"]], tmp_path)
    assert capsys.readouterr().out == "| a |\n| --- |\n| 1 |\n"
    readme = tmp_path / "README.md"
    readme.write_text("x\n<!-- t: start -->\nold\n<!-- t: end -->\ny\n")
    recording.write_table("t", ["a"], [["1"]], tmp_path)
    expected = "x\n<!-- t: start -->\n| a |\n| --- |\n| 1 |\n<!-- t: end -->\ny\n"
    assert readme.read_text() == expected
    assert (FOLDER / "README.md").read_bytes() == tracked


@pytest.mark.parametrize("path", sorted((FOLDER / "results").glob("*.json")), ids=lambda p: p.stem)
def test_results_have_the_agreed_form(path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem
    assert {"command", "commit", "date", "machine", "data"} <= set(record)
    assert all(row["name"] and isinstance(row["metrics"], dict) for row in record["rows"])
