"""Part of pipeline ``factory``: synthetic images with masks, and which of them are let through.

Source: Zhang et al. 2021 (DatasetGAN), section 3.2: the tenth of all images on which the ensemble
disagrees most is left out.
Differs: Copies of training images are left out too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fewmask.data.transforms import to_unit
from fewmask.errors import CheckpointError, NumericalError, UsageError, shell_command
from fewmask.pipelines.factory_config import LabelConfig
from fewmask.pipelines.factory_features import EncoderFeatures, picture_of, teacher_generator
from fewmask.pipelines.factory_interpreter import interpret
from fewmask.pipelines.factory_label import load_interpreter
from fewmask.pipelines.factory_watch import latent_codes
from fewmask.training.progress import watched
from fewmask.training.workspace import Workspace

BATCH = 16


class Pair(NamedTuple):
    """A generated image and its mask.

    Attributes:
        number: Of its code.
        image: (S, S, 3) uint8.
        mask: (S, S) uint8 ids.
        disagreement: Mean over its pixels, in nats.
    """

    number: int
    image: np.ndarray
    mask: np.ndarray
    disagreement: float


class Gate:
    """Lets pairs through, but for copies of training images and the most doubtful."""

    def __init__(self) -> None:
        self.doubts: dict[int, float] = {}
        self.copies: list[int] = []

    def admits(self, number: int, disagreement: float, *, copy: bool) -> bool:
        """Whether a pair is no copy; it may still be too doubtful."""
        if copy:
            self.copies.append(number)
        else:
            self.doubts[number] = disagreement
        return not copy

    def surest(self, count: int) -> set[int]:
        """Numbers of the ``count`` pairs of least disagreement.

        Raises:
            NumericalError: none is left, as the generator only copies.
        """
        if not self.doubts:
            raise NumericalError.of(
                "ONLY-COPIES",
                where="generated images",
                found=f"{len(self.copies)} copies of training images",
                expected="images that were not there before",
                fix="train the generator on more images, or for a shorter time",
            )
        return set(sorted(self.doubts, key=lambda number: self.doubts[number])[:count])


def to_generate(count: int, drop: float) -> int:
    """How many images to make so that ``count`` are left when a share of ``drop`` is left out.

    >>> to_generate(1500, 0.1), to_generate(9, 0.1), to_generate(5, 0.0)
    (1667, 10, 5)
    """
    return math.ceil(round(count / (1 - drop), 6))


def generator_of(work: Workspace) -> Path:
    """The generator that an interpreter's run was taught with.

    Raises:
        UsageError: it reads an encoder, and lies in no generator's run.
        CheckpointError: the file has gone.
    """
    named = work.config.generator_weights
    path = Path(named)
    if named != "none" and path.is_file():
        return path
    if named == "none":
        raise UsageError.of(
            "GENERATOR-MISSING",
            where=work.run.path,
            found="an interpreter of real images, outside any generator's run",
            expected="a generator to sample from",
            fix=f"`{shell_command('predict', work.run.path, 'IMAGES', '-o', 'OUT')}` labels real "
            "images; or label with a run of `fewmask factory train`",
        )
    raise CheckpointError.of(
        "GENERATOR-MISSING",
        where=path,
        found="no such file",
        expected="the generator that the interpreter was taught with",
        fix="put its run back where it was",
    )


def batches(count: int) -> list[range]:
    """Numbers 0 to ``count`` as they are generated together, which is a matter of the last bits."""
    return [range(first, min(first + BATCH, count)) for first in range(0, count, BATCH)]


def labelled_images(
    work: Workspace, weights: Path, seed: int, truncation_psi: float, count: int
) -> Iterator[Pair]:
    """Generated images and what the interpreter says of them, in the order of their numbers.

    Args:
        work: Of a finished run of ``fewmask factory label``.
        weights: Of the generator.
        seed: Of the codes.
        truncation_psi: See :meth:`fewmask.models.stylegan2.Mapping.truncate`.
        count: Numbers 0 to this.
    """
    labelled, numbers = Labelled(work, weights, seed, truncation_psi), batches(count)
    for batch in watched(numbers, len(numbers), "sample", "batch"):
        yield from labelled.pairs(batch)


class Labelled:
    """Generated images with masks, a batch at a time.

    Args:
        work: As in :func:`labelled_images`, like the others.
    """

    def __init__(self, work: Workspace, weights: Path, seed: int, truncation_psi: float) -> None:
        config: LabelConfig = work.config.replaced(generator_weights=str(weights))
        self.work = Workspace(work.run, config, work.data, work.device, stages=work.stages)
        self.seed, self.truncation_psi = seed, truncation_psi
        self.network, self.members = teacher_generator(self.work), load_interpreter(self.work)
        self.encoder = EncoderFeatures.of(self.work) if config.route == "encoder" else None

    @torch.no_grad()
    def pairs(self, numbers: Sequence[int]) -> Iterator[Pair]:
        """Those of one of :func:`batches`."""
        device = self.work.device
        z = latent_codes(self.seed, numbers, self.network.z_dim).to(device)
        made = self.network(z, self.truncation_psi, "fixed", features=self.encoder is None)
        images = picture_of(made)
        features = made.features
        if self.encoder is not None:
            features = self.encoder(to_unit(images).to(device))
        found = interpret(self.members, features, self.work.config.working_size)
        masks = found.mask.cpu().numpy().astype(np.uint8)
        return map(Pair, numbers, images, masks, found.disagreement.mean((1, 2)).tolist())
