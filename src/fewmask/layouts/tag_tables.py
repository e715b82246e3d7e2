"""Tables of tags as people write them: other names of columns, other encodings, Parquet.

A column of file names, then either one column of tags (``cat;dog``) or columns of 0 and 1. What
``tags.csv`` of a plain folder must look like is stricter, see :mod:`fewmask.data.tags_csv`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from fewmask.data.files import composed, shown
from fewmask.errors import ResourceError
from fewmask.layouts.plain_items import Item
from fewmask.layouts.records import Source

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
FILE_COLUMNS = ("file", "image", "filename", "file_name", "filepath", "path", "img", "name",
                "image_id", "id")  # fmt: skip
TAG_COLUMNS = ("tags", "tag", "labels", "label", "classes", "class", "category")
_TRUE, _FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no", ""}
OUR_TABLES = ("classes.csv", "groups.csv", "split.csv", "repairs.csv")
_LARGEST_BYTES = 500_000_000


@dataclass
class Table:
    """Tags and groups by the file name that a row has.

    Attributes:
        tags: Names of the classes of each row's image.
        groups: Groups of the images that have one.
        class_names: All tags: in the order of the columns, or sorted.
        path: The file.
    """

    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    path: Path = Path()

    def of_rows(self, image_of: Mapping[str, str]) -> Table:
        """The table by the ids of images, from those of rows."""
        tags = {image_of[name]: tags for name, tags in self.tags.items() if name in image_of}
        groups = {image_of[name]: g for name, g in self.groups.items() if name in image_of}
        return replace(self, tags=tags, groups=groups)


def choose_table(
    folders: Sequence[Path], images: Mapping[str, Path], source: Source, *, only_named: bool
) -> Table:
    """The table of tags of a data set, its rows by the ids of their images.

    One called ``tags`` is it. Of others, one that has a row for at least half of the images, and an
    image for at least half of its rows; if there are several such tables, none is.

    Args:
        folders: Where it may lie, the likeliest first.
        images: By id.
        source: Receives what was found out about tables.
        only_named: Folders say the tags: a table of another name is none.

    Raises:
        ResourceError: a Parquet file, and pyarrow is not installed.
    """
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if _may_be(path)]
    named = [path for path in paths if path.stem.casefold() == "tags"][:1]
    fitting = []
    for path in named or ([] if only_named else paths):
        table = read_table(path, source)
        rows = _matched(table, images, path, source) if table.tags else {}
        enough = len(rows) >= len(table.tags) / 2 and len(rows) >= len(images) / 2
        if path in named or (rows and enough):
            fitting.append(table.of_rows(rows))
    left = [path for path in paths if path not in {table.path for table in fitting}]
    if len(fitting) > 1:
        source.note("TAGS-SEVERAL", folders[0], f"{len(fitting)} tables that could be the tags: "
                    + ", ".join(shown(table.path.name) for table in fitting), "one of them",
                    "rename the one that is meant to tags.csv")  # fmt: skip
        return Table()
    if left:
        source.note("FILE-SKIPPED", left[0].parent, f"{len(left)} tables that are not read: "
                    f"{', '.join(shown(path.name) for path in left[:3])}",
                    "tags.csv, or a table of tags of most images",
                    "nothing to do, unless one holds the tags")  # fmt: skip
    if fitting and fitting[0].path.name != "tags.csv":
        source.repaired("TAGS-MISSING", fitting[0].path, f"tags in {shown(fitting[0].path.name)}",
                        "tags.csv", "read as the table of tags")  # fmt: skip
    return fitting[0] if fitting else Table()


def with_tags(items: Mapping[str, Item], table: Table, source: Source) -> dict[str, Item]:
    """Images with the tags of a table; those that it does not name are left out."""
    bare = sorted(items.keys() - table.tags.keys())
    if bare:
        source.report("TAGS-NO-ROW", table.path, f"{len(bare)} images without a row: "
                      f"{', '.join(bare[:3])}", "one row per image",
                      "add rows: nobody says what is on them")  # fmt: skip
    return {
        key: replace(item, tags=table.tags[key], group=table.groups.get(key, item.group))
        for key, item in items.items()
        if key in table.tags
    }


def _may_be(path: Path) -> bool:
    visible = path.name[0] != "." and path.name not in OUR_TABLES
    return visible and path.suffix.lower() in TABLE_SUFFIXES and path.is_file()


def read_table(path: Path, source: Source) -> Table:
    """Read a table; what it cannot make sense of is told, and left out.

    Raises:
        ResourceError: a Parquet file, and pyarrow is not installed.
    """
    rows = _parquet(path, source) if path.suffix.lower() == ".parquet" else _text(path, source)
    table = Table(path=path)
    if not rows:
        return table
    columns = list(rows[0])
    known = {name.casefold(): name for name in columns}
    file_column = next((known[name] for name in FILE_COLUMNS if name in known), None)
    tell = source.report if path.stem.casefold() == "tags" else source.note
    if file_column is None:
        tell("TAGS-COLUMN", path, f"the columns {', '.join(columns)}",
             "a column of file names, if this is a table of tags", "name it `file`")  # fmt: skip
        return table
    tag_column = next((known[name] for name in TAG_COLUMNS if name in known), None)
    group_column = known.get("group")
    rest = [name for name in columns if name not in (file_column, tag_column, group_column)]
    if tag_column is not None and _is_flags(rows, tag_column) and _is_truly_flag(rows, tag_column):
        rest, tag_column = [tag_column, *rest], None
    flags = [name for name in rest if tag_column is None and _is_flags(rows, name)]
    if unread := [name for name in rest if name not in flags]:
        source.repaired("TAGS-COLUMN", path, f"the columns {', '.join(unread)}",
                        "file, group, and `tags` or columns of 0 and 1", "left out")  # fmt: skip
    if tag_column is None and not flags:
        tell("TAGS-COLUMN", path, "no column of tags", "`tags`, or columns of 0 and 1",
             "add one, if this is a table of tags")  # fmt: skip
        return table
    for row in rows:
        name = row[file_column].strip().replace("\\", "/")
        if not name:
            continue
        if tag_column is not None:
            tags = tuple(
                sorted({tag.strip() for tag in re.split(r"[;,|]", row[tag_column])} - {""})
            )
        else:
            tags = tuple(column for column in flags if row[column].strip().lower() in _TRUE)
        if name in table.tags and table.tags[name] != tags:
            source.report("TAGS-TWICE", path, f"{name!r} twice, with different tags",
                          "one row per image", "remove one of the rows")  # fmt: skip
            continue
        table.tags[name] = tags
        if group_column is not None and row[group_column].strip():
            table.groups[name] = row[group_column].strip()
    table.class_names = tuple(flags) or _sorted_tags(table)
    return _one_spelling(table, path, source, in_columns=bool(flags))


def _matched(table: Table, files: Mapping[str, Path], path: Path, source: Source) -> dict[str, str]:
    """Image id by the file name of a row: by the whole path, then by ever less of it.

    Each image has one row. A name that fits several images fits none.
    """
    keys: dict[str, set[str]] = defaultdict(set)
    for identity, file in files.items():
        parts = PurePosixPath(composed(shown(file.as_posix()))).parts
        whole = [
            identity,
            f"{identity}{file.suffix}",
            *("/".join(parts[i:]) for i in range(len(parts))),
        ]
        for key in (*whole, *(str(PurePosixPath(key).with_suffix("")) for key in whole)):
            keys[key.casefold()].add(identity)
    found: dict[str, str] = {}
    taken: set[str] = set()
    rest = {name: _tails(name) for name in table.tags}
    for cut in range(max((len(tails) for tails in rest.values()), default=0)):
        for name, tails in list(rest.items()):
            fits = keys.get(tails[cut].casefold(), set()) if cut < len(tails) else set()
            free = fits - taken
            if len(fits) == 1 and free:
                found[name] = next(iter(free))
                taken |= free
                del rest[name]
    if rest:
        source.repaired("TAGS-NO-FILE", path, f"{len(rest)} rows without an image of their own: "
                        f"{', '.join(map(repr, list(rest)[:3]))}", "an image for each row",
                        "left out")  # fmt: skip
    return found


def _tails(name: str) -> list[str]:
    """A path, and what is left of it without ever more of its first folders.

    >>> _tails("a/b.png")
    ['a/b.png', 'b.png', 'b']
    """
    parts = [part for part in PurePosixPath(composed(name)).parts if part not in "/."]
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    return [*tails, str(PurePosixPath(parts[-1]).with_suffix(""))] if parts else []


def _sorted_tags(table: Table) -> tuple[str, ...]:
    return tuple(sorted(set().union(*table.tags.values(), set())))


def _one_spelling(table: Table, path: Path, source: Source, *, in_columns: bool) -> Table:
    """Tags that differ in case only become the most frequent spelling."""
    counts = Counter(tag for tags in table.tags.values() for tag in tags)
    best: dict[str, str] = {}
    for name in table.class_names:
        old = best.get(name.casefold())
        best[name.casefold()] = name if old is None or counts[name] > counts[old] else old
    if len(best) == len(table.class_names):
        return table
    several = [name for name in table.class_names if best[name.casefold()] != name]
    source.repaired("TAGS-VALUE", path, f"tags that differ in case only: {', '.join(several)}",
                    "one spelling of each tag", "the most frequent spelling")  # fmt: skip
    table.class_names = tuple(dict.fromkeys(best[n.casefold()] for n in table.class_names))
    table.tags = {
        name: tuple(dict.fromkeys(best[tag.casefold()] for tag in tags))
        for name, tags in table.tags.items()
    }
    if not in_columns:
        table.class_names = _sorted_tags(table)
    return table


def _is_flags(rows: list[dict[str, str]], column: str) -> bool:
    return all(row[column].strip().lower() in _TRUE | _FALSE for row in rows)


def _is_truly_flag(rows: list[dict[str, str]], column: str) -> bool:
    return any(row[column].strip() for row in rows)


def _text(path: Path, source: Source) -> list[dict[str, str]]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            source.report("TAGS-FORMAT", path, "more than 500 MB", "a table of tags", "split it")
            return []
        data = path.read_bytes()
    except OSError as error:
        source.report("TAGS-UNREADABLE", path, error.strerror or str(error), "a readable file",
                      "check its permissions")  # fmt: skip
        return []
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
        source.repaired("TAGS-ENCODING", path, "bytes that are not UTF-8", "UTF-8",
                        "read as Windows-1252, as spreadsheets save tables")  # fmt: skip
    header = text.partition("\n")[0]
    delimiter = max(",;\t|", key=header.count)
    try:
        lines = list(csv.reader(StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        source.report("TAGS-FORMAT", path, str(error), "a CSV file", "save the table again")
        return []
    lines = [cells for cells in lines if any(cell.strip() for cell in cells)]
    if len(lines) < 2:
        source.report("TAGS-EMPTY", path, "no row", "one row per image", "fill the table")
        return []
    columns = [composed(cell.strip()) for cell in lines[0]]
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        source.report("TAGS-COLUMN", path, f"the column {twice[0]!r} twice", "each once",
                      "rename or remove one of them")  # fmt: skip
        return []
    ragged = [cells for cells in lines[1:] if len(cells) != len(columns)]
    if ragged:
        source.repaired("TAGS-FORMAT", path, f"{len(ragged)} rows with another number of cells",
                        f"{len(columns)} cells as in the header", "left out")  # fmt: skip
    return [
        dict(zip(columns, map(composed, cells), strict=True))
        for cells in lines[1:]
        if len(cells) == len(columns)
    ]


def _parquet(path: Path, source: Source) -> list[dict[str, str]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ResourceError.of("PARQUET-PACKAGE", where="pyarrow", found="not installed",
                               expected="pyarrow, which reads Parquet",
                               fix='pip install "fewmask[parquet]"') from None  # fmt: skip
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError, ArrowException) as error:
        source.report("TAGS-FORMAT", path, str(error).splitlines()[0], "a Parquet file",
                      "write it again")  # fmt: skip
        return []
    return [{composed(str(k)): _cell(v) for k, v in row.items()} for row in rows]


def _cell(value: Any) -> str:
    """A cell as a CSV file would have it; lists of tags are joined."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ";".join(map(_cell, value))
    if isinstance(value, bool):
        return str(int(value))
    return composed(str(value))
