"""Pixels as they are stored, for a screen: a window of their values, a choice of bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fewmask.errors import UsageError
from fewmask.io import deep_tiff
from fewmask.io.images import read_header, read_image


def stored(path: Path) -> np.ndarray:
    """All bands of an image in the type they are stored in, upright.

    Returns:
        (H, W, C) uint8 or uint16.

    Raises:
        DataError: it cannot be read.
    """
    header = read_header(path)
    if header.format == "TIFF" and header.mode != "P":
        pixels = deep_tiff.upright(deep_tiff.read_first_page(path), header.orientation)
        if pixels.dtype in (np.uint8, np.uint16):
            return pixels[..., None] if pixels.ndim == 2 else pixels
    if header.bits == 16:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                return np.asarray(upright).astype(np.uint16)[..., None]
    return read_image(path)


def on_screen(
    pixels: np.ndarray, bands: Sequence[int], window: tuple[float, float] | None
) -> np.ndarray:
    """Some bands in a window of values.

    Args:
        pixels: (H, W, C) of :func:`stored`.
        bands: One, or those that are red, green and blue, from 1; empty: the first three, or the
            only one.
        window: Values that become black and white; None: the whole range of the type.

    Returns:
        (H, W) or (H, W, 3) uint8.

    Raises:
        UsageError: no such bands, or a window without values.
    """
    count = pixels.shape[2]
    chosen = list(bands) or ([1, 2, 3] if count >= 3 else [1])
    low, high = window or (0.0, float(np.iinfo(pixels.dtype).max))
    if len(chosen) not in {1, 3} or not all(1 <= band <= count for band in chosen) or low >= high:
        raise UsageError.of(
            "VIEW", where="bands and window", found=f"{chosen}, {low:g} to {high:g}",
            expected=f"one or three of {count} bands, black below white", fix="choose others",
        )  # fmt: skip
    some = pixels[..., [band - 1 for band in chosen]]
    if window is not None or pixels.dtype != np.uint8:
        scaled = (some.astype(np.float32) - low) * (255 / (high - low))
        some = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return some[..., 0] if len(chosen) == 1 else some


def facts(pixels: np.ndarray) -> dict[str, float]:
    """Bands, bits, and the values between which 99 of 100 pixels lie."""
    low, high = np.percentile(pixels[::4, ::4], (0.5, 99.5))
    bits = pixels.dtype.itemsize * 8
    return {
        "bands": pixels.shape[2],
        "bits": bits,
        "low": float(low),
        "high": float(max(high, low + 1)),
    }
