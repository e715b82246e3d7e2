"""Settings and presets of pipeline ``factory``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from fewmask.config import Settings
from fewmask.pipelines.adapt_config import TeacherSettings


class FactoryConfig(Settings):
    """Settings of pipeline ``factory``; the generator's defaults are those published for 256 px."""

    image_size: int = Field(256, ge=8)
    """Side in px of the images that are generated: a power of two."""
    seen_from_above: bool = False
    """Images have no up and down (aerial, microscope): train with all mirror images and turns."""

    generate_kimg: float = Field(10_000, gt=0)
    """Length of the training, in thousands of real images. Published: 10,000."""
    generate_batch_size: int = Field(64, ge=2)
    """Images a step. Published: 64."""
    generate_mirror: bool = False
    """Also train on mirror images. Published: no."""
    generate_learning_rate: float = Field(2.5e-3, gt=0)
    """Adam's rate, betas (0, 0.99), of both networks. Published: 0.0025."""
    generate_r1_gamma: float = Field(1.0, ge=0)
    """γ, weight of the gradient penalty on real images. Published: 1."""
    generate_r1_interval: int = Field(16, ge=1)
    """Steps between two of these penalties. Published: 16."""
    generate_path_length_weight: float = Field(2.0, ge=0)
    """Weight of the path length penalty. Published: 2."""
    generate_path_length_interval: int = Field(4, ge=1)
    """Steps between two of these penalties. Published: 4."""
    generate_mixing_probability: float = Field(0.9, ge=0, le=1)
    """How often an image has the styles of two codes. Published: 0.9."""
    generate_ema_kimg: float = Field(20.0, gt=0)
    """Half-life of the averaged generator, in thousands of images. Published: 20."""
    generate_ema_rampup: float = Field(0.0, ge=0)
    """The half-life is at most this share of the images so far; 0, as published: no such bound."""
    generate_ada_target: float = Field(0.6, ge=-1, le=1)
    """Augmentation increases while E[sign D(real)] is above this. Published: 0.6."""
    generate_ada_kimg: float = Field(500.0, gt=0)
    """Thousands of images in which the probability can rise from 0 to 1. Published: 500."""
    generate_z_dim: int = Field(512, ge=1)
    """Width of the latent code z. Published: 512."""
    generate_w_dim: int = Field(512, ge=1)
    """Width of the style code w. Published: 512."""
    generate_mapping_depth: int = Field(8, ge=1)
    """Layers from z to w. Published: 8."""
    generate_channel_base: int = Field(16_384, ge=1)
    """Channels of a feature map are this divided by its side. Published for 256 px: 16,384."""
    generate_channel_max: int = Field(512, ge=1)
    """But no more than this. Published: 512."""
    generate_deviation_group: int = Field(8, ge=1)
    """Images whose differences the discriminator sees. Published for 256 px: 8."""

    generate_watches: int = Field(10, ge=1)
    """How often, spread over the training, samples are drawn and the distance (KID) is taken."""
    generate_watch_images: int = Field(500, ge=3)
    """Generated images, and real ones, that the distance is taken of."""

    invert_steps: int = Field(1000, ge=1)
    """Optimiser steps in which the styles of a real image are sought. Published: 1,000."""
    invert_learning_rate: float = Field(0.1, gt=0)
    """Adam's highest rate for them. Published: 0.1."""
    invert_pixel_weight: float = Field(1.0, ge=0)
    """Weight of the squared difference of pixels, beside that of features."""
    invert_mean_weight: float = Field(1e-3, ge=0)
    """Weight of the styles' squared distance from the mean style, in units of w."""

    interpret_members: int = Field(10, ge=1)
    """Pixel classifiers that vote. Published: 10."""
    interpret_width: int = Field(256, ge=2)
    """Of a classifier's first hidden layer; the second has half. Published: 256 and 128."""
    interpret_learning_rate: float = Field(1e-4, gt=0)
    """Adam's rate. Published: 0.0001."""
    interpret_steps: int = Field(48_000, ge=1)
    """Optimiser steps of each classifier. Published: 100 epochs of 1,966,080 pixels."""
    interpret_batch_size: int = Field(4096, ge=2)
    """Pixels a step. Not published."""
    interpret_balance: float = Field(1.0, ge=0, le=1)
    """Classes are drawn by their frequency to this power. 1, as published: pixels as they come; 0:
    all classes alike."""
    interpret_enlarge: int = Field(1, ge=1)
    """Encoder only: it sees images so many times larger, as networks for small images do not."""

    @model_validator(mode="after")
    def _sizes_double(self) -> Self:
        if self.image_size & (self.image_size - 1):
            raise ValueError(f"image_size {self.image_size}: a power of two, such as 64 or 128")
        if self.generate_channel_base < self.image_size:
            raise ValueError("generate_channel_base leaves no channel: no less than image_size")
        return self


Route = Literal["generated", "invert", "encoder"]


