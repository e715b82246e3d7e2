"""Part of pipeline ``factory``: how good its generator is, while it trains and afterwards.

Source: Bińkowski et al. 2018 (KID), section 5 on small samples.
Differs: Features are those of a packaged EfficientNet-Lite0 at five levels, not InceptionV3's, so
that values compare within a table and with no other table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fewmask.data.transforms import to_bytes, to_unit
from fewmask.errors import NumericalError
from fewmask.metrics.feature_distance import KernelDistance, kernel_distance
from fewmask.models.features import level_statistics
from fewmask.models.stylegan2 import Generator, Noise
from fewmask.randomness import generator as random_generator
from fewmask.randomness import seeded
from fewmask.training.signals import stop_if_asked

BATCH = 32
SIDE_PX = 64
"""Smaller images are enlarged to this before their features are taken."""
NARROW = 0.25
"""A generator has collapsed whose images vary less than this, relative to what they did before."""


def latent_codes(seed: int, numbers: Sequence[int], z_dim: int) -> Tensor:
    """Codes (N, z_dim) float32 from N(0, I), each a function of (seed, its number) alone."""
    rows = [random_generator(seed, "z", number).standard_normal(z_dim) for number in numbers]
    return torch.from_numpy(np.stack(rows)).float()


@torch.no_grad()
def generated_images(
    network: Generator,
    seed: int,
    numbers: Sequence[int],
    truncation_psi: float = 1.0,
    noise: Noise = "fixed",
) -> np.ndarray:
    """Images (N, S, S, 3) uint8 of the codes with these numbers."""
    device = next(network.parameters()).device
    made = []
    for start in range(0, len(numbers), BATCH):
        stop_if_asked()
        z = latent_codes(seed, numbers[start : start + BATCH], network.z_dim).to(device)
        image = network(z, truncation_psi, noise).image
        made.append(to_bytes((image.clamp(-1, 1) + 1) / 2))
    return np.concatenate(made)


def contact_sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (N, H, W, 3) side by side, in rows of ``columns``; what is missing is white.

    >>> contact_sheet(np.zeros((5, 2, 3, 3), np.uint8), columns=4).shape
    (4, 12, 3)
    """
    rows = -(-len(images) // columns)
    whole = np.full((rows * columns, *images.shape[1:]), 255, np.uint8)
    whole[: len(images)] = images
    height, width = images.shape[1:3]
    grid = whole.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)


@dataclass
class Watch:
    """Looks at a generator again and again, with the same codes.

    Attributes:
        real: (N, H, W, 3) uint8, images that it was trained on.
        seed: Of the codes.
        encoder: timm's name of the network whose features are compared.
        weights: ``packaged``, ``none``, or a file.
        device: Where features are taken.
        widest: The largest variety seen so far: a part of the loop's state.
        last: What the last look found: ``kid`` with the ends of its interval, and ``variety``.
    """

    real: np.ndarray
    seed: int
    encoder: str
    weights: str
    device: torch.device
    widest: float = 0.0
    last: dict[str, float] = field(default_factory=dict)

    @cached_property
    def network(self) -> torch.nn.Module:
        """The frozen network."""
        with seeded(self.seed, "features"):  # without weights, they are drawn
            return level_statistics(self.encoder, self.weights).to(self.device)

    @cached_property
    def of_real(self) -> np.ndarray:
        """Features (N, D) of the real images."""
        return self.features(self.real)

    @cached_property
    def floor(self) -> KernelDistance:
        """The distance of one half of the real images from the other: 0 but for chance."""
        order = random_generator(self.seed, "halves").permutation(len(self.real))
        half = len(order) // 2
        return kernel_distance(self.of_real[order[:half]], self.of_real[order[half:]])

    @torch.no_grad()
    def features(self, images: np.ndarray) -> np.ndarray:
        """Features (N, D) float32 of images (N, H, W, 3) uint8."""
        return np.concatenate(list(self._batches(images)))

    def _batches(self, images: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(images), BATCH):
            stop_if_asked()
            image = to_unit(np.asarray(images[start : start + BATCH])).to(self.device)
            if min(image.shape[2:]) < SIDE_PX:
                factor = SIDE_PX / min(image.shape[2:])
                image = functional.interpolate(image, scale_factor=factor, mode="bilinear")
            yield self.network(image).cpu().numpy()

    def look(self, network: Generator, count: int, where: str) -> tuple[KernelDistance, float]:
        """Compare a generator's images with the real ones.

        Args:
            network: The averaged generator.
            count: Images of it.
            where: To name in an error.

        Returns:
            Their kernel distance, and their variety: the mean variance of features, relative to
            that of the real images.

        Raises:
            NumericalError: it once varied, and now makes nearly one image only.
        """
        found = self.features(generated_images(network, self.seed, range(count)))
        variety = float(found.var(0).mean() / self.of_real.var(0).mean())
        self.widest = max(self.widest, variety)
        if variety < NARROW * min(self.widest, 1.0):
            raise NumericalError.of(
                "COLLAPSE",
                where=where,
                found=f"generated images vary {variety:.2f} times as much as the real ones, "
                f"{self.widest:.2f} before",
                expected=f"no less than {NARROW} of what they did",
                fix="start a new run with a higher generate_r1_gamma, a lower "
                "generate_learning_rate, or more images; the last checkpoint is kept",
            )
        distance = kernel_distance(found, self.of_real)
        self.last = {"kid": distance.value, "kid_low": distance.low, "kid_high": distance.high}
        self.last["variety"] = variety
        return distance, variety

    def state_dict(self) -> dict[str, Any]:
        """What a later look depends on, and what the last one found."""
        return {"widest": self.widest, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""
        self.widest, self.last = state["widest"], state["last"]
