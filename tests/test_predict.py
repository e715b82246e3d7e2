"""A finished run applied: names and sizes as the images', scores as in the report."""

import json
import re
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

import fewmask as library
from fewmask.io.images import read_image
from fewmask.io.video import Frame, VideoReader, VideoWriter
from fewmask.pipelines.finished import predictor_of_run
from fewmask.report.figures import overlay
from fewmask.training.run_folder import RunFolder


def masks_below(folder):
    return {
        path.relative_to(folder).with_suffix("").as_posix(): np.asarray(Image.open(path))
        for path in folder.rglob("*.png")
    }


@pytest.fixture
def album(tmp_path):
    """Images of every kind that is accepted, in nested folders, none of them square."""
    draw = np.random.default_rng(0)
    colour = draw.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    root = tmp_path / "album"
    (root / "a" / "b c").mkdir(parents=True)
    Image.fromarray(colour).save(root / "plain.png")
    Image.fromarray(colour).save(root / "a" / "plain.JPG", "JPEG")
    Image.fromarray(colour[..., 0]).save(root / "a" / "grey.png")
    Image.fromarray(colour[..., 0].astype(np.uint16) * 257).save(root / "a" / "b c" / "deep.png")
    Image.fromarray(colour).save(root / "a" / "b c" / "ünï.code.tif")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown upright after a quarter turn
    Image.fromarray(colour).save(root / "turned.jpg", exif=turned)
    for name in ("notes.txt", ".DS_Store", "Thumbs.db", "._plain.png", "a/._grey.png"):
        (root / name).write_text("not an image")
    return root


def test_each_image_gets_a_mask_of_its_name_and_size(fewmask, tree, tiny_run, album, tmp_path):
    before, out = tree(album), tmp_path / "out"
    result = fewmask("predict", tiny_run.path, album, "-o", out)
    assert result.code == 0, result.err
    masks = masks_below(out / "masks")
    assert {name: mask.shape for name, mask in masks.items()} == {
        "plain": (40, 56),
        "a/plain": (40, 56),
        "a/grey": (40, 56),
        "a/b c/deep": (40, 56),
        "a/b c/ünï.code": (40, 56),
        "turned": (56, 40),
    }
    assert all(mask.dtype == np.uint8 and mask.max() <= 1 for mask in masks.values())
    overlays = masks_below(out / "overlays")
    assert {n: o.shape for n, o in overlays.items()} == {n: (*m.shape, 3) for n, m in masks.items()}
    assert "6 masks" in result.out
    assert tree(album) == before


def test_grey_and_16_bit_images_are_seen_alike(fewmask, tiny_run, album, tmp_path):
    fewmask("predict", tiny_run.path, album, "-o", tmp_path / "out")
    masks = masks_below(tmp_path / "out" / "masks")
    np.testing.assert_array_equal(masks["a/grey"], masks["a/b c/deep"])
    np.testing.assert_array_equal(masks["plain"], masks["a/b c/ünï.code"])


def test_one_image_is_predicted_as_in_its_folder(fewmask, tiny_run, album, tmp_path):
    fewmask("predict", tiny_run.path, album, "-o", tmp_path / "all")
    fewmask("predict", tiny_run.path, album / "a" / "grey.png", "-o", tmp_path / "one")
    one = (tmp_path / "one" / "masks" / "grey.png").read_bytes()
    assert one == (tmp_path / "all" / "masks" / "a" / "grey.png").read_bytes()


def test_probabilities_belong_to_the_mask(fewmask, tiny_run, album, tmp_path):
    fewmask("predict", tiny_run.path, album, "-o", tmp_path / "out", "--save-probs")
    masks = masks_below(tmp_path / "out" / "masks")
    for name, mask in masks.items():
        probs = np.load(tmp_path / "out" / "probs" / f"{name}.npy")
        assert probs.dtype == np.float16
        assert probs.shape == (2, *mask.shape)
        np.testing.assert_allclose(probs.astype(float).sum(0), 1, atol=2e-3)
        clear = np.abs(probs[0].astype(float) - probs[1]) > 2e-3
        np.testing.assert_array_equal(mask[clear], probs.argmax(0)[clear])


def test_a_folder_called_masks_is_not_predicted(fewmask, tiny_run, small_data, tmp_path):
    fewmask("predict", tiny_run.path, small_data, "-o", tmp_path / "out")
    names = set(masks_below(tmp_path / "out" / "masks"))
    assert len(names) == 24
    assert {name.split("/")[0] for name in names} == {"positive", "negative"}


def test_what_stands_in_folders_of_masks_and_overlays_at_any_depth_is_not_predicted(
    fewmask, tiny_run, album, tmp_path
):
    for name in ("a/masks", "out/masks/a", "out/overlays/a", "out/probs"):
        (album / name).mkdir(parents=True)
        shutil.copy(album / "plain.png", album / name)
    assert "6 masks" in fewmask("predict", tiny_run.path, album, "-o", tmp_path / "out").out


