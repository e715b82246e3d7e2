"""Class ids from masks that store something else: one decision for all masks of a folder.

=====================================  =====================================================
stored                                 read as
=====================================  =====================================================
ids 0, 1, .. K                         themselves
ids with gaps (0, 3, 7)                0, 1, 2
0 and another value (255, 128)         background and the one class; on an image with one
                                       tag, that tag's class
near 0 and near 255 (JPEG, smoothed)   cut at 128, if 95 % of the pixels are within 32 of either
grey levels of the VOC palette         the ids that it had before it was converted to grey
colours, up to 64                      one class each, in the order of how often they occur;
                                       black, or else the most frequent, is the background
floats that are whole numbers          these numbers
=====================================  =====================================================

255 stays `ignore` wherever ids are stored. Everything else is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from PIL import ImageOps

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.mask_encoding import WORKERS, count_values, may_be_ids
from fewmask.errors import DataError
from fewmask.io.decoding import MAX_PIXELS, load, opened, refuse
from fewmask.io.images import read_mask
from fewmask.layouts.records import MOST_CLASSES, Class, Colour, Source

MOST_COLOURS = 64
_NEAR, _MOST_NEAR, _CUT = 32, 0.95, 128


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


@dataclass(frozen=True)
class Reading:
    """How all masks of a folder are read.

    Attributes:
        classes: By id, from 1.
        id_of: Stored value to id, the same for all masks but those of ``object_of``.
        cut: Grey levels above this are the object; None: values are looked up.
        object_of: Masks that show one object only: the id that their object has.
        refused: Masks that cannot be read so.
    """

    classes: tuple[Class, ...]
    id_of: Mapping[int, int]
    cut: int | None = None
    object_of: Mapping[Path, int] = field(default_factory=dict)
    refused: frozenset[Path] = frozenset()

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 ids of a mask that is not refused.

        Raises:
            DataError: the file is damaged, or has changed since it was looked at.
        """
        packed = packed_mask(path)[0]
        if self.cut is not None:
            shown = packed > self.cut
        elif path in self.object_of:
            shown = packed != 0
        else:
            return _looked_up(path, packed, self.id_of)
        return np.where(shown, self.object_of.get(path, 1), 0).astype(np.uint8)


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
        rgba = np.asarray(ImageOps.exif_transpose(image).convert("RGBA")).astype(np.int32)
    seen = rgba[..., 3] >= 128
    return ((rgba[..., 0] << 16) | (rgba[..., 1] << 8) | rgba[..., 2]) * seen, "colours"


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


def conclude(
    tallies: Mapping[Path, Tally],
    names: Sequence[str],
    tag_of: Mapping[Path, str],
    source: Source,
) -> Reading:
    """Decide how to read all masks; says what it has decided among the source's repairs.

    Args:
        tallies: Of every readable mask.
        names: Of the ids 1, 2, ... as far as anything names them; may be empty.
        tag_of: Masks of images with exactly one tag, and this tag.
        source: Receives repairs and problems.
    """
    coloured = {path for path, tally in tallies.items() if tally.kind == "colours"}
    if coloured:
        return _colours(tallies, coloured, names, source)
    total = _total(tallies.values())
    values = set(total) - {0}
    if len(values) == 1 and (values == {IGNORE_INDEX} or values != {1}) and not (
        len(names) > 1 and values != {IGNORE_INDEX}
    ):  # fmt: skip
        return _one_object(tallies, values.pop(), names, tag_of, source)
    if values - {1, IGNORE_INDEX} and _two_levels(total):
        source.repaired("MASK-VALUES", "masks", f"{len(values) + 1} grey levels, nearly all of "
                        "them close to 0 or 255", "class ids", f"cut at {_CUT}: above is the "
                        "object")  # fmt: skip
        return Reading(_named(names, [1]), {}, cut=_CUT - 1)
    ids = values - {IGNORE_INDEX}
    if ids and ids <= set(_VOC_GREY) and not may_be_ids(ids, max(max(ids), len(names))):
        listed = ", ".join(map(str, sorted(ids)))
        source.repaired("MASK-VALUES", "masks", f"the grey levels {listed}", "class ids",
                        "read as ids of the VOC palette that was converted to grey")  # fmt: skip
        before = sorted(_VOC_GREY[value] for value in ids)
        new = {old: number for number, old in enumerate(before, 1)}
        id_of = {value: new[_VOC_GREY[value]] for value in ids}
        return Reading(_named(names, before), {0: 0, IGNORE_INDEX: IGNORE_INDEX, **id_of})
    return _ids(tallies, ids, names, tag_of, source)


