"""StyleGAN2: mapping and synthesis networks, and the residual discriminator.

Images are in [-1, 1]. The settings are those published for 256 px on few images ("paper256": half
of the larger networks' channels, eight mapping layers).

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"; the settings
from Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix D.
Written from the papers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from fewmask.models.stylegan2_ops import (
    EqualConv2d,
    EqualLinear,
    activate,
    low_pass,
    modulated_conv2d,
    upsample,
)

SMALLEST_PX = 4
MAPPING_RATE = 0.01
"""Factor of the mapping network's learning rate."""
W_AVERAGE_DECAY = 0.995
"""Of the mean of w, towards which truncation pulls; per batch."""

Noise = Literal["random", "fixed", "none"]
"""Noise of the synthesis network: new for each image, the same for all, or none."""


def channels_at(size_px: int, base: int = 16_384, most: int = 512) -> int:
    """Channels of the feature maps of a size.

    >>> [channels_at(size) for size in (4, 8, 16, 32, 64, 128, 256)]
    [512, 512, 512, 512, 256, 128, 64]
    """
    return min(base // size_px, most)


def sizes_up_to(image_size: int) -> list[int]:
    """Sides of the feature maps, in px.

    >>> sizes_up_to(32)
    [4, 8, 16, 32]
    """
    return [2**power for power in range(2, image_size.bit_length())]


class Mapping(nn.Module):
    """Latent code z to w, the code of styles.

    Args:
        z_dim: Width of z.
        w_dim: Width of w.
        depth: Layers.
    """

    average: Tensor

    def __init__(self, z_dim: int = 512, w_dim: int = 512, depth: int = 8) -> None:
        super().__init__()
        widths = [z_dim] + depth * [w_dim]
        self.layers = nn.ModuleList(
            EqualLinear(before, after, rate=MAPPING_RATE) for before, after in pairwise(widths)
        )
        self.register_buffer("average", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        """Latent codes z (N, z_dim) float -> w (N, w_dim)."""
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = activate(layer(w))
        return w

    def follow(self, w: Tensor) -> None:
        """Move the mean of w, ``average``, towards the mean of this batch (N, w_dim)."""
        self.average.lerp_(w.detach().mean(0), 1 - W_AVERAGE_DECAY)

    def truncate(self, w: Tensor, truncation_psi: float) -> Tensor:
        """Pull w (N, w_dim) towards its mean: 1 leaves it, 0 gives the mean image."""
        return self.average.lerp(w, truncation_psi)


class StyleLayer(nn.Module):
    """Modulated 3x3 convolution, then noise and bias, which no style scales, and activation.

    Args:
        before: Input channels.
        after: Output channels.
        w_dim: Width of w.
        size_px: Side of the output.
        up: The output has twice the input's size.
    """

    noise: Tensor
    fir: Tensor

    def __init__(self, before: int, after: int, w_dim: int, size_px: int, *, up: bool) -> None:
        super().__init__()
        self.style = EqualLinear(w_dim, before, bias=1.0)
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3))
        self.bias = nn.Parameter(torch.zeros(after))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(size_px, size_px))
        self.register_buffer("fir", low_pass(), persistent=False)
        self.up, self.scale = up, 1 / math.sqrt(before * 9)

    def forward(self, x: Tensor, w: Tensor, noise: Noise) -> Tensor:
        """Features (N, before, h, w) and w (N, w_dim) -> (N, after, size_px, size_px)."""
        fir = self.fir if self.up else None
        x = modulated_conv2d(x, self.weight * self.scale, self.style(w), fir=fir)
        if noise == "random":
            drawn = torch.randn(len(x), 1, *x.shape[2:], device=x.device, dtype=x.dtype)
            x = x + drawn * self.noise_strength
        elif noise == "fixed":
            x = x + self.noise * self.noise_strength
        return activate(x + self.bias[:, None, None])