def test_an_image_called_masks_is_predicted_like_any_other(fewmask, tiny_run, album, tmp_path):
    shutil.copy(album / "plain.png", album / "masks.png")
    assert "7 masks" in fewmask("predict", tiny_run.path, album, "-o", tmp_path / "out").out
    masks = masks_below(tmp_path / "out" / "masks")
    np.testing.assert_array_equal(masks["masks"], masks["plain"])


def test_existing_predictions_are_never_overwritten(fewmask, tree, tiny_run, album, tmp_path):
    fewmask("predict", tiny_run.path, album, "-o", tmp_path / "out")
    before = tree(tmp_path / "out")
    assert fewmask("predict", tiny_run.path, album, "-o", tmp_path / "out").code == 2
    assert tree(tmp_path / "out") == before


def test_a_moved_run_predicts_the_same_from_its_weights_alone(
    fewmask, tree, tiny_run, album, tmp_path
):
    moved = tmp_path / "moved"
    (moved / "weights").mkdir(parents=True)
    shutil.copy(tiny_run.path / "run.yaml", moved)
    shutil.copytree(tiny_run.path / "weights", moved / "weights", dirs_exist_ok=True)
    fewmask("predict", tiny_run.path, album, "-o", tmp_path / "here")
    result = fewmask("predict", moved, album, "-o", tmp_path / "there")
    assert result.code == 0, result.err
    assert tree(tmp_path / "here") == tree(tmp_path / "there")


def test_predicting_and_measuring_leave_the_run_as_it_was(fewmask, tree, tiny_run, album, tmp_path):
    before = tree(tiny_run.path)
    fewmask("predict", tiny_run.path, album, "-o", tmp_path / "out")
    fewmask("evaluate", tiny_run.path, tiny_run.data)
    assert tree(tiny_run.path) == before


