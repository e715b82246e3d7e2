"""Open the two domains of an adaptation: labelled source images, unlabelled target images.

==============  ===========================================================  ===================
layout          files                                                        label set
==============  ===========================================================  ===================
``plain``       ``images/`` and ``masks/`` with the same names, in           the ids themselves
                sub-folders or not; or bare images
``camvid``      SegNet's ``train/ trainannot/ val/ valannot/ ...``           CamVid's 11 classes
``cityscapes``  ``leftImg8bit/train/city/x_leftImg8bit.png`` and             Cityscapes' 19
                ``gt.../train/city/x_gt..._labelIds.png`` (or TrainIds)      classes
==============  ===========================================================  ===================

Folders called ``train``, ``val`` and ``test`` are an official split. Masks of the target, if it has
any, are opened too: the pipeline uses them to measure only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fewmask.data.files import Listing, list_images
from fewmask.data.groups import group_in, read_group_pattern
from fewmask.data.label_sets import (
    CAMVID,
    CITYSCAPES,
    CITYSCAPES_TRAIN_IDS,
    LabelSet,
)
from fewmask.data.mask_encoding import read_values
from fewmask.data.records import DataFolder, Sample
from fewmask.data.roles import Part, part_called, role_in
from fewmask.errors import DataError, Problem, UsageError

DomainLayout = Literal["plain", "camvid", "cityscapes"]

BLOCK = 10
"""So many frames of a sequence that follow one another are a group: they show the same place."""


@dataclass
class Domain:
    """One domain's files.

    Attributes:
        root: Its folder.
        layout: How the files are arranged.
        samples: Sorted by id, ``<name>/<path below the folder>``.
        labels: What the masks' values mean, if the layout says so.
        problems: What is wrong with the structure.
    """

    root: Path
    layout: DomainLayout
    samples: tuple[Sample, ...] = ()
    labels: LabelSet | None = None
    problems: list[Problem] = field(default_factory=list)


def open_domain(root: Path, name: str, *, group_pattern: str | None = None) -> Domain:
    """Find the images of a domain, their masks, their parts and their groups.

    Args:
        root: The folder; nothing in it is written.
        name: ``source``, ``target`` or ``test``: the first part of each sample's id.
        group_pattern: Regular expression searched in each file's stem; its first group (or the
            whole match) is the sample's group. Without one: of CamVid blocks of ten frames, of
            Cityscapes the sequence, otherwise each image by itself.

    Raises:
        UsageError: there is no such folder, no image in it, or the pattern is none.
    """
    pattern, wrong = read_group_pattern(group_pattern)
    if wrong:
        raise UsageError(*wrong)
    if not root.is_dir():
        raise UsageError.of(
            "FOLDER-MISSING",
            where=root,
            found="no such folder",
            expected=f"a folder with the images of the {name} domain",
            fix="correct the path",
        )
    listing = list_images(root)
    domain = Domain(root, layout_of(listing, root), problems=list(listing.problems))
    images, masks = _PAIRING[domain.layout](listing, root, domain.problems)
    if not images:
        raise UsageError.of(
            "IMAGES-MISSING",
            where=root,
            found="no image",
            expected="png, jpg, jpeg, tif or tiff",
            fix="correct the path",
        )
    domain.problems += [
        Problem("MASK-UNPAIRED", str(path), "a mask without an image", f"an image called {key}",
                "rename or remove the mask")
        for key, path in masks.items() if key not in images
    ]  # fmt: skip
    if domain.layout == "camvid":
        domain.labels = CAMVID
    elif domain.layout == "cityscapes":
        trains = any(path.stem.endswith("labelTrainIds") for path in masks.values())
        domain.labels = CITYSCAPES_TRAIN_IDS if trains else CITYSCAPES
    groups = _groups(sorted(images), domain.layout, pattern)
    domain.samples = tuple(
        Sample(f"{name}/{key}", images[key], masks.get(key), (), f"{name}/{groups[key]}")
        for key in sorted(images)
    )
    return domain


def open_labelled(root: Path, labels: LabelSet, group_pattern: str | None) -> DataFolder:
    """A folder of images and masks whose values mean what ``labels`` says, to measure on.

    A layout that says itself what its masks mean must name the same classes.

    Raises:
        UsageError: as :func:`open_domain`.
        DataError: the structure is wrong, the classes are others, or a mask holds strange values.
    """
    domain = open_domain(root, "test", group_pattern=group_pattern)
    own = domain.labels or labels
    if own.names != labels.names:
        raise DataError.of(
            "LABELS-DIFFER",
            where=root,
            found=f"classes {', '.join(own.names[:4])}, ...",
            expected=f"those of the run: {', '.join(labels.names[:4])}, ...",
            fix="measure on masks of the same classes",
        )
    values, problems = read_values(s.mask_path for s in domain.samples if s.mask_path)
    for path, counts in values.items():
        if strange := own.strangers([*counts]):
            problems.append(
                Problem("MASK-VALUES", str(path), ", ".join(map(str, strange[:8])),
                        f"ids of {', '.join(own.names[:4])}, ...; 255 to ignore",
                        "store the ids that the run was trained with")
            )  # fmt: skip
    problems += domain.problems
    if problems:
        raise DataError(*problems)
    return DataFolder(
        root=root,
        samples=domain.samples,
        class_names=labels.names,
        layout="domains",
        mask_encoding=None,
        has_background=False,
        label_sets={"test": own},
    )


def layout_of(listing: Listing, root: Path) -> DomainLayout:
    """The layout that the names of folders and files speak for."""
    names = [path.relative_to(root) for path in listing.files.values()]
    if any(_ANNOTATED.fullmatch(part) for name in names for part in name.parts[:-1]):
        return "camvid"
    if any(name.stem.endswith("_leftImg8bit") for name in names):
        return "cityscapes"
    return "plain"


Pair = tuple[dict[str, Path], dict[str, Path]]
_ANNOTATED = re.compile(r"(train|val|test)annot")


def official_part(sample_id: str) -> Part | None:
    """The part of its domain's own split: by the first of its folders that is called like one.

    >>> official_part("source/camvid/val/0016E5_07959"), official_part("test/0001")
    ('val', None)
    """
    folders = sample_id.split("/")[1:-1]  # the first names the domain
    return next((part for folder in folders if (part := part_called(folder))), None)


def _take(into: dict[str, Path], key: str, path: Path, problems: list[Problem]) -> None:
    """Enter a file, unless another one has its place."""
    first = into.setdefault(key, path)
    if first is not path:
        problems.append(
            Problem("STEM-TWICE", str(path), f"the place of {first}", "one image and one mask per "
                    "name", "rename or remove one of them")
        )  # fmt: skip


def _plain(listing: Listing, root: Path, problems: list[Problem]) -> Pair:  # noqa: ARG001
    """Images and masks by the path that is left without the folders that say which they are."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for key, path in listing.files.items():
        role, plain_key = role_in(key)
        if role != "other":
            _take(images if role == "images" else masks, plain_key, path, problems)
    return images, masks


