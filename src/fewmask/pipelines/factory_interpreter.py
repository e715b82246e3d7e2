"""Part of pipeline ``factory``: the style interpreter, from few annotated images to pixel labels.

An ensemble of pixel classifiers learns from the feature maps of annotated images: of a generator's
images, or of real ones in a frozen encoder. Maps stay at their own sizes, in half precision, on the
disk; a step reads the pixels that it has drawn. Pixels marked 255 are not drawn, so scribbles are
masks like others.

Source: Zhang et al. 2021 (DatasetGAN), section 3.2; Li et al. 2022 (BigDatasetGAN) and Baranchuk et
al. 2022 for features of other networks; Menon et al. 2021, eq. 8, for the correction of the draw.
Differs: A step draws pixels, classes by a power of their frequency (``interpret_balance``; 1 draws
all alike, as published). What the draw has done to the classes' frequencies is taken out of the
last bias afterwards.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import DataError
from fewmask.models.pixel_classifier import Labels, PixelClassifier, features_at, label
from fewmask.pipelines.factory_config import FactoryConfig
from fewmask.randomness import generator, seed_all
from fewmask.training.checkpoint import load_weights, save_weights
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import open_array

INTERPRETER = "interpreter.safetensors"


class NativeMaps:
    """Feature maps of annotated images: one (N, h, w, C) float16 file for each map of the network.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("map-*.npy"))
        self.files = [np.load(path, mmap_mode="c") for path in paths]  # as torch wants to write
        self.channels = [file.shape[3] for file in self.files]

    @classmethod
    def write(cls, stage: Stage, features: Iterable[Sequence[Tensor]], count: int) -> NativeMaps:
        """Keep the maps of ``count`` images, given one by one as (1, C, h, w) of each map."""
        files: list[np.memmap] = []
        for row, maps in enumerate(features):
            if not files:
                files = [
                    open_array(
                        stage.path / f"map-{number:02d}.npy",
                        np.float16,
                        (count, m.shape[2], m.shape[3], m.shape[1]),
                    )
                    for number, m in enumerate(maps)
                ]
            for file, m in zip(files, maps, strict=True):
                file[row] = m[0].permute(1, 2, 0).half().cpu().numpy()
        for file in files:
            file.flush()
        return cls(stage.path)

    def of_image(self, row: int) -> list[Tensor]:
        """(h, w, C) float16 of each map; nothing is read before it is needed."""
        return [torch.from_numpy(file[row]) for file in self.files]

    def release(self) -> None:
        """Give the pages that were read back to the system, which may still have them at hand.

        Without this the maps stay in the process's memory, in the end all of them.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            for file in self.files:
                file._mmap.madvise(mmap.MADV_DONTNEED)


class PixelDraw:
    """Draws labelled pixels, the rarer classes more often than they come.

    Args:
        masks: (N, H, W) uint8 ids, 255 = not labelled.
        num_classes: K.
        balance: Classes are drawn by their frequency to this power: 1 as they come, 0 all alike.

    Raises:
        DataError: no pixel is labelled.
    """

    def __init__(self, masks: np.ndarray, num_classes: int, balance: float) -> None:
        flat = masks.reshape(-1)
        self.shape = masks.shape
        self.places = [np.flatnonzero(flat == k) for k in range(num_classes)]
        pixels = np.array([len(places) for places in self.places], float)
        if not pixels.any():
            raise DataError.of(
                "MASKS-EMPTY",
                where="annotated images",
                found=f"no pixel of {num_classes} classes, only {IGNORE_INDEX} (not labelled)",
                expected="masks with labelled pixels",
                fix="look at the masks: are they on the right images?",
            )
        self.frequency = pixels / pixels.sum()
        drawn = np.where(pixels > 0, self.frequency**balance, 0.0)
        self.shares = drawn / drawn.sum()

    def __call__(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (count, 3) int64 as image, row and column, sorted by image; classes (count,)."""
        classes = rng.choice(len(self.shares), count, p=self.shares)
        place = np.zeros(count, np.int64)
        for k in np.unique(classes):
            of_class = classes == k
            place[of_class] = rng.choice(self.places[k], of_class.sum())
        order = np.argsort(place, kind="stable")
        pixels = np.stack(np.unravel_index(place[order], self.shape), 1)
        return pixels, classes[order]

    @property
    def correction(self) -> Tensor:
        """(K,) float32 to add to logits, so that they speak of the classes as they come."""
        known = self.frequency > 0
        ratio = np.where(known, self.frequency, 1.0) / np.where(known, self.shares, 1.0)
        return torch.from_numpy(np.log(ratio)).float()


