"""What mask files store, whatever their format: ids, colours, whole numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from PIL import Image, ImageOps

from fewmask.data.mask_encoding import WORKERS, count_values
from fewmask.errors import DataError
from fewmask.io.decoding import MAX_PIXELS, load, opened, refuse
from fewmask.io.images import read_mask
from fewmask.layouts.odd_images import ODD_SUFFIXES, read_foreign
from fewmask.layouts.records import Source


@dataclass(frozen=True)
class Tally:
    """What one mask stores.

    Attributes:
        counts: Pixels per stored value; colours are packed, ``red << 16 | green << 8 | blue``.
        kind: What kind of values these are.
        size: Height and width.
    """

    counts: Mapping[int, int]
    kind: Kind
    size: tuple[int, int]


Kind = Literal["ids", "colours", "floats", "array"]


def packed_mask(path: Path) -> tuple[np.ndarray, Kind]:
    """What a mask file stores, upright, and what kind of values these are.

    Returns:
        (H, W) integers; colours as ``red << 16 | green << 8 | blue``, transparent pixels black.

    Raises:
        DataError: a damaged file, or numbers that are no whole ones.
    """
    if path.suffix.lower() == ".npy":
        return _array_file(path), "array"
    if path.suffix.lower() in ODD_SUFFIXES:
        return _of_picture(read_foreign(path))
    try:
        return read_mask(path), "ids"
    except DataError as error:
        codes = {problem.code for problem in error.problems}
        if codes == {"MASK-DTYPE"} and path.suffix.lower() in {".tif", ".tiff"}:
            return _whole(path, tifffile.imread(path)), "floats"
        if codes != {"MASK-RGB"}:
            raise
    with opened(path) as image:
        load(image)
        return _of_picture(ImageOps.exif_transpose(image))


def tally_masks(paths: Collection[Path], source: Source) -> dict[Path, Tally]:
    """Count the values of masks, a few files at a time; damaged ones become problems."""

    def tally(path: Path) -> Tally | DataError:
        try:
            values, kind = packed_mask(path)
            height, width = values.shape
            return Tally(count_values(values), kind, (height, width))
        except DataError as error:
            return error

    found = {}
    ordered = sorted(paths)
    with ThreadPoolExecutor(WORKERS) as pool:
        for path, result in zip(ordered, pool.map(tally, ordered), strict=True):
            if isinstance(result, DataError):
                source.problems += result.problems
            else:
                found[path] = result
    for kind, code, what in (("floats", "MASK-DTYPE", "floats that are whole numbers"),
                             ("array", "FILE-SKIPPED", "NumPy files")):  # fmt: skip
        if several := [path for path, tally in found.items() if tally.kind == kind]:
            source.repaired(code, several[0], f"{len(several)} masks as {what}", "8-bit PNG",
                            "saved as PNG")  # fmt: skip
    return found


def _of_picture(image: Image.Image) -> tuple[np.ndarray, Kind]:
    """A palette's indices, grey levels, or packed colours, black where transparent."""
    if image.mode in {"P", "L", "1"} and "transparency" not in image.info:
        return np.asarray(image).astype(np.uint8), "ids"
    rgba = np.asarray(image.convert("RGBA")).astype(np.int32)
    seen = rgba[..., 3] >= 128
    packed = ((rgba[..., 0] << 16) | (rgba[..., 1] << 8) | rgba[..., 2]) * seen
    grey = (rgba[..., 0] == rgba[..., 1]) & (rgba[..., 1] == rgba[..., 2])
    if grey.all():
        return (rgba[..., 0] * seen).astype(np.uint8), "ids"
    return packed, "colours"


def _whole(path: Path, values: np.ndarray) -> np.ndarray:
    values = np.squeeze(values)
    numbers = values.dtype.kind in "biuf" and values.ndim == 2 and values.size > 0
    if not numbers or not np.isfinite(values).all() or (values != np.rint(values)).any():
        refuse(path, "MASK-DTYPE", f"{values.dtype} of shape {values.shape} that are no whole "
               "numbers", "whole class ids", "save the mask as 8-bit PNG")  # fmt: skip
    return values.astype(np.int64)


def _array_file(path: Path) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.size > MAX_PIXELS:
            refuse(path, "IMAGE-TOO-LARGE", f"{values.size:,} numbers", f"at most {MAX_PIXELS:,}",
                   "cut it into tiles")  # fmt: skip
        return _whole(path, np.array(values))
    except (OSError, ValueError, EOFError) as error:
        refuse(path, "IMAGE-TRUNCATED", f"no NumPy array ({error})", "an array of numbers",
               "save it again with numpy.save", error)  # fmt: skip
