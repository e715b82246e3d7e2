"""Pipeline ``saliency`` through the real command line: rows, controls, seeds, what is refused."""

import dataclasses
import json
import shutil
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fewmask as library
from fewmask.attribution.explain import explain
from fewmask.config import resolve
from fewmask.data.content import digest_of
from fewmask.data.transforms import resize_image, to_unit
from fewmask.errors import LeakError, UsageError
from fewmask.io.images import read_image, read_mask
from fewmask.models.classifier import imagenet_classifier
from fewmask.models.fusion import Fusion
from fewmask.pipelines import running, saliency, saliency_rows
from fewmask.pipelines.saliency_config import PRESETS, SaliencyConfig
from fewmask.pipelines.saliency_maps import MapMaker, edges, rows_of, stacked
from fewmask.randomness import seed_all
from fewmask.training.known_images import KnownImages
from fewmask.training.run_folder import RunFolder
from fewmask.training.stages import inputs_of_stages
from fewmask.training.workspace import Workspace

NET = "mobilenetv3_small_050"
TINY = (
    "--preset=smoke", "--threads=1", "--image-size=32", "--saliency-image-size=64",
    f"--encoder={NET}", "--encoder-weights=none", f"--saliency-network={NET}",
    "--saliency-weights=none", "--segment-epochs=1", "--predict-views=single",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(fewmask, small_data, tmp_path_factory):
    """Two maps, two seeds, all controls; beside it the arguments of each training."""
    path, calls = tmp_path_factory.mktemp("saliency") / "run", []
    fit = saliency.fit_segmenter

    def spy(*args, **named):
        calls.append((args, named))
        return fit(*args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saliency, "fit_segmenter", spy)
        result = fewmask("saliency", small_data, "-o", path, *TINY, "--maps", "plain,guided",
                         "--seeds=2", "--controls-alone", "--controls-each")  # fmt: skip
    assert result.code == 0, result.err
    return path, json.loads((path / "metrics.json").read_text()), calls


def workspace(path):
    folder = RunFolder.open(path)
    module, config = running.recorded_settings(folder)
    data = module.DATA.open(path.__class__(folder.record["data"]), config)
    work = Workspace(folder, config, data, torch.device("cpu"))
    for number, spec in enumerate(module.STAGES, start=1):
        at = folder.stage_path(number, spec.name, "")
        work.stages[spec.name] = folder.stage(number, spec.name, json.loads(
            (at / "DONE.json").read_text())["key"], folder="")  # fmt: skip
    return work


def test_the_table_has_the_answer_the_colours_and_what_is_no_map(finished):
    rows = {row["name"]: row["kind"] for row in finished[1]["rows"]}
    assert rows["RGB + plain + guided"] == "result"
    for name in ("RGB", "RGB + plain", "RGB + guided", "plain + guided", "plain", "guided",
                 "RGB + Sobel edges",
                 "RGB + random weights", "RGB + another image's map"):  # fmt: skip
        assert rows[name] == "control", name
        assert rows[f"{name}, seed 1"] == "reference", name
    assert rows["RGB + plain + guided, seed 1"] == "reference"
    masks = {row["masks_used"] for row in finished[1]["rows"] if "RGB" in row["name"]}
    assert len(masks) == 1


def test_of_one_seed_all_rows_begin_alike_and_see_the_same_images(finished):
    """But for the first layer, which has another number of channels."""
    work, calls = workspace(finished[0]), finished[2]
    assert len(calls) == 10 * 2
    drawn = {(named["drawn_by"], tuple(args[3])) for args, named in calls}
    assert {name for name, _ in drawn} == {"seed 0", "seed 1"}
    assert len({rows for _, rows in drawn}) == 1
    begun = {}
    for args, named in calls:
        seed_all(work.config.seed, "4-segment", named["drawn_by"], "weights")
        net = named["build"](work.config, 2)
        begun.setdefault(named["drawn_by"], []).append(net.state_dict())
        assert to_unit(named["images"][args[3][0]]).shape[0] == net.mean.numel()
    for states in begun.values():
        first = states[0]
        for state in states[1:]:
            differ = [k for k in first if first[k].shape != state[k].shape]
            assert len(differ) <= 3  # weight, mean, std
            assert all(torch.equal(first[k], state[k]) for k in first if k not in differ)
    heads = [states[0]["network.network.segmentation_head.0.weight"] for states in begun.values()]
    assert not torch.equal(*heads)


def test_the_validation_part_is_measured_and_not_learned_from(finished):
    work = workspace(finished[0])
    learned = {row for args, _ in finished[2] for row in args[3]}
    assert learned == set(work.rows("train"))
    assert work.rows("val")


def test_maps_are_those_of_the_classifier_on_the_image_as_large_as_it_is_asked(finished):
    work = workspace(finished[0])
    seed_all(work.config.seed, "saliency", "weights")
    net = imagenet_classifier(NET, "none").eval()
    image = read_image(work.data.samples[3].image_path)
    seen = to_unit(resize_image(image, 64, 64))[None]
    maps = saliency_rows.maps_of_row(work, 3)
    for method in ("plain", "guided"):
        expected = (explain(net, seen, method=method)[0] * 255).round().byte().numpy()
        found = maps[method].astype(int)
        assert np.abs(found - resize_image(expected, 32, 32)).max() <= 1
    assert np.abs(maps["random"].astype(int) - maps["plain"]).max() > 20
    assert np.array_equal(maps["sobel"], edges(np.asarray(work.images[3])))


def test_another_images_map_is_another_images_and_each_is_given_once(finished):
    work = workspace(finished[0])
    count = len(work.data.samples)
    maps = [saliency_rows.maps_of_row(work, row) for row in range(count)]
    lenders = [saliency_rows.another(work, row) for row in range(count)]
    assert sorted(lenders) == list(range(count))
    for row, lender in enumerate(lenders):
        assert lender != row
        assert any({row, lender} <= set(work.rows(part)) for part in work.parts)
        assert np.array_equal(maps[row]["other"], maps[lender]["plain"])


def test_a_prediction_makes_its_own_maps_and_is_the_exported_mask(finished, fewmask, small_data,
                                                                  tmp_path):  # fmt: skip
    images = small_data / "positive"  # masks of the others are empty by their tag
    result = fewmask("predict", finished[0], images, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    made = sorted((tmp_path / "out/masks").glob("*.png"))
    assert made
    for path in made:
        exported = next((finished[0] / "masks").rglob(path.name))
        differ = read_mask(path) != read_mask(exported)
        assert differ.mean() < 0.01  # in batches of one, maps may differ by a grey level


def test_over_seeds_mean_deviation_and_what_was_gained(finished):
    checks, rows = finished[1]["checks"], {row["name"]: row for row in finished[1]["rows"]}
    for row, name in (("rgb", "RGB"), ("rgb+plain+guided", "RGB + plain + guided")):
        both = [rows[f"{name}{end}"]["metrics"]["miou_foreground"] for end in ("", ", seed 1")]
        assert checks[f"saliency.{row}.test.iou"] == pytest.approx(np.mean(both))
        assert checks[f"saliency.{row}.test.iou.sd"] == pytest.approx(np.std(both, ddof=1))
        for part in ("train", "val"):
            assert 0 <= checks[f"saliency.{row}.{part}.dice"] <= 1
    assert "saliency.rgb.gain" not in checks
    gain, interval = (checks[f"saliency.rgb+sobel.gain{end}"] for end in ("", ".ci95"))
    assert interval[0] <= gain <= interval[1]
    assert 0 < checks["saliency.rgb+sobel.gain.p"] <= 1


def test_collapsed_trainings_are_counted_and_a_second_mean_leaves_them_out(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    work = workspace(run)
    file = run / "4-segment/fitted.json"
    fitted = json.loads(file.read_text())
    for name, facts in fitted.items():
        facts["train.dice"] = 0.049 if name == "rgb-1" else 0.5
    file.write_text(json.dumps(fitted))
    found = saliency_rows.checks([work])
    assert found["saliency.rgb.collapsed"] == 1
    assert found["saliency.rgb+plain.collapsed"] == 0
    rows = {row["name"]: row["metrics"] for row in finished[1]["rows"]}
    scores = [rows[name]["miou_foreground"] for name in ("RGB", "RGB, seed 1")]
    assert found["saliency.rgb.test.iou"] == pytest.approx(np.mean(scores))
    assert found["saliency.rgb.test.iou.learned"] == pytest.approx(scores[0])
    assert "saliency.rgb+plain.test.iou.learned" not in found
    notes = {c.name: c.note for c in saliency_rows.candidates(work)}
    assert notes["RGB, seed 1"].startswith("collapsed")
    assert not notes["RGB"].startswith("collapsed")
    assert any("RGB, 2 seeds" in line and "1 collapsed" in line
               for line in saliency_rows.remarks([work]))  # fmt: skip


def test_the_report_shows_maps_and_says_what_they_were_worth(finished):
    html = (finished[0] / "report.html").read_text()
    assert "against RGB" in html
    assert (finished[0] / "samples/maps-1.png").is_file()


def test_every_way_for_maps_to_enter_can_be_asked_for():
    """Its names stand twice: settings are read without torch."""
    asked = SaliencyConfig.model_fields["segment_fusion"].annotation
    assert get_args(asked) == get_args(Fusion)


@pytest.mark.parametrize(("fusion", "learns"), [("gates", "strength"), ("late", "join.2.weight")])
def test_maps_that_are_no_channel_of_the_input_learn_too(
    fewmask, small_data, tmp_path, fusion, learns
):
    run = tmp_path / "run"
    result = fewmask("saliency", small_data, "-o", run, *TINY, "--maps=grad-cam",
                     f"--segment-fusion={fusion}", "--masks=4",
                     "--empty-controls-maps")  # fmt: skip
    assert result.code == 0, result.err
    rows = {row["name"]: row for row in json.loads((run / "metrics.json").read_text())["rows"]}
    assert rows["RGB + Grad-CAM"]["masks_used"] == rows["RGB"]["masks_used"] == 4
    weights = load_file(next(run.glob("*-segment/rgb+grad_cam-0.safetensors")))
    (begun_at_zero,) = (each for name, each in weights.items() if name.endswith(learns))
    assert begun_at_zero.ne(0).any()


def test_the_tag_classifier_of_a_run_unless_it_has_seen_the_test_images(
    fewmask, tiny_run, small_data, sample_data, tmp_path
):
    weights = next(tiny_run.path.glob("*-classify/classifier.safetensors"))
    flags = (*TINY, f"--saliency-classifier={weights}", "--empty-controls-maps",
             "--no-controls-rgb", "--maps=guided")  # fmt: skip
    run = tmp_path / "run"
    result = fewmask("saliency", sample_data, "-o", run, *flags, "--masks=4")
    assert result.code == 0, result.err
    assert "tags of the classifier" in (run / "report.html").read_text()
    away = shutil.move(shutil.copytree(run, tmp_path / "copy"), tmp_path / "moved")
    record = away / "run.yaml"
    text = record.read_text()
    record.write_text(text.replace(str(tiny_run.path.resolve()), str(tmp_path / "gone")))
    assert record.read_text() != text
    images = next(sample_data.glob("positive"))
    for place in (run, away):  # the second where the classifier's own run is no more
        out = tmp_path / f"{place.name}-masks"
        assert fewmask("predict", place, images, "-o", out).code == 0
        heat = tmp_path / f"{place.name}-maps"
        asked = ("explain", images, "-o", heat, "--network", place, "--method=guided")
        assert fewmask(*asked).code == 0
    masks = [sorted(tmp_path.glob(f"{name}-masks/masks/*.png")) for name in ("run", "moved")]
    assert [p.read_bytes() for p in masks[0]] == [p.read_bytes() for p in masks[1]] != []
    lent = fewmask("evaluate", away, small_data)
    assert lent.code == 11, lent.err  # the classifier has learned these
    assert "lent its weights" in lent.err
    seen = fewmask("saliency", small_data, "-o", tmp_path / "leak", *flags, "--split-seed=5")
    assert seen.code == 11, seen.err
    assert not (tmp_path / "leak").exists()


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--maps=plane",), "SETTING-VALUE"),
        (("--maps=plain,plain",), "SETTING-VALUE"),
        (("--segment-fusion=gates", "--segment-architecture=fcn"), "SETTING-VALUE"),
        (("--segment-batch-size=1",), "SETTING-VALUE"),
        (("--saliency-network=resnet17",), "ENCODER-NAME"),
        (("--saliency-weights=imagenet",), "ENCODER-WEIGHTS"),
        (("--saliency-class=unicorn",), "CLASS-UNKNOWN"),
        (("--maps=cam",), "CAM-HEAD"),
        (
            (
                "--maps=score-cam",
                "--saliency-image-size=32",
                "--saliency-network=tf_efficientnet_lite0",
            ),
            "CAM-LAYER",
        ),
        (("--saliency-classifier=nowhere.safetensors",), ""),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    fewmask, small_data, tmp_path, flags, code
):
    given = {flag.split("=")[0] for flag in flags}
    others = [flag for flag in TINY if flag.split("=")[0] not in given]
    result = fewmask("saliency", small_data, "-o", tmp_path / "run", *others, *flags)
    assert result.code == 2, result.err
    assert code in result.err
    assert not (tmp_path / "run").exists()


def test_a_classifier_that_learned_a_test_image_of_the_real_cut_trains_nothing(
    finished, monkeypatch
):
    """The cut before the run is a forecast; the one that counts is asked again."""
    work = workspace(finished[0])
    tested = read_image(work.data.samples[work.rows("test")[0]].image_path)
    facts = [{"id": "x", "part": "train", "sha256": digest_of(tested)}]
    known = KnownImages(facts, (32, 32), np.zeros((1, 16, 16), np.float32))
    monkeypatch.setattr(KnownImages, "lent_to", lambda _: [known])
    monkeypatch.setattr(saliency, "fit_segmenter", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(LeakError):
        saliency.train_segmenters(work, work.stages["segment"])


def test_maps_are_not_kept_among_the_users_data(fewmask, small_data, tmp_path, tree):
    before = tree(small_data)
    result = fewmask("saliency", small_data, "-o", tmp_path / "run", *TINY,
                     f"--saliency-cache={small_data / 'cache'}")  # fmt: skip
    assert result.code == 10, result.err
    assert tree(small_data) == before


def test_what_makes_no_map_leaves_the_maps_as_they_are(finished):
    work = workspace(finished[0])

    def keys(**changes):
        config = work.config.replaced(**changes)
        other = dataclasses.replace(work, config=config)
        found = inputs_of_stages(other, saliency.STAGES, saliency.ALWAYS)
        return {name: inputs.key for name, inputs in found.items()}

    before = keys()
    assert keys(saliency_cache=finished[0] / "cache") == before
    for changes in ({"seeds": 3}, {"masks": 2}, {"controls_rgb": False}, {"controls_alone": False}):
        after = keys(**changes)
        assert [n for n in before if before[n] != after[n]] == ["segment", "evaluate", "export"]
    assert keys(maps=("plain",))["saliency"] != before["saliency"]
    assert keys(maps=("plain",))["prepare"] == before["prepare"]


def test_paper_is_the_published_system():
    config = resolve(SaliencyConfig, PRESETS, "paper")
    assert (config.image_size, config.saliency_network) == (512, "vgg16")
    assert (config.saliency_weights, config.saliency_class) == ("imagenet", "predicted")
    assert config.segment_architecture == "classic_unet"
    assert (config.test_folds, config.val_fraction) == (10, pytest.approx(1 / 9))  # 80 / 10 / 10
    assert (config.segment_optimizer, config.segment_learning_rate) == ("adam", 1e-4)
    assert (config.segment_schedule, config.segment_weight_decay) == ("constant", 0)
    assert (config.segment_epochs, config.segment_min_steps, config.segment_batch_size) == (
        20,
        0,
        1,
    )
    assert (config.segment_loss, config.segment_ema_decay) == ("ce", 0)
    assert not config.segment_augment
    assert (config.segment_fusion, config.predict_views) == ("channel", "single")
    for rule in ("plain", "deconv", "guided"):
        rows = rows_of(config.replaced(maps=(rule,)))
        assert rows[:3] == [f"rgb+{rule}", "rgb", rule]


def test_an_input_is_colours_then_maps():
    image, maps = np.full((2, 2, 3), 7, np.uint8), {"a": np.zeros((2, 2), np.uint8),
                                                    "b": np.full((2, 2), 9, np.uint8)}  # fmt: skip
    assert stacked("rgb+b+a", image, maps)[0, 0].tolist() == [7, 7, 7, 9, 0]
    assert stacked("a", image, maps).shape == (2, 2, 1)


def test_edges_are_where_the_grey_changes():
    image = np.zeros((5, 6, 3), np.uint8)
    image[:, 3:] = 200
    found = edges(image)
    assert (found[:, 2:4] == 255).all()
    assert not found[:, [0, 1, 4, 5]].any()
    assert not edges(np.zeros((4, 4, 3), np.uint8)).any()


def test_a_maker_without_maps_needs_no_classifier():
    config = SaliencyConfig(saliency_network="no such network", image_size=32)
    found = MapMaker(config, ["sobel"], torch.device("cpu"))([np.zeros((40, 40, 3), np.uint8)])
    assert found.shape == (1, 1, 32, 32)


def test_from_python_and_names_with_hyphens():
    assert SaliencyConfig(maps="grad-cam, guided").maps == ("grad_cam", "guided")
    with pytest.raises(UsageError):
        library.saliency("nowhere", maps=("plane",))
