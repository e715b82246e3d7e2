"""``classes.csv`` beside the images: what the ids in the masks are called, and their colours.

::

    id,name,colour
    1,lake,#1f77b4
    2,roof,

Ids begin at 1 and leave none out; 0 is the background. The colour may be missing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from fewmask.data.files import composed, is_inside, outside
from fewmask.errors import Problem

CLASSES_FILE = "classes.csv"
MOST_CLASSES = 254
Colour = tuple[int, int, int]
_LARGEST_BYTES = 1_000_000


@dataclass(frozen=True)
class Class:
    """A class, with the colour that its data set gives it.

    Attributes:
        name: As the data set spells it.
        colour: Red, green and blue, each 0..255; None: none is given.
    """

    name: str
    colour: Colour | None = None

    @property
    def hexed(self) -> str:
        """The colour as ``#1f77b4``; empty without one."""
        return "" if self.colour is None else "#{:02x}{:02x}{:02x}".format(*self.colour)


def classes_text(classes: Sequence[Class]) -> str:
    """The file's text.

    >>> print(classes_text([Class("lake", (31, 119, 180)), Class("roof")]), end="")
    id,name,colour
    1,lake,#1f77b4
    2,roof,
    """
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", "name", "colour"])
    for number, each in enumerate(classes, 1):
        writer.writerow([number, each.name, each.hexed])
    return stream.getvalue()


def read_classes(path: Path) -> tuple[tuple[Class, ...], list[Problem]]:
    """Read the file.

    Returns:
        The classes by id, from 1, and what is wrong; without a clear answer, no classes.
    """

    def wrong(where: object, found: str, expected: str, fix: str) -> Problem:
        return Problem("CLASSES-FORMAT", str(where), found, expected, fix)

    try:
        data = path.read_bytes() if path.stat().st_size <= _LARGEST_BYTES else b"\xff"
        lines = list(csv.reader(StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except OSError as error:
        return (), [wrong(path, error.strerror or str(error), "a readable file", "its permissions")]
    except (UnicodeDecodeError, csv.Error):
        return (), [wrong(path, "no UTF-8 table", "id,name,colour", "save it as `CSV UTF-8`")]
    lines = [[cell.strip() for cell in line] for line in lines if any(map(str.strip, line))]
    header = [cell.lower() for cell in lines[0]] if lines else []
    if header[:2] != ["id", "name"] or header[2:] not in ([], ["colour"], ["color"]):
        found = f"the columns {', '.join(header) or 'none'}"
        return (), [wrong(path, found, "id, name and, if you like, colour", "name them so")]
    problems, by_id = [], {}
    for number, cells in enumerate(lines[1:], 2):
        where = f"{path}:{number}"
        if len(cells) < 2 or not re.fullmatch(r"[0-9]{1,3}", cells[0]) or not cells[1]:
            problems.append(wrong(where, ",".join(cells), "an id and a name", "correct the row"))
            continue
        hexed = cells[2].removeprefix("#") if len(cells) > 2 else ""
        if hexed and not re.fullmatch(r"[0-9a-fA-F]{6}", hexed):
            problems.append(wrong(where, cells[2], "a colour such as #1f77b4", "correct it"))
            continue
        colour = tuple(bytes.fromhex(hexed)) if hexed else None
        if int(cells[0]) in by_id:
            problems.append(wrong(where, f"id {cells[0]} twice", "each id once", "remove one"))
        by_id[int(cells[0])] = Class(composed(cells[1]), colour)  # type: ignore[arg-type]
    by_id.pop(0, None)  # some list the background, too
    names = [each.name for each in by_id.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(wrong(path, f"{twice[0]!r} twice", "different names", "rename one"))
    if (not problems and sorted(by_id) != list(range(1, len(by_id) + 1))) or len(by_id) > 254:
        found = f"the ids {', '.join(map(str, sorted(by_id)[:12]))}"
        problems.append(wrong(path, found, "1, 2, 3, ..., at most 254", "leave no id out"))
    if not names and not problems:
        problems.append(wrong(path, "no class", "at least one row", "add one, or remove the file"))
    return () if problems else tuple(by_id[number] for number in sorted(by_id)), problems


def find_classes(root: Path) -> tuple[tuple[Class, ...], list[Problem]]:
    """As :func:`read_classes`, of the file in a data folder.

    Nothing without one, or where one of that name has other columns: it is some other tool's.
    """
    path = root / CLASSES_FILE
    if not path.is_file() or _is_foreign(path):
        return (), []
    return read_classes(path) if is_inside(path, root) else ((), [outside(path)])


def _is_foreign(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            head = stream.readline(1000).decode("utf-8-sig", "replace")
    except OSError:
        return False
    columns = [cell.strip().strip('"').lower() for cell in re.split("[,;\t]", head)]
    return "id" not in columns or "name" not in columns
