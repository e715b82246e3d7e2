"""GeoTIFF in and out by windows; needs the extra ``geo`` (rasterio).

A mask keeps its scene's grid: coordinate system, transform, size. Its colours stand in the file,
its classes' names beside it in ``NAME.tif.aux.xml``, where GDAL and QGIS look for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self
from xml.sax.saxutils import escape
from zlib import crc32

import numpy as np
import tifffile

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import DataError, FewmaskError, ResourceError, UsageError
from fewmask.io.decoding import eight_bit

_GEO_TAGS = (33550, 33922, 34264, 34735)
"""Pixel scale, tie and control points, transformation, key directory."""
_CACHE_BYTES = 256 * 2**20
BLOCK_PX = 512
"""Side of the tiles in a file that is written."""


def is_georeferenced(path: Path) -> bool:
    """Whether a file is a TIFF that says where on Earth it lies; no pixel is decoded."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            tags = tiff.pages.first.tags
            return any(tag in tags for tag in _GEO_TAGS)
    except Exception:  # a damaged file can make a decoder raise anything; its reader will tell
        return False


class Scene:
    """A raster that is read a window at a time; a context manager.

    Args:
        path: The file.
        bands: Numbers, from 1, of those that are red, green and blue, or of the only one to read;
            without any, what the file itself declares.

    Attributes:
        size: Height and width in px.

    Raises:
        ResourceError: rasterio is not installed.
        DataError: no raster, or bands that cannot be read as an image.
    """

    def __init__(self, path: Path, bands: Sequence[int] = ()) -> None:
        self.path, self._rasterio = path, _rasterio()
        self._env = self._rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES)
        self._env.__enter__()
        try:
            with _as_data_error(path):
                self._file = self._rasterio.open(path)
                self.size = (int(self._file.height), int(self._file.width))
                self._bands = self._chosen(bands)
        except FewmaskError:
            self._env.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._env.__exit__(None, None, None)

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Pixels of a window, (rows, columns, 3) uint8; 16-bit samples are divided by 257.

        Raises:
            DataError: the file is damaged there.
        """
        return self._read(window=self._window(rows, columns))

    def small(self, longest_px: int) -> np.ndarray:
        """The whole scene, its longer side at most so many px: (h, w, 3) uint8."""
        shrunk = min(1.0, longest_px / max(self.size))
        height, width = (max(1, round(n * shrunk)) for n in self.size)
        return self._read(out_shape=(len(self._bands), height, width))

    def valid(self, rows: slice, columns: slice) -> np.ndarray:
        """(rows, columns) bool, False where the file says that there are no data."""
        with _as_data_error(self.path):
            return self._file.dataset_mask(window=self._window(rows, columns)) > 0

    def writer(self, path: Path, class_names: Sequence[str], colours: np.ndarray) -> MaskWriter:
        """A file for this scene's mask, see :class:`MaskWriter`."""
        grid = {name: self._file.profile[name] for name in ("height", "width", "crs", "transform")}
        points, system = self._file.gcps
        if points:
            grid |= {"gcps": points, "crs": system}
            del grid["transform"]
        return MaskWriter(path, grid, class_names, colours)

    def _read(self, **how: Any) -> np.ndarray:
        bilinear = self._rasterio.enums.Resampling.bilinear
        with _as_data_error(self.path):
            pixels = eight_bit(self._file.read(self._bands, resampling=bilinear, **how))
        pixels = np.moveaxis(pixels, 0, 2)
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def _window(self, rows: slice, columns: slice) -> Any:
        return self._rasterio.windows.Window.from_slices(rows, columns)

    def _chosen(self, bands: Sequence[int]) -> list[int]:
        file, count = self._file, self._file.count
        if bands:
            if len(bands) not in {1, 3} or not all(1 <= band <= count for band in bands):
                raise UsageError.of(
                    "BANDS",
                    where=f"--bands {' '.join(map(str, bands))}",
                    found=f"{self.path} with {count} bands",
                    expected=f"one band, or red, green and blue, of 1 to {count}",
                    fix="see `gdalinfo` or the data's description",
                )
            chosen = list(bands)
        else:
            chosen = self._declared()
        kinds = {file.dtypes[band - 1] for band in chosen}
        if not kinds <= {"uint8", "uint16"} or len(kinds) > 1:
            raise DataError.of(
                "IMAGE-DTYPE",
                where=self.path,
                found=", ".join(sorted(kinds)),
                expected="8- or 16-bit whole numbers",
                fix="gdal_translate -ot Byte -scale MIN MAX 0 255, with one range for all scenes",
            )
        return chosen

    def _declared(self) -> list[int]:
        names = [each.name for each in self._file.colorinterp]
        if names in (["gray"], ["undefined"], ["gray", "alpha"]):
            return [1]
        if names[:3] == ["red", "green", "blue"]:
            return [1, 2, 3]
        raise DataError.of(
            "IMAGE-BANDS",
            where=self.path,
            found=f"{len(names)} bands: {', '.join(names[:5])}",
            expected="bands that are declared as red, green and blue",
            fix="gdal_translate -expand rgb old.tif new.tif"
            if "palette" in names
            else "--bands R G B, such as --bands 3 2 1 or, for one band, --bands 1",
        )


