import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewmask.masks.confidence import (
    BINS,
    SUREST,
    class_thresholds,
    confident_mask,
    place_prior,
)


def images(seed, count=3, classes=4):
    rng = np.random.default_rng(seed)
    sharpness = rng.uniform(0.5, 6, (classes, 1, 1))  # classes of different certainty
    for _ in range(count):
        e = np.exp(rng.normal(size=(classes, 6, 7)) * sharpness)
        yield e / e.sum(0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), keep=st.floats(0.05, 1.0))
def test_each_class_keeps_its_share_of_surest_pixels(seed, keep):
    probs = list(images(seed))
    thresholds = class_thresholds(iter(probs), 4, keep)
    masks = [confident_mask(p, thresholds) for p in probs]
    labels = np.concatenate([p.argmax(0).ravel() for p in probs])
    kept = np.concatenate([m.ravel() for m in masks])
    sure = np.concatenate([p.max(0).ravel() for p in probs])
    for k in range(4):
        own = labels == k
        if not own.any():
            assert thresholds[k] == 0
            continue
        wanted = int(np.ceil(keep * own.sum()))
        lowest = np.sort(sure[own])[::-1][wanted - 1]  # by sorting, the exact threshold
        step = (1 - thresholds[k]) * (1 - SUREST ** (1 / BINS))  # of the doubt
        assert -1e-9 <= lowest - thresholds[k] <= step + 1e-9
        assert (kept[own] == k).sum() >= wanted  # more only for pixels of the same step
        assert set(kept[own].tolist()) <= {k, 255}


def test_a_class_of_which_nothing_is_sure_still_keeps_its_best():
    probs = np.array([[[0.99, 0.55, 0.45]], [[0.01, 0.45, 0.55]]])
    thresholds = class_thresholds([probs], 2, 0.5)
    assert confident_mask(probs, thresholds).tolist() == [[0, 255, 1]]


def test_keep_all():
    probs = next(images(0))
    mask = confident_mask(probs, class_thresholds([probs], 4, 1.0))
    assert np.array_equal(mask, probs.argmax(0))
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_a_class_that_is_nearly_certain_everywhere_only_the_share_is_kept(dtype):
    doubt = 10 ** -np.random.default_rng(0).uniform(1, 6, (40, 50))
    probs = np.stack([1 - doubt, doubt]).astype(dtype)
    for keep in (0.1, 0.5, 0.9):
        mask = confident_mask(probs, class_thresholds([probs], 2, keep))
        assert (mask == 0).mean() == pytest.approx(keep, abs=0.01)


def test_full_certainty_is_kept():
    probs = np.zeros((2, 2, 2))
    probs[0] = 1.0
    assert (confident_mask(probs, class_thresholds([probs], 2, 0.1)) == 0).all()


class TestPlacePrior:
    def test_a_class_is_probable_where_the_masks_have_it(self):
        masks = np.zeros((4, 30, 40), np.uint8)
        masks[:, 15:] = 1
        prior = place_prior(masks, 3)
        assert prior.shape == (3, 30, 40)
        np.testing.assert_allclose(prior.sum(0), 1, rtol=1e-5)
        assert prior[0, :10].min() > 0.95
        assert prior[1, 20:].min() > 0.95
        assert 0 < prior[2].max() < 0.01
        assert abs(prior[0, 14] - prior[1, 15]).max() < 1e-5  # smooth at the border, and even

    def test_left_and_right_are_alike_and_ignored_pixels_count_nothing(self):
        masks = np.full((1, 30, 40), 255, np.uint8)
        masks[:, :, :10] = 1
        prior = place_prior(masks, 2)
        np.testing.assert_allclose(prior, prior[:, :, ::-1], rtol=1e-5)
        assert prior[1, 15, 2] > 0.9 > 0.6 > prior[1, 15, 20] == pytest.approx(0.5, abs=0.02)