def fit_interpreter(
    stage: Stage,
    maps: NativeMaps,
    masks: np.ndarray,
    num_classes: int,
    config: FactoryConfig,
    device: torch.device,
) -> nn.ModuleList:
    """Train the ensemble; each member draws its own weights and pixels.

    Args:
        stage: Holds checkpoints, records and ``interpreter.safetensors``.
        maps: Of the annotated images.
        masks: (N, H, W) uint8 ids at the working size, 255 = not labelled.
        num_classes: K, background included.
        config: Reads ``interpret_*``.
        device: Where to train.

    Returns:
        The classifiers, in eval mode.
    """
    draw = PixelDraw(masks, num_classes, config.interpret_balance)
    members = new_interpreter(maps.channels, num_classes, config)
    for number, member in enumerate(members):
        assert isinstance(member, PixelClassifier)
        _fit_member(stage, maps, draw, member, f"classifier-{number}", config, device)
    save_weights(stage.path / INTERPRETER, members)
    return members.eval()


def _fit_member(
    stage: Stage, maps: NativeMaps, draw: PixelDraw, member: PixelClassifier, name: str,
    config: FactoryConfig, device: torch.device,
) -> None:  # fmt: skip
    """Train one classifier in a resumable loop."""
    kept = stage.path / f"{name}.safetensors"
    if kept.exists():  # finished before a later member was interrupted
        load_weights(kept, member)
        member.to(device)
        return
    seed_all(config.seed, stage.label, name, "weights")
    member.reset_parameters()
    member.to(device).train()
    optimizer = torch.optim.Adam(member.parameters(), config.interpret_learning_rate)
    state: dict[str, Any] = {"classifier": member, "optimizer": optimizer}
    loop = Loop(stage, config.interpret_steps, seed=config.seed, state=state, name=name)
    for step in loop:
        rng = generator(config.seed, stage.label, name, "pixels", step)
        pixels, classes = draw(rng, config.interpret_batch_size)
        vectors = _read(maps, pixels, draw.shape[1:]).to(device)
        maps.release()
        target = torch.from_numpy(classes).to(device)
        loss = nn.functional.cross_entropy(member(vectors), target)
        loop.update(optimizer, loss)
        loop.record(loss=loss)
    last = member.rest[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.add_(draw.correction.to(device))
    member.eval()
    save_weights(kept, member)


def _read(maps: NativeMaps, pixels: np.ndarray, size: tuple[int, ...]) -> Tensor:
    """Vectors (P, C) float32 of pixels (P, 3), which are sorted by image."""
    images, starts = np.unique(pixels[:, 0], return_index=True)
    parts = np.split(pixels[:, 1:], starts[1:])
    return torch.cat(
        [
            features_at(maps.of_image(int(image)), torch.from_numpy(part), (size[0], size[1]))
            for image, part in zip(images, parts, strict=True)
        ]
    )


def new_interpreter(
    channels: Sequence[int], num_classes: int, config: FactoryConfig
) -> nn.ModuleList:
    """The ensemble with fresh weights."""
    widths = (config.interpret_width, config.interpret_width // 2)
    return nn.ModuleList(
        PixelClassifier(channels, num_classes, widths) for _ in range(config.interpret_members)
    )


def interpret(
    members: Sequence[PixelClassifier], features: Sequence[Tensor], size: tuple[int, int]
) -> Labels:
    """Labels of images by their feature maps (N, C, h, w), in single precision."""
    return label(members, [maps.float() for maps in features], size)
