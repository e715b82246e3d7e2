"""Put two pieces of evidence together: a class activation map and a translation difference.

The two see different things: the CAM finds the object but blurs its outline, the difference
between an image and its object-free translation is sharp but incomplete.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewmask.conventions import LUMA
from fewmask.errors import DataError, UsageError
from fewmask.masks.threshold import check_score, otsu_value

METHODS = ("intersection", "union", "product", "mean", "geometric_mean", "hysteresis")

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def hysteresis(seed_mask: NDArray[np.bool_], grow_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The 8-connected parts of ``grow_mask`` that touch ``seed_mask``.

    Args:
        seed_mask: (H, W) or (N, H, W) boolean: where the object certainly is.
        grow_mask: Boolean of the same shape: how far it may reach.

    Returns:
        Boolean of the same shape, a subset of ``grow_mask``. Images of a stack do not mix.

    >>> seed = np.array([[1, 0, 0, 0, 0]], bool)
    >>> grow = np.array([[1, 1, 0, 1, 1]], bool)
    >>> hysteresis(seed, grow).astype(int).tolist()
    [[1, 1, 0, 0, 0]]
    """
    _check_same_shape(seed_mask, grow_mask)
    seed_mask, grow_mask = np.asarray(seed_mask, bool), np.asarray(grow_mask, bool)
    if grow_mask.ndim == 3:
        return np.stack([hysteresis(s, g) for s, g in zip(seed_mask, grow_mask, strict=True)])
    parts, n_parts = ndimage.label(grow_mask, structure=_EIGHT_NEIGHBOURS)
    touched = np.zeros(n_parts + 1, dtype=bool)
    touched[parts[seed_mask]] = True
    touched[0] = False
    return touched[parts]


def fuse_soft(
    cam: NDArray[np.floating],
    difference: NDArray[np.floating],
    method: str,
    *,
    seed_value: float | None = None,
    grow_value: float | None = None,
) -> NDArray[np.float32]:
    """Combine two maps into one score.

    ``intersection`` and ``union`` are the pixel's minimum and maximum: thresholding them at t is
    the same as cutting both maps at t and taking the logical AND or OR. ``hysteresis`` keeps the
    difference in those of its parts above ``grow_value`` that touch the CAM above ``seed_value``,
    and is 0 elsewhere.

    Args:
        cam: (H, W) or (N, H, W) float in [0, 1].
        difference: Float in [0, 1] of the same shape.
        method: One of :data:`METHODS`.
        seed_value: For ``hysteresis``; Otsu's value of ``cam`` (pooled over a stack) by default.
        grow_value: For ``hysteresis``; Otsu's value of ``difference`` by default.

    Returns:
        float32 score in [0, 1] of the same shape.

    Raises:
        UsageError: Unknown method.
        DataError: The shapes differ, or values lie outside [0, 1].

    >>> fuse_soft(np.array([[0.9]]), np.array([[0.4]]), "geometric_mean").round(3).tolist()
    [[0.6000000238418579]]
    """
    cam, difference = check_score(cam, "cam"), check_score(difference, "difference")
    _check_same_shape(cam, difference)
    cam, difference = cam.clip(0, 1), difference.clip(0, 1)
    if method == "intersection":
        return np.minimum(cam, difference)
    if method == "union":
        return np.maximum(cam, difference)
    if method == "product":
        return cam * difference
    if method == "mean":
        return np.float32(0.5) * (cam + difference)
    if method == "geometric_mean":
        return np.sqrt(cam * difference).astype(np.float32)
    if method == "hysteresis":
        seed = cam > (otsu_value(cam) if seed_value is None else seed_value)
        grow = difference > (otsu_value(difference) if grow_value is None else grow_value)
        return difference * hysteresis(seed, grow)
    raise UsageError.of(
        "FUSE-METHOD",
        where="method",
        found=repr(method),
        expected=f"one of {', '.join(METHODS)}",
        fix="choose one of these methods",
    )


def difference_map(
    image: NDArray[np.uint8] | NDArray[np.floating],
    translated: NDArray[np.uint8] | NDArray[np.floating],
    *,
    scale: Literal["absolute", "minmax"] = "absolute",
) -> NDArray[np.floating]:
    """How much a translation changed each pixel: the grey value of |translated − image|.

    Args:
        image: (H, W, 3) or (N, H, W, 3) RGB, uint8 in 0..255 or float in [0, 1].
        translated: The same image from the other domain; same shape, either type.
        scale: ``absolute``: 1 is a change of the full range, so an unchanged image gives zeros.
            ``minmax``: stretch each image's own map to [0, 1] (a constant map gives zeros); then
            every image that changed at all has a pixel at 1.

    Returns:
        float32 in [0, 1], (H, W) or (N, H, W): 0.299 R + 0.587 G + 0.114 B of the difference.

    Raises:
        UsageError: Unknown scale.
        DataError: Shapes differ or are not RGB, or floats lie outside [0, 1].
    """
    if scale not in ("absolute", "minmax"):
        raise UsageError.of(
            "DIFFERENCE-SCALE",
            where="scale",
            found=repr(scale),
            expected="'absolute' or 'minmax'",
            fix="choose one of the two",
        )
    before, after = unit_rgb(image, "image"), unit_rgb(translated, "translated")
    _check_same_shape(before, after)
    grey = np.abs(after - before) @ np.array(LUMA, np.float32)  # (..., H, W, 3) -> (..., H, W)
    if scale == "absolute":
        return grey.clip(0, 1)
    low = grey.min(axis=(-2, -1), keepdims=True)
    spread = grey.max(axis=(-2, -1), keepdims=True) - low
    return np.divide(grey - low, spread, out=np.zeros_like(grey), where=spread > 0)


def unit_rgb(
    image: NDArray[np.uint8] | NDArray[np.floating], where: str = "image"
) -> NDArray[np.floating]:
    """(..., H, W, 3) RGB as float32 in [0, 1], from uint8 or from floats already in that range.

    Raises:
        DataError: Not RGB in the last axis, another integer type, or floats outside [0, 1].
    """
    image = np.asarray(image)
    if image.ndim not in (3, 4) or image.shape[-1] != 3:
        raise DataError.of(
            "IMAGE-SHAPE",
            where=where,
            found=f"an array of shape {image.shape}",
            expected="(height, width, 3) or (n, height, width, 3)",
            fix="convert the image to RGB with channels last",
        )
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    in_range = np.issubdtype(image.dtype, np.floating) and image.min() >= 0 and image.max() <= 1
    if not in_range:
        raise DataError.of(
            "IMAGE-RANGE",
            where=where,
            found=f"{image.dtype} from {image.min():.4g} to {image.max():.4g}",
            expected="uint8 in 0..255 or float in [0, 1]",
            fix="map network output from [-1, 1] to [0, 1] first",
        )
    return image.astype(np.float32)


def _check_same_shape(a: NDArray, b: NDArray) -> None:
    if np.shape(a) != np.shape(b):
        raise DataError.of(
            "FUSE-SHAPE",
            where="the two inputs",
            found=f"shapes {np.shape(a)} and {np.shape(b)}",
            expected="equal shapes",
            fix="resize one to the other first",
        )
