"""Images, masks and tags in folders, read as far as they can be understood.

:func:`fewmask.data.scan.scan_folder` reads the same layouts strictly, for runs. Here each thing
that it would refuse is read in the one way that makes sense, if there is one, and told:

========================  ==================================================================
found                     read as
========================  ==================================================================
a folder in a folder      the inner one
``train/ val/ test/``     parts of an official split, wherever they stand
names that collide        ``a``, ``a-2``
names that are no UTF-8   ``_`` for each byte
masks with an ending      the image without it: ``a_mask.png``, ``a-labels.png``
masks beside the images   the same, by their endings
odd masks and images      :mod:`fewmask.layouts.mask_values`, :mod:`fewmask.layouts.odd_images`
mask of another size      turned as the image's EXIF orientation says, or, in the same
                          proportions, enlarged or reduced by the nearest pixel
tables of tags            :mod:`fewmask.layouts.tag_tables`
exact copies              the first, unless their tags differ
========================  ==================================================================
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fewmask.data.classes_csv import Class, find_classes
from fewmask.data.content import digest_of
from fewmask.data.files import composed, is_inside, shown
from fewmask.data.groups import find_groups, group_in, read_group_pattern
from fewmask.data.roles import Part, is_negative, part_called, role_of
from fewmask.errors import DataError, UsageError
from fewmask.io import deep_tiff
from fewmask.io.decoding import refuse
from fewmask.io.images import read_header, read_image
from fewmask.layouts.files import (
    ImageFile,
    folders_in,
    images_and_masks,
    innermost,
    list_files,
    walk,
    without_ending,
)
from fewmask.layouts.mask_values import Reading, Tally, conclude, tally_masks
from fewmask.layouts.odd_images import Look, Ranges, look_at, settle_ranges, tell
from fewmask.layouts.records import Entry, Pixels, ReadingOptions, Source
from fewmask.layouts.tag_tables import Table, find_table, match_rows, read_table


def recognise(root: Path) -> bool:
    """Whether there is any image below a folder."""
    return next(walk(root, root, Source("", root)), None) is not None


def read(root: Path, options: ReadingOptions) -> Source:
    """Read a folder of images, with masks and tags if it has any.

    Raises:
        UsageError: the pattern of groups is none.
        ResourceError: a Parquet table, and pyarrow is not installed.
    """
    source = Source("plain folder", root)
    pattern, wrong = read_group_pattern(options.group_pattern)
    if wrong:
        raise UsageError(*wrong)
    base = innermost(root, source)
    files = list_files(base, source)
    images, masks = images_and_masks(files, source)
    table_path = find_table(base) or next(
        (found for path in folders_in(base) if role_of(path.name) == "images"
         and (found := find_table(path))), None,
    )  # fmt: skip
    table = read_table(table_path, source) if table_path else Table()
    if table_path and table.tags and table_path.name != "tags.csv":
        source.repaired("TAGS-MISSING", table_path, f"tags in {shown(table_path.name)}", "tags.csv",
                        "read as the table of tags")  # fmt: skip
    ranges: Ranges = {}
    looks = _look(images, options, ranges, source)
    mask_of = _pair(images, masks, looks, source)
    tags, unknown = _tags(images, table, table_path, source)
    images = {key: file for key, file in images.items() if key not in unknown}
    classes = _given_classes(base, options, source)
    names = [each.name for each in classes] or _class_names(tags, table)
    tallies = tally_masks(list(mask_of.values()), source)
    _tell_sizes(mask_of, tallies, looks, source)
    tag_of = {mask: tags[key][0] for key, mask in mask_of.items() if len(tags.get(key) or ()) == 1}
    groups, problems = find_groups(base, {_place(file, base) for file in images.values()})
    source.problems += problems
    parts = _written_parts(base)
    reading = conclude(tallies, names, tag_of, source)
    source.classes = _with_colours(classes, names, reading if tallies else None)
    if classes and tallies and len(reading.classes) > len(classes):
        source.classes = reading.classes
    for key, file in images.items():
        if key not in looks:
            continue
        mask = mask_of.get(key)
        if mask is not None and (mask not in tallies or mask in reading.refused):
            mask = None
        shown_ids = None if mask is None else partial(_mask, mask, reading, looks[key])
        place = _place(file, base)
        group = table.groups.get(key) or groups.get(place)
        group = group or group_in(place.rpartition("/")[2], pattern) or ""
        part = parts.get(place, file.part)
        entry = Entry(key, looks[key].images[0], shown_ids, tags.get(key), group, part)
        source.entries += _of_pages(entry, looks[key])
    _drop_copies(source, {key: look.digest for key, look in looks.items()})
    return source


def _look(
    images: Mapping[str, ImageFile], options: ReadingOptions, ranges: Ranges, source: Source
) -> dict[str, Look]:
    looks: dict[Path, Look] = {}
    for file in images.values():
        found = look_at(file.path, options, ranges)
        if isinstance(found, DataError):
            source.problems += found.problems
        else:
            looks[file.path] = found
    settle_ranges(looks, options, ranges)
    tell(looks, ranges, source)
    return {key: looks[file.path] for key, file in images.items() if file.path in looks}


def _pair(
    images: Mapping[str, ImageFile], masks: Mapping[str, list[ImageFile]],
    looks: Mapping[str, Look], source: Source,
) -> dict[str, Path]:  # fmt: skip
    """The mask of each image: of the same name and part, else in any case, else by its ending."""
    left = {file.path for group in masks.values() for file in group}
    keys: dict[str, list[ImageFile]] = defaultdict(list)
    for name, group in masks.items():
        for key in dict.fromkeys((name, name.casefold(), without_ending(name).casefold())):
            keys[key] += group
    found: dict[str, Path] = {}
    renamed = []
    for identity, file in images.items():
        fits: list[ImageFile] = []
        for name in (file.name, file.name.casefold(), file.name.rpartition("/")[2].casefold()):
            fits = [mask for mask in keys.get(name, []) if mask.path in left or len(masks) == 1]
            fits = [mask for mask in fits if mask.part == file.part] or fits
            if fits:
                break
        if not fits:
            continue
        if len(fits) > 1:
            size = looks[identity].size if identity in looks else None
            sized = [mask for mask in fits if _size(mask.path) == size]
            if len(sized) != 1:
                source.report("MASK-TWICE", fits[1].path, f"{len(fits)} masks for one image",
                              "one mask per image", "remove the others")  # fmt: skip
                left -= {mask.path for mask in fits}
                continue
            fits = sized
        found[identity] = fits[0].path
        left.discard(fits[0].path)
        if fits[0].name != file.name:
            renamed.append(fits[0].path)
    if renamed:
        source.repaired("MASK-UNPAIRED", renamed[0], f"{len(renamed)} masks named a little "
                        "otherwise than their images", "the same names",
                        "paired, endings and case aside")  # fmt: skip
    for path in sorted(left):
        source.report("MASK-UNPAIRED", shown(path), "no image of this name", "one image per mask",
                      "rename the mask like its image, or remove it")  # fmt: skip
    return found


def _size(path: Path) -> tuple[int, int] | None:
    try:
        header = read_header(path)
    except DataError:
        return None
    return header.height, header.width


def _tags(
    images: Mapping[str, ImageFile], table: Table, path: Path | None, source: Source
) -> tuple[dict[str, tuple[str, ...]], Collection[str]]:
    """Tags by image, from the table or from folders that are classes; and images to leave out."""
    if table.tags and path is not None:
        files = {key: file.path for key, file in images.items()}
        row_of = match_rows(table.tags, files, path, source)
        groups = {row_of[name]: g for name, g in table.groups.items() if name in row_of}
        table.groups = groups
        found = {row_of[name]: tags for name, tags in table.tags.items() if name in row_of}
        bare = sorted(images.keys() - found.keys())
        if bare:
            source.repaired("TAGS-NO-ROW", path, f"{len(bare)} images without a row: "
                            f"{', '.join(bare[:3])}", "one row per image",
                            "left out, since nobody says what is on them")  # fmt: skip
        return found, bare
    if any(file.first_role for file in images.values()):
        return {}, ()
    folder_of = {key: file.name.partition("/")[0] for key, file in images.items()
                 if "/" in file.name}  # fmt: skip
    if not folder_of:
        return {}, ()
    loose = sorted(images.keys() - folder_of.keys())
    if loose:
        source.repaired("IMAGE-STRAY", images[loose[0]].path, f"{len(loose)} images beside the "
                        "folders of classes", "every image in a class folder",
                        "left out, since nobody says what is on them")  # fmt: skip
    return {key: () if is_negative(name) else (name,) for key, name in folder_of.items()}, loose


def _class_names(tags: Mapping[str, tuple[str, ...]], table: Table) -> list[str]:
    return list(table.class_names) or sorted(set().union(*tags.values(), set()))


def _tell_sizes(
    mask_of: Mapping[str, Path], tallies: Mapping[Path, Tally], looks: Mapping[str, Look],
    source: Source,
) -> None:  # fmt: skip
    """Say which masks are read at another size than they are stored in."""
    turned, resized = [], []
    for key, path in mask_of.items():
        if path not in tallies or key not in looks:
            continue
        size, look = tallies[path].size, looks[key]
        if size != look.size and _turns(look) and size == look.size[::-1]:
            turned.append(path)
        elif size != look.size and _in_proportion(size, look.size):
            resized.append(path)
    if turned:
        source.repaired("ORIENTATION", turned[0], f"{len(turned)} masks drawn on images before "
                        "they were turned", "masks as their images are displayed",
                        "turned as EXIF says")  # fmt: skip
    if resized:
        source.repaired("MASK-SIZE", resized[0], f"{len(resized)} masks of another size in the "
                        "same proportions", "masks as large as their images",
                        "enlarged or reduced by the nearest pixel")  # fmt: skip


def _turns(look: Look) -> bool:
    return look.orientation in (5, 6, 7, 8)


def _in_proportion(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    return abs(size[0] * wanted[1] - size[1] * wanted[0]) <= max(wanted)


def _place(file: ImageFile, base: Path) -> str:
    """Where a file lies below the folder, without suffix, as tables have it."""
    return composed(shown(file.path.relative_to(base).with_suffix("").as_posix()))


def _written_parts(base: Path) -> dict[str, Part]:
    """Parts by place below the folder, from ``split.csv``; none if it cannot be read."""
    path = base / "split.csv"
    if not path.is_file() or not is_inside(path, base):
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [(row["id"], part_called(row["part"])) for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error):
        return {}
    return {name: part for name, part in rows if part is not None}


def _given_classes(base: Path, options: ReadingOptions, source: Source) -> tuple[Class, ...]:
    if options.class_names:
        return tuple(Class(name) for name in options.class_names)
    classes, problems = find_classes(base)
    source.problems += problems
    return classes


def _with_colours(
    given: tuple[Class, ...], names: Sequence[str], reading: Reading | None
) -> tuple[Class, ...]:
    """The classes by id, with the colours of the masks where nothing else gives one."""
    found = reading.classes if reading is not None else ()
    if not names:
        return found
    known = {each.name: each for each in given}
    drawn = [found[i].colour if i < len(found) else None for i in range(len(names))]
    return tuple(known.get(name) if name in known and known[name].colour else Class(name, colour)  # type: ignore[misc]
                 for name, colour in zip(names, drawn, strict=True))  # fmt: skip


def _mask(path: Path, reading: Reading, look: Look) -> np.ndarray:
    """The ids of a mask, as large as its image is displayed."""
    ids = reading.read(path)
    if ids.shape == look.size:
        return ids
    if _turns(look) and ids.shape == look.size[::-1]:
        return np.ascontiguousarray(deep_tiff.upright(ids, look.orientation))
    height, width = look.size
    if not _in_proportion((ids.shape[0], ids.shape[1]), look.size):
        refuse(path, "MASK-SIZE", f"{ids.shape[0]}x{ids.shape[1]}", f"{height}x{width}",
               "export the mask at the size of its image")  # fmt: skip
    rows = np.minimum((np.arange(height) + 0.5) * ids.shape[0] / height, ids.shape[0] - 1)
    columns = np.minimum((np.arange(width) + 0.5) * ids.shape[1] / width, ids.shape[1] - 1)
    return ids[rows.astype(int)[:, None], columns.astype(int)]


def _of_pages(entry: Entry, look: Look) -> list[Entry]:
    """An entry for each picture in a file."""
    if len(look.images) == 1:
        return [entry]
    return [
        replace(entry, id=f"{entry.id}/page_{number:03}", image=pixels, mask=None,
                group=entry.group or entry.id)
        for number, pixels in enumerate(look.images)
    ]  # fmt: skip


def _drop_copies(source: Source, digests: Mapping[str, str]) -> None:
    """Of files with equal pixels and tags, keep the first, and the mask that any of them has."""
    first: dict[tuple[str, tuple[str, ...] | None], int] = {}
    kept: list[Entry] = []
    dropped = []
    for entry in source.entries:
        key = digests.get(entry.id) or digest_of(pixels_of(entry.image)), entry.tags
        if key not in first:
            first[key] = len(kept)
            kept.append(entry)
            continue
        dropped.append(entry.id)
        if kept[first[key]].mask is None and entry.mask is not None:
            kept[first[key]] = replace(kept[first[key]], mask=entry.mask)
    if dropped:
        source.repaired("DUPLICATE", dropped[0], f"{len(dropped)} exact copies", "each image once",
                        "the first is kept")  # fmt: skip
    source.entries = kept


def pixels_of(image: Path | Pixels) -> np.ndarray:
    """The pixels of an entry's image: (H, W, 3) uint8, or as its function gives them."""
    return read_image(image) if isinstance(image, Path) else image()
