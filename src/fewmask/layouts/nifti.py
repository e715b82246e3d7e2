"""Folders of NIfTI volumes: each axial slice becomes an image.

========================================  ====================================================
label volume                              of the image
========================================  ====================================================
``labels/x.nii.gz``                       ``images/x.nii.gz`` (or ``gt/``, ``masks/``, ...)
``x_seg.nii.gz``, ``x-label.nii.gz``      ``x.nii.gz`` (or ``_mask``, ``_gt``, ...)
``segmentation-7.nii``                    ``volume-7.nii``
``case_3/segmentation.nii.gz``            every other volume in ``case_3/``
``x_seg.nii.gz``                          ``x_t1.nii.gz``, ``x_flair.nii.gz``: all that begin so
========================================  ====================================================

The slices of a case stay together, and so do cases in a folder of one patient: the outermost folder
with a digit in its name, unless all volumes are in it. ``--group-pattern`` overrules both. Folders
called ``train``, ``val`` or ``test`` are a split if at least two of them have labels.

Source: https://nifti.nimh.nih.gov; the names are those of ACDC, BraTS, KiTS, LiTS and BIDS.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewmask.data.files import composed
from fewmask.data.roles import Part, part_called, role_in, role_of
from fewmask.io.nifti import Volume, is_nifti, nifti_stem
from fewmask.layouts import nnunet
from fewmask.layouts.annotation_files import group_finder
from fewmask.layouts.records import ReadingOptions, Source
from fewmask.layouts.volumes import (
    Case,
    add_slices,
    on_one_grid,
    open_volume,
    other_files,
    settle_labels,
    some_files,
    usable_counts,
)

_MASK = "seg|segm|segmentation|segmentations|mask|masks|label|labels|gt|roi"
_IMAGE = "image|img|imaging|volume|vol|scan"


@dataclass(frozen=True)
class _File:
    """A volume by what its name says.

    Attributes:
        path: The file.
        folder: Below the root, without folders that have a role.
        stem: Its name without suffix and role.
        name: Its name without suffix.
        is_mask: Whether it holds labels.
        part: Of a split, as its folders say.
    """

    path: Path
    folder: str
    stem: str
    name: str
    is_mask: bool
    part: Part | None


def recognise(root: Path) -> bool:
    """Whether there are NIfTI volumes below a folder that is not nnU-Net's."""
    return not nnunet.recognise(root) and any(is_nifti(path) for path in some_files(root))


def read(root: Path, options: ReadingOptions) -> Source:
    """List the slices of all volumes; label volumes are decoded once, to learn their values.

    Raises:
        ResourceError: nibabel is not installed.
        UsageError: ``options.group_pattern`` is no regular expression.
    """
    source, group_of = Source("NIfTI", root), group_finder(options)
    files = [_named(root, path) for path in other_files(root, source) if is_nifti(path)]
    shared = _common([file.folder for file in files])
    cases = []
    for image, mask in _paired(files, source):
        volume = open_volume(image.path, source)
        label = open_volume(mask.path, source) if mask else None
        if volume is None or (mask is not None and label is None):
            continue
        if label is not None and not on_one_grid(volume, label, source):
            continue
        found = group_of(image.name) or _patient(image.folder, shared)
        cases.append(_case(image, mask, volume, label, found))
    cases, counts = usable_counts(_only_if_split(cases), source)
    id_of = settle_labels(counts, options.class_names, source)
    add_slices(cases, counts, id_of, options.window, source)
    return source


def volumes_below(root: Path, source: Source) -> list[Path]:
    """The volumes below a folder that are no labels, sorted; bad links become problems."""
    files = [_named(root, path) for path in other_files(root, source) if is_nifti(path)]
    return [file.path for file in files if not file.is_mask]


def _named(root: Path, path: Path) -> _File:
    name = composed(nifti_stem(path))
    folders = [composed(folder) for folder in path.parent.relative_to(root).parts]
    role, plain = role_in("/".join([*folders, name]))
    marked, stem = _without(_MASK, name)
    is_mask = role == "masks" or (marked and not any(map(role_of, folders)))
    if not is_mask or not marked:
        stem = _without(_IMAGE, name)[1]
    part = next((part for folder in folders if (part := part_called(folder))), None)
    return _File(path, plain.rpartition("/")[0], stem, name, is_mask, part)


def _without(words: str, name: str) -> tuple[bool, str]:
    """Whether a name begins or ends with one of some words, and the name without it."""
    pattern = rf"(?i)^(?:{words})(?:[_.-]|$)|(?:^|[_.-])(?:{words})$"
    return re.search(pattern, name) is not None, re.sub(pattern, "", name, count=1)


def _paired(files: Sequence[_File], source: Source) -> list[tuple[_File, _File | None]]:
    """Images with their label volumes; a label volume without an image is a problem."""
    masks: dict[str, dict[str, _File]] = defaultdict(dict)
    for file in files:
        if not file.is_mask:
            continue
        twin = masks[file.folder].setdefault(file.stem, file)
        if twin is not file:
            source.report("MASK-TWICE", file.path, f"labels of the volume that {twin.path.name} "
                          "labels", "one label volume per volume",
                          "keep the one that is meant")  # fmt: skip
    pairs = [
        (file, _mask_of(file, masks.get(file.folder, {}))) for file in files if not file.is_mask
    ]
    used = {mask.path for _, mask in pairs if mask}
    for of_folder in masks.values():
        for mask in of_folder.values():
            if mask.path not in used:
                source.report("MASK-UNPAIRED", mask.path, "labels of no volume",
                              "a volume of the same name", "restore the volume, or remove the "
                              "labels")  # fmt: skip
    return pairs


def _mask_of(image: _File, masks: dict[str, _File]) -> _File | None:
    """The labels of the same name, else those of the longest name that the image's begins with."""
    if image.stem in masks:
        return masks[image.stem]
    begins = [
        stem for stem in masks if not stem or re.match(rf"{re.escape(stem)}[_.-]", image.stem)
    ]
    return masks[max(begins, key=len)] if begins else None


def _case(
    image: _File, mask: _File | None, volume: Volume, label: Volume | None, group: str
) -> Case:
    prefix = f"{image.folder}/" if image.folder else ""
    shared = mask.stem if mask is not None else image.stem
    return Case(
        name=prefix + image.name,
        image=volume,
        label=label,
        group=group or (prefix + shared).rstrip("/") or image.name,
        part=image.part,
    )


def _only_if_split(cases: Sequence[Case]) -> list[Case]:
    """Parts count if labels of at least two are there to be compared."""
    if len({case.part for case in cases if case.label and case.part}) > 1:
        return list(cases)
    return [replace(case, part=None) for case in cases]


def _common(folders: Sequence[str]) -> int:
    """How many outer folders all volumes share."""
    split = [folder.split("/") for folder in folders if folder]
    if not split or len(split) < len(folders):
        return 0
    count = 0
    while all(len(parts) > count and parts[count] == split[0][count] for parts in split):
        count += 1
    return count


def _patient(folder: str, shared: int) -> str:
    """The outermost folder with a digit in its name, below those that all volumes share."""
    parts = folder.split("/")
    for i, part in enumerate(parts):
        if i >= shared and re.search(r"\d", part):
            return "/".join(parts[: i + 1])
    return ""
