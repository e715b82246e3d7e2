"""What the name of a folder says about the files in it."""

from __future__ import annotations

import re
from typing import Literal

Role = Literal["images", "masks", "other"]
Part = Literal["train", "val", "test"]

PARTS: dict[Part, str] = {
    "train": r"train(ing)?",
    "val": r"val(id|idation)?|dev",
    "test": r"test(ing)?",
}
"""Names of folders that hold a part of a split data set, as regular expressions."""

ROLES: dict[str, Role] = {
    **dict.fromkeys(("images", "image", "imgs", "img"), "images"),
    **dict.fromkeys(
        ("masks", "mask", "labels", "label", "gt", "ground_truth", "annotations", "annotation"),
        "masks",
    ),
    **dict.fromkeys(("dem", "dsm", "dtm", "depth", "scribbles", "overlays", "probs"), "other"),
}  # fmt: skip
"""Folders that are no class, by their names in lower case: images, their masks, and layers that
are neither (heights, scribbles, what ``fewmask predict`` writes beside masks)."""


def role_of(folder_name: str) -> Role | None:
    """What a folder of this name holds; None for any other name, which can be a class.

    >>> [role_of(name) for name in ("Image", "gt", "dem", "landslide")]
    ['images', 'masks', 'other', None]
    """
    return ROLES.get(folder_name.casefold())


def is_part(folder_name: str) -> bool:
    """Whether a folder of this name looks like one part of a split data set.

    >>> [is_part(name) for name in ("train", "Val", "testing", "landslide")]
    [True, True, True, False]
    """
    return part_called(folder_name) is not None


def part_called(folder_name: str) -> Part | None:
    """The part of a split data set that a folder of this name holds, if any.

    >>> [part_called(name) for name in ("Training", "dev", "test", "landslide")]
    ['train', 'val', 'test', None]
    """
    for part, pattern in PARTS.items():
        if re.fullmatch(pattern, folder_name.casefold()):
            return part
    return None


def is_negative(folder_name: str) -> bool:
    """Whether a folder of this name holds images without any tag.

    >>> [is_negative(name) for name in ("Negative", "non-landslide", "normal", "ohne")]
    [True, True, False, True]
    """
    plain = r"neg|negativ|negatives?|background|none|no|clean|ohne|without"
    name = folder_name.casefold()
    return re.fullmatch(rf"{plain}|(no|non|not|ohne|without)[ _-].*", name) is not None


def role_in(key: str) -> tuple[Role, str]:
    """What the folders above a file make of it: the last with a role decides, none means images.

    >>> role_in("landslide/mask/df001"), role_in("images/a"), role_in("positive/a")
    (('masks', 'landslide/df001'), ('images', 'a'), ('images', 'positive/a'))

    Args:
        key: Path below the data folder, with ``/``.

    Returns:
        The role, and the key without the folders that have one: an image and its mask share it.
    """
    *folders, name = key.split("/")
    roles = [role for folder in folders if (role := role_of(folder))]
    plain = [folder for folder in folders if not role_of(folder)]
    return (roles[-1] if roles else "images"), "/".join([*plain, name])
