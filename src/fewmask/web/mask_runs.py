"""Masks in JSON: runs of equal class ids, row by row."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from fewmask.errors import UsageError


def encode(mask: np.ndarray) -> list[int]:
    """Turn (H, W) ids into value, length, value, length, and so on.

    >>> encode(np.array([[0, 0, 1], [1, 1, 0]], np.uint8))
    [0, 2, 1, 3, 0, 1]
    """
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    return np.stack([flat[starts].astype(np.int64), lengths], 1).ravel().tolist()


def decode(runs: Sequence[int], shape: tuple[int, int], allowed: Collection[int]) -> np.ndarray:
    """The mask that :func:`encode` was given.

    Args:
        runs: Value, length, …
        shape: Height and width of the image.
        allowed: Ids that may be in it.

    Returns:
        (H, W) uint8.

    Raises:
        UsageError: other ids, or more or fewer pixels than the image has.
    """
    pairs = np.array(runs[: len(runs) // 2 * 2], np.int64).reshape(-1, 2)
    values, lengths = pairs[:, 0], pairs[:, 1]
    pixels = shape[0] * shape[1]
    if len(runs) % 2 or (lengths < 1).any() or (lengths > pixels).any() or lengths.sum() != pixels:
        found = f"runs of {lengths.sum()} pixels"
        raise _refused(found, f"{pixels}, {shape[0]} rows of {shape[1]}")
    strange = set(np.unique(values).tolist()) - set(allowed)
    if strange:
        raise _refused(f"ids {sorted(strange)[:5]}", f"some of {sorted(allowed)}")
    return np.repeat(values.astype(np.uint8), lengths).reshape(shape)


def _refused(found: str, expected: str) -> UsageError:
    return UsageError.of("REVIEW-MASK", where="mask", found=found, expected=expected,
                         fix="send the mask of this image")  # fmt: skip
