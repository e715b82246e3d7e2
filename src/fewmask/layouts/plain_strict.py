"""A plain folder as runs read it: where its structure has no fault, nothing of it is changed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fewmask.data.classes_csv import Class, find_classes
from fewmask.data.files import is_inside
from fewmask.data.roles import Part, part_called, role_in
from fewmask.data.scan import Scan, scan_folder
from fewmask.layouts.files import marked_as_mask
from fewmask.layouts.odd_images import ODD_SUFFIXES
from fewmask.layouts.plain_items import Item, Plain
from fewmask.layouts.records import ReadingOptions, Source
from fewmask.layouts.tag_tables import choose_table, with_tags

_OF_MASKS = {"MASK-VALUES", "MASK-AMBIGUOUS", "MASK-MIXED", "MASK-RGB", "MASK-DTYPE"}
_OF_FILES = {"IMAGE-EMPTY", "IMAGE-FORMAT", "IMAGE-TRUNCATED", "IMAGE-TOO-LARGE", "IMAGE-PAGES",
             "IMAGE-ALPHA", "IMAGE-CHANNELS", "IMAGE-BANDS", "IMAGE-DTYPE", "IMAGE-UNREADABLE",
             "IMAGE-MISSING"}  # fmt: skip
_OTHERWISE_TOLD = {"TAGS-ONE-KIND", "TAGS-MISSING"}


def read_strictly(root: Path, options: ReadingOptions, source: Source) -> Plain | None:
    """What a folder without a structural fault holds; None for others.

    Args:
        root: The folder.
        options: See :class:`ReadingOptions`.
        source: Receives notes, and what is told about names of classes.

    Raises:
        UsageError: a pattern that is none.
    """
    scan = _scanned(root, options, source)
    source.notes += [each for each in scan.notes if each.code.endswith("SKIPPED")]
    faults = {problem.code for problem in scan.problems}
    if faults - _OF_MASKS - _OF_FILES - _OTHERWISE_TOLD or _has_odd_files(root):
        return None
    samples = scan.folder.samples
    if not samples or (not scan.folder.mask_encoding and _masks_beside(samples)):
        return None
    items: dict[str, Item] = {}
    parts = written_parts(root, source)
    for sample in samples:
        name = role_in(sample.id)[1]
        if name in items:
            return None
        group = sample.group if sample.group != sample.id else ""
        tags = sample.tags if scan.folder.has_tags else None
        items[name] = Item(sample.image_path, sample.mask_path, tags, group, parts.get(sample.id))
    classes, _ = find_classes(root)
    given = options.names or tuple(each.name for each in classes)
    colour_of = {each.name: each.colour for each in classes}
    names = scan.folder.class_names
    understood = not faults & _OF_MASKS and not faults & _OF_FILES
    if not scan.folder.has_tags:
        folders = [root, *{sample.image_path.parent for sample in samples}]
        table = choose_table(folders, {key: item.path for key, item in items.items()}, source,
                             only_named=False)  # fmt: skip
        if table.tags:
            items = with_tags(items, table, source)
            names = tuple(dict.fromkeys((*given, *table.class_names)))
            understood = False
    named = tuple(Class(name, colour_of.get(name)) for name in names)
    if (
        not understood
        and not given
        and not scan.folder.has_tags
        and names == scan.folder.class_names
    ):
        named = ()  # names made up of ids that are not understood
    return Plain(items, named, scan.folder.mask_encoding if understood else None)


def _scanned(root: Path, options: ReadingOptions, source: Source) -> Scan:
    """The scan; where names are given that lack some of the classes, these come behind."""

    def scan(class_name: str | None, names: Sequence[str] | None) -> Scan:
        return scan_folder(root, class_name=class_name, class_names=names,
                           group_pattern=options.group_pattern, require_tags=False)  # fmt: skip

    classes, _ = find_classes(root)
    given = options.class_names or tuple(each.name for each in classes)
    found = scan(options.class_name, options.class_names or None)
    if given and any(problem.code == "CLASS-UNKNOWN" for problem in found.problems):
        tagged = sorted({tag for sample in found.folder.samples for tag in sample.tags})
        more = [name for name in tagged if name not in given]
        source.repaired("CLASS-UNKNOWN", "classes", f"tags that no name is given for: "
                        f"{', '.join(more)}", f"the classes {', '.join(given)}",
                        "classes of their own, behind these")  # fmt: skip
        found = scan(None, [*given, *more])
    return found


def _has_odd_files(root: Path) -> bool:
    """Whether there are images or masks of kinds that runs do not read."""
    return any(
        path.suffix.lower() in (*ODD_SUFFIXES, ".npy")
        for path in root.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def _masks_beside(samples: Sequence[object]) -> bool:
    """Whether some images are others' masks, by their names."""
    stems = {role_in(sample.id)[1] for sample in samples}  # type: ignore[attr-defined]
    return any(marked_as_mask(stem, stems) for stem in stems)


def written_parts(root: Path, source: Source) -> dict[str, Part]:
    """Parts by sample id, from ``split.csv``; a note where it cannot be read."""
    path = root / "split.csv"
    if not path.is_file() or not is_inside(path, root):
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [(row["id"] or "", row["part"] or "") for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error):
        rows = []
    found = {name: part for name, text in rows if (part := part_called(text)) is not None}
    if not found or len(found) < len(rows):
        source.note("SPLIT-FILE", path, "a table that does not say the part of each image",
                    "the columns id and part", "nothing to do if it is no split; it is left out"
                    )  # fmt: skip
        return {}
    return found
