"""CycleGAN's networks: translators between two sets of images, and their judges.

Images are in [-1, 1]. ``Generator`` and ``Discriminator`` follow the layer tables of the tags
pipeline (12,542,979 and 662,977 parameters); ``AttentionGenerator`` is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewmask.models.blocks import Padded, ResidualBlock, init_gan_weights

GENERATOR_STRIDE_PX = 4


class Translation(NamedTuple):
    """A translated image, and how much of each pixel was translated.

    Attributes:
        image: (N, 3, H, W) float in [-1, 1].
        attention: (N, 1, H, W) float in [0, 1]; 0 copies the input, 1 replaces it.
    """

    image: Tensor
    attention: Tensor


class Generator(nn.Module):
    """Translates an image: two strided convolutions, residual blocks, two transposed convolutions.

    Args:
        width: Channels of the finest level; 64 is published.
        blocks: Number of residual blocks; 10 is published.

    Source: layer table of the tags pipeline; weights drawn as in Zhu et al. 2017, appendix 7.1.
    Differs: Sides that are not multiples of 4 are padded by reflection and cropped back.
    """

    def __init__(self, width: int = 64, blocks: int = 10) -> None:
        super().__init__()
        self.layers = _translator(width, blocks, out_channels=3)
        init_gan_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, 3, H, W) float in [-1, 1], sides of 5 px or more -> the same."""
        return torch.tanh(self.layers(image))


class AttentionGenerator(nn.Module):
    """A generator that says where it changes the image: out = m · G(x) + (1 − m) · x.

    G and m share every layer; the last convolution has a fourth channel, whose sigmoid is m.

    Args:
        width: Channels of the finest level.
        blocks: Number of residual blocks.

    Source: Mejjati et al. 2018, "Unsupervised Attention-guided Image-to-Image Translation", eq. 1.
    Differs: One network yields both G and m; theirs has a separate attention network.
    """

    def __init__(self, width: int = 64, blocks: int = 10) -> None:
        super().__init__()
        self.layers = _translator(width, blocks, out_channels=4)
        init_gan_weights(self)

    def forward(self, image: Tensor) -> Translation:
        """Image (N, 3, H, W) float in [-1, 1], sides of 5 px or more -> its translation."""
        output = self.layers(image)
        content = torch.tanh(output[:, :3])
        attention = torch.sigmoid(output[:, 3:])  # (N, 1, H, W)
        return Translation(attention * content + (1 - attention) * image, attention)


class Discriminator(nn.Module):
    """Judges overlapping patches of an image: one logit each, high for real.

    Args:
        width: Channels of the first layer; 64 is published.

    Source: layer table of the tags pipeline; weights drawn as in Zhu et al. 2017, appendix 7.1.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.InstanceNorm2d(2 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.InstanceNorm2d(4 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4 * width, 1, 4, stride=1, padding=1),
        )
        init_gan_weights(self)

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, 3, H, W) float in [-1, 1], sides of 16 px or more -> one logit per patch.

        The logits are (N, 1, H // 8 - 1, W // 8 - 1): 63 x 63 at 512 px.
        """
        return self.layers(image)


def translate(generator: nn.Module, image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Translate with either kind of generator.

    Args:
        generator: :class:`Generator` or :class:`AttentionGenerator`.
        image: (N, 3, H, W) float in [-1, 1].

    Returns:
        The translated image, and the attention (N, 1, H, W) in [0, 1] if the generator has one.
    """
    output = generator(image)
    if isinstance(output, Translation):
        return output.image, output.attention
    return output, None


def _translator(width: int, blocks: int, out_channels: int) -> Padded:
    return Padded(
        nn.Sequential(
            *_norm_relu(nn.Conv2d(3, width, 3, padding=1)),
            *_norm_relu(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)),
            *_norm_relu(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)),
            *(ResidualBlock(4 * width) for _ in range(blocks)),
            *_norm_relu(_upsample(4 * width, 2 * width)),
            *_norm_relu(_upsample(2 * width, width)),
            nn.Conv2d(width, out_channels, 3, padding=1),
        ),
        GENERATOR_STRIDE_PX,
    )


def _norm_relu(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    return conv, nn.InstanceNorm2d(conv.out_channels), nn.ReLU(inplace=True)


def _upsample(before: int, after: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
