"""Settings of pipeline ``adapt``, so far those of its data and its translation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fewmask.config import Settings

JUDGE_LAYERS = 4
"""Strided convolutions of each of UNIT's judges."""


class AdaptConfig(Settings):
    """Settings of pipeline ``adapt``; UNIT's defaults are the published ones, where there are."""

    target: Path | None = None
    """Folder of unlabelled images of the target domain."""
    test: Path | None = None
    """Folder of labelled images of the target domain, to measure on and nothing else."""
    labels: Literal["auto", "camvid", "cityscapes"] = "auto"
    """What the masks' values mean where the folder's layout does not say it: a data set's own, or
    auto: ids from 0 in the order of `class_names`."""
    ignore_ids: tuple[int, ...] = ()
    """Values of masks that are to be ignored, beside 255."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their mask ids, from 0."""
    image_size: int = Field(192, ge=32)
    """Height in px to which images are resized for training and prediction; at least 32."""
    image_width: int = Field(256, ge=32)
    """Width in px."""
    seen_from_above: bool = False
    """Images have no up and down (aerial, microscope): train with all mirror images and turns."""

    translate_steps: int = Field(100_000, ge=1)
    """Optimiser steps of UNIT. Not published; 1,000,000 at batch 1 is its authors' default."""
    translate_batch_size: int = Field(1, ge=1)
    """Images of each domain a step. Published: its authors' default, 1."""
    translate_crop_px: int = Field(512, ge=32)
    """Side of the random crops that UNIT is trained on, cut to the working size; a multiple of 4.
    Published: 256, then 512."""
    translate_perceptual_network: str = "vgg16"
    """Network of the perceptual loss: vgg16, as published, or timm's name of one."""
    translate_perceptual_weights: str = "imagenet"
    """Its weights: imagenet (vgg16 only, fetched on first use), packaged, or a file."""
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

    @model_validator(mode="after")
    def _large_enough_for_the_judges(self) -> Self:
        """The coarsest judge must still see one patch of a crop."""
        side = min(self.translate_crop_px, self.image_size, self.image_width) // 4 * 4
        least = 2 ** (JUDGE_LAYERS + self.translate_scales - 1)
        if side < least:
            raise ValueError(
                f"translate_scales {self.translate_scales} needs sides of {least} px or more, not "
                f"{side} (translate_crop_px, image_size, image_width)"
            )
        return self

    @property
    def data_folders(self) -> dict[str, Path]:
        """Settings that name a folder of images beside the source."""
        folders = {"target": self.target, "test": self.test}
        return {name: path for name, path in folders.items() if path is not None}

    @property
    def working_size(self) -> tuple[int, int]:
        """Height and width in px to which images are resized for training and prediction."""
        return self.image_size, self.image_width
