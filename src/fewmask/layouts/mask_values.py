"""Class ids from masks that store something else: one decision for all masks of a folder.

=====================================  =====================================================
stored                                 read as
=====================================  =====================================================
ids 0, 1, .. K                         themselves
ids with gaps (0, 3, 7), no names      0, 1, 2
0 and another value (255, 128)         background and the one class; on an image with one
                                       tag, that tag's class
a smoothed or JPEG mask: nearly all    cut at 128; the class as above
pixels near 0 or 255, some between
grey levels of the VOC palette         the ids that it had before it was converted to grey
colours, up to 64                      the class of that colour, or of the tag that it always
                                       comes with; else classes in the order of how often they
                                       occur. Black, or else the most frequent, is background
floats that are whole numbers          these numbers
=====================================  =====================================================

255 stays `ignore` wherever ids are stored. Where names of the classes are given, ids are not
numbered anew. Everything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.mask_encoding import MaskEncoding, may_be_ids
from fewmask.layouts.mask_colours import conclude_colours
from fewmask.layouts.mask_reading import (
    CUT,
    MOST_COLOURS,
    Reading,
    named_classes,
    total_of,
)
from fewmask.layouts.records import Class, Source
from fewmask.layouts.stored_masks import (
    Tally,
)

_NEAR, _MOST_NEAR = 32, 0.95
_LEAST_BETWEEN, _LEAST_WHITE, _MOST_NEARLY_BLACK = 3, 0.002, 0.5
_FIXED = {0: 0, IGNORE_INDEX: IGNORE_INDEX}


def as_understood(encoding: MaskEncoding, classes: tuple[Class, ...]) -> Reading:
    """Masks whose values are understood as they are."""
    if encoding == "binary255":
        return Reading(classes, {0: 0, IGNORE_INDEX: 1})
    return Reading(classes, {i: i for i in (*range(len(classes) + 1), IGNORE_INDEX)})


def conclude(
    tallies: Mapping[Path, Tally],
    classes: tuple[Class, ...],
    tag_of: Mapping[Path, str],
    source: Source,
) -> Reading:
    """Decide how to read all masks; says what it has decided among the source's repairs.

    Args:
        tallies: Of every readable mask.
        classes: Of the ids 1, 2, ... as far as anything names them; may be empty.
        tag_of: Masks of images with exactly one tag, and this tag.
        source: Receives repairs and problems.
    """
    coloured = {path for path, tally in tallies.items() if tally.kind == "colours"}
    if coloured:
        return conclude_colours(tallies, coloured, classes, tag_of, source)
    names = [each.name for each in classes]
    smoothed = {path for path, tally in tallies.items() if _is_smoothed(tally, len(names))}
    rest = {path: tally for path, tally in tallies.items() if path not in smoothed}
    values = set(total_of(rest.values())) - {0}
    one = next(iter(values)) if len(values) == 1 else None
    single = one is not None and (one == IGNORE_INDEX or (one != 1 and len(names) <= 1))
    if smoothed and (single or not values):
        return _objects(rest, smoothed, one, classes, tag_of, source)
    if smoothed:
        return _smoothed_among_ids(rest, smoothed, values, classes, tag_of, source)
    if single:
        return _objects(rest, set(), one, classes, tag_of, source)
    ids = values - {IGNORE_INDEX}
    if ids and ids <= set(_VOC_GREY) and not may_be_ids(ids, max(max(ids), len(names))):
        listed = ", ".join(map(str, sorted(ids)))
        source.repaired("MASK-VALUES", "masks", f"the grey levels {listed}", "class ids",
                        "read as ids of the VOC palette that was converted to grey")  # fmt: skip
        before = sorted(_VOC_GREY[value] for value in ids)
        new = {old: number for number, old in enumerate(before, 1)}
        id_of = {value: new[_VOC_GREY[value]] for value in ids}
        return Reading(named_classes(classes, before), {**_FIXED, **id_of})
    return _ids(rest, ids, classes, tag_of, source)


def _objects(
    rest: Mapping[Path, Tally], smoothed: set[Path], value: int | None,
    classes: tuple[Class, ...], tag_of: Mapping[Path, str], source: Source,
) -> Reading:  # fmt: skip
    """Masks that tell an object from the background, and no more."""
    number = {each.name: i for i, each in enumerate(classes, 1)}
    unclear = set() if len(classes) < 2 else {
        path for path in (*rest, *smoothed)
        if path not in tag_of and (path in smoothed or set(rest[path].counts) - {0})
    }  # fmt: skip
    for path in sorted(unclear):
        source.report("MASK-AMBIGUOUS", path, "an object of which nobody says the class",
                      f"ids 0..{len(classes)}", "store the id of the class instead")  # fmt: skip
    done = "the object" if len(classes) < 2 else "the class that the image is tagged with"
    if value is not None:
        code = "MASK-BINARY255" if value == IGNORE_INDEX else "MASK-VALUES"
        source.repaired(code, "masks", f"only the values 0 and {value}",
                        "0 and the ids of classes", f"{value} is read as {done}")  # fmt: skip
    if smoothed:
        source.repaired("MASK-VALUES", min(smoothed), f"{len(smoothed)} masks with grey levels "
                        "between black and white", "class ids",
                        f"cut at {CUT}: above is {done}")  # fmt: skip

    def id_of(path: Path) -> int:
        return number.get(tag_of.get(path, ""), 1)

    return Reading(
        named_classes(classes, [1]), {},
        object_of={path: id_of(path) for path in rest},
        cut_of={path: id_of(path) for path in smoothed}, refused=frozenset(unclear),
    )  # fmt: skip


def _smoothed_among_ids(
    rest: Mapping[Path, Tally], smoothed: set[Path], values: set[int],
    classes: tuple[Class, ...], tag_of: Mapping[Path, str], source: Source,
) -> Reading:  # fmt: skip
    """Some masks are smoothed, others store ids: these decide, those are cut if they can be."""
    reading = _ids(rest, values - {IGNORE_INDEX}, classes, tag_of, source)
    if len(reading.classes) > 1:
        for path in sorted(smoothed):
            source.report("MASK-VALUES", path, "grey levels between black and white",
                          f"ids 0..{len(reading.classes)}, as in other masks",
                          "export the mask again as PNG without smoothing")  # fmt: skip
        return replace(reading, refused=reading.refused | smoothed)
    source.repaired("MASK-VALUES", min(smoothed), f"{len(smoothed)} masks with grey levels "
                    "between black and white", "0 and 1, as in other masks",
                    f"cut at {CUT}: above is the object")  # fmt: skip
    return replace(reading, cut_of=dict.fromkeys(smoothed, 1))


def _is_smoothed(tally: Tally, named: int) -> bool:
    """Whether a mask is black and white with soft edges: most near either, some not quite.

    Ids are not mistaken for it: they leave no levels up to white, or much that is nearly black.
    """
    values = tally.counts
    ids = set(values) - {IGNORE_INDEX}
    if tally.kind != "ids" or min(values) < 0 or max(values) > 255 or max(ids, default=0) <= named:
        return False
    pixels = sum(values.values())
    white = sum(n for value, n in values.items() if value >= 255 - _NEAR)
    nearly_black = sum(n for value, n in values.items() if 0 < value <= _NEAR)
    black = values.get(0, 0) + nearly_black
    between = [value for value in values if _NEAR < value < 255]
    return (
        len(between) >= _LEAST_BETWEEN
        and white >= _LEAST_WHITE * pixels
        and nearly_black <= _MOST_NEARLY_BLACK * pixels
        and white + black >= _MOST_NEAR * pixels
    )


def _ids(
    tallies: Mapping[Path, Tally], ids: set[int], classes: tuple[Class, ...],
    tag_of: Mapping[Path, str], source: Source,
) -> Reading:  # fmt: skip
    named, highest = len(classes), max(ids, default=0)
    fits = not ids or (min(ids) > 0 and highest <= max(named, 1))
    if fits or (not named and ids == {*range(1, highest + 1)}):
        known = range(1, max(highest, named, 1) + 1)
        objects = _stored_otherwise(tallies, tag_of, source) if len(known) == 1 else {}
        id_of = {**_FIXED, **{i: i for i in known}}
        return Reading(named_classes(classes, list(known)), id_of, object_of=objects)
    in_order = len(ids) == named and not ids & {*range(1, named + 1)}
    if min(ids) < 0 or len(ids) > MOST_COLOURS or _is_soft(ids) or (named and not in_order):
        allowed = set(range(named + 1)) | {IGNORE_INDEX}
        refused = [path for path, tally in tallies.items() if set(tally.counts) - allowed]
        for path in sorted(refused):
            listed = ", ".join(map(str, sorted(tallies[path].counts)[:12]))
            source.report("MASK-VALUES", path, f"values {listed}", f"ids of {named} classes"
                          if named else "class ids", "name all classes in the order of their ids, "
                          "or export the mask again as PNG without smoothing")  # fmt: skip
        kept = {i: i for i in range(1, named + 1)}
        return Reading(classes, {**_FIXED, **kept}, refused=frozenset(refused))
    ordered = sorted(ids)
    new = classes if named else named_classes((), ordered)
    id_of = {old: number for number, old in enumerate(ordered, 1)}
    listed = ", ".join(f"{old} is {number} {new[number - 1].name}" for old, number in id_of.items())
    source.repaired("MASK-VALUES", "masks", f"ids with gaps: {', '.join(map(str, ordered))}",
                    "1, 2, 3, ...", f"numbered anew: {listed}")  # fmt: skip
    return Reading(new, {**_FIXED, **id_of})


def _is_soft(ids: set[int]) -> bool:
    """Whether values go in several steps from dark to white, as soft edges do and ids do not."""
    return max(ids) > 200 and sum(value > _NEAR for value in ids) >= _LEAST_BETWEEN + 1


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
