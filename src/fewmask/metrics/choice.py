"""Choose images of a pool by a score: those that are like a target, or within a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fewmask.metrics.feature_distance import feature_distances, feature_statistics

Method = Literal["distance", "histogram", "grey"]


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        scores: Of each image of the pool that could be read, by name.
        kept: Names of the chosen ones, the most fitting first.
        low: Lowest score that was let through; None = any.
        high: Highest score that was let through; None = any.
        score: What the score is, in words.
        range: Where ``low`` and ``high`` come from, in words.
    """

    scores: dict[str, float]
    kept: tuple[str, ...]
    low: float | None
    high: float | None
    score: str
    range: str

    def __str__(self) -> str:
        low, high = ("any" if bound is None else f"{bound:.4g}" for bound in (self.low, self.high))
        return (
            f"{len(self.kept)} of {len(self.scores)} images kept; {self.score}, "
            f"from {low} to {high} ({self.range})"
        )


def choose(
    method: Method,
    of_pool: Mapping[str, float | np.ndarray],
    of_target: Mapping[str, float | np.ndarray],
    keep: int | None,
    low: float | None,
    high: float | None,
    quantiles: tuple[float, float],
) -> Selection:
    """Score, cut and rank what was measured on the images of a pool.

    Args:
        method: ``distance`` has features (D,) of each image, the others a number of each.
        of_pool: What was measured, by image.
        of_target: The same of the target; ``distance`` needs one or more.
        keep: No more than so many: the nearest by distance, or to the target's median; without a
            target to the middle of the range, or farthest from its only bound.
        low: Lowest score to keep.
        high: Highest score to keep.
        quantiles: The range as quantiles of the target's scores, where no bound is given.
    """
    names = list(of_pool)
    given = low is not None or high is not None
    told = "as given" if given else "none"
    if method == "distance":
        statistics = feature_statistics(np.stack(list(of_target.values())))
        values = np.stack(list(of_pool.values())) if names else np.zeros((0, 1))
        scores = feature_distances(values, statistics) if names else np.zeros(0)
        what, misfit = "squared feature distance to the target", scores
    else:
        scores = np.array([of_pool[name] for name in names], float)
        what = "light score, 0 to 255" if method == "histogram" else "mean grey level, 0 to 255"
        target = np.array(list(of_target.values()), float)
        middle = float(np.median(target)) if of_target else None
        if not given:
            low, high = (float(x) for x in np.quantile(target, quantiles))
            told = "quantiles {:g} and {:g} of the target".format(*quantiles)
        if middle is None and low is not None and high is not None:
            middle = (low + high) / 2
        if middle is not None:
            misfit = np.abs(scores - middle)
        else:
            misfit = scores if low is None else -scores
    lowest = -math.inf if low is None else low
    highest = math.inf if high is None else high
    order = [i for i in np.argsort(misfit, kind="stable") if lowest <= scores[i] <= highest]
    return Selection(
        scores={name: float(score) for name, score in zip(names, scores, strict=True)},
        kept=tuple(names[i] for i in order[:keep]),
        low=low,
        high=high,
        score=what,
        range=told,
    )
