import math

import numpy as np
import pytest
import torch

from fewmask.data.mixing import (
    class_mix_region,
    paste,
    rare_class_shares,
    rare_image_shares,
)
from fewmask.errors import DataError


def draw(seed=0):
    return np.random.default_rng(seed)


class TestClassMix:
    target = torch.tensor([[0, 0, 1], [2, 3, 255], [4, 4, 255]])

    def test_whole_classes_are_pasted_half_of_them_and_never_the_ignored(self):
        seen = set()
        for seed in range(40):
            region = class_mix_region(self.target, draw(seed))
            classes = set(self.target[region].tolist())
            assert len(classes) == 3  # of five, rounded up
            assert 255 not in classes
            assert all(region[self.target == k].all() for k in classes)
            seen |= classes
        assert seen == {0, 1, 2, 3, 4}

    def test_a_mask_without_classes_gives_nothing(self):
        assert not class_mix_region(torch.full((2, 2), 255), draw()).any()

    def test_a_single_class_is_pasted_whole(self):
        assert class_mix_region(torch.zeros(2, 2, dtype=torch.long), draw()).all()

    def test_paste_takes_image_and_mask_from_the_same_places(self):
        region = class_mix_region(self.target, draw())
        upper, lower = torch.ones(3, 3, 3), torch.zeros(3, 3, 3)
        image = paste(region, upper, lower)
        mask = paste(region, self.target, torch.full_like(self.target, 9))
        assert torch.equal(image[0] == 1, region)
        assert torch.equal(mask == 9, ~region)
        assert torch.equal(mask[region], self.target[region])


class TestRareClasses:
    def test_shares_are_the_published_softmax(self):
        pixels = np.array([700, 200, 100])
        weights = [math.exp((1 - f) / 0.5) for f in (0.7, 0.2, 0.1)]
        expected = [w / sum(weights) for w in weights]
        assert rare_class_shares(pixels, 0.5) == pytest.approx(expected)

    def test_a_low_temperature_asks_for_the_rarest_and_does_not_overflow(self):
        shares = rare_class_shares(np.array([10**9, 10**6, 0]), 1e-4)
        assert shares == pytest.approx([0, 1, 0])

    def test_no_pixel_at_all_is_refused(self):
        with pytest.raises(DataError, match="MASKS-EMPTY"):
            rare_class_shares(np.zeros(3))

    def test_images_are_drawn_as_if_the_class_came_first(self):
        rng = draw()
        pixels = rng.integers(0, 50, (20, 4)) * (rng.random((20, 4)) < 0.4)
        pixels[0, 3] = 2  # too few
        shares = rare_image_shares(pixels, temperature=0.5, least_px=5)
        by_class = rare_class_shares(pixels.sum(0), 0.5)
        counts = np.zeros(20)
        for _ in range(20_000):  # draw a class, then one of its images
            own = np.flatnonzero(pixels[:, rng.choice(4, p=by_class)] >= 5)
            counts[rng.choice(own)] += 1
        assert shares.sum() == pytest.approx(1)
        assert shares == pytest.approx(counts / 20_000, abs=0.012)
        assert (shares[(pixels < 5).all(1)] == 0).all()
