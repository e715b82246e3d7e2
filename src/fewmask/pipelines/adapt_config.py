"""Settings and presets of pipeline ``adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fewmask.config import Settings

JUDGE_LAYERS = 4
"""Strided convolutions of each of UNIT's judges."""


RenderMethod = Literal["unit", "fourier", "lab", "histogram", "gamma"]


class TeacherSettings(Settings):
    """Settings of self-training by a moving average, wherever a pipeline teaches by one."""

    adapt_keep: float = Field(1.0, gt=0, le=1)
    """Share of each class's pixels, the surest, that count as labels; 1, as published: all."""
    adapt_unsure_weight: float = Field(0.0, ge=0, le=1)
    """Teacher: weight of the labels beyond that share, as a fraction; 0 ignores them."""
    adapt_sure_above: float = Field(0.9, ge=0, lt=1)
    """Teacher: its labels of an image weigh as much as the share of their pixels of which it is
    surer than this."""
    adapt_batch_size: int = Field(4, ge=2)
    """Teacher: target images a step, beside the labelled ones."""
    adapt_weight: float = Field(1.0, ge=0)
    """Teacher: weight of the loss on target images."""
    adapt_target_statistics: bool = True
    """Normalise by the statistics of target images: the teacher by those of its batch, the result
    of `adapt` by those of all of them where its labels then tell more (and `adapt_stop_if_worse`).
    """


