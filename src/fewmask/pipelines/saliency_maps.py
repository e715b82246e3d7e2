"""Part of pipeline ``saliency``: the channels of a row's input, and the predictor that makes them.

An input is written ``rgb+plain``: colours, then maps. Besides the methods of
:mod:`fewmask.attribution.explain` there are three that are no maps of this image by this network:
``sobel``, ``random`` and ``other``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fewmask.attribution.explain import Explainer
from fewmask.attribution.maps import class_called
from fewmask.config import resolve
from fewmask.data.transforms import resize_image, to_unit
from fewmask.errors import UsageError
from fewmask.models.classifier import (
    CLASSIFIER_TARGET_LAYER,
    imagenet_class_names,
    imagenet_classifier,
)
from fewmask.pipelines.saliency_config import SaliencyConfig
from fewmask.pipelines.tags_config import TagsConfig
from fewmask.pipelines.tags_evidence import new_classifier, target_layer
from fewmask.randomness import seed_all
from fewmask.training.checkpoint import load_weights
from fewmask.training.known_images import KnownImages, run_of
from fewmask.training.segmenting import SegmenterPredictor, new_segmenter

COLOURS = "rgb"


def channels_of(row: str) -> list[str]:
    """The maps of a row's input, in order.

    >>> channels_of("rgb+plain+guided"), channels_of("plain"), channels_of("rgb")
    (['plain', 'guided'], ['plain'], [])
    """
    return [name for name in row.split("+") if name != COLOURS]


def has_colours(row: str) -> bool:
    """Whether a row's input has the image's colours."""
    return COLOURS in row.split("+")


def rows_of(config: SaliencyConfig) -> list[str]:
    """The inputs that are trained on, the result's first.

    >>> rows_of(SaliencyConfig(maps=("plain", "guided"), controls_maps=("sobel",)))
    ['rgb+plain+guided', 'rgb', 'rgb+sobel']
    """
    rows = ["+".join((COLOURS, *config.maps))]
    rows += [COLOURS] * config.controls_rgb
    rows += ["+".join(config.maps)] * config.controls_alone
    if config.controls_each:
        rows += [f"{COLOURS}+{name}" for name in config.maps]
        rows += list(config.maps) * config.controls_alone
    rows += [f"{COLOURS}+{name}" for name in config.controls_maps]
    return list(dict.fromkeys(rows))


def network_of(row: str, config: Any, num_classes: int, *, pretrained: bool = True) -> nn.Module:
    """The segmenter of a row, see :func:`fewmask.training.segmenting.new_segmenter`."""
    maps = len(channels_of(row))
    return new_segmenter(
        config,
        num_classes,
        pretrained=pretrained,
        in_channels=3 * has_colours(row) + maps,
        maps=maps if has_colours(row) else 0,
        fusion=config.segment_fusion,
    )


class Asked(NamedTuple):
    """A classifier whose score is explained.

    Attributes:
        network: Image in [0, 1] to logits.
        layer: Dotted name of the layer for CAMs, or None.
        class_index: Of the class that is explained; None is what it predicts.
        class_names: Of each logit.
    """

    network: nn.Module
    layer: str | None
    class_index: int | None
    class_names: Sequence[str]


def classifier_of(
    config: SaliencyConfig, *, random: bool = False, kept: Path | None = None
) -> Asked:
    """The classifier that the settings describe; with ``random`` the same, its weights drawn.

    Args:
        config: Reads ``saliency_*``.
        random: See above.
        kept: Folder of a run that has a copy of the file, see :func:`keep_classifier`.

    Raises:
        FewmaskError: there is no such network, not with these weights, or it has no such class.
    """
    seed_all(config.seed, "saliency", "random weights" if random else "weights")
    if config.saliency_classifier is None:
        weights = config.saliency_weights
        if kept is not None and (copy := kept / _name_of_copy(Path(weights))).is_file():
            weights = str(copy)
        name = config.saliency_network
        network: nn.Module = imagenet_classifier(name, "none" if random else weights)
        names, layer = imagenet_class_names(), CLASSIFIER_TARGET_LAYER.get(name)
    else:
        network, names, layer = _tag_classifier(config, kept, random=random)
    asked = config.saliency_class
    index = None if asked == "predicted" else class_called(asked, names, "--saliency-class")
    return Asked(network.eval(), layer, index, names)


def _name_of_copy(weights: Path) -> str:
    return f"classifier{weights.suffix}"


FACTS = "classifier.json"


def keep_classifier(config: SaliencyConfig, folder: Path) -> None:
    """Copy a classifier that is a file, and what it has learned from, to a folder of the run.

    So the run predicts, and knows a leak, wherever it lies, whatever becomes of that file.
    """
    path = config.saliency_classifier
    if path is not None:
        settings, names = _facts_of(path)
        facts = json.dumps({"settings": settings, "class_names": names}, indent=1)
        (folder / FACTS).write_text(facts)
        run = run_of(path)
        assert run is not None  # _facts_of has looked
        KnownImages.of_weights(run, path).save(folder)
    elif config.saliency_weights not in {"packaged", "imagenet", "none"}:
        path = Path(config.saliency_weights)
    if path is not None:
        shutil.copyfile(path, folder / _name_of_copy(path))


def _facts_of(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Settings and class names of the run that has trained a tag classifier."""
    run = run_of(path)
    if run is None or run.record["pipeline"] != "tags" or not run.is_finished():
        raise UsageError.of(
            "SALIENCY-CLASSIFIER",
            where=f"saliency_classifier: {path}",
            found="a file that lies in no finished run of `fewmask tags`",
            expected="RUN/...-classify/classifier.safetensors of such a run",
            fix="give the file where the run has written it",
        )
    names = list(json.loads((run.path / "metrics.json").read_text())["class_names"])
    return dict(run.record["settings"]), names


