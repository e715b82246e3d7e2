"""Volumes to predict: NIfTI files and DICOM series as stacks of slices, and their masks back.

A mask goes back in the form in which its volume came: NIfTI on the same grid, with the affine
exactly as it was; for a series a DICOM-SEG that refers to its images. A DICOM-SEG belongs into the
archive that the series is from, and carries that patient's identity, as the series does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fewmask.errors import DataError, Problem, UsageError
from fewmask.io.decoding import eight_bit
from fewmask.io.dicom import is_dicom
from fewmask.io.dicom_seg import write_dicom_seg
from fewmask.io.dicom_series import Series
from fewmask.io.nifti import Volume, is_nifti, nifti_stem, write_mask_like
from fewmask.layouts import dicom, nifti, nnunet
from fewmask.layouts.recognise import has_pictures
from fewmask.layouts.records import Class, Pixels, ReadingOptions, Source
from fewmask.layouts.volumes import Shelf, open_volume

Window = tuple[float, float] | None
_CHANNEL = re.compile(r"_\d{4}$")


@dataclass(frozen=True)
class Stack:
    """A volume as slices.

    Attributes:
        name: For the files that are made of it; it has no suffix, and says nothing of a patient
            unless a NIfTI file's own name does.
        slices: Functions that read the slices in order: (H, W) or (H, W, 3), uint8 or uint16.
        write: Writes (slices, H, W) uint8 ids into a folder, under ``name``; returns the file.
    """

    name: str
    slices: Sequence[Pixels]
    write: Callable[[np.ndarray, Path, Sequence[Class]], Path]


def is_stack(path: Path) -> bool:
    """Whether a file is a volume, or a folder holds volumes.

    Raises:
        UsageError: it holds pictures, too.
    """
    if path.is_file():
        return is_nifti(path) or is_dicom(path)
    if not path.is_dir() or not any(each.recognise(path) for each in (dicom, nifti, nnunet)):
        return False
    if has_pictures(path):
        raise UsageError.of(
            "OTHER-FILES", where=path, found="pictures and volumes in one folder",
            expected="one kind", fix="give them one after the other, from folders of their own",
        )  # fmt: skip
    return True


def stacks_of(path: Path, window: Window = None) -> tuple[list[Stack], list[Problem]]:
    """The volumes of a file or folder, and what cannot be read.

    Args:
        path: A NIfTI or DICOM file, or a folder of such; label volumes in it are left out.
        window: See :class:`fewmask.layouts.records.ReadingOptions`.

    Raises:
        UsageError: ``window`` is none.
        ResourceError: nibabel, pydicom or highdicom is not installed.
    """
    ReadingOptions(window=window)  # refuses what is none
    source = Source("", path if path.is_dir() else path.parent)
    if (path.is_file() and is_dicom(path)) or (path.is_dir() and dicom.recognise(path)):
        series = dicom.series_below(path, source)
        windows = dicom.Windows(window)
        return [_of_series(each, windows) for each in series], source.problems
    files = nifti.volumes_below(path, source) if path.is_dir() else [path]
    shelf, stacks = Shelf(), list[Stack]()
    for file, name in _names(files, source).items():
        volume = open_volume(file, source)
        if volume is not None:
            stacks.append(_of_volume(volume, name, shelf, window))
    return stacks, source.problems


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """A slice as pictures are read: (H, W, 3) uint8, 16 bits divided by 257."""
    pixels = eight_bit(pixels)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _names(files: Sequence[Path], source: Source) -> dict[Path, Path]:
    """Names for the masks of volumes: each file's own, as nnU-Net has it for its channels.

    ``case_0000`` is the first of the channels of ``case`` if nothing else is called ``case``; what
    nnU-Net would take for further channels of it is left out.
    """
    plain = {file: file.relative_to(source.root).parent / nifti_stem(file) for file in files}
    taken = set(plain.values())
    names: dict[Path, Path] = {}
    for file, name in plain.items():
        case = name.with_name(name.name[:-5]) if _CHANNEL.search(name.name) else name
        in_channels = case != name and case not in taken and case.with_name(
            f"{case.name}_0000") in taken  # fmt: skip
        if in_channels and not name.name.endswith("_0000"):
            continue
        wanted = case if in_channels else name
        if wanted in names.values():
            source.report("STEM-TWICE", file, f"another volume called {wanted}",
                          "one volume per name", "rename one of them")  # fmt: skip
            continue
        names[file] = wanted
    return names


def _of_volume(volume: Volume, name: Path, shelf: Shelf, window: Window) -> Stack:
    slices = [partial(shelf.grey, volume.path, i, window) for i in range(volume.shape[0])]
    return Stack(name.as_posix(), slices, partial(_write_volume, volume.path, name))


def _write_volume(
    path: Path, below: Path, masks: np.ndarray, folder: Path, classes: Sequence[Class]
) -> Path:
    target = folder / below.parent / f"{below.name}.nii.gz"
    target.parent.mkdir(parents=True, exist_ok=True)
    named = [(each.name, each.colour or (0, 0, 0)) for each in classes]
    write_mask_like(path, masks, target, named)
    return target


def _of_series(series: Series, windows: dicom.Windows) -> Stack:
    slices = [partial(dicom.pixels_of, plane, series, windows) for plane in series.planes]
    return Stack(series.name, slices, partial(_write_series, series))


def _write_series(
    series: Series, masks: np.ndarray, folder: Path, classes: Sequence[Class]
) -> Path:
    files = list(dict.fromkeys(plane.header.path for plane in series.planes))
    if len(files) not in {1, len(series.planes)}:
        raise DataError.of(
            "DICOM-SERIES", where=files[0].parent,
            found=f"{len(series.planes)} frames in {len(files)} files",
            expected="one file for each slice, or one for all",
            fix="give the files of one series as the scanner wrote them",
        )  # fmt: skip
    if len(files) == 1:
        masks = masks[np.argsort([plane.frame for plane in series.planes])]
    target = folder / f"{series.name}.dcm"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_dicom_seg(files, masks, [each.name for each in classes], target)
    return target
