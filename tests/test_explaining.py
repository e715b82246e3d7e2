"""``fewmask explain``: maps of a run's networks and of timm's, and what it refuses."""

import csv

import numpy as np
import pytest
from PIL import Image

import fewmask as library
from fewmask.io.images import read_image

NET = "timm:mobilenetv3_small_050"
VIT = "timm:deit_tiny_patch16_224"
FAST = ("--weights=none", "--size", "64", "64")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, (height, width) in {"a": (40, 60), "deep/b": (50, 30), "c": (40, 60)}.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)
    return folder


def test_maps_overlays_strips_and_a_table(fewmask, photos, tmp_path, tree):
    before, out = tree(photos), tmp_path / "out"
    result = fewmask("explain", photos, "-o", out, "--network", NET, *FAST, "--batch-size=2",
                     "--method", "plain,grad-cam", "smoothgrad")  # fmt: skip
    assert result.code == 0, result.err
    assert tree(photos) == before
    for name, size in {"a": (40, 60), "deep/b": (50, 30), "c": (40, 60)}.items():
        for method in ("plain", "grad_cam", "smoothgrad"):
            with Image.open(out / "maps" / method / f"{name}.png") as grey:
                assert (grey.mode, grey.size) == ("L", size[::-1])
            assert read_image(out / "overlays" / method / f"{name}.png").shape[:2] == size
        assert (out / "strips" / f"{name}.png").is_file()
    table = list(csv.DictReader((out / "explained.csv").open()))
    assert [line["image"] for line in table] == ["a", "c", "deep/b"]
    assert all(0 <= int(line["class"]) < 1000 and line["name"] for line in table)
    assert "9 maps" in result.out


def test_packaged_weights_know_a_real_thing_and_the_class_can_be_named(fewmask, photos, tmp_path):
    """The packaged head is ImageNet's: asked for zebra it explains zebra, by name or number."""
    outs = [tmp_path / "name", tmp_path / "number"]
    for out, asked in zip(outs, ("zebra", "340"), strict=True):
        result = fewmask("explain", photos / "a.png", "-o", out, "--network",
                         "timm:tf_efficientnet_lite0", "--class", asked, "--size", "64", "64",
                         "--method=guided")  # fmt: skip
        assert result.code == 0, result.err
    tables = [(out / "explained.csv").read_text() for out in outs]
    assert tables[0] == tables[1]
    assert ",340,zebra," in tables[0]
    maps = [(out / "maps/guided/a.png").read_bytes() for out in outs]
    assert maps[0] == maps[1]


@pytest.mark.parametrize("part", ["classifier", "segmenter"])
def test_both_networks_of_a_tags_run(fewmask, tiny_run, tmp_path, part):
    images = next(tiny_run.data.glob("*/"))
    result = fewmask("explain", images, "-o", tmp_path / "out", "--network", tiny_run.path,
                     "--part", part, "--method", "guided,grad-cam")  # fmt: skip
    assert result.code == 0, result.err
    maps = list((tmp_path / "out/maps/guided").rglob("*.png"))
    assert len(maps) == len(list(images.rglob("*.png"))) > 0


def test_maps_are_kept_by_content(fewmask, photos, tmp_path):
    cache = tmp_path / "cache"
    flags = ("--network", NET, *FAST, "--method=plain", "--cache", cache)
    assert fewmask("explain", photos, "-o", tmp_path / "a", *flags).code == 0
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    assert len(kept) == 3
    assert fewmask("explain", photos, "-o", tmp_path / "b", *flags).code == 0
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")} == kept


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--network", NET), "EXPLAIN-WEIGHTS"),
        (("--network", "timm:mobilenet_v99", "--weights=none"), "ENCODER-NAME"),
        (("--network", NET, *FAST, "--method=guidde"), "EXPLAIN-METHOD"),
        (("--network", NET, *FAST, "--class=unicorn"), "CLASS-UNKNOWN"),
        (("--network", NET, *FAST, "--class=1000"), "CLASS-UNKNOWN"),
        (("--network", NET, *FAST, "--layer=nowhere"), "CAM-LAYER"),
        (("--network", NET, *FAST, "--batch-size=0"), "CAM-SETTING"),
        (("--network", NET, "--weights=none", "--size", "0", "0"), "IMAGE-SIZE"),
        (("--network", VIT, *FAST), "--size 224 224"),
        (("--network", "nowhere"), ""),
    ],
)
def test_questions_without_an_answer(fewmask, photos, tmp_path, flags, code):
    result = fewmask("explain", photos, "-o", tmp_path / "out", *flags)
    assert result.code == 2, result.err
    assert code in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_a_run_has_its_own_weights_and_perhaps_no_classifier(fewmask, tiny_run, photos, tmp_path):
    result = fewmask("explain", photos, "-o", tmp_path / "out", "--network", tiny_run.path,
                     "--weights=none")  # fmt: skip
    assert result.code == 2
    assert "EXPLAIN-WEIGHTS" in result.err


def test_a_network_of_one_size_is_asked_at_that(fewmask, photos, tmp_path):
    result = fewmask("explain", photos / "a.png", "-o", tmp_path / "out", "--network", VIT,
                     "--weights=none", "--method=plain")  # fmt: skip
    assert result.code == 0, result.err


def test_unreadable_images_are_told_after_the_others_are_done(fewmask, photos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    whole = (photos / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole)
    (folder / "b.png").write_bytes(whole[:200])
    result = fewmask("explain", folder, "-o", tmp_path / "out", "--network", NET, *FAST,
                     "--method=plain")  # fmt: skip
    assert result.code == 10
    assert "b.png" in result.err
    assert "EXPLAIN-PARTIAL" in result.err
    assert (tmp_path / "out/maps/plain/a.png").is_file()


def test_nothing_is_written_into_the_images_or_a_full_folder(fewmask, photos, tmp_path, tree):
    before = tree(photos)
    flags = ("--network", NET, *FAST, "--method=plain")
    assert fewmask("explain", photos, "-o", photos / "out", *flags).code == 10
    inside = ("--cache", photos / "cache")
    assert fewmask("explain", photos, "-o", tmp_path / "out", *flags, *inside).code == 10
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    assert fewmask("explain", photos, "-o", tmp_path / "full", *flags).code == 2
    assert tree(photos) == before


def test_the_same_from_python(photos, tmp_path):
    paths = library.explain(NET, photos, tmp_path / "out", methods=["plain"], weights="none",
                            size=(64, 64))  # fmt: skip
    assert [path.name for path in paths] == ["a.png", "c.png", "b.png"]
