"""Settings and presets of pipeline ``saliency``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from fewmask.attribution.methods import METHODS
from fewmask.config import Settings

Control = Literal["sobel", "random", "other"]
CONTROLS: tuple[Control, ...] = ("sobel", "random", "other")
"""Channels that are no map of this image by this network."""


def _by_comma(value: Any) -> Any:
    """``plain,guided`` as two names; hyphens are underscores."""
    names = (value,) if isinstance(value, str) else tuple(value)
    parts = [part for name in names for part in str(name).split(",")]
    return tuple(part.strip().replace("-", "_") for part in parts if part.strip())


class SaliencyConfig(Settings):
    """Settings of pipeline ``saliency``; defaults are those of `fast`."""

    maps: Annotated[tuple[str, ...], BeforeValidator(_by_comma)] = Field(("plain",), min_length=1)
    """Maps beside the colours, one channel each, by commas or spaces: plain, deconv, guided,
    smoothgrad, integrated_gradients, guided_grad_cam, cam, grad_cam, grad_cam_pp, layer_cam,
    score_cam."""
    seeds: int = Field(1, ge=1)
    """Trainings of each row, each from other random numbers; the table shows the first."""
    masks: int = Field(0, ge=0)
    """Use only so many of the training part's masks, drawn by the seed; 0 = all."""
    saliency_network: str = "tf_efficientnet_lite0"
    """The classifier whose maps are taken: timm's name of a network with ImageNet's classes, or
    vgg16, as published."""
    saliency_weights: str = "packaged"
    """Its weights: packaged, imagenet (fetched on first use; vgg16 only), none, or a file."""
    saliency_classifier: Path | None = None
    """Take a tag classifier instead, the classify/classifier.safetensors of a finished run of
    `fewmask tags`."""
    saliency_class: str = "predicted"
    """Whose score is explained: the class that the classifier predicts, as published, or one by
    name or number."""
    saliency_image_size: int = Field(224, ge=32)
    """Side in px at which the classifier sees an image."""
    saliency_batch_size: int = Field(32, ge=1)
    """Images at one time."""
    saliency_cache: Path | None = None
    """Folder in which maps are kept by content, to be made once for several runs."""
    segment_batch_size: int = Field(16, ge=1)
    """Images a step; 1 for classic_unet only, which has no batch normalisation."""
    segment_augment: bool = True
    """Change images, and their maps alike, in training."""
    segment_fusion: Literal["channel", "mean_channel", "gates", "late"] = "channel"
    """How maps enter the segmenter: as channels of its input, as published, whose weights begin at
    zero (channel) or at the mean of the colours' (mean_channel); as weights of its encoder's
    features at each scale (gates); beside its decoder's features (late)."""
    controls_rgb: bool = True
    """A row on the colours alone: what the maps have to beat."""
    controls_alone: bool = False
    """A row on the maps alone, as published."""
    controls_each: bool = False
    """With several maps a row on the colours and each of them, and with `controls_alone` a row on
    each alone."""
    controls_maps: tuple[Control, ...] = CONTROLS
    """Rows on the colours and one channel that is no map of this image by this network: its edges;
    the first of the maps by a network with random weights, or of another image."""

    @model_validator(mode="after")
    def _known_maps(self) -> Self:
        unknown = [name for name in self.maps if name not in METHODS]
        if unknown:
            raise ValueError(f"maps {', '.join(unknown)}: expected any of {', '.join(METHODS)}")
        if len(set(self.maps)) < len(self.maps):
            raise ValueError("maps: each once")
        fusion = self.segment_fusion
        without = {"channel": (), "mean_channel": ("classic_unet",)}
        if self.segment_architecture in without.get(fusion, ("classic_unet", "fcn")):
            raise ValueError(f"segment_fusion {fusion}: not with {self.segment_architecture}")
        if fusion in {"gates", "late"} and self.controls_alone:
            raise ValueError(f"segment_fusion {fusion}: maps alone have no features to join")
        if self.segment_batch_size == 1 and self.segment_architecture != "classic_unet":
            raise ValueError("segment_batch_size 1 leaves batch normalisation nothing to learn by")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "image_size": 64,
        "saliency_image_size": 64,
        "segment_epochs": 4,
        "segment_batch_size": 4,
        "segment_decoder_width": 16,
        "segment_ema_decay": 0.9,
    },
    "fast": {"segment_epochs": 12, "segment_min_steps": 200},
    "paper": {
        "image_size": 512,
        "saliency_network": "vgg16",
        "saliency_weights": "imagenet",
        "saliency_image_size": 512,
        "controls_alone": True,
        "test_folds": 10,
        "val_fraction": 1 / 9,
        "encoder_weights": "none",
        "segment_architecture": "classic_unet",
        "segment_loss": "ce",
        "segment_batch_size": 1,
        "segment_augment": False,
        "segment_epochs": 20,
        "segment_optimizer": "adam",
        "segment_learning_rate": 1e-4,
        "segment_schedule": "constant",
        "segment_weight_decay": 0.0,
        "segment_ema_decay": 0.0,
        "segment_encoder_rate": 1.0,
        "predict_views": "single",
    },
    "best": {
        "image_size": 224,
        "segment_epochs": 40,
        "segment_min_steps": 400,
        "maps": ("guided", "grad_cam"),
        "controls_each": True,
    },
}
