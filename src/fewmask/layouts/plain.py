"""Images, masks and tags in folders, read as far as they can be understood.

A folder whose structure has no fault is read as runs read it: names, masks and ids stay. Where
there are faults, each is repaired in the one way that makes sense, if there is one, and told:

========================  ==================================================================
found                     read as
========================  ==================================================================
a folder in a folder      the inner one
``train/ val/ test/``     parts of an official split, wherever they stand
names that collide        ``a``, ``a-2``
names that are no UTF-8   ``_`` for each byte
masks with marks          the image without them: ``a_mask.png``, ``mask_7.png``
masks beside the images   the same, by their marks
odd masks and images      :mod:`fewmask.layouts.mask_values`, :mod:`fewmask.layouts.odd_images`
mask of another size      turned as the image's EXIF orientation says, or, in the same
                          proportions, enlarged or reduced by the nearest pixel
tables of tags            :mod:`fewmask.layouts.tag_tables`
exact copies              the first, unless their tags or masks differ
========================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fewmask.data.classes_csv import Class
from fewmask.data.content import digest_of
from fewmask.data.mask_encoding import WORKERS
from fewmask.errors import DataError
from fewmask.io import deep_tiff
from fewmask.io.decoding import refuse
from fewmask.io.images import read_image
from fewmask.layouts.mask_reading import Reading
from fewmask.layouts.mask_values import as_understood, conclude
from fewmask.layouts.odd_images import Look, Ranges, look_at, settle_ranges, tell
from fewmask.layouts.plain_items import Item
from fewmask.layouts.plain_lenient import read_leniently
from fewmask.layouts.plain_strict import read_strictly
from fewmask.layouts.records import Entry, Pixels, ReadingOptions, Source
from fewmask.layouts.stored_masks import Tally, tally_masks

_MOST_RESIZED = 8


def read(root: Path, options: ReadingOptions) -> Source:
    """Read a folder of images, with masks and tags if it has any.

    Raises:
        UsageError: the pattern of groups is none.
        ResourceError: a Parquet table, and pyarrow is not installed.
    """
    source = Source("plain folder", root)
    plain = read_strictly(root, options, source) or read_leniently(root, options, source)
    looks = _look(plain.items, options, source)
    tallies = tally_masks({item.mask for item in plain.items.values() if item.mask}, source)
    turned = _tell_sizes(plain.items, tallies, looks, source)
    if plain.encoding is not None:
        reading = as_understood(plain.encoding, plain.classes)
    else:
        tag_of = {item.mask: item.tags[0] for item in plain.items.values()
                  if item.mask and item.tags and len(item.tags) == 1}  # fmt: skip
        reading = conclude(tallies, plain.classes, tag_of, source)
    source.classes = _all_classes(plain.classes, reading if tallies else None)
    for key, item in plain.items.items():
        if key not in looks:
            continue
        mask = None
        if item.mask and item.mask in tallies and item.mask not in reading.refused:
            mask = partial(_mask, item.mask, reading, looks[key], turned)
        entry = Entry(key, looks[key].images[0], mask, item.tags, item.group, item.part)
        source.entries += _of_pages(entry, looks[key], plain.items, source)
    _drop_copies(source, {key: look.digest for key, look in looks.items() if look.digest})
    return source


def pixels_of(image: Path | Pixels) -> np.ndarray:
    """The pixels of an entry's image: (H, W, 3) uint8, or as its function gives them."""
    return read_image(image) if isinstance(image, Path) else image()


def _look(items: Mapping[str, Item], options: ReadingOptions, source: Source) -> dict[str, Look]:
    """Look into every image, a few at a time; what cannot be read is a problem."""
    ranges: Ranges = {}
    looks: dict[Path, Look] = {}
    paths = [item.path for item in items.values()]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = pool.map(partial(look_at, options=options, ranges=ranges), paths)
        for path, look in zip(paths, found, strict=True):
            if isinstance(look, DataError):
                source.problems += look.problems
            else:
                looks[path] = look
    settle_ranges(looks, options, ranges)
    tell(looks, ranges, source)
    return {key: looks[item.path] for key, item in items.items() if item.path in looks}


def _all_classes(named: tuple[Class, ...], reading: Reading | None) -> tuple[Class, ...]:
    """The classes by id: as named, with colours of the masks; or as the masks have them."""
    if reading is None:
        return named
    if len(reading.classes) >= len(named):
        return reading.classes
    drawn = {each.name: each.colour for each in reading.classes}
    return tuple(Class(each.name, each.colour or drawn.get(each.name)) for each in named)


