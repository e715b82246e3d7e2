"""What can be had without learning anything: rows that a result has to beat.

The controls look at no label: their constants are fixed here, not fitted. Only
:func:`oracle_threshold` looks at the true masks, and so belongs in ``oracle`` rows alone.

A control returns a bool mask (H, W); times a class id it is a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewmask.conventions import LUMA
from fewmask.errors import DataError, UsageError


def all_background(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Nothing anywhere: bool (H, W), all False."""
    return np.zeros(shape, dtype=bool)


def centre_prior(shape: tuple[int, int], area_fraction: float = 0.25) -> NDArray[np.bool_]:
    """Photographers aim: an ellipse at the centre, with the image's proportions.

    Args:
        shape: (H, W).
        area_fraction: Share of the image that the ellipse covers, in (0, 1], met up to pixels of
            equal radius. The default is a constant chosen without any mask; report it with the
            row. Above pi/4 the border cuts the ellipse, which grows until the area is right.

    Raises:
        UsageError: ``AREA-FRACTION`` outside (0, 1].

    >>> centre_prior((4, 4)).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    if not 0.0 < area_fraction <= 1.0:
        raise UsageError.of(
            "AREA-FRACTION",
            where="area_fraction",
            found=area_fraction,
            expected="a share of the image in (0, 1]",
            fix="leave it at 0.25",
        )
    y, x = ((np.arange(size) + 0.5) / size - 0.5 for size in shape)
    radius2 = np.add.outer(y**2, x**2)
    wanted = max(1, round(area_fraction * radius2.size))
    limit = np.partition(radius2, wanted - 1, axis=None)[wanted - 1]
    inside: NDArray[np.bool_] = radius2 <= limit * (1.0 + 1e-9)  # equal radii stay together
    return inside


def otsu_of_grey(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The brighter side of Otsu's threshold on the grey image, in the hope that it is the object.

    Args:
        image: uint8 (H, W, 3) RGB.

    Returns:
        bool (H, W); all False for an image of one grey.

    Raises:
        DataError: ``IMAGE-SHAPE`` for anything but uint8 (H, W, 3).

    Source: Otsu 1979, *A threshold selection method from gray-level histograms*.
    """
    from skimage.filters import threshold_otsu

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError.of(
            "IMAGE-SHAPE",
            where="image",
            found=f"{image.dtype} {image.shape}",
            expected="uint8 (H, W, 3)",
            fix="convert the image to 8-bit RGB",
        )
    grey = np.rint(image @ np.array(LUMA)).astype(np.uint8)
    if grey.size == 0 or grey.min() == grey.max():
        return all_background(image.shape[:2])
    bright: NDArray[np.bool_] = grey > threshold_otsu(grey)
    return bright


def oracle_threshold(
    score_maps: Sequence[NDArray], targets: Sequence[NDArray], ignore_index: int = 255
) -> tuple[float, float | None]:
    """The threshold with the best pooled IoU on these very masks: for oracle rows only.

    Tries 256 thresholds t = 0, 1/255, …, 1; a pixel is object where ``score > t``. Of equally good
    thresholds the lowest is returned.

    Args:
        score_maps: Float maps in [0, 1], (H, W) each.
        targets: True ids of one class against background, 0, 1 or ``ignore_index``, (H, W) each.
        ignore_index: Pixels to leave out.

    Returns:
        (threshold, pooled IoU). Without a single object pixel no threshold is better than
        another: (1.0, None).

    Raises:
        DataError: ``MASK-SIZE`` if a map and its target differ in shape, ``MASK-VALUES`` for
            other ids, ``SCORE-RANGE`` for scores that are not in [0, 1].
    """
    thresholds = np.arange(256) / 255.0
    above = np.zeros((2, 257), dtype=np.int64)  # [background, object] pixels above i thresholds
    for score, target in zip(score_maps, targets, strict=True):
        _check_pair(score, target, ignore_index)
        for label in (0, 1):
            passed = np.searchsorted(thresholds, score[target == label], side="left")
            above[label] += np.bincount(passed, minlength=257)
    if above[1].sum() == 0:
        return 1.0, None
    false_hit, hit = above[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # score > thresholds[i]
    iou = hit / (above[1].sum() + false_hit)
    best = int(iou.argmax())
    return float(thresholds[best]), float(iou[best])


def _check_pair(score: NDArray, target: NDArray, ignore_index: int) -> None:
    """One map and its target fit each other."""
    if score.shape != target.shape:
        raise DataError.of(
            "MASK-SIZE",
            where="score map",
            found=f"shape {score.shape}",
            expected=f"shape {target.shape}, that of the true mask",
            fix="resize the map",
        )
    strangers = np.setdiff1d(target, [0, 1, ignore_index])
    if strangers.size:
        raise DataError.of(
            "MASK-VALUES",
            where="true mask",
            found=f"ids {strangers[:8].tolist()}",
            expected=f"0, 1 or {ignore_index}",
            fix="compare one class at a time",
        )
    if not ((score >= 0.0) & (score <= 1.0)).all():
        raise DataError.of(
            "SCORE-RANGE",
            where="score map",
            found="values outside [0, 1] or not finite",
            expected="scores in [0, 1]",
            fix="scale the map",
        )
