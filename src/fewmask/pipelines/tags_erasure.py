"""Judge evidence without a single mask: erase what it marks, and ask the classifier.

A mask that is too small leaves enough of the object outside for the classifier to see it there; a
mask that is too large hides all of it and shows everything. Two questions are answered from that,
by tags alone:

- *Where to cut the evidence*: where the object alone and the image without the object convince
  the classifier equally.
- *Which of several maps is the better one*: the one whose masks are the more convincing ones at
  the same area, since a mask that sits on the object needs less of the image.

Source: ours; the two erasures are those of Fong & Vedaldi 2017, section 4 (deletion, preservation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from torch import Tensor

from fewmask.data.transforms import to_unit
from fewmask.masks.refine import refine
from fewmask.randomness import generator
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import Workspace

CUTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LARGEST_CUT = 0.7
"""Set, like the spacing of :data:`CUTS`, while looking at masks of Bijie *training* tiles."""


class Erasure(NamedTuple):
    """What the classifier makes of masks cut at :data:`CUTS`; each an array of that length.

    Attributes:
        area: Fraction of the image that the mask covers.
        alone: Probability of the tag when only the mask's pixels are shown.
        without: Its probability when they are painted over.
    """

    area: np.ndarray
    alone: np.ndarray
    without: np.ndarray

    @property
    def lead(self) -> np.ndarray:
        """How much more the object convinces than the rest, in [-1, 1]."""
        return np.asarray(self.alone - self.without)

    @property
    def balance(self) -> float:
        """The cut at which the object alone and the image without it convince equally."""
        return crossing(CUTS, self.lead.tolist())

    def record(self) -> dict[str, list[float]]:
        """The three curves, rounded, for a JSON file."""
        return {
            name: [round(float(value), 4) for value in curve]
            for name, curve in self._asdict().items()
        }


def erase(
    image: np.ndarray,
    score: np.ndarray,
    tag_prob: Callable[[Tensor], np.ndarray],
    method: str,
) -> Erasure:
    """Erase the object of one image, and all but the object, at every cut.

    Args:
        image: (S, S, 3) uint8.
        score: (S, S) float32 in [0, 1], the evidence of one tag.
        tag_prob: (N, 3, S, S) float32 in [0, 1] to the tag's probability (N,).
        method: Of :func:`fewmask.masks.refine.refine`: masks are judged as they would be used.
    """
    masks = [refine(image, score, method=method, cut=cut) for cut in CUTS]
    pictures = [filled(image, ~mask) for mask in masks] + [filled(image, mask) for mask in masks]
    probs = tag_prob(to_unit(np.stack(pictures)))
    area = np.array([mask.mean() for mask in masks])
    return Erasure(area, probs[: len(CUTS)], probs[len(CUTS) :])


def mean_erasure(erasures: Sequence[Erasure]) -> Erasure:
    """The mean over images."""
    return Erasure(*(np.mean(values, axis=0) for values in zip(*erasures, strict=True)))


def judged(
    work: Workspace,
    stage: Stage,
    drawn: Sequence[Sequence[int]],
    score_of: Callable[[int, int], np.ndarray],
    prob_of: Callable[[int], Callable[[Tensor], np.ndarray]],
    name: str,
) -> list[Erasure | None]:
    """Each class's mean :class:`Erasure` over the images drawn for it; None without an image.

    Args:
        work: Images and settings.
        stage: That the judgement belongs to.
        drawn: Rows for each class, see :func:`drawn_rows`.
        score_of: Row and class to the evidence (S, S) float32 in [0, 1].
        prob_of: Class to its tag's probability of images, see :func:`erase`.
        name: Of the loop, in progress lines.
    """
    todo = [(row, k) for k, rows in enumerate(drawn) for row in rows]
    found: list[list[Erasure]] = [[] for _ in drawn]
    seed, method = work.config.seed, work.config.pseudo_refine
    loop = Loop(stage, len(todo), seed=seed, state={}, name=name, unit="image", resumable=False)
    for row, k in (todo[i] for i in loop):
        found[k].append(erase(work.images[row], score_of(row, k), prob_of(k), method))
    return [mean_erasure(erasures) if erasures else None for erasures in found]


def balanced_cut(erasure: Erasure) -> float:
    """The cut at which both convince equally, but not above :data:`LARGEST_CUT`.

    Where a part convinces as much as the whole (a texture), the
    object alone leads at every cut, and the balance says nothing.
    """
    return min(LARGEST_CUT, erasure.balance)


def cut_record(found: Mapping[str, Erasure]) -> dict[str, Any]:
    """What ``cut.json`` says of each class: its curves, and whether :data:`LARGEST_CUT` decided."""
    return {
        "cuts": CUTS,
        "curves": {name: erasure.record() for name, erasure in found.items()},
        "capped": {name: erasure.balance > LARGEST_CUT for name, erasure in found.items()},
    }


def most_convincing(candidates: Mapping[int, Sequence[Erasure]]) -> int:
    """The candidate whose masks have the larger lead at the same area, in the mean over classes.

    Leads are compared at areas that all candidates reach (or between them, if there are none).
    No mask has a lead of -1 and the whole image one of 1: the curves are drawn on to there.

    Args:
        candidates: For each candidate one :class:`Erasure` a class.

    Returns:
        The winner's key; the first one of equals.
    """
    total = dict.fromkeys(candidates, 0.0)
    for erasures in zip(*candidates.values(), strict=True):
        low = max(erasure.area.min() for erasure in erasures)
        high = min(erasure.area.max() for erasure in erasures)
        areas = np.linspace(min(low, high), max(low, high), 9)
        for name, erasure in zip(candidates, erasures, strict=True):
            order = np.argsort(erasure.area)
            area, lead = [0, *erasure.area[order], 1], [-1, *erasure.lead[order], 1]
            total[name] += float(np.interp(areas, area, lead).mean())
    return max(total, key=lambda name: total[name])


def drawn_rows(
    tags: np.ndarray, rows: Sequence[int], count: int, *salt: int | str
) -> list[list[int]]:
    """Some images with each tag, on which evidence is judged.

    Args:
        tags: (N, K) bool.
        rows: Rows to draw from.
        count: Images in all, shared by the classes (at least 12 for each, if there are so many).
        *salt: Seed and names of the draw.
    """
    each = max(12, count // tags.shape[1])
    order = generator(*salt).permutation(len(rows))
    shuffled = [rows[i] for i in order]
    return [sorted([row for row in shuffled if tags[row, k]][:each]) for k in range(tags.shape[1])]


def crossing(cuts: Sequence[float], lead: Sequence[float]) -> float:
    """Where a falling curve crosses zero for the last time, interpolated; its nearer end if never.

    >>> crossing((0.2, 0.4, 0.6), (0.3, 0.1, -0.1))
    0.5
    >>> crossing((0.2, 0.4), (0.3, 0.1)), crossing((0.2, 0.4), (-0.3, -0.5))
    (0.4, 0.2)
    """
    for i in range(len(cuts) - 1, 0, -1):
        if lead[i - 1] > 0 >= lead[i]:
            share = lead[i - 1] / (lead[i - 1] - lead[i])
            return round(cuts[i - 1] + share * (cuts[i] - cuts[i - 1]), 4)
    return cuts[-1] if lead[-1] > 0 else cuts[0]


def filled(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Paint a hole with the blurred colours around it.

    Args:
        image: (H, W, 3) uint8.
        hole: (H, W) bool. A hole that is the whole image becomes black.

    Returns:
        (H, W, 3) uint8.
    """
    sigma = 0.1 * max(hole.shape)
    keep = (~hole).astype(np.float32)
    weight = cv2.GaussianBlur(keep, (0, 0), sigma)[..., None]
    colours = cv2.GaussianBlur(image.astype(np.float32) * keep[..., None], (0, 0), sigma)
    around = colours / np.maximum(weight, 1e-3)
    return np.where(hole[..., None], around, image).round().clip(0, 255).astype(np.uint8)
