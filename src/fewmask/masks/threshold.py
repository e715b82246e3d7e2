"""Cut an evidence map into a mask: at a given value, or at one that the map itself suggests.

Everywhere in :mod:`fewmask.masks` a pixel is foreground when its score is **strictly above** the
threshold, so a map that is constant (no evidence at all) gives an empty mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_niblack, threshold_otsu, threshold_sauvola

from fewmask.errors import DataError, NumericalError, UsageError

THRESHOLDS = ("manual", "otsu", "niblack", "sauvola")

_RANGE_SLACK = 1e-4  # float32 rounding of resized maps; a wrong scale (0..255) is far outside


def check_score(score: NDArray[np.floating], where: str = "score") -> NDArray[np.float32]:
    """The map as float32, after checking that it is (H, W) or (N, H, W), finite and in [0, 1].

    Args:
        score: Evidence map or stack of maps.
        where: Name of the map in the error message.

    Raises:
        DataError: Wrong number of dimensions, no pixels, or values outside [0, 1].
        NumericalError: A value is not finite.
    """
    score = np.asarray(score, dtype=np.float32)
    if score.ndim not in (2, 3) or score.size == 0:
        raise DataError.of(
            "SCORE-SHAPE",
            where=where,
            found=f"an array of shape {score.shape}",
            expected="(height, width) or (n, height, width), with at least one pixel",
            fix="pass one map per image and one class at a time",
        )
    low, high = float(score.min()), float(score.max())  # NaN wins in both
    if not (np.isfinite(low) and np.isfinite(high)):
        raise NumericalError.of(
            "SCORE-NAN",
            where=where,
            found="a value that is not finite",
            expected="finite values in [0, 1]",
            fix="look at the network that made the map: it may have diverged",
        )
    if low < -_RANGE_SLACK or high > 1 + _RANGE_SLACK:
        raise DataError.of(
            "SCORE-RANGE",
            where=where,
            found=f"values from {low:.4g} to {high:.4g}",
            expected="values in [0, 1]",
            fix="scale the map to [0, 1] first",
        )
    return score


def otsu_value(score: NDArray[np.floating]) -> float:
    """Otsu's threshold: the cut of a 256-bin histogram with the largest between-class variance.

    Args:
        score: (H, W) or (N, H, W) float in [0, 1]; a stack is pooled into one histogram.

    Returns:
        The threshold in [0, 1]. For a constant map it is the constant itself, so that
        ``score > otsu_value(score)`` is empty.

    Source: Otsu 1979, "A threshold selection method from gray-level histograms".

    >>> score = np.array([[0.1, 0.1, 0.2], [0.8, 0.9, 0.9]], np.float32)
    >>> 0.2 <= otsu_value(score) < 0.8
    True
    """
    score = check_score(score)
    return float(threshold_otsu(score)) if np.ptp(score) > 0 else float(score.flat[0])


def threshold_map(
    score: NDArray[np.floating],
    method: str,
    *,
    value: float | None = None,
    window_px: int = 25,
    k: float = 0.2,
) -> NDArray[np.bool_]:
    """Cut each map of ``score`` at a threshold.

    ``manual`` takes ``value``; ``otsu`` finds one per map; ``niblack`` (local mean − k · local
    deviation) and ``sauvola`` (local mean · (1 + k · (deviation / 0.5 − 1))) find one per pixel.
    The three automatic methods return an empty mask for a constant map.

    Args:
        score: (H, W) or (N, H, W) float in [0, 1].
        method: One of :data:`THRESHOLDS`.
        value: The threshold in [0, 1]; for ``manual``, and only there.
        window_px: Side of the local window of ``niblack`` and ``sauvola``; odd, at least 3.
        k: Weight of the local deviation.

    Returns:
        Boolean array of ``score``'s shape; true where the score is strictly above the threshold.

    Raises:
        UsageError: Unknown method, or a parameter that does not fit it.

    Source: Niblack 1986; Sauvola and Pietikäinen 2000, "Adaptive document image binarization".

    >>> threshold_map(np.array([[0.2, 0.4, 0.6]]), "manual", value=0.4).tolist()
    [[False, False, True]]
    """
    score = check_score(score)
    _check_parameters(method, value, window_px)
    if score.ndim == 3:
        cuts = [threshold_map(s, method, value=value, window_px=window_px, k=k) for s in score]
        return np.stack(cuts)
    if value is not None:
        return score > value
    if np.ptp(score) == 0:
        return np.zeros(score.shape, dtype=bool)
    if method == "otsu":
        return score > otsu_value(score)
    exact = score.astype(np.float64)
    if method == "niblack":
        return exact > threshold_niblack(exact, window_size=window_px, k=k)
    return exact > threshold_sauvola(exact, window_size=window_px, k=k, r=0.5)


def _check_parameters(method: str, value: float | None, window_px: int) -> None:
    if method not in THRESHOLDS:
        raise UsageError.of(
            "THRESHOLD-METHOD",
            where="method",
            found=repr(method),
            expected=f"one of {', '.join(THRESHOLDS)}",
            fix="choose one of these methods",
        )
    if (method == "manual") != (value is not None) or (value is not None and not 0 <= value <= 1):
        raise UsageError.of(
            "THRESHOLD-VALUE",
            where="value",
            found=f"{value} with method {method!r}",
            expected="a number in [0, 1] with 'manual', and none with the automatic methods",
            fix="give a value with 'manual' only",
        )
    if method in ("niblack", "sauvola") and (window_px < 3 or window_px % 2 == 0):
        raise UsageError.of(
            "THRESHOLD-WINDOW",
            where="window_px",
            found=window_px,
            expected="an odd number of pixels, at least 3",
            fix=f"use {max(3, window_px | 1)}",
        )