class MaskWriter:
    """Writes class ids to a GeoTIFF, some rows at a time; a context manager.

    The file takes its name when all is written; before that it is ``.NAME.partial``. Where there
    are no data, the id is 255.

    Args:
        path: The file.
        grid: ``height``, ``width``, ``crs`` and ``transform`` or ``gcps``, as rasterio has them.
        class_names: Of the K ids 0, 1, ...
        colours: (K, 3) uint8, of each id.

    Raises:
        ResourceError: the disk refuses, now or when the file is read again at the end.
    """

    def __init__(
        self, path: Path, grid: dict[str, Any], class_names: Sequence[str], colours: np.ndarray
    ) -> None:
        self._rasterio, self._path = _rasterio(), path
        self._partial = path.with_name(f".{path.name}.partial")
        self._names, self._colours = list(class_names), colours
        self._written: list[tuple[Any, int]] = []
        with _as_disk_error(path):
            self._file = self._rasterio.open(
                self._partial, "w", driver="GTiff", count=1, dtype="uint8", nodata=IGNORE_INDEX,
                compress="deflate", tiled=True, blockxsize=BLOCK_PX, blockysize=BLOCK_PX,
                bigtiff="if_safer", **grid,
            )  # fmt: skip
            self._file.write_colormap(1, self._table())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with _as_disk_error(self._path):
                self._file.close()
                if kind is None:
                    self._read_again()
                    names = self._path.with_name(f"{self._path.name}.aux.xml")
                    names.write_text(categories(self._names, self._colours), encoding="utf-8")
                    self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, top: int, ids: np.ndarray) -> None:
        """Write (n, width) uint8 ids as the rows from ``top`` on."""
        rows = slice(top, top + len(ids))
        window = self._rasterio.windows.Window.from_slices(rows, slice(0, ids.shape[1]))
        with _as_disk_error(self._path):
            self._file.write(ids, 1, window=window)
        self._written.append((window, crc32(ids.tobytes())))

    def _read_again(self) -> None:
        """GDAL does not say when the last blocks did not fit on the disk."""
        with self._rasterio.open(self._partial) as file:
            for window, expected in self._written:
                if crc32(file.read(1, window=window).tobytes()) != expected:
                    raise OSError("other bytes than were written")

    def _table(self) -> dict[int, tuple[int, int, int, int]]:
        """Colours by id, and none where there are no data."""
        table = {}
        for number in range(len(self._names)):
            red, green, blue = self._colours[number].tolist()
            table[number] = (red, green, blue, 255)
        return table | {IGNORE_INDEX: (0, 0, 0, 0)}


def categories(class_names: Sequence[str], colours: np.ndarray) -> str:
    """GDAL's XML that names the classes of a band: category names, and a table of values.

    Args:
        class_names: Of the K ids 0, 1, ...
        colours: (K, 3) uint8, of each id.
    """
    listed = "".join(f"<Category>{escape(name)}</Category>" for name in class_names)
    fields = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    heads = "".join(
        f'<FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage>'
        "</FieldDefn>"
        for i, (name, kind, usage) in enumerate(fields)
    )
    rows = "".join(
        f'<Row index="{i}"><F>{i}</F><F>{escape(name)}</F>'
        + "".join(f"<F>{value}</F>" for value in colours[i].tolist())
        + "</Row>"
        for i, name in enumerate(class_names)
    )
    return (
        '<PAMDataset><PAMRasterBand band="1">'
        f"<CategoryNames>{listed}</CategoryNames>"
        f'<GDALRasterAttributeTable tableType="thematic">{heads}{rows}</GDALRasterAttributeTable>'
        "</PAMRasterBand></PAMDataset>\n"
    )


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Whatever rasterio raises on a damaged file."""
    try:
        yield
    except FewmaskError:
        raise
    except (OSError, ValueError, ArithmeticError) as error:  # rasterio's errors are of these
        raise DataError.of(
            "SCENE-UNREADABLE",
            where=path,
            found=_first_line(error),
            expected="a raster that GDAL reads to its last block",
            fix="`gdalinfo -checksum` shows where it is damaged; restore the file",
        ) from None


@contextmanager
def _as_disk_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ResourceError.of(
            "DISK-WRITE",
            where=path,
            found=_first_line(error),
            expected="a folder that exists, may be written and has room",
            fix="free space, then the same command again goes on",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]


def _rasterio() -> ModuleType:
    try:
        import rasterio
        import rasterio.windows
    except ImportError:
        raise ResourceError.of(
            "GEO-PACKAGE",
            where="rasterio",
            found="not installed",
            expected="rasterio, which reads and writes GeoTIFF",
            fix='pip install "fewmask[geo]"',
        ) from None
    return rasterio