def _one_object(
    tallies: Mapping[Path, Tally], value: int, names: Sequence[str], tag_of: Mapping[Path, str],
    source: Source,
) -> Reading:  # fmt: skip
    number = {name: i for i, name in enumerate(names, 1)}
    object_of = {path: number.get(tag_of.get(path, ""), 1) for path in tallies}
    unclear = frozenset(
        path for path, tally in tallies.items()
        if len(names) > 1 and path not in tag_of and value in tally.counts
    )  # fmt: skip
    for path in sorted(unclear):
        source.report("MASK-AMBIGUOUS", path, f"only 0 and {value}", f"ids 0..{len(names)}",
                      "store the id of the class instead")  # fmt: skip
    source.repaired("MASK-BINARY255" if value == IGNORE_INDEX else "MASK-VALUES", "masks",
                    f"only the values 0 and {value}", "0 and the ids of classes",
                    f"{value} is read as the object" if len(names) < 2 else
                    f"{value} is read as the class that the image is tagged with")  # fmt: skip
    return Reading(_named(names, [1]), {}, object_of=object_of, refused=unclear)


def _ids(
    tallies: Mapping[Path, Tally], ids: set[int], names: Sequence[str], tag_of: Mapping[Path, str],
    source: Source,
) -> Reading:  # fmt: skip
    fixed = {0: 0, IGNORE_INDEX: IGNORE_INDEX}
    highest = max(ids, default=0)
    if (
        not ids
        or (min(ids) > 0 and highest <= max(len(names), 1))
        or ids == {*range(1, highest + 1)}
    ):
        known = range(1, max(highest, len(names), 1) + 1)
        objects = _stored_otherwise(tallies, tag_of, source) if len(known) == 1 else {}
        id_of = {**fixed, **{i: i for i in known}}
        return Reading(_named(names, list(known)), id_of, object_of=objects)
    strange = min(ids) < 0 or len(ids) > MOST_COLOURS or len(ids) > MOST_CLASSES
    if strange or (names and len(ids) > len(names) and highest > len(names)):
        allowed = set(range(len(names) + 1)) | {IGNORE_INDEX}
        refused = [path for path, tally in tallies.items() if set(tally.counts) - allowed]
        for path in sorted(refused):
            listed = ", ".join(map(str, sorted(tallies[path].counts)[:12]))
            source.report("MASK-VALUES", path, f"values {listed}", f"ids of {len(names)} classes"
                          if names else "class ids", "say with --class-names what the ids are, or "
                          "export the mask again as PNG without smoothing")  # fmt: skip
        kept = {i: i for i in range(1, len(names) + 1)}
        return Reading(_named(names, list(kept)), {**fixed, **kept}, refused=frozenset(refused))
    ordered = sorted(ids)
    classes = _named(names, ordered)
    id_of = {old: number for number, old in enumerate(ordered, 1)}
    listed = ", ".join(f"{old} is {new} {classes[new - 1].name}" for old, new in id_of.items())
    source.repaired("MASK-VALUES", "masks", f"ids with gaps: {', '.join(map(str, ordered))}",
                    "1, 2, 3, ...", f"numbered anew: {listed}")  # fmt: skip
    return Reading(classes, {**fixed, **id_of})


def _stored_otherwise(
    tallies: Mapping[Path, Tally], tag_of: Mapping[Path, str], source: Source
) -> dict[Path, int]:
    """Masks of tagged images with 0 and 255 alone, where others store 1 for the object."""
    lost = [path for path, tally in tallies.items()
            if path in tag_of and set(tally.counts) == {0, IGNORE_INDEX}]  # fmt: skip
    if lost and len(lost) < len(tallies):
        source.repaired("MASK-MIXED", sorted(lost)[0], f"{len(lost)} masks of tagged images with "
                        "0 and 255 only, among others that use 1", "one encoding",
                        "255 is read as the object there")  # fmt: skip
    return dict.fromkeys(lost, 1)


