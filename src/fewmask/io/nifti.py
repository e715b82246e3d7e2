"""NIfTI volumes in and out, slice by slice; needs the extra ``medical`` (nibabel).

A slice is shown as radiologists look at it: the patient's right on the left, the front at the top;
slices run from the feet to the head. Which axis of the array that is, and in which direction, is
read from the affine, and undone when a mask is written, so that nothing is mirrored.

==========================  =====================================================================
file                        slices
==========================  =====================================================================
3-D                         along the axis that is closest to feet-head; a volume that is one
                            voxel thick along another axis is one slice across that axis
2-D                         one
4-D with one channel        as 3-D
4-D with more, RGB          refused
==========================  =====================================================================

A mask's class names stand beside it in ``NAME.labels.txt``, the label descriptions of ITK-SNAP:
programs that show volumes read that file, and none of them reads names from a header extension.

Source: the NIfTI-1 and NIfTI-2 definitions, https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import DataError, FewmaskError, ResourceError, UsageError
from fewmask.io.decoding import MAX_PIXELS
from fewmask.io.whole_files import write_whole

NIFTI_SUFFIXES = (".nii", ".nii.gz")
MAX_BYTES = 2**31
"""Of a volume's voxels as they are stored."""

_MOST_OFFSET = 2**26
_GZIP_RATIO = 1_032
"""More than this DEFLATE cannot compress."""
_GRID_FIELDS = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
"""All that a mask's header takes from its volume's: no text, hence no name and no date."""


