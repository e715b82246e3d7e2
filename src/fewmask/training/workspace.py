"""What every stage of a pipeline reads; the first two stages, which are the same in each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.config import Settings
from fewmask.data.classes_csv import CLASSES_FILE
from fewmask.data.content import digest_of
from fewmask.data.copies import find_copies, fingerprint
from fewmask.data.folder import DataFolder, Sample
from fewmask.data.official_split import read_split
from fewmask.data.splits import Split, cut_folds, link_duplicates, split_for_fold
from fewmask.data.transforms import resize_image
from fewmask.errors import UsageError
from fewmask.io.images import read_image
from fewmask.training.checkpoint import sha256_file
from fewmask.training.loop import Loop
from fewmask.training.run_folder import RunFolder, Stage

UNUSED = "unused"
"""Part of the samples that are in none."""


@dataclass
class Workspace:
    """One fold of a run: settings, data, device, and the stages finished so far.

    Attributes:
        run: The run folder.
        config: Resolved settings of the pipeline.
        data: The user's folder.
        device: Where networks are trained.
        fold: Which fold is held out.
        folder: Sub-folder of the run for this fold; empty without cross-validation.
        stages: Stages by name, as far as the runner has come.
        after_stage: Called with each stage that the runner has just finished.
    """

    run: RunFolder
    config: Any
    data: DataFolder
    device: torch.device
    fold: int = 0
    folder: str = ""
    stages: dict[str, Stage] = field(default_factory=dict)
    after_stage: Callable[[Stage], None] = lambda _: None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, without the background."""
        return self.data.class_names

    @property
    def num_classes(self) -> int:
        """Number of class ids, the background's included."""
        return self.data.num_classes

    @cached_property
    def images(self) -> np.ndarray:
        """(N, H, W, 3) uint8, memory-mapped; row i belongs to ``data.samples[i]``."""
        return np.load(self.stages["prepare"].path / "images.npy", mmap_mode="r")

    @cached_property
    def tags(self) -> np.ndarray:
        """(N, K) bool."""
        return self.data.tag_matrix()

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each sample's decoded pixels, by id."""
        return dict(self.stages["prepare"].read_json("digests.json"))

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """Sample ids of ``train``, ``val`` and ``test``."""
        return dict(self.stages["split"].read_json("split.json"))

    @cached_property
    def image_facts(self) -> list[tuple[str, str, tuple[str, ...], str]]:
        """Id, SHA-256 of the file, tags and group of each image; masks are no input of training."""
        return [(s.id, sha256_file(s.image_path), s.tags, s.group) for s in self.data.samples]

    @cached_property
    def mask_facts(self) -> list[tuple[str, str | None]]:
        """Id and SHA-256 of the true mask's file, if there is one, of each image.

        What the ids are called belongs to them, where a file says it.
        """
        masks = [(s.id, s.mask_path) for s in self.data.samples]
        names = self.data.root / CLASSES_FILE
        masks += [(CLASSES_FILE, names)] if names.is_file() else []
        return [(name, sha256_file(path) if path else None) for name, path in masks]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {sample.id: row for row, sample in enumerate(self.data.samples)}

    def rows(self, *parts: str, tagged: bool | None = None) -> list[int]:
        """Rows of the samples in some parts of the split.

        Args:
            *parts: Any of ``train``, ``val``, ``test``.
            tagged: True for samples with a tag, False for those without, None for all.
        """
        found = [self._row_of[name] for part in parts for name in self.parts[part]]
        return [row for row in found if tagged is None or bool(self.tags[row].any()) == tagged]


