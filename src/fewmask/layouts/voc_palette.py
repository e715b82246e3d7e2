"""The colours of Pascal VOC and CVAT: which class each is, and masks read by them.

The codes are those of :mod:`fewmask.layouts.voc`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.files import is_inside, shown
from fewmask.errors import DataError
from fewmask.io.decoding import refuse
from fewmask.io.images import read_header, read_image, read_mask
from fewmask.layouts.annotation_files import (
    Turn,
    in_order,
    note_special,
    some,
    special_id,
)
from fewmask.layouts.records import Class, Colour, ReadingOptions, Source

VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""Of the ids 1..20."""
BORDER: Colour = (224, 224, 192)
"""VOC's colour of borders and of what is too hard to label."""

_BORDER_NAMES = {"void", "border"}
_MOST_TEXT_BYTES = 2**24
MASKS = "SegmentationClass"
"""The folder of masks."""
_GREY = {"L", "1", "I", "I;16"}


@dataclass(frozen=True)
class Palette:
    """What colours and, in grey masks, values mean; both have their class id."""

    by_colour: dict[Colour, int]
    by_value: dict[int, int]


def voc_colours(count: int) -> list[Colour]:
    """The colours of VOC's palette: the bits of the index, three at a time, from the top down.

    >>> voc_colours(4), voc_colours(256)[255] == BORDER
    ([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], True)
    """
    colours = []
    for index in range(count):
        channels = [
            sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(8))
            for channel in range(3)
        ]
        colours.append((channels[0], channels[1], channels[2]))
    return colours


def open_palette(
    homes: Sequence[Path],
    tags: dict[Path, dict[str, list[str]]],
    options: ReadingOptions,
    source: Source,
) -> Palette | None:
    """Set the source's classes; None, and a problem, if the colours cannot be known."""
    maps = {home: home / "labelmap.txt" for home in homes}
    given = {home: path for home, path in maps.items() if path.is_file()}
    if given:
        source.layout = "CVAT segmentation mask"
        try:
            lines = [_read_labelmap(path, source.root) for path in given.values()]
        except DataError as error:
            source.problems += error.problems
            return None
        if len(given) < len(homes) or any(each != lines[0] for each in lines):
            source.report("VOC-LABELMAP", source.root, "folders whose labelmap.txt differ",
                          "one labelmap.txt for all", "check each folder by itself")  # fmt: skip
            return None
        return _palette_of(lines[0], options, source)
    boxed = sorted({name for found in tags.values() for names in found.values() for name in names})
    with_masks = any((home / MASKS).is_dir() for home in homes)
    if not with_masks and not options.class_names and not set(boxed) <= set(VOC_NAMES):
        in_order([Class(name) for name in boxed], options, source)
        return Palette({}, {})
    names = options.class_names or VOC_NAMES
    colours = voc_colours(256)
    source.classes = tuple(Class(name, colours[i]) for i, name in enumerate(names, 1))
    ids = range(len(names) + 1)
    return Palette(
        {BORDER: IGNORE_INDEX} | {colours[i]: i for i in ids},
        {IGNORE_INDEX: IGNORE_INDEX} | {i: i for i in ids},
    )


def _palette_of(
    lines: dict[str, Colour], options: ReadingOptions, source: Source
) -> Palette | None:
    special = {name: number for name in lines if (number := special_id(name)) is not None}
    special |= {
        name: IGNORE_INDEX
        for name, colour in lines.items()
        if name.casefold() in _BORDER_NAMES and colour == BORDER
    }
    ignored = {name for name, number in special.items() if number == IGNORE_INDEX}
    note_special(source, "labelmap.txt", dict.fromkeys(ignored, IGNORE_INDEX))
    classes = [Class(name, colour) for name, colour in lines.items() if name not in special]
    numbers = in_order(classes, options, source) | special
    if len(numbers) < len(lines):
        return None
    by_colour = {colour: numbers[name] for name, colour in lines.items()}
    background = [name for name in lines if special.get(name) == 0]
    ordered = background + [name for name in lines if name not in background]
    by_value = {i: numbers[name] for i, name in enumerate(ordered, 0 if background else 1)}
    implied = {BORDER: IGNORE_INDEX} if background else {(0, 0, 0): 0, BORDER: IGNORE_INDEX}
    return Palette(
        implied | by_colour,
        {0: 0, IGNORE_INDEX: IGNORE_INDEX} | by_value,
    )


