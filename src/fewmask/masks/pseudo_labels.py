"""Class scores to training targets and to final masks, through a refinement on the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.masks.refine import refine


def pseudo_target(
    image: np.ndarray,
    scores: np.ndarray,
    tags: np.ndarray,
    *,
    method: str,
    cuts: Sequence[float],
    band: float = 0.0,
    band_px: int = 0,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """A training target from evidence: the refined mask of each class, 255 where in doubt.

    A class that is known to be there but whose mask comes out empty leaves nothing certain: the
    target of the round before stays, or all pixels that no other class claims are 255.

    Args:
        image: (H, W, 3) uint8.
        scores: (K, H, W) float in [0, 1].
        tags: (K,) bool, the classes that the image is known to have; others are not looked at.
        method: One of :data:`fewmask.masks.refine.METHODS`.
        cuts: For each class, the score at which object and background are equally likely.
        band: Half-width in score of the band around the cut that is ignored.
        band_px: Pixels on either side of a mask's outline that are ignored.
        before: (H, W) uint8, the target that this one would replace.

    Returns:
        (H, W) uint8 with 0, 1..K and 255.
    """
    masks, doubt = np.zeros(scores.shape, bool), np.zeros(scores.shape[1:], bool)
    for k in np.flatnonzero(tags).tolist():
        masks[k] = refine(image, scores[k], method=method, cut=cuts[k])
        if band:
            doubt |= np.abs(scores[k] - cuts[k]) <= band
        if band_px:
            doubt |= _near_outline(masks[k], band_px)
    ids = class_ids(masks, scores)
    if (tags & ~masks.any((1, 2))).any():
        if before is not None:
            return before
        doubt |= ids == 0
    return np.where(doubt, IGNORE_INDEX, ids).astype(np.uint8)


def refine_classes(image: np.ndarray, probs: np.ndarray, *, method: str = "none") -> np.ndarray:
    """The most probable class of each pixel, each class's mask refined on the image.

    Args:
        image: (H, W, 3) uint8.
        probs: (K + 1, H, W) float, background first.
        method: One of :data:`fewmask.masks.refine.METHODS`; ``none`` is the plain arg max.

    Returns:
        (H, W) uint8 ids.
    """
    ids = probs.argmax(0).astype(np.uint8)
    if method == "none":
        return ids
    scores = against_the_rest(probs)
    masks = [
        refine(image, score, method=method, cut=0.5)
        if (ids == k).any()
        else np.zeros(ids.shape, bool)
        for k, score in enumerate(scores, start=1)
    ]
    return class_ids(np.stack(masks), scores)


def only_tagged(probs: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Probabilities (K + 1, H, W) with zero for the classes that the tags (K,) bool deny."""
    return np.where(np.concatenate([[True], tags])[:, None, None], probs, 0)


def against_the_rest(probs: np.ndarray) -> np.ndarray:
    """The score of each class against its strongest rival: p / (p + highest other p).

    It is above one half where the class is the most probable, whatever the number of classes.

    >>> probs = np.array([0.25, 0.30, 0.45]).reshape(3, 1, 1)
    >>> [round(float(score), 2) for score in against_the_rest(probs).ravel()]
    [0.4, 0.6]

    Args:
        probs: (K + 1, H, W) float, background first; zero where a class is ruled out.

    Returns:
        (K, H, W) float32 in [0, 1].
    """
    probs = probs.astype(np.float32)
    if len(probs) == 2:
        return probs[1:]
    second, first = np.partition(probs, -2, axis=0)[-2:]
    scores = probs[1:]
    rivals = np.where(scores == first, second, first)
    return scores / np.maximum(scores + rivals, np.finfo(np.float32).tiny)


def class_ids(masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Masks (K, H, W) bool to ids (H, W) uint8; the highest score wins where several meet.

    >>> masks = np.array([[[True, False]], [[True, False]]])
    >>> class_ids(masks, np.array([[[0.2, 0.0]], [[0.9, 0.0]]])).tolist()
    [[2, 0]]
    """
    best = np.where(masks, scores + 1e-6, 0).argmax(0) + 1
    return np.where(masks.any(0), best, 0).astype(np.uint8)


def _near_outline(mask: np.ndarray, band_px: int) -> np.ndarray:
    from scipy import ndimage

    square = np.ones((3, 3), bool)
    grown = ndimage.binary_dilation(mask, square, iterations=band_px)
    shrunk = ndimage.binary_erosion(mask, square, iterations=band_px, border_value=1)
    return np.asarray(grown & ~shrunk)
