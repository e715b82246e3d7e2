"""What every stage of a pipeline reads, and the runner that calls the stages in order."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.config import Settings
from fewmask.data.content import digest_of
from fewmask.data.copies import find_copies, fingerprint
from fewmask.data.folder import DataFolder, Sample
from fewmask.data.official_split import read_split
from fewmask.data.splits import Split, cut_folds, link_duplicates, split_for_fold
from fewmask.data.transforms import resize_image
from fewmask.errors import ResourceError, UsageError
from fewmask.io.images import read_image
from fewmask.training.checkpoint import sha256_file
from fewmask.training.device import peak_gigabytes
from fewmask.training.loop import Loop
from fewmask.training.run_folder import RunFolder, Stage
from fewmask.training.signals import stop_if_asked


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
    """

    run: RunFolder
    config: Any
    data: DataFolder
    device: torch.device
    fold: int = 0
    folder: str = ""
    stages: dict[str, Stage] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K foreground classes."""
        return self.data.class_names

    @cached_property
    def images(self) -> np.ndarray:
        """(N, S, S, 3) uint8, memory-mapped; row i belongs to ``data.samples[i]``."""
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


@dataclass(frozen=True)
class StageSpec:
    """One line of a pipeline's table of stages.

    Attributes:
        name: Also the prefix of the settings that only this stage reads.
        function: Does the work inside the stage's folder.
        reads: Stages whose files it reads; it is made again when one of them is.
        settings: Prefixes of further settings that it reads.
        shared: One for all folds.
        masks: It reads the user's true masks; it is made again when they change.
    """

    name: str
    function: Callable[[Workspace, Stage], None]
    reads: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    shared: bool = False
    masks: bool = False


def run_stages(work: Workspace, specs: Sequence[StageSpec], selected: Sequence[str]) -> None:
    """Run the selected stages in order; finished ones with unchanged inputs are kept.

    Raises:
        UsageError: a file that a setting names is not there.
        KeyboardInterrupt: a signal has asked for a stop between two stages.
    """
    prefixes = [f"{name}_" for spec in specs for name in (spec.name, *spec.settings)]
    settings = settings_by_content(work.config)
    general = {
        name: value
        for name, value in settings.items()
        if name not in NOT_AN_INPUT and not any(name.startswith(prefix) for prefix in prefixes)
    }
    keys: dict[str, str] = {}
    for number, spec in enumerate(specs, start=1):
        if spec.name not in selected:
            continue
        own = [f"{prefix}_" for prefix in (spec.name, *spec.settings)]
        keys[spec.name] = digest(
            {
                "stage": spec.name,
                "general": general,
                "own": {k: v for k, v in settings.items() if any(map(k.startswith, own))},
                "inputs": {name: keys[name] for name in spec.reads if name in keys},
                "data": data_fingerprint(work) if spec.name == "prepare" else None,
                "masks": mask_fingerprint(work) if spec.masks else None,
                "fold": None if spec.shared else work.fold,
            }
        )
        stage = work.run.stage(
            number, spec.name, keys[spec.name], folder="" if spec.shared else work.folder
        )
        work.stages[spec.name] = stage
        if stage.done:
            work.run.log(f"{stage.label}: done before")
            continue
        stop_if_asked()
        work.run.set_status("running", stage=stage.label)
        try:
            spec.function(work, stage)
        except BaseException:
            with suppress(OSError, ResourceError):  # what went wrong first is told
                stage.keep_seconds()
            raise
        seconds = stage.seconds
        stage.finish(seconds=round(seconds, 1), peak_gb=round(peak_gigabytes(work.device), 2))
        work.run.log(f"{stage.label}: {seconds:.0f} s")


NOT_AN_INPUT = {"device", "threads", "workers", "tensorboard", "stages", "folds", "save_probs"}


def input_files(config: Settings) -> dict[str, Path]:
    """The files that settings name, by setting."""
    files = {name: value for name, value in config if isinstance(value, Path)}
    if config.encoder_weights not in {"packaged", "imagenet", "none"}:
        files["encoder_weights"] = Path(config.encoder_weights)
    return files


def settings_by_content(config: Settings) -> dict[str, Any]:
    """The settings as they enter stage keys: a file is what is in it, wherever it lies.

    Raises:
        UsageError: a file is not there.
    """
    settings = config.model_dump(mode="json")
    for name, path in input_files(config).items():
        if not path.is_file():
            raise UsageError.of(
                "FILE-MISSING",
                where=f"{name}: {path}",
                found="no such file",
                expected="the file that this setting names",
                fix="correct the path, or put the file back",
            )
        settings[name] = sha256_file(path)
    return settings


def selected_stages(
    specs: Sequence[StageSpec], wanted: Sequence[str], always: Sequence[str]
) -> list[str]:
    """The stages to run: those wanted, in order, with those that every run needs.

    Raises:
        UsageError: a name that is no stage.
    """
    names = [spec.name for spec in specs]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise UsageError.of(
            "STAGE-UNKNOWN",
            where="--stages",
            found=", ".join(unknown),
            expected="some of " + " ".join(names),
            fix="correct the name",
        )
    return [name for name in names if not wanted or name in wanted or name in always]


def require_stages(selected: Sequence[str], needs: Mapping[str, Sequence[str]]) -> None:
    """Refuse a selection in which a stage lacks another that it cannot do without.

    Raises:
        UsageError: names the missing stages.
    """
    for name in selected:
        missing = [need for need in needs.get(name, ()) if need not in selected]
        if missing:
            raise UsageError.of(
                "STAGE-MISSING",
                where=f"--stages … {name}",
                found="no " + ", ".join(missing),
                expected=f"the stages that {name} reads",
                fix="--stages " + " ".join([*missing, *selected]),
            )


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def data_fingerprint(work: Workspace) -> str:
    """Digest of the images' bytes, their tags and their groups; masks are no input of training."""
    return digest([(s.id, sha256_file(s.image_path), s.tags, s.group) for s in work.data.samples])


