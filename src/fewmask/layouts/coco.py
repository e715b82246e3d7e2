"""COCO: a JSON file with images, categories, and annotations that are polygons or run lengths.

=========================================  =================================================
in the file                                read as
=========================================  =================================================
categories                                 classes 1..K, in the order of their ids
annotations of an image                    a mask; where they overlap, later ones cover earlier
``iscrowd``, a category called ignored     255 where nothing else covers it
a category called background               0
an image without annotations               an empty mask
an image with boxes only                   tags, and no mask
``train``, ``val``, ``test`` in the name   the part, from the file's name, else its folder, else
                                           the image's folder: ``instances_train2017.json``,
                                           ``valid/_annotations.coco.json``
=========================================  =================================================

The files are looked for at the root and down to two folders below it. Polygons cover the pixels
that pycocotools covers. Needs the extra ``coco`` where there is any shape.

Source: https://cocodataset.org/#format-data.

====================  ==========================================================================
code                  meaning
====================  ==========================================================================
COCO-STRUCTURE        a part of the file is not what the format says
COCO-OTHER            a JSON file that holds no objects: captions, panoptic, or none of COCO's
COCO-IMAGE-UNKNOWN    annotations of an image that the file does not list
COCO-CATEGORY         annotations of a category that the file does not list, or an id given twice
COCO-IMAGE-TWICE      an image listed twice
COCO-CATEGORY-IDS     category ids that become other class ids (a repair)
COCO-CATEGORY-UNUSED  a mere heading over other categories (a repair)
COCO-BOXES            images with tags and no mask (a note)
COCO-EMPTY            images whose mask is empty (a note)
COCO-OVERLAP          images on which objects of different classes overlap (a note)
COCO-UNLISTED         images that no file lists (a note)
====================  ==========================================================================
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.roles import Part
from fewmask.errors import DataError, Problem
from fewmask.io.rle import coco_rle
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
    read_colour,
    read_json,
    some,
    special_id,
    summarised,
)
from fewmask.layouts.records import Class, Entry, ReadingOptions, Source

_PATTERNS = ("*.json", "*/*.json", "*/*/*.json")
_IMAGES = re.compile(r'"images"\s*:\s*\[')
_WITH_IMAGES = re.compile(r'"(annotations|categories|file_name)"\s*:')
_OBJECTS = re.compile(r'"category_id"\s*:')
_OBJECTS_OF = re.compile(r'"image_id"\s*:')

Id = int | str


@dataclass
class _File:
    """One JSON file, its structure checked."""

    path: Path
    name: str
    part: Part | None
    images: list[dict[str, Any]] = field(default_factory=list)
    categories: dict[Id, dict[str, Any]] = field(default_factory=dict)
    annotations: dict[Id, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass
class _Counts:
    """Images by what the notes say about them."""

    boxes: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    overlapping: list[str] = field(default_factory=list)


def recognise(root: Path) -> bool:
    """Whether there is a JSON file that begins like COCO's; never raises."""
    return any(_is_coco(head) for _, head in json_heads(root, _PATTERNS))


def read(root: Path, options: ReadingOptions) -> Source:
    """List the images that COCO files annotate; see the module's table.

    An image is left out, with a problem, if one of its annotations cannot be read: its mask would
    lack an object.

    Args:
        root: The data folder.
        options: ``class_names`` set the order of the ids, ``group_pattern`` the groups.

    Raises:
        UsageError: class names or a pattern that do not fit.
        ResourceError: pycocotools is not installed.
    """
    source = Source("COCO", root)
    images = Images(root, source)
    files = [file for path in json_files(root, _PATTERNS) if (file := _open(path, source))]
    numbers = _classes(files, options, source)
    if any(problem.code == "CLASSES-MANY" for problem in source.problems):
        return source
    group, counts, seen = group_finder(options), _Counts(), dict[Path, str]()
    for file in files:
        problems: list[Problem] = []
        for record in file.images:
            try:
                entry = _entry(record, file, images, numbers, seen, counts, source)
            except DataError as error:
                problems += error.problems
            else:
                source.entries.append(
                    Entry(entry.id, entry.image, entry.mask, entry.tags, group(entry.id),
                          file.part or part_in(*reversed(entry.id.split("/")[:-1])))
                )  # fmt: skip
        source.problems += summarised(problems, file.name)
    source.entries.sort(key=lambda entry: entry.id)
    _add_notes(source, counts, [images.ids[path] for path in images.ids if path not in seen])
    return source