def _tell_sizes(
    items: Mapping[str, Item], tallies: Mapping[Path, Tally], looks: Mapping[str, Look],
    source: Source,
) -> bool:  # fmt: skip
    """Say which masks are read at another size; whether masks were drawn on unturned images."""
    turned, resized = [], []
    for key, item in items.items():
        if item.mask is None or item.mask not in tallies or key not in looks:
            continue
        size, look = tallies[item.mask].size, looks[key]
        if size != look.size and look.orientation > 4 and size == look.size[::-1]:
            turned.append(item.mask)
        elif size != look.size and _in_proportion(size, look.size):
            resized.append(item.mask)
    if turned:
        source.repaired("ORIENTATION", turned[0], f"{len(turned)} masks drawn on images before "
                        "they were turned", "masks as their images are displayed",
                        "these, and masks of other images with an orientation, turned as EXIF "
                        "says")  # fmt: skip
    if resized:
        source.repaired("MASK-SIZE", resized[0], f"{len(resized)} masks of another size in the "
                        "same proportions", "masks as large as their images",
                        "enlarged or reduced by the nearest pixel")  # fmt: skip
    return bool(turned)


def _in_proportion(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether one size is the other enlarged or reduced, at most eightfold, to a pixel."""
    factor = wanted[0] / max(size[0], 1)
    alike = abs(size[1] * factor - wanted[1]) <= max(factor, 1)
    return alike and 1 / _MOST_RESIZED <= factor <= _MOST_RESIZED


def _mask(path: Path, reading: Reading, look: Look, turned: bool) -> np.ndarray:
    """The ids of a mask, as large as its image is displayed."""
    ids = reading.read(path)
    stored = look.size[::-1] if look.orientation > 4 else look.size
    if turned and look.orientation != 1 and ids.shape == stored:
        return np.ascontiguousarray(deep_tiff.upright(ids, look.orientation))
    if ids.shape == look.size:
        return ids
    height, width = look.size
    if not _in_proportion((ids.shape[0], ids.shape[1]), look.size):
        refuse(path, "MASK-SIZE", f"{ids.shape[0]}x{ids.shape[1]}", f"{height}x{width}",
               "export the mask at the size of its image")  # fmt: skip
    rows = np.minimum((np.arange(height) + 0.5) * ids.shape[0] / height, ids.shape[0] - 1)
    columns = np.minimum((np.arange(width) + 0.5) * ids.shape[1] / width, ids.shape[1] - 1)
    return ids[rows.astype(int)[:, None], columns.astype(int)]


def _of_pages(
    entry: Entry, look: Look, taken: Mapping[str, Item], source: Source
) -> list[Entry]:  # fmt: skip
    """An entry for each picture in a file."""
    if len(look.images) == 1:
        return [entry]
    if entry.mask is not None:
        source.report("MASK-PAGES", entry.id, f"one mask for {len(look.images)} pages",
                      "one image per mask", "save the pages as images, each with its mask"
                      )  # fmt: skip
    folder = entry.id
    while any(f"{folder}/page_{number:03}" in taken for number in range(len(look.images))):
        folder = f"{folder}_"
    return [
        replace(entry, id=f"{folder}/page_{number:03}", image=pixels, mask=None,
                group=entry.group or entry.id)
        for number, pixels in enumerate(look.images)
    ]  # fmt: skip


def _drop_copies(source: Source, digests: Mapping[str, str]) -> None:
    """Of files with equal pixels, tags and masks, keep the first, with the mask that any has."""
    first: dict[tuple[str, tuple[str, ...] | None], int] = {}
    kept: list[Entry] = []
    dropped = []
    for entry in source.entries:
        try:
            key = digests.get(entry.id) or digest_of(pixels_of(entry.image)), entry.tags
        except DataError as error:  # changed since it was looked at
            source.problems += error.problems
            continue
        if key not in first or not _same_mask(kept[first[key]], entry):
            first.setdefault(key, len(kept))
            kept.append(entry)
            continue
        dropped.append(entry.id)
        if kept[first[key]].mask is None and entry.mask is not None:
            kept[first[key]] = replace(kept[first[key]], mask=entry.mask)
    if dropped:
        source.repaired("DUPLICATE", dropped[0], f"{len(dropped)} exact copies", "each image once",
                        "the first is kept")  # fmt: skip
    source.entries = kept


def _same_mask(one: Entry, other: Entry) -> bool:
    """Whether two masks say the same, or one of them is missing."""
    if one.mask is None or other.mask is None:
        return True
    try:
        return np.array_equal(one.mask(), other.mask())
    except DataError:  # told when the masks are written
        return False