def _read_labelmap(path: Path, root: Path) -> dict[str, Colour]:
    """Colour by name, in the order of the lines."""
    colours: dict[str, Colour] = {}
    for number, line in enumerate(small_text(path, root).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        values = [value.strip() for value in rest.split(":")[0].split(",")]
        where = f"{path}, line {number}"
        if not name.strip() or not all(re.fullmatch("[0-9]{1,3}", value) for value in values):
            raise _labelmap_error(where, shown(line[:80]))
        colour = tuple(map(int, values))
        if len(colour) != 3 or max(colour) > 255:
            raise _labelmap_error(where, shown(line[:80]))
        if name.strip() in colours or colour in colours.values():
            raise _labelmap_error(where, f"a name or colour for the second time: {shown(line)}")
        colours[name.strip()] = colour
    return colours


def _labelmap_error(where: str, found: str) -> DataError:
    return DataError.of(
        "VOC-LABELMAP",
        where=where,
        found=found,
        expected="name:red,green,blue:parts:actions, numbers 0..255, each name and colour once",
        fix="mend the line",
    )


def small_text(path: Path, root: Path) -> str:
    """A small text file below the data folder."""
    try:
        if not is_inside(path, root) or path.stat().st_size > _MOST_TEXT_BYTES:
            refuse(path, "VOC-TEXT", "a link out of the data folder, or a file of more than 16 MB",
                   "a small text file", "put the original file there")  # fmt: skip
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        refuse(path, "VOC-TEXT", str(error), "text in UTF-8", "save it as UTF-8", error)


def ids_of_colours(path: Path, palette: Palette, turn: Turn) -> np.ndarray:
    """(H, W) uint8 class ids of a mask file."""
    if read_header(path).mode in _GREY:
        values = read_mask(path)
        present = np.unique(values).tolist()
        if any((v, v, v) not in palette.by_colour for v in present):
            return turn(_ids_of_values(path, values, present, palette.by_value))
    pixels = read_image(path).astype(np.uint32)
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    colours = sorted(palette.by_colour)
    known = np.array([red << 16 | green << 8 | blue for red, green, blue in colours], np.uint32)
    numbers = np.array([palette.by_colour[colour] for colour in colours], np.uint8)
    at = np.searchsorted(known, packed).clip(max=len(known) - 1)
    strange = known[at] != packed
    if strange.any():
        _refuse_colours(path, packed, strange)
    return turn(numbers[at])


def _ids_of_values(
    path: Path, values: np.ndarray, present: list[int], by_value: dict[int, int]
) -> np.ndarray:
    if strangers := [value for value in present if value not in by_value]:
        refuse(
            path, "VOC-VALUES", f"grey values {some(strangers, 8)}", "colours or ids of the "
            f"classes, here 0..{max(v for v in by_value if v != IGNORE_INDEX)} and 255",
            "declare the classes in labelmap.txt or by --classes",
        )  # fmt: skip
    table = np.zeros(256, np.uint8)
    table[list(by_value)] = list(by_value.values())
    return table[values]


def _refuse_colours(path: Path, packed: np.ndarray, strange: np.ndarray) -> None:
    codes, first, counts = np.unique(packed[strange], return_index=True, return_counts=True)
    places = np.flatnonzero(strange)
    told = []
    for i in np.argsort(-counts, kind="stable")[:4]:
        code, (row, column) = int(codes[i]), divmod(int(places[first[i]]), packed.shape[1])
        told.append(
            f"{code >> 16},{code >> 8 & 255},{code & 255} on {counts[i]:,} pixels, first at row "
            f"{row}, column {column}"
        )
    more = f", and {len(codes) - 4} more colours" if len(codes) > 4 else ""
    refuse(
        path, "VOC-COLOUR", "; ".join(told) + more, "colours of declared classes only",
        "add `name:red,green,blue::` to labelmap.txt for it; a mask saved as JPEG or resized with "
        "smoothing must be exported again",
    )  # fmt: skip
