"""Features of a pretrained network that is never trained: to compare images, or whole sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewmask import torchvision_compat
from fewmask.errors import UsageError
from fewmask.models.blocks import Normalised, freeze
from fewmask.models.classifier import check_encoder, fetch_imagenet, timm_classifier
from fewmask.models.weights import (
    load_encoder,
    load_packaged_encoder,
    load_weights_file,
)

VGG16_RELU5_3 = 30
"""Layers of torchvision's ``vgg16.features`` up to and including relu5_3."""


class Frozen(nn.Module):
    """A network that stays as it is: no gradient for its parameters, always in eval mode.

    Gradients still reach its input.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        freeze(network)
        self.train(mode=False)

    def train(self, mode: bool = True) -> Frozen:  # noqa: ARG002 - whatever is asked
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        """What the network returns."""
        return self.network(image)


def content_features(encoder: str, weights: str) -> Frozen:
    """Feature maps that say what is where: relu5_3 of VGG16, or a timm network at stride 16.

    Args:
        encoder: ``vgg16``, as published, or timm's name of a network.
        weights: ``packaged``, ``imagenet``, ``none``, or the path of a file; see
            :func:`fewmask.models.classifier.check_encoder`.

    Raises:
        FewmaskError: there is no such network, or not with these weights.

    Shapes:
        image (N, 3, H, W) float in [0, 1], sides of 32 px or more -> (N, C, h, w): 1/16 of the
        sides, rounded.

    Source: Johnson et al. 2016, section 3.2; the layer of Huang et al. 2018 (MUNIT), section 5.1.
    """
    check_encoder(encoder, weights)
    torchvision_compat.ensure()
    if encoder == "vgg16":
        from torchvision.models import vgg16

        network: Any = vgg16(weights=None)
        _load(network, encoder, weights)
        return Frozen(Normalised(network.features[:VGG16_RELU5_3]))
    import timm

    network = timm.create_model(encoder, pretrained=False, features_only=True)
    levels = _levels(network, encoder)
    if 16 not in levels:
        raise _without_levels(encoder, f"levels at strides {levels}", "one at stride 16")
    index = levels.index(16)
    network = timm.create_model(encoder, pretrained=False, features_only=True, out_indices=(index,))
    config: Any = network.default_cfg
    _load(network, encoder, weights)
    return Frozen(Normalised(_First(network), config["mean"], config["std"]))


def level_statistics(encoder: str, weights: str) -> Frozen:
    """One vector an image: mean and deviation of every channel at all levels of a network.

    Light, weather and camera show in these, content in the deeper ones. A classifier's last
    features have been taught not to see the former.

    Args:
        encoder: timm's name of a network that gives its features by level.
        weights: ``packaged``, ``none``, or the path of a file.

    Raises:
        FewmaskError: there is no such network, or not with these weights.

    Shapes:
        image (N, 3, H, W) float in [0, 1], sides of 64 px or more -> (N, D), D = 1024 for
        EfficientNet-Lite0, whose levels are the strides 2 … 32.

    Source: Huang & Belongie 2017 ("AdaIN"), eq. 5 to 7: an image's style is these statistics.
    """
    check_encoder(encoder, weights)
    torchvision_compat.ensure()
    import timm

    network = timm.create_model(encoder, pretrained=False, features_only=True)
    _levels(network, encoder)
    config: Any = network.default_cfg
    _load(network, encoder, weights)
    return Frozen(Normalised(_Statistics(network), config["mean"], config["std"]))


def feature_pyramid(encoder: str, weights: str) -> Frozen:
    """The feature maps of a network at all its levels, finest first.

    Args:
        encoder: timm's name of a network that gives its features by level.
        weights: ``packaged``, ``none``, or the path of a file.

    Raises:
        FewmaskError: there is no such network, or not with these weights.

    Shapes:
        image (N, 3, H, W) float in [0, 1] -> list of (N, C, h, w), of EfficientNet-Lite0 at the
            strides 2, 4, 8, 16 and 32, with 512 channels together.
    """
    check_encoder(encoder, weights)
    torchvision_compat.ensure()
    import timm

    network = timm.create_model(encoder, pretrained=False, features_only=True)
    _levels(network, encoder)
    config: Any = network.default_cfg
    _load(network, encoder, weights)
    return Frozen(Normalised(network, config["mean"], config["std"]))


def pooled_features(encoder: str, weights: str) -> Frozen:
    """One vector an image: what a classifier of timm hands to its last layer.

    Args:
        encoder: timm's name of a network.
        weights: ``packaged``, ``none``, or the path of a file.

    Raises:
        FewmaskError: there is no such network, or not with these weights.

    Shapes:
        image (N, 3, H, W) float in [0, 1] -> (N, D), D = 1280 for EfficientNet-Lite0.
    """
    check_encoder(encoder, weights)
    file = None if weights in {"packaged", "none"} else Path(weights)
    classifier = timm_classifier(encoder, 1, file)
    if weights == "packaged":
        load_packaged_encoder(classifier.network)
    classifier.network.reset_classifier(0)  # type: ignore[operator]
    return Frozen(classifier)


def _levels(network: Any, encoder: str) -> list[int]:
    """Strides of a features-only network, whose maps must be (N, C, H, W)."""
    with torch.no_grad():
        maps = network.eval()(torch.zeros(1, 3, 224, 224))
    channels = network.feature_info.channels()
    if [features.shape[1] for features in maps] != channels:
        raise _without_levels(encoder, "maps with the channels last", "maps (N, C, H, W)")
    return list(network.feature_info.reduction())


def _without_levels(encoder: str, found: str, expected: str) -> UsageError:
    return UsageError.of(
        "ENCODER-LEVELS",
        where=encoder,
        found=found,
        expected=expected,
        fix="choose a convolutional network, such as tf_efficientnet_lite0 or resnet50",
    )


class _Statistics(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        levels = [features.flatten(2) for features in self.network(image)]  # (N, C, h * w) each
        statistics = [s for f in levels for s in (f.mean(2), f.std(2, correction=0))]
        return torch.cat(statistics, dim=1)


class _First(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)[0]


def _load(network: nn.Module, encoder: str, weights: str) -> None:
    if weights == "packaged":
        load_packaged_encoder(network)
    elif weights != "none":
        fetched = weights == "imagenet"
        state = fetch_imagenet(encoder) if fetched else load_weights_file(Path(weights))
        load_encoder(network, state, where=weights)
