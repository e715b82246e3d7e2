"""What the files of annotation tools have in common: JSON, names of images, sizes, painted shapes.

Nothing here opens a path that a file names: names are looked up among the images that lie below
the data folder.

==================  ============================================================================
code                meaning
==================  ============================================================================
JSON                not JSON, damaged or too large
PATH-OUTSIDE        a name that is absolute or leads out of the data folder
IMAGE-MISSING       no image of that name
IMAGE-FORMAT        a file of that name, but neither PNG, JPEG nor TIFF
IMAGE-AMBIGUOUS     several images of that name
IMAGE-SIZE          another size than the annotations say
IMAGE-TURNED        annotated as it is stored, displayed turned by its EXIF orientation (a repair)
CLASS-NAMES         names given by hand that are not those of the data
CLASSES-MANY        more classes than an 8-bit mask can hold
==================  ============================================================================
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.files import composed, list_images, outside, shown
from fewmask.data.groups import group_in, read_group_pattern
from fewmask.data.roles import Part, part_called, role_in
from fewmask.errors import DataError, Problem, UsageError
from fewmask.io.deep_tiff import upright
from fewmask.io.images import read_header
from fewmask.io.rle import CocoRle, coco_mask, overlapping
from fewmask.layouts.records import MOST_CLASSES, Class, ReadingOptions, Source

MOST_JSON_BYTES = 2**30
IGNORED_NAMES = frozenset({"ignore", "ignored"})
"""Classes of these names are read as 255."""
BACKGROUND_NAME = "background"
"""A class of this name is read as 0."""

_HEAD_BYTES = 2**16
_MOST_HEADS = 40
_MOST_ALIKE = 5

Turn = Callable[[np.ndarray], np.ndarray]
Shape = tuple[CocoRle, int]
"""Run lengths and class id."""


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: ``JSON``, with line and column where it is damaged.
    """
    try:
        size = path.stat().st_size
        if size > MOST_JSON_BYTES:
            raise _no_json(path, f"{size:,} bytes", f"at most {MOST_JSON_BYTES:,} bytes")
        raw = path.read_bytes()
        content = json.loads(raw, parse_constant=_refuse_constant)
        if rb"\ud" in raw.lower():  # half of a pair is no character, and no file could hold it
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except json.JSONDecodeError as error:
        found = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise _no_json(path, found, "valid JSON") from None
    except RecursionError:
        raise _no_json(path, "brackets nested too deeply", "valid JSON") from None
    except OSError as error:
        raise _no_json(path, error.strerror or str(error), "a file that can be read") from None
    except (
        ValueError
    ) as error:  # an encoding, half a character, a number of thousands of digits, NaN
        raise _no_json(path, str(error), "valid JSON in UTF-8") from None


def json_heads(root: Path, patterns: Sequence[str]) -> Iterable[tuple[Path, str]]:
    """The first characters of JSON files below ``root``; of many files, those of the first 40."""
    for path in json_files(root, patterns)[:_MOST_HEADS]:
        try:
            with path.open("rb") as stream:
                yield path, stream.read(_HEAD_BYTES).decode("utf-8", "replace").lstrip("\ufeff \n")
        except OSError:
            continue


