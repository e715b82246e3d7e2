"""Open a user's folder of images: which samples there are, what is on them, which masks exist.

======================================  =====================================================
layout                                  meaning
======================================  =====================================================
``positive/ negative/ [masks/]``        ``folders``: each folder is a class; a folder called
                                        ``negative`` (or the like) has no tag
``slide/image/ slide/mask/ ...``        the same: images and masks inside each class
``images/ tags.csv [masks/]``           ``tags.csv``: several tags per image
``images/ [masks/]``, or bare images    ``images``: no tags
======================================  =====================================================

No image is decoded here; masks are, because only their values say what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewmask.data.mask_encoding import decode
from fewmask.data.records import DataFolder, Sample
from fewmask.data.scan import scan_folder
from fewmask.errors import DataError, Problem, SecurityError
from fewmask.io.images import image_size, read_mask

__all__ = ["DataFolder", "Sample", "open_folder", "read_target", "refuse"]


def open_folder(
    root: Path | str,
    *,
    class_name: str | None = None,
    class_names: Sequence[str] | None = None,
    group_pattern: str | None = None,
    require_tags: bool = True,
) -> DataFolder:
    """Open a folder in one of the module's layouts.

    Args:
        root: The data folder; nothing in it is ever written.
        class_name: New name for the only class (``positive`` -> ``landslide``).
        class_names: The foreground classes in the order of their ids; by default sorted.
        group_pattern: Regular expression searched in each file's stem; its first group (or the
            whole match) is the sample's group. Without a match a sample is its own group. A
            ``group`` column of ``tags.csv`` wins.
        require_tags: Whether images without any tags are an error (``folders``, ``tags.csv``).

    Raises:
        UsageError: An argument makes no sense.
        SecurityError: A link or a file name leaves the folder.
        DataError: All structural problems at once.
    """
    scan = scan_folder(
        root, class_name=class_name, class_names=class_names, group_pattern=group_pattern,
        require_tags=require_tags,
    )  # fmt: skip
    refuse(scan.problems)
    return scan.folder


def refuse(problems: Sequence[Problem]) -> None:
    """Raise what was found in a data folder, all at once; nothing if there is nothing.

    Raises:
        SecurityError: A link or a file name leaves the folder.
        DataError: Any other problem.
    """
    if any(problem.code == "PATH-OUTSIDE" for problem in problems):
        raise SecurityError(*problems)
    if problems:
        raise DataError(*problems)


def read_target(sample: Sample, folder: DataFolder) -> np.ndarray | None:
    """The truth of one sample.

    Returns:
        ``(H, W)`` uint8 ids 0 .. K, 255 = ignore. All zero for a sample without tags and without
        mask in a folder that has tags and masks. None where nothing is known.

    Raises:
        DataError: The mask cannot be read or has another size than the image.
    """
    if sample.mask_path is None:
        known_empty = folder.has_tags and not sample.tags
        if known_empty and folder.mask_encoding is not None:
            return np.zeros(image_size(sample.image_path), dtype=np.uint8)
        return None
    mask, size = read_mask(sample.mask_path), image_size(sample.image_path)
    if mask.shape != size:
        raise DataError.of(
            "MASK-SIZE", where=sample.mask_path, found=f"{mask.shape[0]}x{mask.shape[1]}",
            expected=f"{size[0]}x{size[1]} as {sample.image_path.name}",
            fix="export the mask at the size of its image",
        )  # fmt: skip
    return decode(mask, folder.encoding_of(sample))
