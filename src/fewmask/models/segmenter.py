"""Segmenters: an image in [0, 1] of any size to one logit per pixel and class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewmask import torchvision_compat
from fewmask.errors import UsageError
from fewmask.models.blocks import Normalised, Padded
from fewmask.models.classifier import check_timm_name, fetch_imagenet
from fewmask.models.fusion import Fusion, GatedByMaps, JoinedLate
from fewmask.models.weights import (
    PACKAGED_ENCODER,
    load_encoder,
    load_packaged_encoder,
    load_weights_file,
)

ARCHITECTURES = (
    "unet", "unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "fcn", "segformer", "upernet",
)  # fmt: skip
STRIDE_PX = 32


def build_segmenter(
    architecture: str = "unet",
    encoder: str = PACKAGED_ENCODER,
    *,
    num_classes: int,
    in_channels: int = 3,
    pretrained: bool,
    decoder_channels: Sequence[int] | None = None,
    weights_file: Path | Literal["imagenet"] | None = None,
    maps: int = 0,
    fusion: Fusion = "channel",
) -> Normalised:
    """A decoder of segmentation_models_pytorch on an encoder of timm.

    Normalisation is inside, with the encoder's own mean and standard deviation (repeated in
    turn beyond three channels). An image whose sides are not multiples of 32 is padded by
    reflection and the logits are cropped.

    Args:
        architecture: One of :data:`ARCHITECTURES`.
        encoder: timm's name of the encoder.
        num_classes: Number of logits per pixel, background included (K + 1).
        in_channels: Channels of the image. Those beyond three that the encoder sees begin with
            weights of zero, so that at first it sees what it would without them; fewer than three
            share the sum of the weights, as if the image were grey. The rest of the network begins
            the same for any number.
        pretrained: Load the packaged ImageNet weights; for ``tf_efficientnet_lite0`` only.
        decoder_channels: For ``unet`` and ``unetplusplus`` the decoder's five widths from coarse
            to fine; for ``fpn`` the pyramid's and the segmentation branch's. ``None`` keeps the
            library's: (256, 128, 64, 32, 16), and (256, 128). The branch's is a multiple of 32.
        weights_file: State dict of the encoder under timm's names, instead of the packaged one;
            ``"imagenet"`` fetches torchvision's of ``vgg16`` or ``resnet101`` on first use.
            Otherwise nothing is downloaded.
        maps: Of the image's channels the last so many are maps.
        fusion: How they enter, see :data:`fewmask.models.fusion.Fusion`; with ``gates`` and
            ``late`` the encoder sees the three others alone.

    Raises:
        UsageError: The names or their combination are not possible.
        ResourceError: ``pretrained``, and the weights' package is not installed; or ``"imagenet"``
            could not be fetched.
        CheckpointError: ``weights_file`` is damaged or holds another network.

    Shapes:
        image (N, in_channels, H, W) float in [0, 1] -> logits (N, num_classes, H, W).
    """
    _check_request(architecture, encoder, pretrained, decoder_channels, weights_file, fusion)
    check_timm_name(encoder)
    import segmentation_models_pytorch as smp

    classes = {
        "unet": smp.Unet,
        "unetplusplus": smp.UnetPlusPlus,
        "fpn": smp.FPN,
        "deeplabv3": smp.DeepLabV3,
        "deeplabv3plus": smp.DeepLabV3Plus,
        "fcn": FullyConvolutional,
        "segformer": smp.Segformer,
        "upernet": smp.UPerNet,
    }
    decoder = _widths(architecture, decoder_channels) if decoder_channels else {}
    network = classes[architecture](
        encoder_name=f"tu-{encoder}",
        encoder_weights=None,
        in_channels=3,
        classes=num_classes,
        **decoder,
    )
    if pretrained:
        load_packaged_encoder(network.encoder.model)
    if weights_file is not None:
        fetched = weights_file == "imagenet"
        state = fetch_imagenet(encoder) if fetched else load_weights_file(Path(weights_file))
        load_encoder(network.encoder.model, state, where=weights_file)
    joined = {"gates": GatedByMaps, "late": JoinedLate}
    seen = in_channels - maps if fusion in joined else in_channels
    if seen != 3:
        _see_channels(network.encoder, seen, at_mean=fusion == "mean_channel")
    config = network.encoder.model.default_cfg
    if maps and fusion in joined:
        network = joined[fusion](network, maps)
    return Normalised(
        Padded(network, STRIDE_PX),
        mean=[config["mean"][i % 3] for i in range(in_channels)],
        std=[config["std"][i % 3] for i in range(in_channels)],
    )


def _see_channels(encoder: nn.Module, channels: int, *, at_mean: bool) -> None:
    """Let an encoder for three channels see more or fewer, in place.

    Further ones begin at zero, or at the mean of the colours' weights.
    """
    layers = [each for each in encoder.modules() if isinstance(each, nn.Conv2d)]
    first = next(each for each in layers if each.in_channels == 3)
    weight, first.in_channels = first.weight.detach(), channels
    if channels > 3:
        begin = weight.mean(1, keepdim=True) * at_mean
        more = begin.expand(-1, channels - 3, -1, -1)
        first.weight = nn.Parameter(torch.cat([weight, more], dim=1))
    else:
        grey = weight.sum(1, keepdim=True) / channels
        first.weight = nn.Parameter(grey.expand(-1, channels, -1, -1).clone())


class FullyConvolutional(nn.Module):
    """An encoder dilated to a stride of 8 px, a 3x3 and a 1x1 convolution, enlarged logits.

    Args:
        encoder_name: segmentation_models_pytorch's name of the encoder.
        encoder_weights: None.
        in_channels: Channels of the image.
        classes: Number of logits per pixel.

    Source: Long et al. 2015, "Fully Convolutional Networks"; dilation and head as in torchvision's
        ``fcn_resnet101``, whose head this is.
    """

    def __init__(
        self, encoder_name: str, encoder_weights: None, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        torchvision_compat.ensure()
        from segmentation_models_pytorch.encoders import get_encoder
        from torchvision.models.segmentation.fcn import FCNHead

        self.encoder = get_encoder(
            encoder_name, in_channels=in_channels, depth=5, weights=encoder_weights, output_stride=8
        )
        self.head = FCNHead(self.encoder.out_channels[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """(N, in_channels, H, W), normalised -> logits (N, classes, H, W)."""
        logits = self.head(self.encoder(image)[-1])
        return nn.functional.interpolate(logits, image.shape[2:], mode="bilinear")


GROUPS = 32
"""Of the normalisation in fpn's branch."""
WIDTHS = {"unet": 5, "unetplusplus": 5, "fpn": 2}
"""Numbers of widths that describe a decoder, where it has any to choose."""


