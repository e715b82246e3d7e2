"""A finished run seen from its images: each with its mask, and the evidence behind it."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.data.folder import Sample
from fewmask.errors import CheckpointError, DataError, shell_command
from fewmask.io.images import read_mask
from fewmask.pipelines.finished import read_card, restore_workspace
from fewmask.pipelines.running import recorded_settings
from fewmask.pipelines.tags_rows import Evidence
from fewmask.report.figures import colours_like
from fewmask.trained import open_trained
from fewmask.training.run_folder import RunFolder
from fewmask.web.library import id_of, not_there

KEPT = 24
"""Answers of the network, superpixels and decoded images that stay in memory."""


@dataclass(frozen=True)
class Item:
    """One image of a run.

    Attributes:
        id: By which it is asked for.
        name: Its id in the data.
        part: Train, val or test.
        tags: As the run knows them.
        confidence: Mean probability of the most probable class, 0 to 1: low is uncertain.
    """

    id: str
    name: str
    part: str
    tags: str
    confidence: float


class RunImages:
    """What a finished run says of its images; files are read when they are asked for.

    Args:
        run: The run.

    Raises:
        UsageError: it is not finished.
        CheckpointError: its card or its list of masks is damaged.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, self.card = run, read_card(run)
        self.has_background = bool(self.card.get("background", True))
        self.class_names: tuple[str, ...] = tuple(self.card["class_names"])
        records = _manifest(run)
        found = [
            Item(
                id_of(r["id"]), str(r["id"]), str(r["part"]), str(r["tags"]), float(r["confidence"])
            )
            for r in records
        ]
        self.items = sorted(found, key=lambda item: (item.confidence, item.name))
        self._by_id = {item.id: item for item in self.items}
        self._lock = threading.RLock()  # what is kept may be made of what is kept
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def find(self, name: str) -> Item:
        """The item of that id.

        Raises:
            UsageError: none has it.
        """
        if name not in self._by_id:
            raise not_there("image", name)
        return self._by_id[name]

    @property
    def classes(self) -> list[dict[str, Any]]:
        """Id, name and colour of each class as they stand in masks."""
        colours = colours_like(self.card.get("class_colours", ()))
        first = 1 if self.has_background else 0
        return [
            {"id": number, "name": name, "colour": colours[number + 1 - first].tolist()}
            for number, name in enumerate(self.class_names, first)
        ]

    @cached_property
    def _samples(self) -> dict[str, Sample]:
        module, config = recorded_settings(self.run)
        root = Path(self.run.record["data"])
        if not root.is_dir():
            moved = shell_command("resume", self.run.path, "--data", "FOLDER")
            raise DataError.of("FOLDER-MISSING", where=root, found="no such folder",
                               expected="the data of the run", fix=f"`{moved}` if it was moved"
                               )  # fmt: skip
        return {sample.id: sample for sample in module.DATA.open(root, config).samples}

    def image_path(self, item: Item) -> Path:
        """The image's file.

        Raises:
            DataError: the data are gone, or no longer have it.
        """
        sample = self._samples.get(item.name)
        if sample is None:
            raise DataError.of("IMAGE-MISSING", where=item.name, found="no such image",
                               expected="the data of the run", fix="put it back")  # fmt: skip
        return sample.image_path

    def weak_mask(self, item: Item) -> np.ndarray:
        """The run's own mask: (H, W) uint8 class ids.

        Raises:
            DataError: it cannot be read.
        """
        path = self.run.path / "masks" / f"{item.name}.png"
        if not path.resolve().is_relative_to(self.run.path.resolve()):
            raise not_there("mask", item.id)
        return read_mask(path).astype(np.uint8)

    @property
    def evidence_kinds(self) -> list[str]:
        """What can be cut: the ``map`` that masks come from, the segmenter's ``probability``."""
        maps = self.run.record["pipeline"] == "tags" and self._evidence is not None
        return ["map"] * bool(maps and self.has_background) + ["probability"] * self.has_background

    @cached_property
    def _evidence(self) -> tuple[Evidence, dict[str, int]] | None:
        try:
            work, _ = restore_workspace(self.run, torch.device("cpu"))
        except CheckpointError:
            return None
        if "evidence" not in work.stages:
            return None
        return Evidence(work), {name: row for row, name in enumerate(work.digests)}

    def evidence(self, item: Item, kind: str) -> np.ndarray:
        """(K, h, w) float32 in [0, 1], of any size: how much speaks for each class.

        Raises:
            UsageError: there is no such evidence.
        """
        if kind not in self.evidence_kinds:
            raise not_there("evidence", kind)
        if kind == "map" and self._evidence is not None:
            maps, rows = self._evidence
            return maps.scores(rows[item.name])
        return self.keep("probability", item, lambda: self._probs(item)[1:])

    def _probs(self, item: Item) -> np.ndarray:
        from fewmask.io.images import read_image

        image = read_image(self.image_path(item))
        probs: np.ndarray = self._trained.predictor.probs(image)
        return probs.astype(np.float32)

    @cached_property
    def _trained(self) -> Any:
        return open_trained(self.run, "cpu")

    def keep(self, what: str, item: Item, make: Callable[[], Any]) -> Any:
        """Something that is slow to make and asked for several times."""
        key = (what, item.id)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


def _manifest(run: RunFolder) -> list[dict[str, Any]]:
    """What the stage ``export`` has written of each mask, of all folds."""
    paths = sorted([*run.path.glob("*-export/manifest.json"),
                    *run.path.glob("fold-*/*-export/manifest.json")])  # fmt: skip
    try:
        records = [record for path in paths for record in json.loads(path.read_text())]
        for record in records:
            float(record["confidence"])
            str(record["id"]), str(record["part"]), str(record["tags"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError.of(
            "MANIFEST-DAMAGED", where=run.path, found=f"{type(error).__name__}: {error}",
            expected="the list of masks that the run has written",
            fix=shell_command("resume", run.path),
        ) from None  # fmt: skip
    return records


class Opened:
    """Finished runs that stay open.

    A run whose card was written anew is opened again.
    """

    def __init__(self) -> None:
        self._open: dict[Path, tuple[int, RunImages]] = {}
        self._lock = threading.Lock()

    def open(self, run: RunFolder) -> RunImages:
        """The images of a run; arguments and errors as :class:`RunImages`."""
        with self._lock:
            card = run.path / "weights" / "card.json"
            stamp = card.stat().st_mtime_ns if card.is_file() else 0
            known = self._open.get(run.path)
            if known is None or known[0] != stamp:
                known = stamp, RunImages(run)
                self._open[run.path] = known
            return known[1]
