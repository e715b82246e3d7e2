"""A plain folder whose structure runs would refuse, read in the one way that makes sense."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fewmask.data.classes_csv import Class, find_classes
from fewmask.data.files import shown
from fewmask.data.groups import find_groups, group_in, read_group_pattern
from fewmask.data.roles import is_negative, role_of
from fewmask.errors import DataError, UsageError
from fewmask.io.images import read_header
from fewmask.layouts.files import (
    ImageFile,
    core_of,
    folders_in,
    images_and_masks,
    innermost,
    list_files,
    place_of,
)
from fewmask.layouts.plain_items import Item, Plain
from fewmask.layouts.plain_strict import written_parts
from fewmask.layouts.records import ReadingOptions, Source
from fewmask.layouts.tag_tables import Table, choose_table


def read_leniently(root: Path, options: ReadingOptions, source: Source) -> Plain:
    """What a folder holds; each fault is repaired, or left out, and told.

    Raises:
        UsageError: the pattern of groups is none.
        ResourceError: a Parquet table, and pyarrow is not installed.
    """
    pattern, wrong = read_group_pattern(options.group_pattern)
    if wrong:
        raise UsageError(*wrong)
    base = innermost(root, source)
    images, masks = images_and_masks(list_files(base, source), source)
    mask_of = _pair(images, masks, source)
    by_folder = _class_folders(images)
    table = _table(base, images, source, only_named=bool(by_folder))
    tags, unknown = _tags(images, table, by_folder, source)
    places = {place_of(file, base) for file in images.values()}
    groups, problems = find_groups(base, places)
    source.problems += problems
    parts = written_parts(base, source)
    plain = Plain(classes=_classes(base, tags, table, options, source))
    for key, file in images.items():
        if key in unknown:
            continue
        place = place_of(file, base)
        group = table.groups.get(key) or groups.get(place)
        group = group or group_in(place.rpartition("/")[2], pattern) or ""
        part = parts.get(place, file.part)
        plain.items[key] = Item(file.path, mask_of.get(key), tags.get(key), group, part)
    return plain


def _table(
    base: Path, images: Mapping[str, ImageFile], source: Source, *, only_named: bool
) -> Table:
    """The table of tags, beside the images or among them; its keys become the images' ids."""
    folders = [base, *(path for path in folders_in(base) if role_of(path.name) == "images")]
    files = {key: file.path for key, file in images.items()}
    return choose_table(folders, files, source, only_named=only_named)


def _pair(
    images: Mapping[str, ImageFile], masks: Sequence[ImageFile], source: Source
) -> dict[str, Path]:
    """The mask of each image: of the same name, else in any case, without marks, or folder.

    A mask goes to an image of its own part of a split alone, and a way to find it counts only where
    it leads to a single image.
    """
    found: dict[str, Path] = {}
    left = {mask.path: mask for mask in masks}
    loosely = []
    for way in (_exact, _in_any_case, _without_marks, _without_folder):
        wanted: dict[tuple[object, str], list[str]] = defaultdict(list)
        for key, file in images.items():
            if key not in found:
                wanted[_part_of(file, masks), way(file)].append(key)
        offered: dict[tuple[object, str], list[ImageFile]] = defaultdict(list)
        for mask in left.values():
            offered[mask.part, way(mask)].append(mask)
        for place, keys in wanted.items():
            fits = offered.get(place, [])
            if len(keys) == 1 and len(fits) > 1:
                fits = _of_size(fits, images[keys[0]]) or fits
            if len(keys) == 1 and len(fits) == 1:
                found[keys[0]] = fits[0].path
                del left[fits[0].path]
                loosely += [fits[0].path] if way is not _exact else []
    if loosely:
        source.repaired("MASK-PAIRED", shown(loosely[0]), f"{len(loosely)} masks named a little "
                        "otherwise than their images", "the same names",
                        "paired, marks, case and folders aside")  # fmt: skip
    names = Counter(_without_folder(file) for file in images.values())
    for path, mask in sorted(left.items()):
        several = names[_without_folder(mask)]
        source.report(
            "MASK-SHARED" if several > 1 else "MASK-UNPAIRED", shown(path),
            f"{several} images of this name" if several > 1 else "no image for it alone",
            "one image per mask", "name the mask like its image, or remove it",
        )  # fmt: skip
    return found


def _part_of(image: ImageFile, masks: Sequence[ImageFile]) -> object:
    """The part that an image's mask is in: its own, if masks have any."""
    return image.part if any(mask.part for mask in masks) else None


def _exact(file: ImageFile) -> str:
    return file.name


def _in_any_case(file: ImageFile) -> str:
    return file.name.casefold()


def _without_marks(file: ImageFile) -> str:
    return core_of(file.name)[0].casefold()


def _without_folder(file: ImageFile) -> str:
    return core_of(file.name)[0].rpartition("/")[2].casefold()


def _of_size(masks: Sequence[ImageFile], image: ImageFile) -> list[ImageFile]:
    """The masks that are as large as the image, as far as headers tell."""

    def size(path: Path) -> tuple[int, int] | None:
        try:
            header = read_header(path)
        except DataError:
            return None
        return header.height, header.width

    wanted = size(image.path)
    return [mask for mask in masks if wanted is not None and size(mask.path) == wanted]


def _class_folders(images: Mapping[str, ImageFile]) -> dict[str, str]:
    """The outermost folder of each image, if folders are classes; else nothing."""
    if any(file.in_role for file in images.values()):
        return {}
    return {key: file.name.partition("/")[0] for key, file in images.items() if "/" in file.name}


def _tags(
    images: Mapping[str, ImageFile], table: Table, by_folder: Mapping[str, str], source: Source
) -> tuple[dict[str, tuple[str, ...]], Collection[str]]:
    """Tags by image, from the table or from folders that are classes; and images to leave out."""
    if table.tags:
        bare = sorted(images.keys() - table.tags.keys())
        if bare:
            source.report("TAGS-NO-ROW", table.path, f"{len(bare)} images without a row: "
                          f"{', '.join(bare[:3])}", "one row per image",
                          "add rows: nobody says what is on them")  # fmt: skip
        return table.tags, bare
    if not by_folder:
        return {}, ()
    loose = sorted(images.keys() - by_folder.keys())
    if loose:
        source.report("IMAGE-STRAY", shown(images[loose[0]].path), f"{len(loose)} images beside "
                      "the folders of classes", "every image in a class folder",
                      "move them: nobody says what is on them")  # fmt: skip
    return {key: () if is_negative(name) else (name,) for key, name in by_folder.items()}, loose


def _classes(
    base: Path, tags: dict[str, tuple[str, ...]], table: Table, options: ReadingOptions,
    source: Source,
) -> tuple[Class, ...]:  # fmt: skip
    """Classes as far as anything names them; tags that have no name get one behind these."""
    tagged = list(table.class_names) or sorted(set().union(*tags.values(), set()))
    if options.class_name and len(tagged) == 1:
        for key, own in tags.items():
            tags[key] = (options.class_name,) if own else ()
        tagged = [options.class_name]
    written, problems = find_classes(base)
    source.problems += problems
    colour_of = {each.name: each.colour for each in written}
    given = list(options.names) or [each.name for each in written]
    more = [name for name in tagged if name not in given] if given else []
    if more:
        source.repaired("CLASS-UNKNOWN", "classes", f"tags that no name is given for: "
                        f"{', '.join(more)}", f"the classes {', '.join(given)}",
                        "classes of their own, behind these")  # fmt: skip
    return tuple(Class(name, colour_of.get(name)) for name in [*given, *more] or tagged)
