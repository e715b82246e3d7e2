"""Find the same picture again: mirrored, turned by quarters, resized or compressed anew.

A fingerprint is the low-frequency part of a picture's cosine transform. A mirror image changes
only its signs and a quarter turn also swaps its axes, so that one fingerprint is compared with all
eight views of another at no cost. Two pictures count as copies if what differs is no more than
compression and resampling leave behind. Crops, other colours and pictures without contrast are not
recognised; nor is anything else by chance: distinct photographs differ by 0.5 of their contrast.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.fft import dctn
from scipy.sparse import lil_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from fewmask.conventions import LUMA

SIDE, KEPT = 64, 16
ROUNDING, RELATIVE, MOST = 0.7, 0.02, 0.2
"""Copies differ by at most ROUNDING grey levels + RELATIVE of the contrast, and MOST of it."""
LEAST_CONTRAST = 1.0
"""Standard deviation in grey levels below which pictures show nothing to compare."""
_SIGNS = np.where(np.arange(KEPT) % 2, -1, 1).astype(np.float32)
_COARSE = np.triu_indices(8)


def fingerprint(image: np.ndarray) -> np.ndarray:
    """The low frequencies of a picture squeezed into a square.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (16, 16) float32 in grey levels; entry (0, 0) is the mean.
    """
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    found: np.ndarray = dctn(small @ np.array(LUMA, np.float32), norm="ortho")[:KEPT, :KEPT] / SIDE
    return found.astype(np.float32)


class Album:
    """Pictures to look for copies in.

    Args:
        fingerprints: Of each picture, from :func:`fingerprint`.
    """

    def __init__(self, fingerprints: Sequence[np.ndarray]) -> None:
        self._all = np.stack(fingerprints)
        self._contrast = np.array([_contrast(one) for one in fingerprints])
        self._tree = cKDTree([_view_free(one) for one in fingerprints])

    def copies_of(self, wanted: np.ndarray) -> list[int]:
        """Positions of the pictures that are copies of the one with this fingerprint."""
        contrast = _contrast(wanted)
        if contrast < LEAST_CONTRAST:
            return []
        limit = min(ROUNDING + RELATIVE * contrast, MOST * contrast)
        near = np.array(sorted(self._tree.query_ball_point(_view_free(wanted), limit)), dtype=int)
        near = near[self._contrast[near] >= LEAST_CONTRAST]
        distances = [np.linalg.norm(self._all[near] - view, axis=(1, 2)) for view in _views(wanted)]
        return near[np.min(distances, axis=0) <= limit].tolist()


def find_copies(fingerprints: Sequence[np.ndarray]) -> list[int]:
    """For each picture the position of the first of its copies, in chains; its own if it has none.

    >>> flat, ramp = np.zeros((8, 8, 3), np.uint8), np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    >>> find_copies([fingerprint(image) for image in (flat, ramp, flat, ramp[::-1])])
    [0, 1, 2, 1]
    """
    if not fingerprints:
        return []
    album = Album(fingerprints)
    copies = lil_array((len(fingerprints), len(fingerprints)), dtype=bool)
    for one, wanted in enumerate(fingerprints):
        copies[one, album.copies_of(wanted)] = True
    _, chain = connected_components(copies.tocsr(), directed=False)
    _, starts = np.unique(chain, return_index=True)
    return starts[chain].tolist()


def _contrast(one: np.ndarray) -> float:
    return float(np.sqrt(np.square(one).sum() - np.square(one[0, 0])))


def _views(one: np.ndarray) -> list[np.ndarray]:
    """The fingerprints of the eight mirrored and turned views."""
    mirrored = [one, one * _SIGNS, one * _SIGNS[:, None], one * _SIGNS * _SIGNS[:, None]]
    return mirrored + [view.T for view in mirrored]


def _view_free(one: np.ndarray) -> np.ndarray:
    """A coarse fingerprint that is the same for all eight views, and never further apart."""
    return np.hypot(one, one.T)[_COARSE] / np.where(_COARSE[0] == _COARSE[1], np.sqrt(2), 1)
