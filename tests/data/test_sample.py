import csv
import socket

import numpy as np
import pytest
from PIL import Image

from fewmask.data import sample
from fewmask.data.sample import SAMPLE_CLASS_NAMES, make_multiclass_sample, make_sample
from fewmask.errors import UsageError


def files(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("sample"), images_per_class=40, image_size=48)


def test_layout(small):
    names = [f"{index:03}.png" for index in range(40)]
    assert sorted(files(small)) == [
        *(f"masks/p{n}" for n in names),
        *(f"negative/n{n}" for n in names),
        *(f"positive/p{n}" for n in names),
    ]
    assert pixels(small / "positive/p000.png").shape == (48, 48, 3)


def test_masks_hold_0_and_1_on_4_to_20_percent(small):
    for path in (small / "masks").iterdir():
        mask = pixels(path)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        assert 0.04 <= mask.mean() <= 0.20, path.name


def test_same_seed_same_bytes_and_another_seed_other_images(tmp_path):
    def make(name, **kwargs):
        return files(make_sample(tmp_path / name, images_per_class=2, image_size=40, **kwargs))

    first = make("a")
    assert make("b") == first
    other = make("c", seed=1)
    assert set(other) == set(first)
    assert all(other[name] != first[name] for name in first)


def test_more_images_keep_the_first_ones(tmp_path, small):
    few = files(make_sample(tmp_path / "few", images_per_class=2, image_size=48))
    many = files(small)
    assert all(many[name] == content for name, content in few.items())


@pytest.mark.parametrize("name", ["grass", "gravel", "brick"])
def test_halves_together_are_the_texture(name):
    whole = sample.load_texture(name)
    left, right = sample.texture_half(name, "train"), sample.texture_half(name, "test")
    assert left.shape[1] + right.shape[1] == whole.shape[1]
    assert np.allclose(left, _standardised(whole[:, : left.shape[1]]))
    assert np.allclose(right, _standardised(whole[:, left.shape[1] :]))


@pytest.mark.parametrize(("split", "blind"), [("train", slice(256, 512)), ("test", slice(0, 256))])
def test_a_split_never_sees_the_other_half(tmp_path, monkeypatch, split, blind):
    """Overwrite the other half of each texture: not a byte of this split's images changes."""

    def make(name, which):
        sample.texture_half.cache_clear()
        root = make_sample(tmp_path / name, images_per_class=3, image_size=40, split=which)
        return files(root)

    other = "test" if split == "train" else "train"
    before, other_before = make("a", split), make("b", other)
    original = sample.load_texture
    rng = np.random.default_rng(0)

    def defaced(name):
        texture = original(name).copy()
        texture[:, blind] = rng.uniform(0, 255, texture[:, blind].shape)
        return texture

    monkeypatch.setattr(sample, "load_texture", defaced)
    assert make("c", split) == before
    other_after = make("d", other)
    assert all(
        other_after[name] != other_before[name] for name in other_after if "masks" not in name
    )
    sample.texture_half.cache_clear()


def test_the_scar_is_where_the_mask_says(monkeypatch, tmp_path):
    """Paint scars pure white: every pixel of the mask is white, and not much else is."""
    monkeypatch.setattr(sample, "EARTH", ((40.0,) * 3, (40.0,) * 3))
    monkeypatch.setattr(sample, "gaussian_filter", lambda image, *_, **__: image)
    draw = sample._Draw((0, "x"), 64, "train")
    image, mask = sample._make_tile(draw, scar=True, pond=False, houses=0)
    bright = (image == 255).all(-1)
    assert bright[mask == sample.SCAR].all()
    assert bright.mean() < 0.9


def test_a_house_on_a_scar_is_not_scar():
    """A tile that is scar all over leaves a house no other place."""
    draw = sample._Draw((0, "x"), 48, "train")
    before, mask = np.full((48, 48, 3), 0.5), np.full((48, 48), sample.SCAR, np.uint8)
    after = sample._put_house(draw, before, mask)
    assert set(np.unique(mask)) == {sample.HOUSE, sample.SCAR}
    assert (after != before).any(-1)[mask == sample.HOUSE].all()


def test_colour_alone_does_not_find_the_scar(tmp_path):
    """The best cut of any one colour channel or of redness stays below IoU .6, oracle included."""
    root = make_sample(tmp_path / "s", images_per_class=20, image_size=64)
    images = np.stack([pixels(p) for p in sorted((root / "positive").iterdir())]).astype(float)
    masks = np.stack([pixels(p) for p in sorted((root / "masks").iterdir())]) > 0
    r, g, b = np.moveaxis(images, -1, 0)
    for feature in (r, g, b, r - g, r / (g + 1), r + g + b):
        cuts = np.quantile(feature, np.linspace(0.5, 0.99, 40))
        assert max(_iou(feature > cut, masks) for cut in cuts) < 0.6


def test_refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for make in (make_sample, make_multiclass_sample):
        with pytest.raises(UsageError, match="SAMPLE-EXISTS"):
            make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_opens_no_connection(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    sample.load_texture.cache_clear()
    sample.texture_half.cache_clear()
    make_sample(tmp_path / "s", images_per_class=1, image_size=32)


@pytest.fixture(scope="module")
def multiclass(tmp_path_factory):
    return make_multiclass_sample(tmp_path_factory.mktemp("multi"), images=80, image_size=48)


class TestMulticlass:
    def test_tags_say_exactly_what_the_masks_hold(self, multiclass):
        with (multiclass / "tags.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["file", *SAMPLE_CLASS_NAMES]
        assert [row["file"] for row in rows] == sorted(
            p.name for p in (multiclass / "images").iterdir()
        )
        for row in rows:
            ids = set(np.unique(pixels(multiclass / "masks" / row["file"]))) - {0}
            tagged = {i + 1 for i, name in enumerate(SAMPLE_CLASS_NAMES) if row[name] == "1"}
            assert ids == tagged, row["file"]

    def test_every_combination_of_tags_occurs_equally(self, multiclass):
        with (multiclass / "tags.csv").open(newline="") as file:
            combinations = [tuple(row.values())[1:] for row in csv.DictReader(file)]
        assert {combinations.count(c) for c in combinations} == {10}
        assert len(set(combinations)) == 8

    def test_tagged_objects_are_large_enough_to_see(self, multiclass):
        for path in (multiclass / "masks").iterdir():
            mask = pixels(path)
            for class_id in set(np.unique(mask)) - {0}:
                assert (mask == class_id).mean() > 0.01, (path.name, class_id)

    def test_same_seed_same_bytes(self, multiclass, tmp_path):
        again = make_multiclass_sample(tmp_path / "m", images=80, image_size=48)
        assert files(again) == files(multiclass)


def _standardised(half):
    return (half - half.mean()) / half.std()


def _iou(pred, truth):
    return (pred & truth).sum() / (pred | truth).sum()
