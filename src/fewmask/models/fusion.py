"""Maps of an image that enter a segmenter elsewhere than as channels of its input."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Fusion = Literal["channel", "mean_channel", "gates", "late"]
"""How maps enter: as channels of the input whose weights begin at zero, or at the mean of the
colours'; as weights of the encoder's features, :class:`GatedByMaps`; beside the decoder's,
:class:`JoinedLate`."""


class GatedByMaps(nn.Module):
    """A segmenter whose encoder's features are weighed by maps of the image, at each scale.

    f_l becomes f_l ∘ (1 + γ_l · (2 σ(h_l(m_l)) − 1)): m_l are the maps at level l, averaged over
    the pixels that one of its features stands for, h_l two convolutions. γ_l begins at 0, so that
    the network begins as it would without maps.

    Args:
        segmenter: Of segmentation_models_pytorch, for three channels.
        maps: M, number of maps.
        width: Channels between the two convolutions of h_l.

    Source: Oktay et al. 2018, "Attention U-Net", whose gates this follows.
    Differs: a gate comes from the maps alone, one for each channel, and begins open; ours.
    """

    def __init__(self, segmenter: nn.Module, maps: int, width: int = 16) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = _parts(segmenter)
        channels = self.encoder.out_channels[1:]  # the first is the image
        self.gates = nn.ModuleDict(
            {
                str(level): _two_convolutions(maps, width, wide)
                for level, wide in enumerate(channels)
                if wide
            }
        )
        self.strength = nn.Parameter(torch.zeros(len(channels)))

    def forward(self, image: Tensor) -> Tensor:
        """Image and maps (N, 3 + M, H, W) -> logits (N, num_classes, H, W)."""
        maps, (seen, *features) = image[:, 3:], self.encoder(image[:, :3])
        for key, gate in self.gates.items():
            level = int(key)
            small = functional.adaptive_avg_pool2d(maps, features[level].shape[2:])
            weight = 2 * gate(small).sigmoid() - 1
            features[level] = features[level] * (1 + self.strength[level] * weight)
        return self.segmentation_head(self.decoder([seen, *features]))


class JoinedLate(nn.Module):
    """A segmenter whose decoder's features meet maps of the image just before the head.

    f becomes f + h(f, m): m are the maps, averaged over the pixels that one of the features stands
    for, h two convolutions of both. The last begins at 0, so that the network begins as it would
    without maps. The encoder never sees them: its pretrained weights stay fit for what they see.

    Args:
        segmenter: Of segmentation_models_pytorch, for three channels.
        maps: M, number of maps.
        width: Channels between the two convolutions of h.

    Source: ours.
    """

    def __init__(self, segmenter: nn.Module, maps: int, width: int = 16) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = _parts(segmenter)
        head = next(m for m in self.segmentation_head.modules() if isinstance(m, nn.Conv2d))
        self.join = _two_convolutions(head.in_channels + maps, width, head.in_channels)
        last: Any = self.join[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Image and maps (N, 3 + M, H, W) -> logits (N, num_classes, H, W)."""
        features = self.decoder(self.encoder(image[:, :3]))
        maps = functional.adaptive_avg_pool2d(image[:, 3:], features.shape[2:])
        return self.segmentation_head(features + self.join(torch.cat([features, maps], dim=1)))


def _parts(segmenter: Any) -> tuple[Any, Any, Any]:
    return segmenter.encoder, segmenter.decoder, segmenter.segmentation_head


def _two_convolutions(channels: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, out, 1)
    )