def _colours(
    tallies: Mapping[Path, Tally], coloured: set[Path], names: Sequence[str], source: Source
) -> Reading:
    total = _total(tallies[path] for path in coloured)
    plain = {path for path in tallies if path not in coloured
             and set(tallies[path].counts) - {0, 255}}  # fmt: skip
    for path in sorted(plain):
        source.report("MASK-MIXED", path, f"grey values among {len(coloured)} coloured masks",
                      "all masks in colours, or none", "export all masks alike")  # fmt: skip
    if len(total) > MOST_COLOURS:
        for path in sorted(coloured):
            source.report("MASK-RGB", path, f"{len(tallies[path].counts)} colours",
                          f"at most {MOST_COLOURS} in all masks, one for each class",
                          "export the masks as PNG of class ids, no overlays")  # fmt: skip
        return Reading(_named(names, [1]), {}, refused=frozenset(coloured | plain))
    background = 0 if 0 in total else max(total, key=lambda colour: (total[colour], -colour))
    shown = [colour for colour, _ in total.most_common() if colour != background]
    shown.sort(key=lambda colour: (-total[colour], colour))
    classes = tuple(
        Class(name, _unpacked(colour))
        for name, colour in zip(_names(names, list(range(1, len(shown) + 1))), shown, strict=True)
    )
    listed = ", ".join("#{:06x}".format(colour) for colour in [background, *shown][:12])  # noqa: UP032
    source.repaired("MASK-RGB", "masks", f"colours: {listed}", "class ids",
                    "the first is the background, then the classes by how often they occur; "
                    "classes.csv has the names to change")  # fmt: skip
    id_of = {colour: number for number, colour in enumerate(shown, 1)}
    white = id_of.get(0xFFFFFF)  # a mask of black and white alone has one channel
    id_of |= {} if white is None else {255: white}
    return Reading(classes, {background: 0, 0: 0, **id_of}, refused=frozenset(plain))


def _two_levels(total: Counter[int]) -> bool:
    """Whether nearly all pixels are close to black or white, and some are white."""
    if min(total) < 0 or max(total) > 255 or len(total) <= 2:
        return False
    white = sum(n for value, n in total.items() if value >= 255 - _NEAR)
    black = sum(n for value, n in total.items() if value <= _NEAR)
    between = any(_NEAR < value < 255 - _NEAR for value in total) or len(total) > 16
    return bool(white) and between and white + black >= _MOST_NEAR * sum(total.values())


def _named(names: Sequence[str], ids: Sequence[int]) -> tuple[Class, ...]:
    return tuple(Class(name) for name in _names(names, ids))


def _names(names: Sequence[str], ids: Sequence[int]) -> list[str]:
    """Names of stored ids: given for all, or in their order, or ``class_<id>``."""
    if ids and len(names) >= max(ids):
        chosen = [names[number - 1] for number in ids]
        return chosen if len(names) > len(ids) else list(names)
    if names and len(names) >= len(ids):
        return list(names)
    return ["foreground"] if list(ids) == [1] else [f"class_{number}" for number in ids]


def _total(tallies: Iterable[Tally]) -> Counter[int]:
    total: Counter[int] = Counter()
    for tally in tallies:
        total.update(tally.counts)
    return total


def _unpacked(colour: int) -> Colour:
    return colour >> 16, colour >> 8 & 255, colour & 255


def _looked_up(path: Path, packed: np.ndarray, id_of: Mapping[int, int]) -> np.ndarray:
    values, where = np.unique(packed, return_inverse=True)
    strange = [int(value) for value in values if int(value) not in id_of]
    if strange:
        refuse(path, "MASK-VALUES", f"values {strange[:8]}", "the values it had a moment ago",
               "let no other program write while the folder is read")  # fmt: skip
    table = np.array([id_of[int(value)] for value in values], np.uint8)
    return table[where].reshape(packed.shape)


def _whole(path: Path, values: np.ndarray) -> np.ndarray:
    values = np.squeeze(values)
    if values.ndim != 2 or not np.isfinite(values).all() or (values != np.rint(values)).any():
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


def _voc_grey() -> dict[int, int]:
    """Grey levels that converters give to the colours of the VOC palette, to the ids.

    Some round and some cut off; of colours that become the same grey, the lower id is meant.
    """
    greys: dict[int, int] = {}
    for number in range(1, 22):
        red = green = blue = 0
        rest = number
        for shift in range(7, 4, -1):
            red |= (rest & 1) << shift
            green |= (rest >> 1 & 1) << shift
            blue |= (rest >> 2 & 1) << shift
            rest >>= 3
        luma = red * 299 + green * 587 + blue * 114
        greys.setdefault(luma // 1000, number)
        greys.setdefault((luma + 500) // 1000, number)
    return greys


_VOC_GREY = _voc_grey()
