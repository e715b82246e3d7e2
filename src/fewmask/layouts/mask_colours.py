"""Classes of masks whose colours are classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewmask.layouts.mask_reading import GREY, MOST_COLOURS, Reading, named_classes, total_of
from fewmask.layouts.records import Class, Colour, Source
from fewmask.layouts.stored_masks import (
    Tally,
)


def conclude_colours(
    tallies: Mapping[Path, Tally], coloured: set[Path], classes: tuple[Class, ...],
    tag_of: Mapping[Path, str], source: Source,
) -> Reading:  # fmt: skip
    """Decide which colour is which class; arguments as for ``conclude``.

    Args:
        tallies: Of every readable mask.
        coloured: Those that have colours.
        classes: Of the ids 1, 2, ... as far as anything names them.
        tag_of: Masks of images with exactly one tag, and this tag.
        source: Receives repairs and problems.
    """
    total = total_of(tallies[path] for path in coloured)
    greys = {path for path in tallies if path not in coloured}
    strange = {path for path in greys
               if {value * GREY for value in tallies[path].counts} - {0, *total}}  # fmt: skip
    for path in sorted(strange):
        source.report("MASK-MIXED", path, f"grey values among {len(coloured)} coloured masks",
                      "all masks in colours, or none", "export all masks alike")  # fmt: skip
    if len(total) > MOST_COLOURS:
        for path in sorted(coloured):
            source.report("MASK-RGB", path, f"{len(tallies[path].counts)} colours",
                          f"at most {MOST_COLOURS} in all masks, one for each class",
                          "export the masks as PNG of class ids, no overlays")  # fmt: skip
        return Reading(named_classes(classes, [1]), {}, True, refused=frozenset(coloured | strange))
    for path in greys - strange:
        total.update({value * GREY: n for value, n in tallies[path].counts.items()})
    class_of = {_packed(each.colour): each for each in classes if each.colour}
    free = [colour for colour in total if colour not in class_of]
    background = 0 if 0 in free else max(free, key=lambda c: (total[c], -c)) if free else None
    shown = [colour for colour in free if colour != background]
    shown.sort(key=lambda colour: (-total[colour], colour))
    new, why = _classes_of_colours(shown, class_of, classes, _tags_of(tallies, coloured, tag_of))
    id_of = {_packed(each.colour): number for number, each in enumerate(new, 1) if each.colour}
    listed = ", ".join(f"#{_packed(each.colour):06x} is {each.name}" for each in new if each.colour)
    source.repaired("MASK-RGB", "masks", f"{len(total)} colours", "class ids",
                    f"{listed} ({why}); background is "
                    + ("none" if background is None else f"#{background:06x}"))  # fmt: skip
    outside = {} if background is None else {background: 0}
    return Reading(new, {0: 0, **outside, **id_of}, True, refused=frozenset(strange))


def _classes_of_colours(
    shown: Sequence[int], class_of: Mapping[int, Class], classes: tuple[Class, ...],
    tags: Mapping[int, set[str]],
) -> tuple[tuple[Class, ...], str]:  # fmt: skip
    """The classes by id, each with its colour, and what told which is which.

    Args:
        shown: Colours of no class, the frequent ones first.
        class_of: Classes by their colours.
        classes: By id, as far as anything names them.
        tags: Of the images on which each colour is, where these have a single one.
    """
    nameless = [each for each in classes if not each.colour]
    more = [Class(f"class_{len(classes) + i}", _unpacked(c)) for i, c in enumerate(shown, 1)]
    if class_of and not (nameless and shown):
        return (*classes, *more), "by the colours of the classes"
    by_tag = {next(iter(tags[c])): c for c in shown if len(tags.get(c, ())) == 1}
    if len(by_tag) == len(shown) and set(by_tag) <= {each.name for each in nameless}:
        drawn = {name: _unpacked(colour) for name, colour in by_tag.items()}
        named = [Class(each.name, each.colour or drawn.get(each.name)) for each in classes]
        return tuple(named), "by the tags that they come with"
    if len(nameless) == len(shown) and not class_of:
        named = [Class(e.name, _unpacked(c)) for e, c in zip(nameless, shown, strict=True)]
        return tuple(named), "the frequent ones first; see if the names fit, and mend classes.csv"
    if classes:
        return (*classes, *more), f"{len(classes)} names do not tell {len(shown)} colours apart"
    return tuple(more), "the frequent ones first; classes.csv has the names to change"


def _tags_of(
    tallies: Mapping[Path, Tally], coloured: set[Path], tag_of: Mapping[Path, str]
) -> dict[int, set[str]]:
    """The single tags of the images that each colour is on."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in coloured & set(tag_of):
        for colour in tallies[path].counts:
            found[colour].add(tag_of[path])
    return found


def _packed(colour: Colour | None) -> int:
    red, green, blue = colour or (0, 0, 0)
    return red << 16 | green << 8 | blue


def _unpacked(colour: int) -> Colour:
    return colour >> 16, colour >> 8 & 255, colour & 255