def test_a_damaged_stage_is_not_deleted_by_a_prediction(fewmask, tree, tiny_run, album, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(tiny_run.path, copy)
    (copy / "7-pseudo_masks" / "targets.npy").write_bytes(b"damaged")
    before = tree(copy)
    assert fewmask("predict", copy, album, "-o", tmp_path / "out").code == 0
    assert tree(copy) == before


def test_masks_of_the_run_are_those_that_predict_makes(fewmask, smoke_run, tmp_path):
    """Of images with the object; the tags of the others are known to leave nothing to find."""
    fewmask("predict", smoke_run.path, smoke_run.data / "positive", "-o", tmp_path / "out")
    exported = masks_below(smoke_run.path / "masks" / "positive")
    predicted = masks_below(tmp_path / "out" / "masks")
    assert exported.keys() == predicted.keys()
    for name, mask in predicted.items():
        np.testing.assert_array_equal(exported[name], mask)


def test_on_its_own_data_a_run_is_measured_on_its_test_part(fewmask, smoke_run):
    measured = fewmask("evaluate", smoke_run.path, smoke_run.data, "--json").json
    (row,) = (row for row in smoke_run.table["rows"] if row["kind"] == "result")
    what = "16 of 80 images: the run's test part; 64 that it has learned from are left out"
    assert measured.pop("measured") == what
    assert measured == row["metrics"] == smoke_run.table["metrics"]
    parts = json.loads((smoke_run.path / "2-split" / "split.json").read_text())
    assert measured["n"] == len(parts["test"]) == 16


def test_scores_on_other_data_are_those_of_the_masks_that_were_written(fewmask, tiny_run, tmp_path):
    from fewmask.data.sample import make_sample

    other = make_sample(tmp_path / "o", seed=9, images_per_class=5, image_size=32, split="test")
    result = fewmask("evaluate", tiny_run.path, other, "--json", "--save-masks", tmp_path / "masks")
    assert result.code == 0, result.err
    hit = union = empty = 0
    masks = masks_below(tmp_path / "masks")
    assert len(masks) == 10
    for name, mask in masks.items():
        path = other / "masks" / f"{name.split('/')[1]}.png"
        truth = np.asarray(Image.open(path)) > 0 if path.exists() else np.zeros((32, 32), bool)
        hit += (truth & (mask == 1)).sum()
        union += (truth | (mask == 1)).sum()
        empty += not truth.any()
    assert result.json["iou.pooled.positive"] == pytest.approx(hit / union, abs=1e-12)
    assert result.json["n"] == 10
    assert result.json["measured"] == "10 of 10 images: none that the run has learned from"
    assert result.json["n_empty_truth.positive"] == empty == 5


def test_the_library_does_what_the_command_line_does(fewmask, tree, tiny_run, album, tmp_path):
    run = library.tags(
        tiny_run.data,
        tmp_path / "run",
        preset="smoke",
        threads=1,
        image_size=32,
        translate_steps=2,
        classify_epochs=1,
        classify_batch_size=8,
        cam_image_size=64,
        cam_views="single",
        segment_epochs=1,
        predict_views="single",
        predict_refine="none",
        pseudo_refine="none",
        augment_images=4,
    )
    assert isinstance(run, library.Run)
    assert run.metrics == tiny_run.table["metrics"]
    for part in ("weights/segmenter.safetensors", "10-evaluate/confusion.npy", "2-split/split.csv"):
        assert (run.path / part).read_bytes() == (tiny_run.path / part).read_bytes(), part
    written = run.predict(album, tmp_path / "there")
    assert all(path.is_file() for path in written)
    assert len(written) == 6
    fewmask("predict", tiny_run.path, album, "-o", tmp_path / "here")
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert (
        run.evaluate(tiny_run.data)
        == fewmask("evaluate", tiny_run.path, tiny_run.data, "--json").json
    )
    assert run.report.is_file()
    assert library.resume_run(run.path).metrics == run.metrics


def test_the_library_raises_what_the_command_line_prints(tmp_path):
    with pytest.raises(library.FewmaskError, match="FOLDER-MISSING") as caught:
        library.tags(tmp_path / "gone", tmp_path / "run", preset="smoke")
    assert caught.value.exit_code == 10
    with pytest.raises(library.FewmaskError, match="did you mean 'segment_epochs'"):
        library.tags(tmp_path, tmp_path / "run", preset="smoke", segment_epoch=3)
    with pytest.raises(library.FewmaskError, match="RUN-MISSING"):
        library.Run(tmp_path)


def test_overlays_show_the_image_where_nothing_was_found(fewmask, tiny_run, album, tmp_path):
    fewmask("predict", tiny_run.path, album, "-o", tmp_path / "out")
    for name in ("plain", "a/grey"):
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
        shown = np.asarray(Image.open(tmp_path / "out" / "overlays" / f"{name}.png"))
        image = read_image(album / f"{name}.png")
        far = np.ones_like(mask, bool)
        for y, x in np.argwhere(mask > 0):
            far[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = False
        np.testing.assert_array_equal(shown[far], image[far])


class TestVideo:
    @pytest.fixture
    def clip(self, tmp_path):
        """A second of moving blocks, in a container that can be read up to where it breaks off."""
        pytest.importorskip("av")
        path, rng = tmp_path / "clip.mkv", np.random.default_rng(0)
        with VideoWriter(path, Fraction(20), Fraction(1, 1000)) as writer:
            for i in range(20):
                image = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
                writer.write(Frame(image, 50 * i))
        return path

    def test_a_clip_comes_back_with_masks_laid_over_it(self, fewmask, tiny_run, clip, tmp_path):
        before, out = clip.read_bytes(), tmp_path / "night.mp4"
        result = fewmask("predict", tiny_run.path, clip, "-o", out)
        assert result.code == 0, result.err
        assert re.search(r"20 frames in [\d.]+ s: [\d.]+ frames a second", result.out)
        assert "the clip has 20 a second" in result.out
        with VideoReader(clip) as reader:
            originals = list(reader)
        with VideoReader(out) as reader:
            frames = list(reader)
            times = [float(f.time * reader.time_base) for f in frames]
        assert times == pytest.approx([0.05 * i for i in range(20)], abs=0.002)
        predictor = predictor_of_run(RunFolder.open(tiny_run.path), torch.device("cpu"))
        for original, frame in zip(originals[:3], frames[:3], strict=True):
            mask = predictor.mask_of_probs(original.image, predictor.probs(original.image))
            shown, drawn = frame.image.astype(int), overlay(original.image, mask).astype(int)
            assert (mask > 0).any()
            off = np.abs(shown - drawn).mean()  # the codec is lossy
            assert off < 12
            assert off < 0.7 * np.abs(shown - original.image).mean()  # it is not the plain frame
        assert clip.read_bytes() == before

    def test_of_a_clip_that_breaks_off_what_came_before_is_written(
        self, fewmask, tiny_run, clip, tmp_path
    ):
        whole = clip.read_bytes()
        clip.write_bytes(whole[: len(whole) // 2])
        result = fewmask("predict", tiny_run.path, clip, "-o", tmp_path / "out.mp4")
        with VideoReader(tmp_path / "out.mp4") as reader:
            frames = len(list(reader))
        assert 0 < frames < 20
        assert result.code == 10
        assert f"its first {frames} frames" in result.err

    @pytest.mark.parametrize(
        ("name", "code", "word"),
        [
            ("out.gif", 2, "VIDEO-SUFFIX"),
            ("out", 2, "VIDEO-SUFFIX"),
            ("new/out.avi", 2, "VIDEO-SUFFIX"),
            ("clip.mkv", 2, "RUN-EXISTS"),
            ("out.mp4", 2, "VIDEO-FLAG"),
        ],
    )
    def test_refusals(self, fewmask, tiny_run, clip, tmp_path, name, code, word, tree):
        before = tree(tmp_path)
        extra = ("--save-probs",) if word == "VIDEO-FLAG" else ()
        result = fewmask("predict", tiny_run.path, clip, "-o", tmp_path / name, *extra)
        assert (result.code, word in result.err) == (code, True), result.err
        assert tree(tmp_path) == before
