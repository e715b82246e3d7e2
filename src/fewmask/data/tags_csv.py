"""Read ``tags.csv``: which image carries which tags, and the group it belongs to."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path, PurePosixPath, PureWindowsPath

from fewmask.data.files import composed, outside
from fewmask.errors import Problem
from fewmask.io.images import IMAGE_SUFFIXES

FILE_COLUMNS = ("file", "image", "filename")
_TRUTH = {
    **dict.fromkeys(("1", "true", "yes"), True),
    **dict.fromkeys(("0", "false", "no"), False),
}


@dataclass
class TagTable:
    """The rows of a ``tags.csv``, by image key.

    Attributes:
        tags: Tags of each image, in the order of ``class_names``.
        groups: Group of each image that names one.
        class_names: All tags: sorted, or in the order of the 0/1 columns.
        problems: Everything that is wrong with the table.
    """

    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)

    @property
    def unclear(self) -> bool:
        """Whether nobody can tell which tags there are, so that nothing follows from them."""
        spellings = {name.casefold() for name in self.class_names}
        return (
            not self.class_names
            or len(spellings) < len(self.class_names)
            or any(problem.code == "TAGS-COLUMN" for problem in self.problems)
        )

    def report(self, code: str, where: object, found: str, expected: str, fix: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(code, str(where), found, expected, fix))


def read_tags(path: Path, files: Mapping[str, Path], folder: Path) -> TagTable:
    """Read and check a table of tags.

    Columns: ``file`` (or ``image``, ``filename``), then either ``tags`` (``"a;b"``, empty for
    none) or one 0/1 column per tag; ``group`` is optional. Delimiter comma, semicolon or tab;
    UTF-8 with or without byte-order mark.

    Args:
        path: The table.
        files: The images by key, from :func:`fewmask.data.files.list_images`.
        folder: The folder that the images are in; names may start with its name.
    """
    table = TagTable()
    columns, rows = _parse(path, table)
    file_column = next((name for name in FILE_COLUMNS if name in columns), None)
    if file_column is None:
        if not table.problems:
            table.report(
                "TAGS-COLUMN", path, f"the columns {', '.join(columns) or 'none'}",
                f"a column {' or '.join(FILE_COLUMNS)}", "name the column of file names `file`",
            )  # fmt: skip
        return table
    keys = _match_rows(path, rows, file_column, files, folder, table)
    if rows and not keys:  # told for every row
        return table
    others = [name for name in columns if name not in (file_column, "group")]
    if "tags" in others:
        _read_lists(path, rows, keys, others, table)
    else:
        _read_flags(path, rows, keys, others, table)
    for number, key in keys.items():
        if group := rows[number].get("group", "").strip():
            table.groups[key] = group
    for key in files.keys() - table.tags.keys():
        table.report(
            "TAGS-NO-ROW", files[key], "no row in tags.csv", "one row per image",
            "add a row (with an empty `tags` if nothing is on it), or remove the image",
        )  # fmt: skip
    if not any(table.tags.values()):
        table.report(
            "TAGS-EMPTY", path, "no tag on any image", "at least one tagged image",
            "fill the column `tags`",
        )  # fmt: skip
    return table


def _parse(path: Path, table: TagTable) -> tuple[list[str], dict[int, dict[str, str]]]:
    """Column names (lower case) and rows by line number."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        found = error.strerror or str(error)
        table.report("TAGS-UNREADABLE", path, found, "a readable file", "check its permissions")
        return [], {}
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8 at position {error.start}"
        table.report("TAGS-ENCODING", path, found, "UTF-8", "save the table as `CSV UTF-8`")
        return [], {}
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: dict[int, dict[str, str]] = {}
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                columns = [n.lower() if n.lower() in _KNOWN else composed(n) for n in columns]
            elif len(cells) != len(columns):
                table.report(
                    "TAGS-FORMAT", f"{path}:{reader.line_num}", f"{len(cells)} cells",
                    f"{len(columns)} cells as in the header",
                    "put quotation marks around cells that contain the delimiter",
                )  # fmt: skip
            else:
                rows[reader.line_num] = dict(zip(columns, map(composed, cells), strict=True))
    except csv.Error as error:
        where = f"{path}:{reader.line_num}"
        table.report("TAGS-FORMAT", where, str(error), "a CSV file", "save the table again")
    for name in sorted({name for name in columns if columns.count(name) > 1}):
        table.report("TAGS-COLUMN", path, f"the column {name!r} twice", "once", "rename one")
    return columns, rows