def _widths(architecture: str, channels: Sequence[int]) -> dict[str, int | tuple[int, ...]]:
    if architecture == "fpn":
        pyramid, branch = channels
        return {"decoder_pyramid_channels": pyramid, "decoder_segmentation_channels": branch}
    return {"decoder_channels": tuple(channels)}


def _check_request(
    architecture: str,
    encoder: str,
    pretrained: bool,
    decoder_channels: Sequence[int] | None,
    weights_file: Path | str | None,
    fusion: str,
) -> None:
    if architecture not in ARCHITECTURES:
        raise UsageError.of(
            "ARCHITECTURE",
            where="architecture",
            found=repr(architecture),
            expected=f"one of {', '.join(ARCHITECTURES)}",
            fix="choose one of them",
        )
    if decoder_channels and len(decoder_channels) != WIDTHS.get(architecture):
        raise UsageError.of(
            "DECODER-CHANNELS",
            where="decoder_channels",
            found=f"{tuple(decoder_channels)} for {architecture!r}",
            expected="five widths for unet or unetplusplus, two for fpn, none for others",
            fix="leave decoder_channels out",
        )
    if decoder_channels and architecture == "fpn" and decoder_channels[1] % GROUPS:
        raise UsageError.of(
            "DECODER-CHANNELS",
            where="decoder_channels",
            found=f"{decoder_channels[1]} channels of fpn's branch",
            expected=f"a multiple of {GROUPS}, the number of groups of its normalisation",
            fix=f"{-(-decoder_channels[1] // GROUPS) * GROUPS}",
        )
    if fusion in {"gates", "late"} and architecture == "fcn":
        raise UsageError.of(
            "ARCHITECTURE",
            where="architecture",
            found=f"fcn, which has no decoder, with fusion {fusion!r}",
            expected="a decoder, for whose features the maps are",
            fix="unet, or the maps as channels of the input",
        )
    if pretrained and weights_file is not None:
        raise UsageError.of(
            "ENCODER-WEIGHTS",
            where="encoder",
            found="both packaged weights and a weights file",
            expected="one of them",
            fix="set pretrained to false",
        )
    if pretrained and encoder != PACKAGED_ENCODER:
        raise UsageError.of(
            "ENCODER-WEIGHTS",
            where="encoder",
            found=f"pretrained {encoder!r}",
            expected=f"{PACKAGED_ENCODER!r}, the only packaged weights",
            fix="set pretrained to false, or give the encoder's weights as a file",
        )


class ClassicUNet(nn.Module):
    """The first U-Net: five levels of two 3x3 convolutions with ReLU, joined by concatenation.

    Args:
        in_channels: Channels of the image.
        num_classes: Number of logits per pixel, background included.
        width: Channels of the finest level; each coarser level doubles them.

    Source: Ronneberger et al. 2015, figure 1; initial weights and dropout from section 3.
    Differs: Convolutions are padded, so the logits have the image's size.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            _double_conv(before, after)
            for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * after, after, 2, stride=2) for after in widths[-2::-1]
        )
        self.merge = nn.ModuleList(_double_conv(2 * after, after) for after in widths[-2::-1])
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, in_channels, H, W), sides multiples of 16 -> logits (N, num_classes, H, W)."""
        features = self.down[0](image)
        skips = []
        for level in self.down[1:]:
            skips.append(features)
            features = level(self.pool(features))
        features = self.dropout(features)
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([skips.pop(), up(features)], dim=1))
        return self.head(features)


def classic_unet(in_channels: int, num_classes: int, width: int = 64) -> Normalised:
    """:class:`ClassicUNet` for images of any size, the supervised reference of the tags pipeline.

    But for its first layer it begins the same for any ``in_channels``.

    Shapes:
        image (N, in_channels, H, W) float in [0, 1] -> logits (N, num_classes, H, W).
    """
    network = ClassicUNet(3, num_classes, width)
    if in_channels != 3:  # drawn behind all others, that these are the same
        first = nn.Conv2d(in_channels, width, 3, padding=1)
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
        if first.bias is not None:
            nn.init.zeros_(first.bias)
        blocks: Any = network.down
        blocks[0][0] = first
    half = [0.5] * in_channels
    return Normalised(Padded(network, 16), half, half)


def _double_conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1),
        nn.ReLU(inplace=True),
    )
