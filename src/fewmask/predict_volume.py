"""``fewmask predict`` on volumes: NIfTI files and DICOM series, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.classes_csv import Class
from fewmask.errors import DataError, Problem
from fewmask.io.images import write_image
from fewmask.layouts.stacks import Stack, Window, as_rgb, stacks_of
from fewmask.predict_formats import classes_of_card
from fewmask.report.figures import colours_like, drawn_ids, overlay
from fewmask.training.progress import watched

SHEET_SLICES, SHEET_COLUMNS, SHEET_SIDE_PX = 12, 4, 256
"""How many slices a sheet shows, how many side by side, and the least side of a slice on it."""


def predict_volumes(
    predictor: Any, card: Mapping[str, Any], path: Path, out: Path, window: Window = None
) -> list[Path]:
    """Write a mask for each volume, and a sheet of slices with the mask laid over them.

    ``OUT/masks/NAME.nii.gz`` has the volume's grid and affine, and ``NAME.labels.txt`` beside it
    the classes' names; of a DICOM series ``OUT/masks/patient-001/series-01.dcm`` is a DICOM-SEG.
    ``OUT/overlays/NAME.png`` shows up to twelve slices, the ones with most of the mask.

    Args:
        predictor: Of the run.
        card: Of the run.
        path: A NIfTI or DICOM file, or a folder of such.
        out: A new or empty folder.
        window: Values that become black and white; None: as ``fewmask check --fix`` has it.

    Returns:
        The masks.

    Raises:
        DataError: volumes that cannot be read, all of them at once, after the others are done.
        ResourceError: the disk refuses, or the extra ``medical`` is not installed.
    """
    stacks, problems = stacks_of(path, window)
    colours = colours_like(card.get("class_colours", ()))
    classes = classes_of_card(card)
    written, background = [], card.get("background", True)
    for stack in stacks:
        try:
            written.append(_predict(predictor, bool(background), stack, out, classes, colours))
        except DataError as error:
            problems += error.problems
    if problems:
        done = f"{len(written)} volumes are done, in {out}"
        raise DataError(*problems, Problem(
            "PREDICT-PARTIAL", str(path),
            f"{len(problems)} problems; {done if written else 'nothing was written'}",
            "volumes that can be read", "mend or remove them, then predict into another -o",
        ))  # fmt: skip
    return written


def _predict(
    predictor: Any, background: bool, stack: Stack, out: Path, classes: Sequence[Class],
    colours: np.ndarray,
) -> Path:  # fmt: skip
    """The mask of one volume; in it 0 is no class, also where the network has no background."""
    masks, areas = [], []
    for pixels in watched(stack.slices, len(stack.slices), f"predict {stack.name}", "slice"):
        image = as_rgb(pixels())
        mask = predictor.mask_of_probs(image, predictor.probs(image))
        masks.append(drawn_ids(mask, background))
        areas.append(int((masks[-1] > 0).sum()))
    if len({mask.shape for mask in masks}) > 1:
        raise DataError.of(
            "DICOM-SIZES", where=stack.name, found="slices of several sizes",
            expected="one size in a series", fix="give the series of one size by itself",
        )  # fmt: skip
    target = stack.write(np.stack(masks), out / "masks", classes)
    shown = sorted(np.argsort(areas, kind="stable")[::-1][:SHEET_SLICES].tolist())
    drawn = [_drawn(as_rgb(stack.slices[i]()), masks[i], colours) for i in shown]
    sheet = out / "overlays" / f"{stack.name}.png"
    sheet.parent.mkdir(parents=True, exist_ok=True)
    write_image(sheet, _sheet(drawn))
    return target


def _drawn(image: np.ndarray, mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A slice with its mask laid over it, each pixel enlarged where there are few."""
    factor = max(1, -(-SHEET_SIDE_PX // max(image.shape[:2])))
    large, ids = (array.repeat(factor, 0).repeat(factor, 1) for array in (image, mask))
    return overlay(large, ids, colours=colours)


def _sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size, side by side in rows."""
    height, width = pictures[0].shape[:2]
    columns = min(SHEET_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height, left : left + width] = picture
    return sheet