_KNOWN = {*FILE_COLUMNS, "tags", "group"}


def _match_rows(
    path: Path,
    rows: Mapping[int, Mapping[str, str]],
    column: str,
    files: Mapping[str, Path],
    folder: Path,
    table: TagTable,
) -> dict[int, str]:
    """Image key of each row that has a file of its own."""
    by_name = {
        composed(file.relative_to(folder).as_posix()): key for key, file in files.items()
    }  # fmt: skip
    keys: dict[int, str] = {}
    for number, row in rows.items():
        where, name = f"{path}:{number}", row[column].strip().replace("\\", "/")
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/") or PureWindowsPath(name).drive:
            table.problems.append(outside(Path(name)))
            continue
        if len(parts) > 1 and parts[0] == folder.name:
            parts = parts[1:]
        name = "/".join(parts)
        key = by_name.get(name)
        if key is None and PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
            key = name if name in files else None
        if key is None:
            table.report(
                "TAGS-NO-FILE", where, f"no image {row[column]!r}", f"a file in {folder.name}/",
                "correct the name (upper and lower case count), or remove the row",
            )  # fmt: skip
        elif key in keys.values():
            table.report(
                "TAGS-TWICE", where, f"a second row for {row[column]!r}", "one row per image",
                "remove one of the rows",
            )  # fmt: skip
        else:
            keys[number] = key
    return keys


def _read_lists(
    path: Path,
    rows: Mapping[int, Mapping[str, str]],
    keys: Mapping[int, str],
    others: Sequence[str],
    table: TagTable,
) -> None:
    """Tags from one column of lists."""
    for name in others:
        if name != "tags":
            table.report(
                "TAGS-COLUMN", path, f"the unknown column {name!r}",
                "file, tags and group", "keep the column in another table",
            )  # fmt: skip
    for number, key in keys.items():
        found = {tag.strip() for tag in re.split(r"[;,|]", rows[number]["tags"])} - {""}
        table.tags[key] = tuple(sorted(found))
    table.class_names = tuple(sorted(set().union(*table.tags.values())))
    folded = Counter(name.casefold() for name in table.class_names)
    for one in (key for key, number in folded.items() if number > 1):
        spellings = ", ".join(name for name in table.class_names if name.casefold() == one)
        table.report(
            "TAGS-VALUE", path, f"tags that differ in case only: {spellings}",
            "one spelling of each tag", "spell them alike",
        )  # fmt: skip


def _read_flags(
    path: Path,
    rows: Mapping[int, Mapping[str, str]],
    keys: Mapping[int, str],
    others: Sequence[str],
    table: TagTable,
) -> None:
    """Tags from one 0/1 column each."""
    names = []
    for name in others:
        values = {row[name].strip().lower() for row in rows.values()}
        if name and values & _TRUTH.keys():
            names.append(name)
        else:
            table.report(
                "TAGS-COLUMN", path,
                f"the column {name!r} with {', '.join(map(repr, sorted(values)[:3])) or 'no row'}",
                "file, group, and `tags` or columns of 0 and 1",
                "write 1 where the tag applies and 0 elsewhere; keep what is no tag in another "
                "table",
            )  # fmt: skip
    for number, key in keys.items():
        flags = {name: _TRUTH.get(rows[number][name].strip().lower()) for name in names}
        for name, flag in flags.items():
            if flag is None:
                table.report(
                    "TAGS-VALUE", f"{path}:{number}", f"{rows[number][name]!r} in {name!r}",
                    "0 or 1 (no or yes, false or true)",
                    "write 1 where the tag applies and 0 elsewhere",
                )  # fmt: skip
        table.tags[key] = tuple(name for name, flag in flags.items() if flag)
    table.class_names = tuple(names)
