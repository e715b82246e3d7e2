"""The whole pipeline ``tags`` through the real command line, on data made at run time."""

import csv
import html
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file

from fewmask.data.sample import SAMPLE_CLASS_NAMES, make_multiclass_sample, make_sample

TRIVIAL = ("all background", "centre prior", "Otsu of the grey image")


def parts_of(folder):
    return json.loads((folder / "2-split" / "split.json").read_text())


def score(table, name, metric):
    (row,) = (row for row in table["rows"] if row["name"] == name)
    return row["metrics"][metric]


def beats_twice_the_best_trivial_baseline(tables, metric):
    result = np.mean([table["metrics"][metric] for table in tables])
    trivial = max(np.mean([score(table, name, metric) for table in tables]) for name in TRIVIAL)
    return result >= 2 * trivial, (result, trivial)


def iou_of(matrices):
    """Pooled foreground IoU of (images, 2, 2) matrices, truth by prediction."""
    total = matrices.sum(0)
    return total[1, 1] / (total.sum() - total[0, 0])


def matrices_by_name(folder):
    """(images, C, C) confusion matrices of each row of a fold's table."""
    record = json.loads((folder / "10-evaluate" / "evaluation.json").read_text())
    matrices = np.load(folder / "10-evaluate" / "confusion.npy")
    return {row["name"]: matrix for row, matrix in zip(record["candidates"], matrices, strict=True)}


# --- what a run leaves behind ----------------------------------------------------------------


def test_a_run_leaves_everything_that_it_promises(smoke_run):
    for name in ("run.yaml", "status.json", "log.txt", "metrics.jsonl", "metrics.json",
                 "report.html", "masks/manifest.csv", "weights/card.json",
                 "weights/segmenter.safetensors", "samples/best.png"):  # fmt: skip
        assert (smoke_run.path / name).stat().st_size > 0, name
    assert json.loads((smoke_run.path / "status.json").read_text())["state"] == "finished"
    assert not list(smoke_run.path.rglob(".tmp-*"))
    assert not list((smoke_run.path / "checkpoints").rglob("*.safetensors"))


def test_every_image_has_a_mask_of_its_size_and_a_line_in_the_manifest(smoke_run):
    images = {
        f"{kind}/{path.stem}": path
        for kind in ("positive", "negative")
        for path in (smoke_run.data / kind).iterdir()
    }
    with (smoke_run.path / "masks" / "manifest.csv").open() as stream:
        manifest = {row["id"]: row for row in csv.DictReader(stream)}
    assert manifest.keys() == images.keys()
    part_of = {i: part for part, ids in parts_of(smoke_run.path).items() for i in ids}
    for name, path in images.items():
        mask = np.asarray(Image.open(smoke_run.path / manifest[name]["mask"]))
        assert mask.shape == Image.open(path).size[::-1]
        assert set(np.unique(mask)) <= ({0, 1} if name.startswith("positive") else {0})
        assert float(manifest[name]["foreground"]) == pytest.approx((mask > 0).mean(), abs=1e-5)
        assert manifest[name]["part"] == part_of[name]


def test_the_metrics_have_the_names_of_the_documentation(smoke_run):
    metrics = smoke_run.table["metrics"]
    for name in ("iou.pooled.scar", "iou.per_image.scar", "miou", "miou_foreground",
                 "precision.scar", "recall.scar", "dice.pooled.scar", "dice.per_image.scar",
                 "fpr.scar", "pixel_accuracy", "class_accuracy", "fwiou"):  # fmt: skip
        low, high = metrics[f"{name}.ci95"]
        assert low <= metrics[name] <= high, name
        assert 0 <= low <= high <= 1
    assert (metrics["n"], metrics["n_empty_truth.scar"]) == (16, 8)
    matrices = np.load(smoke_run.path / "10-evaluate" / "confusion.npy")
    kinds = [row["kind"] for row in smoke_run.table["rows"]]
    assert matrices.shape == (len(kinds), 16, 2, 2)
    assert (matrices.sum((2, 3)) == 64 * 64).all()
    expected = iou_of(matrices[kinds.index("result")])
    assert metrics["iou.pooled.scar"] == pytest.approx(expected, abs=1e-12)


def test_controls_are_rows_and_thresholds_say_how_they_were_chosen(smoke_run):
    rows = smoke_run.table["rows"]
    assert set(TRIVIAL) <= {row["name"] for row in rows if row["kind"] == "control"}
    assert [row["kind"] for row in rows].count("result") == 1
    oracle = next(row for row in rows if row["kind"] == "oracle")
    assert (oracle["threshold_choice"], oracle["masks_used"]) == ("8 masks", 8)
    assert all(r["threshold_choice"] == "label_free" for r in rows if r["kind"] != "oracle")
    assert score(smoke_run.table, "all background", "iou.pooled.scar") == 0


