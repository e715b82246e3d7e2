"""Training images put together from two domains, and images drawn by what is rare on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import DataError


def class_mix_region(target: Tensor, rng: np.random.Generator) -> Tensor:
    """The pixels of half of the classes of a mask, drawn at random (rounded up).

    Args:
        target: (H, W) int64 ids and 255; 255 is no class.
        rng: Draws the classes.

    Returns:
        (H, W) bool: what is to be pasted.

    Source: Olsson et al. 2021 ("ClassMix"), algorithm 1; across domains Tranheden et al. 2021
        ("DACS").
    """
    classes = [int(k) for k in target.unique() if k != IGNORE_INDEX]
    count = (len(classes) + 1) // 2
    chosen = rng.permutation(classes)[:count].tolist()
    return torch.isin(target, torch.tensor(chosen, dtype=target.dtype, device=target.device))


def paste(region: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    """``upper`` where ``region`` is true, ``lower`` elsewhere.

    Args:
        region: (H, W) bool.
        upper: (..., H, W): an image (3, H, W), a mask or weights (H, W).
        lower: The same of the other domain.
    """
    return torch.where(region, upper, lower)


def rare_image_shares(
    class_pixels: np.ndarray, temperature: float = 0.1, least_px: int = 1
) -> np.ndarray:
    """How often to draw each image, if a class is drawn first and then one of its images.

    Args:
        class_pixels: (N, C) pixels of each class on each image.
        temperature: Of :func:`rare_class_shares`.
        least_px: An image has a class if so many of its pixels do.

    Returns:
        (N,) float64 that sums to 1.

    Raises:
        DataError: no image has a class.

    Source: Hoyer et al. 2022 ("DAFormer"), section 3.3.

    >>> pixels = np.array([[90, 0], [80, 10], [90, 0]])
    >>> rare_image_shares(pixels, temperature=1.0).round(2).tolist()
    [0.09, 0.81, 0.09]
    """
    has = class_pixels >= max(least_px, 1)  # (N, C)
    shares = rare_class_shares(np.where(has.any(0), class_pixels.sum(0), 0), temperature)
    return has / np.maximum(has.sum(0), 1) @ shares


def rare_class_shares(pixels: np.ndarray, temperature: float = 0.1) -> np.ndarray:
    """How often to ask for an image with each class: exp((1 − f) / T), normalised.

    Args:
        pixels: (C,) number of pixels of each class in the training masks; one with none is never
            asked for.
        temperature: T, above 0; lower asks for rare classes more often.

    Returns:
        (C,) float64 that sums to 1.

    Raises:
        DataError: there is no pixel of any class.

    Source: Hoyer et al. 2022 ("DAFormer"), eq. 7 and 8.
    Differs: T is 0.1 unless given; theirs is 0.01, for 19 classes of which some are very rare.

    >>> rare_class_shares(np.array([90, 10, 0]), temperature=1.0).round(2).tolist()
    [0.31, 0.69, 0.0]
    """
    total = pixels.sum()
    if total == 0:
        raise DataError.of(
            "MASKS-EMPTY",
            where="source masks",
            found="no pixel of any class",
            expected="masks with classes",
            fix="look at the masks: are all pixels 255?",
        )
    share = (1 - pixels / total) / temperature
    weight = np.where(pixels > 0, np.exp(share - share.max()), 0.0)
    return weight / weight.sum()
