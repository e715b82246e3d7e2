"""`fewmask predict` on georeferenced scenes: the same grid, names and colours, after any stop."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fewmask import predict_scene
from fewmask.data.folder import DataFolder, Sample
from fewmask.io import geotiff
from fewmask.io.geotiff import Scene, is_georeferenced
from fewmask.pipelines.finishing import usual_size
from fewmask.report.figures import class_colour
from fewmask.training import windows

rasterio = pytest.importorskip("rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

TRANSFORM = from_origin(500_000.0, 3_100_000.0, 0.8, 0.8)
SIZE = (150, 130)


@pytest.fixture
def small_windows(monkeypatch):
    """Of 64 cells, so that a small scene has many."""
    for name, value in (("WINDOW", 64), ("MARGIN", 4), ("BLEND", 16)):
        monkeypatch.setattr(windows, name, value)
    monkeypatch.setattr(predict_scene, "BLOCK_PX", 20)
    monkeypatch.setattr(predict_scene, "COLUMNS_PX", 50)


@pytest.fixture
def write(tmp_path, small_data):
    """Writes a scene put together from the data's tiles."""
    tiles = [np.asarray(Image.open(p)) for p in sorted(small_data.glob("*tive/*.png"))]
    mosaic = np.concatenate([np.concatenate(tiles[i : i + 5], 1) for i in range(5)], 0)

    def write(name="scene.tif", pixels=mosaic[: SIZE[0], : SIZE[1]], **more):
        path = tmp_path / "scenes" / name
        path.parent.mkdir(exist_ok=True)
        profile = {"driver": "GTiff", "dtype": pixels.dtype, "count": pixels.shape[2],
                   "height": pixels.shape[0], "width": pixels.shape[1], "crs": "EPSG:32648",
                   "transform": TRANSFORM, "photometric": "rgb", **more}  # fmt: skip
        if pixels.shape[2] < 3 or more.get("photometric", 0) is None:
            del profile["photometric"]
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.moveaxis(pixels, 2, 0))
        return path

    return write


def ids_of(out, name="scene"):
    with rasterio.open(out / "masks" / f"{name}.tif") as file:
        return file.read(1)


def test_a_mask_lies_where_its_scene_does_and_names_its_classes(
    fewmask, tiny_run, write, tmp_path, small_windows
):
    scene, out = write(), tmp_path / "out"
    result = fewmask("predict", tiny_run.path, scene, "-o", out)
    assert result.code == 0, result.err
    with rasterio.open(scene) as given, rasterio.open(out / "masks" / "scene.tif") as made:
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        assert (made.nodata, made.dtypes) == (255, ("uint8",))
        assert made.colormap(1)[0] == (0, 0, 0, 255)
        assert made.colormap(1)[1] == (*class_colour(1), 255)
        assert set(np.unique(made.read(1))) == {0, 1}
    names = (out / "masks" / "scene.tif.aux.xml").read_text()
    assert "<Category>background</Category><Category>positive</Category>" in names
    assert Image.open(out / "overlays" / "scene.jpg").size == SIZE[::-1]
    assert sorted(p.name for p in out.iterdir()) == ["masks", "overlays"]


def test_its_areas_are_polygons_on_the_same_ground(fewmask, tiny_run, write, tmp_path):
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    from rasterio.features import rasterize

    out = tmp_path / "out"
    result = fewmask("predict", tiny_run.path, write(), "-o", out, "--polygons")
    assert result.code == 0, result.err
    meta, _, geometry, fields = pyogrio.raw.read(out / "polygons/scene.gpkg")
    assert meta["crs"] == "EPSG:32648"
    shapes = list(zip(shapely.from_wkb(geometry), map(int, fields[0]), strict=True))
    again = rasterize(shapes, out_shape=SIZE, transform=TRANSFORM)
    assert (again == ids_of(out)).all()


