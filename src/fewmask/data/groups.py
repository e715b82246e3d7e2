"""The group of an image (patient, scene, drive) by a pattern in its name."""

from __future__ import annotations

import re

from fewmask.errors import Problem


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
