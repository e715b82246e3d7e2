"""Images and masks of ids, handed to the tools that people correct and train with.

======================  ====================================================================
function                what it writes
======================  ====================================================================
``write_coco``          one JSON file: run lengths, one annotation for each connected part
                        (of 8 neighbours) of a class
``write_voc``           a folder as CVAT exports "Segmentation mask 1.1", with the images, and
                        ``annotations.zip`` in it, which CVAT imports
``write_label_studio``  one JSON file of tasks with predictions: a brush region for each class
======================  ====================================================================

All take a folder of images, a folder of masks with the same names (8-bit, 0 the background, 255
ignored; sub-folders allowed), and the classes 1..K. Ignored pixels become a class called
``ignored``, which :mod:`fewmask.layouts` reads as 255 again; in COCO it is also ``iscrowd``.
Everything is checked before it is written, and it appears whole or not at all.

==================  ==========================================================================
code                meaning
==================  ==========================================================================
OUT-EXISTS          the file or folder is there already
OUT-INSIDE          it would lie among the images or masks
CLASSES             no class, too many, or a name that the format cannot hold
CLASS-COLOUR        two classes of one colour, or a black one, where colours tell them apart
MASK-UNPAIRED       a mask without an image
MASK-SIZE           a mask of another size than its image
MASK-VALUES         an id that no class has
NAME-LINES          the name of an image that no list of lines can hold
MASK-NONE           images without a mask (a note)
IGNORED             what became of ignored pixels (a note)
LABEL-CONFIG        the labelling configuration that Label Studio needs (a note)
==================  ==========================================================================
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import Problem, UsageError
from fewmask.io.images import write_image
from fewmask.io.rle import encode_brush, encode_coco_crop
from fewmask.io.whole_files import as_disk_error, whole_folder, write_whole
from fewmask.layouts.handed_pairs import (
    note_ignored,
    open_pairs,
    require_names_in_lines,
)
from fewmask.layouts.records import Class, Colour
from fewmask.layouts.voc_palette import BORDER, voc_colours

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files of its own machine."""
IGNORED = "ignored"

_ARCHIVED = ("labelmap.txt", "ImageSets", "SegmentationClass")


def write_coco(
    images: Path, masks: Path, classes: Sequence[Class], out_json: Path
) -> list[Problem]:
    """Write a COCO file of instances; ``file_name`` is the path below ``images``.

    Args:
        images: Folder.
        masks: Folder.
        classes: Of the ids 1..K; a colour becomes ``color`` of its category.
        out_json: New file.

    Returns:
        Notes.

    Raises:
        UsageError: ``OUT-EXISTS``, ``OUT-INSIDE`` or ``CLASSES``.
        DataError: masks that do not fit.
        ResourceError: pycocotools is not installed, or the disk refuses.
    """
    pairs = open_pairs(images, masks, classes, out_json)
    records, annotations = [], list[dict[str, Any]]()
    for number, (name, ids) in enumerate(pairs.read(), 1):
        height, width = ids.shape
        records.append(
            {"id": number, "file_name": pairs.below(name), "height": height, "width": width}
        )
        for class_id in np.unique(ids[ids > 0]).tolist():
            crowd = int(class_id == IGNORE_INDEX)
            for crop, top, left in _connected(ids == class_id, apart=not crowd):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": len(classes) + 1 if crowd else class_id,
                        "segmentation": encode_coco_crop(crop, top, left, height, width),
                        "area": int(crop.sum()),
                        "bbox": [left, top, *crop.shape[::-1]],
                        "iscrowd": crowd,
                    }
                )
    categories: list[dict[str, Any]] = [
        {"id": i, "name": each.name, "supercategory": ""}
        | ({"color": list(each.colour)} if each.colour else {})
        for i, each in enumerate(classes, 1)
    ]
    if pairs.ignored:
        categories.append({"id": len(classes) + 1, "name": IGNORED, "supercategory": ""})
        note_ignored(pairs, out_json, f"one `iscrowd` annotation each, of the category {IGNORED}")
    content = {
        "info": {"description": "written by fewmask"},
        "licenses": [],
        "images": records,
        "categories": categories,
        "annotations": annotations,
    }
    _write_json(out_json, content)
    return pairs.notes


def write_voc(
    images: Path, masks: Path, classes: Sequence[Class], out_folder: Path
) -> list[Problem]:
    """Write a folder as CVAT's "Segmentation mask 1.1", with copies of the images.

    ``annotations.zip`` in it holds all but the images: CVAT's "Upload annotations" takes it for a
    task with images of these names. Every image is in the subset ``default``.

    Args:
        images: Folder.
        masks: Folder.
        classes: Of the ids 1..K; those without a colour take VOC's next free one.
        out_folder: New folder.

    Returns:
        Notes.

    Raises:
        UsageError: ``OUT-EXISTS``, ``OUT-INSIDE``, ``CLASSES`` or ``CLASS-COLOUR``.
        DataError: masks or names that do not fit.
        ResourceError: the disk refuses.
    """
    pairs = open_pairs(images, masks, classes, out_folder)
    require_names_in_lines(pairs, classes)
    colours = _colours(classes)
    free = (colour for colour in (BORDER, *voc_colours(256)[::-1]) if colour not in colours)
    table = np.zeros((256, 3), np.uint8)
    table[1 : len(colours) + 1] = colours
    table[IGNORE_INDEX] = border = next(free)
    with whole_folder(out_folder) as folder:
        lists = folder / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        names = []
        for name, ids in pairs.read():
            mask = folder / "SegmentationClass" / f"{name}.png"
            copy = folder / "JPEGImages" / pairs.below(name)
            for path in (mask, copy):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_image(mask, table[ids])
            shutil.copyfile(pairs.images[name], copy)
            names.append(f'"{name}"\n' if " " in name else f"{name}\n")
        (lists / "default.txt").write_text("".join(names), encoding="utf-8")
        lines = ["# label:color_rgb:parts:actions\n", "background:0,0,0::\n"]
        named = [*zip([each.name for each in classes], colours, strict=True)]
        if pairs.ignored:
            named.append((IGNORED, border))
            note_ignored(pairs, out_folder, f"the class {IGNORED}, colour {_comma(border)}")
        lines += [f"{name}:{_comma(colour)}::\n" for name, colour in named]
        (folder / "labelmap.txt").write_text("".join(lines), encoding="utf-8")
        _archive(folder)
    return pairs.notes


