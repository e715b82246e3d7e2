"""Images that :func:`fewmask.io.images.read_image` refuses, where there is a plain way to see them.

=====================================  =====================================================
found                                  read as
=====================================  =====================================================
EXIF orientation                       upright pixels
transparent pixels                     laid upon black
more bands than RGB, undeclared bands  the bands asked for, or the first three, or the first
floats, wide or signed integers        one range for all such images of the folder, or the
                                       window asked for, becomes black to white
16 bits of which few are used          the same, the range 0 to the next power of two
several pages in one file              an image each, of one group
BMP, GIF, WebP, JPEG 2000, PPM         their pixels
=====================================  =====================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from fewmask.data.content import digest_of
from fewmask.errors import DataError, Problem
from fewmask.io import deep_tiff
from fewmask.io.decoding import MAX_PIXELS, eight_bit, load, opened, refuse
from fewmask.io.images import read_header, read_image
from fewmask.layouts.records import Pixels, ReadingOptions, Source, stretched

ODD_SUFFIXES = (".bmp", ".gif", ".webp", ".jp2", ".ppm", ".pgm")
_ODD_FORMATS = ("BMP", "GIF", "WEBP", "JPEG2000", "PPM")
_GDAL_NODATA = 42_113
_SAMPLED = 1_000
_DARK_PEAK = 64
"""A 16-bit image whose brightest pixel is below this, of 255, is dark."""


@dataclass
class Look:
    """What an image file holds.

    Attributes:
        images: Of each picture in the file: the file itself, or a function that reads it.
        size: Height and width of the first, upright.
        orientation: The EXIF orientation that the file has.
        done: By code of a problem: what was found, and what is done about it.
        numbers: Some of its pixels, if these need a range; they are then read through ``ranges``.
        kind: Name of their type.
        peak: Of a plain 16-bit image, its brightest pixel, of 255; None of others.
        digest: Of the pixels of a file that is taken as it is; empty for others.
    """

    images: list[Path | Pixels] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    done: dict[str, tuple[str, str]] = field(default_factory=dict)
    numbers: np.ndarray | None = None
    kind: str = ""
    peak: int | None = None
    digest: str = ""


Ranges = dict[str, tuple[float, float]]
"""By type of pixels: what becomes black and what becomes white. Filled when all are looked at."""


def look_at(path: Path, options: ReadingOptions, ranges: Ranges) -> Look | DataError:
    """Look into an image file; decodes it once."""
    look = Look()
    if path.suffix.lower() in ODD_SUFFIXES:
        try:
            look.size = _foreign(path).shape[:2]
        except DataError as error:
            return error
        look.images = [partial(_foreign, path)]
        look.done["IMAGE-FORMAT"] = (f"a {path.suffix[1:].upper()} file", "saved as PNG")
        return look
    if options.bands and path.suffix.lower() in {".tif", ".tiff"}:
        return _numbers(path, options, ranges, Look())
    try:
        header = read_header(path)
        pixels = read_image(path)
    except DataError as error:
        return _see_otherwise(path, error, options, ranges)
    look.size, look.orientation = (header.height, header.width), header.orientation
    cut_to_8 = header.format == "PNG" and header.mode == "RGB"  # Pillow keeps no more of these
    if header.bits == 16 and not cut_to_8:
        look.peak = int(pixels.max())
    look.images, look.digest = [path], digest_of(pixels)
    if header.orientation != 1:
        look.images = [partial(read_image, path)]
        look.done["EXIF-ORIENTATION"] = ("an EXIF orientation", "turned upright, saved as PNG")
    return look


def settle_ranges(looks: dict[Path, Look], options: ReadingOptions, ranges: Ranges) -> None:
    """Decide, for each type of pixels, what becomes black and white in all images alike.

    16-bit images of which not one is bright are among them: 12-bit sensors give such.
    """
    deep = {path: look.peak for path, look in looks.items() if look.peak is not None}
    if deep and max(deep.values()) < _DARK_PEAK:
        for path in deep:
            look = _numbers(path, options, ranges, Look(orientation=looks[path].orientation))
            if isinstance(look, Look):
                looks[path] = look
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for look in looks.values():
        if look.numbers is not None:
            found[look.kind].append(look.numbers)
    for kind, samples in found.items():
        values = np.concatenate(samples)
        if options.window is not None:
            ranges[kind] = options.window
        elif kind == "uint16":
            ranges[kind] = 0.0, float(2 ** max(1, int(values.max()).bit_length()) - 1)
        elif len(values):
            low, high = np.percentile(values.astype(np.float64), (0.1, 99.9))
            ranges[kind] = float(low), float(high) if high > low else float(low) + 1
        else:
            ranges[kind] = 0.0, 1.0


def tell(looks: Mapping[Path, Look], ranges: Ranges, source: Source) -> None:
    """Add what is done about odd images to the source's repairs, one for each kind."""
    files: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for path, look in looks.items():
        for code, (found, done) in look.done.items():
            if look.numbers is not None and look.kind in ranges and "{low}" in done:
                low, high = ranges[look.kind]
                done = done.format(low=f"{low:g}", high=f"{high:g}")
            files[code, found, done].append(path)
    for (code, found, done), paths in files.items():
        where = ", ".join(path.name for path in paths[:3])
        where += f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        source.repaired(code, where, found, "8- or 16-bit grey or RGB, upright", done)


