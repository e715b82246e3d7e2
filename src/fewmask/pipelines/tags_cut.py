"""Where to cut the evidence without a single mask: ask the classifier.

A mask that is too small leaves enough of the object outside for the classifier to see it there; a
mask that is too large hides all of it and shows everything. Between the two lies the cut at which
*the object alone* and *the image without the object* convince the classifier equally. That cut is
taken. It depends on tags only.

On 60 tiles of the Bijie training part (one seed) the rule gave a cut of .72 and refined masks of
IoU .49, the best cut of all, .80, masks of .52.

Source: ours; the two erasures are those of Fong & Vedaldi 2017, section 4 (deletion, preservation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from fewmask.data.transforms import to_unit
from fewmask.masks.refine import refine
from fewmask.pipelines.tags_evidence import EvidenceMaker
from fewmask.randomness import generator
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import Workspace

CUTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
IMAGES = 48


def balanced_cut(
    work: Workspace,
    stage: Stage,
    rows: Sequence[int],
    scores_of: Callable[[int], np.ndarray],
) -> float:
    """The cut of the evidence at which object and rest convince the classifier equally.

    Args:
        work: Settings, images and the trained classifier.
        stage: Receives ``cut.json`` with the curve.
        rows: Training images with a tag; :data:`IMAGES` of them are drawn.
        scores_of: A row's evidence, (K, S, S) float32 in [0, 1].

    Returns:
        A cut between the first and last of :data:`CUTS`.
    """
    maker = EvidenceMaker.of(work)
    order = generator(work.config.seed, stage.label, "cut").permutation(len(rows))
    chosen = sorted(rows[i] for i in order[:IMAGES])
    alone, without = [], []
    for cut in CUTS:
        seen, hidden = [], []
        for row in chosen:
            image, k = work.images[row], int(work.tags[row].argmax())
            score = scores_of(row)[k]
            mask = refine(image, score, method=work.config.pseudo_refine, cut=cut)
            pair = np.stack([filled(image, ~mask), filled(image, mask)])
            probs = maker.tag_probs(to_unit(pair))[:, k]
            seen.append(probs[0])
            hidden.append(probs[1])
        alone.append(float(np.mean(seen)))
        without.append(float(np.mean(hidden)))
    cut = crossing(CUTS, np.subtract(alone, without).tolist())
    stage.write_json(
        "cut.json",
        {"cut": cut, "cuts": CUTS, "object alone": alone, "without the object": without},
    )
    return cut


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
