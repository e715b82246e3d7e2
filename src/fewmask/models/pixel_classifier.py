"""The style interpreter's pixel classifiers: feature maps of several sizes to one logit per class.

The published form enlarges all maps to the image's size, lays them on top of one another, and
sends each pixel's vector through three linear layers. Enlarging and the first layer are both
linear and commute: W · concat(up(F_l)) = Σ_l up(W_l · F_l). Here the first layer works at each
map's own size, and its few outputs are enlarged instead of the many inputs: along its columns as a
whole, along its rows a strip of pixels at a time, which then goes through the other layers while it
is in the cache.

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
STRIP_PX = 2048
"""So many pixels at a time go through all layers on a CPU."""


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
        layers = self.folded()
        (weight, bias), *later = layers
        first = _FirstLayer(groups, weight.split(self.channels, 1), bias, size)
        maps, (height, width) = groups[0].maps, size
        rows = height if maps.is_cuda else min(height, -(-STRIP_PX // width))
        widths = [len(bias) for _, bias in layers]
        # written to again and again: fresh memory would cost as much as the arithmetic
        strips = [bias.new_empty(rows * width, wide) for wide in widths[:-1]]
        logits = bias.new_empty(len(maps), height * width, widths[-1])
        for image in range(len(maps)):
            for top in range(0, height, rows):
                place = slice(top * width, min(top + rows, height) * width)
                outs = [strip[: place.stop - place.start] for strip in strips]
                outs.append(logits[image, place])
                first.of_rows(image, top, outs[0])
                for (weight, bias), hidden, out in zip(later, outs, outs[1:], strict=False):
                    torch.addmm(bias, hidden.relu_(), weight.T, out=out)
        return logits.unflatten(1, size).permute(0, 3, 1, 2)

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


class _FirstLayer:
    """The first layer's values before its ReLU, for some rows of an image's pixels.

    Args:
        groups: Feature maps by size.
        weights: (width, C) of each map.
        bias: (width,).
        size: Height and width of the image in px.
    """

    def __init__(
        self,
        groups: Sequence[SizeGroup],
        weights: Sequence[Tensor],
        bias: Tensor,
        size: tuple[int, int],
    ) -> None:
        self.size, self.bias = size, bias
        self.full: tuple[Tensor, Tensor] | None = None
        self.coarse: list[tuple[Tensor, Tensor]] = []
        for numbers, maps in groups:
            weight = torch.cat([weights[n] for n in numbers], 1)
            cells = maps.shape[1]
            if tuple(maps.shape[1:3]) == size:
                self.full = maps, weight.T
            else:
                values = functional.linear(maps, weight).permute(0, 3, 1, 2)
                wide = enlarge(values, (cells, size[1])).permute(0, 2, 3, 1)
                shares = enlarge(torch.eye(cells)[None, None], (size[0], cells))[0, 0]
                self.coarse.append((wide.flatten(2), shares.to(wide)))

    def of_rows(self, image: int, top: int, out: Tensor) -> None:
        """Write those of whole rows of pixels from ``top`` on to ``out`` (pixels, width)."""
        height, width = self.size
        bottom = top + len(out) // width
        if self.full is None:
            out.copy_(self.bias)
        else:
            maps, weight = self.full
            torch.addmm(self.bias, maps[image, top:bottom].flatten(0, 1), weight, out=out)
        lines = out.view(bottom - top, -1)
        for values, shares in self.coarse:  # along an axis, an interpolation is a matrix
            cells = values.shape[1]
            ends = ((y + 0.5) * cells / height - 0.5 for y in (top, bottom - 1))
            first, last = (min(max(int(end), 0), cells - 1) for end in ends)
            used = slice(first, last + 2)
            lines.addmm_(shares[top:bottom, used], values[image, used])


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
