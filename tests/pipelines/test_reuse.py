"""A run may take finished stages over from another: the result is what it would be without."""

import json
import shutil

import pytest

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


def curves(run, without=()):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] not in without]


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
    assert result.code == 0, result.err
    assert tree(run / "weights") == weights
