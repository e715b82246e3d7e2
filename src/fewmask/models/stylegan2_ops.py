"""What StyleGAN2 is built of: filtered resampling, equalised layers, modulated convolution.

Plain torch, so that every operation runs on any device, can be differentiated twice (R1, path
length) and is fused by ``torch.compile``.

Source: Karras et al. 2018 (equalised learning rate, section 4.1), 2019 (StyleGAN) and 2020
(StyleGAN2, section 2.2 and appendix B). Written from the papers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

FIR = (1.0, 3.0, 3.0, 1.0)
"""Low-pass filter of all resampling, before normalisation."""
LONG = 4
"""Taps of a filter up to which both axes are filtered at once."""
LEAK = 0.2
ACTIVATION_GAIN = math.sqrt(2)
"""Keeps the variance of what a leaky ReLU lets through."""


def upfirdn2d(
    image: Tensor,
    fir: Tensor,
    up: int = 1,
    down: int = 1,
    pad: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Tensor:
    """Insert zeros, pad, filter, and drop pixels, in this order.

    Args:
        image: (N, C, H, W) float.
        fir: (K,) float, a filter that is applied along both axes (a convolution: it is flipped).
        up: Each pixel is followed by ``up - 1`` zeros, along both axes.
        down: Of the filtered pixels each ``down``-th stays, beginning with the first.
        pad: Zeros left, right, above, below the enlarged image; negative ones crop.

    Returns:
        (N, C, (H · up + above + below − K) // down + 1, and so for W) float.

    Source: Karras et al. 2020 (StyleGAN2), appendix B; 2021 (StyleGAN3), appendix F.
    """
    count, channels, height, width = image.shape
    fir = fir.to(image.dtype)
    if len(fir) > LONG:  # a matrix along each axis is faster than a depthwise convolution
        rows = _resampling(height, fir, up, down, pad[2:])
        columns = _resampling(width, fir, up, down, pad[:2])
        return rows @ (image @ columns.T)
    if up > 1:
        image = image.reshape(count, channels, height, 1, width, 1)
        image = functional.pad(image, (0, up - 1, 0, 0, 0, up - 1))
        image = image.reshape(count, channels, height * up, width * up)
    image = functional.pad(image, pad)
    kernel = torch.outer(fir, fir).flip(0, 1).expand(channels, 1, -1, -1)
    return functional.conv2d(image, kernel, stride=down, groups=channels)


def _resampling(length: int, fir: Tensor, up: int, down: int, pad: tuple[int, ...]) -> Tensor:
    """The same along one axis of ``length`` px, as a matrix (results, length)."""
    unit = torch.eye(length, dtype=fir.dtype, device=fir.device)[:, None, :, None]
    unit = functional.pad(unit, (0, up - 1)).flatten(2)
    unit = functional.pad(unit, (pad[0], pad[1]))
    return functional.conv1d(unit, fir.flip(0)[None, None], stride=down)[:, 0].T


def low_pass(taps: Sequence[float] = FIR) -> Tensor:
    """A filter (K,) float32 with the sum 1."""
    fir = torch.tensor(taps, dtype=torch.float32)
    return fir / fir.sum()


def upsample(image: Tensor, fir: Tensor) -> Tensor:
    """Twice the size, filtered; (N, C, H, W) to (N, C, 2 H, 2 W). The brightness is kept."""
    before, after = (len(fir) + 1) // 2, (len(fir) - 2) // 2
    return upfirdn2d(image, 2 * fir, up=2, pad=(before, after, before, after))


def downsample(image: Tensor, fir: Tensor) -> Tensor:
    """Half the size, filtered; (N, C, H, W) to (N, C, H // 2, W // 2), sides even."""
    before, after = (len(fir) - 1) // 2, (len(fir) - 2) // 2
    return upfirdn2d(image, fir, down=2, pad=(before, after, before, after))


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return functional.leaky_relu(x, LEAK) * ACTIVATION_GAIN


class EqualLinear(nn.Module):
    """A linear layer whose weights are scaled when used, so that Adam moves all layers alike.

    Args:
        before: Input width.
        after: Output width.
        bias: Its initial value.
        rate: Factor of the learning rate of weight and bias.
    """

    def __init__(self, before: int, after: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before) / rate)
        self.bias = nn.Parameter(torch.full((after,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(before), rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, before) -> (N, after)."""
        return functional.linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualConv2d(nn.Module):
    """A convolution with equalised learning rate, and half the size where asked.

    Args:
        before: Input channels.
        after: Output channels.
        kernel: Side, odd.
        down: Filter and halve the size.
        bias: With one.
    """

    fir: Tensor

    def __init__(
        self, before: int, after: int, kernel: int, *, down: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.scale, self.kernel, self.down = 1 / math.sqrt(before * kernel**2), kernel, down
        self.register_buffer("fir", low_pass(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H, W), or half the sides, which must be even."""
        weight = self.weight * self.scale
        if not self.down:
            return functional.conv2d(x, weight, self.bias, padding=self.kernel // 2)
        if self.kernel == 1:  # filter only what stays
            return functional.conv2d(downsample(x, self.fir), weight, self.bias)
        total = len(self.fir) - 1 + self.kernel - 2  # zeros that filter and kernel need together
        x = upfirdn2d(x, self.fir, pad=((total + 1) // 2, total // 2) * 2)
        return functional.conv2d(x, weight, self.bias, stride=2)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    fir: Tensor | None = None,
) -> Tensor:
    """A convolution whose input channels are scaled for each image, with outputs of unit variance.

    The weights are shared, so the input is scaled instead of them and the output divided: the same
    result, without a set of weights for each image.

    Args:
        x: (N, I, H, W) float.
        weight: (O, I, k, k) float, k odd.
        style: (N, I) float, the scales.
        demodulate: Divide each output channel by the norm of its scaled weights.
        fir: Enlarge to twice the size with this filter, as part of the convolution.

    Returns:
        (N, O, H, W) float, or (N, O, 2 H, 2 W).

    Source: Karras et al. 2020 (StyleGAN2), eq. 1 to 3.
    """
    padding = weight.shape[-1] // 2
    scaled = x * style[:, :, None, None]
    if fir is None:
        out = functional.conv2d(scaled, weight, padding=padding)
    else:
        spread = weight.flip(2, 3).transpose(0, 1)
        out = functional.conv_transpose2d(scaled, spread, stride=2)  # sides are 2 H + k - 2
        total = len(fir) - 1 - (weight.shape[-1] - 2)
        out = upfirdn2d(out, 2 * fir, pad=((total + 1) // 2, total // 2) * 2)
    if demodulate:
        power = weight.square().sum((2, 3)) @ style.square().T  # (O, N)
        out = out * torch.rsqrt(power.T + 1e-8)[:, :, None, None]
    return out
