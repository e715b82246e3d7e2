"""Score-CAM's part without a gradient: channel masks, and what the network says behind each.

``cam.py`` is the way in. Only one batch of masked images exists at a time: masks are kept at the
layer's size and up-sampled when their turn comes.

Source: Wang et al. 2020, Score-CAM, section 3.
Differs: ``max_masks`` replaces the masks of an image by k-means centroids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fewmask.errors import UsageError


def resize(maps: Tensor, size: Sequence[int], *, antialias: bool = False) -> Tensor:
    """(N, C, h, w) to (N, C, *size), bilinear with half-pixel centres."""
    return interpolate(
        maps, size=tuple(size), mode="bilinear", align_corners=False, antialias=antialias
    )


@dataclass(frozen=True, slots=True, eq=False)
class ChannelMasks:
    """The M different masks of a batch, at the layer's size, and the channels they stand for.

    Attributes:
        maps: (M, h, w) float, in [0, 1] once up-sampled to the image.
        image: (M,) int64, the image that each mask belongs to.
        of_channel: (N, C) int64, the mask that stands for each channel.
        live: (N, C) bool, False for a channel whose map is constant: it has no mask.
    """

    maps: Tensor
    image: Tensor
    of_channel: Tensor
    live: Tensor


def channel_masks(
    activation: Tensor, size: Sequence[int], batch_size: int, max_masks: int | None = None
) -> ChannelMasks:
    """H_k = s(Up(A_k)), before its up-sampling.

    Bilinear up-sampling is linear and keeps constants, so s(Up(A)) = Up((A − min Up(A)) / range
    Up(A)): the mask fits in the layer's (h, w), and so do centroids of masks.

    Args:
        activation: (N, C, h, w) float.
        size: Height and width of the image in pixels.
        batch_size: Maps to up-sample at one time.
        max_masks: At most this many masks per image, by k-means; None for one per channel.
    """
    ranges = [
        torch.stack(torch.aminmax(resize(part, size).flatten(1), dim=1))
        for part in activation.flatten(0, 1)[:, None].split(batch_size)
    ]
    low, high = torch.cat(ranges, dim=1).unflatten(1, activation.shape[:2])[..., None, None]
    span = high - low  # (N, C, 1, 1)
    rounding = 8 * torch.finfo(span.dtype).eps * torch.maximum(low.abs(), high.abs())
    live = (span > rounding)[:, :, 0, 0]
    maps = (activation - low) / torch.where(span > rounding, span, 1)

    of_channel = torch.zeros_like(live, dtype=torch.int64)
    kept: list[Tensor] = []
    image: list[Tensor] = []
    count = 0
    for number, (own, mine) in enumerate(zip(maps, live, strict=True)):
        own, slot = _centroids(own[mine], max_masks)
        of_channel[number, mine] = slot + count
        image.append(torch.full((len(own),), number, device=own.device))
        kept.append(own)
        count += len(own)
    return ChannelMasks(torch.cat(kept), torch.cat(image), of_channel, live)


def _centroids(maps: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """At most ``count`` mean maps (m, h, w), and which of them stands for each map (K,)."""
    if count is None or len(maps) <= count:
        return maps, torch.arange(len(maps), device=maps.device)
    from sklearn.cluster import KMeans  # takes a second to import; few calls need it

    kmeans = KMeans(count, n_init=1, random_state=0).fit(maps.flatten(1).cpu().numpy())
    centres = torch.from_numpy(kmeans.cluster_centers_).to(maps).unflatten(1, maps.shape[1:])
    return centres, torch.from_numpy(kmeans.labels_.astype(np.int64)).to(maps.device)


@dataclass(frozen=True, slots=True, eq=False)
class MaskScores:
    """Asks the network for the score of each image's class behind a mask.

    Attributes:
        network: Image to logits, in evaluation mode.
        image: (N, 3, H, W).
        index: (N,) int64, the class of each image.
        batch_size: Masked images to make at one time.
        as_prob: Whether the score is the softmax over the classes, not the logit.
    """

    network: nn.Module
    image: Tensor
    index: Tensor
    batch_size: int
    as_prob: bool = False

    def masked(self, masks: ChannelMasks) -> Tensor:
        """(M,): f_c(X ∘ H) of every mask and the image it belongs to."""
        scores = [masks.maps.new_zeros(0)]
        for maps, image in zip(
            masks.maps.split(self.batch_size), masks.image.split(self.batch_size), strict=True
        ):
            hidden = resize(maps[:, None], self.image.shape[-2:]).to(self.image.dtype)
            scores.append(self._score(self.image[image] * hidden, self.index[image]))
        return torch.cat(scores)

    def whole(self, image: Tensor) -> Tensor:
        """(N,): f_c of images (N, 3, H, W) as they are."""
        parts = zip(image.split(self.batch_size), self.index.split(self.batch_size), strict=True)
        return torch.cat([self._score(part, index) for part, index in parts])

    def _score(self, image: Tensor, index: Tensor) -> Tensor:
        logits = self.network(image)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.as_prob and logits.shape[1] == 1:
            raise UsageError.of(
                "CAM-SETTING",
                where="weighting",
                found="'class_softmax' with a single output, whose softmax is always 1",
                expected="two outputs or more",
                fix="use 'cic'",
            )
        return (logits.softmax(1) if self.as_prob else logits).gather(1, index[:, None])[:, 0]


def score_weights(
    scores: MaskScores, masks: ChannelMasks, baseline: Tensor | None, *, weighting: str
) -> Tensor:
    """(N, C, 1, 1): the channels' weights; 0 for a channel without a mask.

    Args:
        scores: What to ask the network.
        masks: Of all channels.
        baseline: X_b, broadcast to the image; None is zeros.
        weighting: ``cic``, the increase of the score over the baseline; ``softmax`` of an image's
            scores over its channels; ``class_softmax``, the scores as they are (``as_prob``).
    """
    masked = scores.masked(masks)
    if not len(masked):
        return masked.new_zeros(*masks.live.shape, 1, 1)
    weights = masked[masks.of_channel]  # (N, C)
    if weighting == "softmax":
        weights = weights.masked_fill(~masks.live, -torch.inf).softmax(1)
    elif weighting == "cic":
        blank = torch.zeros_like(scores.image) if baseline is None else baseline.to(scores.image)
        weights = weights - scores.whole(blank.expand_as(scores.image))[:, None]
    return torch.where(masks.live, weights, 0)[:, :, None, None]
