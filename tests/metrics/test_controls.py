"""Controls see no label; the oracle finds the best threshold there is."""

import numpy as np
import pytest

from fewmask.errors import DataError, UsageError
from fewmask.metrics.controls import all_background, centre_prior, oracle_threshold, otsu_of_grey


def test_all_background_is_empty():
    assert all_background((3, 5)).shape == (3, 5)
    assert not all_background((3, 5)).any()


@pytest.mark.parametrize("shape", [(64, 64), (37, 90), (101, 20)])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.6, 0.95, 1.0])
def test_centre_prior_covers_the_stated_area(shape, fraction):
    mask = centre_prior(shape, fraction)
    equal_radii_px = 24  # pixels at one radius stay together
    assert 0 <= mask.sum() - round(fraction * mask.size) <= equal_radii_px


@pytest.mark.parametrize("shape", [(64, 64), (37, 90)])
def test_centre_prior_is_symmetric_and_central(shape):
    mask = centre_prior(shape)
    assert (mask == mask[::-1]).all()
    assert (mask == mask[:, ::-1]).all()
    assert mask[shape[0] // 2, shape[1] // 2]
    assert not mask[0, 0]
    height, width = mask.any(axis=1).mean(), mask.any(axis=0).mean()
    assert height == pytest.approx(2 * np.sqrt(0.25 / np.pi), abs=0.06)  # semi-axes as the image's
    assert width == pytest.approx(height, abs=0.06)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_impossible_area_is_refused(fraction):
    with pytest.raises(UsageError, match="AREA-FRACTION"):
        centre_prior((8, 8), fraction)


def test_otsu_takes_the_brighter_side():
    image = np.full((6, 8, 3), 40, np.uint8)
    image[2:4, 3:6] = 200
    expected = np.zeros((6, 8), bool)
    expected[2:4, 3:6] = True
    assert (otsu_of_grey(image) == expected).all()


def test_otsu_equals_the_exhaustive_search_for_the_largest_variance_between():
    draw = np.random.default_rng(0)
    image = np.repeat(draw.integers(0, 256, (40, 40, 1), dtype=np.uint8), 3, axis=2)
    grey = image[..., 0].astype(float)

    def between(t):
        low, high = grey[grey <= t], grey[grey > t]
        return low.size * high.size * (low.mean() - high.mean()) ** 2

    best = max(range(int(grey.min()), int(grey.max())), key=between)
    assert (otsu_of_grey(image) == (grey > best)).all()


def test_otsu_of_one_grey_is_empty():
    assert not otsu_of_grey(np.full((4, 4, 3), 130, np.uint8)).any()


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_otsu_refuses_other_images(image):
    with pytest.raises(DataError, match="IMAGE-SHAPE"):
        otsu_of_grey(image)


def test_oracle_equals_trying_each_threshold():
    draw = np.random.default_rng(0)
    for _ in range(20):
        targets = [draw.choice([0, 0, 1, 255], (9, 7)) for _ in range(3)]
        scores = [np.round(draw.random((9, 7)) * 0.6 + 0.4 * (t == 1), 2) for t in targets]
        judged = [(s[t != 255], t[t != 255] == 1) for s, t in zip(scores, targets, strict=True)]
        trials = []
        for threshold in np.arange(256) / 255.0:
            hit = sum(int(((s > threshold) & t).sum()) for s, t in judged)
            union = sum(int(((s > threshold) | t).sum()) for s, t in judged)
            trials.append(hit / union)
        threshold, iou = oracle_threshold(scores, targets)
        assert iou == pytest.approx(max(trials), abs=1e-12)
        assert threshold == np.argmax(trials) / 255.0


def test_oracle_by_hand():
    score, target = np.array([[0.9, 0.6, 0.4, 0.1]]), np.array([[1, 1, 0, 0]])
    threshold, iou = oracle_threshold([score], [target])
    assert iou == 1.0
    assert threshold == 102 / 255  # the lowest of those that do: 0.4 > 102/255 is false


def test_oracle_without_object_is_undefined():
    assert oracle_threshold([np.ones((2, 2))], [np.zeros((2, 2), int)]) == (1.0, None)


@pytest.mark.parametrize(
    ("score", "target", "code"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3), int), "MASK-SIZE"),
        (np.zeros((2, 2)), np.full((2, 2), 2), "MASK-VALUES"),
        (np.full((2, 2), 1.5), np.ones((2, 2), int), "SCORE-RANGE"),
        (np.full((2, 2), np.nan), np.ones((2, 2), int), "SCORE-RANGE"),
    ],
)
def test_oracle_refuses_what_does_not_fit(score, target, code):
    with pytest.raises(DataError, match=code):
        oracle_threshold([score], [target])
