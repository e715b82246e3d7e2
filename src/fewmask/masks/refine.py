"""Draw the outline of a coarse score along the edges and colours of its image.

Two label-free numbers say how to read the score: ``cut``, at which a pixel is as likely object as
background, and ``band``, beyond which it is taken as decided; the image decides the rest.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import random_walker, slic

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import DataError, UsageError
from fewmask.masks.colour_model import ColourModel, colour_cut
from fewmask.masks.fuse import unit_rgb
from fewmask.masks.threshold import check_score

METHODS = ("none", "colour_model", "random_walker", "superpixel_vote", "pixel_adaptive")


def refine(
    image: NDArray[np.uint8] | NDArray[np.floating],
    score: NDArray[np.floating],
    *,
    method: str,
    cut: float = 0.5,
    band: float = 0.2,
    superpixels: int = 250,
    beta: float = 130.0,
    iterations: int = 10,
    colour_model: ColourModel | None = None,
) -> NDArray[np.bool_]:
    """The refined mask of one image, or of each of a stack.

    * ``none``: ``score > cut``.
    * ``colour_model``: the mask that follows the object's colours and the image's edges, see
      :mod:`fewmask.masks.colour_model`.
    * ``random_walker``: where a walk over similar pixels, started there, reaches a pixel above
      ``cut + band`` more often than one up to ``cut - band`` first (Grady 2006).
    * ``superpixel_vote``: superpixels whose mean score is above ``cut``.
    * ``pixel_adaptive``: ``cut`` of the score averaged over similar pixels (Araslanov, Roth 2020).

    Args:
        image: (H, W, 3) or (N, H, W, 3) RGB, uint8 in 0..255 or float in [0, 1].
        score: (H, W) or (N, H, W) float in [0, 1].
        method: One of :data:`METHODS`.
        cut: Score at which object and background are equally likely. 0.5 suits a probability; a
            class activation map scaled to a maximum of 1 spreads too far and wants about 0.8.
        band: Distance from ``cut`` beyond which ``random_walker`` takes a pixel as decided.
        superpixels: Number wanted by ``superpixel_vote``.
        beta: Edge penalty of ``random_walker``; larger keeps walks within a colour.
        iterations: Rounds of ``pixel_adaptive``.
        colour_model: Settings of ``colour_model``.

    Returns:
        Boolean array of ``score``'s shape; equal inputs give equal results. A score that is
        nowhere above ``cut`` gives an empty mask, with every method.

    Raises:
        UsageError: Unknown method, or ``cut`` or ``band`` out of range.
        DataError: Image and score differ in size, or have values out of range.
    """
    score, rgb = check_score(score).clip(0, 1), unit_rgb(image)
    _check_settings(method, cut, band)
    if rgb.shape[:-1] != score.shape:
        raise DataError.of(
            "REFINE-SHAPE",
            where="image and score",
            found=f"shapes {rgb.shape} and {score.shape}",
            expected="(height, width, 3) and (height, width), or n of each",
            fix="resize the score to the image first",
        )

    def refine_one(x: NDArray[np.floating], s: NDArray[np.floating]) -> NDArray[np.bool_]:
        if method == "none" or not (s > cut).any():
            return s > cut
        if method == "colour_model":
            return colour_cut(x, s, cut, colour_model)
        if method == "random_walker":
            return walk(x, s, low=cut - band, high=cut + band, beta=beta)
        if method == "superpixel_vote":
            return superpixel_mean(x, s, superpixels) > cut
        return pixel_adaptive(x, s, iterations) > cut

    if score.ndim == 2:
        return refine_one(rgb, score)
    return np.stack([refine_one(x, s) for x, s in zip(rgb, score, strict=True)])


def _check_settings(method: str, cut: float, band: float) -> None:
    if method not in METHODS:
        raise UsageError.of(
            "REFINE-METHOD",
            where="method",
            found=repr(method),
            expected=f"one of {', '.join(METHODS)}",
            fix="choose one of these methods",
        )
    if not (0 <= cut <= 1 and 0 <= band <= 1):
        raise UsageError.of(
            "REFINE-CUT",
            where="cut and band",
            found=f"cut = {cut}, band = {band}",
            expected="both in [0, 1]",
            fix="0.5 and 0.2 suit a probability",
        )


def walk(
    rgb: NDArray[np.floating], score: NDArray[np.floating], *, low: float, high: float, beta: float
) -> NDArray[np.bool_]:
    """Random-walker mask of one image; without seeds of both kinds, the cut half-way between.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].
        score: (H, W) float32 in [0, 1].
        low: Pixels up to this score are seeds of the background.
        high: Pixels above it are seeds of the object.
        beta: Edge penalty.

    Source: Grady 2006, "Random walks for image segmentation".
    """
    seeds = np.where(score > high, 2, np.where(score <= low, 1, 0))
    if set(np.unique(seeds)) != {0, 1, 2}:
        return score > (low + high) / 2
    return random_walker(rgb, seeds, beta=beta, mode="cg_j", tol=1e-5, channel_axis=-1) == 2


def walk_classes(
    image: NDArray[np.uint8] | NDArray[np.floating], seeds: NDArray[np.uint8], beta: float = 250.0
) -> NDArray[np.uint8]:
    """Give each pixel without a label that which a random walk over similar pixels reaches first.

    Args:
        image: (H, W, 3) RGB, uint8 or float in [0, 1]. Its contrast does not matter: the walk sees
            it divided by its standard deviation.
        seeds: (H, W) ids and 255; what has an id keeps it.
        beta: Edge penalty; larger keeps walks within a colour.

    Returns:
        (H, W) uint8 ids; 255 only where the walk reaches no seed, or there is none. An image of one
        colour says nothing: its ``seeds`` as they are.

    Source: Grady 2006, "Random walks for image segmentation".
    """
    ids = np.setdiff1d(seeds, [IGNORE_INDEX])
    if len(ids) < 2 or (seeds != IGNORE_INDEX).all():
        return np.where(seeds == IGNORE_INDEX, ids[0], seeds) if len(ids) == 1 else seeds.copy()
    rgb = unit_rgb(image)
    if rgb.std() == 0:
        return seeds.copy()
    labels = np.searchsorted(ids, seeds) + 1  # 1 … n, as the library has them
    labels[seeds == IGNORE_INDEX] = 0
    with warnings.catch_warnings():  # of probabilities a rounding error beyond [0, 1]
        warnings.filterwarnings("ignore", "The probability range is outside")
        found = random_walker(
            rgb / rgb.std(), labels, beta=beta, mode="cg_j", tol=1e-3,
            channel_axis=-1,
        )  # fmt: skip
    return np.where(found > 0, ids[np.maximum(found, 1) - 1], IGNORE_INDEX).astype(np.uint8)


def superpixel_mean(
    rgb: NDArray[np.floating], score: NDArray[np.floating], superpixels: int
) -> NDArray[np.floating]:
    """Each pixel's score replaced by the mean over its SLIC superpixel, for one image."""
    label = slic(rgb, n_segments=superpixels, compactness=10, start_label=0, channel_axis=-1)
    sums = np.bincount(label.ravel(), score.ravel().astype(np.float64))
    sizes = np.bincount(label.ravel())
    return (sums / np.maximum(sizes, 1)).astype(np.float32)[label].clip(0, 1)


def pixel_adaptive(
    rgb: NDArray[np.floating],
    score: NDArray[np.floating],
    iterations: int,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
) -> NDArray[np.floating]:
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

    def neighbours(a: NDArray[np.floating]) -> list[NDArray[np.floating]]:
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
