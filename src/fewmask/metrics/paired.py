"""Two rows of a table, measured on the same images: how far apart, and is that more than chance?

Both rows are resampled together by group (patient, scene, sequence), so what an image has of its
own (easy, hard, empty) drops out of the difference. This judges two sets of predictions on images
of this kind; it does not see that another seed would have trained another network.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewmask.errors import DataError
from fewmask.metrics.bootstrap import (
    check_groups,
    group_indices,
    percentile_interval,
    resampled_counts,
    sum_by_group,
)

Floats = NDArray[np.float64]

EXACT_GROUPS = 12
"""Up to so many groups, all 2^G exchanges are tried; with more, some are drawn."""


class Comparison(TypedDict):
    """What :func:`compare_rows` finds; None where undefined.

    Attributes:
        difference: IoU of the first row minus that of the second.
        ci95: Its 95 % percentile interval over groups.
        p: Two-sided; that of the exchanges which give a difference at least as large.
        exact: Whether all exchanges were tried.
        n_groups: Groups that were resampled and exchanged.
    """

    difference: float | None
    ci95: list[float] | None
    p: float | None
    exact: bool
    n_groups: int


def compare_rows(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    draws: int = 1000,
    exchanges: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Difference of the pooled foreground IoU of two rows, with interval and permutation test.

    The score is the pooled IoU of the foreground class, with several classes the mean of their
    defined ones (``miou_foreground``). The test exchanges the two rows' predictions on whole
    groups, at random and independently: if neither is better, every such exchange is as likely as
    what was found. Up to :data:`EXACT_GROUPS` groups all of them are tried. With G groups no p is
    below 2 / 2^G.

    Args:
        first: (N, C, C) confusion matrices of one row, from
            :func:`fewmask.metrics.confusion.confusion_matrix`.
        second: The same images of the other row.
        groups: Group of each image; None makes each image its own group.
        draws: Resampled sets for the interval.
        exchanges: Exchanges drawn where not all are tried.
        seed: Of both.

    Returns:
        The comparison; interval and p are None with fewer than two groups.

    Raises:
        DataError: ``MATRIX-SHAPE`` if the rows are not of the same images, ``GROUPS-LENGTH`` if
            the groups do not fit them.

    Source: Fisher 1935, *The Design of Experiments*, chapter III (exchange within the pair).

    >>> good, poor = [[[8, 0], [0, 2]]] * 6, [[[8, 0], [1, 1]]] * 6
    >>> found = compare_rows(good, poor)
    >>> found["difference"], found["p"], found["exact"]
    (0.5, 0.03125, True)
    """
    pair = np.stack([_parts(first), _parts(second)]) if _alike(first, second) else None
    if pair is None:
        raise DataError.of(
            "MATRIX-SHAPE",
            where="confusion matrices of two rows",
            found=f"shapes {np.shape(first)} and {np.shape(second)}",
            expected="(images, C, C), C of at least 2, of the same images in the same order",
            fix="measure both rows on the same images",
        )
    index, count = group_indices(check_groups(groups, pair.shape[1]))
    a, b = (sum_by_group(parts, index, count) for parts in pair)  # (G, 2, K)
    observed = float(_score(a.sum(0)) - _score(b.sum(0)))
    exact = count <= EXACT_GROUPS
    if np.isnan(observed) or count < 2:
        known = None if np.isnan(observed) else observed
        return Comparison(difference=known, ci95=None, p=None, exact=exact, n_groups=count)
    drawn = resampled_counts(count, draws=draws, seed=seed)  # (D, G)
    resampled = _score(_weighted(drawn, a)) - _score(_weighted(drawn, b))
    if exact:
        exchanged = np.array(list(itertools.product((0.0, 1.0), repeat=count)))  # (2^G, G)
    else:
        random = np.random.default_rng([seed, 1])
        exchanged = random.integers(0, 2, (exchanges, count)).astype(np.float64)
    moved = _weighted(exchanged, b - a)
    chance = np.abs(_score(a.sum(0) + moved) - _score(b.sum(0) - moved))
    reached = int((~(chance < abs(observed) - 1e-12)).sum())  # undefined counts as reached
    p = reached / len(chance) if exact else (reached + 1) / (len(chance) + 1)
    return Comparison(
        difference=observed,
        ci95=percentile_interval(resampled),
        p=p,
        exact=exact,
        n_groups=count,
    )


def _alike(first: ArrayLike, second: ArrayLike) -> bool:
    shape = np.shape(first)
    return shape == np.shape(second) and len(shape) == 3 and shape[1] == shape[2] > 1


def _parts(matrices: ArrayLike) -> Floats:
    """Intersection and union of each foreground class: (N, 2, K)."""
    counts = np.asarray(matrices, dtype=np.float64)
    hit = np.diagonal(counts, axis1=1, axis2=2)
    union = counts.sum(1) + counts.sum(2) - hit
    return np.stack([hit, union], axis=1)[..., 1:]


def _weighted(weights: Floats, parts: Floats) -> Floats:
    """Weights (D, G) times the parts of each group (G, 2, K): (D, 2, K)."""
    return np.tensordot(weights, parts, axes=1)


def _score(parts: Floats) -> Floats:
    """Mean of the defined IoUs of sums (..., 2, K); NaN if none is."""
    hit, union = parts[..., 0, :], parts[..., 1, :]
    defined = union > 0
    total = np.where(defined, hit / np.where(defined, union, 1.0), 0.0).sum(-1)
    classes = defined.sum(-1)
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)
