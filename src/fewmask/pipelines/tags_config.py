"""Settings and presets of pipeline ``tags``; the stages are in :mod:`fewmask.pipelines.tags`.

Apart from the stages so that ``--help``, a form or a check of a settings file need no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fewmask.config import Settings


class TagsConfig(Settings):
    """Settings of pipeline ``tags``; sources are the sections of the first landslide study."""

    translate_kind: Literal["cyclegan", "attention"] = "attention"
    """cyclegan: the published generator; attention: out = m G(x) + (1 - m) x, so m is a mask."""
    translate_image_size: int = Field(64, ge=32)
    """Side in px at which images are translated. Published: 512 (3.3)."""
    translate_width: int = Field(16, ge=1)
    """Channels of the generators' finest level. Published: 64."""
    translate_blocks: int = Field(3, ge=0)
    """Residual blocks. Published: 10."""
    translate_discriminator_width: int = Field(32, ge=1)
    """Channels of the discriminators' first layer. Published: 64."""
    translate_steps: int = Field(500, ge=0)
    """Optimiser steps; 0 = translate_epochs instead."""
    translate_epochs: int = Field(0, ge=0)
    """Passes over the larger domain. Published: 550, of which 450 was best (3.3)."""
    translate_batch_size: int = Field(8, ge=1)
    """Images of each domain a step. Published: 6 (3.3)."""
    translate_micro_batch_size: int = Field(0, ge=0)
    """Images of each domain in memory at once, gradients are accumulated; 0 = all. Up to rounding
    the same for cyclegan; attention's area term is taken over each part."""
    translate_learning_rate: float = Field(2e-4, gt=0)
    """Adam's rate, betas (0.5, 0.999) (3.3)."""
    translate_lambda_cycle: float = Field(10.0, ge=0)
    """Weight of the cycle loss. Not published; CycleGAN's default."""
    translate_lambda_identity: float = Field(5.0, ge=0)
    """Weight of the identity loss. Not published; CycleGAN's default."""
    translate_lambda_area: float = Field(1.0, ge=0)
    """Weight of |mean attention of a batch - translate_area|; attention generators only."""
    translate_area: float = Field(0.1, ge=0, le=1)
    """Fraction of a positive image that the object is expected to cover; attention only."""
    translate_lambda_variation: float = Field(0.0, ge=0)
    """Weight of the attention's total variation; attention generators only."""
    translate_pool: int = Field(50, ge=0)
    """Images kept to show the discriminators again. Not published; CycleGAN's default."""

    augment_images: int = Field(0, ge=0)
    """Positives made from negatives with gen_ba and added to the classifier's training.
    Published: 400 (4.2). One class only: with several nobody knows which one it is."""
    augment_reject_file: Path | None = None
    """Text file with the ids of generated images to leave out, one a line. Published: 10."""

    classify_loss: Literal["binary", "cross_entropy"] = "binary"
    """binary: a sigmoid for each tag; cross_entropy: one softmax over none and the tags."""
    classify_epochs: int = Field(6, ge=1)
    """Passes over the training images. Published: 100, of which 20 was best (3.3)."""
    classify_min_steps: int = Field(0, ge=0)
    """No fewer optimiser steps than this: a small folder gets more passes."""
    classify_batch_size: int = Field(32, ge=2)
    """Images a step (3.3); at least 2, for batch normalisation."""
    classify_micro_batch_size: int = Field(0, ge=0)
    """Images in memory at once, gradients are accumulated; 0 = all. Exact without batch norm."""
    classify_learning_rate: float = Field(1e-3, gt=0)
    """Highest rate. Published: 0.001 (3.3)."""
    classify_optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """Published: sgd with momentum 0.9 (3.3)."""
    classify_schedule: Literal["constant", "cosine"] = "cosine"
    """Of the rate."""
    classify_weight_decay: float = Field(1e-2, ge=0)
    """Decay of the weights."""
    classify_keep: Literal["last", "best"] = "last"
    """last, or best by tag accuracy on the validation part. Published: best (3.3)."""
    classify_validate_every_epochs: int = Field(1, ge=1)
    """Published: a checkpoint every 10 epochs."""
    classify_augment: bool = True
    """Flips, zoom, colour, and resampling against classifiers that tell tags by sharpness."""
    classify_label_smoothing: float = Field(0.05, ge=0, lt=0.5)
    """Tags of 0 and 1 become this and 1 - this; binary loss only."""

    cam_method: Literal["cam", "grad_cam", "grad_cam_pp", "layer_cam", "score_cam"] = "cam"
    """Published: score_cam; the published baseline is grad_cam."""
    cam_weighting: Literal["cic", "softmax", "class_softmax"] = "cic"
    """Of Score-CAM: cic, increase of confidence (the paper); softmax over the channels (two
    packages); class_softmax, the class's probability (the authors' code; two classes or more)."""
    cam_layer: str | None = None
    """Dotted name of the classifier's layer; default: the one that is pooled. (vgg16: its last
    convolution, as published.) cam needs the one that is pooled; more than a pixel must be left."""
    cam_image_size: int | None = Field(None, ge=0)
    """Side in px of the classifier's input for the maps; 0 = image_size. None: label-free, that
    of 1, 1.5 and 2 times image_size whose masks convince the classifier most."""
    cam_scales: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)
    """Input scales whose maps are averaged."""
    cam_views: Literal["single", "mirror", "dihedral"] = "dihedral"
    """Average over no, the mirrored, or all eight mirrored and turned views. With
    `seen_from_above` false, dihedral becomes mirror unless asked for by name."""
    cam_mask_batch_size: int = Field(64, ge=1)
    """Score-CAM: masked images in memory at once; the maps do not depend on it."""
    cam_max_masks: int | None = Field(None, ge=1)
    """Score-CAM: cluster the channel masks into so many by k-means; None = exact."""

    difference_scale: Literal["absolute", "minmax"] = "absolute"
    """Grey difference as a fraction of the full range, or min-max per image. Not published; the
    published threshold makes sense with absolute."""
    pseudo_fusion: Literal[
        "none", "intersection", "union", "product", "mean", "geometric_mean", "hysteresis"
    ] = "none"
    """How the two maps become one score; none = the CAM alone. Published: intersection."""
    cam_threshold: float | None = Field(None, ge=0, le=1)
    """Threshold on the CAM; None = Otsu, label-free. Published: 0.4 (grid 0.1 ... 0.6)."""
    difference_threshold: float | None = Field(None, ge=0, le=1)
    """Threshold on the difference map; None = Otsu, label-free. Published: 0.08."""
    threshold_method: Literal["otsu", "niblack", "sauvola"] = "otsu"
    """How a threshold is found where its value is None. Published: otsu; the others poor."""
    threshold_masks: int = Field(0, ge=0)
    """How many true masks the two thresholds were chosen on: part of the label cost."""

    pseudo_refine: Literal[
        "none", "colour_model", "random_walker", "superpixel_vote", "pixel_adaptive"
    ] = "colour_model"
    """Refinement of the fused score on the image's own pixels."""
    pseudo_cut: float | None = Field(None, ge=0, le=1)
    """Evidence, as a fraction of its maximum, at which object and background are equally likely
    before the image's colours are seen. None: label-free, for each class where the
    object alone and the image without it convince the classifier equally."""
    pseudo_band: float = Field(0.0, ge=0, le=1)
    """Half-width, in score, of the band around the threshold that is ignored in training."""
    pseudo_band_px: int = Field(1, ge=0)
    """Pixels on either side of a pseudo-mask's outline that are ignored in training."""
    review_file: Path | None = None
    """The review.csv of `fewmask ui`: masks that somebody has accepted or corrected take the place
    of the pseudo-masks of training images, and count as labels; rejected images are left out."""
    review_weight: int = Field(4, ge=1)
    """How often an image with a reviewed mask is drawn, for once of the others."""
    segment_rounds: int = Field(2, ge=0)
    """Rounds of: train, predict the training images, refine, train anew."""
    segment_start: Literal["encoder", "tags"] = "encoder"
    """Whether the segmenter's encoder starts from `encoder_weights` or from the tag classifier."""

    controls_masks: tuple[Annotated[int, Field(ge=1)], ...] = (10,)
    """Train the same segmenter on so many true masks, as a control; needs masks."""
    controls_full: bool = True
    """Train the same segmenter on all true masks of the training part, as the reference."""


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "image_size": 96,
        "translate_image_size": 32,
        "translate_width": 8,
        "translate_blocks": 1,
        "translate_discriminator_width": 8,
        "translate_steps": 20,
        "classify_epochs": 10,
        "classify_batch_size": 8,
        "cam_image_size": 0,
        "segment_start": "tags",
        "segment_epochs": 8,
        "segment_batch_size": 8,
        "segment_learning_rate": 2e-3,
        "segment_rounds": 1,
        "segment_decoder_width": 16,
        "segment_ema_decay": 0.9,
        "predict_refine": "colour_model",
        "controls_masks": (),
        "controls_full": False,
    },
    "fast": {
        "classify_min_steps": 150,
        "segment_min_steps": 400,
        "segment_start": "tags",
        "predict_views": "dihedral",
        "predict_refine": "colour_model",
    },
    "paper": {
        "folds": 10,
        "image_size": 512,
        "encoder": "vgg16",
        "encoder_weights": "imagenet",
        "translate_kind": "cyclegan",
        "translate_image_size": 512,
        "translate_width": 64,
        "translate_blocks": 10,
        "translate_discriminator_width": 64,
        "translate_steps": 0,
        "translate_epochs": 550,
        "translate_batch_size": 6,
        "translate_micro_batch_size": 1,
        "augment_images": 400,
        "classify_loss": "cross_entropy",
        "classify_epochs": 100,
        "classify_learning_rate": 1e-3,
        "classify_optimizer": "sgd",
        "classify_schedule": "constant",
        "classify_weight_decay": 0.0,
        "classify_keep": "best",
        "classify_validate_every_epochs": 10,
        "classify_augment": False,
        "cam_method": "score_cam",
        "cam_image_size": 0,
        "cam_scales": (1.0,),
        "cam_views": "single",
        "pseudo_fusion": "intersection",
        "cam_threshold": 0.4,
        "difference_threshold": 0.08,
        "pseudo_refine": "none",
        "pseudo_band_px": 0,
        "classify_label_smoothing": 0.0,
        "segment_rounds": 0,
        "segment_architecture": "classic_unet",
        "segment_epochs": 50,
        "segment_ema_decay": 0.0,
        "segment_batch_size": 4,
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
        "controls_masks": (),
    },
    "best": {
        "image_size": 224,
        "translate_image_size": 128,
        "translate_width": 32,
        "translate_blocks": 6,
        "translate_discriminator_width": 64,
        "translate_steps": 6000,
        "classify_epochs": 12,
        "segment_epochs": 25,
        "segment_rounds": 3,
        "segment_start": "tags",
        "predict_views": "dihedral",
        "predict_refine": "colour_model",
        "segment_decoder_width": 64,
        "controls_masks": (5, 10, 30),
    },
}
