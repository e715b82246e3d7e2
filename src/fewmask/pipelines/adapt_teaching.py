"""Part of pipeline ``adapt``, ours: a teacher labels target images while the student learns.

The teacher is the student's moving average. Its labels of an image weigh as much as it is sure of
them, and within the image those weigh less that are not among the surest of their class. Half of
the classes of a labelled source image are pasted over the target image, so that rare classes and
their outlines are always taught by true labels too; and source images are drawn by what is rare on
them.

Source: Tarvainen & Valpola 2017 (mean teacher), Tranheden et al. 2021 (DACS), Zou et al. 2018
(class-balanced self-training), Hoyer et al. 2022 (DAFormer). Written from the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.mixing import class_mix_region, paste
from fewmask.data.transforms import Augmentation, to_unit
from fewmask.losses.segmentation import cross_entropy
from fewmask.masks.confidence import class_thresholds, confident_mask
from fewmask.pipelines.adapt_config import TeacherSettings
from fewmask.pipelines.adapt_labels import BATCH, chunks
from fewmask.randomness import generator
from fewmask.training.fit import Teach
from fewmask.training.signals import stop_if_asked
from fewmask.training.workspace import Workspace

COLOUR = 0.4
"""Strength of the changes of colour under which the student has to agree with its teacher."""


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
    if keep == 1:  # each step would sort what it keeps anyway
        return probs.argmax(1)
    images = probs.float().cpu().numpy()
    thresholds = class_thresholds(images, probs.shape[1], keep)
    masks = np.stack([confident_mask(image, thresholds) for image in images])
    return torch.from_numpy(masks).long().to(probs.device)


def trust_in(probs: Tensor, labels: Tensor, sure_above: float) -> Tensor:
    """How far to believe the labels of each image: the share of them that are sure.

    Args:
        probs: (N, C, H, W) float in [0, 1], the teacher's.
        labels: (N, H, W) int64 from :func:`pseudo_labels`; 255 is never sure.
        sure_above: Probability above which a pixel is sure; 0 counts what is labelled.

    Returns:
        (N,) float32 in [0, 1].

    Source: Tranheden et al. 2021, eq. 2.
    """
    sure = (probs.amax(1) > sure_above) & (labels != IGNORE_INDEX)
    return sure.float().mean((1, 2))


def label_weights(labels: Tensor, trust: Tensor, unsure_weight: float) -> Tensor:
    """A weight for each label: the trust in its image, a fraction of it where it was left out.

    Labels of which the teacher is unsure are where a rare class may be missed: fully weighed, they
    unlearn it. Left out, nothing holds two large classes apart, and one grows into the other.

    Args:
        labels: (N, H, W) int64 from :func:`pseudo_labels`; 255 where a label was left out.
        trust: (N,) float in [0, 1] from :func:`trust_in`.
        unsure_weight: That fraction, in [0, 1].

    Returns:
        (N, H, W) float in [0, 1].
    """
    share = torch.where(labels == IGNORE_INDEX, unsure_weight, 1.0)
    return trust[:, None, None] * share


def mixed_lesson(
    source_image: Tensor,
    source_target: Tensor,
    image: Tensor,
    labels: Tensor,
    weights: Tensor,
    rng: np.random.Generator,
) -> Lesson:
    """Paste half of the classes of each source image over a target image.

    The teacher's pixels keep their weights: while it is unsure, the student learns from it slowly.
    Pasted pixels weigh 1.

    Args:
        source_image: (N, 3, H, W) float in [0, 1].
        source_target: (N, H, W) int64 true ids and 255.
        image: (M, 3, H, W) float in [0, 1], target images; each is paired with source ``i % N``.
        labels: (M, H, W) int64 ids and 255, the teacher's.
        weights: (M, H, W) float in [0, 1] from :func:`label_weights`.
        rng: Draws the classes.

    Source: Tranheden et al. 2021, section 3.2.
    """
    lessons = []
    for i in range(len(image)):
        truth = source_target[i % len(source_target)]
        region = class_mix_region(truth, rng)
        lessons.append(
            Lesson(
                paste(region, source_image[i % len(source_image)], image[i]),
                paste(region, truth, labels[i]),
                paste(region, torch.ones_like(weights[i]), weights[i]).to(image.dtype),
            )
        )
    return Lesson(*(torch.stack(parts) for parts in zip(*lessons, strict=True)))


def teacher(
    work: Workspace, rows: Sequence[int], name: str, prior: np.ndarray | None = None
) -> Teach:
    """The loss on target images of one step, taught by the network's own moving average.

    Args:
        work: Images and settings.
        rows: Target images; a step draws ``adapt_batch_size`` of them.
        name: Of the training, to draw by.
        prior: (C, H, W) float32 factor of the teacher's probabilities, moved with each image.
    """
    config: TeacherSettings = work.config
    flips = config.seen_from_above
    weak = Augmentation(flips=flips, mirror=True, zoom=config.segment_zoom)
    strong = Augmentation(colour=COLOUR)

    def teach(
        step: int,
        image: Tensor,
        target: Tensor,
        network: Callable[[Tensor], Tensor],
        average: nn.Module,
    ) -> Tensor:
        names = (config.seed, name, "teach", step)
        rng = generator(*names)
        drawn = rng.choice(rows, config.adapt_batch_size, len(rows) < config.adapt_batch_size)
        seen = [to_unit(work.images[row]) for row in drawn]
        seen = [weak(x, None, *names, "weak", i)[0] for i, x in enumerate(seen)]
        shown = _for_network(torch.stack(seen).to(image.device))
        _prepare_teacher(average, by_batch=config.adapt_target_statistics)
        with torch.no_grad():
            probs = average(shown).softmax(1)
        if prior is not None:  # the same names draw the same mirror image and zoom
            place = torch.from_numpy(prior)
            moved = [weak(place, None, *names, "weak", i)[0] for i in range(len(seen))]
            probs = probs * torch.stack(moved).to(probs.device)
            probs = probs / probs.sum(1, keepdim=True).clamp(min=1e-12)
        labels = pseudo_labels(probs, config.adapt_keep)
        trust = trust_in(probs, labels, config.adapt_sure_above)
        weights = label_weights(labels, trust, config.adapt_unsure_weight)
        if config.adapt_unsure_weight:
            labels = probs.argmax(1)
        lesson = mixed_lesson(image, target, shown, labels, weights, rng)
        altered = [strong(x, None, *names, "strong", i)[0] for i, x in enumerate(lesson.image)]
        logits = network(_for_network(torch.stack(altered)))
        loss = cross_entropy(logits, lesson.target, pixel_weight=lesson.weight)
        return config.adapt_weight * loss

    return teach


def _prepare_teacher(network: nn.Module, *, by_batch: bool) -> None:
    """Evaluation mode, but with batch normalisation by the batch; no statistic is changed."""
    network.eval()
    for module in network.modules() if by_batch else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0
            module.train()


def use_statistics_of(network: nn.Module, images: np.ndarray, rows: Sequence[int]) -> None:
    """Normalise by the statistics of these images from now on; no weight is changed.

    They are the means over batches of nearly equal size.

    Args:
        network: With batch normalisation; stays in evaluation mode, so that nothing is dropped.
        images: (N, H, W, 3) uint8.
        rows: Which of them; two or more, as some networks normalise a single value of each image.

    Source: Li et al. 2018, "Adaptive Batch Normalization".
    """
    device = next(network.parameters()).device
    network.eval()
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over the batches
        layer.train()
    for chunk in np.array_split(np.asarray(rows), -(-len(rows) // BATCH)):
        stop_if_asked()
        with torch.no_grad():
            network(_for_network(to_unit(images[chunk]).to(device)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


def information(network: nn.Module, images: np.ndarray, rows: Sequence[int]) -> float:
    """What a network's labels tell about a pixel: H(mean of p) − mean of H(p), in nats.

    It grows with every pixel that the network is surer of, and falls when a class eats another up:
    self-training does both, and which of them prevails is seen here without a mask.

    Args:
        network: In eval mode.
        images: (N, H, W, 3) uint8.
        rows: Which of them.

    Returns:
        Mutual information of pixel and class, 0 to log C.

    Source: Bridle et al. 1991, eq. 5; to choose adapted networks by, Musgrave et al. 2022.
    """
    device = next(network.parameters()).device
    total, entropy, pixels = torch.zeros(()), 0.0, 0
    for chunk in chunks(rows):
        stop_if_asked()
        with torch.no_grad():
            logits = network(_for_network(to_unit(images[chunk]).to(device))).cpu().double()
        log_p = logits.log_softmax(1)  # (N, C, H, W)
        p = log_p.exp()
        total = total + p.sum((0, 2, 3))
        entropy -= float((p * log_p).sum())
        pixels += log_p[:, 0].numel()
    mean = total / pixels
    return float(-torch.special.xlogy(mean, mean).sum() - entropy / pixels)


def _for_network(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)
