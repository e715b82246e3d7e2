"""The tasks of a Label Studio export: regions, choices, and what was not understood.

The codes are those of :mod:`fewmask.layouts.label_studio`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewmask.errors import DataError, Problem
from fewmask.io.images import IMAGE_SUFFIXES
from fewmask.layouts.annotation_files import (
    read_colour,
    read_json,
    some,
    summarised,
)
from fewmask.layouts.records import Class, Source

BRUSHES, POLYGONS = {"brushlabels", "brush"}, {"polygonlabels", "polygon"}
BOXES = {
    "rectanglelabels", "rectangle", "ellipselabels", "ellipse", "keypointlabels", "keypoint",
}  # fmt: skip
_NAMES = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "keypointlabels",
          "labels")  # fmt: skip


@dataclass
class Region:
    """A result that has a place on the image."""

    kind: str
    label: str
    value: dict[str, Any]
    where: str


@dataclass
class Task:
    """One task, read as far as that is possible without its image."""

    where: str
    url: object
    labelled: bool = False
    size: tuple[int, int] | None = None
    regions: list[Region] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """What the notes count."""

    several: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    overlapping: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)


def records_in(path: Path, source: Source) -> list[tuple[str, dict[str, Any]]]:
    """The tasks in a file, each with its place for messages."""
    name = path.relative_to(source.root).as_posix()
    try:
        content = read_json(path)
    except DataError as error:
        source.problems += error.problems
        return []
    records = content if isinstance(content, list) else []
    tasks = [each for each in records if isinstance(each, dict) and "data" in each]
    if 0 < len(tasks) < len(records):
        problem = structure_error(name, f"{len(records) - len(tasks)} tasks without `data`")
        source.problems += problem.problems
    elif not tasks:
        source.note("LABEL-STUDIO-FORMAT", name, "no list of tasks with `data`",
                    "an export in the format JSON (not JSON-MIN)",
                    "nothing to do if it is something else; else export as JSON")  # fmt: skip
    return [(f"{name}, task {each.get('id', i)!s:.40}", each) for i, each in enumerate(tasks, 1)]


def _list_of(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = record.get(key)
    if key == "annotations" and found is None:
        found = record.get("completions")
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(key)
    return found


def is_finished(record: dict[str, Any]) -> bool:
    """Whether a task has an annotation that was not cancelled."""
    try:
        return any(not each.get("was_cancelled") for each in _list_of(record, "annotations"))
    except ValueError:
        return True


def tasks_of(
    records: Sequence[tuple[str, dict[str, Any]]], key: str, tally: Tally, source: Source
) -> list[Task]:
    """Read the tasks' results; those that cannot be understood are problems.

    Args:
        records: Tasks, each with the place it stands in.
        key: ``annotations`` or ``predictions``: which results count.
        tally: Receives what the notes count.
        source: Receives problems.
    """
    tasks: list[Task] = []
    problems: list[Problem] = []
    for where, record in records:
        task = Task(where, image_url(record["data"]))
        try:
            _fill(task, record, key, tally)
        except DataError as error:
            problems += error.problems
        except ValueError as error:
            problems += structure_error(where, f"`{error}` is no list of objects").problems
        else:
            tasks.append(task)
    source.problems += summarised(problems, source.root)
    return tasks


def _fill(task: Task, record: dict[str, Any], key: str, tally: Tally) -> None:
    """Take regions and choices of the annotation that counts."""
    counting = [each for each in _list_of(record, key) if not each.get("was_cancelled")]
    if not counting:
        return
    task.labelled = True
    if len(counting) > 1:
        tally.several.append(task.where)
    results = _list_of(counting[-1], "result")
    names: dict[str, set[str]] = defaultdict(set)
    for result in results:
        names[str(result.get("id"))].update(_labels(result))
    sizes = set[tuple[int, int]]()
    for i, result in enumerate(results, 1):
        kind, value = str(result.get("type")), result.get("value")
        where = f"{task.where}, result {result.get('id', i)!s:.40}"
        if not isinstance(value, dict):
            raise structure_error(where, "no `value`")
        if kind == "choices":
            chosen = value.get("choices")
            if not isinstance(chosen, list) or not all(isinstance(each, str) for each in chosen):
                raise structure_error(where, "no list of choices")
            task.choices += chosen
        elif kind in BRUSHES | POLYGONS | BOXES:
            found = _labels(result) or sorted(names[str(result.get("id"))])
            if len(found) != 1:
                raise DataError.of(
                    "LABEL-STUDIO-LABEL",
                    where=where,
                    found=some(found) or "no label",
                    expected="one label for each region",
                    fix="give the region one label in Label Studio, and export again",
                )
            if result.get("image_rotation"):
                raise DataError.of(
                    "LABEL-STUDIO-ROTATED",
                    where=where,
                    found=f"an image rotated by {result['image_rotation']} degrees",
                    expected="0",
                    fix="turn the image file itself, and label it again",
                )
            sizes.add(_size(result, where))
            task.regions.append(Region(kind, found[0], value, where))
        elif kind != "labels":
            tally.other[kind] += 1
    if len(sizes) > 1:
        raise structure_error(task.where, f"several sizes of the image, {some(sorted(sizes))}")
    task.size = next(iter(sizes), None)


def _size(result: dict[str, Any], where: str) -> tuple[int, int]:
    height, width = result.get("original_height"), result.get("original_width")
    if type(height) is not int or type(width) is not int:
        raise structure_error(where, f"a size of {height!s:.20}x{width!s:.20} px")
    return height, width


def _labels(result: dict[str, Any]) -> list[str]:
    value = result.get("value")
    if not isinstance(value, dict):
        return []
    for key in _NAMES:
        names = value.get(key)
        if isinstance(names, list) and names:
            return [str(name) for name in names]
    return []


def declared_classes(records: Sequence[tuple[str, dict[str, Any]]]) -> list[Class]:
    """The classes that a file of ours lists, with their colours."""
    for _, record in records:
        meta = record.get("meta")
        listed = meta.get("classes") if isinstance(meta, dict) else None
        if isinstance(listed, list) and all(
            isinstance(each, dict) and isinstance(each.get("name"), str) for each in listed
        ):
            return [Class(each["name"], read_colour(each.get("colour"))) for each in listed]
    return []


def is_point(point: object) -> bool:
    """Whether something is a corner in percent of width and height."""
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(type(each) in {int, float} and abs(each) <= 1000 for each in point)
    )


def image_url(data: object) -> object:
    """What a task says of its image."""
    if not isinstance(data, dict) or "image" in data:
        return data.get("image") if isinstance(data, dict) else None
    named = [v for v in data.values() if isinstance(v, str) and v.lower().endswith(IMAGE_SUFFIXES)]
    return named[0] if len(named) == 1 else None


def structure_error(where: str, found: str) -> DataError:
    """The error of a part that is not what the format says."""
    return DataError.of(
        "LABEL-STUDIO-STRUCTURE",
        where=where,
        found=found,
        expected="a task as Label Studio exports it",
        fix="export as JSON again",
    )
