"""The segmenter that every pipeline ends in: built, fitted on targets, applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewmask.config import Settings
from fewmask.conventions import IGNORE_INDEX
from fewmask.data.folder import DataFolder, Sample, read_target
from fewmask.data.loading import Rows, Sparse, TrainingSet
from fewmask.data.transforms import (
    Augmentation,
    resize_image,
    resize_mask,
    to_unit,
)
from fewmask.errors import UsageError
from fewmask.losses.segmentation import (
    combined_loss,
    cross_entropy,
    dice_loss,
    focal_loss,
    generalised_cross_entropy,
)
from fewmask.masks.pseudo_labels import refine_classes
from fewmask.models.classifier import check_encoder
from fewmask.models.fusion import Fusion
from fewmask.models.segmenter import GROUPS, build_segmenter, classic_unet
from fewmask.models.weights import matching
from fewmask.randomness import seed_all
from fewmask.training.checkpoint import load_weights, save_weights
from fewmask.training.fit import FitSettings, Teach, fit
from fewmask.training.inference import predict_probs
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import Workspace, open_array


def new_segmenter(
    config: Settings,
    num_classes: int,
    *,
    pretrained: bool = True,
    in_channels: int = 3,
    maps: int = 0,
    fusion: Fusion = "channel",
) -> nn.Module:
    """The network that the settings describe, with fresh decoder and pretrained encoder.

    Args:
        config: Reads ``segment_*``, ``encoder`` and ``encoder_weights``.
        num_classes: K + 1.
        pretrained: False to load a whole trained segmenter afterwards.
        in_channels: Of the image, maps included.
        maps: See :func:`fewmask.models.segmenter.build_segmenter`.
        fusion: See there.

    Raises:
        FewmaskError: there is no such encoder, or not with these weights.
    """
    if not has_encoder(config):
        return classic_unet(in_channels, num_classes)
    source = config.encoder_weights if pretrained else "none"
    check_encoder(config.encoder, source)
    return build_segmenter(
        config.segment_architecture,
        config.encoder,
        num_classes=num_classes,
        in_channels=in_channels,
        maps=maps,
        fusion=fusion,
        pretrained=source == "packaged",
        decoder_channels=decoder_widths(config.segment_architecture, config.segment_decoder_width),
        weights_file="imagenet" if source == "imagenet" else weights_file(source),
    )


def decoder_widths(architecture: str, width: int) -> list[int] | None:
    """Channels of a decoder whose middle level has ``width``; None for the library's own.

    >>> decoder_widths("unet", 32), decoder_widths("fpn", 32), decoder_widths("fpn", 8)
    ([128, 64, 32, 16, 8], [128, 64], [32, 32])
    """
    if not width or architecture not in {"unet", "unetplusplus", "fpn"}:
        return None
    if architecture == "fpn":
        return [width * 4, -(-width * 2 // GROUPS) * GROUPS]
    return [width * 4, width * 2, width, width // 2, width // 4]


def weights_file(source: str) -> Path | None:
    """The file, if it is one that ``encoder_weights`` names."""
    return None if source in {"packaged", "imagenet", "none"} else Path(source)


def segmentation_loss(kind: str, has_background: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name: ``(logits, target)`` to the mean over pixels that are not 255.

    Args:
        kind: As ``segment_loss`` has it.
        has_background: See :func:`fewmask.losses.segmentation.dice_loss`.
    """

    def ce_dice(logits: Tensor, target: Tensor) -> Tensor:
        dice = dice_loss(logits, target, has_background=has_background)
        return cross_entropy(logits, target) + dice

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ce": cross_entropy,
        "gce": generalised_cross_entropy,
        "ce_dice": ce_dice,
        "focal": focal_loss,
        "combined": combined_loss,
    }
    return losses[kind]


def fit_settings(config: Settings) -> FitSettings:
    """How long and how fast a segmenter is trained, by ``segment_*``."""
    return FitSettings(
        epochs=config.segment_epochs,
        min_steps=config.segment_min_steps,
        batch_size=config.segment_batch_size,
        learning_rate=config.segment_learning_rate,
        optimizer=config.segment_optimizer,
        schedule=config.segment_schedule,
        weight_decay=config.segment_weight_decay,
        ema_decay=config.segment_ema_decay,
        encoder_rate=config.segment_encoder_rate,
        max_gradient_norm=5.0,
    )


