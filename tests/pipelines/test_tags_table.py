"""What the table and the bill of pipelines `tags` and `train` say of masks and thresholds."""

import html
import json
import shutil
from types import SimpleNamespace

import pytest

from fewmask.data.sample import make_sample
from fewmask.pipelines.tags_bill import AT_CAM, AT_CUT, AT_DIFFERENCE, threshold_choice
from fewmask.pipelines.tags_config import PRESETS, TagsConfig
from fewmask.report.bill import pretrained_labels


def choice(*names, val=7, **settings):
    work = SimpleNamespace(config=TagsConfig(**settings), rows=lambda *_, tagged: list(range(val)))
    return threshold_choice(work, *names)


def test_a_threshold_is_label_free_only_where_none_is_given():
    assert choice(AT_CAM, AT_DIFFERENCE, AT_CUT) == ("label_free", 0)
    assert choice(AT_CUT, cam_threshold=0.7) == ("label_free", 0)
    assert choice(AT_CUT, pseudo_cut=0.6) == ("given", 0)
    assert choice(AT_CAM, AT_DIFFERENCE, cam_threshold=0.7) == ("given", 0)


def test_masks_behind_a_given_threshold_are_billed_where_they_are_stated():
    assert choice(AT_CUT, pseudo_cut=0.6, threshold_masks=5) == ("5 masks", 5)
    assert choice(AT_CUT, threshold_masks=5) == ("label_free", 0)


def test_published_thresholds_cost_masks_or_are_given_but_never_label_free():
    published = {name: PRESETS["paper"][name] for name in (AT_CAM, AT_DIFFERENCE)}
    assert choice(AT_CAM, AT_DIFFERENCE, **published) == ("7 masks", 7)
    assert choice(AT_CAM, AT_DIFFERENCE, val=0, **published) == ("given", 0)
    assert choice(AT_CAM, AT_DIFFERENCE, threshold_masks=30, **published) == ("30 masks", 30)
    assert choice(AT_CAM, AT_DIFFERENCE, **{**published, AT_CAM: 0.3}) == ("given", 0)


@pytest.mark.parametrize(
    ("weights", "told"),
    [("packaged", "ImageNet-1k"), ("imagenet", "ImageNet-1k"), ("none", None)],
)
def test_bill_of_the_encoder_says_what_is_known(weights, told):
    sources = [source for _, _, source in pretrained_labels(TagsConfig(encoder_weights=weights))]
    assert sources == ([told] if told else [])


def test_labels_behind_a_weights_file_are_not_guessed():
    (line,) = pretrained_labels(TagsConfig(encoder_weights="some/where/aerial.safetensors"))
    assert line[1:] == ("unknown", "labels behind aerial.safetensors: not known to fewmask")


@pytest.fixture(scope="module")
def uneven_run(fewmask, tiny, tmp_path_factory):
    """`tags --folds 2` where the folds have 5 and 6 of 11 masks, with a given cut."""
    root = tmp_path_factory.mktemp("uneven")
    data = make_sample(root / "tiles", seed=1, images_per_class=12, image_size=32)
    next(iter(sorted((data / "masks").iterdir()))).unlink()
    flags = ("--folds=2", "--pseudo-cut=0.6", "--controls-full", "--controls-masks=3")
    result = fewmask("tags", data, "-o", root / "run", *tiny, *flags)
    assert result.code == 0, result.err
    return root / "run"


def table_of(run):
    return json.loads((run / "metrics.json").read_text())


def row_of(run, name):
    (row,) = (row for row in table_of(run)["rows"] if row["name"] == name)
    return row


def test_full_supervision_survives_folds_with_different_numbers_of_masks(uneven_run):
    row = row_of(uneven_run, "segmenter on all true masks")
    assert (row["kind"], row["masks_used"], row["metrics"]["n"]) == ("reference", 6, 23)
    assert row["gap_closed"] in {1.0, None}  # None where it is below its floor
    assert row_of(uneven_run, "segmenter on 3 true masks")["masks_used"] == 3


def test_pooled_oracle_costs_all_test_masks(uneven_run):
    row = row_of(uneven_run, "CAM at its best threshold on the test masks")
    assert (row["threshold_choice"], row["masks_used"]) == ("11 masks", 11)


def test_a_given_cut_is_given_in_every_row_that_rests_on_it_and_in_the_bill(uneven_run):
    rows = table_of(uneven_run)["rows"]
    given = {row["name"] for row in rows if row["threshold_choice"] == "given"}
    assert given == {
        "segmenter on pseudo-masks",
        "refined evidence: the pseudo-masks themselves",
    }
    text = html.unescape((uneven_run / "report.html").read_text())
    assert "pseudo_cut 0.6: given; origin of pseudo_cut not stated" in text


