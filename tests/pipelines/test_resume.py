"""A finished run: what its weights know, what a change does to it, and what damage is told."""

import json
import shutil

import pytest
import torch

import fewmask as library
from fewmask.training.known_images import FILE

FLAGS = ("--preset=smoke", "--threads=1", "--image-size=32", "--segment-epochs=1",
         "--predict-views=single", "--tensorboard")  # fmt: skip


@pytest.fixture(scope="module")
def trained(fewmask, small_data, tmp_path_factory):
    """A plain supervised run, on a copy of the data that no other test reads: (data, run)."""
    root = tmp_path_factory.mktemp("trained")
    data = shutil.copytree(small_data, root / "data")
    result = fewmask("train", data, "-o", root / "run", *FLAGS)
    assert result.code == 0, result.err
    return data, root / "run"


@pytest.fixture
def moved(trained, tmp_path):
    """The run's record and weights alone, and the images it has learned from elsewhere."""
    data, run = trained
    (tmp_path / "moved").mkdir()
    shutil.copy(run / "run.yaml", tmp_path / "moved")
    shutil.copytree(run / "weights", tmp_path / "moved" / "weights")
    return shutil.copytree(data, tmp_path / "elsewhere"), tmp_path / "moved"


def test_a_run_moved_without_its_stages_refuses_what_it_has_learned(fewmask, trained, moved):
    elsewhere, run = moved
    parts = json.loads((trained[1] / "2-split" / "split.json").read_text())
    learned = {*parts["train"], *parts["val"]}
    tested = next(name for name in parts["test"] if name.startswith("negative/"))
    (elsewhere / f"{tested}.png").unlink()  # so that it is no longer the run's own data
    result = fewmask("evaluate", run, elsewhere)
    assert result.code == 11, result.err
    assert f"found {len(learned)} images that the run has learned from: " in result.err
    assert f"{min(learned)} (an image of the run's " in result.err
    again = fewmask("evaluate", trained[1], elsewhere)
    said = [[x for x in r.err.splitlines() if "LEAK " in x] for r in (result, again)]
    assert said[0] == said[1]


def test_a_run_moved_without_its_stages_is_measured_on_its_own_data_as_before(
    fewmask, trained, moved
):
    data, run = trained
    metrics = [
        fewmask("evaluate", path, root, "--json").json
        for path in (run, moved[1])
        for root in (data, moved[0])  # the same images elsewhere are the run's own data too
    ]
    assert metrics[0] == metrics[1] == metrics[2] == metrics[3]
    assert "the run's test part" in metrics[0].pop("measured")
    assert metrics[0] == json.loads((run / "metrics.json").read_text())["metrics"]


def test_a_run_that_cannot_know_what_it_has_learned_is_measured_on_nothing(fewmask, moved):
    data, run = moved
    (run / "weights" / FILE).unlink()
    result = fewmask("evaluate", run, data)
    assert result.code == 11
    assert "LEAK-UNKNOWN" in result.err
    assert "fewmask resume" in result.err


