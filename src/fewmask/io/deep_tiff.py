"""TIFF files whose samples are wider than Pillow keeps them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from tifffile import EXTRASAMPLE, PHOTOMETRIC

# Damaged files are reported by exceptions; tifffile's own log lines would only repeat them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_ALPHA = ((EXTRASAMPLE.ASSOCALPHA,), (EXTRASAMPLE.UNASSALPHA,))


@dataclass(frozen=True)
class TiffFacts:
    """What a TIFF's tags say.

    Attributes:
        channels: Samples per pixel of the first page.
        declared: Whether the tags, not only their number, make them grey, RGB(A) or CMYK.
        dtype: NumPy's name of a sample's type, or ``unknown``.
        pages: Full-size pictures; overviews (smaller copies) do not count.
    """

    channels: int
    declared: bool
    dtype: str
    pages: int


def read_facts(path: Path) -> TiffFacts:
    """Read the tags of a TIFF; raises whatever tifffile raises on damage."""
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first
        pages = sum(1 for page in tiff.pages if not page.aspage().is_reduced)
        dtype = "unknown" if first.dtype is None else str(first.dtype)
        channels, colours = first.samplesperpixel, first.photometric
        declared = {
            3: colours not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE),
            4: colours == PHOTOMETRIC.SEPARATED or first.extrasamples in _ALPHA,
        }.get(channels, True)
        return TiffFacts(channels, declared, dtype, pages)


def read_first_page(path: Path) -> np.ndarray:
    """``(H, W, C)`` pixels of the first page in the type they are stored in."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        pixels = page.asarray()
        planar = page.axes.startswith("S")  # one plane after another
    return np.moveaxis(pixels, 0, -1) if planar else pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation 1..8 on ``(H, W, ...)``.

    >>> [upright(np.array([[1, 2], [3, 4]]), code).ravel().tolist() for code in (2, 3, 6)]
    [[2, 1, 4, 3], [4, 3, 2, 1], [3, 1, 4, 2]]
    """
    turned = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p[::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p[:, ::-1].swapaxes(0, 1),
    }.get(orientation, lambda p: p)(pixels)
    return np.ascontiguousarray(turned)
