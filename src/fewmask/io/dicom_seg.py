"""DICOM segmentations (DICOM-SEG) in and out; needs the extra ``medical``.

A segmentation lists frames, each one segment on one slice. Its frames say which image they belong
to, by the image's number or at least by their position in the body.

What is written carries the patient's identity of its source series, as the standard demands: it
goes back into the archive that the series came from. Nothing else that fewmask writes does.

Source: DICOM PS3.3 A.51 and C.8.20, https://www.dicomstandard.org.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import DataError, ResourceError, UsageError
from fewmask.io.dicom import as_data_error, numbers_of, pydicom_package, read_header
from fewmask.io.whole_files import write_whole

_NEAR_MM = 1e-2
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
"""What the standard wants to stand there, if only empty, and anonymisers often take away."""
_LONGEST_LABEL = 64


@dataclass(frozen=True)
class SegmentFrame:
    """One frame of a segmentation.

    Attributes:
        segment: Its segment's number.
        instance: Of the image it belongs to; empty: not said. Never shown.
        frame: Of that image, counted from 0.
        position: mm of its first pixel; None: not said.
    """

    segment: int
    instance: str = field(repr=False)
    frame: int
    position: tuple[float, ...] | None


class SegmentationFile:
    """A DICOM-SEG. Opening it reads all but the pixels, the first mask those too.

    Attributes:
        path: The file.
        labels: Name by number of each segment, as plain text.
        series: The series it was drawn on; empty: not said. Never shown.
        images: The images that it was drawn on; empty: not said. Never shown.
        size: Rows and columns.
        may_overlap: Whether two segments can lie on one another.

    Raises:
        ResourceError: pydicom is not installed.
        DataError: no segmentation, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.size = (header.rows, header.columns)
        with as_data_error(path):
            dataset = pydicom_package().dcmread(path, stop_before_pixels=True)
            self.labels = {
                int(item.SegmentNumber): plain_label(item.get("SegmentLabel"))
                or f"class_{int(item.SegmentNumber)}"
                for item in dataset.SegmentSequence
            }
            self.series, self.images = _drawn_on(dataset)
            self.may_overlap = len(self.labels) > 1 and dataset.get("SegmentsOverlap") != "NO"
            self._half = (
                float(dataset.get("MaximumFractionalValue") or 255) / 2
                if dataset.get("SegmentationType") == "FRACTIONAL"
                else 0.5
            )
            items = dataset.PerFrameFunctionalGroupsSequence
            shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom_package().Dataset()]
            self._frames = [_frame(item, shared[0]) for item in items[: len(header.frames)]]
            if len(self._frames) < len(header.frames):
                raise ValueError("fewer descriptions than frames")
        self._of_image: dict[tuple[str, int], list[int]] = defaultdict(list)
        for i, frame in enumerate(self._frames):
            if frame.instance:
                self._of_image[frame.instance, frame.frame].append(i)
        self._pixels: Any = None

    def covers(self, instance: str) -> bool:
        """Whether somebody has looked at this image, even if nothing is marked on it."""
        return not self.images or instance in self.images

    def mask(
        self, instance: str, frame: int, position: tuple[float, ...] | None
    ) -> dict[int, np.ndarray]:
        """What is marked on one frame of an image: (rows, columns) bool by segment number.

        Args:
            instance: The image's number.
            frame: Counted from 0.
            position: mm of its first pixel; for segmentations that name no images.

        Raises:
            DataError: the file is damaged.
        """
        found = self._of_image.get((instance, frame), [])
        if not self._of_image and position is not None:
            found = [
                i
                for i, each in enumerate(self._frames)
                if each.position is not None and np.allclose(each.position, position, 0, _NEAR_MM)
            ]
        marked: dict[int, np.ndarray] = {}
        for i in found:
            number = self._frames[i].segment
            marked[number] = marked.get(number, False) | self._marked(i)
        return dict(sorted(marked.items()))

    def _marked(self, i: int) -> np.ndarray:
        from pydicom.pixels import pixel_array

        with as_data_error(self.path):
            if self._pixels is None:
                self._pixels = pydicom_package().dcmread(self.path)
            bits = self._pixels.BitsAllocated == 1
            if bits and not self._pixels.file_meta.TransferSyntaxUID.is_compressed:
                return _unpacked(self._pixels.PixelData, i, self.size)
            return pixel_array(self._pixels, index=i) >= self._half


def plain_label(value: object) -> str:
    r"""A segment's name without control characters and signs that files or pages could trip over.

    >>> plain_label(" Liver\n<b>left</b>; 2 ")
    'Liver b left b 2'
    """
    words = re.sub(r"[^\w\s().+-]", " ", str(value or "")).split()
    return " ".join(words)[:_LONGEST_LABEL].strip()


