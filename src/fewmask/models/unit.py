"""UNIT's networks: two variational auto-encoders with one latent space, and two judges.

Images are in [-1, 1]. An image of domain a is translated by a's encoder and b's decoder; that
both speak of the same latent code is enforced by layers that are one object for both domains: the
last of the encoders and the first of the decoders.

Source: Liu, Breuel & Kautz 2017, "Unsupervised Image-to-Image Translation Networks", sections 3
and 4 and the appendix's table of layers (street scenes).
Differs: The table prints a stride of 2 for the first convolution, with which the decoder's two
enlargements would not return the image's size, and 512 channels in residual blocks that follow 256;
here the first convolution has stride 1 and residual blocks keep their channels. Instance
normalisation in the encoders and residual blocks, layer normalisation where the decoder enlarges:
the adapt pipeline's source adds the latter and does not say where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fewmask.models.blocks import ResidualBlock, crop_like, init_gan_weights, pad_to_multiple

LATENT_STRIDE_PX = 4


@dataclass(frozen=True)
class Vae:
    """One domain's variational auto-encoder: a view of :class:`Unit`, which owns the layers.

    Attributes:
        own_encoder: Image to features.
        shared_encoder: Features to the latent mean; the same object in both domains.
        shared_decoder: Latent code to features; the same object in both domains.
        own_decoder: Features to an image.
    """

    own_encoder: nn.Module
    shared_encoder: nn.Module
    shared_decoder: nn.Module
    own_decoder: nn.Module

    def encode(self, image: Tensor) -> Tensor:
        """Image (N, 3, H, W) in [-1, 1], sides multiples of 4 -> μ (N, 4 · width, H / 4, W / 4)."""
        return self.shared_encoder(self.own_encoder(image))

    def decode(self, latent: Tensor) -> Tensor:
        """Latent code (N, 4 · width, h, w) -> image (N, 3, 4 h, 4 w) in [-1, 1]."""
        return self.own_decoder(self.shared_decoder(latent))


class Unit(nn.Module):
    """Both auto-encoders; ``a`` and ``b`` are the two domains.

    Args:
        width: Channels of the finest level; 64 is published.
        blocks: Residual blocks of each encoder and decoder that are not shared; 3 are published.
        decoder_norm: Normalisation where the decoders enlarge.
    """

    def __init__(
        self,
        width: int = 64,
        blocks: int = 3,
        decoder_norm: Literal["layer", "instance"] = "layer",
    ) -> None:
        super().__init__()
        self.shared_encoder = ResidualBlock(4 * width)
        self.shared_decoder = ResidualBlock(4 * width)
        self.encoder_a, self.encoder_b = _encoder(width, blocks), _encoder(width, blocks)
        self.decoder_a = _decoder(width, blocks, decoder_norm)
        self.decoder_b = _decoder(width, blocks, decoder_norm)
        init_gan_weights(self)

    @property
    def a(self) -> Vae:
        """The auto-encoder of domain a."""
        return Vae(self.encoder_a, self.shared_encoder, self.shared_decoder, self.decoder_a)

    @property
    def b(self) -> Vae:
        """The auto-encoder of domain b."""
        return Vae(self.encoder_b, self.shared_encoder, self.shared_decoder, self.decoder_b)

    def forward(self, image: Tensor, to: Literal["a", "b"] = "b") -> Tensor:
        """Translate an image of the other domain, without noise.

        Args:
            image: (N, 3, H, W) float in [-1, 1], any size from 8 px.
            to: Domain of the result.

        Returns:
            (N, 3, H, W) float in [-1, 1].
        """
        source, target = (self.a, self.b) if to == "b" else (self.b, self.a)
        padded = pad_to_multiple(image, LATENT_STRIDE_PX)
        return crop_like(target.decode(source.encode(padded)), image)


def sample(latent_mean: Tensor) -> Tensor:
    """Draw a latent code from N(μ, I).

    Args:
        latent_mean: μ, any shape.

    Source: section 3, "VAE": the covariance is fixed to the identity.
    """
    return latent_mean + torch.randn_like(latent_mean)


class MultiScaleDiscriminator(nn.Module):
    """Judges patches of an image at several sizes: one logit a patch, high for real.

    Args:
        width: Channels of the first layer; 64 is published. They double with each layer.
        layers: Strided convolutions a scale; 4 are published.
        scales: The image, and so many minus one halvings of it; 3 are published.

    Source: Wang et al. 2018 (pix2pixHD), section 3.2; layers as in Huang et al. 2018 (MUNIT),
        appendix B.2.
    """

    def __init__(self, width: int = 64, layers: int = 4, scales: int = 3) -> None:
        super().__init__()
        self.judges = nn.ModuleList(_judge(width, layers) for _ in range(scales))
        self.halve = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        init_gan_weights(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (N, 3, H, W) in [-1, 1] -> logits (N, 1, h, w) of each scale, finest first.

        Sides of ``2 ** (layers + scales - 1)`` px or more: 64 px as published.
        """
        logits = []
        for scale, judge in enumerate(self.judges):
            if scale:
                image = self.halve(image)
            logits.append(judge(image))
        return logits


def _encoder(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        *_conv(3, width, 7, stride=1),
        *_conv(width, 2 * width, 3, stride=2),
        *_conv(2 * width, 4 * width, 3, stride=2),
        *(ResidualBlock(4 * width) for _ in range(blocks)),
    )


def _conv(before: int, after: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, padding_mode="reflect"),
        nn.InstanceNorm2d(after),
        nn.LeakyReLU(0.01, inplace=True),
    )


def _decoder(width: int, blocks: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        *(ResidualBlock(4 * width) for _ in range(blocks)),
        *_enlarge(4 * width, 2 * width, norm),
        *_enlarge(2 * width, width, norm),
        nn.Conv2d(width, 3, 1),
        nn.Tanh(),
    )


def _enlarge(before: int, after: int, norm: str) -> tuple[nn.Module, ...]:
    return (
        nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1),
        # One group: over all channels and pixels of an image, with a scale and shift per channel.
        nn.GroupNorm(1, after) if norm == "layer" else nn.InstanceNorm2d(after),
        nn.LeakyReLU(0.01, inplace=True),
    )


def _judge(width: int, layers: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    before, after = 3, width
    for _ in range(layers):
        steps += [
            nn.Conv2d(before, after, 4, stride=2, padding=1, padding_mode="reflect"),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        before, after = after, 2 * after
    return nn.Sequential(*steps, nn.Conv2d(before, 1, 1))