def is_nifti(path: Path) -> bool:
    """Whether a file is called like a NIfTI volume; it is not opened."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def nifti_stem(path: Path) -> str:
    """A file's name without ``.nii`` or ``.nii.gz``.

    >>> nifti_stem(Path("scans/case.1.nii.gz"))
    'case.1'
    """
    name = path.name
    suffix = next((end for end in (".nii.gz", ".nii") if name.lower().endswith(end)), "")
    return name.removesuffix(name[len(name) - len(suffix) :]) if suffix else name


class Volume:
    """A NIfTI file as axial slices. Opening it reads the header, the first slice all voxels.

    Args:
        path: A ``.nii`` or ``.nii.gz``.

    Attributes:
        path: The file.
        shape: Slices, rows and columns.
        affine: (4, 4) float64, from the array's indices to mm (right, front, head).

    Raises:
        ResourceError: nibabel is not installed.
        DataError: no NIfTI volume, or one that cannot be read as grey slices.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _as_data_error(path):
            self._header = _header(path)
            stored = tuple(int(n) for n in self._header.get_data_shape())
            self._grid = _grid(path, stored)
            self._stored_shape = stored
            self._dtype = _dtype(path, self._header)
            slope, offset = self._header.get_slope_inter()
            self._slope: float = 1.0 if slope is None else slope
            self._offset: float = 0.0 if slope is None else offset
            self.affine = np.asarray(self._header.get_best_affine(), np.float64)
        _refuse_size(path, self._header, self._grid, self._dtype)
        self._order, self._flipped = _orientation(path, self.affine, self._grid, len(stored))
        slices, rows, columns = (self._grid[axis] for axis in self._order)
        self.shape = (slices, rows, columns)
        self._voxels: np.ndarray | None = None

    def slice(self, i: int) -> np.ndarray:
        """The i-th slice from the feet, counted from 0: (rows, columns) float32.

        Raises:
            DataError: the file is damaged.
        """
        turned = self._turned(self._decoded())[i]
        return self._scaled(turned)

    def sample(self, most: int = 2**24) -> np.ndarray:
        """At most about ``most`` voxels from all over the volume: (n,) float32, finite.

        Raises:
            DataError: the file is damaged.
        """
        flat = self._decoded().reshape(-1, order="F")
        values = self._scaled(flat[:: max(1, -(-len(flat) // most))])
        return values[np.isfinite(values)]

    def as_stored(self, slices: np.ndarray) -> np.ndarray:
        """Slices of this volume's shape, put into the order of the file's array."""
        turned = slices[tuple(slice(None, None, step) for step in self._flipped)]
        return turned.transpose(np.argsort(self._order)).reshape(self._stored_shape)

    def mask_header(self) -> Any:
        """A nibabel header with this volume's grid and nothing else of it."""
        header = type(self._header)()
        header.set_data_shape(self._stored_shape)
        for name in _GRID_FIELDS:
            header[name] = self._header[name]
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header.set_intent("label")
        header["descrip"] = b"class ids by fewmask"
        return header

    def _turned(self, voxels: np.ndarray) -> np.ndarray:
        return voxels.transpose(self._order)[
            tuple(slice(None, None, step) for step in self._flipped)
        ]

    def _scaled(self, stored: np.ndarray) -> np.ndarray:
        if (self._slope, self._offset) == (1.0, 0.0):
            return np.ascontiguousarray(stored, np.float32)
        return (stored.astype(np.float64) * self._slope + self._offset).astype(np.float32)

    def _decoded(self) -> np.ndarray:
        """All voxels as they are stored, read once."""
        if self._voxels is None:
            count = math.prod(self._grid)
            with _as_data_error(self.path), _stream(self.path) as stream:
                stream.seek(int(self._header.get_data_offset()))
                data = stream.read(count * self._dtype.itemsize)
                stream.read(1)  # at its end, gzip compares the checksum
            if len(data) < count * self._dtype.itemsize:
                _refuse_truncated(self.path, len(data), count * self._dtype.itemsize)
            self._voxels = np.frombuffer(data, self._dtype).reshape(self._grid, order="F")
        return self._voxels


def write_mask_like(
    volume: Path,
    mask_slices: np.ndarray,
    out: Path,
    classes: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> None:
    """Write a volume of class ids on exactly the grid of another: shape, affine, units, codes.

    Nothing else of the volume's header is kept: its texts and extensions can hold a patient's name.

    Args:
        volume: The NIfTI file that was segmented.
        mask_slices: (slices, rows, columns) whole numbers in [0, 255], as :class:`Volume` has them.
        out: A ``.nii`` or ``.nii.gz``; its folder exists.
        classes: Name and colour of the ids 1, 2, ...; they go to ``NAME.labels.txt`` beside
            ``out``. Without any, there is no such file.

    Raises:
        UsageError: another suffix, shape or values.
        DataError: ``volume`` cannot be read.
        ResourceError: the disk refuses, or nibabel is not installed.
    """
    grid, mask = Volume(volume), np.asarray(mask_slices)
    if not is_nifti(out):
        raise UsageError.of(
            "MASK-SUFFIX",
            where=out,
            found=out.suffix or "no suffix",
            expected=" or ".join(NIFTI_SUFFIXES),
            fix="name the mask *.nii.gz",
        )
    whole = mask.dtype == bool or np.issubdtype(mask.dtype, np.integer)
    if mask.shape != grid.shape or not whole or mask.min() < 0 or mask.max() > 255:
        raise UsageError.of(
            "MASK-DTYPE",
            where=out,
            found=f"{mask.dtype} of shape {mask.shape}",
            expected=f"whole numbers in 0..255 of shape {grid.shape}",
            fix="pass the class ids of all slices of this volume",
        )
    nibabel, header = _nibabel(), grid.mask_header()
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    data = kind(grid.as_stored(mask.astype(np.uint8)), None, header).to_bytes()
    if out.name.lower().endswith(".gz"):
        data = gzip.compress(data, compresslevel=6, mtime=0)
    write_whole(out, data)
    if classes:
        names = out.with_name(f"{nifti_stem(out)}.labels.txt")
        write_whole(names, label_descriptions(classes).encode())


def label_descriptions(classes: Sequence[tuple[str, tuple[int, int, int]]]) -> str:
    """Names and colours of the ids 1, 2, ... as ITK-SNAP reads them.

    >>> print(label_descriptions([("liver", (255, 0, 0))]).splitlines()[2])
        1   255     0     0  1  1  1    "liver"
    """
    shown = [(0, "background", (0, 0, 0), 0)]
    shown += [(number, name, colour, 1) for number, (name, colour) in enumerate(classes, 1)]
    shown += [(IGNORE_INDEX, "ignored", (128, 128, 128), 1)]
    lines = ["# ITK-SNAP label descriptions: id, red, green, blue, alpha, visible, mesh, name"]
    for number, name, (red, green, blue), seen in shown:
        plain = " ".join(name.replace('"', "'").split())
        lines.append(
            f"{number:5d} {red:5d} {green:5d} {blue:5d}  {seen}  {seen}  {seen}    "
            f'"{plain}"'
        )  # fmt: skip
    return "\n".join(lines) + "\n"


@contextmanager
def _stream(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked if they are gzip's, whatever the suffix says."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield raw
            return
        with gzip.open(raw) as unpacked:
            yield cast(BinaryIO, unpacked)


def _header(path: Path) -> Any:
    """The header alone, checked; what nibabel only wonders at is accepted as it stands."""
    nibabel = _nibabel()
    with _stream(path) as stream:
        start = stream.read(540)
    kinds = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    numbers = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    kind = next((kinds[number] for number in numbers if number in kinds), None)
    size = 348 if kind is nibabel.Nifti1Header else 540
    if kind is None or len(start) < size:
        _refuse(path, "NIFTI-FORMAT", f"a start of {start[:8]!r}", "a NIfTI header",
                "convert the volume to .nii.gz, or remove it")  # fmt: skip
    header = kind(binaryblock=start[:size], check=False)
    if bytes(header["magic"].item())[:2] != b"n+":
        _refuse(path, "NIFTI-FORMAT", "a header without its voxels (.hdr and .img)",
                "one file, .nii or .nii.gz", "convert the pair to .nii.gz")  # fmt: skip
    quiet = logging.Logger("fewmask.nifti")
    quiet.addHandler(logging.NullHandler())
    header.check_fix(logger=quiet, error_level=40)
    return header


def _grid(path: Path, stored: tuple[int, ...]) -> tuple[int, int, int]:
    """The array's shape as three numbers."""
    if not 2 <= len(stored) <= 7 or min(stored) < 1:
        _refuse(path, "NIFTI-FORMAT", f"a shape of {stored}", "two or three dimensions",
                "export the volume again")  # fmt: skip
    if math.prod(stored[3:]) != 1:
        _refuse(path, "NIFTI-CHANNELS", f"{math.prod(stored[3:])} volumes in one file, shape "
                f"{stored}", "one volume",
                "take the one that is meant (fslroi old new 0 1), or split the file into several "
                "(fslsplit)")  # fmt: skip
    first, second, *third = stored[:3]
    return first, second, third[0] if third else 1


def _dtype(path: Path, header: Any) -> np.dtype:
    found = header.get_data_dtype()
    if found.kind not in "iuf" or found.itemsize > 8:
        _refuse(path, "NIFTI-DTYPE", f"voxels of type {found.name}", "one number for each voxel",
                "save the volume as grey values, 16-bit or float32")  # fmt: skip
    return found


def _refuse_size(path: Path, header: Any, grid: tuple[int, int, int], dtype: np.dtype) -> None:
    """Refuse what the header claims and the file cannot hold, before anything is allocated."""
    needed = math.prod(grid) * dtype.itemsize
    shown = "x".join(map(str, grid))
    if needed > MAX_BYTES or max(math.prod(grid) // n for n in grid) > MAX_PIXELS:
        _refuse(path, "NIFTI-TOO-LARGE", f"{shown} voxels, {needed / 2**30:,.1f} GiB",
                f"at most {MAX_BYTES / 2**30:g} GiB, and {MAX_PIXELS:,} pixels in a slice",
                "cut the volume into parts, or store it with fewer bits")  # fmt: skip
    offset = int(header.get_data_offset())
    least = int(header.sizeof_hdr)
    if not least <= offset <= _MOST_OFFSET:
        _refuse(path, "NIFTI-FORMAT", f"voxels that begin at byte {offset}",
                f"{least} to {_MOST_OFFSET}", "export the volume again")  # fmt: skip
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    room = path.stat().st_size * (_GZIP_RATIO if packed else 1)
    if offset + needed > room:
        _refuse_truncated(path, room, offset + needed)


def _orientation(
    path: Path, affine: np.ndarray, grid: tuple[int, int, int], dimensions: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of the array that are slices, rows and columns, and the step (1, -1) along each.

    World axes are right, front, head. Rows and columns run against them, slices with them.
    """
    turned = affine[:3, :3].copy()
    if dimensions == 2 and not turned[:, 2].any():
        turned[:, 2] = np.cross(turned[:, 0], turned[:, 1])
    volume = math.prod(np.linalg.norm(turned, axis=0).tolist())
    if not np.isfinite(affine).all() or not abs(np.linalg.det(turned)) > 1e-6 * volume:
        _refuse(path, "NIFTI-AFFINE", "an affine that maps the volume onto a plane or to nowhere",
                "an affine with three independent axes",
                "set it with the tool that made the file (fslorient, c3d -orient)")  # fmt: skip
    whole = np.eye(4)
    whole[:3, :3] = turned
    directions = _nibabel().orientations.io_orientation(whole)
    world = [int(axis) for axis in directions[:, 0]]
    step = [int(sign) for sign in directions[:, 1]]
    thin = [axis for axis in range(3) if grid[axis] == 1]
    through = thin[0] if len(thin) == 1 else world.index(2)
    through = 2 if dimensions == 2 else through
    in_plane = sorted({0, 1, 2} - {through}, key=lambda axis: -world[axis])
    order = (through, *in_plane)
    return order, (step[through], *(-step[axis] for axis in in_plane))


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Whatever nibabel and gzip raise on a damaged file."""
    try:
        yield
    except FewmaskError:
        raise
    except (EOFError, gzip.BadGzipFile) as error:
        _refuse_truncated(path, error, "all that its header speaks of")
    except FileNotFoundError:
        _refuse(path, "IMAGE-MISSING", "no such file", "a file", "restore it or drop its entry")
    except Exception as error:  # a damaged file can make a decoder raise anything
        _refuse(path, "NIFTI-UNREADABLE", f"{type(error).__name__}: {error}",
                "a volume that nibabel reads", "copy the file again, or remove it")  # fmt: skip


def _refuse_truncated(path: Path, found: object, expected: object) -> NoReturn:
    found = f"at most {found:,} bytes" if isinstance(found, int) else f"a damaged end ({found})"
    expected = f"{expected:,} bytes" if isinstance(expected, int) else expected
    _refuse(path, "NIFTI-TRUNCATED", found, expected, "copy the file again from its source")


def _refuse(path: Path, code: str, found: object, expected: object, fix: str) -> NoReturn:
    raise DataError.of(code, where=path, found=found, expected=expected, fix=fix) from None


def _nibabel() -> ModuleType:
    try:
        import nibabel
    except ImportError:
        raise ResourceError.of(
            "MEDICAL-PACKAGE",
            where="nibabel",
            found="not installed",
            expected="nibabel, which reads and writes NIfTI",
            fix='pip install "fewmask[medical]"',
        ) from None
    return nibabel