class AdaptConfig(TeacherSettings):
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
    val_fraction: float = Field(0.0, ge=0, le=0.5)
    """Part of the source that is set aside; nothing is chosen by it."""
    seen_from_above: bool = False
    """Images have no up and down (aerial, microscope): train with all mirror images and turns."""

    segment_architecture: Literal[
        "unet", "unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "fcn", "segformer", "upernet",
        "classic_unet",
    ] = "fpn"  # fmt: skip
    """fpn is Panoptic FPN's semantic branch, as published. All but classic_unet stand on
    `encoder`."""
    segment_decoder_width: int = Field(0, ge=0)
    """A quarter of the channels of fpn's pyramid, half of its branch's; see `fewmask train` for
    other decoders. 0, as published: 256 and 128."""
    segment_loss: Literal["ce", "ce_dice", "gce", "focal", "combined"] = "ce"
    """Cross-entropy, with Dice; the generalised cross-entropy that forgives wrong targets; focal;
    or half cross-entropy, half focal."""
    segment_batch_size: int = Field(4, ge=2)
    """Labelled images a step; at least 2, for batch normalisation."""
    segment_resample: float = Field(0.0, ge=0, le=1)
    """Probability of shrinking and enlarging an image in training."""
    segment_epochs: int = Field(1, ge=1)
    """Passes over the labelled source images before any self-training."""
    segment_min_steps: int = Field(400, ge=0)
    """No fewer optimiser steps than this."""
    segment_translated_steps: int = Field(0, ge=0)
    """As many steps more, from there, on the translated images alone: published as a variant."""
    segment_rare_classes: bool = False
    """Draw labelled images by what is rare on them, in every training, the controls' too."""

    translate_steps: int = Field(100_000, ge=1)
    """Optimiser steps of UNIT. Not published; 1,000,000 at batch 1 is its authors' default."""
    translate_weights: str = "none"
    """Use the UNIT that another run has trained, its translate/unit.safetensors, and train none."""
    translate_batch_size: int = Field(1, ge=1)
    """Images of each domain a step. Published: its authors' default, 1."""
    translate_crop_px: tuple[Annotated[int, Field(ge=32)], ...] = Field((256, 512), min_length=1)
    """Sides of the random crops that UNIT is trained on, one after the other for as many steps
    each; cut to the working size and to multiples of 4. Published: 256, then 512."""
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

    render_methods: tuple[RenderMethod, ...] = ("unit",)
    """Translations of the labelled images, in turn: unit (trained), or fourier, lab, histogram,
    gamma, which take their light from a random target image. Empty: none."""
    render_copies: int = Field(1, ge=1)
    """Translated copies of each labelled image."""
    render_noise: bool = True
    """Cheap translations: noise of the target image is no light that they take, but noise that is
    added where it lacks."""
    render_share: float = Field(0.5, ge=0, le=1)
    """Share of translated images among the labelled ones of a batch, on average."""

    choose_method: Literal["none", "histogram", "distance"] = "none"
    """Choose the target images to learn from: by the light score S, within the target's 5 to 95 %
    and nearest to its median; by feature distance, the nearest; none: all."""
    choose_share: float = Field(0.27, gt=0)
    """So many are chosen, as a fraction of the labelled images. Published: 1,600 to 5,950."""
    choose_encoder: str = "tf_efficientnet_lite0"
    """timm's name of the network whose features are compared; the source has InceptionV3."""
    choose_weights: str = "packaged"
    """Its weights: packaged, imagenet, none, or a file."""

    adapt_method: Literal["none", "statistics", "rounds", "teacher"] = "teacher"
    """What is learned from target images. statistics: no weight, only what the network normalises
    by (see `adapt_target_statistics`). rounds: label them, train on from the checkpoint on both, as
    published. teacher: a moving average labels them anew at each step."""
    adapt_rounds: int = Field(1, ge=1)
    """Rounds; each labels the target images with the network of the round before."""
    adapt_steps: int = Field(400, ge=1)
    """Optimiser steps of each round, or of the teacher's."""
    adapt_learning_rate: float = Field(5e-4, gt=0)
    """Highest rate of the schedule. With a teacher, 1e-3 has lost whole classes."""
    adapt_loss: Literal["ce", "ce_dice", "focal", "combined"] = "ce"
    """Loss of the rounds. Published: cross-entropy, or combined (half focal, γ = 2)."""
    adapt_sizes: tuple[Annotated[float, Field(gt=0, le=4)], ...] = Field((1.0,), min_length=1)
    """Rounds: scales of the target images at which they are labelled, averaged. Published: 1."""
    adapt_walk: bool = False
    """Rounds: pixels beyond `adapt_keep` get the label that a random walk over similar pixels
    brings them from the others, instead of none."""
    adapt_networks: int = Field(1, ge=1)
    """Rounds: networks whose mean labels the target images in the first one. Each further one is
    trained on the labelled images, from other random numbers, for as many steps as the first and a
    round."""
    adapt_place_prior: float = Field(0.0, ge=0)
    """Self-training labels are chosen by probability times how often the source has the class at
    that place, to this power: for views in which up is up. 0: probability alone."""
    adapt_target_share: float = Field(0.21, gt=0, lt=1)
    """Rounds: share of target images in a batch. Published: 1,600 to 5,950, so 0.21."""
    adapt_stop_if_worse: bool = True
    """Hand out the network whose labels of the target images tell most (they are sure, and no class
    has eaten another), be it the one that self-training began with: a criterion without masks."""

    controls_source_only: bool = True
    """Where there are masks to measure by: the same network on the source images alone."""
    controls_oracle: bool = True
    """Where target training images have masks: the same network trained with them."""

    @model_validator(mode="after")
    def _large_enough_for_the_judges(self) -> Self:
        """The coarsest judge must still see one patch of a crop."""
        if "unit" not in self.render_methods:
            return self
        side = min(*self.translate_crop_px, self.image_size, self.image_width) // 4 * 4
        least = 2 ** (JUDGE_LAYERS + self.translate_scales - 1)
        if side < least:
            raise ValueError(
                f"translate_scales {self.translate_scales} needs sides of {least} px or more, not "
                f"{side} (translate_crop_px, image_size, image_width)"
            )
        return self

    @model_validator(mode="after")
    def _nothing_asked_in_vain(self) -> Self:
        """Settings that could only fail later or do nothing."""
        if self.adapt_method == "teacher" and not self.segment_ema_decay:
            raise ValueError("adapt_method teacher is a moving average: segment_ema_decay above 0")
        if self.adapt_walk and self.adapt_keep == 1 and self.adapt_method == "rounds":
            raise ValueError("adapt_walk has nothing to do where adapt_keep is 1: set it to false")
        if self.adapt_method == "statistics" and not self.adapt_target_statistics:
            raise ValueError("adapt_method statistics without adapt_target_statistics is none")
        if set(self.render_methods) == {"unit"} and self.render_copies > 1:
            raise ValueError("render_copies: UNIT makes the same copy each time, so 1")
        if self.segment_translated_steps and not self.render_methods:
            raise ValueError("segment_translated_steps without render_methods")
        if self.translate_weights != "none" and "unit" not in self.render_methods:
            raise ValueError("translate_weights without unit in render_methods")
        return self

    @property
    def idle_stages(self) -> set[str]:
        """Stages that have nothing to do by these settings."""
        idle = set()
        if "unit" not in self.render_methods:
            idle.add("translate")
        if not self.render_methods:
            idle.add("render")
        if self.choose_method == "none" or self.adapt_method == "none":
            idle.add("choose")
        if self.adapt_method == "none":
            idle.add("adapt")
        if not self.controls_source_only and not self.controls_oracle:
            idle.add("controls")
        return idle

    @property
    def total_rounds(self) -> int:
        """Trainings that follow the first one."""
        return {"rounds": self.adapt_rounds, "teacher": 1}.get(self.adapt_method, 0)

    @property
    def data_folders(self) -> dict[str, Path]:
        """Settings that name a folder of images beside the source."""
        folders = {"target": self.target, "test": self.test}
        return {name: path for name, path in folders.items() if path is not None}

    @property
    def working_size(self) -> tuple[int, int]:
        """Height and width in px to which images are resized for training and prediction."""
        return self.image_size, self.image_width


