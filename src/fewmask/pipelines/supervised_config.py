"""Settings and presets of ``fewmask train``, the plain supervised segmenter."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fewmask.config import Settings


class SupervisedConfig(Settings):
    """Settings of the supervised reference: a segmenter on true masks, few or all."""

    masks: int = Field(0, ge=0)
    """Use only so many of the training part's masks, drawn by the seed; 0 = all."""


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "image_size": 64,
        "segment_epochs": 6,
        "segment_batch_size": 8,
        "segment_decoder_width": 16,
        "segment_ema_decay": 0.9,
    },
    "fast": {"segment_epochs": 12},
    "paper": {
        "image_size": 512,
        "encoder_weights": "none",
        "segment_architecture": "classic_unet",
        "segment_ema_decay": 0.0,
        "segment_batch_size": 4,
        "segment_epochs": 50,
        "segment_optimizer": "adam",
        "segment_learning_rate": 1e-4,
        "segment_schedule": "constant",
        "segment_weight_decay": 0.0,
        "segment_encoder_rate": 1.0,
        "segment_zoom": 0.0,
        "segment_rotation_degrees": 0.0,
        "segment_colour": 0.0,
        "segment_resample": 0.0,
        "predict_views": "single",
    },
    "best": {"image_size": 224, "segment_epochs": 40},
}
