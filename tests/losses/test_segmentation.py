"""Losses against naive loops in float64 that are written from the formulas alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewmask.errors import UsageError
from fewmask.losses.segmentation import (
    combined_loss,
    cross_entropy,
    dice_loss,
    focal_loss,
    generalised_cross_entropy,
)

LOSSES = [cross_entropy, dice_loss, generalised_cross_entropy, focal_loss, combined_loss]


def batch(seed, n=2, c=3, h=3, w=4, ignored=0.3):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(n, c, h, w)) * 3)
    target = torch.tensor(rng.integers(0, c, (n, h, w)))
    target[torch.tensor(rng.random((n, h, w)) < ignored)] = 255
    return logits, target


def valid_pixels(logits, target):
    """(probabilities, class, position) of each pixel that counts."""
    n, _, h, w = logits.shape
    for i, y, x in np.ndindex(n, h, w):
        if target[i, y, x] != 255:
            e = [math.exp(v) for v in logits[i, :, y, x].tolist()]
            yield [v / sum(e) for v in e], int(target[i, y, x]), (i, y, x)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 4))
def test_cross_entropy_equals_the_loop(seed, c):
    logits, target = batch(seed, c=c)
    rng = np.random.default_rng(seed)
    weight, pixel_weight = torch.tensor(rng.random(c)), torch.tensor(rng.random(target.shape))
    pixels = list(valid_pixels(logits, target))
    plain = sum(-math.log(p[t]) for p, t, _ in pixels) / len(pixels)
    weighted = sum(
        -math.log(p[t]) * weight[t].item() * pixel_weight[at].item() for p, t, at in pixels
    ) / len(pixels)
    assert cross_entropy(logits, target).item() == pytest.approx(plain, rel=1e-12)
    found = cross_entropy(logits, target, weight=weight, pixel_weight=pixel_weight)
    assert found.item() == pytest.approx(weighted, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 4))
def test_dice_equals_the_loop(seed, c):
    logits, target = batch(seed, c=c, h=2, w=3)
    pixels = list(valid_pixels(logits, target))
    losses = []
    for k in range(1, c):
        truth = sum(t == k for _, t, _ in pixels)
        if truth:
            overlap = sum(p[k] for p, t, _ in pixels if t == k)
            losses.append(1 - 2 * overlap / (sum(p[k] for p, _, _ in pixels) + truth))
    expected = sum(losses) / len(losses) if losses else 0.0
    assert dice_loss(logits, target).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), q=st.floats(0.05, 1.0))
def test_generalised_cross_entropy_equals_the_loop(seed, q):
    logits, target = batch(seed)
    pixels = list(valid_pixels(logits, target))
    expected = sum((1 - p[t] ** q) / q for p, t, _ in pixels) / len(pixels)
    found = generalised_cross_entropy(logits, target, q=q).item()
    assert found == pytest.approx(expected, rel=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.sampled_from([0.0, 0.5, 2.0, 5.0]))
def test_focal_loss_equals_the_loop(seed, gamma):
    logits, target = batch(seed)
    alpha = torch.tensor(np.random.default_rng(seed).random(3))
    pixels = list(valid_pixels(logits, target))
    terms = [-((1 - p[t]) ** gamma) * math.log(p[t]) for p, t, _ in pixels]
    weighted = [alpha[t].item() * term for term, (_, t, _) in zip(terms, pixels, strict=True)]
    found = focal_loss(logits, target, gamma).item()
    assert found == pytest.approx(sum(terms) / len(pixels), rel=1e-9, abs=1e-14)
    found = focal_loss(logits, target, gamma, alpha).item()
    assert found == pytest.approx(sum(weighted) / len(pixels), rel=1e-9, abs=1e-14)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), balance=st.floats(0, 1))
def test_combined_loss_is_the_weighted_sum(seed, balance):
    logits, target = batch(seed)
    pixels = list(valid_pixels(logits, target))
    expected = sum(
        balance * -math.log(p[t]) + (1 - balance) * (1 - p[t]) ** 2 * -math.log(p[t])
        for p, t, _ in pixels
    ) / len(pixels)
    assert combined_loss(logits, target, balance).item() == pytest.approx(expected, rel=1e-9)


def test_focal_and_combined_loss_are_as_published_unless_asked_otherwise():
    """γ = 2 and a = 0.5, at p = 1/4: 9/16 log 4, and the mean of that and log 4."""
    logits = torch.tensor([3.0, 1.0], dtype=torch.float64).log().view(1, 2, 1, 1)
    target = torch.tensor([[[1]]])
    assert focal_loss(logits, target).item() == pytest.approx(9 / 16 * math.log(4))
    assert combined_loss(logits, target).item() == pytest.approx(25 / 32 * math.log(4))


def test_focal_loss_of_a_sure_pixel_has_finite_gradients():
    logits = torch.tensor([[40.0, -40.0]]).view(1, 2, 1, 1).requires_grad_()
    focal_loss(logits, torch.tensor([[[0]]]), 0.5).backward()
    assert logits.grad.isfinite().all()


class TestByHand:
    logits = torch.log(torch.tensor([[0.75, 0.5], [0.25, 0.5]])).view(1, 2, 1, 2)
    target = torch.tensor([[[1, 0]]])

    def test_cross_entropy(self):
        assert cross_entropy(self.logits, self.target).item() == pytest.approx(
            (math.log(4) + math.log(2)) / 2
        )

    def test_dice(self):
        # class 1: p = .25, .5 and t = 1, 0
        assert dice_loss(self.logits, self.target).item() == pytest.approx(1 - 0.5 / 1.75)

    def test_generalised_cross_entropy(self):
        # q = 1: mean of (1 - .25) and (1 - .5)
        assert generalised_cross_entropy(self.logits, self.target, q=1).item() == pytest.approx(
            0.625
        )

    def test_pixel_weights_do_not_enter_the_denominator(self):
        half = torch.full((1, 1, 2), 0.5)
        full = cross_entropy(self.logits, self.target)
        assert cross_entropy(self.logits, self.target, pixel_weight=half) == full / 2


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_at_ignored_pixels_is_exactly_zero(loss):
    logits, target = batch(0)
    logits.requires_grad_()
    loss(logits, target).backward()
    ignored = (target == 255).unsqueeze(1).expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert logits.grad[~ignored].abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_all_ignored_is_zero_with_zero_gradient(loss):
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    value = loss(logits, torch.full((1, 2, 2), 255))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(loss):
    logits, target = batch(3, n=1, h=2, w=2)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
def test_certain_logits_stay_finite(loss):
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).requires_grad_()
    for truth in (0, 1):
        value = loss(logits, torch.full((1, 1, 1), truth))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_perfect_prediction_costs_nothing(loss):
    target = torch.tensor([[[0, 1], [2, 255]]])
    logits = 60.0 * torch.nn.functional.one_hot(target % 255, 3).permute(0, 3, 1, 2).double()
    assert loss(logits, target).item() == pytest.approx(0, abs=1e-12)


def test_dice_leaves_absent_classes_out():
    """Two foreground classes, only the first in the truth: the second must not dilute it."""
    logits = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    # class 1: p = 1/3 twice, t = 1, 0
    expected = 1 - 2 * (1 / 3) / (2 / 3 + 1)
    assert dice_loss(logits, torch.tensor([[[1, 0]]])).item() == pytest.approx(expected)


def test_dice_counts_class_0_where_it_is_no_background():
    """p is 1/2 everywhere; class 0 has two pixels, class 1 one."""
    logits = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    target = torch.tensor([[[0, 0, 1]]])
    first, second = 2 * 1.0 / (1.5 + 2), 2 * 0.5 / (1.5 + 1)
    found = dice_loss(logits, target, has_background=False)
    assert found.item() == pytest.approx(1 - (first + second) / 2)
    assert dice_loss(logits, target).item() == pytest.approx(1 - second)


def test_another_ignore_index():
    logits, target = batch(1)
    moved = target.clone()
    moved[target == 255] = 7
    for loss in LOSSES:
        assert loss(logits, moved, ignore_index=7) == loss(logits, target)


def test_generalised_cross_entropy_tends_to_cross_entropy():
    logits, target = batch(2)
    near = generalised_cross_entropy(logits, target, q=1e-6)
    assert near.item() == pytest.approx(cross_entropy(logits, target).item(), rel=1e-4)


def test_a_disbelieved_target_teaches_less_than_with_cross_entropy():
    """The gradient's ratio is p_target ** q, here .01 ** .7."""
    logits = torch.tensor([0.99, 0.01]).log().view(1, 2, 1, 1).requires_grad_()
    target = torch.ones(1, 1, 1, dtype=torch.int64)
    (ours,) = torch.autograd.grad(generalised_cross_entropy(logits, target), logits)
    (plain,) = torch.autograd.grad(cross_entropy(logits, target), logits)
    assert torch.allclose(ours / plain, torch.full_like(ours, 0.01**0.7))


@pytest.mark.parametrize("q", [0.0, -1.0, 1.1])
def test_q_out_of_range(q):
    with pytest.raises(UsageError, match="GCE-Q"):
        generalised_cross_entropy(*batch(0), q=q)
