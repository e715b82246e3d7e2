"""Open PNG, JPEG and TIFF files so that damage of any kind is one kind of error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from fewmask.errors import DataError, FewmaskError
from fewmask.io import deep_tiff

MAX_PIXELS = 200_000_000

_DECODERS: dict[bytes, Callable[..., ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"II*\x00": TiffImageFile,
    b"MM\x00*": TiffImageFile,
    b"II+\x00": TiffImageFile,
    b"MM\x00+": TiffImageFile,
}
_END = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_ORIENTATION, _BITS, _COMPRESSION, _SAMPLES = 274, 258, 259, 277


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about itself before a pixel is decoded.

    Attributes:
        height: Rows after the EXIF orientation is applied.
        width: Columns after the EXIF orientation is applied.
        format: ``PNG``, ``JPEG`` or ``TIFF``.
        mode: Pillow's name of the pixel layout (``RGB``, ``L``, ``P``, ``I;16``, ...).
        bits: Bits of one stored sample.
        orientation: EXIF orientation 1..8; 1 means that rows are stored top to bottom.
    """

    height: int
    width: int
    format: str
    mode: str
    bits: int
    orientation: int


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """Open ``path`` lazily; whatever a decoder raises inside the block becomes a DataError.

    The decoder is picked by the file's first bytes and called directly: ``Image.open`` would add
    a limit of its own on the number of pixels, with its own exceptions and warnings.
    """
    try:
        with path.open("rb") as stream:
            image = _decoder(path, stream)
            _require_sane_header(path, image)
            _require_single_picture(path, image)
            yield image
    except FewmaskError:
        raise
    except Image.DecompressionBombError as error:
        fix = "cut the image into tiles"
        refuse(path, "IMAGE-TOO-LARGE", error, f"at most {MAX_PIXELS:,} pixels", fix, error)
    except FileNotFoundError:
        refuse(path, "IMAGE-MISSING", "no such file", "a file", "restore it or drop its entry")
    except (PermissionError, IsADirectoryError) as error:
        fix = "give yourself the right to read it (chmod u+r)"
        refuse(path, "IMAGE-UNREADABLE", error.strerror, "a readable file", fix, error)
    except Exception as error:  # a damaged file can make a decoder raise anything
        found = f"damaged or cut off ({type(error).__name__}: {error})"
        fix = "copy the file again from its source, or remove it"
        refuse(path, "IMAGE-TRUNCATED", found, "a file that decodes to its last row", fix, error)


def _decoder(path: Path, stream: BinaryIO) -> ImageFile:
    start = stream.read(8)
    stream.seek(0)
    if not start:
        refuse(path, "IMAGE-EMPTY", "0 bytes", "an image", "copy the file again, or remove it")
    decoder = next((found for magic, found in _DECODERS.items() if start.startswith(magic)), None)
    if decoder is None:
        fix = "convert it to PNG, or remove it"
        refuse(path, "IMAGE-FORMAT", f"a start of {start!r}", "PNG, JPEG or TIFF", fix)
    try:
        return decoder(stream)
    except (SyntaxError, OSError):
        if decoder is TiffImageFile:
            _explain_tiff(path)
        raise


def header(image: ImageFile) -> ImageHeader:
    """The header of a file that is open; its size is the upright one."""
    # PngImageFile.getexif() decodes the pixels to find an eXIf chunk behind them; this does not.
    exif = Image.Image.getexif(image)
    if isinstance(image, PngImageFile) and _ORIENTATION not in exif:
        exif.load(_png_exif(image))
    orientation = int(exif.get(_ORIENTATION, 1) or 1)
    width, height = image.size
    if isinstance(image, TiffImageFile):  # Pillow has already turned the size
        orientation = int(image.tag_v2.get(_ORIENTATION, orientation))
    elif orientation in (5, 6, 7, 8):
        width, height = height, width
    orientation = orientation if orientation in range(1, 9) else 1
    return ImageHeader(
        height, width, str(image.format), image.mode, stored_bits(image), orientation
    )


def eight_bit(samples: np.ndarray) -> np.ndarray:
    """uint8 as they are, uint16 divided by 257: nothing is clipped or stretched.

    >>> eight_bit(np.array([0, 385, 386, 65535], np.uint16)).tolist()
    [0, 1, 2, 255]
    """
    if samples.dtype == np.uint16:
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return samples


