"""Predicted masks in the form that labelling tools import, beside the PNG files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from fewmask.data.classes_csv import CLASSES_FILE, Class, classes_text
from fewmask.errors import Problem, UsageError
from fewmask.io.images import read_mask, write_mask
from fewmask.layouts.handed_pairs import require_classes
from fewmask.layouts.handing_over import write_coco, write_label_studio, write_voc
from fewmask.layouts.stacks import is_stack
from fewmask.report.figures import COLOURS, colours_like, drawn_ids

Format = Literal["coco", "cvat", "label-studio"]
FORMATS: tuple[Format, ...] = get_args(Format)


def require_formats(images: Path, formats: Sequence[Format], card: Mapping[str, Any]) -> None:
    """Refuse what cannot be handed over, before anything is predicted.

    Raises:
        UsageError: a single image, or volumes: tools import folders of pictures; or names of
            classes that they cannot hold.
    """
    if formats:
        require_classes(classes_of_card(card))
    if formats and (not images.is_dir() or is_stack(images)):
        raise UsageError.of(
            "FORMAT-FOLDER",
            where=f"--to {' '.join(formats)}",
            found=f"volumes, {images}" if images.is_dir() else f"a single file, {images}",
            expected="a folder of pictures, as these tools import them",
            fix="leave out --to" if images.is_dir() else "put the image into a folder, give that",
        )


def classes_of_card(card: Mapping[str, Any]) -> tuple[Class, ...]:
    """The classes of a run, each with a colour of its own: its data's, or one of the report."""
    given = card.get("class_colours") or [""] * len(card["class_names"])
    own = [tuple(map(int, colour)) for colour in colours_like(given)[1 : len(given) + 1]]
    kept = {colour for text, colour in zip(given, own, strict=True) if text}
    free = (c for c in map(tuple, COLOURS[1:].tolist()) if c not in kept)
    taken: set[tuple[int, ...]] = {(0, 0, 0)}
    classes = []
    for name, text, colour in zip(card["class_names"], given, own, strict=True):
        unique = colour if text and colour not in taken else next(c for c in free if c not in taken)
        taken.add(unique)
        classes.append(Class(name, (unique[0], unique[1], unique[2])))
    return tuple(classes)


def hand_over(
    images: Path, out: Path, card: Mapping[str, Any], formats: Sequence[Format]
) -> list[Problem]:
    """Write ``classes.csv``, and the masks in ``OUT/masks`` as other tools import them.

    ``coco``: ``OUT/coco.json``; ``cvat``: ``OUT/cvat/`` with ``annotations.zip``;
    ``label-studio``: ``OUT/label-studio.json``. Where a network knows no background, ids are one
    higher there, since these formats have one.

    Args:
        images: The folder that was predicted.
        out: The folder with the masks.
        card: Of the run.
        formats: Which to write.

    Returns:
        What is worth knowing about the files.

    Raises:
        UsageError: class names that a format cannot hold.
        ResourceError: the disk refuses, or a package is not installed.
    """
    classes = classes_of_card(card)
    if card.get("background", True):  # ids without one are not those of a plain folder
        (out / CLASSES_FILE).write_text(classes_text(classes), encoding="utf-8")
    if not formats:
        return []
    masks, shifted = out / "masks", out / ".tmp-masks"
    if not card.get("background", True):
        masks = shifted
        _shift(out / "masks", shifted)
    notes: list[Problem] = []
    try:
        if "coco" in formats:
            notes += write_coco(images, masks, classes, out / "coco.json")
        if "cvat" in formats:
            notes += write_voc(images, masks, classes, out / "cvat")
        if "label-studio" in formats:
            notes += write_label_studio(images, masks, classes, out / "label-studio.json")
    finally:
        shutil.rmtree(shifted, ignore_errors=True)
    return notes


def _shift(masks: Path, shifted: Path) -> None:
    for path in masks.rglob("*.png"):
        target = shifted / path.relative_to(masks)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mask(target, drawn_ids(read_mask(path), has_background=False))
