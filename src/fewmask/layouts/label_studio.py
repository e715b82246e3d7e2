"""Label Studio: an export in its own JSON format, a list of tasks.

==================================  ============================================================
in the file                         read as
==================================  ============================================================
``brushlabels``, ``polygonlabels``  a mask; where regions overlap, later ones cover earlier ones
``choices``                         tags
rectangles, ellipses, key points    tags, and no mask
an annotation without regions       an empty mask, if other tasks have regions
a task without annotation           an image that nobody has labelled
a label called background           0
a label called ignored              255 where nothing else covers it
``predictions``                     as annotations, if no task has any, with a repair that says so
==================================  ============================================================

Of several annotations of a task the last one that was not cancelled counts. A pixel belongs to a
brush's region if it is not wholly transparent. An export does not tell the order of the labels:
classes are numbered by name, unless ``meta.classes`` of a task lists them, as files by
:func:`fewmask.layouts.handing_over.write_label_studio` do.

An image is never fetched: it is looked up below the data folder, by the end of the path in
``data.image`` that is found there, with and without the eight digits that an upload puts before
the name. Needs the extra ``coco`` where there is any region.

Source: https://labelstud.io/guide/task_format, https://labelstud.io/tags/brushlabels.

=========================  =====================================================================
code                       meaning
=========================  =====================================================================
LABEL-STUDIO-STRUCTURE     a part of the file is not what the format says
LABEL-STUDIO-FORMAT        a JSON file that is no such export, JSON-MIN among them (a note)
LABEL-STUDIO-LABEL         a region without a label, or with several
LABEL-STUDIO-ROTATED       regions on an image that was rotated in the tool
LABEL-STUDIO-TWICE         an image in two tasks
LABEL-STUDIO-PREDICTIONS   predictions in place of annotations (a repair)
LABEL-STUDIO-ANNOTATORS    tasks with several annotations (a note)
LABEL-STUDIO-UNLABELLED    tasks without one (a note)
LABEL-STUDIO-BOXES         images with tags and no mask (a note)
LABEL-STUDIO-EMPTY         images whose mask is empty (a note)
LABEL-STUDIO-OVERLAP       images on which regions of different classes overlap (a note)
LABEL-STUDIO-OTHER         results that are neither regions nor choices (a note)
=========================  =====================================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fewmask.errors import DataError, Problem
from fewmask.io.images import image_size
from fewmask.io.rle import coco_rle, decode_brush, encode_coco
from fewmask.layouts.annotation_files import (
    Images,
    Shape,
    classes_overlap,
    group_finder,
    in_order,
    json_files,
    json_heads,
    note_special,
    paint_shapes,
    part_in,
    placed,
    some,
    special_id,
    summarised,
)
from fewmask.layouts.label_studio_tasks import (
    BOXES,
    BRUSHES,
    Region,
    Tally,
    Task,
    declared_classes,
    is_finished,
    is_point,
    records_in,
    structure_error,
    tasks_of,
)
from fewmask.layouts.records import Class, Entry, ReadingOptions, Source

_PATTERNS = ("*.json", "*/*.json")
_TASKS = re.compile(r'"(annotations|completions|predictions)"\s*:\s*\[')
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
_MOST_FOLDERS = 8


def recognise(root: Path) -> bool:
    """Whether there is a JSON file that begins like a list of tasks; never raises."""
    return any(
        re.match(r"\[\s*\{", head) and _TASKS.search(head) is not None
        for _, head in json_heads(root, _PATTERNS)
    )


def read(root: Path, options: ReadingOptions) -> Source:
    """List the images of the tasks; see the module's tables.

    A task is left out, with a problem, if one of its results cannot be read.

    Args:
        root: The data folder.
        options: ``class_names`` set the order of the ids, ``group_pattern`` the groups.

    Raises:
        UsageError: class names or a pattern that do not fit.
        ResourceError: pycocotools is not installed.
    """
    source, tally = Source("Label Studio", root), Tally()
    images = Images(root, source)
    records = [pair for path in json_files(root, _PATTERNS) for pair in records_in(path, source)]
    key = "annotations"
    if not any(is_finished(record) for _, record in records):
        key = "predictions"
    tasks = tasks_of(records, key, tally, source)
    if key == "predictions" and any(task.labelled for task in tasks):
        source.repaired(
            "LABEL-STUDIO-PREDICTIONS", root, "predictions only, which nobody has confirmed",
            "annotations", "the predictions are read as if they were annotations",
        )  # fmt: skip
    numbers = _classes(tasks, records, options, source)
    if numbers is None:
        return source
    with_masks = any(task.regions for task in tasks) or bool(declared_classes(records))
    group, seen, problems = group_finder(options), dict[Path, str](), list[Problem]()
    for task in tasks:
        try:
            entry = _entry(task, images, numbers, with_masks, seen, tally, source)
        except DataError as error:
            problems += error.problems
        else:
            part = part_in(*reversed(entry.id.split("/")[:-1]))
            source.entries.append(
                Entry(entry.id, entry.image, entry.mask, entry.tags, group(entry.id), part)
            )
    source.problems += summarised(problems, root)
    source.entries.sort(key=lambda entry: entry.id)
    _add_notes(source, tally)
    return source


def _classes(
    tasks: Sequence[Task],
    records: Sequence[tuple[str, dict[str, Any]]],
    options: ReadingOptions,
    source: Source,
) -> dict[str, int] | None:
    """Class id by label; None, and a problem, if they are too many."""
    regions = {region.label for task in tasks for region in task.regions}
    choices = {choice for task in tasks for choice in task.choices}
    declared = {each.name: each for each in declared_classes(records)}
    special = {name: number for name in regions if (number := special_id(name)) is not None}
    note_special(source, source.root, special)
    others = [*sorted(regions - special.keys()), *sorted(choices - regions)]
    listed = declared | {name: Class(name) for name in others if name not in declared}
    numbers = in_order(list(listed.values()), options, source)
    return None if len(numbers) < len(listed) else numbers | special


def _entry(
    task: Task,
    images: Images,
    numbers: dict[str, int],
    with_masks: bool,
    seen: dict[Path, str],
    tally: Tally,
    source: Source,
) -> Entry:
    """One image; a DataError leaves it out."""
    path = _find(task, images)
    if (first := seen.setdefault(path, task.where)) is not task.where:
        raise DataError.of(
            "LABEL-STUDIO-TWICE",
            where=task.where,
            found=f"{path.name}, which is also that of {first}",
            expected="each image in one task",
            fix="remove one of the tasks, and export again",
        )
    name = images.ids[path]
    if not task.labelled:
        tally.unlabelled.append(name)
        return Entry(name, path)
    said = {region.label for region in task.regions} | {*task.choices}
    tags = tuple(each.name for each in source.classes if each.name in said)
    size = task.size or image_size(path)
    turn = placed(path, size, task.where, source)
    if any(region.kind in BOXES for region in task.regions):
        tally.boxes.append(name)
        return Entry(name, path, None, tags)
    if not with_masks:
        return Entry(name, path, None, tags)
    shapes: list[Shape] = []
    problems: list[Problem] = []
    for region in task.regions:
        try:
            shapes.append(_shape(region, size, numbers[region.label]))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    if not shapes:
        tally.empty.append(name)
    if classes_overlap(shapes):
        tally.overlapping.append(name)
    return Entry(name, path, partial(paint_shapes, size, shapes, turn), tags)


def _shape(region: Region, size: tuple[int, int], number: int) -> Shape:
    height, width = size
    if region.kind in BRUSHES:
        painted = decode_brush(region.value.get("rle"), height, width, region.where)
        return encode_coco(painted), number
    points = region.value.get("points")
    if not isinstance(points, list) or not all(is_point(point) for point in points):
        raise structure_error(region.where, "no list of points")
    polygon = [share * side / 100 for x, y in points for share, side in ((x, width), (y, height))]
    return coco_rle([polygon], height, width, region.where), number


def _find(task: Task, images: Images) -> Path:
    """The image whose path ends as that of the task does, as far back as any does."""
    steps = _steps(task.url)
    if steps is None:
        raise structure_error(task.where, f"{task.url!r:.80} as the address of an image")
    *folders, name = steps
    missing: DataError | None = None
    for wanted in dict.fromkeys((name, _UPLOAD.sub("", name, count=1))):
        for i in range(len(folders) + 1):
            try:
                return images.find("/".join([*folders[i:], wanted]), task.where)
            except DataError as error:
                if error.problems[0].code != "IMAGE-MISSING":
                    raise
                missing = error
    raise missing or structure_error(task.where, "no name")


def _steps(url: object) -> list[str] | None:
    """The last folders and the name in a path or address; None of what is neither."""
    if not isinstance(url, str):
        return None
    try:
        address = urlsplit(url)
        local = parse_qs(address.query).get("d")
    except ValueError:
        return None
    rest = f"{address.path}#{address.fragment}" if address.fragment else address.path
    path = local[0] if local else unquote(rest)
    steps = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part != "/"]
    return steps[-_MOST_FOLDERS:] or None


def _add_notes(source: Source, tally: Tally) -> None:
    notes = (
        ("ANNOTATORS", tally.several, "tasks with several annotations", "one",
         "nothing to do: the last one that was not cancelled counts"),
        ("UNLABELLED", tally.unlabelled, "images without an annotation", "an annotation for each",
         "nothing to do: they are kept as images that nobody has labelled"),
        ("BOXES", tally.boxes, "images with boxes or points", "brush or polygons",
         "nothing to do: they have tags and no mask"),
        ("EMPTY", tally.empty, "images whose annotation has no region", "regions",
         "nothing to do if nothing is on them: their mask is empty"),
        ("OVERLAP", tally.overlapping, "images on which regions of different classes overlap",
         "one class for each pixel", "nothing to do: later regions cover earlier ones"),
        ("OTHER", [f"{kind} ({n})" for kind, n in tally.other.items()], "other kinds of results",
         "regions and choices", "nothing to do: they are not read"),
    )  # fmt: skip
    for code, names, what, expected, fix in notes:
        if names:
            source.note(f"LABEL-STUDIO-{code}", source.root, f"{len(names)} {what}: {some(names)}",
                        expected, fix)  # fmt: skip
