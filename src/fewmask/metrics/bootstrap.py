"""Confidence intervals by resampling whole groups (patients, scenes, sequences).

Images of one group resemble each other, so resampling single images would make intervals too
narrow. Here a resampled set is a vector of *group counts*: drawing G groups out of G with
replacement is one multinomial draw, and the sums over the resampled set are one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewmask.errors import DataError


def group_indices(groups: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """Number the groups by first appearance.

    Returns:
        The number of each element's group, int64 (N,), and the count of groups G.

    >>> index, count = group_indices(["p7", "p2", "p7"])
    >>> index.tolist(), count
    ([0, 1, 0], 2)
    """
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(group, len(numbers)) for group in groups]
    return np.array(index, dtype=np.int64), len(numbers)


def sum_by_group(
    values: NDArray[np.float64], index: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Add up the rows of ``values`` (N, S) that share a group: (G, S)."""
    sums = np.zeros((count, *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums


def resampled_counts(count: int, *, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each group is drawn in each resampled set.

    Args:
        count: Groups, G >= 1.
        draws: Resampled sets, D >= 1.
        seed: Equal seeds give equal draws, so that two methods measured on the same groups are
            resampled together and their difference can be compared draw by draw.

    Returns:
        Whole numbers as float64, (D, G); each row sums to G.
    """
    random = np.random.default_rng(seed)
    return random.multinomial(count, np.full(count, 1.0 / count), size=draws).astype(np.float64)


def percentile_interval(draws: NDArray[np.float64], level: float = 0.95) -> list[float] | None:
    """Central interval of the resampled values; None if none of them is defined.

    A draw in which the score is undefined (NaN: for example no group with the class was drawn)
    is left out.

    Source: Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, section 13.3 (percentile
    interval).

    >>> percentile_interval(np.arange(41.0), level=0.5)
    [10.0, 30.0]
    """
    defined = draws[~np.isnan(draws)]
    if defined.size == 0:
        return None
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return [float(low), float(high)]


def check_groups(groups: Sequence[str] | None, n: int) -> list[str]:
    """One group name per image; without groups, each image is a group of its own.

    Raises:
        DataError: ``GROUPS-LENGTH`` if the number of names is not ``n``.
    """
    if groups is None:
        return [str(i) for i in range(n)]
    if len(groups) != n:
        raise DataError.of(
            "GROUPS-LENGTH",
            where="groups",
            found=f"{len(groups)} group names for {n} images",
            expected="one group name per image",
            fix="give each image its patient, scene or sequence in the same order",
        )
    return [str(group) for group in groups]
