"""Networks applied to many images: batches, mirrored views, memory-mapped results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.attribution.cam import VIEWS
from fewmask.data.transforms import resize_image, to_unit
from fewmask.training.signals import stop_if_asked


@torch.no_grad()
def predict_probs(
    network: nn.Module, image: Tensor, *, views: str = "single", device: torch.device | None = None
) -> Tensor:
    """Class probabilities of a segmenter.

    Args:
        network: In eval mode; image to logits (N, C, H, W).
        image: (N, 3, H, W) float32 in [0, 1].
        views: Average over the views that :data:`fewmask.attribution.cam.VIEWS` lists by this
            name.
        device: Where the network is; default: the device of its first parameter.

    Returns:
        (N, C, H, W) float32 on the CPU, softmax over C.
    """
    device = device or next(network.parameters()).device
    image = image.to(device).contiguous(memory_format=torch.channels_last)
    total = torch.zeros((), device=device)
    for turns, mirrored in VIEWS[views]:
        view = torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))
        probs = torch.rot90(network(view).softmax(1), -turns, (-2, -1))
        total = total + (probs.flip(-1) if mirrored else probs)
    return (total / len(VIEWS[views])).float().cpu()


@torch.no_grad()
def predict_tags(
    network: nn.Module,
    images: np.ndarray,
    rows: Sequence[int],
    *,
    exclusive: bool,
    device: torch.device,
    batch_size: int = 64,
) -> np.ndarray:
    """Probability of each tag.

    Args:
        network: Classifier in eval mode.
        images: (N, H, W, 3) uint8.
        rows: Which of them.
        exclusive: Logits are [none, tag 1, …] under a softmax; otherwise one sigmoid a tag.
        device: Where the network is.
        batch_size: Images at once; between two batches it stops if a signal has
            asked for that.

    Returns:
        (len(rows), K) float32.
    """
    found = []
    for first in range(0, len(rows), batch_size):
        stop_if_asked()
        image = to_unit(images[list(rows[first : first + batch_size])]).to(device)
        logits = network(image).float()
        found.append(logits.softmax(1)[:, 1:] if exclusive else logits.sigmoid())
    return torch.cat(found).cpu().numpy() if found else np.zeros((0, 0), np.float32)


SIDE_PX = 224
"""Images are resized to squares of this side where whole images are compared."""


@torch.no_grad()
def vector_of(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """What a network of ``models/features.py`` gives for one image of any size.

    Args:
        network: One of those that give a vector an image, (N, 3, H, W) float in [0, 1] to (N, D).
        image: (H, W, 3) uint8; resized to ``SIDE_PX`` x ``SIDE_PX``.

    Returns:
        (D,) float64.
    """
    small = to_unit(resize_image(image, SIDE_PX, SIDE_PX))[None]
    return network(small.to(next(network.parameters()).device))[0].double().cpu().numpy()
