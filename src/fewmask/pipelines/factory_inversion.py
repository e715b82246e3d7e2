"""Part of pipeline ``factory``: the styles with which a generator repeats a real image.

Source: Abdal et al. 2019 ("Image2StyleGAN", arXiv 1904.03189), section 3: one style a layer (W+),
a perceptual and a pixel loss, Adam; the schedule is that of Karras et al. 2020 (StyleGAN2),
appendix D. Written from the papers.
Differs: The perceptual loss compares the pyramid of a packaged network instead of four layers of
VGG16, each channel divided by its size over the images; styles are held near the mean style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewmask.data.transforms import to_signed, to_unit
from fewmask.models.features import Frozen
from fewmask.models.stylegan2 import Generator
from fewmask.pipelines.factory_config import FactoryConfig
from fewmask.randomness import generator as random_generator
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import open_array

BATCH = 10
"""Images that are sought together."""
CODES_FOR_MEAN = 1000
RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""Parts of the steps in which the rate rises and falls."""


class Start(NamedTuple):
    """Where the search begins.

    Attributes:
        mean: (w_dim,) the mean style.
        deviation: Root mean square distance of styles from it, per dimension.
    """

    mean: Tensor
    deviation: float


@torch.no_grad()
def mean_style(network: Generator, seed: int) -> Start:
    """The mean of the styles of many codes."""
    device = next(network.parameters()).device
    rng = random_generator(seed, "mean style")
    z = rng.standard_normal((CODES_FOR_MEAN, network.z_dim)).astype(np.float32)
    w = network.mapping(torch.from_numpy(z).to(device))
    mean = w.mean(0)
    return Start(mean, float((w - mean).square().mean().sqrt()))


def invert(
    stage: Stage,
    network: Generator,
    features: Frozen,
    images: np.ndarray,
    config: FactoryConfig,
) -> np.ndarray:
    """Find the styles of real images; weights of the generator stay as they are.

    Args:
        stage: Holds checkpoints, records and ``styles.npy``.
        network: The generator, in eval mode; its noise is off.
        features: Of the perceptual loss: image (N, 3, H, W) in [0, 1] to a list of maps.
        images: (N, S, S, 3) uint8, at the generator's size.
        config: Reads ``invert_*``.

    Returns:
        (N, num_ws, w_dim) float32, memory-mapped.
    """
    network.requires_grad_(False)
    start = mean_style(network, config.seed)
    scales = channel_scales(features, images, start.mean.device)
    shape = (len(images), network.synthesis.num_ws, len(start.mean))
    styles = open_array(stage.path / "styles.npy", np.float32, shape)
    for first in range(0, len(images), BATCH):
        rows = range(first, min(first + BATCH, len(images)))
        styles[rows] = _invert_batch(
            stage, network, features, images[rows], start, scales, config, f"images-{first}"
        )
    styles.flush()
    return styles


def _invert_batch(
    stage: Stage, network: Generator, features: Frozen, images: np.ndarray, start: Start,
    scales: Sequence[Tensor], config: FactoryConfig, name: str,
) -> np.ndarray:  # fmt: skip
    device = start.mean.device
    image = to_unit(np.asarray(images)).to(device)
    with torch.no_grad():
        wanted = features(image)
    ws = start.mean.repeat(len(images), network.synthesis.num_ws, 1).requires_grad_()
    optimizer = torch.optim.Adam([ws], config.invert_learning_rate)
    holder = _Styles(ws)
    loop = Loop(
        stage,
        config.invert_steps,
        seed=config.seed,
        state={"styles": holder, "optimizer": optimizer},
        name=name,
    )
    for step in loop:
        optimizer.param_groups[0]["lr"] = config.invert_learning_rate * rate_at(
            step / config.invert_steps
        )
        made = network.synthesis(ws, "none").image
        pixel = (made - to_signed(image)).square().mean()
        perceptual = perceptual_distance(features((made + 1) / 2), wanted, scales)
        away = ((ws - start.mean) / start.deviation).square().mean()
        loss = (
            config.invert_pixel_weight * pixel + perceptual + config.invert_mean_weight * away
        ) * len(images)  # so that an image's gradient does not depend on the others
        loop.update(optimizer, loss)
        loop.record(pixel=pixel, perceptual=perceptual, away=away)
    return ws.detach().cpu().numpy()


class _Styles:
    """The styles that are sought, as a part of a loop's state."""

    def __init__(self, ws: Tensor) -> None:
        self.ws = ws

    def state_dict(self) -> dict[str, Tensor]:
        return {"ws": self.ws.detach()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.ws.copy_(state["ws"])


@torch.no_grad()
def channel_scales(features: Frozen, images: np.ndarray, device: torch.device) -> list[Tensor]:
    """Root mean square (1, C, 1, 1) of each channel of each map over images (N, S, S, 3) uint8."""
    sums: list[Tensor] = []
    for first in range(0, len(images), BATCH):
        image = to_unit(np.asarray(images[first : first + BATCH])).to(device)
        squares = [m.square().mean((2, 3), keepdim=True).sum(0, keepdim=True)
                   for m in features(image)]  # fmt: skip
        sums = [s + q for s, q in zip(sums, squares, strict=True)] if sums else squares
    return [(s / len(images)).sqrt().clamp(min=1e-6) for s in sums]


def perceptual_distance(
    made: Sequence[Tensor], wanted: Sequence[Tensor], scales: Sequence[Tensor]
) -> Tensor:
    """Mean squared difference of maps (N, C, h, w), channels divided by their scales."""
    distances = [
        ((m - w) / s).square().mean() for m, w, s in zip(made, wanted, scales, strict=True)
    ]
    return torch.stack(distances).mean()


def rate_at(progress: float) -> float:
    """Share of the learning rate at a part of all steps: up in a line, at the end down in a cosine.

    >>> [round(rate_at(p), 3) for p in (0.0, 0.05, 0.5, 0.875, 1.0)]
    [0.0, 1.0, 1.0, 0.5, 0.0]

    Source: Karras et al. 2020 (StyleGAN2), appendix D.
    """
    down = min(1.0, (1.0 - progress) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(down * math.pi)) * min(1.0, progress / RAMP_UP)
