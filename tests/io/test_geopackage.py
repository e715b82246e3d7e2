"""Polygons of a mask: whole areas on the mask's grid, as GDAL reads them."""

import numpy as np
import pytest

from fewmask.errors import UsageError
from fewmask.io.geopackage import write_polygons

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402


def write_mask(path, ids, **more):
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": ids.shape[0],
               "width": ids.shape[1], "crs": "EPSG:32648", "nodata": 255,
               "transform": from_origin(1000, 2000, 2, 2), **more}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(ids, 1)
    return path


def polygons(path):
    meta, _, geometry, fields = pyogrio.raw.read(path)
    return meta, shapely.from_wkb(geometry), dict(zip(meta["fields"], fields, strict=True))


@pytest.fixture
def ids():
    found = np.zeros((10, 12), np.uint8)
    found[1:5, 1:5] = 1
    found[2:4, 2:4] = 0  # a hole
    found[6:8, 6:12] = 2
    found[8, 0] = 2
    found[9, 1] = 2  # touches by a corner: another area
    found[0, 11] = 255
    return found


def test_each_area_is_a_polygon_with_name_and_area(tmp_path, ids):
    out = tmp_path / "a.gpkg"
    assert write_polygons(write_mask(tmp_path / "a.tif", ids), out, ("lake", "roof")) == 4
    meta, shapes, fields = polygons(out)
    assert meta["crs"] == "EPSG:32648"
    assert sorted(zip(fields["class_id"], fields["class"], fields["area"], strict=True)) == [
        (1, "lake", 48.0), (2, "roof", 4.0), (2, "roof", 4.0), (2, "roof", 48.0),
    ]  # fmt: skip
    lake = shapes[list(fields["class"]).index("lake")]
    assert lake.bounds == (1002, 1990, 1010, 1998)
    assert len(lake.interiors) == 1


def test_polygons_burnt_again_are_the_mask(tmp_path, ids):
    mask = write_mask(tmp_path / "a.tif", ids)
    write_polygons(mask, tmp_path / "a.gpkg", ("lake", "roof"))
    _, shapes, fields = polygons(tmp_path / "a.gpkg")
    pairs = list(zip(shapes, map(int, fields["class_id"]), strict=True))
    from rasterio.features import rasterize

    again = rasterize(pairs, out_shape=ids.shape, transform=from_origin(1000, 2000, 2, 2))
    assert (again == np.where(ids == 255, 0, ids)).all()


def test_without_a_background_the_first_class_has_polygons_too(tmp_path, ids):
    mask = write_mask(tmp_path / "a.tif", ids)
    write_polygons(mask, tmp_path / "a.gpkg", ("sky", "lake", "roof"), has_background=False)
    assert "sky" in polygons(tmp_path / "a.gpkg")[2]["class"]


def test_more_polygons_than_are_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("fewmask.io.geopackage._AT_ONCE", 7)
    ids = (np.indices((9, 9)).sum(0) % 2).astype(np.uint8)
    mask = write_mask(tmp_path / "a.tif", ids)
    assert write_polygons(mask, tmp_path / "a.gpkg", ("one",)) == 40
    assert len(polygons(tmp_path / "a.gpkg")[1]) == 40


def test_an_empty_mask_gives_an_empty_layer(tmp_path):
    mask = write_mask(tmp_path / "a.tif", np.zeros((4, 4), np.uint8))
    assert write_polygons(mask, tmp_path / "a.gpkg", ("one",)) == 0
    meta, shapes, _ = polygons(tmp_path / "a.gpkg")
    assert list(meta["fields"]) == ["class_id", "class", "area"]
    assert len(shapes) == 0


def test_control_points_are_refused_and_nothing_is_left(tmp_path, ids):
    points = [GroundControlPoint(0, 0, 1000, 2000), GroundControlPoint(0, 12, 1024, 2000),
              GroundControlPoint(10, 0, 1000, 1980)]  # fmt: skip
    mask = write_mask(tmp_path / "a.tif", ids, transform=None, gcps=points)
    with pytest.raises(UsageError, match="control points"):
        write_polygons(mask, tmp_path / "a.gpkg", ("one", "two"))
    assert not list(tmp_path.glob(".*"))
    assert not list(tmp_path.glob("*.gpkg"))