class ToImage(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(self, before: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.style = EqualLinear(w_dim, before, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, before, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = 1 / math.sqrt(before)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Features (N, before, H, W) and w (N, w_dim) -> (N, channels, H, W)."""
        out = modulated_conv2d(x, self.weight * self.scale, self.style(w), demodulate=False)
        return out + self.bias[:, None, None]


class Synthesised(NamedTuple):
    """What the synthesis network makes of styles.

    Attributes:
        image: (N, channels, S, S) float, near [-1, 1].
        features: Of each style layer (N, C, size, size) float, coarsest first, beginning with the
            learned constant; empty if they were not asked for.
    """

    image: Tensor
    features: list[Tensor]


class Synthesis(nn.Module):
    """Styles to an image: two style layers a size (one at 4 px), images added up from size to size.

    Args:
        image_size: Side of the image in px, a power of two from 8.
        w_dim: Width of w.
        channels: Of the image; a single one is given three times, so that grey stays grey.
        base: Channels times size; see :func:`channels_at`.
        most: Channels at most.
    """

    fir: Tensor

    def __init__(
        self,
        image_size: int = 256,
        w_dim: int = 512,
        channels: int = 3,
        base: int = 16_384,
        most: int = 512,
    ) -> None:
        super().__init__()
        self.sizes = sizes_up_to(image_size)
        widths = [channels_at(size, base, most) for size in self.sizes]
        self.feature_channels = [width for width in widths for _ in range(2)]
        self.constant = nn.Parameter(torch.randn(widths[0], SMALLEST_PX, SMALLEST_PX))
        self.layers, self.to_image = nn.ModuleList(), nn.ModuleList()
        before = widths[0]
        for size, width in zip(self.sizes, widths, strict=True):
            if size > SMALLEST_PX:
                self.layers.append(StyleLayer(before, width, w_dim, size, up=True))
            self.layers.append(StyleLayer(width, width, w_dim, size, up=False))
            self.to_image.append(ToImage(width, channels, w_dim))
            before = width
        self.register_buffer("fir", low_pass(), persistent=False)

    @property
    def num_ws(self) -> int:
        """Styles that an image takes: one a style layer, and one for the last image layer."""
        return len(self.layers) + 1

    def forward(
        self, ws: Tensor, noise: Noise = "random", *, features: bool = False
    ) -> Synthesised:
        """Styles to an image.

        Args:
            ws: (N, num_ws, w_dim) float; an image layer shares the style of the layer after it.
            noise: See :data:`Noise`.
            features: Also return the maps after each style layer. The 4-px block has one layer
                only; the map before it is the learned constant, the same for all images.
        """
        x = self.constant.expand(len(ws), -1, -1, -1)
        maps, number, image = [x], 0, None
        for block, to_image in enumerate(self.to_image):
            for _ in range(2 if block else 1):
                x = self.layers[number](x, ws[:, number], noise)
                number += 1
                maps.append(x)
            added = to_image(x, ws[:, number])
            image = added if image is None else upsample(image, self.fir) + added
        assert image is not None
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        return Synthesised(image, maps if features else [])


class Generator(nn.Module):
    """Mapping and synthesis.

    Args:
        image_size: Side of the image in px, a power of two from 8.
        z_dim: Width of z.
        w_dim: Width of w.
        depth: Layers of the mapping network.
        channels: Of the image.
        base: Channels times size; see :func:`channels_at`.
        most: Channels at most.
    """

    def __init__(
        self,
        image_size: int = 256,
        z_dim: int = 512,
        w_dim: int = 512,
        depth: int = 8,
        channels: int = 3,
        base: int = 16_384,
        most: int = 512,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.mapping = Mapping(z_dim, w_dim, depth)
        self.synthesis = Synthesis(image_size, w_dim, channels, base, most)

    def forward(
        self,
        z: Tensor,
        truncation_psi: float = 1.0,
        noise: Noise = "random",
        *,
        features: bool = False,
    ) -> Synthesised:
        """Latent codes z (N, z_dim), drawn from N(0, I) -> images, and features if asked for."""
        w = self.mapping.truncate(self.mapping(z), truncation_psi)
        return self.synthesis(self.broadcast(w), noise, features=features)

    def broadcast(self, w: Tensor) -> Tensor:
        """The same style for all layers: w (N, w_dim) -> ws (N, num_ws, w_dim)."""
        return w[:, None].expand(-1, self.synthesis.num_ws, -1)

    def mix(self, w: Tensor, other: Tensor, first: Sequence[int] | Tensor) -> Tensor:
        """Styles of one code up to a layer, of another from there on.

        Args:
            w: (N, w_dim).
            other: (N, w_dim).
            first: (N,) int, of each image the first layer with the other code.

        Returns:
            ws (N, num_ws, w_dim).
        """
        start = torch.as_tensor(first, device=w.device)[:, None, None]
        number = torch.arange(self.synthesis.num_ws, device=w.device)[None, :, None]
        return torch.where(number < start, w[:, None], other[:, None])


class ResidualDown(nn.Module):
    """Two convolutions, the second to half the size, beside a 1x1 convolution to half the size."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = EqualConv2d(before, before, 3)
        self.second = EqualConv2d(before, after, 3, down=True)
        self.skip = EqualConv2d(before, after, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H / 2, W / 2)."""
        deep = activate(self.second(activate(self.first(x))))
        return (deep + self.skip(x)) * math.sqrt(0.5)


class Discriminator(nn.Module):
    """Judges images: one logit each, high for real.

    Args:
        image_size: Side of the image in px, a power of two from 8.
        channels: Of the image.
        base: Channels times size; see :func:`channels_at`.
        most: Channels at most.
        group: Images between which the deviation is taken.
    """

    def __init__(
        self,
        image_size: int = 256,
        channels: int = 3,
        base: int = 16_384,
        most: int = 512,
        group: int = 8,
    ) -> None:
        super().__init__()
        widths = [channels_at(size, base, most) for size in reversed(sizes_up_to(image_size))]
        last = widths[-1]
        self.group = group
        self.from_image = EqualConv2d(channels, widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualDown(*pair) for pair in pairwise(widths)))
        self.conv = EqualConv2d(last + 1, last, 3)
        self.hidden = EqualLinear(last * SMALLEST_PX**2, last)
        self.logit = EqualLinear(last, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, channels, S, S) float in [-1, 1] -> logits (N,)."""
        x = self.blocks(activate(self.from_image(image)))
        x = torch.cat([x, minibatch_deviation(x, self.group)], 1)
        x = activate(self.hidden(activate(self.conv(x)).flatten(1)))
        return self.logit(x).flatten()


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """How much the images of a group differ, as a map: few, if the generator has collapsed.

    The standard deviation over a group's images, averaged over channels and pixels.

    Args:
        x: (N, C, H, W) float.
        group: Images a group; where N is not a multiple of it, its largest divisor up to it.

    Returns:
        (N, 1, H, W) float, the same number all over an image.

    Source: Karras et al. 2018 (progressive growing), section 3; groups as in StyleGAN2.

    A :class:`torch.overrides.TorchFunctionMode` can override it, as torch's own functions.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(minibatch_deviation, (x,), x, group)
    count = len(x)
    group = next(size for size in range(min(group, count), 0, -1) if count % size == 0)
    groups = x.reshape(group, count // group, *x.shape[1:])  # image i is in group i % (N / G)
    deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))  # (N / G,)
    return deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