def test_metrics_hold_gap_comparisons_and_checks(uneven_run):
    table = table_of(uneven_run)
    assert all("gap_closed" in row for row in table["rows"])
    (result,) = (row for row in table["rows"] if row["kind"] == "result")
    assert table["gap_closed"] == result["gap_closed"]
    assert [c["as"] for c in result["compared"]] == [
        "best label-free control",
        "few-masks control",
    ]
    assert all(c["n_groups"] == 23 for c in result["compared"])
    assert 0 <= table["checks"]["sharpness.auc.positive"] <= 1
    text = html.unescape((uneven_run / "report.html").read_text())
    assert "Image sharpness alone tells the tag positive" in text


def test_card_of_a_cross_validation_says_whose_weights_and_whose_metrics(uneven_run, tiny_run):
    card = json.loads((uneven_run / "weights" / "card.json").read_text())
    assert card["fold"] == 0
    assert "2 folds" in card["metrics_from"]
    assert "fold 0" in card["metrics_from"]
    assert card["metrics"] == table_of(uneven_run)["metrics"]
    own = uneven_run / "fold-0" / "8-segment" / "round-1.safetensors"
    assert (uneven_run / "weights" / "segmenter.safetensors").read_bytes() == own.read_bytes()
    single = json.loads((tiny_run.path / "weights" / "card.json").read_text())
    assert single["metrics_from"] == "the test part of this run, by these weights"


def test_no_row_stands_twice_and_the_attention_has_its_own(tiny_run):
    names = [row["name"] for row in tiny_run.table["rows"]]
    assert len(names) == len(set(names))
    assert not any(name.startswith("fused") for name in names)  # nothing is fused in the preset
    assert names.index("attention mask, Otsu") == names.index("difference map, Otsu") + 1


def test_fused_maps_have_a_row_and_a_plain_generator_has_no_attention(fewmask, tiny, small_data,
                                                                      tmp_path):  # fmt: skip
    flags = ("--pseudo-fusion=mean", "--translate-kind=cyclegan", "--cam-threshold=0.4",
             "--val-fraction=0", "--stages", "translate", "classify", "evidence")  # fmt: skip
    result = fewmask("tags", small_data, "-o", tmp_path / "run", *tiny, *flags)
    assert result.code == 0, result.err
    rows = {row["name"]: row for row in table_of(tmp_path / "run")["rows"]}
    assert "fused (mean), Otsu" in rows
    assert "attention mask, Otsu" not in rows
    assert {name: rows[name]["threshold_choice"] for name in ("CAM at 0.4", "CAM chain")} == {
        "CAM at 0.4": "given",
        "CAM chain": "given",
    }
    assert not any("None" in name for name in rows)


def test_train_is_named_after_the_masks_that_it_had_and_tells_how_many_were_asked_for(
    fewmask, small_data, tmp_path
):
    flags = ("--preset=smoke", "--threads=1", "--image-size=32", "--segment-epochs=1")
    for name, more in (("one", ()), ("folds", ("--folds=2",))):
        out = tmp_path / name
        result = fewmask("train", small_data, "-o", out, *flags, "--masks=300", *more)
        assert result.code == 0, result.err
    (one,), (folds,) = (
        [row for row in table_of(tmp_path / name)["rows"] if row["kind"] == "result"]
        for name in ("one", "folds")
    )
    assert one["name"] == f"segmenter on {one['masks_used']} true masks"
    assert folds["name"] == "segmenter on all true masks"
    assert one["note"] == folds["note"] == "300 were asked for"
    measured = fewmask("evaluate", tmp_path / "folds", small_data, "--json").json
    assert measured["measured"] == (
        f"{measured['n']} of 24 images: the run's test part; {24 - measured['n']} that it has "
        "learned from are left out; weights and test part of fold 0 of 2"
    )
    assert fewmask("evaluate", tmp_path / "folds", small_data).out.startswith(measured["measured"])


def test_train_keeps_its_result_when_folds_have_different_numbers_of_masks(
    fewmask, small_data, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    flags = ("--preset=smoke", "--threads=1", "--image-size=32", "--segment-epochs=1")
    result = fewmask("train", data, "-o", tmp_path / "run", *flags, "--folds=5")
    assert result.code == 0, result.err
    table = table_of(tmp_path / "run")
    (row,) = (row for row in table["rows"] if row["kind"] == "result")
    assert (row["name"], row["masks_used"]) == ("segmenter on all true masks", 10)
    assert table["metrics"] == row["metrics"] != {}
    assert table["metrics"]["n"] == 24