def mask_fingerprint(work: Workspace) -> str:
    """Digest of the true masks' bytes."""
    masks = [(s.id, s.mask_path) for s in work.data.samples]
    return digest([(name, path and sha256_file(path)) for name, path in masks])


def prepare(work: Workspace, stage: Stage) -> None:
    """Decode each image once: pixels at the working size, SHA-256 of the pixels at their own."""
    samples, size = work.data.samples, work.config.image_size
    images = open_array(stage.path / "images.npy", np.uint8, (len(samples), size, size, 3))
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
        images[row] = resize_image(image, size, size)
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
        UsageError: a split file and folds.
        DataError: too few samples or groups, or a split file that does not fit.
        LeakError: a split file that tears a group apart.
    """
    if config.split_file:
        if config.folds > 1:
            raise UsageError.of(
                "SPLIT-FILE",
                where="--split-file with --folds",
                found=f"an official split and {config.folds} folds",
                expected="one of them: a split file has one test part, which every fold would test",
                fix="leave out --folds, or --split-file",
            )
        return read_split(config.split_file, samples)
    folds = config.folds if config.folds > 1 else config.test_folds
    fold_of = cut_folds(samples, folds=folds, seed=config.split_seed)
    return split_for_fold(
        samples, fold_of, fold, val_fraction=config.val_fraction, seed=config.split_seed
    )


def split(work: Workspace, stage: Stage) -> None:
    """Cut train, validation and test by group before anything is learned; copies stay together."""
    samples = link_duplicates(work.data.samples, work.digests)
    first_copy = find_copies([fingerprint(image) for image in work.images])
    ids = [sample.id for sample in samples]
    samples = link_duplicates(samples, {i: ids[f] for i, f in zip(ids, first_copy, strict=True)})
    parts = cut_parts(samples, work.config, work.fold)
    stage.write_json("split.json", {"train": parts.train, "val": parts.val, "test": parts.test})
    part_of = {i: name for name in ("train", "val", "test") for i in getattr(parts, name)}
    lines = ["id,part,group,tags,sha256"]
    lines += [
        f"{csv_cell(s.id)},{part_of[s.id]},{csv_cell(s.group)},{csv_cell(';'.join(s.tags))},"
        f"{work.digests[s.id]}"
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
