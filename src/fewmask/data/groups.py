"""The group of an image (patient, scene, drive): by a pattern in its name, or ``groups.csv``.

The table stands beside the folder of images and has the columns ``id``, as in a split file
(``images/a``), and ``group``. Images that it does not name are groups of their own.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from pathlib import Path

from fewmask.data.files import composed, is_inside, outside
from fewmask.errors import Problem

GROUPS_FILE = "groups.csv"


def read_group_pattern(text: str | None) -> tuple[re.Pattern[str] | None, list[Problem]]:
    """The regular expression, or the problem that it is none."""
    if text is None:
        return None, []
    try:
        return re.compile(text), []
    except re.error as error:
        problem = Problem("GROUP-PATTERN", "group_pattern", f"{text!r}: {error}",
                          "a regular expression", "for example '^[a-z]+'")  # fmt: skip
        return None, [problem]


def group_in(stem: str, pattern: re.Pattern[str] | None) -> str | None:
    """What the pattern's first group, or else all of it, matches in a stem; None for nothing.

    >>> group_in("drive7_003", re.compile(r"^(drive[0-9]+)_")), group_in("x", re.compile("y"))
    ('drive7', None)
    """
    match = pattern.search(stem) if pattern else None
    if match is None:
        return None
    return (match[1] if match.re.groups else None) or match[0] or None


def read_groups(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """Groups by sample id, from the table; and what is wrong with it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [(row["id"], row["group"]) for row in csv.DictReader(stream, strict=True)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        found = f"{type(error).__name__}: {error}"
        problem = Problem("GROUPS-FORMAT", str(path), found,
                          "a CSV file with columns id and group", "correct it")  # fmt: skip
        return {}, [problem]
    if any(not name or not group for name, group in rows):
        problem = Problem("GROUPS-FORMAT", str(path), "a row without id or group",
                          "both in every row", "correct or remove it")  # fmt: skip
        return {}, [problem]
    group_of = {composed(name): composed(group) for name, group in rows}
    if len(group_of) < len(set(rows)):
        twice = next(name for name, group in rows if group_of[composed(name)] != composed(group))
        problem = Problem("GROUPS-FORMAT", str(path), f"{twice} in two groups", "one group each",
                          "correct it")  # fmt: skip
        return {}, [problem]
    return group_of, []


def find_groups(root: Path, ids: Collection[str]) -> tuple[dict[str, str], list[Problem]]:
    """As :func:`read_groups`, of the table in a data folder; nothing without one.

    Args:
        root: The folder.
        ids: Of its samples; an id of none of them is a problem.
    """
    path = root / GROUPS_FILE
    if not path.is_file():
        return {}, []
    if not is_inside(path, root):
        return {}, [outside(path)]
    groups, problems = read_groups(path)
    if strange := sorted(groups.keys() - set(ids)):
        problems.append(
            Problem("GROUPS-NO-FILE", str(path), f"{len(strange)} ids of no image: {strange[0]}",
                    "ids such as images/a", "correct the ids, or remove their rows")
        )  # fmt: skip
    return groups, problems
