"""One door to all maps: a network, images and the name of a method; each map is made once.

Classifiers are explained as they are. A segmenter stands behind :class:`RegionLogits`, which gives
it one logit a class, so that every method knows what to explain.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.attribution import cam, saliency
from fewmask.attribution.hooks import find_layer
from fewmask.attribution.maps import one_for_each, require_choice, require_count, require_images
from fewmask.attribution.methods import METHODS

NEEDS_LAYER = (*cam.METHODS, "guided_grad_cam")
CHANGES_IMAGE = ("score_cam", "smoothgrad", "integrated_gradients")
"""Methods that ask the network about other images than the one that they explain."""


def explain(
    network: nn.Module,
    image: Tensor,
    *,
    method: str,
    class_index: int | Tensor | None = None,
    target_layer: nn.Module | None = None,
    batch_size: int = 32,
    **options: Any,
) -> Tensor:
    """Maps of images by any method, in [0, 1].

    Args:
        network: Image (N, 3, H, W) to logits (N, num_outputs); a segmenter stands behind
            :class:`RegionLogits`.
        image: (N, 3, H, W) float, in the range that the network was trained on.
        method: One of ``METHODS``.
        class_index: Which logit, for all images or one for each (N,), int64; None, as published for
            saliency, is each image's highest.
        target_layer: Of the CAMs; None is :func:`default_layer`.
        batch_size: Images that pass through the network at one time.
        **options: For :func:`fewmask.attribution.cam.compute_cam` or
            :func:`fewmask.attribution.saliency.compute_saliency`.

    Returns:
        (N, H, W) float32.

    Raises:
        UsageError: A setting does not fit the network.
        NumericalError: Something is not finite.
    """
    require_choice("method", method, METHODS)
    require_count("batch_size", batch_size)
    require_images(image)
    if method in NEEDS_LAYER:
        options["target_layer"] = (
            target_layer or options.get("target_layer") or default_layer(network, image[:1])
        )
    index = None if class_index is None else one_for_each(class_index, image)
    if isinstance(network, RegionLogits) and network.region is None and method in CHANGES_IMAGE:
        maps = []
        for i, one in enumerate(image.split(1)):
            if isinstance(options.get("baseline"), Tensor):
                own = {**options, "baseline": options["baseline"].expand_as(image)[i : i + 1]}
            else:
                own = options
            asked = None if index is None else int(index[i])
            fixed = network.on_regions_of(one)
            maps.append(explain(fixed, one, method=method, class_index=asked,
                                batch_size=batch_size, **own))  # fmt: skip
        return torch.cat(maps)
    if method in saliency.METHODS:
        return saliency.compute_saliency(
            network, image, method=method, class_index=class_index, batch_size=batch_size, **options
        )
    maps = [
        cam.compute_cam(
            network,
            image[first : first + batch_size],
            method=method,
            class_index=None if index is None else index[first : first + batch_size],
            **options,
        )
        for first in range(0, len(image), batch_size)
    ]
    return torch.cat(maps)


def default_layer(network: nn.Module, image: Tensor) -> nn.Module:
    """The layer whose output a classifier pools; of a segmenter the last of its encoder's coarsest.

    Args:
        network: As in :func:`explain`. The encoder is a part of that name; without one, the
            coarsest of all maps.
        image: (1, 3, H, W) to run it on.

    Raises:
        UsageError: There is none.
    """
    return find_layer(network, None, image, coarsest=isinstance(network, RegionLogits))


class RegionLogits(nn.Module):
    """A segmenter as a classifier: of each class the mean logit where it is predicted.

    Of a class that is predicted nowhere it is the mean over the image.

    Args:
        segmenter: Image (N, 3, H, W) to logits (N, C, H, W).
        region: (1, C, H, W), where each class is looked at; None is where it is predicted on the
            very image that is asked about. A method that changes the image needs it fixed.

    Source: Vinogradova et al. 2020, "Towards Interpretable Semantic Segmentation via
        Gradient-weighted Class Activation Mapping", eq. 2.
    Differs: the mean instead of the sum, so that no class counts more for being large.
    """

    def __init__(self, segmenter: nn.Module, region: Tensor | None = None) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.register_buffer("region", region)  # a part of what the network is: cached by it
        self.region: Tensor | None

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) float in [0, 1] -> (N, C)."""
        logits = self.segmenter(image)
        region = _regions(logits) if self.region is None else self.region
        return (region * logits).sum((2, 3)) / region.sum((2, 3))

    @torch.no_grad()
    def on_regions_of(self, image: Tensor) -> RegionLogits:
        """The same segmenter, which looks where it predicts each class on this image (1, 3, H, W).

        Of copies of the image that were changed, its logits are still about the same pixels.
        """
        with cam.eval_mode(self):
            return RegionLogits(self.segmenter, _regions(self.segmenter(image)))


