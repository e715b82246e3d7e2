"""nnU-Net's raw folders, version 1 and 2, and the Medical Segmentation Decathlon.

======================  =========================================================================
there                   here
======================  =========================================================================
``imagesTr/x_0000.*``   case ``x``; of several channels the first alone, which a note says
``labelsTr/x.*``        its labels
``imagesTs``            unlabelled, or, with ``labelsTs``, the test part of an official split
``labels``              classes, in both directions (``{"1": "liver"}``, ``{"liver": 1}``);
                        ``background`` is 0, ``ignore`` 255
regions (lists)         each value is named after the smallest region that holds it
``dataset`` (v2)        files of cases that lie elsewhere in the folder
======================  =========================================================================

Volumes become axial slices; PNG and TIFF data sets stay as they are.

Source: https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md; for the Decathlon,
http://medicaldecathlon.com.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.files import composed, is_inside, outside
from fewmask.data.roles import Part
from fewmask.errors import DataError
from fewmask.io.images import IMAGE_SUFFIXES, image_size, read_mask
from fewmask.io.nifti import is_nifti, nifti_stem
from fewmask.layouts.annotation_files import group_finder, in_order, read_json, some
from fewmask.layouts.records import Class, Entry, ReadingOptions, Source
from fewmask.layouts.volumes import (
    Case,
    add_slices,
    as_ids,
    on_one_grid,
    open_volume,
    usable_counts,
)

_CHANNEL = re.compile(r"_(\d{4})$")
_FOLDERS: tuple[tuple[str, str, Part], ...] = (
    ("imagesTr", "labelsTr", "train"),
    ("imagesTs", "labelsTs", "test"),
)


@dataclass(frozen=True)
class _Pair:
    name: str
    image: Path
    label: Path | None
    part: Part


def recognise(root: Path) -> bool:
    """Whether a folder, or one right below it, has ``dataset.json`` beside ``imagesTr``."""
    return bool(_homes(root))


def read(root: Path, options: ReadingOptions) -> Source:
    """List the cases; label volumes are decoded once, to compare their values with the list.

    Raises:
        ResourceError: nibabel is not installed.
        UsageError: ``CLASS-NAMES``, or ``options.group_pattern`` is no regular expression.
    """
    source, group_of = Source("nnU-Net", root), group_finder(options)
    homes = _homes(root)
    if len(homes) != 1:
        source.report("NNUNET-SEVERAL", root, f"{len(homes)} data sets: "
                      f"{some(home.name for home in homes)}", "one data set",
                      "give the folder of one of them")  # fmt: skip
        return source
    home = homes[0]
    try:
        about = read_json(home / "dataset.json")
    except DataError as error:
        source.problems += error.problems
        return source
    about = about if isinstance(about, dict) else {}
    id_of = _classes(home / "dataset.json", about.get("labels"), options, source)
    pairs = _only_if_split(list(_pairs(home, about, root, source)))
    _add_pictures([p for p in pairs if not is_nifti(p[0].image)], id_of, options, source)
    cases = []
    for pair, part in pairs:
        if not is_nifti(pair.image):
            continue
        image = open_volume(pair.image, source)
        label = open_volume(pair.label, source) if pair.label else None
        if image is None or (pair.label and label is None):
            continue
        if label is None or on_one_grid(image, label, source):
            cases.append(Case(pair.name, image, label, group_of(pair.name) or pair.name, part))
    cases, counts = usable_counts(cases, source)
    add_slices(cases, counts, id_of, options.window, source)
    return source


def _homes(root: Path) -> list[Path]:
    def is_home(folder: Path) -> bool:
        return (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir()

    try:
        if is_home(root):
            return [root]
        return [folder for folder in sorted(root.iterdir()) if is_home(folder)]
    except OSError:
        return []


def _classes(
    where: Path, labels: object, options: ReadingOptions, source: Source
) -> dict[int, int]:
    """Set the classes; the id by stored value."""
    named, regions = _named_values(labels)
    if not named:
        source.report("NNUNET-LABELS", where, "no list of labels",
                      '"labels": {"background": 0, "liver": 1}',
                      "complete dataset.json")  # fmt: skip
        return {0: 0}
    if regions:
        source.note(
            "NNUNET-REGIONS", where, f"regions that overlap: {some(regions)}", "separate classes",
            "each value is named after the smallest region that holds it",
        )  # fmt: skip
    id_of, classes = {0: 0}, {}
    for value, name in named.items():
        if name.casefold() == "ignore":
            id_of[value] = IGNORE_INDEX
        elif value:
            classes[value] = name
    number = in_order([Class(name) for name in classes.values()], options, source)
    return id_of | {value: number[name] for value, name in classes.items() if name in number}


def _named_values(labels: object) -> tuple[dict[int, str], list[str]]:
    """Name by stored value, sorted by value, and the names of regions of several values."""
    if not isinstance(labels, dict):
        return {}, []
    regions: dict[str, list[int]] = {}
    for key, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if all(type(v) is int and 0 <= v < 2**31 for v in values) and values:
            regions[key] = values
        elif isinstance(value, str) and re.fullmatch(r"\d{1,9}", key):
            regions.setdefault(value, []).append(int(key))
    overlapping = [
        name
        for name, values in regions.items()
        if len(values) > 1 and isinstance(labels.get(name), list)
    ]
    named: dict[int, str] = {}
    for name in sorted(regions, key=lambda name: len(regions[name])):
        for value in regions[name]:
            named.setdefault(value, name)
    taken: set[str] = set()
    for value in sorted(named):
        if named[value] in taken:
            named[value] = f"{named[value]}_{value}"
        taken.add(named[value])
    return dict(sorted(named.items())), overlapping


def _pairs(home: Path, about: Mapping[str, Any], root: Path, source: Source) -> Iterator[_Pair]:
    """Cases from the folders, and those of version 2 that are listed with their files."""
    several: list[str] = []
    listed = about.get("dataset")
    if isinstance(listed, dict):
        yield from _listed(home, listed, root, source, several)
    else:
        _check_listed(home, about, root, source)
        for images, labels, part in _FOLDERS:
            yield from _in_folders(home / images, home / labels, part, root, source, several)
    if several:
        source.note(
            "NNUNET-CHANNELS", home, f"several channels: {some(several)}", "one channel",
            "channel 0 is read, the others are left out",
        )  # fmt: skip


def _in_folders(
    images: Path, labels: Path, part: Part, root: Path, source: Source, several: list[str]
) -> Iterator[_Pair]:
    labelled = _files(labels, root, source)
    for name, channels in _by_case(_files(images, root, source), set(labelled)).items():
        if len(channels) > 1:
            several.append(name)
        label = labelled.pop(name, None)
        if label is None and part == "train":
            source.report("MASK-MISSING", channels[0], "no labels", f"{labels.name}/{name}.*",
                          "restore the labels, or move the image to imagesTs")  # fmt: skip
        yield _Pair(name, channels[0], label, part)
    for name, path in labelled.items():
        source.report("MASK-UNPAIRED", path, "labels of no image", f"{images.name}/{name}_0000.*",
                      "restore the image, or remove the labels")  # fmt: skip


def _files(folder: Path, root: Path, source: Source) -> dict[str, Path]:
    """Readable files by name without suffix; others, and links out of the root, are problems."""
    found: dict[str, Path] = {}
    odd = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if not is_inside(path, root):
            source.problems.append(outside(path))
        elif is_nifti(path):
            found[composed(nifti_stem(path))] = path
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            found[composed(path.stem)] = path
        else:
            odd.append(path.name)
    if odd:
        source.report("NNUNET-FORMAT", folder, f"files that are not read: {some(odd)}",
                      ".nii.gz, .nii, .png or .tif", "convert them to .nii.gz (SimpleITK: "
                      "WriteImage(ReadImage(old), new))")  # fmt: skip
    return found


def _by_case(files: Mapping[str, Path], labelled: set[str]) -> dict[str, list[Path]]:
    """Channels of each case, in order; a name with labels of its own is a whole case."""
    cases: dict[str, list[Path]] = {}
    for name, path in sorted(files.items()):
        case = name if name in labelled else _CHANNEL.sub("", name)
        cases.setdefault(case, []).append(path)
    return cases


def _listed(
    home: Path, listed: Mapping[str, Any], root: Path, source: Source, several: list[str]
) -> Iterator[_Pair]:
    for name, files in sorted(listed.items()):
        files = files if isinstance(files, dict) else {}
        images = files.get("images")
        images = images if isinstance(images, list) else [images]
        image = _below(home, images[0] if images else None, root, source)
        label = _below(home, files.get("label"), root, source)
        if len(images) > 1:
            several.append(name)
        if image is not None and label is not None:
            plain = "/".join(part for part in PurePosixPath(name).parts if part not in ("/", ".."))
            yield _Pair(composed(plain), image, label, "train")


def _check_listed(home: Path, about: Mapping[str, Any], root: Path, source: Source) -> None:
    """Version 1 lists what lies in the folders: what the list has and they lack is missing."""
    training = about.get("training")
    for case in training if isinstance(training, list) else ():
        label = case.get("label") if isinstance(case, dict) else None
        if label is not None:
            _below(home, label, root, source)


def _below(home: Path, name: object, root: Path, source: Source) -> Path | None:
    """A file that ``dataset.json`` names; None, and a problem, where it may or can not be read."""
    if not isinstance(name, str) or "\0" in name:
        source.report("JSON", home / "dataset.json", f"{name!r} in place of a file",
                      "a path below the folder", "correct dataset.json")  # fmt: skip
        return None
    path = home / name
    if PurePosixPath(name).is_absolute() or not is_inside(path, root):
        source.problems.append(outside(Path(name)))
        return None
    if not path.is_file():
        source.report("IMAGE-MISSING", path, "no such file", "the file that dataset.json lists",
                      "restore it, or drop its entry")  # fmt: skip
        return None
    return path


def _only_if_split(pairs: list[_Pair]) -> list[tuple[_Pair, Part | None]]:
    """Parts count if labels of both are there to be compared."""
    split = len({pair.part for pair in pairs if pair.label}) > 1
    return [(pair, pair.part if split else None) for pair in pairs]


def _add_pictures(
    pairs: list[tuple[_Pair, Part | None]], id_of: Mapping[int, int], options: ReadingOptions,
    source: Source,
) -> None:  # fmt: skip
    group_of = group_finder(options)
    for pair, part in pairs:
        mask = None if pair.label is None else partial(_ids, pair.label, pair.image, id_of)
        source.entries.append(
            Entry(pair.name, pair.image, mask, group=group_of(pair.name), part=part)
        )


def _ids(label: Path, image: Path, id_of: Mapping[int, int]) -> np.ndarray:
    stored, size = read_mask(label), image_size(image)
    if stored.shape != size:
        raise DataError.of(
            "MASK-SIZE", where=label, found="{}x{}".format(*stored.shape),
            expected="{}x{} as {}".format(*size, image.name),
            fix="export the labels at the size of their image",
        )  # fmt: skip
    return as_ids(label, stored, id_of)