def _is_coco(head: str) -> bool:
    if not head.startswith("{"):
        return False
    listed = _IMAGES.search(head) and _WITH_IMAGES.search(head)
    return bool(listed or (_OBJECTS.search(head) and _OBJECTS_OF.search(head)))


def _open(path: Path, source: Source) -> _File | None:
    """A file's parts by id; problems and notes go to the source."""
    name = path.relative_to(source.root).as_posix()
    try:
        content = read_json(path)
    except DataError as error:
        source.problems += error.problems
        return None
    other = _other_kind(content, path)
    if other:
        source.note("COCO-OTHER", name, other, "images, categories and annotations of objects",
                    "nothing to do: it is not read")  # fmt: skip
        return None
    file = _File(path, name, part_in(path.stem, *reversed(Path(name).parent.parts)))
    lists = {key: content.get(key, []) for key in ("images", "annotations", "categories")}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            source.report("COCO-STRUCTURE", name, f"`{key}` is no list of objects", "such a list",
                          "export the annotations again")  # fmt: skip
            return None
    file.images = lists["images"]
    if not _take_categories(file, lists["categories"], source):
        return None
    _take_annotations(file, lists["annotations"], source)
    return file


def _other_kind(content: Any, path: Path) -> str:
    """What a JSON file is that has no objects to read; empty for one that has."""
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return "a JSON file without the images and annotations of COCO"
    annotations = content["annotations"]
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    if isinstance(first, dict) and "segments_info" in first:
        return "panoptic annotations"
    if isinstance(first, dict) and "caption" in first:
        return "captions"
    sibling = path.with_name(path.name.replace("person_keypoints", "instances"))
    return "keypoints of persons, also among the instances" if sibling != path and (
        sibling.is_file()
    ) else ""  # fmt: skip


def _take_categories(file: _File, records: list[dict[str, Any]], source: Source) -> bool:
    for record in records:
        number, name = record.get("id"), record.get("name")
        if not _is_id(number) or not isinstance(name, str) or not name.strip():
            source.report("COCO-STRUCTURE", file.name, f"a category {record!s:.80}",
                          "an id and a name", "mend the category")  # fmt: skip
            return False
        if number in file.categories:
            source.report("COCO-CATEGORY", file.name, f"two categories with the id {number}",
                          "one", "give each category an id of its own")  # fmt: skip
            return False
        file.categories[number] = record
    return True


