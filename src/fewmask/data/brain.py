"""Slices of an average brain for the demo of pipeline ``factory``; needs the extra ``demo``.

The MNI152 template (T1) and its grey- and white-matter maps ship inside nilearn's package. It is
the average of 152 heads and symmetric, and neighbouring slices are nearly alike: test slices are
two blocks, with slices between them and the others that belong to no part. Good to see all stages
at work; no benchmark, as one head says nothing about another.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from fewmask.data.sample import require_empty
from fewmask.data.transforms import resize_image, resize_mask
from fewmask.errors import ResourceError
from fewmask.io.images import write_image, write_mask

BRAIN_CLASS_NAMES = ("grey_matter", "white_matter")
BRIGHTEST = 0.92
"""Value of the template that becomes white."""
LEAST_PX = 2000
"""A slice is used if so many voxels of 1 mm show the head."""
TEST_BLOCKS = ((0.30, 0.40), (0.65, 0.75))
"""Parts of the used slices, counted from below."""
GAP = 3
"""Slices on either side of a test block that are in no part."""


def make_brain(root: Path, *, image_size: int = 64) -> tuple[Path, Path]:
    """Write axial slices with their masks, and which of them are for testing.

    Args:
        root: New folder.
        image_size: Side in px of the square slices.

    Returns:
        The data folder (``images/`` and ``masks/``: 0 other, 1 grey matter, 2 white matter), and
        the CSV file that says which slice belongs to which part.

    Raises:
        ResourceError: nilearn is not installed.
    """
    if importlib.util.find_spec("nilearn") is None:
        raise ResourceError.of(
            "EXTRA-MISSING",
            where="fewmask demo factory",
            found="no package nilearn",
            expected="the extra `demo`",
            fix='pip install "fewmask[demo]"',
        )
    from nilearn import datasets

    require_empty(root)
    head, grey, white = (
        np.asarray(load(resolution=1).get_fdata())
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
        )
    )
    used = [z for z in range(head.shape[2]) if (head[:, :, z] > 0.1).sum() >= LEAST_PX]
    data, lines = root / "slices", ["id,part"]
    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True)
    for place, z in enumerate(used):
        part = part_of(place, len(used))
        if not part:
            continue
        name = f"axial{z:03d}"
        picture = np.clip(head[:, :, z] / BRIGHTEST, 0, 1)
        mask = np.where(grey[:, :, z] > white[:, :, z], 1, 2)
        mask[np.maximum(grey[:, :, z], white[:, :, z]) < 0.5] = 0
        image = np.repeat(_square(np.rint(255 * picture))[..., None], 3, 2).astype(np.uint8)
        write_image(data / "images" / f"{name}.png", resize_image(image, image_size, image_size))
        ids = _square(mask).astype(np.uint8)
        write_mask(data / "masks" / f"{name}.png", resize_mask(ids, image_size, image_size))
        lines.append(f"images/{name},{part}")
    split_file = root / "split.csv"
    split_file.write_text("\n".join(lines) + "\n")
    return data, split_file


def part_of(place: int, count: int) -> str:
    """The part of a slice: train or test, or none beside a test block.

    >>> [part_of(place, 100) for place in (0, 26, 27, 30, 39, 42, 43, 70)]
    ['train', 'train', '', 'test', 'test', '', 'train', 'test']
    """
    for low, high in TEST_BLOCKS:
        first, last = round(low * count), round(high * count) - 1
        if first <= place <= last:
            return "test"
        if first - GAP <= place <= last + GAP:
            return ""
    return "train"


def _square(plane: np.ndarray) -> np.ndarray:
    """A slice with the nose upwards, cut to the head's square."""
    upright = plane.T[::-1]
    height, width = upright.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return upright[top : top + side, left : left + side]
