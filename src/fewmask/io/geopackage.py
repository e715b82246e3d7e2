"""Areas of a georeferenced mask as polygons in a GeoPackage; needs the extra ``geo``.

Each connected area (by edges, not corners) of one class is a polygon, along the borders of its
pixels, holes left out, with the class's id and name and its area in units of the mask's grid. What
is background or has no data is no polygon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import ResourceError, UsageError

LAYER = "classes"
_AT_ONCE = 20_000


def write_polygons(
    mask: Path, out: Path, class_names: Sequence[str], *, has_background: bool = True
) -> int:
    """Write the areas of a mask's classes.

    Args:
        mask: A GeoTIFF of class ids with a transform; 255 where there are no data.
        out: The GeoPackage, ``.gpkg``; it appears whole or not at all.
        class_names: Of the classes, without the background.
        has_background: Whether id 0 is the background; else it is the first class.

    Returns:
        The number of polygons.

    Raises:
        UsageError: the mask lies on control points, so that its pixels have no straight borders.
        ResourceError: a package is not installed, or the disk refuses.
    """
    rasterio, pyogrio, shapely = _packages()
    name_of = dict(enumerate(class_names, int(has_background)))
    partial = out.with_name(f".{out.stem}.partial.gpkg")
    partial.unlink(missing_ok=True)
    try:
        with rasterio.open(mask) as file:
            _refuse_control_points(mask, file)
            system = file.crs.to_wkt() if file.crs else None
            found = _areas(rasterio, shapely, file, name_of)
            count = _write(pyogrio, shapely, partial, found, system)
        partial.replace(out)
    except (OSError, pyogrio.errors.DataSourceError) as error:
        raise ResourceError.of(
            "DISK-WRITE", where=out, found=str(error).splitlines()[0],
            expected="a folder that exists, may be written and has room",
            fix="free space or choose another folder",
        ) from error  # fmt: skip
    finally:
        partial.unlink(missing_ok=True)
    return count


def require_straight_grid(scene: Path) -> None:
    """Refuse a scene whose mask could not be made polygons, before it is predicted.

    Raises:
        UsageError: it lies on control points.
        ResourceError: a package is not installed.
    """
    rasterio, _, _ = _packages()
    with rasterio.open(scene) as file:
        _refuse_control_points(scene, file)


def _refuse_control_points(path: Path, file: Any) -> None:
    if file.gcps[0]:
        raise UsageError.of(
            "POLYGONS", where=path, found="control points in place of a transform",
            expected="a straight grid", fix="gdalwarp the scene first, then predict it",
        )  # fmt: skip


def _areas(
    rasterio: ModuleType, shapely: ModuleType, file: Any, name_of: dict[int, str]
) -> Iterator[tuple[Any, int, str]]:
    """Polygon, id and name of each area; the raster is read by GDAL, some rows at a time."""
    band = rasterio.band(file, 1)
    for shape, value in rasterio.features.shapes(band, connectivity=4, transform=file.transform):
        if int(value) in name_of and int(value) != IGNORE_INDEX:
            yield shapely.geometry.shape(shape), int(value), name_of[int(value)]


def _write(
    pyogrio: ModuleType, shapely: ModuleType, path: Path, found: Iterable[tuple[Any, int, str]],
    system: str | None,
) -> int:  # fmt: skip
    rest, count = iter(found), 0
    while True:
        part = list(islice(rest, _AT_ONCE))
        if count and not part:
            return count
        areas = np.array([area for area, _, _ in part], dtype=object)
        fields = [
            np.array([number for _, number, _ in part], np.int32),
            np.array([name for _, _, name in part], dtype=object),
            np.array([area.area for area in areas], np.float64),
        ]
        pyogrio.raw.write(
            path, shapely.to_wkb(areas), fields, ["class_id", "class", "area"], layer=LAYER,
            driver="GPKG", geometry_type="Polygon", crs=system, append=count > 0,
        )  # fmt: skip
        count += len(part)
        if not part:
            return 0


def _packages() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        import pyogrio
        import pyogrio.errors
        import pyogrio.raw
        import rasterio
        import rasterio.features
        import shapely
        import shapely.geometry
    except ImportError as error:
        raise ResourceError.of(
            "GEO-PACKAGE",
            where=error.name or "rasterio",
            found="not installed",
            expected="rasterio, pyogrio and shapely, which write polygons",
            fix='pip install "fewmask[geo]"',
        ) from None
    return rasterio, pyogrio, shapely
