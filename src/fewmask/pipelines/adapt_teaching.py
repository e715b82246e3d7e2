"""Part of pipeline ``adapt``, ours: a teacher labels target images while the student learns.

The teacher is the student's moving average. Of its labels each class keeps its surest pixels, the
rest is ignored; half of the classes of a labelled source image are pasted over the target image, so
that rare classes and their outlines are always taught by true labels too; and source images are
drawn by what is rare on them.

Source: Tarvainen & Valpola 2017 (mean teacher), Tranheden et al. 2021 (DACS), Zou et al. 2018
(class-balanced self-training), Hoyer et al. 2022 (DAFormer). Written from the papers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.mixing import class_mix_region, paste
from fewmask.masks.confidence import class_thresholds, confident_mask


class Lesson(NamedTuple):
    """What the student is taught on the target domain.

    Attributes:
        image: (N, 3, H, W) float32 in [0, 1].
        target: (N, H, W) int64 ids and 255.
        weight: (N, H, W) float32 in [0, 1], factor of each pixel in the loss.
    """

    image: Tensor
    target: Tensor
    weight: Tensor


def pseudo_labels(probs: Tensor, keep: float) -> Tensor:
    """The teacher's labels, of each class the surest pixels of the batch.

    Args:
        probs: (N, C, H, W) float in [0, 1], the teacher's.
        keep: Share of each class's pixels that is kept, in (0, 1].

    Returns:
        (N, H, W) int64 ids and 255, on the device of ``probs``.
    """
    images = probs.float().cpu().numpy()
    thresholds = class_thresholds(images, probs.shape[1], keep)
    masks = np.stack([confident_mask(image, thresholds) for image in images])
    return torch.from_numpy(masks).long().to(probs.device)


def mixed_lesson(
    source_image: Tensor,
    source_target: Tensor,
    image: Tensor,
    labels: Tensor,
    rng: np.random.Generator,
) -> Lesson:
    """Paste half of the classes of each source image over a target image.

    Pixels that the teacher has labelled weigh as much as it has labelled of the whole image: while
    it is unsure, the student learns from it slowly. Pasted pixels weigh 1.

    Args:
        source_image: (N, 3, H, W) float in [0, 1].
        source_target: (N, H, W) int64 true ids and 255.
        image: (M, 3, H, W) float in [0, 1], target images; each is paired with source ``i % N``.
        labels: (M, H, W) int64 from :func:`pseudo_labels`.
        rng: Draws the classes.

    Source: Tranheden et al. 2021, section 3.2 and eq. 2; the weight counts what is kept instead of
        what is above one threshold for all classes.
    """
    lessons = []
    for i in range(len(image)):
        truth = source_target[i % len(source_target)]
        region = class_mix_region(truth, rng)
        trust = (labels[i] != IGNORE_INDEX).float().mean()
        lessons.append(
            Lesson(
                paste(region, source_image[i % len(source_image)], image[i]),
                paste(region, truth, labels[i]),
                paste(region, torch.ones_like(trust), trust).to(image.dtype),
            )
        )
    return Lesson(*(torch.stack(parts) for parts in zip(*lessons, strict=True)))