def json_files(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Files that match a pattern, none hidden or linked from outside, sorted."""
    home = root.resolve()
    found = {path for pattern in patterns for path in root.glob(pattern)}
    return sorted(
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
        and path.resolve().is_relative_to(home)
    )


class Images:
    """The images below a folder, found by the names that annotations give.

    Args:
        root: The folder.
        source: Takes the problems of the listing.

    Attributes:
        ids: Name in a plain folder, by path.
    """

    def __init__(self, root: Path, source: Source) -> None:
        listing = list_images(root)
        source.problems += listing.problems
        self._root = root
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._foreign = {composed(path.name).casefold(): path for path in listing.skipped}
        self.ids: dict[Path, str] = {}
        taken: dict[str, Path] = {}
        for key, path in listing.files.items():
            role, plain = role_in(key)
            if role != "images":
                continue
            if (twin := taken.setdefault(plain, path)) is not path:
                source.report(
                    "STEM-TWICE", path, f"the place of {twin}", "one image per name",
                    "rename or remove one of them",
                )  # fmt: skip
                continue
            self.ids[path] = plain
            self._by_name[composed(path.name)].append(path)

    def find(self, name: object, where: str, near: Sequence[str] = ()) -> Path:
        """The image of a name, such as ``train/a.jpg``; of several, the one in folders ``near``.

        Raises:
            DataError: ``PATH-OUTSIDE``, ``IMAGE-MISSING``, ``IMAGE-FORMAT`` or ``IMAGE-AMBIGUOUS``.
        """
        if not isinstance(name, str) or not name.strip():
            raise self._missing(where, f"{name!r:.60} as the name of an image")
        steps = PurePosixPath(composed(name).replace("\\", "/"))
        if steps.is_absolute() or ".." in steps.parts or re.match(r"[A-Za-z]:", name):
            raise DataError(outside(Path(shown(name))))
        wanted = [part for part in steps.parts if part != "."]
        same = self._by_name.get(steps.name, [])
        fitting = [path for path in same if self._below(path)[-len(wanted) :] == wanted]
        if len(fitting) > 1:
            exact = [path for path in fitting if self._below(path) == wanted]
            close = [path for path in fitting if set(near) & set(self._below(path)[:-1])]
            fitting = next((some for some in (exact, close) if len(some) == 1), fitting)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            listed = ", ".join("/".join(self._below(path)) for path in fitting[:4])
            raise DataError.of(
                "IMAGE-AMBIGUOUS",
                where=where,
                found=f"{len(fitting)} images called {shown(name)}: {listed}",
                expected="one",
                fix="write the folder into the name of the image, or rename the images",
            )
        if foreign := self._foreign.get(steps.name.casefold()):
            raise DataError.of(
                "IMAGE-FORMAT",
                where=foreign,
                found=foreign.suffix or "no suffix",
                expected="PNG, JPEG or TIFF",
                fix="convert it to PNG, and change its name in the annotations",
            )
        others = f"; {self._relative(same[0])} has that name, in another folder" if same else ""
        raise self._missing(where, f"no image called {shown(name)}{others}")

    def _below(self, path: Path) -> list[str]:
        return [composed(part) for part in path.relative_to(self._root).parts]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _missing(self, where: str, found: str) -> DataError:
        return DataError.of(
            "IMAGE-MISSING",
            where=where,
            found=found,
            expected=f"an image below {self._root}",
            fix="copy the images into the data folder, or remove it from the annotations",
        )


def placed(path: Path, size: object, where: str, source: Source) -> Turn:
    """What turns a mask of the annotated size (height, width) into one of the image as displayed.

    Raises:
        DataError: the image is damaged, or ``IMAGE-SIZE``.
    """
    header = read_header(path)
    shown_size = (header.height, header.width)
    if size == shown_size:
        return lambda mask: mask
    if header.orientation > 4 and size == shown_size[::-1]:
        source.repaired(
            "IMAGE-TURNED", path, f"annotations of {_by(size)}, an EXIF orientation that turns it "
            "to another side", f"annotations of {_by(shown_size)}", "the mask is turned likewise",
        )  # fmt: skip
        return lambda mask: upright(mask, header.orientation)
    raise DataError.of(
        "IMAGE-SIZE",
        where=where,
        found=f"annotations for {_by(size)} px, but {path.name} has {_by(shown_size)}",
        expected="the image that was annotated (height x width)",
        fix="put the image of that size there, or annotate this one",
    )


def paint(shape: tuple[int, int], layers: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """One mask of several shapes: later ones cover earlier ones, 255 covers nothing.

    Args:
        shape: Height and width.
        layers: Shape, (H, W) bool, and class id 0..254 or 255.

    Returns:
        (H, W) uint8.
    """
    ids = np.zeros(shape, np.uint8)
    free, ignored = np.ones(shape, bool), np.zeros(shape, bool)
    for layer, number in layers:
        if number == IGNORE_INDEX:
            ignored |= layer
        else:
            ids[layer] = number
            free &= ~layer
    ids[ignored & free] = IGNORE_INDEX
    return ids


def paint_shapes(size: tuple[int, int], shapes: Sequence[Shape], turn: Turn) -> np.ndarray:
    """One mask, (H, W) uint8, of shapes on an image that was annotated in this size."""
    return turn(paint(size, ((coco_mask(rle), number) for rle, number in shapes)))


def classes_overlap(shapes: Sequence[Shape]) -> bool:
    """Whether shapes of different classes have pixels in common; 255 is no class."""
    judged = [(rle, number) for rle, number in shapes if number != IGNORE_INDEX]
    ids = np.array([number for _, number in judged])
    if len(set(ids.tolist())) < 2:
        return False
    together = overlapping([rle for rle, _ in judged])
    return bool((together & (ids[:, None] != ids)).any())


def part_in(*names: str) -> Part | None:
    """The part that the first of these names with such a word speaks of.

    >>> part_in("instances_train2017", "annotations"), part_in("_annotations.coco", "valid")
    ('train', 'val')
    """
    words = (word for name in names for word in re.findall("[a-z]+", name.casefold()))
    return next((part for word in words if (part := part_called(word))), None)


def group_finder(options: ReadingOptions) -> Callable[[str], str]:
    """The group of an image by its id; empty without one.

    Raises:
        UsageError: the pattern is no regular expression.
    """
    pattern, wrong = read_group_pattern(options.group_pattern)
    if wrong:
        raise UsageError(*wrong)
    return lambda name: group_in(name.rpartition("/")[2], pattern) or ""


def in_order(classes: Sequence[Class], options: ReadingOptions, source: Source) -> dict[str, int]:
    """Set the classes of a source whose data name them, in the order of ``--classes`` if given.

    Returns:
        Id by name, from 1; empty, and a problem, where they are too many.

    Raises:
        UsageError: ``CLASS-NAMES``.
    """
    by_name = {each.name: each for each in classes}
    wanted = options.class_names
    if wanted and sorted(wanted) != sorted(by_name):
        raise UsageError.of(
            "CLASS-NAMES",
            where="class names",
            found=", ".join(wanted),
            expected=f"those of the data, in any order: {', '.join(by_name)}",
            fix="leave them out, or give all of them; rename classes in the plain folder",
        )
    if len(by_name) > MOST_CLASSES:
        source.report(
            "CLASSES-MANY", source.root, f"{len(by_name)} classes", f"at most {MOST_CLASSES}",
            "merge or remove classes in the tool that wrote the annotations",
        )  # fmt: skip
        return {}
    source.classes = tuple(by_name[name] for name in (wanted or by_name))
    return {each.name: number for number, each in enumerate(source.classes, 1)}


def special_id(name: str) -> int | None:
    """0 for a class called background, 255 for one called ignored, None for any other."""
    if name.casefold() == BACKGROUND_NAME:
        return 0
    return IGNORE_INDEX if name.casefold() in IGNORED_NAMES else None


def note_special(source: Source, where: object, names: Collection[str]) -> None:
    """Say which classes are read as background or as ignored."""
    for name in sorted(names):
        source.repaired(
            "CLASS-SPECIAL", where, f"a class called {name}", "classes of things to find",
            f"its pixels are read as {special_id(name)}",
        )  # fmt: skip


def read_colour(value: object) -> tuple[int, int, int] | None:
    """Red, green and blue of a list of three whole numbers 0..255; None of anything else."""
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(type(v) is int and 0 <= v <= 255 for v in value):
        return None
    return value[0], value[1], value[2]


def some(names: Iterable[object], most: int = 3) -> str:
    """The first few of many names, and how many more there are.

    >>> some("abcde")
    'a, b, c and 2 more'
    """
    listed = [shown(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def summarised(problems: Sequence[Problem], where: object) -> list[Problem]:
    """Problems of one file; more than five of a kind become one that counts them."""
    by_code: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_code[problem.code].append(problem)
    kept: list[Problem] = []
    for code, alike in by_code.items():
        if len(alike) > _MOST_ALIKE:
            first = alike[0]
            found = f"{len(alike)} such, the first at {first.where}: {first.found}"
            alike = [Problem(code, str(where), found, first.expected, first.fix)]
        kept += alike
    return kept


def _by(size: object) -> str:
    return "x".join(map(str, size)) if isinstance(size, tuple) else str(size)


def _no_json(path: Path, found: str, expected: str) -> DataError:
    fix = "export the annotations again"
    return DataError(Problem("JSON", shown(path), found, expected, fix))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no number in JSON")
