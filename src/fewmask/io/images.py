"""PNG, JPEG and TIFF files in and out, decoded once and for all users of pixels.

Every reader decodes the whole file, applies the EXIF orientation, and either returns exact pixels
or raises :class:`~fewmask.errors.DataError`. Nothing is repaired, guessed or clipped.

=================  ==============================================================================
code               meaning
=================  ==============================================================================
IMAGE-MISSING      no such file
IMAGE-UNREADABLE   the operating system refuses to read it
IMAGE-EMPTY        zero bytes
IMAGE-FORMAT       neither PNG, JPEG nor TIFF, whatever its suffix says
IMAGE-TRUNCATED    the header is fine, the pixels cannot be decoded to the last one
IMAGE-TOO-LARGE    more than ``MAX_PIXELS``; found in the header, nothing is decoded
IMAGE-PAGES        several pictures in one file
IMAGE-ALPHA        transparent pixels
IMAGE-CHANNELS     not 1, 3 or 4 channels
IMAGE-BANDS        a TIFF whose bands are not declared as RGB, or RGB and alpha
IMAGE-DTYPE        floats, signed or wider integers, or a colour space without a fixed RGB
MASK-RGB           a coloured picture where class ids are expected
MASK-DTYPE         not whole numbers
=================  ==============================================================================
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from fewmask.errors import UsageError
from fewmask.io import deep_tiff
from fewmask.io.decoding import (
    MAX_PIXELS,
    ImageHeader,
    eight_bit,
    header,
    load,
    opened,
    refuse,
    refuse_dtype,
    require_channels_and_depth,
    stored_bits,
)
from fewmask.io.whole_files import write_whole

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageHeader",
    "image_size",
    "read_header",
    "read_image",
    "read_mask",
    "write_grey16",
    "write_image",
    "write_mask",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_EIGHT_BIT = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_GREY_STEP = {2: 85, 4: 17}  # Pillow spreads 2- and 4-bit grey over 0..255
_SAMPLES = 277


def read_header(path: Path | str) -> ImageHeader:
    """Read size, format and orientation; no pixel is decoded.

    Raises:
        DataError: The file is missing, empty, foreign, too large or damaged in its header.
    """
    with opened(Path(path)) as image:
        return header(image)


def image_size(path: Path | str) -> tuple[int, int]:
    """``(height, width)`` after EXIF orientation, from the header alone.

    Raises:
        DataError: As :func:`read_header`.
    """
    found = read_header(path)
    return found.height, found.width


def read_image(path: Path | str) -> np.ndarray:
    """Decode a file to RGB.

    Grey is replicated, palettes are expanded, CMYK is converted, an opaque alpha channel is
    dropped, and 16-bit samples are divided by 257 (65535 becomes 255; nothing is clipped or
    stretched), so equal files always give equal pixels.

    Returns:
        ``(H, W, 3)`` uint8 in [0, 255], EXIF orientation applied.

    Raises:
        DataError: With one of the codes of the module's table.
    """
    path = Path(path)
    with opened(path) as image:
        if _needs_tifffile(image):
            return _to_rgb8(path, _read_deep_tiff(path, header(image).orientation))
        _require_supported(path, image)
        load(image)
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _SIXTEEN_BIT:
            return _to_rgb8(path, np.asarray(upright).astype(np.uint16)[..., None])
        if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
            return _to_rgb8(path, np.asarray(upright.convert("RGBA")))
        return np.array(upright.convert("RGB"))


def read_mask(path: Path | str) -> np.ndarray:
    """Decode a file of class ids exactly as they are stored.

    A palette file gives its indices, never its colours; 1-bit gives 0 and 1; a coloured file is
    accepted only if its three channels are equal.

    Returns:
        ``(H, W)`` integer array (uint8, uint16 or int32), EXIF orientation applied.

    Raises:
        DataError: With one of the codes of the module's table.
    """
    path = Path(path)
    with opened(path) as image:
        if _needs_tifffile(image):
            return _single_channel(path, _read_deep_tiff(path, header(image).orientation))
        if image.mode == "F":
            refuse(path, "MASK-DTYPE", "floats", "whole class ids", "save the mask as 8-bit PNG")
        bits = header(image).bits
        load(image)
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "1":
            return np.array(upright, dtype=np.uint8)
        if upright.mode in {"L", "P", "I"}:
            step = _GREY_STEP.get(bits, 1) if upright.mode == "L" else 1
            return np.array(upright) // step
        if upright.mode in _SIXTEEN_BIT:
            return np.asarray(upright).astype(np.uint16)
        _require_supported(path, upright)
        return _single_channel(path, np.array(upright.convert("RGBA")))


def write_mask(path: Path | str, mask: np.ndarray) -> None:
    """Write ids as an 8-bit grey PNG; the file appears whole or not at all.

    Args:
        path: Target, suffix ``.png``; its folder exists.
        mask: ``(H, W)`` whole numbers in [0, 255].

    Raises:
        UsageError: Wrong suffix, shape or values.
        ResourceError: The disk refuses.
    """
    path, mask = Path(path), np.asarray(mask)
    whole = mask.dtype == bool or np.issubdtype(mask.dtype, np.integer)
    if path.suffix.lower() != ".png":
        raise UsageError.of(
            "MASK-SUFFIX", where=path, found=path.suffix or "no suffix", expected=".png",
            fix="name the mask *.png; other formats can change ids",
        )  # fmt: skip
    if mask.ndim != 2 or not whole or (mask.size and (mask.min() < 0 or mask.max() > 255)):
        raise UsageError.of(
            "MASK-DTYPE", where=path, found=f"{mask.dtype} of shape {mask.shape}",
            expected="(H, W) whole numbers in 0..255", fix="pass class ids",
        )  # fmt: skip
    _write_atomically(path, Image.fromarray(mask.astype(np.uint8)), "PNG")


def write_image(path: Path | str, image: np.ndarray) -> None:
    """Write RGB or grey pixels; the file appears whole or not at all.

    Args:
        path: Target; the suffix picks PNG, JPEG (quality 95, no chroma subsampling) or TIFF.
        image: ``(H, W, 3)`` or ``(H, W)`` uint8 in [0, 255].

    Raises:
        UsageError: Wrong suffix, shape or dtype.
        ResourceError: The disk refuses.
    """
    path, image = Path(path), np.asarray(image)
    formats = dict(zip(IMAGE_SUFFIXES, ("PNG", "JPEG", "JPEG", "TIFF", "TIFF"), strict=True))
    chosen = formats.get(path.suffix.lower())
    if chosen is None or image.dtype != np.uint8 or image.shape[2:] not in {(), (3,)}:
        raise UsageError.of(
            "IMAGE-DTYPE", where=path, found=f"{image.dtype} of shape {image.shape}",
            expected=f"(H, W, 3) uint8 and a suffix of {', '.join(IMAGE_SUFFIXES)}",
            fix="convert the pixels to uint8 RGB",
        )  # fmt: skip
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if chosen == "JPEG" else {}
    _write_atomically(path, Image.fromarray(image), chosen, **options)


def write_grey16(path: Path | str, image: np.ndarray) -> None:
    """Write 16-bit grey pixels as PNG; the file appears whole or not at all.

    Args:
        path: Target, suffix ``.png``.
        image: ``(H, W)`` uint16 in [0, 65535].

    Raises:
        UsageError: Wrong suffix, shape or dtype.
        ResourceError: The disk refuses.
    """
    path, image = Path(path), np.asarray(image)
    if path.suffix.lower() != ".png" or image.dtype != np.uint16 or image.ndim != 2:
        raise UsageError.of(
            "IMAGE-DTYPE", where=path, found=f"{image.dtype} of shape {image.shape}",
            expected="(H, W) uint16 and the suffix .png", fix="scale the pixels to 0..65535",
        )  # fmt: skip
    _write_atomically(path, Image.fromarray(image), "PNG")


def _require_supported(path: Path, image: Image.Image) -> None:
    if image.mode not in _EIGHT_BIT | _WITH_ALPHA | _SIXTEEN_BIT:
        refuse_dtype(path, image.mode)


def _needs_tifffile(image: Image.Image) -> bool:
    """Pillow would cut 16-bit colour down to 8 bits; tifffile keeps it."""
    if not isinstance(image, TiffImageFile):
        return False
    return stored_bits(image) == 16 and int(image.tag_v2.get(_SAMPLES, 1)) > 1


def _read_deep_tiff(path: Path, orientation: int) -> np.ndarray:
    """``(H, W, 3|4)`` uint16 of the first page, upright."""
    facts = deep_tiff.read_facts(path)
    require_channels_and_depth(path, facts)
    return deep_tiff.upright(deep_tiff.read_first_page(path), orientation)


def _to_rgb8(path: Path, pixels: np.ndarray) -> np.ndarray:
    """``(H, W, 1|3|4)`` uint8 or uint16 -> ``(H, W, 3)`` uint8; transparency is refused."""
    full = np.iinfo(pixels.dtype).max
    if pixels.shape[2] == 4 and (transparent := int((pixels[..., 3] < full).sum())):
        refuse(
            path, "IMAGE-ALPHA", f"{transparent} transparent pixels", "an opaque image",
            "flatten the image onto a background of your choice",
        )  # fmt: skip
    colours = eight_bit(pixels[..., :3])
    return np.array(np.broadcast_to(colours, (*colours.shape[:2], 3)))


def _single_channel(path: Path, pixels: np.ndarray) -> np.ndarray:
    """One channel of a colour file whose channels say the same, else MASK-RGB."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    opaque = pixels.shape[2] == 3 or bool((pixels[..., 3] == np.iinfo(pixels.dtype).max).all())
    if not opaque or (red != green).any() or (red != blue).any():
        sample = np.unique(pixels[..., :3].reshape(-1, 3), axis=0)[:4].tolist()
        refuse(
            path, "MASK-RGB", f"colours such as {sample}", "one channel of class ids",
            "save the mask as a palette or 8-bit grey PNG whose values are class ids",
        )  # fmt: skip
    return np.ascontiguousarray(red)


def _write_atomically(path: Path, image: Image.Image, chosen: str, **options: Any) -> None:
    stream = io.BytesIO()
    image.save(stream, format=chosen, **options)
    write_whole(path, stream.getvalue())
