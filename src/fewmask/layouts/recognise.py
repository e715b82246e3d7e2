"""Which arrangement a folder is in."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from fewmask.errors import DataError
from fewmask.layouts import coco, dicom, label_studio, nifti, plain, street, voc
from fewmask.layouts.records import ReadingOptions, Source

LAYOUTS: tuple[ModuleType, ...] = (dicom, nifti, coco, label_studio, voc, street)
"""Of tools, in the order in which they are asked; anything else is a plain folder."""


def layout_of(root: Path) -> ModuleType:
    """The module that reads a folder."""
    return next((layout for layout in LAYOUTS if layout.recognise(root)), plain)


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
    found: Source = layout_of(root).read(root, options)
    return found
