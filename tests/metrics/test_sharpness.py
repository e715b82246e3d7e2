"""Sharpness on images made by hand: what it ranks, and what a map that follows it looks like."""

import cv2
import numpy as np
import pytest

from fewmask.metrics.sharpness import (
    auc,
    local_sharpness,
    mean_rank_correlation,
    rank_correlation,
    sharpness,
)


def texture(seed=0, size=64):
    grey = np.random.default_rng(seed).integers(0, 256, (size, size, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=2)


def half_blurred(seed=0):
    """Sharp on the left, blurred on the right."""
    image = texture(seed)
    image[:, 32:] = cv2.GaussianBlur(texture(seed + 100), (0, 0), 3)[:, 32:]
    return image


def test_blur_lowers_sharpness_and_one_grey_has_none():
    image = texture()
    values = [sharpness(image), *(sharpness(cv2.GaussianBlur(image, (0, 0), s)) for s in (1, 3))]
    assert values == sorted(values, reverse=True)
    assert sharpness(np.full((8, 8, 3), 90, np.uint8)) == 0


def test_variance_of_the_laplacian_by_hand():
    image = np.zeros((5, 5, 3), np.uint8)
    image[2, 2] = 10  # the Laplacian is -40 here and 10 at four neighbours: mean 0
    assert sharpness(image) == pytest.approx((40**2 + 4 * 10**2) / 25)


def test_local_sharpness_is_high_where_the_image_is_sharp():
    found = local_sharpness(half_blurred())
    assert found.shape == (64, 64)
    assert found[:, :26].min() > found[:, 38:].max()


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        ([5, 5, 5, 5], [1, 0, 1, 0], 0.5),
        ([1, 2, 3], [0, 1, 0], 0.5),
        ([1, 2], [1, 1], None),
        ([], [], None),
    ],
)
def test_auc_by_hand(scores, positive, expected):
    assert auc(scores, positive) == expected


def test_auc_shows_a_collection_whose_positives_are_blurrier():
    sharp = [texture(i) for i in range(6)]
    blurred = [cv2.GaussianBlur(texture(i), (0, 0), 2) for i in range(6, 12)]
    values = [sharpness(image) for image in sharp + blurred]
    assert auc(values, [False] * 6 + [True] * 6) == 0


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert rank_correlation([1, 2, 3], [1, 10, 100]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [5, 5, 5]) is None


def test_a_cam_that_is_a_sharpness_map_is_found_out():
    images = [half_blurred(i) for i in range(3)]
    follows = np.repeat(np.linspace(1, 0, 64)[None], 64, axis=0)
    across = follows.T
    nothing = np.zeros((64, 64))
    high, counted = mean_rank_correlation([follows, follows, nothing], images)
    assert counted == 2  # an image without a map says nothing
    assert high > 0.7
    low, _ = mean_rank_correlation([across] * 3, images)
    assert abs(low) < 0.3
    assert mean_rank_correlation([nothing], images[:1]) == (None, 0)
