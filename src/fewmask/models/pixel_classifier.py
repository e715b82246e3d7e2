"""The style interpreter's pixel classifiers: feature maps of several sizes to one logit per class.

The published form enlarges all maps to the image's size, lays them on top of one another, and
sends each pixel's vector through three linear layers. Enlarging and the first layer are both
linear and commute: W · concat(up(F_l)) = Σ_l up(W_l · F_l). Here the first layer works at each
map's own size, and its few outputs are enlarged instead of the many inputs.

Source: Zhang et al. 2021 (DatasetGAN), section 3.2; widths and order of the layers from the factory
pipeline's source, section II-A. Written from the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (256, 128)
"""Of the hidden layers, as published."""
SMALL = 8
"""Maps so many times smaller than the image, or more, are enlarged together."""


class SizeGroup(NamedTuple):
    """Feature maps of one size.

    Attributes:
        numbers: Which maps they are.
        maps: (N, h, w, C) float, their channels one after another.
    """

    numbers: list[int]
    maps: Tensor


class PixelClassifier(nn.Module):
    """Three linear layers on a pixel's features, batch normalisation and ReLU between them.

    Args:
        channels: Of each feature map.
        num_classes: Background included.
        widths: Of the two hidden layers.

    Differs: The printed first width, 2,496, is half of the input's; all 4,992 channels are read.
    """

    def __init__(
        self, channels: Sequence[int], num_classes: int, widths: tuple[int, int] = WIDTHS
    ) -> None:
        super().__init__()
        self.channels = list(channels)
        self.first = nn.Linear(sum(channels), widths[0])
        self.rest = nn.Sequential(
            nn.BatchNorm1d(widths[0]),
            nn.ReLU(inplace=True),
            nn.Linear(*widths),
            nn.BatchNorm1d(widths[1]),
            nn.ReLU(inplace=True),
            nn.Linear(widths[1], num_classes),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, as Kaiming He et al. 2015, eq. 10."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of pixels (P, sum of channels) -> logits (P, num_classes)."""
        return self.rest(self.first(pixels))

    @torch.no_grad()
    def of_images(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits of all pixels of images, by the running statistics, each map at its own size.

        Args:
            features: (N, C, h, w) float of each map; C as in ``channels``.
            size: Height and width of the result in px.

        Returns:
            (N, num_classes, H, W).
        """
        return self.of_groups(by_size(features), size)

    @torch.no_grad()
    def of_groups(self, groups: Sequence[SizeGroup], size: tuple[int, int]) -> Tensor:
        """The same of maps that are put together by size already: :func:`by_size`."""
        (weight, bias), *later = self.folded()
        hidden = _first_layer(groups, weight.split(self.channels, 1), bias, size)
        for weight, bias in later:
            hidden = functional.linear(hidden.relu_(), weight, bias)
        return hidden.permute(0, 3, 1, 2)

    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each linear layer with the normalisation after it, in eval mode."""
        layers: list[tuple[Tensor, Tensor]] = []
        for layer in (self.first, *self.rest):
            if isinstance(layer, nn.Linear):
                layers.append((layer.weight, layer.bias))
            elif isinstance(layer, nn.BatchNorm1d):
                weight, bias = layers.pop()
                assert layer.running_mean is not None
                assert layer.running_var is not None
                factor = layer.weight * torch.rsqrt(layer.running_var + layer.eps)
                centred = (bias - layer.running_mean) * factor + layer.bias
                layers.append((weight * factor[:, None], centred))
        return layers


def by_size(features: Sequence[Tensor]) -> list[SizeGroup]:
    """Feature maps (N, C, h, w) of one size as one tensor each."""
    members: dict[tuple[int, ...], list[int]] = {}
    for number, maps in enumerate(features):
        members.setdefault(tuple(maps.shape[2:]), []).append(number)
    return [
        SizeGroup(numbers, torch.cat([features[n].permute(0, 2, 3, 1) for n in numbers], 3))
        for numbers in members.values()
    ]


def _first_layer(
    groups: Sequence[SizeGroup], weights: Sequence[Tensor], bias: Tensor, size: tuple[int, int]
) -> Tensor:
    """Hidden values (N, H, W, width) of all pixels before the first ReLU."""
    parts = {}
    for numbers, maps in groups:
        weight = torch.cat([weights[n] for n in numbers], 1)
        own = (maps.shape[1], maps.shape[2])
        parts[own] = functional.linear(maps, weight, bias if own == size else None)
    total = parts.pop(size, None)
    if total is None:
        total = bias.repeat(len(groups[0].maps), *size, 1)
    small = [part for own, part in parts.items() if SMALL * own[1] <= size[1]]
    for own, part in parts.items():
        if SMALL * own[1] > size[1]:
            total += enlarge(part.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    return _add_enlarged(total, small) if small else total


def _add_enlarged(total: Tensor, small: Sequence[Tensor]) -> Tensor:
    """Add maps (N, h, w, C), enlarged, to ``total`` (N, H, W, C), in place.

    Along each axis an interpolation is a matrix; of small maps all take one product.
    """
    count, height, width, channels = total.shape
    rows = [_interpolation(m.shape[1], height).to(m) @ m.flatten(2) for m in small]
    stacked = torch.cat([r.reshape(count * height, -1, channels) for r in rows], 1)
    columns = torch.cat([_interpolation(m.shape[2], width) for m in small], 1).to(total)
    spread = columns.expand(count * height, -1, -1)
    total.view(count * height, width, channels).baddbmm_(spread, stacked)
    return total


def _interpolation(cells: int, of: int) -> Tensor:
    """(of, cells): each row the shares of cells in a pixel, as :func:`enlarge` takes them."""
    return enlarge(torch.eye(cells)[None, None], (of, cells))[0, 0]


class Labels(NamedTuple):
    """What an ensemble says of images.

    Attributes:
        mask: (N, H, W) int64, the class that most of its members name; of equally many the first.
        disagreement: (N, H, W) float in nats; see :func:`disagreement`.
    """

    mask: Tensor
    disagreement: Tensor


@torch.no_grad()
def label(
    classifiers: Sequence[PixelClassifier], features: Sequence[Tensor], size: tuple[int, int]
) -> Labels:
    """Labels of all pixels of images by an ensemble; no more than one member's values in memory.

    Args:
        classifiers: In eval mode.
        features: (N, C, h, w) float of each map.
        size: Height and width of the labels in px.
    """
    groups = by_size(features)
    votes = mean = within = torch.zeros(())
    for number, classifier in enumerate(classifiers):
        logits = classifier.of_groups(groups, size)
        vote = functional.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(torch.uint8)
        probs = logits.softmax(1)
        entropy = _entropy(probs)
        if number == 0:
            votes, mean, within = vote, probs, entropy
        else:
            votes, mean, within = votes + vote, mean + probs, within + entropy
    count = len(classifiers)
    spread = (_entropy(mean / count) - within / count).clamp(min=0)
    return Labels(votes.argmax(1), spread)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Feature maps (N, C, h, w) to (N, C, *size) by bilinear interpolation."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def features_at(features: Sequence[Tensor], place: Tensor, size: tuple[int, int]) -> Tensor:
    """The vectors of some pixels of one image, as if all maps had been enlarged.

    Args:
        features: (h, w, C) of each map, channels last, of any precision; only what is needed is
            read, so they may be memory-mapped.
        place: (P, 2) int64, row and column of each pixel in the image.
        size: Height and width of the image in px.

    Returns:
        (P, sum of channels) float32.
    """
    vectors = []
    for maps in features:
        (row, down), (column, right) = (
            _between(place[:, axis], size[axis], maps.shape[axis]) for axis in range(2)
        )
        read = torch.zeros((), device=maps.device)
        for y, share_y in ((row, 1 - down), (row + 1, down)):
            for x, share_x in ((column, 1 - right), (column + 1, right)):
                share = share_y * share_x
                if share.any():
                    corner = maps[y.clamp(max=maps.shape[0] - 1), x.clamp(max=maps.shape[1] - 1)]
                    read = read + corner.float() * share[:, None]
        vectors.append(read)
    return torch.cat(vectors, 1)


def _between(place: Tensor, of: int, cells: int) -> tuple[Tensor, Tensor]:
    """The cell before each place along an axis of ``of`` px, and how far it is to the next one."""
    position = ((place + 0.5) * cells / of - 0.5).clamp(0, cells - 1)
    cell = position.floor()
    return cell.long(), position - cell


def disagreement(probs: Tensor) -> Tensor:
    """Jensen-Shannon divergence of classifiers, per pixel: H(mean of p) − mean of H(p).

    Args:
        probs: (E, N, K, H, W) float in [0, 1], of each of E classifiers.

    Returns:
        (N, H, W) float in nats, 0 where all agree, at most log E.

    Source: Zhang et al. 2021 (DatasetGAN), section 3.2; Beluch et al. 2018.
    """
    within = torch.stack([_entropy(p) for p in probs]).mean(0)
    return (_entropy(probs.mean(0)) - within).clamp(min=0)


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(1)
