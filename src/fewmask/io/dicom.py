"""DICOM images: pixels as numbers, and an allow-list of what stands in the header.

Needs the extra ``medical`` (pydicom).

==============  =================================================================================
stored          read as
==============  =================================================================================
MONOCHROME2     Modality LUT, or slope and intercept; float32
MONOCHROME1     the same, then the lowest possible value and the highest change places, so that
                large is bright
RGB, YBR_*      red, green and blue as they are stored, 8 or 16 bits
PALETTE COLOR   its colours
==============  =================================================================================

A header names a patient in hundreds of places, private ones too. Of all that, a :class:`Header`
shows shape, kind and geometry; what tells patients, series and images apart stays in memory, has no
part in its ``repr`` and is never put into a message. Texts of pydicom's errors and warnings can
hold values of the header and are dropped.

Source: DICOM PS3.3 (C.7.6, C.8, C.11) and PS3.10, https://www.dicomstandard.org.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from fewmask.errors import DataError, FewmaskError, ResourceError
from fewmask.io.decoding import MAX_PIXELS

DICOM_SEG = "1.2.840.10008.5.1.4.1.1.66.4"
DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP classes: segmentations, and the index of a medium (``DICOMDIR``)."""
MOST_FRAMES = 100_000

_DEFLATED = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"}
_READ = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID",
    "InstanceNumber", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation",
    "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "BurnedInAnnotation",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
"""All that is ever read of a header, pixels aside."""


@dataclass(frozen=True)
class Identity:
    """What tells patients, series and images apart; never shown, never written.

    Attributes:
        patient: Of one patient; of a study where the patient has no number.
        series: Of one series.
        instance: Of one file.
    """

    patient: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)


@dataclass(frozen=True)
class Frame:
    """Where a frame lies, and what its numbers mean.

    Attributes:
        position: mm of its first pixel (left, back, head); None: not said.
        normal: Unit vector across its slice; None: not said.
        slope: Of the stored values.
        intercept: Of the stored values.
    """

    position: tuple[float, ...] | None
    normal: tuple[float, ...] | None
    slope: float
    intercept: float


@dataclass(frozen=True)
class Header:
    """The allow-list of a file's header.

    Attributes:
        path: The file.
        modality: ``CT``, ``MR``, ...
        sop_class: The kind of object, as DICOM numbers it.
        rows: Of a frame; 0 for objects without pixels.
        columns: Of a frame.
        frames: One or more.
        photometric: ``MONOCHROME2``, ``RGB``, ...
        bits: Of a stored value.
        signed: Whether stored values can be negative.
        burned_in: Whether the file says that its pixels show text about the patient.
        number: In the series, as the scanner counts.
        identity: Never shown.
        lut: A table of values in place of slope and intercept.
    """

    path: Path
    modality: str
    sop_class: str
    rows: int
    columns: int
    frames: tuple[Frame, ...]
    photometric: str
    bits: int
    signed: bool
    burned_in: bool
    number: int | None
    identity: Identity
    lut: Any = field(repr=False)

    @property
    def is_grey(self) -> bool:
        """Whether there is one number for each pixel."""
        return self.photometric.startswith("MONOCHROME")


