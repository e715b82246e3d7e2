"""Pascal VOC, and CVAT's "Segmentation mask 1.1": masks whose colours name the classes.

===================================  ===========================================================
file                                 read as
===================================  ===========================================================
``JPEGImages/a.jpg``                 an image (any folder beside the masks will do)
``SegmentationClass/a.png``          its mask; the colour of a pixel, direct or through the file's
                                     palette, is its class
``labelmap.txt``                     names and colours, a line ``name:red,green,blue:parts:actions``
                                     each; without it, VOC's palette and its 20 names
``ImageSets/Segmentation/val.txt``   the part of the images that it lists; ``ImageSets/Main`` where
                                     there is no such folder
``Annotations/a.xml``                tags from its boxes, where the image has no mask
===================================  ===========================================================

Classes become 1, 2, ... in the order of ``labelmap.txt``. A class called background is 0 wherever
it stands, one called ignored is 255, and so is VOC's border (224, 224, 192). Grey masks whose
values are not among the colours hold ids: 0 the background, 255 ignored. The files may lie in the
data folder or down to two folders below it (``VOCdevkit/VOC2012``).

Source: Everingham et al. 2012, the VOC2012 development kit;
https://docs.cvat.ai/docs/dataset_management/formats/format-smask/.

================  ==============================================================================
code              meaning
================  ==============================================================================
VOC-LABELMAP      a line of ``labelmap.txt`` that cannot be read, a name or colour given twice, or
                  another ``labelmap.txt`` that differs
VOC-IMAGES        masks without their images
VOC-COLOUR        a colour in a mask that no class has
VOC-VALUES        an id in a grey mask that no class has
VOC-PARTS         names in ``ImageSets`` without an image, or in two parts
VOC-XML           an annotation that is damaged, or declares entities
VOC-OBJECT        an object of a class that is not declared
VOC-TEXT          a list, table or annotation that is no small text file below the data folder
VOC-UNLABELLED    images without a mask (a note)
================  ==============================================================================
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from fewmask.data.files import composed, is_inside, list_images
from fewmask.data.roles import Part, part_called, role_in
from fewmask.errors import DataError, Problem
from fewmask.io.decoding import refuse
from fewmask.io.images import read_header
from fewmask.layouts.annotation_files import (
    Turn,
    group_finder,
    placed,
    some,
    summarised,
)
from fewmask.layouts.records import Entry, ReadingOptions, Source
from fewmask.layouts.voc_palette import (
    MASKS,
    Palette,
    ids_of_colours,
    open_palette,
    small_text,
)

_OBJECTS, _IMAGES, _BOXES = "SegmentationObject", "JPEGImages", "Annotations"


def recognise(root: Path) -> bool:
    """Whether there are folders of these names; never raises."""
    try:
        return bool(_homes(root))
    except OSError:
        return False


def read(root: Path, options: ReadingOptions) -> Source:
    """List images with their masks, parts and tags; see the module's table.

    Args:
        root: The data folder.
        options: ``class_names`` set the order of the classes in ``labelmap.txt``, or name VOC's
            colours 1, 2, ... where there is none; ``group_pattern`` sets the groups.

    Raises:
        UsageError: class names or a pattern that do not fit.
    """
    source = Source("Pascal VOC", root)
    homes = _homes(root)
    tags = {home: _read_boxes(home, source) for home in homes}
    palette = open_palette(homes, tags, options, source)
    if palette is None:
        return source
    group = group_finder(options)
    for home in homes:
        above = "" if len(homes) == 1 else f"{home.relative_to(root).as_posix()}/"
        for entry in _entries(home, palette, tags[home], source):
            name = f"{above}{entry.id}"
            source.entries.append(
                Entry(name, entry.image, entry.mask, entry.tags, group(name), entry.part)
            )
    source.entries.sort(key=lambda entry: entry.id)
    source.problems = list(dict.fromkeys(source.problems))
    if bare := [entry.id for entry in source.entries if entry.mask is None]:
        source.note("VOC-UNLABELLED", root, f"{len(bare)} images without a mask: {some(bare)}",
                    "a mask for each", "nothing to do: they are kept without one")  # fmt: skip
    return source


def _homes(root: Path) -> list[Path]:
    """Folders that hold a data set: with masks, or with images and boxes."""
    found = set()
    for above in ("", "*/", "*/*/"):
        found |= {path.parent for path in root.glob(above + MASKS) if path.is_dir()}
        found |= {
            path.parent
            for path in root.glob(above + _IMAGES)
            if path.is_dir() and any((path.parent / _BOXES).glob("*.xml"))
        }
    return sorted(path for path in found if is_inside(path, root))


def _entries(
    home: Path, palette: Palette, tags: dict[str, list[str]], source: Source
) -> list[Entry]:
    masks = _listed(home / MASKS, source) if (home / MASKS).is_dir() else {}
    images = _images(home, source)
    lonely = sorted(masks.keys() - images.keys())
    if lonely:
        found = f"{len(lonely)} masks without an image: {some(lonely)}"
        source.report(
            "VOC-IMAGES", home / MASKS, found, f"images of the same names in {home / _IMAGES}",
            "copy the images there, or export from CVAT again with `Save images`",
        )  # fmt: skip
    parts = _parts(home, images if images else masks, source)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for key, path in sorted(images.items()):
        try:
            mask = masks.get(key)
            turn = _fit(path, mask, source)
            pixels = partial(ids_of_colours, mask, palette, turn) if mask else None
            said = None if mask else _known_tags(tags.get(key), home / _BOXES / key, source)
        except DataError as error:
            problems += error.problems
        else:
            entries.append(Entry(key, path, pixels, said, part=parts.get(key)))
    source.problems += summarised(problems, home)
    return entries


def _fit(image: Path, mask: Path | None, source: Source) -> Turn:
    if mask is None:
        return lambda ids: ids
    header = read_header(mask)
    return placed(image, (header.height, header.width), str(mask), source)


def _known_tags(names: list[str] | None, where: Path, source: Source) -> tuple[str, ...] | None:
    if names is None:
        return None
    declared = [each.name for each in source.classes]
    if unknown := [name for name in names if name not in declared]:
        refuse(
            where.with_name(f"{where.name}.xml"), "VOC-OBJECT", f"objects called {some(unknown)}",
            f"one of {some(declared, 8)}", "declare the class in labelmap.txt or by --classes",
        )  # fmt: skip
    return tuple(name for name in declared if name in names)


def _images(home: Path, source: Source) -> dict[str, Path]:
    if (home / _IMAGES).is_dir():
        return _listed(home / _IMAGES, source)
    images: dict[str, Path] = {}
    for key, path in _listed(home, source).items():
        role, plain = role_in(key)
        if role == "images" and not key.startswith((f"{MASKS}/", f"{_OBJECTS}/")):
            images.setdefault(plain, path)
    return images


def _listed(folder: Path, source: Source) -> dict[str, Path]:
    listing = list_images(folder, source.root)
    source.problems += listing.problems
    return listing.files


def _parts(home: Path, images: dict[str, Path], source: Source) -> dict[str, Part]:
    """The part of each image that a list names; an image in two parts has none."""
    sets = home / "ImageSets"
    folder = sets / "Segmentation" if (sets / "Segmentation").is_dir() else sets / "Main"
    parts: dict[str, set[Part]] = defaultdict(set)
    for path in sorted(folder.glob("*.txt")):
        part = part_called(path.stem)
        if part is None:
            continue
        try:
            lines = small_text(path, source.root).splitlines()
        except DataError as error:
            source.problems += error.problems
            continue
        for line in lines:
            if name := composed(line.strip().strip('"')):
                parts[name].add(part)
    missing = sorted(parts.keys() - images.keys())
    torn = sorted(name for name, found in parts.items() if len(found) > 1)
    for names, what, fix in (
        (missing, "names without an image", "restore the images, or take the names out"),
        (torn, "names in several parts", "leave each name in one part"),
    ):
        if names:
            source.report("VOC-PARTS", folder, f"{len(names)} {what}: {some(names)}",
                          "names of images, each in one part", fix)  # fmt: skip
    return {name: next(iter(found)) for name, found in parts.items() if len(found) == 1}


def _read_boxes(home: Path, source: Source) -> dict[str, list[str]]:
    """Names of the objects in ``Annotations``, by the name of the file."""
    found: dict[str, list[str]] = {}
    problems: list[Problem] = []
    for path in sorted((home / _BOXES).rglob("*.xml")):
        key = composed(path.relative_to(home / _BOXES).with_suffix("").as_posix())
        try:
            found[key] = _objects(path, source.root)
        except DataError as error:
            problems += error.problems
    source.problems += summarised(problems, home / _BOXES)
    return found


def _objects(path: Path, root: Path) -> list[str]:
    text = small_text(path, root)
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        refuse(path, "VOC-XML", "a document type or entities", "plain XML", "take them out")
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        refuse(path, "VOC-XML", str(error), "valid XML", "export the annotations again", error)
    names = [(each.findtext("name") or "").strip() for each in tree.findall("object")]
    if not all(names):
        refuse(path, "VOC-XML", "an object without a name", "a name", "name or remove the object")
    return list(dict.fromkeys(names))