def test_a_tile_gets_the_mask_that_it_gets_as_a_picture(fewmask, tiny_run, write, tmp_path):
    scene = write(pixels=np.asarray(Image.open(next(tiny_run.data.glob("positive/*.png")))))
    Image.fromarray(np.asarray(Image.open(scene))).save(scene.with_name("picture.png"))
    result = fewmask("predict", tiny_run.path, scene, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    result = fewmask("predict", tiny_run.path, scene.parent, "-o", tmp_path / "pictures")
    assert result.code == 0, result.err
    assert sorted(p.name for p in (tmp_path / "pictures/masks").iterdir()) == [
        "picture.png", "scene.png",
    ]  # fmt: skip
    picture = np.asarray(Image.open(tmp_path / "pictures/masks/picture.png"))
    assert np.array_equal(ids_of(tmp_path / "out"), picture)
    assert picture.any()


def test_a_finer_scene_is_seen_at_the_scale_that_it_is_told(fewmask, tiny_run, write, tmp_path):
    """At twice the resolution, an image of the run's kind takes 64 px."""
    coarse = write()
    pixels = np.asarray(Image.open(coarse).resize((260, 300), Image.Resampling.BILINEAR))
    fine, alike = write("fine.tif", pixels), {}
    assert fewmask("predict", tiny_run.path, coarse, "-o", tmp_path / "coarse").code == 0
    for flags in ((), ("--image-px", 64)):
        out = tmp_path / f"fine{len(flags)}"
        assert fewmask("predict", tiny_run.path, fine, "-o", out, *flags).code == 0
        halved = ids_of(out, "fine")[::2, ::2]
        alike[flags] = (halved == ids_of(tmp_path / "coarse")).mean()
    assert alike["--image-px", 64] > alike[()] + 0.05


def test_no_data_stay_no_data(fewmask, tiny_run, write, tmp_path, small_windows):
    scene = write(nodata=0)
    with rasterio.open(scene, "r+") as file:
        file.write(np.zeros((3, 40, 50), np.uint8), window=((10, 50), (60, 110)))
    assert fewmask("predict", tiny_run.path, scene, "-o", tmp_path / "out").code == 0
    empty = ids_of(tmp_path / "out") == 255
    assert empty[10:50, 60:110].all()
    assert empty.sum() == 40 * 50


@pytest.mark.parametrize("stop", [1, 2, "writing"])
def test_stopped_and_gone_on_with_gives_the_same_bytes(
    fewmask, tiny_run, write, tmp_path, small_windows, monkeypatch, stop
):
    scene = write()
    command = ("predict", tiny_run.path, scene, "-o")
    assert fewmask(*command, tmp_path / "whole").code == 0
    calls, saved = [], predict_scene._Progress.save

    def save(self, bands, rows):
        saved(self, bands, rows)
        calls.append(bands)
        if bands == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict_scene._Progress, "save", save)
        if stop == "writing":
            patched.setattr(Scene, "writer", stopping)
        result = fewmask(*command, tmp_path / "out")
    assert result.code == 75, result.err
    assert "the same command goes on" in result.err
    assert not (tmp_path / "out/masks/scene.tif").exists()
    assert len(calls) > 1 or stop == 1
    made = []
    monkeypatch.setattr(predict_scene._Progress, "write", spied(predict_scene._Progress, made))
    result = fewmask(*command, tmp_path / "out")
    assert result.code == 0, result.err
    assert (made[0] > 0) if stop != "writing" else made == []
    for file in ("masks/scene.tif", "masks/scene.tif.aux.xml", "overlays/scene.jpg"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def spied(kind, calls):
    own = kind.write

    def write(self, top, ids):
        calls.append(top)
        own(self, top, ids)

    return write


@pytest.mark.parametrize("change", ["scene", "scale", "pictures"])
def test_what_was_begun_of_something_else_is_left_alone(
    fewmask, tiny_run, write, tmp_path, small_windows, monkeypatch, tree, change
):
    scene, out = write(), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Scene, "writer", stopping)
        assert fewmask("predict", tiny_run.path, scene, "-o", out).code == 75
    before, images, flags = tree(out), scene, ()
    if change == "scene":
        write(pixels=np.zeros((*SIZE, 3), np.uint8))
    elif change == "scale":
        flags = ("--image-px", 40)
    else:
        images = tiny_run.data / "positive"
    result = fewmask("predict", tiny_run.path, images, "-o", out, *flags)
    assert result.code == 2, result.err
    assert tree(out) == before
    if change != "scene":
        assert fewmask("predict", tiny_run.path, scene, "-o", out).code == 0


def stopping(*_):
    raise KeyboardInterrupt


def test_a_mask_that_did_not_fit_on_the_disk_is_not_taken_for_one(
    fewmask, tiny_run, write, tmp_path, monkeypatch
):
    scene, out = write(), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(geotiff, "crc32", lambda _: next(numbers))
        numbers = iter(range(100))
        result = fewmask("predict", tiny_run.path, scene, "-o", out)
    assert result.code == 14, result.err
    assert "DISK-WRITE" in result.err
    assert not list((out / "masks").iterdir())
    assert fewmask("predict", tiny_run.path, scene, "-o", out).code == 0