def test_the_parts_share_no_image_and_no_group(smoke_run):
    parts = parts_of(smoke_run.path)
    ids = [i for part in parts.values() for i in part]
    assert len(ids) == len(set(ids)) == 80
    with (smoke_run.path / "2-split" / "split.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    parts_of_group = {}
    for row in rows:
        parts_of_group.setdefault(row["group"], set()).add(row["part"])
    assert all(len(found) == 1 for found in parts_of_group.values())


def test_the_card_says_what_is_needed_to_use_the_weights(smoke_run):
    card = json.loads((smoke_run.path / "weights" / "card.json").read_text())
    assert card["class_names"] == ["scar"]
    assert card["image_size"] == [96, 96]
    assert card["licence"]
    assert card["metrics"] == smoke_run.table["metrics"]
    weights = load_file(smoke_run.path / "weights" / "segmenter.safetensors")
    assert all(np.isfinite(value).all() for value in weights.values())


def test_the_data_folder_is_as_it_was(smoke_run, tree, tmp_path):
    again = make_sample(tmp_path / "again", seed=0, images_per_class=40, image_size=64)
    assert tree(again) == tree(smoke_run.data)


def test_the_report_stands_alone(smoke_run):
    text = (smoke_run.path / "report.html").read_text()
    for outside in ('src="http', 'href="http', "src='http", "@import", "<script src"):
        assert outside not in text
    for row in smoke_run.table["rows"]:
        assert html.escape(row["name"]) in text
    assert "Not measured" not in text


# --- quality ---------------------------------------------------------------------------------


def finished(fewmask, data, out, *flags):
    result = fewmask("tags", data, "-o", out, *flags)
    assert result.code == 0, result.err
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.slow
def test_three_seeds_reach_twice_the_iou_of_the_best_trivial_baseline(fewmask, smoke_run, tmp_path):
    tables, weights = [smoke_run.table], "weights/segmenter.safetensors"
    for seed in (1, 2):
        run = tmp_path / f"run{seed}"
        flags = ("--preset", "smoke", "--threads", 1, "--class-name", "scar", "--seed", seed)
        tables.append(finished(fewmask, smoke_run.data, run, *flags))
        assert parts_of(run) == parts_of(smoke_run.path)
        assert (run / weights).read_bytes() != (smoke_run.path / weights).read_bytes()
    enough, numbers = beats_twice_the_best_trivial_baseline(tables, "iou.pooled.scar")
    assert enough, numbers


def test_one_seed_reaches_twice_the_iou_of_the_best_trivial_baseline(smoke_run):
    enough, numbers = beats_twice_the_best_trivial_baseline([smoke_run.table], "iou.pooled.scar")
    assert enough, numbers


@pytest.mark.slow
def test_three_classes_reach_twice_the_iou_of_the_best_trivial_baseline(fewmask, tmp_path):
    data = make_multiclass_sample(tmp_path / "tiles", seed=0, images=80, image_size=64)
    table = finished(fewmask, data, tmp_path / "run", "--preset", "smoke", "--threads", 1)
    assert table["class_names"] == list(SAMPLE_CLASS_NAMES)
    enough, numbers = beats_twice_the_best_trivial_baseline([table], "miou_foreground")
    assert enough, numbers


# --- layouts and options, on the shortest runs -----------------------------------------------


def test_tags_from_a_table_make_masks_of_several_classes(fewmask, tiny, tmp_path):
    data = make_multiclass_sample(tmp_path / "tiles", seed=0, images=40, image_size=32)
    table = finished(fewmask, data, tmp_path / "run", *tiny)
    assert table["class_names"] == list(SAMPLE_CLASS_NAMES)
    for name in SAMPLE_CLASS_NAMES:
        assert f"iou.pooled.{name}" in table["metrics"]
    made = {path.name: path for path in (tmp_path / "run" / "masks").rglob("*.png")}
    assert len(made) == 40
    with (data / "tags.csv").open() as stream:
        for row in csv.DictReader(stream):
            mask = np.asarray(Image.open(made[row["file"]]))
            allowed = {0, *(k for k, n in enumerate(SAMPLE_CLASS_NAMES, 1) if row[n] == "1")}
            assert set(np.unique(mask)) <= allowed


def test_folders_may_be_called_after_the_class(fewmask, tiny, small_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(small_data / "positive", data / "landslide")
    shutil.copytree(small_data / "negative", data / "no_landslide")
    shutil.copytree(small_data / "masks", data / "masks")
    table = finished(fewmask, data, tmp_path / "run", *tiny, "--stages", "classify", "evidence")
    assert table["class_names"] == ["landslide"]
    assert score(table, "centre prior", "iou.pooled.landslide") > 0
    names = {path.parent.name for path in (tmp_path / "run" / "masks").glob("*/*.png")}
    assert names == {"landslide", "no_landslide"}


def test_without_masks_the_same_is_learned_but_nothing_is_scored(fewmask, tiny, tiny_run, tmp_path):
    """Masks are there to measure: no weight depends on them."""
    data = tmp_path / "data"
    for kind in ("positive", "negative"):
        shutil.copytree(tiny_run.data / kind, data / kind)
    table = finished(fewmask, data, tmp_path / "run", *tiny, "--augment-images=4")
    for part in (
        "3-translate/gen_ab.safetensors",
        "5-classify/classifier.safetensors",
        "7-pseudo_masks/targets.npy",
        "weights/segmenter.safetensors",
    ):
        assert (tmp_path / "run" / part).read_bytes() == (tiny_run.path / part).read_bytes(), part
    assert table["n"] == 0
    assert table["metrics"] == {}
    assert len(list((tmp_path / "run" / "masks").rglob("*.png"))) == 24
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Not measured" in text
    assert "No masks: nothing is scored." in text
    assert "most confident" in text
    assert "<td" not in text[: text.index("Supervision bill")]  # no table of dashes
    assert (tmp_path / "run" / "samples" / "most-confident.png").is_file()
    assert table["held_out"] == len(parts_of(tmp_path / "run")["test"])
    assert table["tag_accuracy"].keys() == {"positive"}
    assert table["unscored"]["untagged"] > 0
    printed = fewmask("report", tmp_path / "run").out
    assert "No masks: nothing is scored." in printed
    assert "–" not in printed


def test_every_fold_trains_every_stage_anew_and_the_scores_are_pooled(
    fewmask, tiny, small_data, tmp_path
):
    run = tmp_path / "run"
    table = finished(fewmask, small_data, run, *tiny, "--folds=2")
    folds = [run / "fold-0", run / "fold-1"]
    tests = [set(parts_of(fold)["test"]) for fold in folds]
    assert not tests[0] & tests[1]
    assert len(tests[0] | tests[1]) == 24
    for file in (
        "3-translate/gen_ab.safetensors",
        "5-classify/classifier.safetensors",
        "6-evidence/cams.npy",
        "7-pseudo_masks/targets.npy",
        "8-segment/round-1.safetensors",
    ):
        assert (folds[0] / file).read_bytes() != (folds[1] / file).read_bytes(), file
    matrices = [matrices_by_name(fold) for fold in folds]
    assert {"result", "control", "evidence"} <= {row["kind"] for row in table["rows"]}
    for row in table["rows"]:
        pooled = np.concatenate([found[row["name"]] for found in matrices])
        assert len(pooled) == row["metrics"]["n"] == 24
        expected = iou_of(pooled)
        assert row["metrics"]["iou.pooled.positive"] == pytest.approx(expected, abs=1e-12)
    with (run / "masks" / "manifest.csv").open() as stream:
        fold_of = {row["id"]: int(row["fold"]) for row in csv.DictReader(stream)}
    assert fold_of == {i: fold for fold, ids in enumerate(tests) for i in ids}


def test_single_stages_can_be_run(fewmask, tiny, small_data, tmp_path):
    table = finished(
        fewmask, small_data, tmp_path / "run", *tiny, "--stages", "classify", "evidence"
    )
    made = {path.name.split("-", 1)[1] for path in (tmp_path / "run").glob("[0-9]*-*")}
    assert made == {"prepare", "split", "classify", "evidence", "evaluate", "export"}
    assert any(row["name"].startswith("CAM") for row in table["rows"])
    assert not any("difference" in row["name"] for row in table["rows"])
    card = json.loads((tmp_path / "run" / "weights" / "card.json").read_text())
    assert card["kind"] == "evidence"
    result = fewmask("predict", tmp_path / "run", small_data, "-o", tmp_path / "out")
    assert result.code == 0, result.err


def test_generated_images_descend_from_training_images_only(tiny_run):
    parts = parts_of(tiny_run.path)
    records = json.loads((tiny_run.path / "4-augment" / "generated.json").read_text())
    assert len(records) == 4
    for record in records:
        assert record["parents"]
        assert set(record["parents"]) <= set(parts["train"])
        assert all(parent.startswith("negative/") for parent in record["parents"])
        assert (tiny_run.path / "4-augment" / f"{record['id']}.png").is_file()


def test_a_run_made_from_the_record_of_another_is_the_same(fewmask, tiny_run, tmp_path):
    record = yaml.safe_load((tiny_run.path / "run.yaml").read_text())
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(record["settings"]))
    flags = ("--preset", record["preset"], "--config", file)
    table = finished(fewmask, record["data"], tmp_path / "run", *flags)
    assert table["rows"] == tiny_run.table["rows"]
    for name in ("weights/segmenter.safetensors", "3-translate/gen_ab.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tiny_run.path / name).read_bytes()


def test_hostile_names_are_shown_as_text(fewmask, tiny, small_data, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    data = tmp_path / "data"
    shutil.copytree(small_data / "positive", data / evil)
    shutil.copytree(small_data / "negative", data / "negative")
    shutil.copytree(small_data / "masks", data / "masks")
    for path in sorted((data / evil).iterdir()):
        path.rename(path.with_name(f"=1+1&{evil}{path.name}"))
    for path in sorted((data / "masks").iterdir()):
        path.rename(path.with_name(f"=1+1&{evil}{path.name}"))
    for path in sorted((data / "negative").iterdir()):
        path.rename(path.with_name(f"{{{{7*7}}}}{path.name}"))
    finished(fewmask, data, tmp_path / "run", *tiny)
    text = (tmp_path / "run" / "report.html").read_text()
    assert evil not in text
    assert html.escape(evil) in text
    with (tmp_path / "run" / "masks" / "manifest.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 24
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