def _tag_classifier(
    config: SaliencyConfig, kept: Path | None, *, random: bool
) -> tuple[nn.Module, list[str], str]:
    path = config.saliency_classifier
    assert path is not None
    if kept is not None and (kept / FACTS).is_file():
        facts, path = json.loads((kept / FACTS).read_text()), kept / _name_of_copy(path)
        settings, names = facts["settings"], facts["class_names"]
    else:
        settings, names = _facts_of(path)
    tags = resolve(TagsConfig, {"run.yaml": {}}, "run.yaml", overrides=settings)
    network = new_classifier(tags, len(names), pretrained=False)
    if not random:
        load_weights(path, network)
    found = target_layer(network, tags)
    layer = next(name for name, each in network.named_modules() if each is found)
    exclusive = tags.classify_loss == "cross_entropy"
    return network, ["none"] * exclusive + names, layer


class MapMaker:
    """Makes the channels of images, but for ``other``, for which one needs the others.

    Args:
        config: The classifier, its image size, and where maps are kept.
        names: Channels to make: methods, ``sobel``, and ``random`` (the first of the maps that the
            settings name, by a network with random weights).
        device: Where the classifier runs.
        kept: See :func:`classifier_of`.
    """

    def __init__(
        self,
        config: SaliencyConfig,
        names: Sequence[str],
        device: torch.device,
        kept: Path | None = None,
    ) -> None:
        self.config, self.names = config, list(names)
        learned = [name for name in names if name not in {"sobel", "random"}]
        self._explainers: dict[str, tuple[Explainer, int | None]] = {}
        asked = classifier_of(config, kept=kept) if learned else None
        drawn = classifier_of(config, random=True, kept=kept) if "random" in names else None
        for name in names:
            source = drawn if name == "random" else asked
            if name == "sobel" or source is None:
                continue
            explainer = Explainer(
                source.network.to(device),
                config.maps[0] if name == "random" else name,
                source.layer,
                batch_size=config.saliency_batch_size,
                cache=config.saliency_cache,
            )
            self._explainers[name] = explainer, source.class_index

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The channels of images of any size.

        Args:
            images: (H, W, 3) uint8 each.

        Returns:
            (N, len(names), h, w) uint8 at the working size: 255 times the maps in [0, 1].
        """
        side, size = self.config.saliency_image_size, self.config.working_size
        seen = [to_unit(resize_image(image, side, side)) for image in images]
        channels = []
        for name in self.names:
            if name == "sobel":
                channels.append([edges(resize_image(image, *size)) for image in images])
                continue
            explainer, index = self._explainers[name]
            maps = explainer.maps(seen, [index] * len(seen))
            channels.append([resize_image(each, *size) for each in maps])
        return np.stack([np.stack(channel) for channel in channels], axis=1)


def edges(image: np.ndarray) -> np.ndarray:
    """Sobel's gradient of the grey image, (H, W, 3) uint8 to (H, W) uint8, the strongest at 255."""
    from skimage.color import rgb2gray
    from skimage.filters import sobel

    strength = sobel(rgb2gray(image))
    return np.rint(255 * strength / max(float(strength.max()), 1e-12)).astype(np.uint8)


def stacked(row: str, image: np.ndarray, maps: dict[str, np.ndarray]) -> np.ndarray:
    """A row's input: (h, w, 3) uint8 and maps (h, w) uint8 by name to (h, w, C) uint8."""
    colours = [image] if has_colours(row) else []
    return np.concatenate([*colours, *(maps[name][..., None] for name in channels_of(row))], axis=2)


@dataclass(frozen=True)
class MapPredictor:
    """A segmenter that makes the maps of an image before it makes its mask.

    Attributes:
        segmenter: Of images with maps.
        maker: Of the maps of ``row``.
        row: The input.
    """

    segmenter: SegmenterPredictor
    maker: MapMaker
    row: str

    def probs(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (K + 1, H, W) float32 class probabilities at the image's own size."""
        small = resize_image(image, *self.segmenter.working_size)
        maps = dict(zip(self.maker.names, self.maker([image])[0], strict=True))
        return self.segmenter.enlarged(stacked(self.row, small, maps), image.shape[:2])

    def mask(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (H, W) uint8 ids."""
        return self.mask_of_probs(image, self.probs(image))

    def mask_of_probs(self, image: np.ndarray, probs: np.ndarray) -> np.ndarray:
        """The second half of :meth:`mask`."""
        return self.segmenter.mask_of_probs(image, probs)