def write_label_studio(
    images: Path,
    masks: Path,
    classes: Sequence[Class],
    out_json: Path,
    *,
    url_prefix: str = LOCAL_FILES,
) -> list[Problem]:
    """Write tasks with predictions for Label Studio's "Import"; a person confirms or corrects them.

    The project needs a labelling configuration with the same names: it stands in the note
    ``LABEL-CONFIG``. The order and colours of the classes stand in each task's ``meta``.

    Args:
        images: Folder.
        masks: Folder.
        classes: Of the ids 1..K.
        out_json: New file.
        url_prefix: Stands before the path of each image below ``images``, for example
            ``/data/local-files/?d=my-photos/`` or ``https://example.org/photos/``.

    Returns:
        Notes.

    Raises:
        UsageError: ``OUT-EXISTS``, ``OUT-INSIDE`` or ``CLASSES``.
        DataError: masks that do not fit.
        ResourceError: the disk refuses.
    """
    pairs = open_pairs(images, masks, classes, out_json)
    names = {i: each.name for i, each in enumerate(classes, 1)} | {IGNORE_INDEX: IGNORED}
    listed = [{"name": c.name, "colour": list(c.colour) if c.colour else None} for c in classes]
    tasks = []
    for name, ids in pairs.read():
        regions = [
            _brush_region(f"r{number}", ids == number, names[number])
            for number in np.unique(ids[ids > 0]).tolist()
        ]
        tasks.append(
            {
                "data": {"image": url_prefix + quote(pairs.below(name))},
                "meta": {"classes": listed},
                "predictions": [{"model_version": "fewmask", "result": regions}],
            }
        )
    if pairs.ignored:
        note_ignored(pairs, out_json, f"regions called {IGNORED}")
    pairs.notes.append(
        Problem("LABEL-CONFIG", str(out_json), "tasks with brush regions",
                "a project with the same labels", "paste this under Settings > Labeling "
                f"Interface > Code: {_label_config(classes, bool(pairs.ignored))}")
    )  # fmt: skip
    _write_json(out_json, tasks)
    return pairs.notes


def _connected(region: np.ndarray, *, apart: bool) -> Iterator[tuple[np.ndarray, int, int]]:
    """Parts of a region whose pixels touch by side or corner, or all of it as one part.

    Yields:
        The part within its bounding box, (h, w) bool, and the box's first row and column.
    """
    from scipy import ndimage

    numbered = region.astype(np.int32)
    if apart:
        numbered, _ = ndimage.label(region, structure=np.ones((3, 3)))
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
        yield numbered[rows, columns] == number, rows.start, columns.start


def _brush_region(number: str, region: np.ndarray, name: str) -> dict[str, Any]:
    height, width = region.shape
    return {
        "id": number,
        "from_name": "label",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(region), "brushlabels": [name]},
    }


def _label_config(classes: Sequence[Class], with_ignored: bool) -> str:
    coloured = [(each.name, each.colour) for each in classes]
    coloured += [(IGNORED, None)] if with_ignored else []
    labels = "".join(
        f"<Label value={quoteattr(name)}"
        + (' background="#{:02x}{:02x}{:02x}"'.format(*colour) if colour else "")
        + "/>"
        for name, colour in coloured
    )
    return (
        '<View><Image name="image" value="$image" zoom="true"/>'
        f'<BrushLabels name="label" toName="image">{labels}</BrushLabels></View>'
    )


def _colours(classes: Sequence[Class]) -> list[Colour]:
    """A colour for each class, all different and none black."""
    given = [each.colour for each in classes if each.colour]
    if len(set(given)) < len(given) or (0, 0, 0) in given:
        raise UsageError.of(
            "CLASS-COLOUR",
            where="classes",
            found="black, or one colour for two classes",
            expected="colours that tell the classes from each other and from the background",
            fix="choose other colours",
        )
    free = (each for each in voc_colours(256)[1:] if each not in given and each != BORDER)
    return [each.colour or next(free) for each in classes]


def _comma(colour: Colour) -> str:
    return ",".join(map(str, colour))


def _archive(folder: Path) -> None:
    """``annotations.zip`` in the folder, of all but the images."""
    with zipfile.ZipFile(folder / "annotations.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _ARCHIVED:
            path = folder / name
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder).as_posix())


def _write_json(path: Path, content: Any) -> None:
    with as_disk_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, ensure_ascii=False).encode())
