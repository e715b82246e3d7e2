"""Pipeline ``adapt`` through the real command line, on a generated street."""

import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fewmask as library
from fewmask.config import resolve
from fewmask.data.loading import Stacked
from fewmask.data.street import STREET_CLASS_NAMES, make_street
from fewmask.data.transforms import resize_mask
from fewmask.io.images import read_image, read_mask
from fewmask.masks.confidence import place_prior
from fewmask.pipelines import adapt, adapt_choice, adapt_labelled, running
from fewmask.pipelines.adapt_config import PRESETS, AdaptConfig
from fewmask.pipelines.adapt_labels import Labelling, MeanOfNetworks
from fewmask.training import segmenting
from fewmask.training.run_folder import RunFolder
from fewmask.training.workspace import Workspace

TINY = (
    "--preset=smoke", "--threads=1", "--image-size=32", "--image-width=48", "--segment-min-steps=3",
    "--adapt-steps=2", "--encoder=mobilenetv3_small_050", "--encoder-weights=none",
)  # fmt: skip
UNIT = (
    "--render-methods", "unit", "histogram", "--translate-steps=2", "--translate-width=4",
    "--translate-blocks=1", "--translate-scales=1", "--translate-crop-px=32",
    "--translate-discriminator-width=4", "--translate-lambda-perceptual=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Day with masks; night with masks, as a target whose masks only measure; night to test on."""
    root = tmp_path_factory.mktemp("street")
    make_street(root / "a", seed=0, day=8, night=6, test=4, width=64, height=48)
    make_street(root / "b", seed=1, day=1, night=1, test=5, width=64, height=48)
    (root / "b" / "test").rename(root / "a" / "masked_night")
    return root / "a"


def flags_of(street, target="night"):
    return ("--source", street / "day", "--target", street / target, "--test", street / "test")


@pytest.fixture(scope="module")
def finished(fewmask, street, tmp_path_factory):
    """A run with UNIT, the teacher, both controls: (run, table)."""
    run = tmp_path_factory.mktemp("finished") / "run"
    names = ("--class-names", *STREET_CLASS_NAMES)
    result = fewmask("adapt", *flags_of(street, "masked_night"), "-o", run, *TINY, *UNIT, *names)
    assert result.code == 0, result.err
    return run, json.loads((run / "metrics.json").read_text())


def workspace(run):
    """The finished stages of a run, with its data."""
    folder = RunFolder.open(run)
    module, config = running.recorded_settings(folder)
    data = module.DATA.open(run.__class__(folder.record["data"]), config)
    work = Workspace(folder, config, data, torch.device("cpu"))
    for number, spec in enumerate(module.STAGES, start=1):
        path = folder.stage_path(number, spec.name, "")
        if path.is_dir():
            work.stages[spec.name] = folder.stage(number, spec.name, json.loads(
                (path / "DONE.json").read_text())["key"], folder="")  # fmt: skip
    return work


def test_the_table_has_source_only_oracle_and_what_the_gap_is_measured_by(finished):
    rows = {row["name"]: row for row in finished[1]["rows"]}
    assert {"adapted", "before self-training", "source only", "source and target masks",
            "most frequent class", "prior of the place"} == set(rows)  # fmt: skip
    kinds = {name: row["kind"] for name, row in rows.items()}
    assert kinds["adapted"] == "result"
    assert kinds["source and target masks"] == "oracle"
    assert rows["source and target masks"]["masks_used"] == 5
    floor, ceiling, result = (
        rows[name]["metrics"]["miou_foreground"]
        for name in ("source only", "source and target masks", "adapted")
    )
    closed = rows["adapted"]["gap_closed"]
    if ceiling > floor:
        assert closed == pytest.approx((result - floor) / (ceiling - floor))
        assert rows["source only"]["gap_closed"] == 0
    else:
        assert closed is None


def test_the_constant_rows_are_counted_on_the_source_masks(finished, street):
    rows = {row["name"]: row for row in finished[1]["rows"]}
    masks = [read_mask(path) for path in sorted((street / "day" / "masks").glob("*.png"))]
    most = np.bincount(np.concatenate([mask.ravel() for mask in masks])).argmax()
    truth = np.concatenate([read_mask(p).ravel() for p in (street / "test/masks").glob("*.png")])
    right = (truth == most).sum() / (truth != 255).sum()
    assert rows["most frequent class"]["metrics"]["pixel_accuracy"] == pytest.approx(right)


def test_masks_of_target_and_test_and_translated_labelled_images_are_handed_out(finished, street):
    run, _ = finished
    assert {p.name for p in (run / "masks/test").glob("*.png")} == {
        p.name for p in (street / "test/images").glob("*.png")
    }
    assert len(list((run / "masks/target").glob("*.png"))) == 5
    assert not (run / "masks/source").exists()
    images = sorted((run / "translated/images").glob("*.png"))
    masks = sorted((run / "translated/masks").glob("*.png"))
    assert [path.name for path in images] == [path.name for path in masks]
    assert len(images) == 8
    assert read_image(images[0]).shape[:2] == read_mask(masks[0]).shape == (32, 48)


def test_translated_copies_know_their_parents_and_none_is_a_test_image(finished):
    copies = json.loads((finished[0] / "4-render/rendered.json").read_text())
    assert {copy["method"] for copy in copies} == {"unit", "histogram"}
    for copy in copies:
        domains = [name.split("/")[0] for name in copy["parents"]]
        assert domains == (["source"] if copy["method"] == "unit" else ["source", "target"])


def test_the_report_shows_translations_and_says_what_the_criterion_found(finished):
    run, table = finished
    html = (run / "report.html").read_text()
    assert "translation 1" in html
    assert "Label-free criterion" in html
    found = table["checks"]["adapt.information"]
    assert list(found) == [
        "the start", "the start, statistics of the target",
        "taught", "taught, statistics of the target",
    ]  # fmt: skip
    assert all(0 <= value <= np.log(8) for value in found.values())
    assert table["checks"]["adapt.kept"] == max(found, key=found.get)


def test_target_masks_change_nothing_but_the_oracle(fewmask, street, finished, tmp_path):
    """The same run without any mask in the target folder hands out the same weights."""
    bare = shutil.copytree(street / "masked_night" / "images", tmp_path / "bare")
    run = tmp_path / "run"
    names = ("--class-names", *STREET_CLASS_NAMES)
    result = fewmask("adapt", "--source", street / "day", "--target", bare, "--test",
                     street / "test", "-o", run, *TINY, *UNIT, *names)  # fmt: skip
    assert result.code == 0, result.err
    for name in ("weights/segmenter.safetensors", "7-adapt/taught.safetensors",
                 "7-adapt/adaptation.json"):  # fmt: skip
        assert (run / name).read_bytes() == (finished[0] / name).read_bytes()
    rows = [row["name"] for row in json.loads((run / "metrics.json").read_text())["rows"]]
    assert "source and target masks" not in rows


def test_a_run_that_is_finished_is_evaluated_on_masks_by_its_label_set(fewmask, finished, street):
    run, table = finished
    result = fewmask("evaluate", run, street / "test", "--json")
    assert result.code == 0, result.err
    assert result.json["miou_foreground"] == table["metrics"]["miou_foreground"]
    leak = fewmask("evaluate", run, shutil.copytree(street / "day", run.parent / "day"))
    assert leak.code == 11
    assert "the run has learned from" in leak.err


@pytest.mark.parametrize(("to", "flags"), [("target", ()), ("source", ()),
                                           ("target", ("--method=lab",))])  # fmt: skip
def test_images_are_translated_at_their_own_size_either_way(
    fewmask, finished, street, tmp_path, to, flags
):
    images = street / ("day" if to == "target" else "test") / "images"
    result = fewmask("translate", finished[0], images, "-o", tmp_path / "out", "--to", to, *flags)
    assert result.code == 0, result.err
    assert "translated images in" in result.out
    made = sorted((tmp_path / "out").glob("*.png"))
    assert [p.name for p in made] == [p.name for p in sorted(images.glob("*.png"))]
    assert read_image(made[0]).shape == (48, 64, 3)
    assert (read_image(made[0]) != read_image(images / made[0].name)).any()


def test_a_cheap_translation_takes_the_light_of_the_domain_asked_for(
    fewmask, finished, street, tmp_path
):
    for to, images in (("target", "day"), ("source", "test")):
        out = tmp_path / to
        fewmask("translate", finished[0], street / images / "images", "-o", out, "--to", to,
                "--method=histogram")  # fmt: skip
    light = {
        name: np.mean([read_image(path).mean() for path in folder.glob("*.png")])
        for name, folder in (
            ("day", street / "day/images"), ("night", street / "test/images"),
            ("to night", tmp_path / "target"), ("to day", tmp_path / "source"),
        )
    }  # fmt: skip
    assert light["night"] < light["day"]
    assert abs(light["to night"] - light["night"]) < abs(light["to night"] - light["day"])
    assert abs(light["to day"] - light["day"]) < abs(light["to day"] - light["night"])


@pytest.mark.parametrize(
    ("flags", "code", "name"),
    [
        (("--method=unit",), 2, "TRANSLATE-METHOD"),
        (("--to=sideways",), 2, "USAGE"),
    ],
)
def test_translations_that_cannot_be(fewmask, street, tmp_path, flags, code, name, cheap):
    result = fewmask("translate", cheap, street / "day/images", "-o", tmp_path / "out", *flags)
    assert result.code == code, result.err
    assert name in result.err
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_pipeline_translates_nothing(fewmask, tiny_run, street, tmp_path):
    result = fewmask("translate", tiny_run.path, street / "day/images", "-o", tmp_path / "out")
    assert result.code == 2
    assert "TRANSLATE-RUN" in result.err


def test_the_light_is_taken_from_the_target_image_as_it_is_in_its_file(
    fewmask, cheap, street, tmp_path, monkeypatch
):
    """Not from the one that was made small for the network: its noise is gone."""
    seen = []
    monkeypatch.setattr(
        "fewmask.translate.in_light_of", lambda _, image, other, __: seen.append(other) or image
    )
    result = fewmask("translate", cheap, street / "day/images/0000.png", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    files = [read_image(path) for path in (street / "night/images").glob("*.png")]
    assert len(seen) == 1
    assert any(np.array_equal(seen[0], image) for image in files)


def test_without_the_runs_data_a_cheap_translation_says_what_is_missing(
    fewmask, cheap, street, tmp_path
):
    moved = street.parent / "moved"
    (street / "night").rename(moved)
    try:
        result = fewmask("translate", cheap, street / "day/images", "-o", tmp_path / "out")
    finally:
        moved.rename(street / "night")
    assert result.code == 2
    assert str(street / "night") in result.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def cheap(fewmask, street, tmp_path_factory):
    """The published way without UNIT: chosen images, every pixel a label, two rounds.

    Beside the run: how it was labelled, and what every training of it began with.
    """
    run, labelled, fitted = tmp_path_factory.mktemp("cheap") / "run", [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt, "label_images", spy(adapt.label_images, labelled))
        patch.setattr(adapt, "fit_segmenter", spy(adapt.fit_segmenter, fitted))
        made = cheap_run(fewmask, street, run)
    CALLS.update(labelled=labelled, fitted=fitted)
    return made


CALLS: dict[str, list] = {}
"""Of the run `cheap`: (arguments, named arguments) of each call."""


def spy(function, calls):
    def called(*args, **named):
        calls.append((args, named))
        return function(*args, **named)

    return called


def cheap_run(fewmask, street, run):
    result = fewmask(
        "adapt", *flags_of(street), "-o", run, *TINY, "--adapt-method=rounds", "--adapt-rounds=2",
        "--adapt-keep=1", "--adapt-loss=combined", "--choose-method=distance", "--choose-share=0.5",
        "--choose-encoder=mobilenetv3_small_050", "--choose-weights=none",
        "--no-adapt-target-statistics",
        "--no-adapt-stop-if-worse", "--no-controls-source-only", "--segment-rare-classes",
    )  # fmt: skip
    assert result.code == 0, result.err
    return run


def test_rounds_label_and_learn_by_the_settings(fewmask, street, tmp_path, monkeypatch):
    """Labels at two sizes with a walk; Dice counts class 0, as nothing here is background."""
    hows, losses = [], []
    label, loss = adapt.label_images, segmenting.segmentation_loss
    monkeypatch.setattr(adapt, "label_images", lambda *args: hows.append(args[-1]) or label(*args))
    monkeypatch.setattr(
        segmenting, "segmentation_loss", lambda *args: losses.append(args) or loss(*args)
    )
    result = fewmask(
        "adapt", *flags_of(street), "-o", tmp_path / "run", *TINY, "--adapt-method=rounds",
        "--adapt-sizes", "1", "1.5", "--adapt-walk", "--adapt-keep=0.6", "--adapt-loss=ce_dice",
        "--segment-loss=ce", "--predict-views=single", "--no-controls-source-only",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert hows == [Labelling(keep=0.6, views="single", sizes=(1.0, 1.5), walk=True)]
    assert losses == [("ce", False), ("ce_dice", False)]


def test_each_round_labels_the_chosen_images_and_goes_on_from_the_checkpoint_before(cheap):
    work = workspace(cheap)
    names = json.loads((cheap / "5-choose/chosen.json").read_text())
    rows = [row for row, sample in enumerate(work.data.samples) if sample.id in names]
    assert [args[2] for args, _ in CALLS["labelled"]] == [rows, rows]
    first, *rounds = CALLS["fitted"]
    assert "start" not in first[1]
    begun = [cheap / "6-segment/segmenter.safetensors", cheap / "7-adapt/round-1.safetensors"]
    assert [named["start"] for _, named in rounds] == begun
    for args, named in rounds:
        shares = named["shares"]
        assert len(args[3]) == len(shares) == len(first[0][3]) + len(rows)
        assert shares[-len(rows) :] == pytest.approx(work.config.adapt_target_share / len(rows))
        assert shares.sum() == pytest.approx(1)


def test_rounds_leave_their_weights_and_what_was_kept(cheap):
    chosen = json.loads((cheap / "5-choose/chosen.json").read_text())
    assert len(chosen) == 4  # half of the 8 labelled images
    assert all(name.startswith("target/") for name in chosen)
    stage = cheap / "7-adapt"
    assert (stage / "round-1.safetensors").exists()
    last = (stage / "round-2.safetensors").read_bytes()
    found = json.loads((stage / "adaptation.json").read_text())
    assert found["kept"] == "round 2"
    assert len(found["information"]) == 3
    assert (stage / "adapted.safetensors").read_bytes() == last
    assert last != (stage / "round-1.safetensors").read_bytes()


def test_a_round_that_was_lost_is_made_again_to_the_same_bits(fewmask, cheap, tmp_path):
    """As after a kill between the rounds: labels and start come from what the first has left."""
    run = shutil.copytree(cheap, tmp_path / "run")
    for name in ("DONE.json", "round-2.safetensors", "adapted.safetensors", "adaptation.json"):
        (run / "7-adapt" / name).unlink()
    result = fewmask("resume", run)
    assert result.code == 0, result.err
    for name in ("round-1.safetensors", "round-2.safetensors", "adaptation.json"):
        assert (run / "7-adapt" / name).read_bytes() == (cheap / "7-adapt" / name).read_bytes()


def test_further_networks_label_with_the_first_and_are_as_long_as_what_comes_out(
    fewmask, street, tmp_path, monkeypatch
):
    """Two rounds, three networks: the mean of three labels once, then the adapted network alone."""
    labelling, label = [], adapt.label_images
    monkeypatch.setattr(
        adapt, "label_images", lambda *args: labelling.append(args[0]) or label(*args)
    )
    result = fewmask(
        "adapt", *flags_of(street), "-o", tmp_path / "run", *TINY, "--adapt-method=rounds",
        "--adapt-rounds=2", "--adapt-networks=3", "--no-adapt-stop-if-worse",
        "--no-adapt-target-statistics", "--no-controls-source-only",
    )  # fmt: skip
    assert result.code == 0, result.err
    committee, alone = labelling
    first, *further = committee.networks
    assert len(further) == 2
    assert not isinstance(alone, MeanOfNetworks)
    weights = [next(n.parameters()) for n in (first, *further)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line["loop"] for line in lines if "loss" in line]
    assert steps.count("further-2") == steps.count("further-3") == 3 + 2
    assert steps.count("segmenter") == 3


def test_the_prior_of_the_place_is_counted_on_the_source_masks(
    monkeypatch, fewmask, street, tmp_path
):
    given, teacher = [], adapt.teacher

    def seen(work, rows, name, prior):
        given.append(prior)
        return teacher(work, rows, name, prior)

    monkeypatch.setattr(adapt, "teacher", seen)
    result = fewmask("adapt", *flags_of(street), "-o", tmp_path / "run", *TINY,
                     "--adapt-place-prior=2", "--no-controls-source-only")  # fmt: skip
    assert result.code == 0, result.err
    paths = sorted((street / "day/masks").glob("*.png"))
    masks = np.stack([resize_mask(read_mask(path), 32, 48) for path in paths])
    assert len(masks) == 8
    assert given[0] == pytest.approx(place_prior(masks, 8) ** 2)


def test_without_target_masks_and_controls_there_is_neither_gap_nor_oracle(cheap):
    table = json.loads((cheap / "metrics.json").read_text())
    assert {"adapted", "before self-training", "most frequent class", "prior of the place"} == {
        row["name"] for row in table["rows"]
    }


def test_self_training_that_tells_less_is_stopped_and_said(monkeypatch, fewmask, street, tmp_path):
    scores = iter([0.5, 0.4, 0.45, 0.3])
    monkeypatch.setattr(adapt_choice, "information", lambda *_: next(scores))
    run = tmp_path / "run"
    result = fewmask("adapt", *flags_of(street), "-o", run, *TINY, "--no-controls-source-only")
    assert result.code == 0, result.err
    found = json.loads((run / "7-adapt/adaptation.json").read_text())
    assert list(found["information"].values()) == [0.5, 0.4, 0.45, 0.3]
    assert (found["kept"], found["stopped"]) == ("the start", True)
    assert "stopped" in (run / "log.txt").read_text()
    assert "Self-training was stopped" in (run / "report.html").read_text()
    weights = [run / "weights/segmenter.safetensors", run / "6-segment/segmenter.safetensors"]
    tensors = [library_weights(path) for path in weights]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.parametrize(
    ("scores", "flags", "kept"),
    [
        ((0.5, 0.4), (), False),
        ((0.5, 0.6), (), True),
        ((0.5, 0.4), ("--no-adapt-stop-if-worse",), True),
    ],
)
def test_statistics_alone_are_taken_where_the_labels_then_tell_more_or_in_any_case(
    scores, flags, kept, monkeypatch, fewmask, street, tmp_path
):
    values = iter(scores)
    monkeypatch.setattr(adapt_choice, "information", lambda *_: next(values))
    run = tmp_path / "run"
    result = fewmask("adapt", *flags_of(street), "-o", run, *TINY, "--adapt-method=statistics",
                     "--no-controls-source-only", *flags)  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads((run / "7-adapt/adaptation.json").read_text())
    assert found["kept"] == "the start" + ", statistics of the target" * kept
    assert not found["stopped"]
    assert "was stopped" not in (run / "report.html").read_text()
    files = "6-segment/segmenter.safetensors", "weights/segmenter.safetensors"
    before, after = (library_weights(run / name) for name in files)
    differ = {name for name in before if not torch.equal(before[name], after[name])}
    if kept:  # what is normalised by, and nothing that was trained
        assert differ
        assert all(name.endswith(("running_mean", "running_var")) for name in differ
                   if "num_batches" not in name)  # fmt: skip
    else:
        assert not differ
    names = {row["name"] for row in json.loads((run / "metrics.json").read_text())["rows"]}
    assert {"adapted", "with the statistics of its training"} <= names


def library_weights(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_neither_test_nor_test_masks_still_hand_out_masks_of_the_target(fewmask, street, tmp_path):
    run = tmp_path / "run"
    result = fewmask("adapt", "--source", street / "day", "--target", street / "night", "-o", run,
                     *TINY)  # fmt: skip
    assert result.code == 0, result.err
    assert len(list((run / "masks/target").glob("*.png"))) == 6
    assert "No masks: nothing is scored." in result.out
    assert "confidence" in (run / "report.html").read_text()


def test_moved_folders_are_named_anew_and_must_hold_the_same(fewmask, street, cheap, tmp_path):
    place = shutil.copytree(street, tmp_path / "street")
    run = shutil.copytree(cheap, tmp_path / "run")
    record = (run / "run.yaml").read_text().replace(str(street), str(place))
    (run / "run.yaml").write_text(record)
    (place / "night").rename(tmp_path / "moved")
    result = fewmask("resume", run)
    assert result.code == 10
    assert f"fewmask resume {run} --target FOLDER" in result.err
    (run / "10-export" / "DONE.json").unlink()
    result = fewmask("resume", run, "--target", tmp_path / "moved")
    assert result.code == 0, result.err
    assert str(tmp_path / "moved") in (run / "run.yaml").read_text()
    assert fewmask("resume", run).code == 0


def test_a_data_folder_without_the_runs_images_has_no_light_to_take(
    fewmask, cheap, street, tmp_path
):
    images, moved = street / "night/images", street.parent / "moved"
    images.rename(moved)
    images.mkdir()
    for path in moved.iterdir():  # the same images by other names
        shutil.copy(path, images / f"other-{path.name}")
    try:
        result = fewmask("translate", cheap, street / "day/images", "-o", tmp_path / "out")
    finally:
        shutil.rmtree(images)
        moved.rename(images)
    assert result.code == 2, result.err
    assert "TRANSLATE-DATA" in result.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_the_run_does_not_have_cannot_be_moved(fewmask, tiny_run, tmp_path):
    result = fewmask("resume", tiny_run.path, "--target", tmp_path)
    assert result.code == 2
    assert "RESUME-FOLDER" in result.err


def test_unit_without_its_training_is_refused_at_the_start(fewmask, street, tmp_path):
    result = fewmask("adapt", *flags_of(street), "-o", tmp_path / "run", *TINY, *UNIT,
                     "--stages", "render")  # fmt: skip
    assert result.code == 2
    assert "STAGE-NEEDED" in result.err
    assert not (tmp_path / "run").exists()


def test_shares_of_originals_copies_and_target_images_in_a_batch(finished):
    work = workspace(finished[0])
    data = adapt_labelled.labelled(work)
    assert data.shares.sum() == pytest.approx(1)
    assert data.shares[:8].sum() == pytest.approx(1 - work.config.render_share)
    more = data.joined(
        np.zeros((3, 32, 48, 3), np.uint8),
        [np.zeros((3, 32, 48), np.uint8)],
        0.21,
        np.array([1, 1, 2]),
    )
    assert more.shares[-3:] == pytest.approx([0.0525, 0.0525, 0.105])
    assert more.shares.sum() == pytest.approx(1)
    rendered = Stacked(*more.images)
    assert (rendered[more.rows[-1]] == 0).all()
    assert (Stacked(*data.targets)[data.rows[8]] == data.targets[0][data.rows[0]]).all()


def test_only_the_masks_to_learn_from_are_in_memory_and_the_copies_share_them(finished):
    work = workspace(finished[0])
    data = adapt_labelled.labelled(work)
    own, *copied = data.targets
    assert own.array.shape == (8, 32, 48)
    assert len(own) == len(work.images) > 8
    assert len(copied) == work.config.render_copies
    assert all(np.shares_memory(masks, own.array) for masks in copied)
    assert sum(map(len, data.targets)) == sum(map(len, data.images))
    both = adapt_labelled.labelled(work, target_masks=True)
    assert len(both.targets[0].array) > 8
    assert all(len(masks) == 8 for masks in both.targets[1:])


def test_all_trainings_of_a_run_take_the_same_number_of_steps(finished):
    lines = (finished[0] / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = {}
    for record in records:
        if "loss" in record:
            steps.setdefault(record["loop"], set()).add(record["step"])
    count = {loop: len(found) for loop, found in steps.items()}
    assert count["segmenter"] + count["taught"] == count["source-only"] == count["oracle"] == 5


def test_paper_is_the_published_system():
    config = resolve(AdaptConfig, PRESETS, "paper")
    unit = {
        "crop_px": (256, 512), "width": 64, "blocks": 3, "decoder_norm": "layer",
        "perceptual_network": "vgg16", "perceptual_weights": "imagenet", "perceptual_norm": True,
        "learning_rate": 1e-4, "batch_size": 1, "discriminator_width": 64, "scales": 3,
        "lambda_gan": 10, "lambda_kl": 0.1, "lambda_reconstruction": 100, "lambda_cycle_kl": 0.1,
        "lambda_cycle": 100, "lambda_perceptual": 1,
    }  # fmt: skip
    assert {name: getattr(config, f"translate_{name}") for name in unit} == unit
    segment = {"optimizer": "sgd", "ema_decay": 0, "rotation_degrees": 0, "decoder_width": 0,
               "learning_rate": 1e-2, "weight_decay": 1e-4, "batch_size": 8}  # fmt: skip
    assert {name: getattr(config, f"segment_{name}") for name in segment} == segment
    assert not config.adapt_stop_if_worse
    assert not config.adapt_target_statistics
    assert (config.adapt_networks, config.adapt_sizes, config.adapt_walk) == (1, (1.0,), False)
    assert (config.predict_views, config.encoder_weights) == ("single", "imagenet")
    assert config.render_methods == ("unit",)
    assert (config.segment_architecture, config.encoder) == ("fpn", "resnet101")
    assert (config.adapt_method, config.adapt_rounds, config.adapt_keep) == ("rounds", 2, 1.0)
    assert (config.adapt_loss, config.choose_method) == ("combined", "distance")
    assert config.working_size == (512, 1024)
    assert config.segment_loss == "ce"
    assert config.choose_share == pytest.approx(1600 / 5950, abs=0.01)
    assert config.adapt_target_share == pytest.approx(1600 / (1600 + 5950), abs=0.01)


def test_the_same_verb_from_python(street, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = dict(flag.removeprefix("--").split("=") for flag in TINY if "=" in flag)
    preset = given.pop("preset")
    settings = {name.replace("-", "_"): value for name, value in given.items()}
    run = library.adapt(street / "day", street / "night", test=street / "test", preset=preset,
                        controls_source_only=False, **settings)  # fmt: skip
    assert run.path.name == "day-adapt"
    assert 0 <= run.metrics["miou_foreground"] <= 1
    assert len(run.translate(street / "day/images", tmp_path / "night")) == 8


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (("--empty-render-methods", "--stages", "render"), "STAGE-IDLE"),
        (("--stages", "choose"), "STAGE-IDLE"),
        (("--stages", "translate"), "STAGE-IDLE"),
        (("--segment-ema-decay=0",), "SETTING-VALUE"),
        (("--adapt-method=rounds", "--adapt-walk", "--adapt-keep=1"), "SETTING-VALUE"),
        (("--adapt-sizes", "1", "1000"), "SETTING-VALUE"),
        (("--adapt-method=statistics", "--no-adapt-target-statistics"), "SETTING-VALUE"),
        (("--empty-render-methods", "--segment-translated-steps=2"), "SETTING-VALUE"),
        (("--translate-weights=unit.safetensors",), "SETTING-VALUE"),
        (("--render-methods", "unit", "--render-copies=2", *UNIT[3:]), "SETTING-VALUE"),
        ((*UNIT, "--translate-weights=nowhere.safetensors"), "UNIT-WEIGHTS"),
        (("--segment-translated-steps=2", "--stages", "adapt"), "STAGE-NEEDED"),
    ],
)
def test_settings_that_could_only_fail_later_are_refused_at_the_start(
    fewmask, street, tmp_path, flags, name
):
    result = fewmask("adapt", *flags_of(street), "-o", tmp_path / "run", *TINY, *flags)
    assert result.code == 2, result.err
    assert name in result.err
    assert not (tmp_path / "run").exists()


def test_only_the_stages_that_ran_are_spoken_of(fewmask, street, tmp_path):
    run = tmp_path / "run"
    result = fewmask("adapt", *flags_of(street), "-o", run, *TINY, "--stages", "controls")
    assert result.code == 0, result.err
    rows = {row["name"]: row for row in json.loads((run / "metrics.json").read_text())["rows"]}
    assert set(rows) == {"adapted", "most frequent class", "prior of the place"}
    assert rows["adapted"]["note"] == "plain"
    assert rows["adapted"]["anchor"] == "floor"


def test_another_runs_unit_is_taken_as_it_is_unless_it_has_seen_the_test_images(
    fewmask, finished, street, tmp_path
):
    weights = finished[0] / "3-translate" / "unit.safetensors"
    flags = (*TINY, *UNIT, f"--translate-weights={weights}")
    run = tmp_path / "run"
    result = fewmask("adapt", *flags_of(street), "-o", run, *flags, "--no-controls-source-only")
    assert result.code == 0, result.err
    assert (run / "3-translate" / "unit.safetensors").read_bytes() == weights.read_bytes()
    bill = {line[0]: line[1] for line in adapt.bill([workspace(run)])}
    assert bill["UNIT of another run"] == "no masks"
    again = (*TINY, *UNIT, f"--translate-weights={run / '3-translate' / 'unit.safetensors'}")
    passed_on = fewmask("adapt", "--source", street / "day", "--target", street / "night", "--test",
                        street / "masked_night", "-o", tmp_path / "again", *again)  # fmt: skip
    assert passed_on.code == 11, passed_on.err  # it has still seen what it has seen
    assert "UNIT of another run" in (run / "report.html").read_text()
    seen = fewmask("adapt", "--source", street / "day", "--target", street / "night", "--test",
                   street / "masked_night", "-o", tmp_path / "leak", *flags)  # fmt: skip
    assert seen.code == 11, seen.err
    assert "where" in seen.err
    assert not (tmp_path / "leak").exists()


@pytest.mark.parametrize(("lost", "says"), [((), "where"), (("1-prepare",), "LEAK-UNKNOWN")])
def test_a_unit_of_an_unfinished_run_is_asked_for_what_it_has_seen_too(
    fewmask, finished, street, tmp_path, lost, says
):
    begun = shutil.copytree(finished[0], tmp_path / "begun")
    for name in ("weights", *lost):
        shutil.rmtree(begun / name)
    flags = (*TINY, *UNIT, f"--translate-weights={begun / '3-translate' / 'unit.safetensors'}")
    seen = fewmask("adapt", "--source", street / "day", "--target", street / "night", "--test",
                   street / "masked_night", "-o", tmp_path / "leak", *flags)  # fmt: skip
    assert seen.code == 11, seen.err
    assert says in seen.err
    assert not (tmp_path / "leak").exists()


def test_another_runs_unit_brings_the_labels_behind_its_own_loss(finished, monkeypatch):
    work = workspace(finished[0])
    work.config = work.config.replaced(translate_weights="unit.safetensors")
    behind = "weights of the perceptual loss"
    for weight, expected in ((1.0, ["ImageNet-1k"]), (0.0, [])):
        record = {"settings": {"translate_lambda_perceptual": weight,
                               "translate_perceptual_weights": "packaged"}}  # fmt: skip
        lender = SimpleNamespace(record=record)
        monkeypatch.setattr("fewmask.pipelines.adapt_rows.run_of", lambda _, it=lender: it)
        assert [line[2] for line in adapt.bill([work]) if line[0] == behind] == expected


def test_more_training_on_translated_images_alone(fewmask, street, tmp_path, monkeypatch):
    fitted = []
    monkeypatch.setattr(adapt, "fit_segmenter", spy(adapt.fit_segmenter, fitted))
    run = tmp_path / "run"
    result = fewmask("adapt", *flags_of(street), "-o", run, *TINY, "--adapt-method=none",
                     "--segment-translated-steps=2")  # fmt: skip
    assert result.code == 0, result.err
    both, alone, control = (named for _, named in fitted)
    steps = [named["settings"].min_steps for named in (both, alone, control)]
    assert steps == [3, 2, 5]
    assert alone["start"] == run / "6-segment/on-both.safetensors"
    assert both["shares"][:8].sum() == pytest.approx(0.5)
    assert alone["shares"][:8].sum() == 0
    assert alone["shares"][8:].sum() == pytest.approx(1)
    adapted, last = run / "weights/segmenter.safetensors", run / "6-segment/segmenter.safetensors"
    assert adapted.read_bytes() == last.read_bytes()


def test_of_a_handful_of_target_images_the_histogram_leaves_some(fewmask, street, tmp_path):
    two = tmp_path / "two"
    two.mkdir()
    for path in sorted((street / "night" / "images").glob("*.png"))[:2]:
        shutil.copy(path, two)
    run = tmp_path / "run"
    result = fewmask("adapt", "--source", street / "day", "--target", two, "-o", run, *TINY,
                     "--choose-method=histogram", "--choose-share=1")  # fmt: skip
    assert result.code == 0, result.err
    assert len(json.loads((run / "5-choose/chosen.json").read_text())) == 2


def test_target_images_are_no_test_part(fewmask, finished, street):
    result = fewmask("evaluate", finished[0], street / "masked_night")
    assert result.code == 10
    assert "evaluate on other images" in result.err


def test_controls_of_a_run_of_other_stages_are_not_taken_over(fewmask, street, tmp_path):
    """Alone they have trained nothing, or as many steps as there were without self-training."""
    lender = tmp_path / "lender"
    result = fewmask("adapt", *flags_of(street), "-o", lender, *TINY, "--stages", "controls")
    assert result.code == 0, result.err
    result = fewmask("adapt", *flags_of(street), "-o", tmp_path / "run", *TINY, "--reuse", lender)
    assert result.code == 0, result.err
    assert "2-split: copied" in result.err
    assert "8-controls: made here, not copied" in result.err
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"]
    assert "source only" in {row["name"] for row in rows}
