"""What the numbers in mask files mean, and how to tell when they cannot be class ids.

Class ids are 0 = background and 1 .. K in the order of the class names; 255 is ignored in every
loss and metric. One other encoding is common enough to be understood: with a single class,
masks of 0 and 255 (``binary255``).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.label_sets import LabelSet
from fewmask.errors import DataError, Problem
from fewmask.io.images import read_mask

MaskEncoding = Literal["ids", "binary255"]
WORKERS = min(4, os.cpu_count() or 1)
# What convert("L") makes of the usual (VOC) palette's ids 1, 2, 3, ...
_GREY_OF_PALETTE = {38, 75, 113, 14, 52, 89, 127, 19, 57, 95, 132, 33, 71, 108, 147, 25, 62, 100}


@dataclass(frozen=True)
class MaskReading:
    """What the masks of one folder turned out to be.

    Attributes:
        encoding: How to turn stored values into ids; None without a readable mask.
        class_names: The foreground classes, given or concluded from the ids.
        problems: Values that cannot be understood.
        notes: What was concluded and is worth knowing.
    """

    encoding: MaskEncoding | None
    class_names: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


def count_values(mask: np.ndarray) -> dict[int, int]:
    """Pixels per stored value, in order of value.

    >>> count_values(np.array([[0, 0], [255, 3]]))
    {0: 2, 3: 1, 255: 1}
    """
    if mask.dtype in (np.uint8, np.uint16):
        counts = np.bincount(mask.ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def read_values(
    paths: Iterable[Path],
) -> tuple[dict[Path, dict[int, int]], list[Problem]]:
    """Decode masks and count their values; unreadable ones are returned as problems."""
    values_of: dict[Path, dict[int, int]] = {}
    problems: list[Problem] = []

    def count(path: Path) -> dict[int, int] | DataError:
        try:
            return count_values(read_mask(path))
        except DataError as error:
            return error

    unique = sorted(set(paths))
    with ThreadPoolExecutor(WORKERS) as pool:
        for path, result in zip(unique, pool.map(count, unique), strict=True):
            if isinstance(result, DataError):
                problems += result.problems
            else:
                values_of[path] = result
    return values_of, problems


def decode(mask: np.ndarray, encoding: MaskEncoding | LabelSet | None) -> np.ndarray:
    """Stored values -> ids 0 .. K and 255.

    Args:
        mask: ``(H, W)`` stored values of an understood mask.
        encoding: As concluded by :func:`conclude_encoding`, or a data set's own.

    Returns:
        ``(H, W)`` uint8.
    """
    if isinstance(encoding, LabelSet):
        return encoding.decode(mask)
    if encoding == "binary255":
        return (mask == 255).astype(np.uint8)
    return mask.astype(np.uint8)


def conclude_encoding(
    values_of: Mapping[Path, Mapping[int, int]],
    class_names: Sequence[str] | None,
    tagged: Collection[Path] = (),
) -> MaskReading:
    """Decide once for all masks of a folder what their values mean.

    Args:
        values_of: Pixels per stored value of every readable mask.
        class_names: The K foreground classes; None if nothing names them, then they are
            concluded from the ids.
        tagged: Masks of images that have a tag, so that something ought to be in them.

    Returns:
        The decision; ``problems`` names every file with values that it does not explain.
    """
    if not values_of:
        return MaskReading(None, tuple(class_names or ()), (), ())
    seen = set().union(*values_of.values())
    if class_names is None:
        concluded = _names_from_ids(seen)
        if concluded is None:
            return MaskReading(None, (), _unexplained(values_of, 0), ())
        class_names = concluded
    names = tuple(class_names)
    if seen <= {0, 255} and 255 in seen:
        if len(names) > 1:
            return MaskReading(None, names, (_ambiguous(values_of, len(names)),), ())
        note = Problem(
            "MASK-BINARY255", "masks", "values 0 and 255", "0 and 1, or 0 and 255",
            f"nothing to do: 255 is read as {names[0] if names else 'the object'}",
        )  # fmt: skip
        return MaskReading("binary255", names, (), (note,))
    problems = _unexplained(values_of, len(names))
    notes: tuple[Problem, ...] = ()
    if not problems and len(names) == 1:
        suspects = [path for path, values in values_of.items() if set(values) == {0, 255}]
        lost = [path for path in suspects if path in tagged]
        problems = _mixed(lost, " of tagged images", "store 1 for the object in all masks; leave "
                          "out masks that only say what to ignore")  # fmt: skip
        notes = () if lost else _mixed(suspects, "", "nothing to do if 255 means `ignore`; "
                                       "otherwise store 1 instead of 255")  # fmt: skip
    return MaskReading("ids", names, problems, notes)


def _names_from_ids(seen: set[int]) -> tuple[str, ...] | None:
    """``foreground``, or ``class_1`` .. ``class_K``; None if these cannot be class ids."""
    ids = seen - {0, IGNORE_INDEX}
    if ids <= {1}:
        return ("foreground",)
    highest = max(ids)
    if not may_be_ids(ids, highest):
        return None
    return tuple(f"class_{number}" for number in range(1, highest + 1))


def may_be_ids(ids: Collection[int], classes: int) -> bool:
    """Whether stored values look like the ids of so many classes: in range, half of them in use.

    >>> may_be_ids({0, 1, 3}, classes=4), may_be_ids({0, 38, 75, 113}, classes=114)
    (True, False)
    """
    return bool(ids) and min(ids) >= 0 and max(ids) < IGNORE_INDEX and 2 * len(ids) >= classes


def _unexplained(values_of: Mapping[Path, Mapping[int, int]], classes: int) -> tuple[Problem, ...]:
    allowed = {*range(classes + 1), IGNORE_INDEX}
    return tuple(
        _values_problem(path, values, set(values) - allowed, classes)
        for path, values in values_of.items()
        if set(values) - allowed
    )


def _values_problem(
    path: Path, values: Mapping[int, int], foreign: set[int], classes: int
) -> Problem:
    pixels = sum(values[value] for value in foreign)
    row, column = _first_position(path, foreign)
    listed = ", ".join(map(str, sorted(values)[:12])) + (", ..." if len(values) > 12 else "")
    expected = "class ids" if classes == 0 else f"0..{classes}, and 255 where it is to be ignored"
    return Problem(
        "MASK-VALUES", str(path),
        f"values {listed}; {pixels} pixels cannot be class ids, the first at row {row}, "
        f"column {column}",
        expected, _hint(set(values), classes),
    )  # fmt: skip


def _first_position(path: Path, foreign: set[int]) -> tuple[int, int]:
    try:
        hits = np.isin(read_mask(path), sorted(foreign))
    except DataError:  # changed since it was counted
        return 0, 0
    row, column = np.unravel_index(int(hits.argmax()), hits.shape)
    return int(row), int(column)


def _hint(values: set[int], classes: int) -> str:
    inner = values - {0, 255}
    if inner <= _GREY_OF_PALETTE:
        return "this looks like a palette image converted to grey; use the original palette PNG"
    if len(inner) > 16:
        return (
            "many grey values: a JPEG or an antialiased drawing; export the mask again as PNG "
            "without smoothing"
        )
    if classes == 1:
        return "there is one class: store 1 for the object, or 255 in all masks"
    return "name all classes in the order of their ids, or correct the mask"


def _ambiguous(values_of: Mapping[Path, Mapping[int, int]], classes: int) -> Problem:
    return Problem(
        "MASK-AMBIGUOUS", "masks", f"only the values 0 and 255 in {len(values_of)} masks",
        f"ids 0..{classes} for {classes} classes",
        "store the id of the class instead of 255, or put each class into a data folder of its own",
    )  # fmt: skip


def _mixed(masks: Sequence[Path], which: str, fix: str) -> tuple[Problem, ...]:
    """Some masks 0/1 and others 0/255: legal (255 = ignore) but more often two encodings."""
    found = f"{len(masks)} masks{which} with 0 and 255 only, among others that use 1"
    return (Problem("MASK-MIXED", str(masks[0]), found, "one encoding", fix),) if masks else ()
