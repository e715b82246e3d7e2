"""Scores to training masks: 0 = background, 1..K = classes, 255 = not sure, take no gradient.

Two thresholds instead of one: the network learns from what the evidence is sure of, and fills
the band between them by itself.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fewmask.errors import DataError, UsageError
from fewmask.masks.threshold import check_score


def pseudo_mask(
    score: NDArray[np.floating], *, low: float, high: float, ignore_index: int = 255
) -> NDArray[np.uint8]:
    """1 strictly above ``high``, 0 up to and including ``low``, ``ignore_index`` between.

    Args:
        score: (H, W) or (N, H, W) float in [0, 1].
        low: Score up to which a pixel is background.
        high: Score above which it is foreground; ``low == high`` leaves nothing ignored.
        ignore_index: Value of the undecided pixels.

    Returns:
        uint8 of ``score``'s shape.

    Raises:
        UsageError: ``low`` is above ``high``.

    >>> pseudo_mask(np.array([[0.1, 0.3, 0.5, 0.9]]), low=0.3, high=0.5).tolist()
    [[0, 0, 255, 1]]
    """
    score = check_score(score)
    check_band(low, high)
    middle = np.where(score <= low, 0, ignore_index)
    return np.where(score > high, 1, middle).astype(np.uint8)


def combine_classes(
    scores: NDArray[np.floating],
    *,
    low: float,
    high: float,
    margin: float = 0.0,
    ignore_index: int = 255,
) -> NDArray[np.uint8]:
    """One label map from one score map per class: the strongest class wins if it is sure.

    Args:
        scores: (K, H, W) float in [0, 1], one map per foreground class; K at most 254.
        low: A pixel whose strongest score is at most this is background.
        high: A pixel whose strongest score is above this gets that class; between: ignored.
        margin: Lead that the strongest class needs over the next; else the pixel is ignored.
            With the default 0, an exact tie of two classes above ``high`` is still ignored.
        ignore_index: Value of the undecided pixels.

    Returns:
        (H, W) uint8: 0, 1..K in the order of ``scores``, or ``ignore_index``.

    Raises:
        DataError: ``scores`` is not (K, H, W) with 1 to 254 classes.
        UsageError: ``low`` is above ``high``.

    >>> scores = np.array([[[0.9, 0.1, 0.7]], [[0.2, 0.2, 0.7]]])
    >>> combine_classes(scores, low=0.3, high=0.6).tolist()
    [[1, 0, 255]]
    """
    scores = check_score(scores, "scores")
    check_band(low, high)
    if scores.ndim != 3 or not 1 <= len(scores) <= 254:
        raise DataError.of(
            "PSEUDO-CLASSES",
            where="scores",
            found=f"an array of shape {scores.shape}",
            expected="(K, height, width) with K from 1 to 254",
            fix="stack one map per foreground class",
        )
    best = scores.max(axis=0)
    label = pseudo_mask(best, low=low, high=high, ignore_index=ignore_index)
    foreground = best > high
    label[foreground] = scores.argmax(axis=0)[foreground].astype(np.uint8) + 1
    if len(scores) > 1:
        second = np.partition(scores, -2, axis=0)[-2]
        lead = best - second
        label[foreground & ((lead <= 0) | (lead < margin))] = ignore_index
    return label


def from_refined(
    mask: NDArray[np.bool_],
    score: NDArray[np.floating],
    *,
    low: float,
    high: float,
    band_px: int = 0,
    ignore_index: int = 255,
) -> NDArray[np.uint8]:
    """A refined mask as training labels, undecided where it contradicts the score it came from.

    Ignored are: mask pixels whose score is at most ``low``, other pixels whose score is above
    ``high``, and pixels closer than or at ``band_px`` to the mask's outline, on either side.

    Args:
        mask: (H, W) or (N, H, W) boolean, from :func:`fewmask.masks.refine.refine`.
        score: Float in [0, 1] of the same shape: the evidence before refinement.
        low: Score up to which the evidence says background.
        high: Score above which it says foreground.
        band_px: Half width of the ignored band along the outline (chessboard distance).
        ignore_index: Value of the undecided pixels.

    Returns:
        uint8 of the same shape.

    Raises:
        DataError: The shapes differ.
        UsageError: ``low`` is above ``high``, or ``band_px`` is negative.
    """
    score, mask = check_score(score), np.asarray(mask, dtype=bool)
    check_band(low, high)
    if mask.shape != score.shape:
        raise DataError.of(
            "PSEUDO-SHAPE",
            where="mask and score",
            found=f"shapes {mask.shape} and {score.shape}",
            expected="equal shapes",
            fix="resize the score to the mask first",
        )
    if band_px < 0:
        raise UsageError.of(
            "PSEUDO-BAND",
            where="band_px",
            found=band_px,
            expected="0 or more pixels",
            fix="use 0 for no band",
        )
    unsure = np.where(mask, score <= low, score > high)
    if band_px:
        stack = mask[None] if mask.ndim == 2 else mask
        unsure |= np.stack([_near_outline(m, band_px) for m in stack]).reshape(mask.shape)
    return np.where(unsure, ignore_index, mask).astype(np.uint8)


def check_band(low: float, high: float) -> None:
    """Raise :class:`UsageError` unless 0 <= low <= high <= 1."""
    if not 0 <= low <= high <= 1:
        raise UsageError.of(
            "PSEUDO-THRESHOLDS",
            where="low and high",
            found=f"low = {low}, high = {high}",
            expected="0 <= low <= high <= 1",
            fix="exchange or clip the two thresholds",
        )


def _near_outline(mask: NDArray[np.bool_], band_px: int) -> NDArray[np.bool_]:
    """Pixels within ``band_px`` (chessboard) of a pixel of the other side; the frame is no side."""
    square = np.ones((2 * band_px + 1, 2 * band_px + 1), dtype=np.uint8)
    solid = mask.astype(np.uint8)
    return cv2.dilate(solid, square) != cv2.erode(solid, square)
