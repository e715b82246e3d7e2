"""A run may take finished stages over from another: the result is what it would be without."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

LATER = "--segment-learning-rate=0.01"
"""Of the segmenter's training, which many stages come before."""


@pytest.fixture
def reusing(fewmask, small_data, tiny, tiny_run, tmp_path):
    """``reusing(*flags)``: a run with the settings of the tiny run, those flags, and its stages."""

    def run(*flags, lender=tiny_run.path, name="reusing"):
        result = fewmask("tags", small_data, "-o", tmp_path / name, *tiny, "--augment-images=4",
                         *(["--reuse", lender] if lender else []), *flags)  # fmt: skip
        return result, tmp_path / name

    return run


def curves(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_with_the_same_settings_every_stage_is_copied_and_nothing_is_trained(
    reusing, tiny_run, tree
):
    result, run = reusing()
    assert result.code == 0, result.err
    stages = sorted(path.name for path in run.glob("[0-9]*-*"))
    assert stages == sorted(path.name for path in tiny_run.path.glob("[0-9]*-*"))
    for stage in stages:
        made, lent = tree(run / stage), tree(tiny_run.path / stage)
        assert {k: v for k, v in made.items() if k != "DONE.json"} == {
            k: v for k, v in lent.items() if k != "DONE.json"
        }
        copied = f"{stage}: copied from {tiny_run.path}" in result.err
        assert copied != stage.endswith("-export")  # which writes to RUN/masks
    assert tree(run / "masks") == tree(tiny_run.path / "masks")
    assert sorted(map(str, curves(run))) == sorted(map(str, curves(tiny_run.path)))
    assert json.loads((run / "metrics.json").read_text())["rows"] == tiny_run.table["rows"]


def test_a_later_setting_changes_what_comes_later_as_if_nothing_had_been_copied(
    reusing, tiny_run, tree
):
    result, run = reusing(LATER)
    assert result.code == 0, result.err
    plain, other = reusing(LATER, lender=None, name="plain")
    assert plain.code == 0, plain.err
    assert "5-classify: copied" in result.err
    made = [p.name for p in run.glob("[0-9]*-*") if f"{p.name}: copied" not in result.err]
    assert any("segment" in name for name in made)
    assert "5-classify" not in made
    assert tree(run / "weights") == tree(other / "weights")
    assert tree(run / "masks") == tree(other / "masks")
    assert sorted(map(str, curves(run))) == sorted(map(str, curves(other)))


def test_folds_of_another_cut_are_not_taken_over(fewmask, small_data, tmp_path):
    flags = ("--preset=smoke", "--threads=1", "--image-size=32", "--segment-epochs=1")
    for folds, name in ((2, "two"), (3, "three")):
        more = ("--reuse", tmp_path / "two") if folds == 3 else ()
        result = fewmask("train", small_data, "-o", tmp_path / name, *flags, f"--folds={folds}",
                         *more)  # fmt: skip
        assert result.code == 0, result.err
    assert "1-prepare: copied" in result.err  # the same for every cut
    assert "fold-0/2-split: made here, not copied" in result.err
    assert result.err.count(": copied") == 1
    parts = [
        [line.split(",") for line in path.read_text().splitlines()[1:]]
        for path in sorted((tmp_path / "three").glob("fold-*/2-split/split.csv"))
    ]
    tested = [name for lines in parts for name, *rest in lines if "test" in rest]
    assert len(tested) == len(set(tested)) == len(parts[0])


def test_a_copy_that_was_cut_short_is_made_anew(reusing, fewmask, tiny_run, tree, monkeypatch):
    """Killed after some of the curves were written, and some of the files."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        result, run = reusing()
    assert result.code == 75
    assert not (run / "1-prepare").exists()
    half = run / ".tmp-1-prepare" / "images.npy"
    half.write_bytes(half.read_bytes()[:100])
    lines = [line for line in curves(tiny_run.path) if line["stage"] == "5-classify"]
    (run / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n" + json.dumps(lines[-1])[:9])
    result = fewmask("resume", run)
    assert result.code == 0, result.err
    assert not list(run.glob(".tmp-*"))
    assert tree(run / "weights") == tree(tiny_run.path / "weights")
    assert sorted(map(str, curves(run))) == sorted(map(str, curves(tiny_run.path)))


@pytest.mark.parametrize("versions", ["abc", [1, 2], None])
def test_a_record_without_a_version_is_refused(reusing, tiny_run, tmp_path, versions):
    lender = shutil.copytree(tiny_run.path, tmp_path / "lender")
    record = yaml.safe_load((lender / "run.yaml").read_text())
    (lender / "run.yaml").write_text(yaml.safe_dump({**record, "versions": versions}))
    result, run = reusing(lender=lender)
    assert (result.code, run.exists()) == (2, False)
    assert "by fewmask ?" in result.err


def test_a_damaged_or_unfinished_stage_is_made_anew(reusing, tiny_run, tmp_path, tree):
    lender = shutil.copytree(tiny_run.path, tmp_path / "lender")
    (lender / "5-classify" / "DONE.json").unlink()
    (lender / "3-translate" / "DONE.json").write_text("{")
    damaged = next((lender / "1-prepare").glob("images.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
    before = tree(lender)
    result, run = reusing(lender=lender)
    assert result.code == 0, result.err
    for stage in ("1-prepare", "3-translate", "5-classify"):
        assert f"{stage}: copied" not in result.err
    assert "2-split: copied" in result.err
    assert tree(run / "weights") == tree(tiny_run.path / "weights")
    assert tree(lender) == before


def test_what_is_no_run_of_the_same_kind_is_refused_before_anything_is_written(
    reusing, fewmask, small_data, tiny_run, tmp_path
):
    (tmp_path / "empty").mkdir()
    result, run = reusing(lender=tmp_path / "empty")
    assert (result.code, run.exists()) == (2, False)
    assert "RUN-MISSING" in result.err
    other = tmp_path / "train"
    result = fewmask("train", small_data, "-o", other, "--preset=smoke", "--reuse", tiny_run.path)
    assert (result.code, other.exists()) == (2, False)
    assert "a run of tags by fewmask" in result.err


def test_a_lender_that_has_gone_when_the_run_is_resumed_is_passed_over(
    reusing, fewmask, tiny_run, tmp_path, tree
):
    lender = shutil.copytree(tiny_run.path, tmp_path / "lender")
    result, run = reusing(lender=lender)
    assert result.code == 0, result.err
    weights = tree(run / "weights")
    shutil.rmtree(lender)
    shutil.rmtree(run / "5-classify")
    result = fewmask("resume", run)
    assert "5-classify: made here, there is no run at" in result.err
    assert result.code == 0, result.err
    assert tree(run / "weights") == weights