def is_dicom(path: Path) -> bool:
    """Whether the bytes 128 to 132 of a file are ``DICM``; its name does not matter."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """Read what is allowed of a header; no pixel is decoded.

    Raises:
        ResourceError: pydicom is not installed.
        DataError: no DICOM file, a damaged or too large one, or one whose pixels cannot be
            decoded here.
    """
    pydicom = pydicom_package()
    with as_data_error(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        syntax = meta.get("TransferSyntaxUID", "")
        if syntax in _DEFLATED:
            _refuse_syntax(path, "a header that is compressed too (deflated)")
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_READ)
        kind = pydicom.uid.UID(dataset.get("SOPClassUID") or meta.MediaStorageSOPClassUID)
        rows, columns = (int(dataset.get(name) or 0) for name in ("Rows", "Columns"))
        if not rows * columns and "Image Storage" in kind.name:
            _refuse(path, "DICOM-TRUNCATED", "an image without a size", "rows and columns",
                    "copy the file again from its source, or remove it")  # fmt: skip
        count = _frame_count(path, dataset, rows * columns)
        if rows * columns:
            _refuse_syntax_unless_decoded(path, syntax)
            _refuse_size(path, dataset, count, compressed=syntax.is_compressed)
        return Header(
            path=path,
            modality=_word(dataset.get("Modality")),
            sop_class=str(kind),
            rows=rows,
            columns=columns,
            frames=tuple(_frame(dataset, i) for i in range(count)),
            photometric=_word(dataset.get("PhotometricInterpretation")),
            bits=int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 0),
            signed=dataset.get("PixelRepresentation") == 1,
            burned_in=_word(dataset.get("BurnedInAnnotation")) == "YES",
            number=_whole(dataset.get("InstanceNumber")),
            identity=Identity(
                str(dataset.get("PatientID") or dataset.get("StudyInstanceUID") or ""),
                str(dataset.get("SeriesInstanceUID", "")),
                str(dataset.get("SOPInstanceUID", "")),
            ),
            lut=_lut(dataset),
        )


def read_pixels(
    header: Header, frame: int = 0, window: tuple[float, float] | None = None
) -> np.ndarray:
    """Decode one frame.

    Args:
        header: Of the file, from :func:`read_header`.
        frame: Counted from 0.
        window: Values (Hounsfield units, ...) that become black and white; grey frames only.

    Returns:
        Grey: (rows, columns) float32; without ``window`` in the file's own units, with it in
        [0, 1]; bright is large. Colour: (rows, columns, 3), uint8 or uint16.

    Raises:
        DataError: the file is damaged.
    """
    pydicom = pydicom_package()
    from pydicom.pixels import apply_color_lut, pixel_array

    with as_data_error(header.path):
        palette = pydicom.Dataset()
        stored = pixel_array(header.path, index=frame, ds_out=palette)
        if header.photometric == "PALETTE COLOR":
            stored = apply_color_lut(stored, palette)[..., :3]
    if not header.is_grey:
        return _colours(header.path, stored)
    values = _modality(header, frame, stored)
    inverted = header.photometric == "MONOCHROME1"
    if window is not None:
        low, high = window
        values = np.clip((values - low) / (high - low), 0, 1)
        return (1 - values if inverted else values).astype(np.float32)
    if inverted:
        ends = _modality(header, frame, _stored_ends(header))
        values = ends.sum() - values
    return values.astype(np.float32)


def _modality(header: Header, frame: int, stored: np.ndarray) -> np.ndarray:
    """Stored values in their own units, float64."""
    if header.lut is not None:
        from pydicom.pixels import apply_modality_lut

        with as_data_error(header.path):
            return apply_modality_lut(stored, header.lut).astype(np.float64)
    own = header.frames[frame]
    return stored.astype(np.float64) * own.slope + own.intercept


def _stored_ends(header: Header) -> np.ndarray:
    """The lowest and the highest value that the file's bits can hold."""
    if header.signed:
        return np.array([-(2 ** (header.bits - 1)), 2 ** (header.bits - 1) - 1])
    return np.array([0, 2**header.bits - 1])


