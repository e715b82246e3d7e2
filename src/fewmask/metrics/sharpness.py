"""Can a tag be told from the image's sharpness alone, and is a CAM no more than a sharpness map?

In many collections the images with the object come from another source than those without, and
are blurrier or sharper. A classifier may then learn that instead of the object. Two numbers show
it: how well sharpness alone predicts the tag, and how far a CAM follows the local sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOW = 1 / 32
"""Standard deviation of the window of local sharpness, as a fraction of the image's side."""


def sharpness(image: NDArray[np.uint8]) -> float:
    """Variance of the grey image's Laplacian: small for a blurred image, 0 for one of one grey.

    Args:
        image: (H, W, 3) uint8.

    Source: Pech-Pacheco et al. 2000, *Diatom autofocusing in brightfield microscopy*.
    """
    return float(_laplacian(image).var())


def local_sharpness(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Energy of the Laplacian around each pixel, (H, W) float32 >= 0, in a Gaussian window.

    Args:
        image: (H, W, 3) uint8.
    """
    sigma = max(1.0, WINDOW * max(image.shape[:2]))
    return np.asarray(cv2.GaussianBlur(_laplacian(image) ** 2, (0, 0), sigma))


def auc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Probability that a positive has the higher score than a negative; ties count one half.

    Args:
        scores: (N,) finite.
        positive: (N,) bool.

    Returns:
        In [0, 1]; 0.5 says nothing, 0 as much as 1. None without a positive or without a negative.

    >>> auc([1, 2, 2, 3], [False, False, True, True])
    0.875
    """
    from scipy.stats import rankdata

    chosen = np.asarray(positive, dtype=bool)
    n, m = int(chosen.sum()), int((~chosen).sum())
    if n == 0 or m == 0:
        return None
    return float((rankdata(scores)[chosen].sum() - n * (n + 1) / 2) / (n * m))


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's correlation of two maps of one shape, in [-1, 1]; None if one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(np.ravel(values)) for values in (first, second)]
    a, b = (rank - rank.mean() for rank in ranks)
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else None


def mean_rank_correlation(
    maps: Sequence[NDArray], images: Sequence[NDArray[np.uint8]]
) -> tuple[float | None, int]:
    """How far maps follow the local sharpness of their images, in the mean over the images.

    Args:
        maps: (H, W) each; constant ones are left out.
        images: (H, W, 3) uint8 each.

    Returns:
        The mean rank correlation, None if no map is left, and the number of maps in it.
    """
    found = [
        rank_correlation(score, local_sharpness(image))
        for score, image in zip(maps, images, strict=True)
    ]
    known = [value for value in found if value is not None]
    return (float(np.mean(known)) if known else None), len(known)


def _laplacian(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.Laplacian(grey, cv2.CV_32F))