def _take_annotations(file: _File, records: list[dict[str, Any]], source: Source) -> None:
    listed = Counter(number for record in file.images if _is_id(number := record.get("id")))
    twice = [number for number, times in listed.items() if times > 1]
    if twice:
        source.report("COCO-IMAGE-TWICE", file.name, f"several images with the id {some(twice)}",
                      "an id for each image", "give each image an id of its own")  # fmt: skip
        file.images = [record for record in file.images if record.get("id") not in twice]
    strangers = []
    by_image: dict[Id, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        image = record.get("image_id")
        if _is_id(image) and image in listed:
            by_image[image].append(record)
        else:
            strangers.append(record.get("id"))
    if strangers:
        source.report(
            "COCO-IMAGE-UNKNOWN", file.name, f"{len(strangers)} annotations of images that are not "
            f"listed: {some(strangers)}", "annotations of listed images",
            "list the images, or remove the annotations",
        )  # fmt: skip
    file.annotations = by_image


def _classes(files: list[_File], options: ReadingOptions, source: Source) -> dict[str, int]:
    """The class id of each category, by name; 0 and 255 for those with a special name."""
    records = [file.categories[number] for file in files for number in _sorted(file.categories)]
    used = {
        file.categories[number]["name"]
        for file in files
        for annotations in file.annotations.values()
        for each in annotations
        if _is_id(number := each.get("category_id")) and number in file.categories
    }
    headings = {
        r["supercategory"]
        for r in records
        if isinstance(r.get("supercategory"), str) and r["supercategory"] != r["name"]
    } - used
    names = list(dict.fromkeys(record["name"] for record in records))
    for name in [name for name in names if name in headings]:
        source.repaired(
            "COCO-CATEGORY-UNUSED", source.root, f"a category {name} without annotations, which "
            "other categories have as supercategory", "categories of objects", "it is no class",
        )  # fmt: skip
    special = {name: number for name in names if (number := special_id(name)) is not None}
    note_special(source, source.root, special)
    colours = {record["name"]: read_colour(record.get("color")) for record in reversed(records)}
    kept = [Class(name, colours[name]) for name in names if name not in headings | special.keys()]
    numbers = in_order(kept, options, source)
    for file in files:
        ids = {
            number: numbers[record["name"]]
            for number, record in file.categories.items()
            if record["name"] in numbers
        }
        if any(number != ids[number] for number in ids):
            source.repaired(
                "COCO-CATEGORY-IDS", file.name, f"category ids {some(_sorted(ids), 8)}",
                "1, 2, ... without gaps",
                "read as " + some([f"{n} -> {ids[n]}" for n in _sorted(ids)], 8),
            )  # fmt: skip
    return numbers | special


def _entry(
    record: dict[str, Any],
    file: _File,
    images: Images,
    numbers: dict[str, int],
    seen: dict[Path, str],
    counts: _Counts,
    source: Source,
) -> Entry:
    """One image; a DataError leaves it out."""
    number = record.get("id")
    where = f"{file.name}, image {number!s:.40}"
    near = [word for word in (*Path(file.name).parts[:-1], file.part) if word]
    near += [part for part in re.split(r"[_.]", file.path.stem) if part]
    path = images.find(record.get("file_name"), where, near)
    if (first := seen.setdefault(path, where)) is not where:
        raise DataError.of(
            "COCO-IMAGE-TWICE",
            where=where,
            found=f"{path.name}, which is also {first}",
            expected="each image once",
            fix="merge its annotations under one id, or remove one of the files",
        )
    if not _is_id(number):
        raise _structure(where, f"{number!r:.40} as id")
    name = images.ids[path]
    turn = placed(path, (record.get("height"), record.get("width")), where, source)
    height, width = int(record["height"]), int(record["width"])
    annotations = file.annotations.get(number, [])
    found = [_number(each, file, numbers) for each in annotations]
    tags = tuple(each.name for i, each in enumerate(source.classes, 1) if i in found)
    if any(not each.get("segmentation") for each in annotations):
        counts.boxes.append(name)
        return Entry(name, path, None, tags)
    shapes: list[Shape] = []
    problems: list[Problem] = []
    for each, class_id in zip(annotations, found, strict=True):
        place = f"{file.name}, annotation {each.get('id')!s:.40}"
        try:
            rle = coco_rle(each["segmentation"], height, width, place)
        except DataError as error:
            problems += error.problems
        else:
            shapes.append((rle, IGNORE_INDEX if each.get("iscrowd") else class_id))
    if problems:
        raise DataError(*problems)
    if not shapes:
        counts.empty.append(name)
    if classes_overlap(shapes):
        counts.overlapping.append(name)
    return Entry(name, path, partial(paint_shapes, (height, width), shapes, turn), tags)


def _number(annotation: dict[str, Any], file: _File, numbers: dict[str, int]) -> int:
    category = annotation.get("category_id")
    if not _is_id(category) or category not in file.categories:
        raise DataError.of(
            "COCO-CATEGORY",
            where=f"{file.name}, annotation {annotation.get('id')!s:.40}",
            found=f"the category {category!s:.40}",
            expected="one of the categories that the file lists",
            fix="list the category, or remove the annotation",
        )
    return numbers[file.categories[category]["name"]]


def _add_notes(source: Source, counts: _Counts, unlisted: list[str]) -> None:
    notes = (
        ("COCO-BOXES", counts.boxes, "with boxes only", "polygons or run lengths",
         "nothing to do: they have tags and no mask"),
        ("COCO-EMPTY", counts.empty, "without annotations", "annotations",
         "nothing to do if nothing is on them: their mask is empty; else take them out of the "
         "file"),
        ("COCO-OVERLAP", counts.overlapping, "on which objects of different classes overlap",
         "one class for each pixel", "nothing to do: what stands later in the file covers"),
        ("COCO-UNLISTED", unlisted, "that no file lists", "listed images",
         "nothing to do: they are left out; list them, or copy them into images/ afterwards"),
    )  # fmt: skip
    for code, names, what, expected, fix in notes:
        if names:
            source.note(code, source.root, f"{len(names)} images {what}: {some(names)}", expected,
                        fix)  # fmt: skip


def _is_id(value: object) -> TypeGuard[Id]:
    return type(value) in {int, str}


def _sorted(ids: dict[Id, Any]) -> list[Id]:
    return sorted(ids, key=lambda each: (isinstance(each, str), each))


def _structure(where: str, found: str) -> DataError:
    fix = "export the annotations again"
    return DataError.of("COCO-STRUCTURE", where=where, found=found, expected="an id", fix=fix)
