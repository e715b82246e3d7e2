"""Which arrangement a folder is in.

A folder with pictures in ``masks/``, or with ``tags.csv``, is a plain one, whatever else lies in
it; so is one with more pictures than volumes. What the chosen reader leaves out is told.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from fewmask.data.roles import role_of
from fewmask.errors import DataError
from fewmask.io.dicom import is_dicom
from fewmask.io.images import IMAGE_SUFFIXES
from fewmask.io.nifti import is_nifti
from fewmask.layouts import coco, dicom, label_studio, nifti, nnunet, plain, street, voc
from fewmask.layouts.odd_images import Look, Ranges, look_at, settle_ranges, tell
from fewmask.layouts.records import ReadingOptions, Source
from fewmask.layouts.volumes import some_files

VOLUMES = (dicom, nnunet, nifti)
LAYOUTS: tuple[ModuleType, ...] = (*VOLUMES, coco, label_studio, voc, street)
"""Of tools, in the order in which they are asked; anything else is a plain folder."""


def layout_of(root: Path) -> ModuleType:
    """The module that reads a folder."""
    if is_surely_plain(root):
        return plain
    found = next((layout for layout in LAYOUTS if layout.recognise(root)), plain)
    return plain if found in VOLUMES and has_more_pictures(root) else found


def is_surely_plain(root: Path) -> bool:
    """Whether a folder has ``tags.csv``, or pictures in a folder of masks."""
    if (root / "tags.csv").is_file():
        return True
    folders = [path for path in root.iterdir() if path.is_dir() and role_of(path.name) == "masks"]
    return any(has_pictures(path) for path in folders)


def has_pictures(folder: Path) -> bool:
    """Whether there is a PNG, JPEG or TIFF below a folder, among its first files."""
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in some_files(folder))


def has_more_pictures(root: Path) -> bool:
    """Whether most of a folder's files are pictures, as far as names tell."""
    files = list(some_files(root))
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    volumes = [path for path in files if is_nifti(path) or is_dicom(path)]
    return len(pictures) > len(volumes)


def is_foreign(root: Path) -> bool:
    """Whether a folder is arranged as some tool does it, and no plain folder."""
    return root.is_dir() and layout_of(root) is not plain


def read_any(root: Path, options: ReadingOptions) -> Source:
    """Read a folder in any arrangement.

    Raises:
        DataError: there is no such folder.
        UsageError: options that make no sense.
        ResourceError: a package that the arrangement needs is not installed.
    """
    if not root.is_dir():
        raise DataError.of("FOLDER-MISSING", where=root, found="no such folder",
                           expected="a data folder", fix="check the path")  # fmt: skip
    layout = layout_of(root)
    source: Source = layout.read(root, options)
    if layout is not plain:
        _mend_images(source, options)
    _tell_others(layout, root, source)
    return source


def _mend_images(source: Source, options: ReadingOptions) -> None:
    """Images of other arrangements that no run could read, seen as those of plain folders are."""
    looks: dict[Path, Look] = {}
    ranges: Ranges = {}
    kept = []
    for entry in source.entries:
        if not isinstance(entry.image, Path):
            kept.append(entry)
            continue
        look = look_at(entry.image, options, ranges)
        if isinstance(look, DataError):
            source.problems += look.problems
        elif len(look.images) > 1:
            source.report("IMAGE-PAGES", entry.image, f"{len(look.images)} pages",
                          "one picture in a file", "save the pages as files of their own"
                          )  # fmt: skip
        else:
            looks[entry.image] = look
            kept.append(entry)
    settle_ranges(looks, options, ranges)
    turned = {path for path, look in looks.items() if look.orientation != 1}
    tell({path: look for path, look in looks.items() if path not in turned}, ranges, source)
    source.entries = [
        replace(entry, image=looks[entry.image].images[0])
        if isinstance(entry.image, Path) and entry.image not in turned
        else entry
        for entry in kept
    ]


def _tell_others(layout: ModuleType, root: Path, source: Source) -> None:
    """What a folder holds of other kinds, that the chosen reader does not read."""
    files = list(some_files(root))
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    volumes = [path for path in files if is_nifti(path) or is_dicom(path)]
    strangers = pictures if layout in VOLUMES and layout is not nnunet else []
    strangers = strangers if layout in VOLUMES else volumes
    if strangers:
        kind = "pictures" if layout in VOLUMES else "volumes"
        source.report("OTHER-FILES", strangers[0], f"{len(strangers)} {kind} beside the data as "
                      f"{source.layout} has them", "one kind of data in a folder",
                      "put them into a folder of their own, and check that")  # fmt: skip
