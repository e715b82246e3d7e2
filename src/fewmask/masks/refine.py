"""Draw the outline of a coarse score along the edges and colours of its image.

All methods but ``none`` read two label-free thresholds: pixels above ``high`` are taken as object,
pixels up to ``low`` as background, those between are decided by the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import random_walker, slic

from fewmask.errors import DataError, UsageError
from fewmask.masks.colour_model import ColourModel, colour_cut
from fewmask.masks.fuse import unit_rgb
from fewmask.masks.pseudo_labels import check_band
from fewmask.masks.threshold import check_score

METHODS = ("none", "colour_model", "random_walker", "superpixel_vote", "pixel_adaptive")

_SLOPE = 4.0  # probability(low), probability(high) = 0.018, 0.982


def refine(
    image: NDArray[np.uint8] | NDArray[np.floating],
    score: NDArray[np.floating],
    *,
    method: str,
    low: float,
    high: float,
    superpixels: int = 250,
    beta: float = 130.0,
    iterations: int = 10,
    colour_model: ColourModel | None = None,
) -> NDArray[np.float32]:
    """The refined score of one image, or of each of a stack.

    * ``none``: the score as it is.
    * ``colour_model``: a mask (0 or 1) that follows the object's colours and the image's edges;
      the prior of a pixel is a logistic curve with 0.5 half-way between ``low`` and ``high``.
    * ``random_walker``: the probability that a walk over similar pixels reaches a pixel above
      ``high`` before one up to ``low`` (Grady 2006).
    * ``superpixel_vote``: the mean score of the pixel's superpixel.
    * ``pixel_adaptive``: repeated averaging over similar pixels (Araslanov and Roth 2020).

    Args:
        image: (H, W, 3) or (N, H, W, 3) RGB, uint8 in 0..255 or float in [0, 1].
        score: (H, W) or (N, H, W) float in [0, 1].
        method: One of :data:`METHODS`.
        low: Score up to which a pixel is taken as background.
        high: Score above which it is taken as object.
        superpixels: Number wanted by ``superpixel_vote``.
        beta: Edge penalty of ``random_walker``; larger keeps walks within a colour.
        iterations: Rounds of ``pixel_adaptive``.
        colour_model: Settings of ``colour_model``.

    Returns:
        float32 in [0, 1] of ``score``'s shape; equal inputs give equal results. Where
        ``random_walker`` has no pixel above ``high``, or none up to ``low``, the result is the
        plain cut ``score > high``: without both there is nothing to spread.

    Raises:
        UsageError: Unknown method, or ``low`` above ``high``.
        DataError: Image and score differ in size, or have values out of range.
    """
    score, rgb = check_score(score), unit_rgb(image)
    check_band(low, high)
    if method not in METHODS:
        raise UsageError.of(
            "REFINE-METHOD",
            where="method",
            found=repr(method),
            expected=f"one of {', '.join(METHODS)}",
            fix="choose one of these methods",
        )
    if rgb.shape[:-1] != score.shape:
        raise DataError.of(
            "REFINE-SHAPE",
            where="image and score",
            found=f"shapes {rgb.shape} and {score.shape}",
            expected="(height, width, 3) and (height, width), or n of each",
            fix="resize the score to the image first",
        )
    shape = score.shape
    if score.ndim == 2:
        rgb, score = rgb[None], score[None]

    def refine_one(x: NDArray[np.float32], s: NDArray[np.float32]) -> NDArray[np.float32]:
        if method == "colour_model":
            return colour_cut(x, seed_probability(s, low, high), colour_model).astype(np.float32)
        if method == "random_walker":
            return walk(x, s, low=low, high=high, beta=beta)
        if method == "superpixel_vote":
            return superpixel_mean(x, s, superpixels)
        if method == "pixel_adaptive":
            return pixel_adaptive(x, s, iterations)
        return s

    refined = np.stack([refine_one(x, s) for x, s in zip(rgb, score.clip(0, 1), strict=True)])
    return refined.reshape(shape)


def seed_probability(score: NDArray[np.floating], low: float, high: float) -> NDArray[np.float32]:
    """Logistic curve through 0.018 at ``low``, 0.5 half-way and 0.982 at ``high``.

    >>> seed_probability(np.array([0.55, 0.8, 1.05]), 0.55, 1.05).round(3).tolist()
    [0.017999999225139618, 0.5, 0.9819999933242798]
    """
    half = max((high - low) / 2, 1e-6)
    exponent = np.clip((score - (low + high) / 2) / half * _SLOPE, -30, 30)
    return (1 / (1 + np.exp(-exponent))).astype(np.float32)


def walk(
    rgb: NDArray[np.float32], score: NDArray[np.float32], *, low: float, high: float, beta: float
) -> NDArray[np.float32]:
    """Random-walker probability of the foreground for one image; see :func:`refine`."""
    seeds = np.where(score > high, 2, np.where(score <= low, 1, 0))
    if not ((seeds == 2).any() and (seeds == 1).any()) or (seeds > 0).all():
        return (score > high).astype(np.float32)
    walks = random_walker(
        rgb, seeds, beta=beta, mode="cg_j", tol=1e-5, channel_axis=-1, return_full_prob=True
    )
    return walks[1].astype(np.float32).clip(0, 1)


def superpixel_mean(
    rgb: NDArray[np.float32], score: NDArray[np.float32], superpixels: int
) -> NDArray[np.float32]:
    """Each pixel's score replaced by the mean over its SLIC superpixel, for one image."""
    label = slic(rgb, n_segments=superpixels, compactness=10, start_label=0, channel_axis=-1)
    sums = np.bincount(label.ravel(), score.ravel().astype(np.float64))
    sizes = np.bincount(label.ravel())
    return (sums / np.maximum(sizes, 1)).astype(np.float32)[label].clip(0, 1)


def pixel_adaptive(
    rgb: NDArray[np.float32],
    score: NDArray[np.float32],
    iterations: int,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
) -> NDArray[np.float32]:
    """Average each score over its 8 neighbours at several distances, similar colours first.

    The weight of neighbour q of p is softmax_q(−mean over channels of |I_p − I_q| / (0.1 σ_p)),
    with σ_p the deviation of the channel over the neighbours.

    Source: Araslanov and Roth 2020, "Single-stage semantic segmentation from image labels",
    equations 5 to 7.
    """
    reach = max(dilations)
    offsets = [
        (dy * d, dx * d)
        for d in dilations
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    ]
    height, width = score.shape

    def neighbours(a: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        frame = [(reach, reach), (reach, reach)] + [(0, 0)] * (a.ndim - 2)
        padded = np.pad(a, frame, mode="edge")
        return [
            padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            for dy, dx in offsets
        ]

    around = np.stack(neighbours(rgb))  # (K, H, W, 3)
    spread = around.std(axis=0) + 1e-6
    likeness = -(np.abs(around - rgb) / (0.1 * spread)).mean(axis=-1)  # (K, H, W)
    likeness -= likeness.max(axis=0)
    weight = np.exp(likeness)
    weight /= weight.sum(axis=0)
    for _ in range(iterations):
        score = np.einsum("khw,khw->hw", weight, np.stack(neighbours(score)))
    return score.astype(np.float32).clip(0, 1)
