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

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (256, 128)
"""Of the hidden layers, as published."""


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
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of pixels (P, sum of channels) -> logits (P, num_classes)."""
        return self.rest(self.first(pixels))

    def of_images(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits of all pixels of images, with the first layer at each map's own size.

        Args:
            features: (N, C, h, w) float of each map; C as in ``channels``.
            size: Height and width of the result in px.

        Returns:
            (N, num_classes, H, W).
        """
        hidden = self._first_of_images(features, size)  # (N, widths[0], H, W)
        for layer in self.rest:
            if isinstance(layer, nn.Linear):
                hidden = functional.conv2d(hidden, layer.weight[:, :, None, None], layer.bias)
            elif isinstance(layer, nn.BatchNorm1d):
                hidden = functional.batch_norm(
                    hidden, layer.running_mean, layer.running_var, layer.weight, layer.bias,
                    training=False, eps=layer.eps,
                )  # fmt: skip
            else:
                hidden = layer(hidden)
        return hidden

    def _first_of_images(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        weights = self.first.weight.split(self.channels, 1)
        of_size: dict[tuple[int, int], Tensor] = {}
        for maps, weight in zip(features, weights, strict=True):
            part = functional.conv2d(maps, weight[:, :, None, None])
            own = (maps.shape[2], maps.shape[3])
            of_size[own] = of_size[own] + part if own in of_size else part
        total = self.first.bias[:, None, None]
        for part in of_size.values():
            total = total + enlarge(part, size)
        return total


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Feature maps (N, C, h, w) to (N, C, *size) by bilinear interpolation."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def features_at(features: Sequence[Tensor], place: Tensor, size: tuple[int, int]) -> Tensor:
    """The vectors of some pixels of one image, as if all maps had been enlarged.

    Args:
        features: (C, h, w) float of each map.
        place: (P, 2) int, row and column of each pixel in the image.
        size: Height and width of the image in px.

    Returns:
        (P, sum of channels) float32.
    """
    height, width = size
    centre = (place + 0.5) / torch.tensor(size, device=place.device) * 2 - 1
    grid = centre.flip(1)[None, :, None].float()  # (1, P, 1, 2), column first
    vectors = []
    for maps in features:
        if tuple(maps.shape[1:]) == (height, width):
            vectors.append(maps[:, place[:, 0], place[:, 1]].float())
        else:
            read = functional.grid_sample(
                maps[None].float(), grid, align_corners=False, padding_mode="border"
            )
            vectors.append(read[0, :, :, 0])  # (C, P)
    return torch.cat(vectors).T


def majority(votes: Tensor, num_classes: int) -> Tensor:
    """The class that most classifiers name; of equally many the first.

    Args:
        votes: (E, N, H, W) int64, one class of each of E classifiers.
        num_classes: K.

    Returns:
        (N, H, W) int64.
    """
    counts = torch.zeros((num_classes, *votes.shape[1:]), dtype=torch.int32, device=votes.device)
    for vote in votes:
        counts.scatter_add_(0, vote[None], torch.ones_like(vote[None], dtype=torch.int32))
    return counts.argmax(0)


def disagreement(probs: Tensor) -> Tensor:
    """Jensen-Shannon divergence of classifiers, per pixel: H(mean of p) − mean of H(p).

    Args:
        probs: (E, N, K, H, W) float in [0, 1], of each of E classifiers.

    Returns:
        (N, H, W) float in nats, 0 where all agree, at most log E.

    Source: Zhang et al. 2021 (DatasetGAN), section 3.2; Beluch et al. 2018.
    """

    def entropy(p: Tensor) -> Tensor:
        return -torch.special.xlogy(p, p).sum(1)

    within = torch.stack([entropy(p) for p in probs]).mean(0)
    return (entropy(probs.mean(0)) - within).clamp(min=0)