def write_dicom_seg(
    source_files: Sequence[Path], masks: np.ndarray, class_names: Sequence[str], out: Path
) -> None:
    """Write class ids as a binary DICOM-SEG that refers to the images it was made on.

    The file carries the patient's name and numbers from ``source_files``, see the module.

    Args:
        source_files: The series: single images in any order, or one multi-frame file.
        masks: (frames, rows, columns) whole numbers, one frame for each source file, or for each
            frame of the one file; 255 (ignored) has no segment and is left unmarked.
        class_names: Of the ids 1, 2, ...; one segment each.
        out: The file; its folder exists.

    Raises:
        UsageError: masks of another shape or with other values.
        DataError: the sources are damaged, or no series that a segmentation can refer to.
        ResourceError: the disk refuses, or highdicom is not installed.
    """
    highdicom, masks = _highdicom(), np.asarray(masks)
    headers = [read_header(path) for path in source_files]
    frames = sum(len(header.frames) for header in headers)
    sizes = {(header.rows, header.columns) for header in headers}
    whole = np.issubdtype(masks.dtype, np.integer)
    ids = set(np.unique(masks).tolist()) if whole else set()
    if (
        len(sizes) != 1
        or masks.shape != (frames, *next(iter(sizes)))
        or not whole
        or not class_names
        or not ids <= {*range(len(class_names) + 1), IGNORE_INDEX}
    ):
        raise UsageError.of(
            "MASK-DTYPE",
            where=out,
            found=f"{masks.dtype} of shape {masks.shape}, values {sorted(ids)[:8]}",
            expected=f"ids 0..{len(class_names)} for {frames} frames of one size: "
            + ", ".join(f"{rows}x{columns}" for rows, columns in sorted(sizes)),
            fix="pass the class ids of all frames of one series",
        )
    ids_alone = np.where(masks == IGNORE_INDEX, 0, masks).astype(np.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with as_data_error(source_files[0]):
            sources = [_source(path) for path in source_files]
            try:
                _segmentation(highdicom, sources, ids_alone, class_names).save_as(buffer)
            except (AttributeError, ValueError, KeyError, TypeError) as error:
                raise DataError.of(
                    "DICOM-SERIES",
                    where=source_files[0].parent,
                    found=f"images that no segmentation can refer to ({type(error).__name__})",
                    expected="one series of one patient, with positions and spacing",
                    fix="give the files of one series as the scanner wrote them",
                ) from None
    write_whole(out, buffer.getvalue())


def _source(path: Path) -> Any:
    dataset = pydicom_package().dcmread(path, stop_before_pixels=True)
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    return dataset


def _segmentation(
    highdicom: ModuleType, sources: list[Any], ids: np.ndarray, class_names: Sequence[str]
) -> Any:
    from pydicom.sr.codedict import codes

    name = highdicom.AlgorithmIdentificationSequence(
        name="fewmask", version=version("fewmask"),
        family=codes.cid7162.ArtificialIntelligence,
    )  # fmt: skip
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=plain_label(label) or f"class_{number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
            algorithm_type="AUTOMATIC",
            algorithm_identification=name,
        )
        for number, label in enumerate(class_names, 1)
    ]
    return highdicom.seg.Segmentation(
        source_images=sources, pixel_array=ids, segmentation_type="BINARY",
        segment_descriptions=segments, series_instance_uid=highdicom.UID(), series_number=1,
        sop_instance_uid=highdicom.UID(), instance_number=1, manufacturer="fewmask",
        manufacturer_model_name="fewmask", software_versions=version("fewmask"),
        device_serial_number="none", content_label="FEWMASK",
        series_description="fewmask segmentation",
    )  # fmt: skip


def _unpacked(packed: bytes, i: int, size: tuple[int, int]) -> np.ndarray:
    """The i-th frame of bits that follow one another without a gap; pydicom 3.0 cannot do that."""
    count = size[0] * size[1]
    first, skipped = divmod(i * count, 8)
    part = np.frombuffer(packed[first : first + (skipped + count + 7) // 8], np.uint8)
    bits = np.unpackbits(part, bitorder="little")[skipped : skipped + count]
    return bits.reshape(size).astype(bool)


def _drawn_on(dataset: Any) -> tuple[str, frozenset[str]]:
    """The first series that the file refers to, and the images of it."""
    for series in dataset.get("ReferencedSeriesSequence") or ():
        images = series.get("ReferencedInstanceSequence") or ()
        named = frozenset(str(item.ReferencedSOPInstanceUID) for item in images)
        return str(series.get("SeriesInstanceUID", "")), named
    return "", frozenset()


def _frame(item: Any, shared: Any) -> SegmentFrame:
    def first(sequence: str) -> Any:
        found = item.get(sequence) or shared.get(sequence)
        return found[0] if found else None

    segment = int(first("SegmentIdentificationSequence").ReferencedSegmentNumber)
    position = first("PlanePositionSequence")
    derived = first("DerivationImageSequence")
    sources = derived.get("SourceImageSequence") if derived is not None else None
    instance, number = "", 1
    if sources:
        instance = str(sources[0].get("ReferencedSOPInstanceUID", ""))
        number = int(np.atleast_1d(sources[0].get("ReferencedFrameNumber") or 1)[0])
    return SegmentFrame(
        segment, instance, number - 1,
        None if position is None else numbers_of(position.get("ImagePositionPatient"), 3),
    )  # fmt: skip


def _highdicom() -> ModuleType:
    try:
        import highdicom
        import highdicom.seg
    except ImportError:
        raise ResourceError.of(
            "MEDICAL-PACKAGE",
            where="highdicom",
            found="not installed",
            expected="highdicom, which writes DICOM segmentations",
            fix='pip install "fewmask[medical]"',
        ) from None
    logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)
    return highdicom
