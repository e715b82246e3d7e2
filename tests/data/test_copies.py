"""Copies of a picture are found whatever was done to the file; other pictures are not copies."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from fewmask.data.copies import Album, find_copies, fingerprint
from fewmask.io.images import read_image


def scene(seed, size=(96, 128)):
    """A smooth random picture: three Gaussian fields between 0 and 255."""
    fields = gaussian_filter(np.random.default_rng(seed).normal(size=(*size, 3)), (6, 6, 0))
    return np.uint8(np.clip(128 + 60 * fields / fields.std(), 0, 255))


def compressed(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(image, factor):
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


CHANGES = {
    **{
        f"turned {turns}, mirrored {mirrored}": (
            lambda image, turns=turns, mirrored=mirrored: np.ascontiguousarray(
                np.rot90(image[:, ::-1] if mirrored else image, turns)
            )
        )
        for turns in range(4)
        for mirrored in (False, True)
    },
    "JPEG 70": lambda image: compressed(image, 70),
    "JPEG 50": lambda image: compressed(image, 50),
    "half": lambda image: resized(image, 0.5),
    "twice": lambda image: resized(image, 2),
    "all together": lambda image: compressed(np.ascontiguousarray(resized(image, 0.6)[::-1]), 70),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_found_among_others_and_nothing_else(change):
    scenes = [scene(seed) for seed in range(20)]
    album = Album([fingerprint(image) for image in scenes])
    for number, image in enumerate(scenes):
        assert album.copies_of(fingerprint(change(image))) == [number]


def test_chains_of_copies_share_their_first():
    one, other = scene(0), scene(1)
    pictures = [other, one, compressed(one, 60), np.ascontiguousarray(other[::-1]), scene(2),
                resized(compressed(one, 60), 0.5)]  # fmt: skip
    assert find_copies([fingerprint(image) for image in pictures]) == [0, 1, 1, 0, 4, 1]


def test_pictures_without_contrast_are_never_called_copies():
    draw = np.random.default_rng(0)
    noise = [np.uint8(draw.integers(120, 123, (64, 64, 3))) for _ in range(5)]
    assert find_copies([fingerprint(image) for image in noise]) == list(range(5))


def test_a_crop_and_a_shift_are_other_pictures():
    image = scene(3)
    others = [image[8:-8, 8:-8], np.roll(image, 6, axis=1), image // 2]
    assert find_copies([fingerprint(one) for one in (image, *others)]) == [0, 1, 2, 3]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("bijie_landslide/positive", set()),
        ("bijie_landslide/negative", set()),
        ("ecssd/images", set()),
        ("weizmann_horses/images", {("horse071", "horse219"), ("horse175", "horse205"),
                                    ("horse180", "horse203"), ("horse240", "horse274")}),
    ],
)  # fmt: skip
def test_in_real_photographs_only_true_copies_are_found(folder, found):
    if "FEWMASK_DATA" not in os.environ:
        pytest.skip("FEWMASK_DATA is not set")
    paths = sorted((Path(os.environ["FEWMASK_DATA"]) / folder).iterdir())
    first = find_copies([fingerprint(read_image(path)) for path in paths])
    pairs = {(paths[a].stem, paths[b].stem) for b, a in enumerate(first) if a != b}
    assert pairs <= found
