"""Maps of an image that weigh a segmenter's features, instead of being channels of its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


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
        parts: Any = segmenter
        self.encoder, self.decoder = parts.encoder, parts.decoder
        self.segmentation_head = parts.segmentation_head
        channels = parts.encoder.out_channels[1:]  # the first is the image
        self.gates = nn.ModuleDict(
            {str(level): _gate(maps, width, wide) for level, wide in enumerate(channels) if wide}
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


def _gate(maps: int, width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(maps, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, channels, 1)
    )
