"""DICOM as it comes from an archive: files of any name in any folders.

==================================  ==========================================================
there                               here
==================================  ==========================================================
a series                            ``patient-001/series-01``, numbered as they are found
its slices                          ``.../slice-012``, along the body, from 1
a patient                           a group, so that no patient is in training and test at once
DICOM-SEG                           the masks of the series that it refers to
reports, plans, contours, indexes   left out, which a note says
==================================  ==========================================================

Nothing that could name a patient leaves: no value of a header but shape, kind and geometry, no name
of a file or folder in an id, a note or a repair. Text that is burned into pixels stays in them: a
note names the series that say they have such text, and one that does not say so can have it too.

Source: DICOM PS3.3 and PS3.10, https://www.dicomstandard.org.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from fewmask.errors import DataError, Problem
from fewmask.io.dicom import DICOM_SEG, DIRECTORY, Header, is_dicom, read_header, read_pixels
from fewmask.io.dicom_seg import SegmentationFile
from fewmask.io.dicom_series import Plane, Series, find_series
from fewmask.layouts.annotation_files import in_order
from fewmask.layouts.records import Class, Entry, ReadingOptions, Source, stretched
from fewmask.layouts.volumes import (
    CT_WINDOW,
    note_window,
    other_files,
    percentile_window,
    some_files,
)

_SUFFIXES = {".dcm", ".dicom", ".ima"}
_NO_IMAGES = {"SEG", "RTDOSE"}
_SAMPLED = 2**24
_KEPT = 2


def recognise(root: Path) -> bool:
    """Whether there are DICOM files below a folder, by their content."""
    return any(is_dicom(path) for path in some_files(root))


def read(root: Path, options: ReadingOptions) -> Source:
    """List the frames of all series; no pixel is decoded.

    Raises:
        ResourceError: pydicom is not installed.
        UsageError: ``CLASS-NAMES``.
    """
    source = Source("DICOM", root, is_private=True)
    headers = _headers(other_files(root, source), source)
    images = [each for each in headers if _is_image(each)]
    _note_left_out(headers, source)
    series = find_series(images)
    segmentations = _segmentations(headers, series, source)
    labels = dict.fromkeys(
        label
        for found in segmentations.values()
        for each in found
        for label in each.labels.values()
    )
    source.classes = tuple(map(Class, options.class_names))
    id_of = in_order([Class(label) for label in labels], options, source) if labels else {}
    kept = lru_cache(maxsize=_KEPT)(SegmentationFile)
    windows = Windows(options.window)
    for each in series:
        drawn = segmentations.get(each.name, [])
        for number, plane in enumerate(each.planes, 1):
            instance = plane.header.identity.instance
            paths = [s.path for s in drawn if s.covers(instance)]
            source.entries.append(
                Entry(
                    id=f"{each.name}/slice-{number:0{max(3, len(str(len(each.planes))))}d}",
                    image=partial(pixels_of, plane, each, windows),
                    mask=partial(_mask, plane, paths, kept, id_of) if paths and id_of else None,
                    group=f"patient-{each.patient:03d}",
                )
            )
        _note_series(each, source)
    if options.window is None and any(header.is_grey for header in images):
        note_window(source)
    if options.group_pattern:
        source.note("DICOM-GROUPS", "--group-pattern", "a pattern for file names",
                    "patients as groups", "nothing to do: patients are told apart by the files' "
                    "contents, and names of files are not kept")  # fmt: skip
    return source


class Windows:
    """Black and white of each series, found when its first slice is read."""

    def __init__(self, given: tuple[float, float] | None) -> None:
        self._given, self._found = given, dict[str, tuple[float, float]]()

    def fixed(self, header: Header) -> tuple[float, float] | None:
        """The window that does not depend on pixels: the user's, or that of CT."""
        return self._given or (CT_WINDOW if header.modality == "CT" else None)

    def of(self, series: Series) -> tuple[float, float]:
        """The percentiles of a series; frames that cannot be decoded do not count."""
        if series.name not in self._found:
            share = _SAMPLED // len(series.planes)
            values = []
            for plane in series.planes:
                if not plane.header.is_grey:
                    continue
                try:
                    flat = read_pixels(plane.header, plane.frame).ravel()
                except DataError:
                    continue
                values.append(flat[:: max(1, -(-len(flat) // max(1, share)))])
            self._found[series.name] = percentile_window(
                np.concatenate(values) if values else np.zeros(0)
            )
        return self._found[series.name]


def series_below(path: Path, source: Source) -> list[Series]:
    """The series of images below a folder, or in a file; what is damaged becomes a problem."""
    paths = other_files(path, source) if path.is_dir() else [path]
    return find_series([each for each in _headers(paths, source) if _is_image(each)])


def _headers(paths: Iterable[Path], source: Source) -> list[Header]:
    """Of all files that are DICOM by content or by suffix; damaged ones are problems."""
    headers = []
    for path in paths:
        if not (is_dicom(path) or path.suffix.lower() in _SUFFIXES):
            continue
        try:
            headers.append(read_header(path))
        except DataError as error:
            source.problems += error.problems
    return headers


def _is_image(header: Header) -> bool:
    return header.rows > 0 and header.modality not in _NO_IMAGES and header.sop_class != DICOM_SEG


def pixels_of(plane: Plane, series: Series, windows: Windows) -> np.ndarray:
    """A slice as it is shown: (rows, columns) uint16, or (rows, columns, 3) uint8 or uint16.

    Raises:
        DataError: the file is damaged, or cannot be decoded here.
    """
    header = plane.header
    if not header.is_grey:
        return read_pixels(header, plane.frame)
    if fixed := windows.fixed(header):
        return stretched(read_pixels(header, plane.frame, fixed), 0, 1)
    return stretched(read_pixels(header, plane.frame), *windows.of(series))


def _mask(
    plane: Plane,
    paths: Sequence[Path],
    kept: Callable[[Path], SegmentationFile],
    id_of: dict[str, int],
) -> np.ndarray:
    """(rows, columns) uint8; where segments overlap, the one with the higher number counts."""
    ids = np.zeros((plane.header.rows, plane.header.columns), np.uint8)
    for path in paths:
        found = kept(path)
        marked = found.mask(plane.header.identity.instance, plane.frame, plane.at.position)
        if marked and found.size != ids.shape:
            raise DataError(_other_size(path, found.size, "the image that it refers to"))
        for number, pixels in marked.items():
            if number in found.labels:
                ids[pixels] = id_of[found.labels[number]]
    return ids


def _segmentations(
    headers: Sequence[Header], series: Sequence[Series], source: Source
) -> dict[str, list[SegmentationFile]]:
    """Readable segmentations by the name of the series that each was drawn on."""
    of_uid = {plane.header.identity.series: each for each in series for plane in each.planes}
    of_image = {plane.header.identity.instance: each for each in series for plane in each.planes}
    found: dict[str, list[SegmentationFile]] = {}
    overlapping = set()
    for header in headers:
        if header.sop_class != DICOM_SEG:
            continue
        try:
            drawn = SegmentationFile(header.path)
        except DataError as error:
            source.problems += error.problems
            continue
        target = of_uid.get(drawn.series) if drawn.series else None
        target = target or next((of_image[i] for i in sorted(drawn.images) if i in of_image), None)
        if target is None:
            source.report("MASK-UNPAIRED", header.path, "a segmentation of a series that is not "
                          "here", "the series beside it", "add the files of that series, or remove "
                          "the segmentation")  # fmt: skip
        elif drawn.size not in {(p.header.rows, p.header.columns) for p in target.planes}:
            source.problems.append(_other_size(header.path, drawn.size, target.name))
        else:
            found.setdefault(target.name, []).append(drawn)
            if drawn.may_overlap or len(found[target.name]) > 1:
                overlapping.add(target.name)
    for name in sorted(overlapping):
        source.note("DICOM-SEG-OVERLAP", name, "segments that may lie on one another",
                    "one class for each pixel", "nothing to do: the higher number counts, and of "
                    "several files the later")  # fmt: skip
    return found


def _other_size(path: Path, size: tuple[int, int], other: str) -> Problem:
    return Problem("MASK-SIZE", str(path), "{}x{} pixels".format(*size), f"the size of {other}",
                   "export the segmentation on the grid of its series")  # fmt: skip


def _note_left_out(headers: Sequence[Header], source: Source) -> None:
    kinds = Counter(
        each.modality or "without a kind" for each in headers
        if not _is_image(each) and each.sop_class not in {DICOM_SEG, DIRECTORY}
    )  # fmt: skip
    if kinds:
        listed = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        source.note("DICOM-NO-IMAGE", "files", f"objects that are no images: {listed}", "images",
                    "nothing to do: they are left out; contours (RTSTRUCT) can be converted to "
                    "DICOM-SEG")  # fmt: skip


def _note_series(series: Series, source: Source) -> None:
    headers = list({id(plane.header): plane.header for plane in series.planes}.values())
    sizes = Counter(f"{plane.header.rows}x{plane.header.columns}" for plane in series.planes)
    if any(header.burned_in for header in headers):
        source.note("DICOM-BURNED-IN", series.name, "text about the patient in the pixels",
                    "pixels of the body alone", "look at the images, and cover the text before "
                    "they leave the house")  # fmt: skip
    if len(sizes) > 1:
        listed = ", ".join(f"{number} of {size}" for size, number in sizes.most_common(4))
        source.note("MIXED-SIZES", series.name, listed, "one size in a series",
                    "nothing to do: images are resized for training")  # fmt: skip
    if gaps := series.gaps():
        source.note("DICOM-GAP", series.name, f"{len(gaps)} gaps, the widest "
                    f"{max(gaps):.2f} mm", "slices at equal distances",
                    "look whether slices were lost on the way")  # fmt: skip
    if series.ordered_by != "position" and len(series.planes) > 1:
        by = "the scanner's numbers" if series.ordered_by == "number" else "the names of the files"
        source.note("DICOM-ORDER", series.name, "slices without positions", "positions",
                    f"nothing to do: {by} give the order")  # fmt: skip
    if series.copies:
        source.repaired("DICOM-TWICE", series.name, f"{series.copies} files that repeat another",
                        "each image once", "the first of each was read")  # fmt: skip
