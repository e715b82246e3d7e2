"""Segmentation losses on logits (N, C, H, W) float and targets (N, H, W) int64.

Every mean is over the *valid* pixels, those whose target is not ``ignore_index``. A batch without
valid pixels has loss 0, and the gradient at an ignored pixel is exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import UsageError


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = IGNORE_INDEX,
    weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
) -> Tensor:
    """Σ w · −log p_target / number of valid pixels.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64, 0 … C − 1 or ``ignore_index``.
        ignore_index: Target of the pixels that do not count.
        weight: (C,) float, factor per class.
        pixel_weight: (N, H, W) float, factor per pixel, for example a confidence.

    Differs: torch divides by the sum of the weights, so that a batch of doubtful pixels would
        teach as much as one of sure pixels; here weights never enter the denominator.

    >>> import torch
    >>> logits = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1)
    >>> round(cross_entropy(logits, torch.tensor([[[1]]])).item(), 4)
    0.6931
    """
    loss = functional.cross_entropy(
        logits, target, weight=weight, ignore_index=ignore_index, reduction="none"
    )  # (N, H, W), 0 where ignored
    if pixel_weight is not None:
        loss = loss * pixel_weight
    return loss.sum() / _valid_pixels(target, ignore_index)


def dice_loss(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = IGNORE_INDEX,
    has_background: bool = True,
) -> Tensor:
    """1 − mean over classes of 2 Σ p·t / (Σ p + Σ t).

    p is the softmax, t the target as 0 or 1; sums are over the batch's valid pixels. Classes
    that the batch's targets do not hold are left out of the mean: their Dice is 0 whatever the
    logits, and cross-entropy teaches them. Without any class the loss is 0.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64, 0 … C − 1 or ``ignore_index``.
        ignore_index: Target of the pixels that do not count.
        has_background: Class 0 is what belongs to none of the others, and has no part in the mean.

    Source: Milletari et al. 2016 (V-Net), section 3.
    Differs: Σ p instead of Σ p², no smoothing (Σ t ≥ 1 here), one Dice per class and batch.
    """
    valid = target != ignore_index
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    truth = (target.unsqueeze(1) == classes) & valid.unsqueeze(1)  # (N, C, H, W)
    probs = logits.softmax(1) * valid.unsqueeze(1)
    overlap, truth_area = (probs * truth).sum((0, 2, 3)), truth.sum((0, 2, 3))  # (C,)
    dice = 2 * overlap / (probs.sum((0, 2, 3)) + truth_area).clamp(min=1)
    present = (truth_area > 0).to(dice.dtype)
    if has_background:
        dice, present = dice[1:], present[1:]
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Σ −α_t · (1 − p_t)^γ · log p_t / number of valid pixels; p_t is the target's probability.

    Pixels that are right already teach little. At γ = 0 and without α it is cross-entropy.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64, 0 … C − 1 or ``ignore_index``.
        gamma: How much easy pixels are turned down, 0 or more.
        alpha: (C,) float, factor per class; None = 1 for all. It does not enter the denominator.
        ignore_index: Target of the pixels that do not count.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5.
    Differs: Softmax instead of one sigmoid per class; divided by the pixels, not by the anchors.
    """
    log_p = -functional.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    # (N, H, W) of 1 − p; the floor keeps the gradient finite where p rounds to 1 and γ < 1
    missing = -torch.expm1(log_p).clamp(max=-1e-12)
    loss = -(missing**gamma) * log_p
    if alpha is not None:
        loss = loss * alpha[target.where(target != ignore_index, 0)]
    return loss.sum() / _valid_pixels(target, ignore_index)


def combined_loss(
    logits: Tensor,
    target: Tensor,
    balance: float = 0.5,
    gamma: float = 2.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Cross-entropy and focal loss together: a · cross-entropy + (1 − a) · focal.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64, 0 … C − 1 or ``ignore_index``.
        balance: a, in [0, 1]; 0.5 is published.
        gamma: Of the focal loss.
        ignore_index: Target of the pixels that do not count.

    Source: the combined loss of the adapt pipeline.
    """
    pixel = cross_entropy(logits, target, ignore_index)
    balanced = focal_loss(logits, target, gamma, ignore_index=ignore_index)
    return balance * pixel + (1 - balance) * balanced


def generalised_cross_entropy(
    logits: Tensor, target: Tensor, q: float = 0.7, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Σ (1 − p_target^q) / q / number of valid pixels: forgives targets that are wrong.

    Its gradient is cross-entropy's times p_target^q, so that pixels which the network firmly
    disbelieves teach little. q → 0 is cross-entropy, q = 1 is half the mean absolute error.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64, 0 … C − 1 or ``ignore_index``.
        q: Forgiveness, in (0, 1].
        ignore_index: Target of the pixels that do not count.

    Raises:
        UsageError: ``q`` is outside (0, 1].

    Source: Zhang & Sabuncu 2018, eq. 6.
    """
    if not 0 < q <= 1:
        raise UsageError.of(
            "GCE-Q", where="q", found=q, expected="a number in (0, 1]", fix="use 0.7, as published"
        )
    log_p = -functional.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    loss = -torch.expm1(q * log_p) / q  # (N, H, W), 0 where ignored, since log_p is 0 there
    return loss.sum() / _valid_pixels(target, ignore_index)


def _valid_pixels(target: Tensor, ignore_index: int) -> Tensor:
    return (target != ignore_index).sum().clamp(min=1)
