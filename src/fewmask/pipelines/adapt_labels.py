"""Part of pipeline ``adapt``: a network's labels of target images, to train on in the next round.

As published, every pixel is a label. Ours are made at several sizes, of which the larger ones see
what is small; of each class only the surest pixels are labels at once, and the others get the label
that a random walk over similar pixels brings them. That is how the labels come to know more than
the network: where an object ends is seen in the image.

Source: Zou et al. 2018 (class-balanced self-training), Grady 2006 (random walker). Written from the
papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.transforms import to_unit
from fewmask.masks.confidence import class_thresholds, confident_mask
from fewmask.masks.refine import walk_classes
from fewmask.training.inference import predict_probs
from fewmask.training.signals import stop_if_asked

BATCH = 8
"""Images at once, where nothing is trained."""


@dataclass(frozen=True)
class Labelling:
    """How a network's labels of images are made.

    Attributes:
        keep: Share of each class's pixels, the surest over all images, that is kept, in (0, 1].
        views: See :func:`fewmask.training.inference.predict_probs`.
        sizes: Scales of the images whose probabilities are averaged.
        walk: Give what is not kept to the class that a walk over similar pixels reaches first,
            instead of leaving it out.
        prior: (C, H, W) float32 factor of the probabilities.
    """

    keep: float = 1.0
    views: str = "single"
    sizes: tuple[float, ...] = (1.0,)
    walk: bool = False
    prior: np.ndarray | None = None


class MeanOfNetworks(nn.Module):
    """Several segmenters as one, whose probabilities are the mean of theirs.

    Where they were trained from different random numbers, their mistakes differ more than what they
    have learned does.

    Args:
        networks: In eval mode, one or more; image (N, 3, H, W) to logits (N, C, H, W).

    Source: Lakshminarayanan et al. 2017, "Deep Ensembles".
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) float in [0, 1] -> log of the mean probabilities (N, C, H, W)."""
        log_p = torch.stack([network(image).log_softmax(1) for network in self.networks])
        return log_p.logsumexp(0) - math.log(len(self.networks))


RARE = 0.02
"""A class with a smaller share of a network's labels loses no pixel to a walk: it is thin, and a
walk comes from all sides."""


def label_images(
    network: nn.Module,
    images: np.ndarray,
    rows: Sequence[int],
    num_classes: int,
    how: Labelling,
) -> np.ndarray:
    """A network's labels of images.

    Args:
        network: In eval mode.
        images: (N, H, W, 3) uint8.
        rows: Which of them.
        num_classes: C.
        how: Views, sizes, and which labels to believe.

    Returns:
        (len(rows), H, W) uint8 ids and 255.
    """

    def probs() -> Iterator[np.ndarray]:
        for chunk in chunks(rows):
            stop_if_asked()
            found = _probs_at_sizes(network, to_unit(images[chunk]), how).numpy()
            if how.prior is not None:
                found = found * how.prior
                found = found / found.sum(1, keepdims=True).clip(min=1e-12)
            yield from found

    counts = np.zeros(num_classes, np.int64)

    def counted() -> Iterator[np.ndarray]:
        for image in probs():
            counts[:] += np.bincount(image.argmax(0).ravel(), minlength=num_classes)
            yield image

    thresholds = np.zeros(num_classes)
    if how.keep < 1:  # a second pass is cheaper than keeping all probabilities
        thresholds = class_thresholds(counted(), num_classes, how.keep)
    rare = counts < RARE * counts.sum()
    labels = np.empty((len(rows), *images.shape[1:3]), np.uint8)
    for i, image in enumerate(probs()):
        labels[i] = confident_mask(image, thresholds)
        if how.walk:
            best, reached = image.argmax(0), walk_classes(images[rows[i]], labels[i])
            labels[i] = np.where(rare[best] & (reached != best), IGNORE_INDEX, reached)
    return labels


def chunks(rows: Sequence[int]) -> list[list[int]]:
    """The rows in their order, ``BATCH`` at a time."""
    return [list(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]


def _probs_at_sizes(network: nn.Module, image: Tensor, how: Labelling) -> Tensor:
    """(N, C, H, W) float32 in [0, 1], the mean over the sizes."""
    size, total = image.shape[2:], torch.zeros(())
    for scale in how.sizes:
        seen = image
        if scale != 1:
            wanted = [max(1, round(side * scale)) for side in size]
            seen = functional.interpolate(image, wanted, mode="bilinear", antialias=True)
        probs = predict_probs(network, seen, views=how.views)
        total = total + functional.interpolate(probs, size, mode="bilinear")
    return total / len(how.sizes)
