"""How all masks of a folder are read, once that is decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fewmask.io.decoding import refuse
from fewmask.layouts.records import Class
from fewmask.layouts.stored_masks import (
    Tally,
    packed_mask,
)

MOST_COLOURS = 64
"""More in all masks are no classes."""
CUT = 128
"""Grey level from which a smoothed mask shows the object."""
GREY = 0x010101
"""A grey level times this is the packed colour."""


@dataclass(frozen=True)
class Reading:
    """How all masks of a folder are read.

    Attributes:
        classes: By id, from 1.
        id_of: Stored value to id; where masks are coloured, by packed colour.
        coloured: Whether values are colours, grey ones included.
        object_of: Masks that show one object only: the id that all but 0 has in them.
        cut_of: Smoothed masks: the id of what is brighter than half.
        refused: Masks that cannot be read so.
    """

    classes: tuple[Class, ...]
    id_of: Mapping[int, int]
    coloured: bool = False
    object_of: Mapping[Path, int] = field(default_factory=dict)
    cut_of: Mapping[Path, int] = field(default_factory=dict)
    refused: frozenset[Path] = frozenset()

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 ids of a mask that is not refused.

        Raises:
            DataError: the file is damaged, or has changed since it was looked at.
        """
        packed, kind = packed_mask(path)
        if path in self.cut_of:
            return np.where(packed >= CUT, self.cut_of[path], 0).astype(np.uint8)
        if path in self.object_of:
            return np.where(packed != 0, self.object_of[path], 0).astype(np.uint8)
        if self.coloured and kind != "colours":
            packed = packed.astype(np.int64) * GREY
        return _looked_up(path, packed, self.id_of)


def named_classes(classes: tuple[Class, ...], ids: Sequence[int]) -> tuple[Class, ...]:
    """Classes of stored ids: named, where names go as far, or ``class_<id>``."""
    if ids and len(classes) >= max(ids):
        together = list(ids) == [*range(1, len(ids) + 1)]
        return classes if together else tuple(classes[number - 1] for number in ids)
    if len(ids) == 1 and ids[0] == 1:
        return (Class("foreground"),)
    return tuple(Class(f"class_{number}") for number in ids)


def total_of(tallies: Iterable[Tally]) -> Counter[int]:
    """Pixels per stored value in all masks."""
    total: Counter[int] = Counter()
    for tally in tallies:
        total.update(tally.counts)
    return total


def _looked_up(path: Path, packed: np.ndarray, id_of: Mapping[int, int]) -> np.ndarray:
    values, where = np.unique(packed, return_inverse=True)
    strange = [int(value) for value in values if int(value) not in id_of]
    if strange:
        refuse(path, "MASK-VALUES", f"values {strange[:8]}", "the values it had a moment ago",
               "let no other program write while the folder is read")  # fmt: skip
    table = np.array([id_of[int(value)] for value in values], np.uint8)
    return table[where].reshape(packed.shape)
