"""Write a data set as a plain folder, the one layout that every pipeline reads.

::

    OUT/images/a.jpg      copied byte for byte where nothing has to change, otherwise a PNG
    OUT/masks/a.png       8-bit ids: 0 background, 1 .. K, 255 ignored
    OUT/tags.csv          file, and a column of 0 and 1 for each class; where tags are known
    OUT/classes.csv       id, name, colour
    OUT/groups.csv        id, group; where there are groups
    OUT/split.csv         id, part; where there is an official split
    OUT/repairs.csv       what is otherwise than in the source, and what was left out

The folder appears under its name when it is complete.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np

from fewmask.data.classes_csv import CLASSES_FILE, classes_text
from fewmask.data.groups import GROUPS_FILE
from fewmask.errors import DataError, Problem
from fewmask.io.images import image_size, write_grey16, write_image, write_mask
from fewmask.layouts.records import Class, Entry, Source

SPLIT_FILE, REPAIRS_FILE, TAGS_FILE = "split.csv", "repairs.csv", "tags.csv"
_TAKEN = {"file", "image", "filename", "tags", "group", ""}
"""Names of columns of ``tags.csv`` that no class can have."""

Watch = Callable[[Iterable[Entry], int], Iterable[Entry]]
"""Is given entries and how many there are, and hands them on: to show progress."""


def unwatched(entries: Iterable[Entry], total: int) -> Iterable[Entry]:  # noqa: ARG001
    """Hand them on, and show nothing."""
    return entries


def write_plain(source: Source, out: Path, watch: Watch = unwatched) -> int:
    """Write a data set as a plain folder; what cannot be read is left out and told.

    Args:
        source: The data set; its ``problems`` and ``repairs`` grow.
        out: A folder that is not there, or is empty.
        watch: Shows how far it is.

    Returns:
        How many images were written.

    Raises:
        ResourceError: the disk refuses.
    """
    _settle(source)
    making = out.with_name(f".tmp-{out.name}")
    shutil.rmtree(making, ignore_errors=True)
    for name in ("images", "masks"):
        (making / name).mkdir(parents=True)
    written = []
    for entry in watch(source.entries, len(source.entries)):
        try:
            file, size = _write_image(entry, making / "images")
        except DataError as error:
            source.problems += error.problems
            continue
        mask = _write_mask(entry, making / "masks", size, source)
        written.append((entry, file, mask))
    if not any((making / "masks").rglob("*.png")):
        shutil.rmtree(making / "masks")
    _write_tables(source, written, making)
    if out.is_dir():
        out.rmdir()
    making.rename(out)
    return len(written)


def _settle(source: Source) -> None:
    """Class names and parts that the tables of a plain folder can hold."""
    renamed = [each.name for each in source.classes if each.name.casefold() in _TAKEN]
    if renamed:
        source.repaired("CLASS-NAMES", "classes", f"a class called {renamed[0]!r}",
                        "a name that is no column of tags.csv", "_ behind the name")  # fmt: skip

    def plain(name: str) -> str:
        return f"{name}_" if name in renamed else name

    source.classes = tuple(Class(plain(each.name), each.colour) for each in source.classes)
    if renamed:
        source.entries = [
            entry if entry.tags is None else replace(entry, tags=tuple(map(plain, entry.tags)))
            for entry in source.entries
        ]
    parts = {entry.part for entry in source.entries} - {None}
    if parts == {"train", "val"}:
        source.repaired("SPLIT-FOLDERS", "split", "parts train and val", "a part to test on",
                        "val became test")  # fmt: skip
        source.entries = [
            replace(entry, part="test") if entry.part == "val" else entry
            for entry in source.entries
        ]


def _write_image(entry: Entry, folder: Path) -> tuple[Path, tuple[int, int]]:
    """Write an image; returns its path below ``folder``, and its height and width."""
    if isinstance(entry.image, Path):
        file = Path(f"{entry.id}{entry.image.suffix.lower()}")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        size = image_size(entry.image)
        shutil.copyfile(entry.image, folder / file)
        return file, size
    pixels, file = entry.image(), Path(f"{entry.id}.png")
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == np.uint16:
        write_grey16(folder / file, pixels)
    else:
        write_image(folder / file, pixels)
    return file, pixels.shape[:2]


def _write_mask(
    entry: Entry, folder: Path, size: tuple[int, int], source: Source
) -> np.ndarray | None:
    """Write a mask, if there is one that fits; returns the ids that it holds."""
    if entry.mask is None:
        return None
    try:
        mask = entry.mask()
    except DataError as error:
        source.problems += error.problems
        return None
    if mask.shape != size:
        source.report("MASK-SIZE", entry.id, f"a mask of {mask.shape[0]}x{mask.shape[1]}",
                      f"{size[0]}x{size[1]} as its image",
                      "export the mask at the size of its image")  # fmt: skip
        return None
    path = folder / f"{entry.id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, mask)
    return np.unique(mask)


def _write_tables(
    source: Source, written: Sequence[tuple[Entry, Path, np.ndarray | None]], out: Path
) -> None:
    if source.classes:
        (out / CLASSES_FILE).write_text(classes_text(source.classes), encoding="utf-8")
    ids = {entry.id: f"images/{entry.id}" for entry, _, _ in written}
    groups = [(ids[entry.id], entry.group) for entry, _, _ in written if entry.group]
    if groups:
        _write_table(out / GROUPS_FILE, ("id", "group"), groups)
    if any(entry.part for entry, _, _ in written):
        lost = [entry.id for entry, _, _ in written if not entry.part]
        if lost:
            source.report("SPLIT-FILE", lost[0], f"{len(lost)} images of no part",
                          "a part for each", "add them to split.csv, or do without it")  # fmt: skip
        rows = [(ids[entry.id], str(entry.part)) for entry, _, _ in written if entry.part]
        _write_table(out / SPLIT_FILE, ("id", "part"), rows)
    _write_tags(source, written, out)
    told = [*((each, each.fix) for each in source.repairs),
            *((each, "left out") for each in source.problems)]  # fmt: skip
    _write_table(
        out / REPAIRS_FILE, ("code", "where", "found", "expected", "done"),
        [(each.code, each.where, each.found, each.expected, done) for each, done in told],
    )  # fmt: skip


def _write_tags(
    source: Source, written: Sequence[tuple[Entry, Path, np.ndarray | None]], out: Path
) -> None:
    """Tags of all images, or none: those without are known by their masks, or left out."""
    if all(entry.tags is None for entry, _, _ in written) or not source.classes:
        return
    names = [each.name for each in source.classes]
    rows, unknown = [], []
    for entry, file, shown in written:
        tags = entry.tags
        if tags is None and shown is not None:
            tags = tuple(name for number, name in enumerate(names, 1) if number in shown)
        if tags is None:
            unknown.append(entry.id)
            (out / "images" / file).unlink()
            continue
        rows.append((file.as_posix(), *("1" if name in tags else "0" for name in names)))
    if unknown:
        source.problems.append(
            Problem("TAGS-NO-ROW", unknown[0], f"{len(unknown)} images of which nobody says what "
                    "is on them", "tags, or a mask, for each image", "tag them")
        )  # fmt: skip
    _write_table(out / TAGS_FILE, ("file", *names), rows)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV file in which no cell of free text is a spreadsheet's formula."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    harmless = path.name == REPAIRS_FILE
    for row in rows:
        writer.writerow([_harmless(cell) if harmless else cell for cell in row])
    path.write_text(stream.getvalue(), encoding="utf-8")


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t") else cell