OURS: dict[str, Any] = {
    "render_methods": ("gamma", "histogram"),
    "render_copies": 4,
    "segment_rare_classes": True,
    "segment_decoder_width": 32,
    "segment_loss": "ce_dice",
    "segment_encoder_rate": 1.0,
    "adapt_method": "rounds",
    "adapt_learning_rate": 1e-3,
    "adapt_loss": "ce_dice",
    "adapt_target_share": 0.4,
    "adapt_keep": 0.85,
    "adapt_sizes": (1.0, 1.25, 1.5),
    "adapt_walk": True,
}
"""What `fast` and `best` have in common; `best` takes longer and labels with three networks."""

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "image_size": 64,
        "image_width": 96,
        "segment_min_steps": 12,
        "segment_ema_decay": 0.9,
        "render_methods": ("lab",),
        "adapt_steps": 6,
        "adapt_batch_size": 2,
    },
    "fast": {**OURS, "segment_min_steps": 200, "adapt_steps": 200},
    "paper": {
        "image_size": 512,
        "image_width": 1024,
        "encoder": "resnet101",
        "encoder_weights": "imagenet",
        "segment_batch_size": 8,
        "segment_epochs": 50,
        "segment_min_steps": 0,
        "segment_ema_decay": 0.0,
        "segment_optimizer": "sgd",
        "segment_learning_rate": 1e-2,
        "segment_weight_decay": 1e-4,
        "segment_encoder_rate": 1.0,
        "segment_rotation_degrees": 0.0,
        "segment_colour": 0.0,
        "predict_views": "single",
        "choose_method": "distance",
        "adapt_method": "rounds",
        "adapt_rounds": 2,
        "adapt_steps": 10_000,
        "adapt_learning_rate": 1e-2,
        "adapt_loss": "combined",
        "adapt_keep": 1.0,
        "adapt_stop_if_worse": False,
        "adapt_target_statistics": False,
    },
    "best": {**OURS, "segment_min_steps": 400, "adapt_steps": 400, "adapt_networks": 3},
}