class LabelConfig(FactoryConfig):
    """Settings of ``fewmask factory label``: those of the generator's run, and what is labelled."""

    route: Route = "generated"
    """generated: masks drawn on generated images; invert: on real ones, which the generator is made
    to repeat; encoder: on real ones, whose features an ImageNet encoder gives."""
    masks: Path | None = None
    """Folder of masks with the names of their images."""
    generator_weights: str = "none"
    """generator.safetensors of the run that the masks are for."""

    @property
    def data_folders(self) -> dict[str, Path]:
        """The folder of masks."""
        return {} if self.masks is None else {"masks": self.masks}


JudgeRow = Literal["few", "few-plain", "taught", "synthetic", "both", "all", "encoder"]
JUDGE_ROWS: tuple[JudgeRow, ...] = get_args(JudgeRow)


class JudgeConfig(TeacherSettings):
    """Settings of ``fewmask factory judge``: of the segmenters that are compared, all alike."""

    interpreter_weights: str = "none"
    """interpreter.safetensors of the run of `fewmask factory label` whose labels are judged."""
    masks: int = Field(0, ge=0)
    """Real masks of the control; 0: as many images as were annotated for the interpreter, the very
    same ones where they were real."""
    sample_count: int = Field(1500, ge=0)
    """Synthetic images with masks. Published: 1,500; also 5,000, 10,000 and 15,000. 0: none."""
    sample_truncation_psi: float = Field(0.7, ge=0, le=1)
    """1: as varied as the generator can; 0: all the same."""
    sample_drop: float = Field(0.1, ge=0, lt=1)
    """Share left out: images on which the classifiers disagree most. Published: 0.1."""
    sample_test: int = Field(100, ge=0)
    """Further synthetic images, not trained on, by which each segmenter is measured too: test-G,
    agreement with the interpreter. Published: 100."""
    sample_share: float = Field(0.5, gt=0, lt=1)
    """Share of synthetic images in a batch, where real ones are trained on too."""
    judge_steps: int = Field(1500, ge=1)
    """Optimiser steps of each segmenter."""
    judge_rows: tuple[JudgeRow, ...] = Field(JUDGE_ROWS, min_length=1)
    """Rows of the table, all in the same number of steps. few: the few real masks; few-plain: they
    without augmentation; taught: they and, by a teacher's labels, all other real images; synthetic;
    both: synthetic and few; all: all real masks, the ceiling; encoder: the encoder route."""

    @model_validator(mode="after")
    def _rows_can_be_made(self) -> Self:
        if "taught" in self.judge_rows and not self.segment_ema_decay:
            raise ValueError("judge_rows taught is a moving average: segment_ema_decay above 0")
        if not self.sample_count and {*self.judge_rows} <= {"synthetic", "both"}:
            raise ValueError("judge_rows synthetic and both need images: sample_count above 0")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "image_size": 16,
        "generate_kimg": 0.1,
        "generate_batch_size": 4,
        "generate_z_dim": 16,
        "generate_w_dim": 16,
        "generate_mapping_depth": 2,
        "generate_channel_base": 256,
        "generate_channel_max": 16,
        "generate_deviation_group": 2,
        "generate_watches": 2,
        "generate_watch_images": 12,
        "interpret_members": 3,
        "interpret_width": 16,
        "interpret_learning_rate": 1e-2,
        "interpret_steps": 10,
        "interpret_batch_size": 64,
        "interpret_balance": 0.5,
    },
    "fast": {
        "image_size": 64,
        "generate_kimg": 100,
        "generate_batch_size": 16,
        "generate_r1_gamma": 0.3,
        "generate_ema_kimg": 10,
        "generate_ema_rampup": 0.05,
        "generate_ada_kimg": 100,
        "generate_z_dim": 128,
        "generate_w_dim": 128,
        "generate_mapping_depth": 2,
        "generate_channel_base": 2048,
        "generate_channel_max": 128,
        "generate_deviation_group": 4,
    },
    "paper": {},
}
JUDGE_PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "image_size": 32,
        "sample_count": 12,
        "sample_test": 4,
        "judge_steps": 4,
        "segment_batch_size": 4,
        "segment_decoder_width": 16,
        "segment_ema_decay": 0.9,
        "predict_views": "single",
        "adapt_target_statistics": False,
    },
    "fast": {"adapt_target_statistics": False, "segment_batch_size": 8, "segment_resample": 0.0},
    "paper": {
        "image_size": 256,
        "segment_architecture": "deeplabv3",
        "segment_decoder_width": 0,
        "encoder": "resnet101",
        "encoder_weights": "imagenet",
        "segment_ema_decay": 0.0,
        "segment_loss": "ce",
        "predict_views": "single",
        "judge_rows": ("few", "few-plain", "synthetic", "both", "all"),
    },
}
"""Of judging; what the source does not say of its training (optimiser, steps) is ours."""