def test_control_points_are_kept(fewmask, tiny_run, write, tmp_path):
    scene = write()
    points = [GroundControlPoint(r, c, 10 + c / 1000, 50 - r / 1000)
              for r, c in ((0, 0), (0, 130), (150, 0), (150, 130))]  # fmt: skip
    with rasterio.open(scene) as file:
        pixels = file.read()
    with rasterio.open(scene, "w", driver="GTiff", dtype="uint8", count=3, height=150, width=130,
                       gcps=points, crs="EPSG:4326", photometric="rgb") as file:  # fmt: skip
        file.write(pixels)
    assert fewmask("predict", tiny_run.path, scene, "-o", tmp_path / "out").code == 0
    with rasterio.open(tmp_path / "out/masks/scene.tif") as file:
        found, system = file.gcps
    assert system == "EPSG:4326"
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_a_scene_is_not_refined_and_the_command_says_so(fewmask, tiny_run, write, tmp_path):
    run = shutil.copytree(tiny_run.path, tmp_path / "run")
    record = (run / "run.yaml").read_text()
    assert record.count("predict_refine: none") == 1
    (run / "run.yaml").write_text(record.replace("predict_refine: none",
                                                 "predict_refine: colour_model"))  # fmt: skip
    scene, made = write(), {}
    for path, name in ((tiny_run.path, "plain"), (run, "refined")):
        result = fewmask("predict", path, scene, "-o", tmp_path / name)
        assert result.code == 0, result.err
        assert ("not refined by colour_model" in result.out) == (name == "refined")
        made[name] = ids_of(tmp_path / name)
    assert np.array_equal(made["plain"], made["refined"])


def test_of_several_domains_the_targets_images_tell_the_scale(tmp_path):
    samples = []
    for name, size in (("source/a", (9, 7)), ("source/b", (9, 7)), ("target/a", (30, 20))):
        path = tmp_path / f"{name.replace('/', '-')}.png"
        Image.new("RGB", size).save(path)
        samples.append(Sample(name, path, None, (), name))
    data = DataFolder(tmp_path, tuple(samples), ("a",), "domains", None)
    assert usual_size(data) == [20, 30]
    assert usual_size(dataclasses.replace(data, layout="images")) == [7, 9]


def test_sixteen_bits_and_bands_by_number(fewmask, tiny_run, write, tmp_path):
    scene = write()
    pixels = np.asarray(Image.open(scene)).astype(np.uint16) * 257
    four = np.concatenate([pixels[..., ::-1], pixels[..., :1]], 2)
    deep = write("deep.tif", four, photometric=None)
    for path, flags in ((scene, ()), (deep, ("--bands", 3, 2, 1))):
        result = fewmask("predict", tiny_run.path, path, "-o", tmp_path / path.stem, *flags)
        assert result.code == 0, result.err
    assert np.array_equal(ids_of(tmp_path / "scene"), ids_of(tmp_path / "deep", "deep"))


@pytest.mark.parametrize(
    ("make", "flags", "code", "word"),
    [
        (lambda write: write(pixels=np.zeros((50, 50, 5), np.uint8), photometric=None), (), 10,
         "IMAGE-BANDS"),
        (lambda write: write(pixels=np.zeros((50, 50, 3), np.float32)), (), 10, "IMAGE-DTYPE"),
        (lambda write: with_palette(write), (), 10, "-expand rgb"),
        (lambda write: write(), ("--bands", 7), 2, "BANDS"),
        (lambda write: write().parent, ("--image-px", 40), 2, "SCENE-MISSING"),
        (lambda write: write(), ("--image-px", 0), 2, "IMAGE-PX"),
        (lambda write: write(), ("--image-px", 32, 32, 32), 2, "3 numbers"),
        (lambda write: write(), ("--margin-px", 100), 2, "MARGIN-PX"),
        (lambda write: write().parent, ("--margin-px", 64), 2, "SCENE-MISSING"),
        (lambda write: truncated(write(compress="deflate")), (), 10, "SCENE-UNREADABLE"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(fewmask, tiny_run, write, tmp_path, make, flags, code, word):
    result = fewmask("predict", tiny_run.path, make(write), "-o", tmp_path / "out", *flags)
    assert result.code == code, result.err
    assert word in result.err
    assert "Traceback" not in result.err
    assert not list((tmp_path / "out").rglob("*.tif"))


def with_palette(write):
    path = write(pixels=np.zeros((50, 50, 1), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (9, 9, 9, 255)})
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def test_a_run_that_did_not_note_the_size_of_its_images_asks_for_it(
    fewmask, tiny_run, write, tmp_path
):
    run = shutil.copytree(tiny_run.path, tmp_path / "run")
    card = json.loads((run / "weights/card.json").read_text())
    assert card.pop("image_px") == [32, 32]
    (run / "weights/card.json").write_text(json.dumps(card))
    result = fewmask("predict", run, write(), "-o", tmp_path / "out")
    assert result.code == 12, result.err
    assert "--image-px" in result.err
    assert fewmask("predict", run, write(), "-o", tmp_path / "out", "--image-px", 32).code == 0


def test_a_plain_tiff_is_a_picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif")
    assert not is_georeferenced(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(b"II*\0junk")
    assert not is_georeferenced(tmp_path / "b.tif")
