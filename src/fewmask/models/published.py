"""The networks of the published systems, with the parameter counts that identify them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from fewmask.models.blocks import count_parameters
from fewmask.models.classifier import vgg16_classifier
from fewmask.models.cyclegan import Discriminator, Generator
from fewmask.models.segmenter import build_segmenter, classic_unet
from fewmask.models.stylegan2 import Discriminator as StyleGan2Discriminator
from fewmask.models.stylegan2 import Generator as StyleGan2Generator
from fewmask.models.unit import MultiScaleDiscriminator, Unit


class PublishedNetwork(NamedTuple):
    """One published network, counted on an instance of it.

    Attributes:
        name: What it is.
        parameters: Number of parameters.
        trainable: How many of them are trained.
        published: The number of parameters in print, or ``None`` where none is.
    """

    name: str
    parameters: int
    trainable: int
    published: int | None


def published_networks() -> list[PublishedNetwork]:
    """Build each published network without memory (on torch's meta device) and count it."""
    with torch.device("meta"):
        panoptic_fpn = build_segmenter("fpn", "resnet101", num_classes=19, pretrained=False)
        return [
            _count("VGG16 classifier", vgg16_classifier(2), published=135_309_890),
            _count("CycleGAN generator", Generator(), published=12_542_979),
            _count("CycleGAN discriminator", Discriminator(), published=662_977),
            _count("supervised U-Net", classic_unet(3, 2), published=None),
            _count("UNIT, both auto-encoders", Unit(), published=None),
            _count("UNIT discriminator, three sizes", MultiScaleDiscriminator(), published=None),
            _count("Panoptic FPN, ResNet-101, 19 classes", panoptic_fpn, published=None),
            _count("StyleGAN2 generator, 256 px", StyleGan2Generator(), published=None),
            _count("StyleGAN2 discriminator, 256 px", StyleGan2Discriminator(), published=None),
        ]


def _count(name: str, network: nn.Module, published: int | None) -> PublishedNetwork:
    parameters, trainable = count_parameters(network)
    return PublishedNetwork(name, parameters, trainable, published)