def _camvid(listing: Listing, root: Path, problems: list[Problem]) -> Pair:  # noqa: ARG001
    """``trainannot/x.png`` is the mask of ``train/x.png``."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for key, path in listing.files.items():
        folder, _, rest = key.rpartition("/")
        if _ANNOTATED.fullmatch(folder.rpartition("/")[2]):
            masks[f"{folder.removesuffix('annot')}/{rest}"] = path
        else:
            images[key] = path
    return images, masks


def _cityscapes(listing: Listing, root: Path, problems: list[Problem]) -> Pair:
    """``gtFine/p/c/x_gtFine_labelIds.png`` is the mask of ``leftImg8bit/p/c/x_leftImg8bit.png``.

    Fine masks win over coarse ones, as a whole, and TrainIds over Ids.
    """
    images: dict[str, Path] = {}
    found: dict[tuple[str, str], dict[str, Path]] = {}  # by kind and what the values are
    for path in listing.files.values():
        below = path.relative_to(root)
        folder = "".join(f"{part}/" for part in below.parts[1:-1])
        if below.stem.endswith("_leftImg8bit"):
            _take(images, folder + below.stem.removesuffix("_leftImg8bit"), path, problems)
        elif name := re.fullmatch(r"(.+)_(gt[A-Za-z]+)_(label(?:Train)?Ids)", below.stem):
            masks = found.setdefault((name[2], name[3]), {})
            _take(masks, folder + name[1], path, problems)
    ranked = sorted(found, key=lambda kind: (kind[0] != "gtFine", kind[1] != "labelTrainIds"))
    return images, found[ranked[0]] if ranked else {}


_PAIRING = {"plain": _plain, "camvid": _camvid, "cityscapes": _cityscapes}


def _groups(
    keys: Sequence[str], layout: DomainLayout, pattern: re.Pattern[str] | None
) -> dict[str, str]:
    """The group of each image, by key."""
    groups = {}
    seen: dict[str, int] = {}
    for key in keys:
        stem = key.rpartition("/")[2]
        if pattern:
            groups[key] = group_in(stem, pattern) or key
        elif layout == "cityscapes":
            groups[key] = "_".join(stem.split("_")[:2])
        elif layout == "camvid":
            sequence = f"{key.rpartition('/')[0]}/{stem.split('_')[0]}"
            seen[sequence] = seen.get(sequence, -1) + 1
            groups[key] = f"{sequence}/{seen[sequence] // BLOCK}"
        else:
            groups[key] = key
    return groups
