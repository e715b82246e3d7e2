"""Leaf code that several networks share: normalisation, padding, freezing, initial weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalised(nn.Module):
    """A network behind its input normalisation, so that callers speak of images in [0, 1] only.

    Args:
        network: Takes normalised images.
        mean: Per channel, subtracted from an image in [0, 1].
        std: Per channel, divided by afterwards.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, len(mean), H, W) float in [0, 1] -> what ``network`` returns."""
        return self.network((image - self.mean) / self.std)


class Padded(nn.Module):
    """A network of fixed stride made to accept any image size.

    The image is padded on all sides, by reflection, to the next multiple of ``multiple``; the
    output is cropped back.

    Args:
        network: Returns an output of its input's size if that is a multiple of ``multiple``.
        multiple: Product of the strides.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, C, H, W) float -> (N, out, H, W)."""
        return crop_like(self.network(pad_to_multiple(image, self.multiple)), image)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad an image (N, C, H, W) on all sides, by reflection, to multiples of ``multiple``."""
    height, width = image.shape[-2:]
    add_y, add_x = -height % multiple, -width % multiple
    if not (add_y or add_x):
        return image
    top, left = add_y // 2, add_x // 2
    fits = add_y - top < height and add_x - left < width
    return functional.pad(
        image,
        (left, add_x - left, top, add_y - top),
        mode="reflect" if fits else "replicate",  # a reflection is shorter than its image
    )


def crop_like(padded: Tensor, image: Tensor) -> Tensor:
    """Cut what :func:`pad_to_multiple` has added to ``image`` off an output of the padded size."""
    height, width = image.shape[-2:]
    top, left = (padded.shape[-2] - height) // 2, (padded.shape[-1] - width) // 2
    return padded[..., top : top + height, left : left + width]


class ResidualBlock(nn.Module):
    """x + two 3x3 convolutions, each instance-normalised, with a ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, width, H, W) -> the same shape; H * W > 1."""
        return features + self.body(features)


def freeze(*modules: nn.Module) -> None:
    """Take the parameters of ``modules`` out of training; train/eval modes stay as they are."""
    for module in modules:
        module.requires_grad_(False)


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Numbers of parameters: all, and those that are trained.

    >>> network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    >>> freeze(network[0])
    >>> count_parameters(network)
    (11, 3)
    """
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


def init_gan_weights(network: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 0.02) and zero its bias, in place.

    Source: Zhu et al. 2017, "Unpaired Image-to-Image Translation", appendix 7.1.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
