"""Part of pipeline ``factory``: the feature maps that the interpreter reads, by three routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fewmask.data.transforms import to_bytes, to_unit
from fewmask.errors import DataError
from fewmask.models.features import Frozen, feature_pyramid
from fewmask.models.stylegan2 import Generator, Synthesised
from fewmask.pipelines.factory_config import LabelConfig
from fewmask.pipelines.factory_generator import load_generator
from fewmask.pipelines.factory_seeds import number_of, read_seeds
from fewmask.pipelines.factory_watch import latent_codes
from fewmask.randomness import seeded
from fewmask.training.checkpoint import sha256_file
from fewmask.training.workspace import Workspace

FAR = 2.0
"""Mean difference in grey levels of two pictures that are not the same; machines round otherwise
by less."""


def features_of(work: Workspace) -> Iterator[Sequence[Tensor]]:
    """Maps (1, C, h, w) of each annotated image."""
    config: LabelConfig = work.config
    if config.route == "encoder":
        encoder = EncoderFeatures.of(work)
        for image in work.images:
            yield encoder(to_unit(image)[None].to(work.device))
        return
    network = teacher_generator(work)
    with torch.no_grad():
        if config.route == "invert":
            for ws in np.load(work.stages["invert"].path / "styles.npy", mmap_mode="r"):
                styles = torch.from_numpy(np.array(ws))[None].to(work.device)
                yield network.synthesis(styles, "none", features=True).features
            return
        record = read_seeds(
            work.data.root, sha256_file(Path(config.generator_weights)), work.run.path
        )
        for row, sample in enumerate(work.data.samples):
            number = number_of(sample.image_path.stem)
            assert number is not None
            z = latent_codes(record["seed"], [number], network.z_dim).to(work.device)
            made = network(z, record["truncation_psi"], "fixed", features=True)
            _require_same(picture_of(made)[0], work.images[row], sample.image_path)
            yield made.features


def _require_same(made: np.ndarray, given: np.ndarray, path: Path) -> None:
    """Refuse an exported image that is no longer what the generator makes of its code."""
    difference = np.abs(made.astype(int) - given).mean()
    if difference > FAR:
        raise DataError.of(
            "SEEDS-CHANGED",
            where=path,
            found=f"a picture that differs by {difference:.1f} grey levels from the generator's",
            expected="the picture as it was exported",
            fix="export it again; masks belong into files of their own",
        )


def picture_of(made: Synthesised) -> np.ndarray:
    """(N, S, S, 3) uint8 of what the synthesis network gives."""
    return to_bytes((made.image.clamp(-1, 1) + 1) / 2)


def teacher_generator(work: Workspace) -> Generator:
    """The generator whose features are read, in eval mode; it is never trained here."""
    weights = Path(work.config.generator_weights)
    return load_generator(weights, work.config, work.device).requires_grad_(False)


def frozen_pyramid(work: Workspace) -> Frozen:
    """The encoder of the settings, by levels; one without weights is the same each time."""
    config: LabelConfig = work.config
    with seeded(config.seed, "features"):
        return feature_pyramid(config.encoder, config.encoder_weights).to(work.device)


@dataclass(frozen=True)
class EncoderFeatures:
    """The feature maps of real images in a frozen encoder.

    Attributes:
        pyramid: Image (N, 3, H, W) in [0, 1] to a list of maps.
        times: Images are enlarged so many times before.
    """

    pyramid: Frozen
    times: int

    @classmethod
    def of(cls, work: Workspace) -> EncoderFeatures:
        """As the settings say."""
        return cls(frozen_pyramid(work), work.config.interpret_enlarge)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> list[Tensor]:
        """Maps (N, C, h, w) of images (N, 3, H, W) float in [0, 1]."""
        if self.times > 1:
            image = functional.interpolate(image, scale_factor=self.times, mode="bilinear")
        return list(self.pyramid(image))
