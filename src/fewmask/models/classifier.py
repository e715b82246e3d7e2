"""Image classifiers: an image in [0, 1] to one logit per class.

Every network stands behind :class:`~fewmask.models.blocks.Normalised`, so its layers are named
``network.…``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from fewmask import torchvision_compat
from fewmask.errors import ResourceError, UsageError
from fewmask.models.blocks import Normalised, freeze
from fewmask.models.weights import (
    PACKAGED_ENCODER,
    load_encoder,
    load_packaged_encoder,
    load_weights_file,
    packaged_state_dict,
)

CLASSIFIER_TARGET_LAYER = {
    "vgg16": "network.features.28",
    PACKAGED_ENCODER: "network.bn2",
}
"""The layer at which an attribution looks by default; of other networks, the one that is pooled.

VGG16: the last convolution, before its ReLU, as in Score-CAM. EfficientNet-Lite0: the last
normalisation with its ReLU6; only global average pooling and the linear head follow, so that the
logit is linear in it and the plain CAM is exact. (``network.conv_head`` lies before the ReLU6.)
"""


OWN_WEIGHTS = {PACKAGED_ENCODER: "packaged", "vgg16": "imagenet", "resnet101": "imagenet"}
"""The pretrained weights that need no file, by encoder."""


def vgg16_classifier(
    num_outputs: int = 2, weights: Path | Literal["imagenet"] | None = None
) -> Normalised:
    """VGG16 whose last layer is replaced by 4096 → 256 → ``num_outputs``; only that is trained.

    Frozen are the convolutions, fc6 and fc7. Their dropouts stay active in training mode. With
    two outputs there are 135,309,890 parameters, 1,049,346 of them trained. Any image size from
    32 px works: features are pooled to 7 x 7.

    Args:
        num_outputs: Number of logits.
        weights: ``"imagenet"`` fetches torchvision's weights on first use; a file holds
            torchvision's VGG16 state dict; ``None`` leaves random weights.

    Raises:
        ResourceError: ``"imagenet"`` could not be fetched.
        UsageError: There is no such file.
        CheckpointError: The file is damaged or is not a VGG16.

    Shapes:
        image (N, 3, H, W) float in [0, 1] -> logits (N, num_outputs).

    Source: Simonyan & Zisserman 2015, table 1 column D, with the head of the tags pipeline.
    """
    torchvision_compat.ensure()
    from torchvision.models import vgg16

    state = None
    if weights is not None:
        fetched = weights == "imagenet"
        state = fetch_imagenet("vgg16") if fetched else load_weights_file(Path(weights))
    network = vgg16(weights=None)
    if state is not None:
        load_encoder(network, state, where=weights, head="classifier.6")
    freeze(network.features, network.classifier)
    network.classifier[6] = nn.Sequential(
        nn.Linear(4096, 256), nn.ReLU(), nn.Linear(256, num_outputs)
    )
    return Normalised(network)


def efficientnet_classifier(num_outputs: int, *, pretrained: bool) -> Normalised:
    """EfficientNet-Lite0 with a fresh linear head; every parameter is trained.

    Args:
        num_outputs: Number of logits.
        pretrained: Load the packaged ImageNet weights below the head.

    Raises:
        ResourceError: ``pretrained``, and the weights' package is not installed.

    Shapes:
        image (N, 3, H, W) float in [0, 1] -> logits (N, num_outputs).
    """
    classifier = timm_classifier(PACKAGED_ENCODER, num_outputs, None)
    if pretrained:
        load_packaged_encoder(classifier.network)
    return classifier


def timm_classifier(name: str, num_outputs: int, weights_file: Path | None) -> Normalised:
    """Any classifier of timm, by name, with a fresh linear head; every parameter is trained.

    Args:
        name: timm's name, for example ``resnet50``.
        num_outputs: Number of logits.
        weights_file: State dict of that network under timm's names, or ``None`` for random
            weights.

    Raises:
        UsageError: timm has no such network, or there is no such file.
        CheckpointError: The file is damaged or holds another network.

    Shapes:
        image (N, 3, H, W) float in [0, 1] -> logits (N, num_outputs).
    """
    check_timm_name(name)
    import timm

    network = timm.create_model(name, pretrained=False, num_classes=1)
    network.reset_classifier(num_outputs)  # type: ignore[operator]  # timm's own draw of a 1-output head is far too wide
    config: Any = network.pretrained_cfg
    if weights_file is not None:
        weights = load_weights_file(weights_file)
        load_encoder(network, weights, where=weights_file, head=config["classifier"])
    return Normalised(network, config["mean"], config["std"])


def imagenet_classifier(name: str, weights: str) -> Normalised:
    """A classifier with its own head: one logit for each of ImageNet's 1,000 classes.

    Args:
        name: timm's name, or ``vgg16`` (torchvision's).
        weights: ``packaged``, ``imagenet``, a file, or ``none`` for random weights.

    Raises:
        UsageError: There is no such network, or not with these weights.
        ResourceError: ``imagenet`` could not be fetched, or the packaged weights are not there.
        CheckpointError: The file is damaged, or holds another network or another head.

    Shapes:
        image (N, 3, H, W) float in [0, 1] -> logits (N, 1000).
    """
    check_encoder(name, weights)
    state = None
    if weights == "packaged":
        state = packaged_state_dict()
    elif weights != "none":
        fetched = weights == "imagenet"
        state = fetch_imagenet(name) if fetched else load_weights_file(Path(weights))
    if name == "vgg16":
        from torchvision.models import vgg16

        classifier = Normalised(vgg16(weights=None))
    else:
        import timm

        network = timm.create_model(name, pretrained=False, num_classes=1000)
        config: Any = network.pretrained_cfg
        classifier = Normalised(network, config["mean"], config["std"])
    if state is not None:  # a head of another size is missing, and refused
        load_encoder(classifier.network, state, where=weights, head="no layer may stay as it is")
    return classifier


def imagenet_size(name: str) -> tuple[int, int]:
    """Height and width in px at which a network of that name is asked.

    224 x 224, or its own where it takes only that, or none so small.
    """
    if name == "vgg16":
        return 224, 224
    torchvision_compat.ensure()
    from timm.models import get_pretrained_cfg

    config: Any = get_pretrained_cfg(name, allow_unregistered=False)
    least = max((config.min_input_size or (0,))[1:], default=0)
    if not config.fixed_input_size and least <= 224:
        return 224, 224
    _, height, width = config.input_size
    return height, width


def imagenet_class_names() -> list[str]:
    """Of the 1,000 logits of :func:`imagenet_classifier`, as timm lists them."""
    torchvision_compat.ensure()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(i) for i in range(1000)]


def check_encoder(name: str, weights: str) -> None:
    """Refuse an encoder that does not exist, or that has no such weights.

    Args:
        name: timm's name, or ``vgg16``.
        weights: ``packaged``, ``imagenet``, ``none``, or the path of a file.

    Raises:
        UsageError: With the weights that the encoder can have.
    """
    check_timm_name(name)
    own = OWN_WEIGHTS.get(name, "none")
    if weights in OWN_WEIGHTS.values() and weights != own:
        raise UsageError.of(
            "ENCODER-WEIGHTS",
            where="encoder_weights",
            found=f"{weights!r} for encoder {name!r}",
            expected=", ".join(f"{source} for {encoder}" for encoder, source in OWN_WEIGHTS.items())
            + "; for any encoder none, or a file",
            fix=f"--encoder-weights {own}, or --encoder-weights FILE with weights of {name}",
        )


def check_timm_name(name: str) -> None:
    """Raise UsageError, with the closest names, unless timm has a network called ``name``."""
    torchvision_compat.ensure()
    import difflib

    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise UsageError.of(
            "ENCODER-NAME",
            where="encoder",
            found=repr(name),
            expected="the name of a network in timm",
            fix=f"use {' or '.join(close)}" if close else f"use {PACKAGED_ENCODER}",
        )


def fetch_imagenet(name: str) -> dict[str, Tensor]:
    """ImageNet weights of VGG16 or ResNet-101 under torchvision's names, fetched on first use.

    Args:
        name: ``vgg16`` or ``resnet101``; timm's names of the latter's tensors are the same.

    Raises:
        ResourceError: They could not be fetched.
    """
    torchvision_compat.ensure()
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network, no disk, or a download that was cut
        raise ResourceError.of(
            "WEIGHTS-DOWNLOAD",
            where=weights.url,
            found=f"{type(error).__name__}: {error}",
            expected=f"torchvision's {name} weights ({weights.meta['_file_size']:.0f} MB), once",
            fix=f"fetch that file elsewhere and give --encoder path/to/{name}.pth, "
            "or use the packaged encoder (--preset fast)",
        ) from error