def stored_bits(image: ImageFile) -> int:
    """Bits of one sample in the file, which Pillow does not tell."""
    if isinstance(image, TiffImageFile):
        return int(max(np.atleast_1d(image.tag_v2.get(_BITS, 1))))
    if isinstance(image, PngImageFile) and image.fp is not None:
        position = image.fp.tell()
        image.fp.seek(24)  # signature 8, length 4, "IHDR" 4, width 4, height 4, then the depth
        bits = image.fp.read(1)[0]
        image.fp.seek(position)
        return bits
    return 8


def _png_exif(image: PngImageFile) -> bytes:
    """The body of the eXIf chunk, wherever it stands; empty without one."""
    if image.fp is None:
        return b""
    position = image.fp.tell()
    image.fp.seek(8)
    body = b""
    while len(start := image.fp.read(8)) == 8 and start[4:] != b"IEND":
        length = int.from_bytes(start[:4], "big")
        if start[4:] == b"eXIf":
            body = image.fp.read(length)
            break
        image.fp.seek(length + 4, 1)
    image.fp.seek(position)
    return body


def load(image: ImageFile) -> None:
    """Decode to the last row, and insist on the end marker, whose absence Pillow forgives."""
    end = _END.get(str(image.format))
    if end is not None and image.fp is not None:
        position = image.fp.tell()
        if end not in image.fp.read():
            raise EOFError("the end of the file is missing")
        image.fp.seek(position)
    image.load()


def _require_sane_header(path: Path, image: ImageFile) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        refuse(
            path, "IMAGE-TOO-LARGE", f"{height}x{width} pixels", f"at most {MAX_PIXELS:,} pixels",
            "cut the image into tiles",
        )  # fmt: skip
    if width * height == 0:
        refuse(path, "IMAGE-TRUNCATED", f"{height}x{width} pixels", "an image", "remove it")
    channels = image.tag_v2.get(_SAMPLES, 1) if isinstance(image, TiffImageFile) else 1
    if channels == 2 and image.mode not in ("LA", "PA"):  # Pillow would take the first in silence
        fix = "save the channel that is meant"
        refuse(path, "IMAGE-CHANNELS", "2 channels", "1, 3 or 4 channels", fix)
    if channels == 4:  # Pillow would drop a band of another meaning, or take it for alpha
        require_channels_and_depth(path, deep_tiff.read_facts(path))
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_COMPRESSION, 1) == 1:
        needed = width * height * stored_bits(image) * channels // 8
        if needed > path.stat().st_size:  # a forged size must not claim memory
            found = f"{path.stat().st_size} bytes for {height}x{width} pixels"
            fix = "copy the file again from its source, or remove it"
            refuse(path, "IMAGE-TRUNCATED", found, f"at least {needed} bytes", fix)


def _require_single_picture(path: Path, image: ImageFile) -> None:
    """Overviews (smaller copies inside a TIFF) are fine; stacks and animations are not."""
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and isinstance(image, TiffImageFile):
        pages = deep_tiff.read_facts(path).pages
    if pages > 1:
        fix = "save each picture as a file of its own"
        refuse(path, "IMAGE-PAGES", f"{pages} pictures", "one picture per file", fix)


def _explain_tiff(path: Path) -> None:
    """Say why Pillow has no name for this TIFF; silent if it is merely damaged."""
    require_channels_and_depth(path, deep_tiff.read_facts(path))


def require_channels_and_depth(path: Path, facts: deep_tiff.TiffFacts) -> None:
    """Refuse a TIFF whose pixels have no fixed meaning as RGB."""
    if facts.channels not in (1, 3, 4):
        fix = "pick three bands and save them as RGB"
        refuse(path, "IMAGE-CHANNELS", f"{facts.channels} channels", "1, 3 or 4 channels", fix)
    if not facts.declared:
        refuse(
            path, "IMAGE-BANDS", "a fourth band that is not declared as alpha"
            if facts.channels == 4 else "three bands that are not declared as red, green and blue",
            "RGB", "save three bands as RGB "
            "(gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB old.tif new.tif)",
        )  # fmt: skip
    if facts.dtype not in ("uint8", "uint16", "bool"):
        refuse_dtype(path, facts.dtype)


def refuse_dtype(path: Path, found: str) -> NoReturn:
    """Raise ``IMAGE-DTYPE``."""
    refuse(
        path, "IMAGE-DTYPE", f"pixels of type {found}", "8- or 16-bit grey or RGB",
        "scale the image to 8 bits with one fixed range for the whole data set",
    )  # fmt: skip


def refuse(
    path: Path, code: str, found: object, expected: str, fix: str, cause: Exception | None = None
) -> NoReturn:
    """Raise a DataError about ``path``."""
    raise DataError.of(code, where=path, found=found, expected=expected, fix=fix) from cause