def fit_segmenter(
    work: Workspace,
    stage: Stage,
    targets: Rows,
    rows: Sequence[int],
    name: str,
    *,
    images: Rows | None = None,
    start: Path | None = None,
    settings: FitSettings | None = None,
    loss: str | None = None,
    shares: np.ndarray | None = None,
    teach: Teach | None = None,
    augment: bool = True,
    build: Callable[..., nn.Module] = new_segmenter,
    drawn_by: str | None = None,
    colours: int = 3,
) -> nn.Module:
    """Train a segmenter on some rows and keep its weights as ``<name>.safetensors``.

    Args:
        work: Images and settings.
        stage: Holds weights, checkpoints and records.
        targets: (N, H, W) uint8 ids with 255 = ignore, one for each row of the images.
        rows: Training rows; a row may stand several times.
        name: Of the training.
        images: (N, H, W, 3) uint8, or with maps behind the colours; default ``work.images``.
        start: Weights to go on from; default a fresh decoder on the encoder's own weights.
        settings: Length and rates; default :func:`fit_settings`.
        loss: Name for :func:`segmentation_loss`; default ``segment_loss``.
        shares: (len(rows),) how often each is drawn; default once an epoch.
        teach: A further loss of each step, see :func:`fewmask.training.fit.fit`.
        augment: False shows every image as it is.
        build: Makes the network, as :func:`new_segmenter` does.
        drawn_by: Name by which random numbers are drawn; default ``name``. Trainings under one name
            begin alike, see the same images in the same order and drop the same features.
        colours: Channels of ``images`` before those that are maps.

    Returns:
        The trained network in eval mode, on the run's device.
    """
    config, path = work.config, stage.path / f"{name}.safetensors"
    drawn_by = drawn_by or name
    seed_all(config.seed, stage.label, drawn_by, "weights")
    fresh = not path.exists() and start is None
    network = build(config, work.num_classes, pretrained=fresh)
    if path.exists():  # finished before a later part of the stage was interrupted
        load_weights(path, network)
        return network.to(work.device).eval()
    if start is not None:
        load_weights(start, network)
    elif "classify" in work.stages and config.segment_start == "tags" and has_encoder(config):
        start_from_tags(network, load_file(work.stages["classify"].path / "classifier.safetensors"))
    augmentation = (
        Augmentation(
            flips=config.seen_from_above,
            mirror=True,
            zoom=config.segment_zoom,
            rotation_degrees=rotation_degrees(config),
            colour=config.segment_colour,
            resample=config.segment_resample,
            colours=colours,
        )
        if augment
        else Augmentation(colours=colours)
    )
    dataset = TrainingSet(
        work.images if images is None else images,
        targets,
        rows,
        augmentation,
        seed=config.seed,
        name=f"{stage.label}/{drawn_by}",
    )
    network = fit(
        stage,
        network,
        dataset,
        segmentation_loss(loss or config.segment_loss, work.data.has_background),
        settings or fit_settings(config),
        seed=config.seed,
        device=work.device,
        name=name,
        drawn_by=drawn_by,
        workers=config.workers,
        shares=shares,
        teach=teach,
    )
    save_weights(path, network)
    return network


UPRIGHT_DEGREES = 10.0
"""Images with an up are turned no further."""


def rotation_degrees(config: Settings) -> float:
    """Largest rotation in training."""
    most = 180.0 if config.seen_from_above else UPRIGHT_DEGREES
    return min(config.segment_rotation_degrees, most)


def has_encoder(config: Settings) -> bool:
    """Whether the segmenter stands on ``encoder``."""
    return config.segment_architecture != "classic_unet"