def _regions(logits: Tensor) -> Tensor:
    """(N, C, H, W) ones where each class is predicted; all ones of one that is so nowhere."""
    classes = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
    region = (logits.argmax(1, keepdim=True) == classes).to(logits.dtype)
    return torch.where(region.any((2, 3), keepdim=True), region, 1)


@dataclass(frozen=True)
class Explainer:
    """Maps of any number of images by one method of one network, each made once.

    Attributes:
        network: See :func:`explain`.
        method: One of ``METHODS``.
        layer: Dotted name of the CAM's layer; None is :func:`default_layer`.
        options: For :func:`explain`.
        batch_size: Images that pass through the network at one time.
        cache: Folder of maps that were made before, by the content of image and network, the
            method, its options and the class; None keeps none.
    """

    network: nn.Module
    method: str
    layer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    cache: Path | None = None

    def maps(
        self, images: Iterable[Tensor], classes: Iterable[int | None] | None = None
    ) -> Iterator[np.ndarray]:
        """A map for each image, in order; no more than a batch of them is in memory.

        Batches are made whole or not at all, so that the same images in the same order give the
        same bytes, whatever was in the cache before.

        Args:
            images: (3, H, W) float32 each, in the network's range, all of one size.
            classes: Of each image; None is its highest logit's.

        Yields:
            (H, W) uint8: 255 times the map in [0, 1].
        """
        every: Iterator[tuple[Tensor, int | None]] = ((image, None) for image in images)
        pairs = every if classes is None else zip(images, classes, strict=True)
        while batch := tuple(islice(pairs, self.batch_size)):
            keys = [self._key(image, index) for image, index in batch]
            found = [self._load(key) for key in keys]
            if any(each is None for each in found):
                made = self._made(batch)
                for key, each in zip(keys, made, strict=True):
                    self._store(key, each)
                yield from made
            else:
                yield from (each for each in found if each is not None)

    def _made(self, pairs: tuple[tuple[Tensor, int | None], ...]) -> np.ndarray:
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        image = torch.stack([each for each, _ in pairs]).to(device)
        given = [index for _, index in pairs]
        index = None
        if None not in given:
            index = torch.tensor(given)
        elif any(each is not None for each in given):
            with torch.no_grad(), cam.eval_mode(self.network):
                highest = self.network(image).argmax(1).tolist()
            index = torch.tensor(
                [own if each is None else each for each, own in zip(given, highest, strict=True)]
            )
        maps = explain(
            self.network,
            image,
            method=self.method,
            class_index=index,
            target_layer=None if self.layer is None else find_layer(self.network, self.layer),
            batch_size=self.batch_size,
            **self.options,
        )
        return (maps * 255).round().to(torch.uint8).cpu().numpy()

    @cached_property
    def _own(self) -> str:
        """What makes this explainer's maps what they are."""
        digest = sha256(repr(self.network).encode())
        for name, tensor in self.network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        options = {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in sorted(self.options.items())
        }
        parts = [FORMAT, digest.hexdigest(), self.method, self.layer, self.batch_size, options]
        return json.dumps(parts)

    def _key(self, image: Tensor, index: int | None) -> str:
        digest = sha256(f"{self._own} {tuple(image.shape)} {image.dtype} {index}".encode())
        digest.update(image.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _load(self, key: str) -> np.ndarray | None:
        if self.cache is None:
            return None
        try:
            found = np.load(self.cache / key[:2] / f"{key}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or damaged: it is made anew
            return None
        return found if found.dtype == np.uint8 and found.ndim == 2 else None

    def _store(self, key: str, saliency_map: np.ndarray) -> None:
        if self.cache is None:
            return
        path = self.cache / key[:2] / f"{key}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{key}-{os.getpid()}.npy")
        np.save(part, saliency_map)
        part.replace(path)


FORMAT = 2
"""To be raised where the same key would stand for another map."""
