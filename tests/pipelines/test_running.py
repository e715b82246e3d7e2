"""A run is started, stopped and gone on with from anywhere; a finished one is used if intact."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image, ImageOps
from safetensors.torch import save_file

from fewmask.data.folder import open_folder
from fewmask.models.classifier import timm_classifier
from fewmask.pipelines.finished import predictor_of_run, read_card
from fewmask.pipelines.running import checked, recorded_settings
from fewmask.training.device import choose_device
from fewmask.training.run_folder import RunFolder
from fewmask.training.workspace import cut_parts

CPU = choose_device("cpu")


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the finished run that may be damaged."""
    return shutil.copytree(tiny_run.path, tmp_path / "copy")


def test_files_given_by_relative_paths_are_found_when_resumed_from_another_folder(
    fewmask, small_data, tiny, tmp_path, monkeypatch
):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    network = timm_classifier("mobilenetv3_small_050", 1, None).network
    save_file(network.state_dict(), "weights.safetensors")
    (here / "rejected.txt").write_text("00001\n")
    files = ("--encoder-weights=weights.safetensors", "--augment-reject-file=rejected.txt")
    flags = ("--encoder=mobilenetv3_small_050", "--cam-method=grad_cam", "--augment-images=2")
    stages = ("--stages", "translate", "augment", "classify", "evidence")
    result = fewmask("tags", small_data, "-o", "run", *tiny, *files, *flags, *stages)
    run = here / "run"
    assert result.code == 0, result.err
    for stage in ("4-augment", "5-classify"):
        shutil.rmtree(run / stage)
    monkeypatch.chdir(there)
    result = fewmask("resume", run)
    assert result.code == 0, result.err
    settings = RunFolder.open(run).record["settings"]
    assert settings["encoder_weights"] == str(here / "weights.safetensors")
    assert settings["augment_reject_file"] == str(here / "rejected.txt")
    kept = json.loads((run / "4-augment" / "generated.json").read_text())
    assert [record["kept"] for record in kept] == [True, False]


def test_the_cut_that_is_judged_before_a_run_is_the_runs_own(fewmask, small_data, tmp_path):
    """Copies, equal or mirrored, stand on one side of both."""
    data = shutil.copytree(small_data, tmp_path / "data")
    for number, path in enumerate(sorted((data / "positive").iterdir())[:6]):
        for folder in (data / "positive", data / "masks"):
            for file in folder.glob(f"{path.stem}.*"):
                image = Image.open(file)
                copy = ImageOps.mirror(image) if number % 2 else image
                copy.save(folder / f"copy-{file.name}")
    run = tmp_path / "run"
    result = fewmask("train", data, "-o", run, "--preset=smoke", "--threads=1",
                     "--image-size=32")  # fmt: skip
    assert result.code == 0, result.err
    _, config = recorded_settings(RunFolder.open(run))
    before = checked("train", data, tmp_path / "another", config).parts
    made = json.loads(next(run.glob("*-split/split.json")).read_text())
    assert made == {part: list(getattr(before, part)) for part in ("train", "val", "test")}
    unlinked = cut_parts(open_folder(data, require_tags=False).samples, config, 0)
    assert unlinked != before


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"files": {}}'])
def test_a_damaged_record_of_a_stage_does_not_keep_a_segmenter_from_predicting(
    fewmask, copy, small_data, tmp_path, damage
):
    for path in copy.glob("*/DONE.json"):
        path.write_text(damage)
    image = next((small_data / "positive").iterdir())
    result = fewmask("predict", copy, image, "-o", tmp_path / "out")
    assert result.code == 0, result.err


@pytest.mark.parametrize("key", ["image_size", "views", "refine", "encoder", "architecture"])
def test_a_card_that_lacks_what_the_settings_say_too_is_enough(copy, key):
    path = copy / "weights" / "card.json"
    card = json.loads(path.read_text())
    del card[key]
    path.write_text(json.dumps(card))
    assert predictor_of_run(RunFolder.open(copy), CPU).working_size == (32, 32)


@pytest.mark.parametrize(
    "card",
    ["", "{", "[1]", "{}", '{"kind": "segmenter"}', '{"kind": "segmenter", "class_names": 3}',
     '{"kind": "other", "class_names": ["scar"]}', '{"kind": [], "class_names": [1]}'],
)  # fmt: skip
def test_a_damaged_card_is_exit_12_and_resume_writes_it_again(fewmask, copy, tmp_path, card):
    (copy / "weights" / "card.json").write_text(card)
    image = next(copy.glob("masks/**/*.png"))
    for arguments in (
        ("predict", copy, image, "-o", tmp_path / "out"),
        ("evaluate", copy, tmp_path),
        ("report", copy),
    ):
        result = fewmask(*arguments)
        assert result.code == 12, result.err
        assert result.err.startswith("CARD-DAMAGED ")
        assert f"`fewmask resume {copy}`" in result.err


def test_a_chain_without_one_of_its_stages_is_exit_12(fewmask, copy, tmp_path):
    path = copy / "weights" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "evidence"}))
    assert read_card(RunFolder.open(copy))["kind"] == "evidence"
    image = next(copy.glob("masks/**/*.png"))
    (copy / "5-classify" / "DONE.json").write_text("{")
    assert fewmask("predict", copy, image, "-o", tmp_path / "first").code == 0
    (copy / "5-classify" / "DONE.json").unlink()
    result = fewmask("predict", copy, image, "-o", tmp_path / "second")
    assert result.code == 12, result.err
    assert result.err.startswith("STAGE-UNFINISHED ")
    assert f"fewmask resume {copy}" in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_prediction_that_is_stopped_leaves_whole_files_and_the_same_command_goes_on(
    tiny_run, small_data, tmp_path, number
):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    source = next((small_data / "positive").iterdir())
    for k in range(3000):
        os.link(source, images / f"{k}.png")
    arguments = [sys.executable, "-m", "fewmask", "predict", tiny_run.path, images, "-o", out]
    process = subprocess.Popen([*map(str, arguments)], stdout=-1, stderr=-1, text=True)
    while not any(out.glob("overlays/*.png")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    said, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert err.splitlines()[-1] == "next: the same command goes on"
    assert "resume" not in err + said
    masks, overlays = (sorted(p.name for p in (out / n).iterdir()) for n in ("masks", "overlays"))
    assert masks == overlays
    assert 0 < len(masks) < 3000


def test_predicting_and_measuring_say_how_far_they_are_on_stderr_alone(
    fewmask, tiny_run, small_data, tmp_path
):
    done = fewmask("predict", tiny_run.path, small_data, "-o", tmp_path / "out")
    assert "predict: image 24/24" in done.err
    measured = fewmask("evaluate", tiny_run.path, small_data, "--json")
    n = measured.json["n"]
    assert "compare: image 24/24" in measured.err
    assert f"evaluate: image {n}/{n}" in measured.err
    assert measured.json["n"] > 0


def test_a_second_ctrl_c_in_a_run_says_how_to_go_on(fewmask, small_data, tiny, tmp_path):
    from fewmask.training.loop import Loop

    record = Loop.record

    def twice(loop, **values):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        record(loop, **values)

    Loop.record = twice
    try:
        result = fewmask("tags", small_data, "-o", tmp_path / "run", *tiny)
    finally:
        Loop.record = record
    assert result.code == 75
    assert f"next: fewmask resume {tmp_path / 'run'}\n" in result.err
    assert "stopped on request; everything is saved" in result.err
    assert "found" not in result.err
    assert RunFolder.open(tmp_path / "run").status["state"] == "interrupted"
