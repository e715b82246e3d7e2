import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from fewmask.pipelines.factory_augmentation import (
    SYM6,
    AdaptiveProbability,
    augment,
    draw_colour,
    draw_place,
    move,
    recolour,
    scaled,
    shifted,
    turned,
)

HEIGHT, WIDTH = 24, 32


def image(count=2):
    return torch.rand(count, 3, HEIGHT, WIDTH, dtype=torch.float64) * 2 - 1


def numbers(*values):
    return torch.tensor(values, dtype=torch.float32)


class TestFilter:
    def test_is_the_symlet_with_six_vanishing_moments(self):
        h = np.array(SYM6)
        assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
        for shift in range(6):
            product = h[: 12 - 2 * shift] @ h[2 * shift :]
            assert product == pytest.approx(float(shift == 0), abs=1e-10)
        high = h[::-1] * (-1.0) ** np.arange(12)
        for moment in range(6):
            assert high @ np.arange(12.0) ** moment == pytest.approx(0, abs=1e-7)


class TestMove:
    def test_staying_changes_nothing(self):
        x = image()
        torch.testing.assert_close(
            move(x, torch.eye(3).double().repeat(2, 1, 1)), x, atol=1e-7, rtol=0
        )

    def test_whole_shifts_are_exact(self):
        x = image(1)
        got = move(x, shifted(numbers(3), numbers(-2)).double())
        torch.testing.assert_close(got[..., :-2, 3:], x[..., 2:, :-3], atol=1e-7, rtol=0)
        beyond = x[..., 2:, 1:4].flip(-1)  # mirrored at the border
        torch.testing.assert_close(got[..., :-2, :3], beyond, atol=1e-7, rtol=0)

    @pytest.mark.parametrize(
        ("matrix", "expected"),
        [
            (scaled(numbers(-1), numbers(1)), lambda x, y: (-x, y)),
            (scaled(numbers(1.5), numbers(0.8)), lambda x, y: (x / 1.5, y / 0.8)),
            (turned(numbers(math.pi / 2)), lambda x, y: (y, -x)),
            (shifted(numbers(0.5), numbers(-0.25)), lambda x, y: (x - 0.5, y + 0.25)),
        ],
        ids=["mirror", "stretch", "quarter turn, clockwise", "fractions of a pixel"],
    )
    def test_a_smooth_image_goes_where_it_should(self, matrix, expected):
        y, x = torch.meshgrid(torch.arange(24.0) - 11.5, torch.arange(32.0) - 15.5, indexing="ij")
        wave = lambda x, y: (0.3 * x + 0.2 * y).sin()[None, None]  # noqa: E731
        got, wanted = move(wave(x, y), matrix), wave(*expected(x, y))
        inner = slice(6, -6), slice(10, -10)
        torch.testing.assert_close(got[..., *inner], wanted[..., *inner], atol=0.01, rtol=0)

    def test_images_are_moved_one_by_one(self):
        x, place = image(3), draw_place(3, 1.0, HEIGHT, WIDTH).double()
        alone = torch.cat([move(x[i : i + 1], place[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(move(x, place)[..., 8:-8, 8:-8], alone[..., 8:-8, 8:-8])

    def test_far_outside_the_image_is_mirrored(self):
        rows = torch.arange(HEIGHT, dtype=torch.float64)
        x = (rows / HEIGHT)[:, None].expand(1, 1, HEIGHT, WIDTH)
        got = move(x, shifted(numbers(0), numbers(-18)).double())[0, 0, :, WIDTH // 2]
        there = (rows + 18 + 0.5) / HEIGHT  # 0 to 1 is the image, 1 to 2 its mirror image
        expected = torch.where(there < 1, there, 2 - there) - 0.5 / HEIGHT
        torch.testing.assert_close(got[:-1], expected[:-1], atol=1.1 / HEIGHT, rtol=0)

    def test_can_be_differentiated_twice(self):
        """R1 is a function of the gradient that passes through here."""
        x = image(1)[..., :7, :8].clone().requires_grad_()
        place = draw_place(1, 1.0, 7, 8).double()
        assert torch.autograd.gradgradcheck(lambda x: move(x, place).tanh(), x)


def paper_place(rng, p, height, width):
    """Figure 11 of the paper, line by line, for one image."""
    g = np.eye(3)

    def scale(x, y):
        return np.diag([x, y, 1.0])

    def rotate(a):
        return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])

    def translate(x, y):
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    if rng.random() < p:
        g = scale(1 - 2 * rng.integers(0, 2), 1) @ g
    if rng.random() < p:
        g = rotate(-math.pi / 2 * rng.integers(0, 4)) @ g
    if rng.random() < p:
        x, y = rng.uniform(-0.125, 0.125, 2)
        g = translate(np.round(x * width), np.round(y * height)) @ g
    if rng.random() < p:
        s = rng.lognormal(0, 0.2 * math.log(2))
        g = scale(s, s) @ g
    p_rot = 1 - math.sqrt(1 - p)
    if rng.random() < p_rot:
        g = rotate(-rng.uniform(-math.pi, math.pi)) @ g
    if rng.random() < p:
        s = rng.lognormal(0, 0.2 * math.log(2))
        g = scale(s, 1 / s) @ g
    if rng.random() < p_rot:
        g = rotate(-rng.uniform(-math.pi, math.pi)) @ g
    if rng.random() < p:
        x, y = rng.normal(0, 0.125, 2)
        g = translate(x * width, y * height) @ g
    return g


def paper_colour(rng, p):
    """The same for colours."""
    c, v = np.eye(4), np.array([1, 1, 1, 0]) / math.sqrt(3)
    if rng.random() < p:
        b = np.eye(4)
        b[:3, 3] = rng.normal(0, 0.2)
        c = b @ c
    if rng.random() < p:
        s = rng.lognormal(0, 0.5 * math.log(2))
        c = np.diag([s, s, s, 1]) @ c
    if rng.random() < p:
        c = (np.eye(4) - 2 * np.outer(v, v) * rng.integers(0, 2)) @ c
    if rng.random() < p:
        a, (x, y, z) = rng.uniform(-math.pi, math.pi), v[:3]
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(4)
        turn[:3, :3] = np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * cross @ cross
        c = turn @ c
    if rng.random() < p:
        s = rng.lognormal(0, math.log(2))
        grey = np.outer(v, v)
        grey[3, 3] = 1
        c = (grey + (np.eye(4) - grey) * s) @ c
    return c


def same_distribution(ours, theirs):
    assert ks_2samp(ours.round(4), theirs.round(4)).pvalue > 1e-4


class TestDraws:
    @pytest.mark.parametrize("p", [0.2, 0.7, 1.0])
    def test_places_are_distributed_as_in_the_paper(self, p):
        rng = np.random.default_rng(0)
        ours = draw_place(4000, p, HEIGHT, WIDTH).double().numpy()
        theirs = np.stack([paper_place(rng, p, HEIGHT, WIDTH) for _ in range(4000)])
        for row, column in np.ndindex(2, 3):
            same_distribution(ours[:, row, column], theirs[:, row, column])
        same_distribution(np.linalg.det(ours), np.linalg.det(theirs))

    @pytest.mark.parametrize("p", [0.2, 0.7, 1.0])
    def test_colours_are_distributed_as_in_the_paper(self, p):
        rng = np.random.default_rng(0)
        ours = draw_colour(4000, p).double().numpy()
        theirs = np.stack([paper_colour(rng, p) for _ in range(4000)])
        for row, column in np.ndindex(3, 4):
            same_distribution(ours[:, row, column], theirs[:, row, column])
        same_distribution(ours[:, 0, :3].sum(1), theirs[:, 0, :3].sum(1))
        same_distribution(np.linalg.det(ours), np.linalg.det(theirs))

    def test_grey_images_stay_grey(self):
        grey = torch.rand(5, 1, 4, 4).expand(-1, 3, -1, -1)
        changed = recolour(grey, draw_colour(5, 1.0))
        torch.testing.assert_close(changed, changed[:, :1].expand(-1, 3, -1, -1))

    def test_nothing_happens_at_p_0_and_something_to_each_image_at_p_1(self):
        x = image(6)
        assert augment(x, 0.0) is x
        changed = (augment(x, 1.0) - x).abs().amax((1, 2, 3))
        assert changed.min() > 0.1

    def test_share_of_untouched_images(self):
        """Mirror and quarter turns are drawn half and a quarter of the time as nothing."""
        place, colour = draw_place(20000, 0.1, HEIGHT, WIDTH), draw_colour(20000, 0.1)
        stays = (place - torch.eye(3)).abs().amax((1, 2)) < 1e-6
        whole = 4 / WIDTH * 4 / HEIGHT  # round(0.125 · u · side) = 0 for |u| < 4 / side
        expected = (1 - 0.05) * (1 - 0.075) * (1 - 0.1 * (1 - whole)) * 0.9**4
        assert stays.float().mean().item() == pytest.approx(expected, abs=0.012)
        stays = (colour - torch.eye(4)).abs().amax((1, 2)) < 1e-6
        assert stays.float().mean().item() == pytest.approx(0.95 * 0.9**4, abs=0.012)


class TestProbability:
    def test_rises_while_the_judge_is_too_sure_and_falls_otherwise(self):
        ada = AdaptiveProbability(target=0.6, kimg=1, interval=2)
        for _ in range(4):
            ada.observe(torch.full((10,), 3.0))
        assert ada.p == pytest.approx(0.04)  # 40 images of 1,000
        assert ada.overfitting == 1
        ada.observe(numbers(*[1.0] * 7, *[-1.0] * 3))
        assert ada.p == pytest.approx(0.04)  # only every second batch
        ada.observe(numbers(*[0.1] * 7, *[-9.0] * 3))
        assert ada.overfitting == pytest.approx(0.4)
        assert ada.p == pytest.approx(0.02)

    def test_stays_where_the_target_is_met(self):
        ada = AdaptiveProbability(target=0.5, interval=1)
        ada.observe(numbers(1, 1, 1, -1))
        assert ada.p == 0

    def test_stays_within_0_and_1(self):
        ada = AdaptiveProbability(kimg=0.001, interval=1)
        ada.observe(-torch.ones(10))
        assert ada.p == 0
        ada.observe(torch.ones(10))
        assert ada.p == 1

    def test_goes_on_from_a_state(self):
        one, other = AdaptiveProbability(interval=3), AdaptiveProbability(interval=3)
        logits = torch.randn(12, 8) + 2
        for batch in logits[:5]:
            one.observe(batch)
        other.load_state_dict(one.state_dict())
        for batch in logits[5:]:
            one.observe(batch)
            other.observe(batch)
        assert one.state_dict() == other.state_dict()
        assert one.p > 0