@pytest.mark.parametrize("keep", [0, 100, 1000])
def test_a_list_of_learned_images_that_was_cut_off_is_exit_12(fewmask, moved, keep):
    path = moved[1] / "weights" / FILE
    path.write_bytes(path.read_bytes()[:keep])
    result = fewmask("evaluate", moved[1], moved[0])
    assert result.code == 12
    assert "KNOWN-IMAGES-DAMAGED" in result.err


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of run and data, the copy of the run being that of the copied data."""
    data = shutil.copytree(trained[0], tmp_path / "data")
    run = shutil.copytree(trained[1], tmp_path / "run")
    record = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(record.replace(str(trained[0]), str(data)))
    return data, run


def test_resume_refuses_other_images_by_name_and_leaves_the_run_as_it_was(fewmask, tree, copied):
    data, run = copied
    positive, negative = (min((data / k).glob("*.png")) for k in ("positive", "negative"))
    shutil.copy(positive, data / "positive" / "new.png")
    negative.unlink()
    before = {k: v for k, v in tree(run).items() if k != ".lock"}
    result = fewmask("resume", run)
    assert result.code == 12, result.err
    assert "RUN-CHANGED" in result.err
    assert f"images added: positive/new; images removed: negative/{negative.stem}" in result.err
    assert "start a new run" in result.err
    assert {k: v for k, v in tree(run).items() if k != ".lock"} == before


def test_resume_goes_on_where_the_data_were_moved_to_if_they_are_the_same(fewmask, tree, copied):
    data, run = copied
    place = data.rename(data.parent / "new place")
    result = fewmask("resume", run)
    assert result.code == 10
    assert f"FOLDER-MISSING {data}: " in result.err
    assert f"fewmask resume {run} --data FOLDER" in result.err
    other = shutil.copytree(place, data.parent / "other")
    min((other / "negative").glob("*.png")).unlink()
    record = (run / "run.yaml").read_bytes()
    assert "images removed: negative/" in fewmask("resume", run, "--data", other).err
    assert (run / "run.yaml").read_bytes() == record
    (run / "5-export" / "DONE.json").unlink()
    assert fewmask("resume", run, "--data", place).code == 0
    assert library.resume_run(run, data=place).folder.record["data"] == str(place)
    assert fewmask("resume", run).code == 0


def test_resume_of_a_run_of_another_version_names_both_versions(fewmask, copied):
    _, run = copied
    text = (run / "run.yaml").read_text()
    assert f"  fewmask: {library.__version__}\n" in text
    done = run / "3-segment" / "DONE.json"
    done.write_text(done.read_text().replace('"key": "', '"key": "0'))
    assert "the same data and settings" in fewmask("resume", run).err
    text = text.replace(f"fewmask: {library.__version__}", "fewmask: 0.0.9")
    (run / "run.yaml").write_text(text)
    result = fewmask("resume", run)
    assert result.code == 12
    assert f"found fewmask {library.__version__}, the run was made by fewmask 0.0.9;" in result.err
    assert "predict, evaluate and report still work" in result.err


def test_resume_refuses_another_setting_by_name(fewmask, copied):
    record = copied[1] / "run.yaml"
    text = record.read_text().replace("segment_learning_rate: 0.001", "segment_learning_rate: 0.5")
    record.write_text(text)
    result = fewmask("resume", copied[1])
    assert result.code == 12, result.err
    assert "segment_learning_rate 0.5, was 0.001" in result.err


def test_resume_makes_a_damaged_stage_again_and_says_so(fewmask, copied):
    (copied[1] / "5-export" / "manifest.json").write_text("damaged")
    result = fewmask("resume", copied[1])
    assert result.code == 0, result.err
    assert "5-export: altered or missing: manifest.json; it is made again" in result.err


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"rows": 3}', '{"metrics": {}, "rows": {}}'])
def test_a_damaged_table_is_exit_12_and_resume_writes_it_again(fewmask, copied, content):
    path = copied[1] / "metrics.json"
    path.write_text(content)
    result = fewmask("report", copied[1])
    assert result.code == 12, result.err
    assert result.err.startswith("METRICS-DAMAGED ")
    assert "fewmask resume" in result.err
    with pytest.raises(library.FewmaskError, match="METRICS-DAMAGED"):
        _ = library.Run(copied[1]).metrics


def test_a_missing_table_is_that_of_an_unfinished_run(fewmask, copied):
    (copied[1] / "metrics.json").unlink()
    result = fewmask("report", copied[1])
    assert result.code == 2
    assert result.err.startswith("RUN-UNFINISHED ")
    with pytest.raises(library.FewmaskError, match="RUN-UNFINISHED"):
        _ = library.Run(copied[1]).metrics


def test_events_are_there_for_every_stage_that_has_records(trained):
    run = trained[1]
    stages = {json.loads(x)["stage"] for x in (run / "metrics.jsonl").read_text().splitlines()}
    assert stages
    assert {p.parent.name for p in (run / "tensorboard").glob("*/events*")} == stages


def test_a_run_gives_threads_and_tiny_numbers_back_to_its_caller(copied):
    tiny, before = torch.tensor(2.0**-1070, dtype=torch.float64), torch.get_num_threads()
    torch.set_flush_denormal(False)
    torch.set_num_threads(2)
    try:
        library.resume_run(copied[1])
        assert torch.get_num_threads() == 2
        assert tiny * 1 != 0
        torch.set_flush_denormal(True)
        library.resume_run(copied[1])
        assert tiny * 1 == 0
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