def _colours(path: Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype not in (np.uint8, np.uint16):
        _refuse(path, "IMAGE-DTYPE", f"{pixels.dtype} pixels of shape {pixels.shape}",
                "grey, or 8- or 16-bit colour", "export the image from its viewer")  # fmt: skip
    return pixels


def _frame_count(path: Path, dataset: Any, pixels: int) -> int:
    count = int(dataset.get("NumberOfFrames") or 1)
    if not 1 <= count <= MOST_FRAMES or pixels > MAX_PIXELS:
        _refuse(path, "IMAGE-TOO-LARGE", f"{count:,} frames of {pixels:,} pixels",
                f"1 to {MOST_FRAMES:,} frames, each of at most {MAX_PIXELS:,}",
                "cut the file into parts, or remove it")  # fmt: skip
    return count


def _refuse_size(path: Path, dataset: Any, count: int, *, compressed: bool) -> None:
    """Refuse more frames than the file has bytes for."""
    samples = int(dataset.get("SamplesPerPixel") or 1)
    samples = 2 if "422" in str(dataset.get("PhotometricInterpretation")) else samples
    bits = int(dataset.get("BitsAllocated") or 0) * samples
    frame = 64 if compressed else int(dataset.Rows) * int(dataset.Columns) * bits
    needed, size = math.ceil(frame * count / 8), path.stat().st_size
    sane = samples in {1, 2, 3} and 1 <= bits <= 192 and int(dataset.get("BitsStored") or 1) <= 64
    if not sane or needed > size:
        _refuse(path, "DICOM-TRUNCATED", f"{size:,} bytes", f"at least {needed:,}",
                "copy the file again from its source, or remove it")  # fmt: skip


def _refuse_syntax_unless_decoded(path: Path, syntax: Any) -> None:
    from pydicom.pixels import get_decoder

    try:
        available = get_decoder(syntax).is_available
    except (NotImplementedError, ValueError):
        available = False
    if not available:
        name = syntax.name if getattr(syntax, "is_private", True) is False else "unknown"
        _refuse_syntax(path, f"pixels compressed as {name}")


def _refuse_syntax(path: Path, found: str) -> NoReturn:
    _refuse(path, "DICOM-SYNTAX", found, "a compression that is decoded here",
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or "
            "gdcmconv --raw old.dcm new.dcm")  # fmt: skip


def _lut(dataset: Any) -> Any:
    """The table of values alone, as a dataset that pydicom applies."""
    if not dataset.get("ModalityLUTSequence"):
        return None
    alone = pydicom_package().Dataset()
    alone.ModalityLUTSequence = dataset.ModalityLUTSequence
    return alone


def _frame(dataset: Any, i: int) -> Frame:
    """From the frame's own groups, else those of all frames, else the file's top level."""
    groups: list[Any] = []
    for name, number in (
        ("PerFrameFunctionalGroupsSequence", i), ("SharedFunctionalGroupsSequence", 0),
    ):  # fmt: skip
        items = dataset.get(name)
        groups += [items[number]] if items and number < len(items) else []

    def first(sequence: str, keyword: str) -> Any:
        for group in groups:
            if group.get(sequence):
                return group[sequence][0].get(keyword)
        return dataset.get(keyword)

    slope = first("PixelValueTransformationSequence", "RescaleSlope")
    intercept = first("PixelValueTransformationSequence", "RescaleIntercept")
    cosines = numbers_of(first("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    return Frame(
        position=numbers_of(first("PlanePositionSequence", "ImagePositionPatient"), 3),
        normal=None if cosines is None else _normal(cosines),
        slope=1.0 if slope is None else _finite(slope),
        intercept=0.0 if intercept is None else _finite(intercept),
    )


def _normal(cosines: Sequence[float]) -> tuple[float, ...] | None:
    across = np.cross(cosines[:3], cosines[3:])
    length = float(np.linalg.norm(across))
    return tuple((across / length).tolist()) if length > 1e-6 else None


def numbers_of(value: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers of a header's value; None without them."""
    if value is None or len(value) != count:
        return None
    numbers = tuple(float(n) for n in value)
    return numbers if all(map(math.isfinite, numbers)) else None


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _whole(value: Any) -> int | None:
    return None if value in (None, "") else int(value)


def _word(value: Any) -> str:
    """A code of DICOM's own, such as ``CT``; anything longer or stranger is not shown."""
    text = str(value or "").strip().upper()
    plain = text.replace("_", "").replace(" ", "").isalnum() and text.isascii()
    return text if plain and len(text) <= 16 else ""


@contextmanager
def as_data_error(path: Path) -> Iterator[None]:
    """Turn whatever pydicom raises into a DataError; its texts are dropped: they can quote values.

    Raises:
        DataError: ``DICOM-UNREADABLE``, ``DICOM-SYNTAX`` or ``IMAGE-MISSING``.
    """
    try:
        yield
    except FewmaskError:
        raise
    except FileNotFoundError:
        _refuse(path, "IMAGE-MISSING", "no such file", "a file", "restore it or drop its entry")
    except RuntimeError:  # said by pydicom when all decoders have failed
        _refuse_syntax(path, "pixels that no decoder here can read: damaged, or a rare compression")
    except Exception as error:  # a damaged file can make a decoder raise anything
        _refuse(path, "DICOM-UNREADABLE", f"damaged or cut off ({type(error).__name__})",
                "a DICOM file that pydicom reads", "copy the file again, or remove it")  # fmt: skip


def _refuse(path: Path, code: str, found: str, expected: str, fix: str) -> NoReturn:
    raise DataError.of(code, where=path, found=found, expected=expected, fix=fix) from None


def pydicom_package() -> ModuleType:
    """Import pydicom, and keep it from printing what it reads.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise ResourceError.of(
            "MEDICAL-PACKAGE",
            where="pydicom",
            found="not installed",
            expected="pydicom, which reads DICOM",
            fix='pip install "fewmask[medical]"',
        ) from None
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    return pydicom
