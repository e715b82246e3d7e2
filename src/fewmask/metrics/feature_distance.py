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
