"""Settings of pipeline ``adapt``, so far those of its translation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fewmask.config import Settings


class AdaptConfig(Settings):
    """Settings of pipeline ``adapt``; the defaults are the published ones."""

    translate_width: int = Field(64, ge=1)
    """Channels of UNIT's finest level. Published: 64."""
    translate_blocks: int = Field(3, ge=0)
    """Residual blocks of each encoder and decoder, one shared block on top. Published: 3."""
    translate_decoder_norm: Literal["layer", "instance"] = "layer"
    """Normalisation where the decoders enlarge. Published: layer, place not said."""
    translate_discriminator_width: int = Field(64, ge=1)
    """Channels of the discriminators' first layer. Published: 64."""
    translate_scales: int = Field(3, ge=1)
    """Sizes at which a discriminator looks at an image."""
    translate_learning_rate: float = Field(1e-4, gt=0)
    """Adam's rate, betas (0.5, 0.999). Published: 0.0001."""
    translate_lambda_gan: float = Field(10.0, ge=0)
    """λ0, weight of the adversarial loss. Published: 10."""
    translate_lambda_kl: float = Field(0.1, ge=0)
    """λ1, weight of the latent codes' divergence from N(0, I). Published: 0.1."""
    translate_lambda_reconstruction: float = Field(100.0, ge=0)
    """λ2, weight of the reconstruction in the own domain. Published: 100."""
    translate_lambda_cycle_kl: float = Field(0.1, ge=0)
    """λ3, weight of the divergence of both codes of the cycle. Published: 0.1."""
    translate_lambda_cycle: float = Field(100.0, ge=0)
    """λ4, weight of the reconstruction after both translations. Published: 100."""
    translate_lambda_perceptual: float = Field(1.0, ge=0)
    """Weight of the perceptual loss between an image and its translation. Published: 1."""
    translate_perceptual_norm: bool = True
    """Compare instance-normalised features, so that light and colour do not count."""