def _see_otherwise(
    path: Path, error: DataError, options: ReadingOptions, ranges: Ranges
) -> Look | DataError:
    codes = {problem.code for problem in error.problems}
    if codes == {"IMAGE-ALPHA"}:
        try:
            look = Look([partial(_upon_black, path)], _upon_black(path).shape[:2])
        except DataError as again:
            return again
        look.done["IMAGE-ALPHA"] = ("transparent pixels", "laid upon black")
        return look
    if codes & {"IMAGE-BANDS", "IMAGE-CHANNELS", "IMAGE-DTYPE"}:
        return _numbers(path, options, ranges, Look())
    if codes == {"IMAGE-PAGES"}:
        return _pages(path, error)
    return error


def _numbers(
    path: Path, options: ReadingOptions, ranges: Ranges, look: Look
) -> Look | DataError:  # fmt: skip
    """A TIFF, or a deep PNG, of any number of bands of any type."""
    try:
        values, nodata = _bands(path)
        chosen = _chosen(path, values.shape[2], options)
    except DataError as error:
        return error
    values = values[..., chosen]
    look.size, look.kind = values.shape[:2], str(values.dtype)
    bands = f"{'bands' if len(chosen) > 1 else 'band'} {', '.join(str(b + 1) for b in chosen)}"
    if values.dtype == np.uint8:
        look.images = [partial(_banded, path, chosen)]
        look.done["IMAGE-BANDS"] = ("bands that are not declared as RGB", f"{bands} are taken")
        return look
    valid = values[np.isfinite(values) & (values != nodata)]
    step = max(1, valid.size // _SAMPLED)
    look.numbers = valid.ravel()[::step].copy()
    look.images = [partial(_stretched_bands, path, chosen, look.kind, ranges)]
    dark = look.kind == "uint16"
    look.done["IMAGE-DARK" if dark else "IMAGE-DTYPE"] = (
        f"pixels of type {look.kind}",
        f"{bands}; {{low}} becomes black and {{high}} white, in all such images alike",
    )
    return look


def _pages(path: Path, error: DataError) -> Look | DataError:
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return error
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [n for n, page in enumerate(tiff.pages) if not page.aspage().is_reduced]
            shapes = {tiff.pages[n].shape for n in pages}
            kinds = {str(tiff.pages[n].dtype) for n in pages}
    except Exception:  # damage of any kind: what is known of the file stays true
        return error
    shape = next(iter(shapes))
    if kinds - {"uint8", "uint16"} or len(shapes) > 1 or shape[2:] not in {(), (3,)}:
        return error
    height, width = shape[:2]
    look = Look([partial(_page, path, number) for number in pages], (height, width))
    look.done["IMAGE-PAGES"] = (f"{len(pages)} pages", "an image of each page, all of one group")
    return look


def _page(path: Path, number: int) -> np.ndarray:
    try:
        pixels = tifffile.imread(path, key=number)
    except Exception as error:
        _damaged(path, error)
    return pixels if pixels.ndim == 2 else eight_bit(pixels)


def _bands(path: Path) -> tuple[np.ndarray, float]:
    """(H, W, C) stored numbers, upright, and the value that means `no data` (NaN without one)."""
    try:
        if path.suffix.lower() not in {".tif", ".tiff"}:
            with opened(path) as image:
                load(image)
                values = np.asarray(ImageOps.exif_transpose(image))
            return (values[..., None] if values.ndim == 2 else values), float("nan")
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            if sum(1 for each in tiff.pages if not each.aspage().is_reduced) > 1:
                refuse(path, "IMAGE-PAGES", "several pictures of more bands than RGB",
                       "one picture in a file", "save the pages as files of their own")  # fmt: skip
            if page.dtype is not None and page.dtype.kind not in "biuf":
                refuse(path, "IMAGE-DTYPE", f"pixels of type {page.dtype}", "real numbers",
                       "save what is to be seen of them")  # fmt: skip
            if page.imagelength * page.imagewidth > MAX_PIXELS:
                refuse(path, "IMAGE-TOO-LARGE", f"{page.imagelength:,} x {page.imagewidth:,}",
                       f"at most {MAX_PIXELS:,} pixels", "cut the image into tiles")  # fmt: skip
            tag = page.tags.get(_GDAL_NODATA)
            orientation = page.tags.get(274)
            nodata = float(str(tag.value).strip("\0 ")) if tag is not None else float("nan")
        values = deep_tiff.read_first_page(path)
        values = values[..., None] if values.ndim == 2 else values
        turn = int(orientation.value) if orientation is not None else 1
        return deep_tiff.upright(values, turn), nodata
    except DataError:
        raise
    except Exception as error:  # damage makes a decoder raise anything
        _damaged(path, error)


def _chosen(path: Path, count: int, options: ReadingOptions) -> list[int]:
    if options.bands:
        if max(options.bands) > count:
            refuse(path, "IMAGE-BANDS", f"{count} bands",
                   f"a band {max(options.bands)}, as asked for", "other --bands")  # fmt: skip
        return [band - 1 for band in options.bands]
    return [0, 1, 2] if count >= 3 else [0]


def _banded(path: Path, chosen: Sequence[int]) -> np.ndarray:
    values = _bands(path)[0][..., list(chosen)]
    return values if values.shape[2] == 3 else values[..., 0]


def _stretched_bands(path: Path, chosen: Sequence[int], kind: str, ranges: Ranges) -> np.ndarray:
    values, nodata = _bands(path)
    values = values[..., list(chosen)]
    low, high = ranges[kind]
    grey = np.where(values == nodata, 0, stretched(values, low, high)).astype(np.uint16)
    if grey.shape[2] == 1:
        return grey[..., 0]
    return eight_bit(grey)


def _upon_black(path: Path) -> np.ndarray:
    with opened(path) as image:
        load(image)
        return _opaque(ImageOps.exif_transpose(image))


def read_foreign(path: Path) -> Image.Image:
    """A picture in one of the formats of :data:`ODD_SUFFIXES`, decoded and upright.

    Raises:
        DataError: damaged, too large, several pictures in one, or something else.
    """
    try:
        with Image.open(path, formats=_ODD_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                refuse(path, "IMAGE-TOO-LARGE", f"{image.width:,} x {image.height:,}",
                       f"at most {MAX_PIXELS:,} pixels", "cut the image into tiles")  # fmt: skip
            if getattr(image, "n_frames", 1) > 1:
                refuse(path, "IMAGE-PAGES", "several pictures", "one picture in a file",
                       "save them as PNG, each by itself")  # fmt: skip
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        refuse(path, "IMAGE-FORMAT", f"no {path.suffix[1:].upper()} file", "what the name says",
               "convert it to PNG, or remove it")  # fmt: skip
    except DataError:
        raise
    except Exception as error:  # damage makes a decoder raise anything
        _damaged(path, error)


def _foreign(path: Path) -> np.ndarray:
    return _opaque(read_foreign(path))


def _opaque(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8, laid upon black."""
    rgba = image.convert("RGBA")
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return np.array(Image.alpha_composite(black, rgba).convert("RGB"))


def _damaged(path: Path, error: Exception) -> NoReturn:
    raise DataError(
        Problem("IMAGE-TRUNCATED", str(path), f"damaged or cut off ({type(error).__name__})",
                "a file that decodes to its last row", "copy the file again, or remove it")
    ) from error  # fmt: skip
