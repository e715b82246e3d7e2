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
from typing import NamedTuple

import numpy as np

from fewmask.data.classes_csv import CLASSES_FILE, classes_text
from fewmask.data.groups import GROUPS_FILE
from fewmask.errors import DataError, Problem
from fewmask.io.decoding import eight_bit
from fewmask.io.images import image_size, write_grey16, write_image, write_mask
from fewmask.io.whole_files import whole_folder
from fewmask.layouts.files import safe_name
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
    written: list[Written] = []
    with whole_folder(out) as making:
        for name in ("images", "masks"):
            (making / name).mkdir()
        blank = []
        for entry in watch(source.entries, len(source.entries)):
            try:
                pixels = None if isinstance(entry.image, Path) else entry.image()
                if pixels is not None and _is_blank(entry, pixels):
                    blank.append(entry.id)
                    continue
                file, size = _write_image(entry, pixels, making / "images")
            except DataError as error:
                source.problems += error.problems
                continue
            written.append(Written(entry, file, _write_mask(entry, making / "masks", size, source)))
        if blank:
            source.repaired("IMAGE-BLANK", blank[0], f"{len(blank)} slices or pages without any "
                            "contrast", "something to see", "left out")  # fmt: skip
        tags = _tags(source, written)
        for each in written:
            if tags and each.entry.id not in tags:
                (making / "images" / each.file).unlink()
        written = [each for each in written if not tags or each.entry.id in tags]
        if not any(each.ids is not None for each in written):
            shutil.rmtree(making / "masks")
        _write_tables(source, written, tags, making)
        if out.is_dir():
            out.rmdir()
    return len(written)


class Written(NamedTuple):
    """What is in the copy of an entry: its image below ``images/``, and the ids in its mask."""

    entry: Entry
    file: Path
    ids: np.ndarray | None


def _settle(source: Source) -> None:
    """Ids, class names and parts that a plain folder's files and tables can hold."""
    new: dict[str, str] = {}
    for each in source.classes:
        name = _table_name(each.name)
        while name in new.values():
            name = f"{name}_"
        new[each.name] = name
    renamed = [old for old, name in new.items() if old != name]
    if renamed:
        source.repaired("CLASS-NAMES", "classes", f"{len(renamed)} names such as {renamed[0]!r}",
                        "names that a table can have for columns", "plain names")  # fmt: skip
    source.classes = tuple(Class(new[each.name], each.colour) for each in source.classes)
    parts = {entry.part for entry in source.entries} - {None}
    if parts == {"train", "val"}:
        source.repaired("SPLIT-FOLDERS", "split", "parts train and val", "a part to test on",
                        "val became test")  # fmt: skip
    lost = [entry.id for entry in source.entries if entry.part is None] if parts else []
    if lost:
        source.repaired("SPLIT-FILE", lost[0], f"{len(lost)} images of no part", "a part for each",
                        "they are of the part train")  # fmt: skip
    ids: set[str] = set()
    entries = []
    for entry in source.entries:
        name = safe_name(entry.id)
        while name.casefold() in ids:
            name = f"{name}_"
        ids.add(name.casefold())
        part = entry.part or ("train" if parts else None)
        part = "test" if part == "val" and parts == {"train", "val"} else part
        tags = None if entry.tags is None else tuple(new.get(tag, tag) for tag in entry.tags)
        group = " ".join(_plain_text(entry.group).split())
        entries.append(replace(entry, id=name, tags=tags, group=group, part=part))
    source.entries = entries


def _table_name(name: str) -> str:
    """A class name without line breaks, that is no formula and no column of ``tags.csv``."""
    plain = _plain_text(name) or "class"
    return f"{plain}_" if plain.casefold() in _TAKEN else plain


def _plain_text(text: str) -> str:
    r"""Text in one line that no spreadsheet takes for a formula.

    >>> _plain_text("=1+1\n x"), _plain_text("left lung")
    ('_=1+1 x', 'left lung')
    """
    line = " ".join(text.split())
    return f"_{line}" if line[:1] in ("=", "+", "-", "@") else line


def _is_blank(entry: Entry, pixels: np.ndarray) -> bool:
    """Whether a slice or page shows nothing, and nobody has labelled anything on it."""
    if not entry.group or np.ptp(pixels):
        return False
    return entry.mask is None or not entry.mask().any()


def _write_image(
    entry: Entry, pixels: np.ndarray | None, folder: Path
) -> tuple[Path, tuple[int, int]]:
    """Write an image, from its pixels or its file; returns its path below, height and width."""
    if isinstance(entry.image, Path):
        file = Path(f"{entry.id}{entry.image.suffix.lower()}")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        size = image_size(entry.image)
        shutil.copyfile(entry.image, folder / file)
        return file, size
    if pixels is None:
        pixels = entry.image()
    file = Path(f"{entry.id}.png")
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == np.uint16 and pixels.ndim == 2:
        write_grey16(folder / file, pixels)
    else:  # no PNG of 16-bit colours is read without loss
        write_image(folder / file, eight_bit(pixels))
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


def _tags(source: Source, written: Sequence[Written]) -> dict[str, tuple[str, ...]]:
    """Tags by id, where any are known; of images without, those that the mask shows."""
    if all(each.entry.tags is None for each in written) or not source.classes:
        return {}
    names = [each.name for each in source.classes]
    tags = {}
    for entry, _, ids in written:
        if entry.tags is not None:
            tags[entry.id] = entry.tags
        elif ids is not None:
            tags[entry.id] = tuple(name for i, name in enumerate(names, 1) if i in ids)
    unknown = [each.entry.id for each in written if each.entry.id not in tags]
    if unknown:
        source.report("TAGS-NO-ROW", unknown[0], f"{len(unknown)} images of which nobody says what "
                      "is on them", "tags, or a mask, for each image", "tag them")  # fmt: skip
    return tags


def _write_tables(
    source: Source, written: Sequence[Written], tags: dict[str, tuple[str, ...]], out: Path
) -> None:
    names = [each.name for each in source.classes]
    if names:
        (out / CLASSES_FILE).write_text(classes_text(source.classes), encoding="utf-8")
    if tags:
        rows = [(each.file.as_posix(), *(str(int(name in tags[each.entry.id])) for name in names))
                for each in written]  # fmt: skip
        _write_table(out / TAGS_FILE, ("file", *names), rows)
    ids = {each.entry.id: f"images/{each.entry.id}" for each in written}
    groups = [(ids[each.entry.id], each.entry.group) for each in written if each.entry.group]
    if groups:
        _write_table(out / GROUPS_FILE, ("id", "group"), groups)
    parts = [(ids[each.entry.id], each.entry.part) for each in written if each.entry.part]
    if parts:
        _write_table(out / SPLIT_FILE, ("id", "part"), parts)
    told = [*((_nameless(each, source), each.fix) for each in source.repairs),
            *((_nameless(each, source), "left out") for each in source.problems)]  # fmt: skip
    _write_table(
        out / REPAIRS_FILE, ("code", "where", "found", "expected", "done"),
        [tuple(map(_plain_text, (each.code, each.where, each.found, each.expected, done)))
         for each, done in told],
    )  # fmt: skip


def _nameless(problem: Problem, source: Source) -> Problem:
    """A problem without the name of its file, where such names are private."""
    hidden = source.is_private and str(source.root) in problem.where
    return replace(problem, where="a file of the source") if hidden else problem


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.write_text(stream.getvalue(), encoding="utf-8")