def prepare(work: Workspace, stage: Stage) -> None:
    """Decode each image once: pixels at the working size, SHA-256 of the pixels at their own."""
    samples, size = work.data.samples, work.config.working_size
    images = open_array(stage.path / "images.npy", np.uint8, (len(samples), *size, 3))
    digests = Ledger()
    loop = Loop(
        stage,
        len(samples),
        seed=work.config.seed,
        state={"digests": digests},
        before_save=images.flush,
        unit="image",
    )
    for row in loop:
        image = read_image(samples[row].image_path)
        digests[samples[row].id] = digest_of(image)
        images[row] = resize_image(image, *size)
    images.flush()
    stage.write_json("digests.json", dict(digests))


def open_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped .npy file to fill in a loop: all zero, or as an interrupted loop left it."""
    if not path.exists():  # whole or not at all, so that a kill leaves no file without a header
        temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
        np.lib.format.open_memmap(temporary, "w+", dtype, shape)
        temporary.replace(path)
    return np.lib.format.open_memmap(path, "r+")


class Ledger(dict[str, Any]):
    """Facts by sample id that a loop collects, as a part of its state."""

    def state_dict(self) -> dict[str, Any]:
        """A plain dictionary."""
        return dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put it back."""
        self.clear()
        self.update(state_dict)


def cut_parts(samples: Sequence[Sample], config: Settings, fold: int) -> Split:
    """The parts of one fold, from ``split_file`` or a cut by group and tags.

    Raises:
        UsageError: a split file and folds, or one fold of them.
        DataError: too few samples or groups, or a split file that does not fit.
        LeakError: a split file that tears a group apart.
    """
    if config.split_file:
        if config.folds > 1 or config.fold is not None:
            flag, asked = "--folds", f"{config.folds} folds"
            if config.fold is not None:
                flag, asked = "--fold", f"fold {config.fold}"
            raise UsageError.of(
                "SPLIT-FILE",
                where=f"--split-file with {flag}",
                found=f"an official split and {asked}",
                expected="one of them: a split file has one test part, which every fold would test",
                fix="leave out --folds and --fold, or --split-file",
            )
        return read_split(config.split_file, samples)
    folds = config.folds if config.folds > 1 else config.test_folds
    fold_of = cut_folds(samples, folds=folds, seed=config.split_seed)
    return split_for_fold(
        samples, fold_of, fold, val_fraction=config.val_fraction, seed=config.split_seed
    )


def split(work: Workspace, stage: Stage) -> None:
    """Cut train, validation and test by group before anything is learned; copies stay together."""
    split_by(lambda data, config, fold: cut_parts(data.samples, config, fold), work, stage)


def split_by(cut: Callable[[DataFolder, Any, int], Split], work: Workspace, stage: Stage) -> None:
    """The stage :func:`split` with another ``cut`` of data whose copies are in one group each.

    Samples that are in no part are called unused.
    """
    samples = link_duplicates(work.data.samples, work.digests)
    first_copy = find_copies([fingerprint(image) for image in work.images])
    ids = [sample.id for sample in samples]
    samples = link_duplicates(samples, {i: ids[f] for i, f in zip(ids, first_copy, strict=True)})
    parts = cut(replace(work.data, samples=tuple(samples)), work.config, work.fold)
    stage.write_json("split.json", {"train": parts.train, "val": parts.val, "test": parts.test})
    part_of = {i: name for name in ("train", "val", "test") for i in getattr(parts, name)}
    lines = ["id,part,group,tags,sha256"]
    lines += [
        f"{csv_cell(s.id)},{part_of.get(s.id, UNUSED)},{csv_cell(s.group)},"
        f"{csv_cell(';'.join(s.tags))},{work.digests[s.id]}"
        for s in samples
    ]
    (stage.path / "split.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def csv_cell(text: str) -> str:
    r"""A CSV cell that no spreadsheet takes for a formula.

    >>> csv_cell('=HYPERLINK("x")'), csv_cell("a")
    ('"\'=HYPERLINK(""x"")"', 'a')
    """
    if text[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        text = "'" + text
    if any(c in text for c in ',"\n\r'):
        text = '"' + text.replace('"', '""') + '"'
    return text
