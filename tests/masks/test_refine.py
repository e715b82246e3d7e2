import itertools

import numpy as np
import pytest

from fewmask.errors import DataError, UsageError
from fewmask.masks.colour_model import ColourModel, _minimise, colour_cut
from fewmask.masks.refine import METHODS, pixel_adaptive, refine, walk_classes

REFINING = [name for name in METHODS if name != "none"]


def scene(seed=0, size=48):
    """A brown square on noisy green, its true mask, and a blurred, displaced score of it."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), bool)
    mask[14:34, 12:32] = True
    image = np.where(mask[..., None], (150, 110, 70), (60, 120, 60)) + rng.normal(
        0, 8, (size, size, 3)
    )
    y, x = np.mgrid[:size, :size]
    score = np.exp(-((y - 21) ** 2 + (x - 24) ** 2) / (2 * 11**2)).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8), mask, score


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("method", REFINING)
def test_refinement_moves_a_blurred_score_towards_the_object(method):
    image, mask, score = scene()
    refined = refine(image, score, method=method, cut=0.5, superpixels=10)
    assert refined.shape == score.shape
    assert refined.dtype == bool
    assert iou(refined, mask) > iou(score > 0.5, mask) + 0.05


def test_the_colour_model_fills_the_square_where_its_prior_is_weak():
    image, mask, score = scene()
    sharp = ColourModel(smoothing_px=0)
    refined = refine(image, score, method="colour_model", cut=0.5, colour_model=sharp)
    assert iou(score > 0.5, mask) < 0.7
    assert iou(refined, mask) > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_the_same_input_gives_the_same_bits(method):
    image, _, score = scene(1)
    first, second = (refine(image, score, method=method, cut=0.5) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("method", METHODS)
def test_a_stack_is_refined_image_by_image(method):
    image, _, score = scene(2)
    images, scores = np.stack([image, image[::-1]]), np.stack([score, score.T])
    together = refine(images, scores, method=method, cut=0.5)
    for one, x, s in zip(together, images, scores, strict=True):
        assert np.array_equal(one, refine(x, s, method=method, cut=0.5))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_constant_score_gives_all_or_nothing(method, level):
    image = np.full((20, 24, 3), 90, np.uint8)
    refined = refine(image, np.full((20, 24), level), method=method, cut=0.5)
    assert (refined == (level > 0.5)).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_evidence_gives_no_object(method):
    image, _, _ = scene()
    assert not refine(image, np.zeros((48, 48)), method=method, cut=0.5).any()


def test_none_is_the_plain_cut():
    image, _, score = scene()
    assert np.array_equal(refine(image, score, method="none", cut=0.3), score > 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_masks_shrink_or_stay_as_the_cut_rises_far(method):
    image, _, score = scene()
    loose, tight = (refine(image, score, method=method, cut=cut).sum() for cut in (0.3, 0.9))
    assert tight < loose


@pytest.mark.filterwarnings("ignore:The probability range")  # random walks on white noise
@pytest.mark.parametrize("method", METHODS)
def test_odd_and_tiny_images_work(method):
    for height, width in ((1, 1), (3, 50), (225, 17)):
        rng = np.random.default_rng(height)
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        score = rng.random((height, width)).astype(np.float32)
        assert refine(image, score, method=method, cut=0.5).shape == (height, width)


def test_the_relaxed_cut_is_a_minimal_cut_of_all_masks_of_a_small_grid():
    rng = np.random.default_rng(5)
    for _ in range(5):
        gain = rng.normal(0, 1, (3, 4)).astype(np.float32)
        right, down = rng.random((3, 3)).astype(np.float32), rng.random((2, 4)).astype(np.float32)

        def energy(x, gain=gain, right=right, down=down):
            outline = (right * np.abs(np.diff(x, axis=1))).sum()
            return outline + (down * np.abs(np.diff(x, axis=0))).sum() - (gain * x).sum()

        every = (np.reshape(bits, (3, 4)) for bits in itertools.product((0.0, 1.0), repeat=12))
        lowest = min(energy(x) for x in every)
        start = np.full((3, 4), 0.5, np.float32)
        found = (_minimise(gain, right, down, start, steps=2000) > 0.5).astype(float)
        assert energy(found) == pytest.approx(lowest, abs=1e-3)


def test_more_smoothness_gives_a_shorter_outline():
    rng = np.random.default_rng(0)
    rgb = rng.random((40, 40, 3)).astype(np.float32)
    score = rng.random((40, 40)).astype(np.float32)

    def outline(smoothness):
        mask = colour_cut(rgb, score, 0.5, ColourModel(smoothness=smoothness)).astype(int)
        return np.abs(np.diff(mask, axis=0)).sum() + np.abs(np.diff(mask, axis=1)).sum()

    assert outline(20.0) < outline(0.1) / 2


def test_pixel_adaptive_averages_and_so_never_leaves_the_range():
    image, _, score = scene()
    rgb = image.astype(np.float32) / 255
    refined = pixel_adaptive(rgb, score, iterations=3)
    assert not np.allclose(refined, score)
    assert score.min() - 1e-6 <= refined.min() <= refined.max() <= score.max() + 1e-6


def test_wrong_inputs_are_refused_by_name():
    image, _, score = scene()
    with pytest.raises(UsageError, match="REFINE-METHOD"):
        refine(image, score, method="crf", cut=0.5)
    with pytest.raises(UsageError, match="REFINE-CUT"):
        refine(image, score, method="none", cut=1.5)
    with pytest.raises(DataError, match="REFINE-SHAPE"):
        refine(image, score[:-1], method="none", cut=0.5)


class TestWalkClasses:
    def halves(self, low=10, high=14):
        image = np.full((12, 20, 3), low, np.uint8)
        image[:, 10:] = high
        return image

    @pytest.mark.parametrize(("low", "high"), [(10, 12), (50, 90), (0, 255)])
    def test_each_pixel_gets_the_class_that_shares_its_colour_however_faint_it_is(self, low, high):
        """3 has one pixel in the corner of its half, 7 a whole edge of its own: it stays there."""
        seeds = np.full((12, 20), 255, np.uint8)
        seeds[0, 0], seeds[:, 10:12] = 3, 7
        found = walk_classes(self.halves(low, high), seeds)
        assert (found[:, :10] == 3).all()
        assert (found[:, 10:] == 7).all()

    def test_an_image_of_one_colour_says_nothing(self):
        seeds = np.full((12, 20), 255, np.uint8)
        seeds[0], seeds[-1] = 1, 2
        assert np.array_equal(walk_classes(self.halves(9, 9), seeds), seeds)

    def test_seeds_stay_and_are_not_changed_in_place(self):
        seeds = np.full((12, 20), 255, np.uint8)
        seeds[:2, :2], seeds[-2:, -2:], seeds[5, 5] = 3, 7, 7
        before = seeds.copy()
        found = walk_classes(self.halves(), seeds)
        assert found[5, 5] == 7
        assert np.array_equal(seeds, before)

    def test_one_class_is_everywhere_and_none_is_nowhere(self):
        seeds = np.full((12, 20), 255, np.uint8)
        assert (walk_classes(self.halves(), seeds) == 255).all()
        seeds[0, 0] = 4
        assert (walk_classes(self.halves(), seeds) == 4).all()