def start_from_tags(segmenter: nn.Module, classifier: Mapping[str, Tensor]) -> None:
    """Put the body of a trained tag classifier into the encoder of a segmenter.

    Args:
        segmenter: From :func:`new_segmenter`, with the same encoder.
        classifier: The classifier's state dict.

    Raises:
        UsageError: A tensor of the encoder is not in the classifier.
    """
    encoder: Any = segmenter.network.network.encoder.model  # type: ignore[union-attr]
    trained = {name.removeprefix("network."): tensor for name, tensor in classifier.items()}
    found = matching(encoder, trained)
    missing = [name for name in encoder.state_dict() if name not in found]
    if missing:
        raise UsageError.of(
            "SEGMENT-START",
            where="segment_start",
            found=f"{len(missing)} of the encoder's tensors that the tag classifier does not have, "
            f"the first of them {missing[0]!r}",
            expected="an encoder that is the tag classifier's body",
            fix="--segment-start encoder, or another --encoder",
        )
    encoder.load_state_dict(found)


def probs_of_rows(
    work: Workspace, stage: Stage, network: nn.Module, rows: Sequence[int], name: str
) -> np.ndarray:
    """Class probabilities at the working size, made in a loop that can be stopped.

    Returns:
        (N, K + 1, H, W) float16, memory-mapped; zero for rows that were not asked for.
    """
    shape = (len(work.images), work.num_classes, *work.config.working_size)
    probs = open_array(stage.path / f"{name}.npy", np.float16, shape)
    chunks = [list(rows[i : i + 16]) for i in range(0, len(rows), 16)]
    loop = Loop(
        stage,
        len(chunks),
        seed=work.config.seed,
        state={},
        name=name,
        before_save=probs.flush,
        unit="batch",
    )
    for step in loop:
        image = to_unit(work.images[chunks[step]])
        probs[chunks[step]] = predict_probs(network, image, views=work.config.predict_views).numpy()
    probs.flush()
    return probs


@dataclass(frozen=True)
class SegmenterPredictor:
    """A trained segmenter with everything that belongs to a prediction.

    Attributes:
        network: In eval mode.
        working_size: Height and width in px at which it works.
        views: Average over these views, see :func:`predict_probs`.
        refine: Method of :mod:`fewmask.masks.refine` applied to the result, or ``none``.
    """

    network: nn.Module
    working_size: tuple[int, int]
    views: str = "mirror"
    refine: str = "none"

    def probs(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (K + 1, H, W) float32 class probabilities at the image's own size."""
        return self.enlarged(resize_image(image, *self.working_size), image.shape[:2])

    def enlarged(self, small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """:meth:`probs` of an image at the working size (h, w, C) uint8, at a height and width."""
        probs = predict_probs(self.network, to_unit(small)[None], views=self.views)
        full = torch.nn.functional.interpolate(probs, size, mode="bilinear", align_corners=False)
        return full[0].numpy()

    def mask(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (H, W) uint8 ids."""
        return self.mask_of_probs(image, self.probs(image))

    def mask_of_probs(self, image: np.ndarray, probs: np.ndarray) -> np.ndarray:
        """The second half of :meth:`mask`."""
        return refine_classes(image, probs, method=self.refine)


def true_target(sample: Sample, data: DataFolder, size: tuple[int, int]) -> np.ndarray:
    """A sample's true mask at a height and width; all 255 if there is none."""
    target = read_target(sample, data)
    if target is None:
        return np.full(size, IGNORE_INDEX, np.uint8)
    return resize_mask(target, *size)


def true_targets(work: Workspace, rows: Sequence[int]) -> Sparse:
    """(H, W) uint8 true masks of ``rows`` by row; only these are in memory, in their order."""
    size, wanted = work.config.working_size, list(dict.fromkeys(rows))
    targets = np.empty((len(wanted), *size), np.uint8)
    for i, row in enumerate(wanted):
        targets[i] = true_target(work.data.samples[row], work.data, size)
    return Sparse(targets, wanted, len(work.images))


def load_segmenter(work: Workspace, path: Path) -> SegmenterPredictor:
    """The predictor of weights that a stage of this run has written."""
    network = new_segmenter(work.config, work.num_classes, pretrained=False)
    load_weights(path, network)
    return SegmenterPredictor(
        network.to(work.device).eval(),
        work.config.working_size,
        work.config.predict_views,
        work.config.predict_refine,
    )


class Predictor(Protocol):
    """Makes a mask of an image; what ``fewmask predict`` and the report call."""

    def probs(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (K + 1, H, W) float32 scores that sum to 1."""

    def mask_of_probs(self, image: np.ndarray, probs: np.ndarray) -> np.ndarray:
        """The mask (H, W) uint8 that goes with them."""
