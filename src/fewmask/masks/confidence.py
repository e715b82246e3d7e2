"""Which pseudo-labels to believe: the surest pixels of each class, the others ignored; NumPy only.

A single threshold for all classes keeps road and sky and drops poles and riders, of which no
network is ever as sure. So each class keeps the same share of its own pixels.

Source: Zou et al. 2018 ("CBST"), sections 4.1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import gaussian_filter

from fewmask.conventions import IGNORE_INDEX

BINS = 4096
SUREST = 1e-7
"""Certainties are counted in ``BINS`` steps that are even in log(1 - p), down to a doubt of
``SUREST``: a trained network is sure of road to many nines, and they have to be told apart."""


def class_thresholds(probs: Iterable[np.ndarray], num_classes: int, keep: float) -> np.ndarray:
    """For each class, the confidence above which lies the share ``keep`` of its pixels.

    Args:
        probs: Of each image (C, H, W) float in [0, 1]; the images are passed through once.
        num_classes: C.
        keep: Share of the pixels of each class, over all images, that is to be kept, in (0, 1].

    Returns:
        (C,) float64 in [0, 1]; 0 for a class that is predicted nowhere. Pixels within one step of
        the threshold (0.4 % of the doubt 1 - p) are all kept, so that a little more than ``keep``
        may be; of a class that is surer than ``1 - SUREST`` everywhere, all is.

    >>> sure = np.array([[[0.9, 0.8, 0.7, 0.6]], [[0.1, 0.2, 0.3, 0.4]]])
    >>> float(class_thresholds([sure], 2, 0.5)[0].round(2))
    0.8
    """
    counts = np.zeros((num_classes, BINS), np.int64)
    for image in probs:
        label, step = image.argmax(0), _step_of(image.max(0))
        flat = np.bincount((label * BINS + step).ravel(), minlength=num_classes * BINS)
        counts += flat.reshape(num_classes, BINS)
    surest_first = counts[:, ::-1].cumsum(1)  # (C, BINS), pixels at or above each step
    wanted = np.ceil(keep * surest_first[:, -1:])
    steps_down = (surest_first < wanted).sum(1)
    lowest = 1 - SUREST ** ((BINS - 1 - steps_down) / BINS)
    return np.where(surest_first[:, -1] > 0, lowest, 0.0)


def _step_of(confidence: np.ndarray) -> np.ndarray:
    """0 for a confidence of 0, ``BINS - 1`` for ``1 - SUREST`` or more; even in log(1 - p)."""
    doubt = np.maximum(1 - confidence.astype(np.float64), SUREST)
    return np.minimum(np.log(doubt) / np.log(SUREST) * BINS, BINS - 1).astype(np.int64)


def place_prior(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """How probable each class is at each place, counted on masks: the sky is above, the road below.

    Counts are smoothed by a Gaussian of a fifteenth of the height, and mirrored left to right.

    Args:
        targets: (N, H, W) uint8 ids, 255 = ignore.
        num_classes: C.

    Returns:
        (C, H, W) float32 in (0, 1], sums to 1 over C.

    Source: Zou et al. 2018, section 4.2 and its supplement (70 px at a height of 1,052).
    Differs: Mirrored, as training images are; a thousandth is added, so that nothing is impossible.
    """
    counts = np.stack([(targets == k).mean(0) for k in range(num_classes)])
    smooth = gaussian_filter(counts, (0, *(targets.shape[1] / 15,) * 2))
    prior = smooth + smooth[:, :, ::-1] + 1e-3
    return (prior / prior.sum(0)).astype(np.float32)


def confident_mask(probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The most probable class of each pixel, 255 where it is less sure than its class's threshold.

    Args:
        probs: (C, H, W) float in [0, 1].
        thresholds: (C,) from :func:`class_thresholds`.

    Returns:
        (H, W) uint8 ids and 255.
    """
    label, confidence = probs.argmax(0), probs.max(0).astype(np.float64)
    sure = confidence >= thresholds[label] - 1e-12  # the threshold itself is a rounded power
    return np.where(sure, label, IGNORE_INDEX).astype(np.uint8)
