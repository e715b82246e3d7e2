"""Distances between sets of images, and of one image to a set, in a network's feature space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fewmask.errors import UsageError


class FeatureStatistics(NamedTuple):
    """A set of images as a Gaussian in feature space.

    Attributes:
        mean: μ, (D,) float64.
        covariance: Σ, (D, D) float64, with the denominator n − 1; zero for one image.
    """

    mean: np.ndarray
    covariance: np.ndarray


def feature_statistics(features: np.ndarray) -> FeatureStatistics:
    """Mean and covariance of features (N, D).

    Raises:
        UsageError: there is no image.
    """
    if len(features) == 0:
        raise UsageError.of(
            "FEATURES-NONE",
            where="features",
            found="no image",
            expected="one image or more",
            fix="give a folder with images",
        )
    values = np.asarray(features, np.float64)
    centred = values - values.mean(0)
    covariance = centred.T @ centred / max(len(values) - 1, 1)
    return FeatureStatistics(values.mean(0), covariance)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), 0 for equal sets.

    Of InceptionV3's features it is the FID.

    Source: Heusel et al. 2017, eq. 6; Dowson & Landau 1982.
    """
    # The eigenvalues of Σ_a Σ_b are those of Σ_a^½ Σ_b Σ_a^½, which is symmetric.
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ b.covariance @ root)
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    difference = a.mean - b.mean
    return float(difference @ difference + traces - 2 * np.sqrt(product.clip(min=0)).sum())


def feature_distances(features: np.ndarray, target: FeatureStatistics) -> np.ndarray:
    """‖f − μ‖² + tr Σ of each image: its Fréchet distance to a set, as a set of one.

    A single image has no covariance, so the published FID of an image to a domain is this; and as
    tr Σ is the same for all, the order is that of the distance to the domain's mean.

    Args:
        features: (N, D), one row an image.
        target: Of the set.

    Returns:
        (N,) float64.

    Source: the FID choice of the adapt pipeline.
    """
    difference = np.asarray(features, np.float64) - target.mean
    return (difference**2).sum(1) + np.trace(target.covariance)


class KernelDistance(NamedTuple):
    """The squared maximum mean discrepancy of two sets.

    Attributes:
        value: Unbiased: 0 on average for sets of one distribution, so it may be negative.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def kernel_distance(a: np.ndarray, b: np.ndarray) -> KernelDistance:
    """Squared MMD with the kernel (x · y / D + 1)³: of InceptionV3's features it is the KID.

    The interval is that of the jackknife over the images of both sets.

    Args:
        a: (M, D) features, 3 images or more.
        b: (N, D), 3 images or more.

    Source: Bińkowski et al. 2018, eq. 4 and section 3.1.
    Differs: All images are compared at once, not the mean over random subsets.

    Raises:
        UsageError: fewer than 3 images in a set.
    """
    if min(len(a), len(b)) < 3:
        raise UsageError.of(
            "FEATURES-FEW",
            where="features",
            found=f"{len(a)} and {len(b)} images",
            expected="3 images or more in each set",
            fix="give more images",
        )
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within_a, within_b, between = kernel(a, a), kernel(b, b), kernel(a, b)
    np.fill_diagonal(within_a, 0)
    np.fill_diagonal(within_b, 0)
    sum_a, sum_b, sum_ab = within_a.sum(), within_b.sum(), between.sum()
    m, n = len(a), len(b)
    mean_a, mean_b = sum_a / (m * (m - 1)), sum_b / (n * (n - 1))
    value = mean_a + mean_b - 2 * sum_ab / (m * n)
    # The same without image i of one set, for all i at once.
    rest_a = (sum_a - 2 * within_a.sum(0)) / ((m - 1) * (m - 2))
    rest_b = (sum_b - 2 * within_b.sum(0)) / ((n - 1) * (n - 2))
    without_a = rest_a + mean_b - 2 * (sum_ab - between.sum(1)) / ((m - 1) * n)
    without_b = mean_a + rest_b - 2 * (sum_ab - between.sum(0)) / (m * (n - 1))
    variance = sum((len(w) - 1) * w.var() for w in (without_a, without_b))
    margin = 1.96 * float(np.sqrt(variance))
    return KernelDistance(float(value), float(value) - margin, float(value) + margin)
