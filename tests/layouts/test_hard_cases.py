"""Data sets in which the obvious reading is the wrong one; each was met by somebody."""

import csv
import json

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter

from fewmask.checking import check, mend
from fewmask.io.images import read_mask
from fewmask.layouts.stacks import stacks_of

SIDE = 24
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    return path


def picture(rng):
    coarse = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


def canvas(colour):
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def painted(background, **areas):
    mask = canvas(background)
    for colour, rows in areas.values():
        mask[rows] = colour
    return mask


def blob(value):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:12, 6:20] = value
    return mask


def copied(root):
    mended = mend(root, root.parent / "copy")
    return mended, root.parent / "copy"


def table(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def codes(mended):
    return {problem.code for problem in mended.source.problems}


def test_a_smoothed_mask_among_ids_leaves_these_alone(root, rng):
    for i in range(5):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}.png", blob(1))
    large = Image.fromarray(picture(rng)).resize((192, 192))
    save(root / "images/t9.png", large)
    soft = Image.fromarray(blob(255)).resize((192, 192), Image.Resampling.NEAREST)
    save(root / "masks/t9.png", soft.filter(ImageFilter.GaussianBlur(1)))
    _, copy = copied(root)
    assert all((read_mask(copy / f"masks/t{i}.png") == blob(1)).all() for i in range(5))
    assert read_mask(copy / "masks/t9.png").sum() == pytest.approx(8 * 14 * 64, rel=0.02)


def test_soft_edges_are_not_taken_for_classes(root, rng):
    for i in range(3):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}.png", Image.fromarray(blob(255)).filter(
            ImageFilter.GaussianBlur(3)))  # fmt: skip
    assert codes(copied(root)[0]) == {"MASK-VALUES"}


def test_colours_are_the_classes_that_have_them(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        mask = painted((0, 0, 0), roof=(RED, slice(0, 9)), lake=(BLUE, slice(20, 22)))
        save(root / "masks" / f"t{i}.png", mask)
    (root / "classes.csv").write_text("id,name,colour\n1,lake,#0000ff\n2,roof,#ff0000\n")
    _, copy = copied(root)
    assert [row["colour"] for row in table(copy / "classes.csv")] == ["#0000ff", "#ff0000"]
    mask = read_mask(copy / "masks/t0.png")
    assert (mask[0] == 2).all()
    assert (mask[20] == 1).all()


def test_colours_go_by_the_tags_that_they_come_with(root, rng):
    for name, colour, rows in (("lake", BLUE, 3), ("roof", RED, 9)):
        for i in range(6):
            save(root / name / f"{name}{i}.png", picture(rng))
            save(root / "masks" / name / f"{name}{i}.png",
                 painted((0, 0, 0), one=(colour, slice(0, rows))))  # fmt: skip
    for i in range(6):
        save(root / "negative" / f"n{i}.png", picture(rng))
    mended, copy = copied(root)
    assert not mended.report.problems
    assert set(np.unique(read_mask(copy / "masks/lake/lake0.png"))) == {0, 1}
    assert set(np.unique(read_mask(copy / "masks/roof/roof0.png"))) == {0, 2}


def test_an_empty_mask_on_white_is_empty(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        mask = painted(WHITE, a=(RED, slice(0, 3)), b=(BLUE, slice(5, 7))) if i else canvas(WHITE)
        save(root / "masks" / f"t{i}.png", mask)
    _, copy = copied(root)
    assert not read_mask(copy / "masks/t0.png").any()
    assert set(np.unique(read_mask(copy / "masks/t1.png"))) == {0, 1, 2}


def test_a_mask_stays_in_its_part(root, rng):
    for part in ("train", "val"):
        save(root / "images" / part / "a.png", picture(rng))
        save(root / "images" / part / "b.png", picture(rng))
    save(root / "masks/val/a.png", blob(1))
    _, copy = copied(root)
    assert [path.parent.name for path in (copy / "masks").rglob("*.png")] == ["val"]


def test_a_mask_for_two_images_goes_to_neither(root, rng):
    for folder in ("a", "b"):
        save(root / "images" / folder / "0.png", picture(rng))
    save(root / "images/c/1.png", picture(rng))
    save(root / "masks/0.png", blob(1))
    mended, copy = copied(root)
    assert codes(mended) == {"MASK-SHARED"}
    assert not (copy / "masks").exists()


def test_pictures_beside_the_images_are_not_data(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}_mask.png", blob(1))
        save(root / "JPG" / f"t{i}.png", picture(rng))
        save(root / "valid/images" / f"v{i}.png", picture(rng))
    mended, copy = copied(root)
    assert codes(mended) == {"FOLDER-SKIPPED"}
    assert len(list((copy / "images").rglob("*.png"))) == 6
    assert len(list((copy / "masks").rglob("*.png"))) == 6


def test_tags_that_no_name_is_given_for_are_classes_of_their_own(root, rng):
    for name in ("lake", "roof", "negative"):
        for i in range(6):
            save(root / name / f"{name}{i}.png", picture(rng))
    (root / "classes.csv").write_text("id,name\n1,roof\n")
    _, copy = copied(root)
    assert [row["name"] for row in table(copy / "classes.csv")] == ["roof", "lake"]
    assert sum(int(row["lake"]) for row in table(copy / "tags.csv")) == 6


@pytest.mark.parametrize(
    ("name", "text"),
    [("labels.csv", "id,label\n0,background\n1,lake\n"),
     ("class_dict.csv", "name,r,g,b\nlake,0,0,1\nroof,1,0,0\n"),
     ("meta.csv", "file,cloudy\n" + "".join(f"lake{i}.png,1\n" for i in range(3)))],
)  # fmt: skip
def test_a_small_table_is_not_the_tags(root, rng, name, text):
    for folder in ("lake", "negative"):
        for i in range(6):
            save(root / folder / f"{folder}{i}.png", picture(rng))
    save(root / "lake/extra.bmp", picture(rng))
    (root / name).write_text(text)
    _, copy = copied(root)
    assert [row["name"] for row in table(copy / "classes.csv")] == ["lake"]
    assert len(table(copy / "tags.csv")) == 13


def test_the_whole_path_of_a_row_counts_before_its_end(root, rng):
    for name in ("train/a", "train/b", "train/c", "train/d"):
        save(root / "images" / f"{name}.png", picture(rng))
    rows = "val/a.png,dog\ntrain/a.png,cat\ntrain/b.png,cat\ntrain/c.png,\ntrain/d.png,\n"
    (root / "labels.csv").write_text(f"image,label\n{rows}")
    _, copy = copied(root)
    by_file = {row["file"]: row for row in table(copy / "tags.csv")}
    assert by_file["train/a.png"]["cat"] == "1"


def test_pictures_among_volumes_are_told(root, rng):
    nibabel = pytest.importorskip("nibabel")
    for i in range(2):
        volume = nibabel.Nifti1Image(rng.random((8, 8, 3)).astype(np.float32), np.eye(4))
        nibabel.save(volume, root / f"v{i}.nii.gz")
    save(root / "a.png", picture(rng))
    mended, copy = copied(root)
    assert codes(mended) == {"OTHER-FILES"}
    assert len(list((copy / "images").rglob("*.png"))) == 6


def test_a_volume_among_pictures_is_told(root, rng):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 3)), np.eye(4)), root / "v.nii.gz")
    for i in range(3):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}.png", blob(1))
    mended, copy = copied(root)
    assert codes(mended) == {"OTHER-FILES"}
    assert len(list((copy / "masks").rglob("*.png"))) == 3


def test_a_results_file_beside_masks_does_not_make_it_coco(root, rng):
    for i in range(3):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}.png", blob(1))
    (root / "results.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "t0.png", "height": SIDE, "width": SIDE}],
                    "annotations": [], "categories": [{"id": 1, "name": "x"}]})
    )  # fmt: skip
    assert check(root).counts["masks"] == 3


def test_years_are_not_channels(root, rng):
    nibabel = pytest.importorskip("nibabel")
    names = ("scan_2019", "scan_2020", "case_0000", "case_0001")
    for name in names:
        volume = nibabel.Nifti1Image(rng.random((8, 8, 3)).astype(np.float32), np.eye(4))
        nibabel.save(volume, root / f"{name}.nii.gz")
    stacks, problems = stacks_of(root)
    assert not problems
    assert [stack.name for stack in stacks] == ["case", "scan_2019", "scan_2020"]


def test_two_volumes_of_one_name_are_not_one_mask(root, rng):
    nibabel = pytest.importorskip("nibabel")
    for name in ("b.nii", "b.nii.gz"):
        volume = nibabel.Nifti1Image(rng.random((8, 8, 3)).astype(np.float32), np.eye(4))
        nibabel.save(volume, root / name)
    stacks, problems = stacks_of(root)
    assert [stack.name for stack in stacks] == ["b"]
    assert {problem.code for problem in problems} == {"STEM-TWICE"}


def test_copies_whose_masks_differ_are_both_kept(root, rng):
    pixels = picture(rng)
    for i, value in enumerate((1, 2)):
        save(root / "images" / f"t{i}.png", pixels)
        save(root / "masks" / f"t{i}.png", blob(value))
    assert copied(root)[0].written == 2


def test_a_mask_of_one_pixel_is_no_mask_in_proportion(root, rng):
    for i in range(3):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}.png", np.ones((1, 1), np.uint8))
    assert codes(copied(root)[0]) == {"MASK-SIZE"}


def test_bands_that_are_asked_for_are_taken_also_of_declared_colours(root):
    pixels = np.zeros((8, 8, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    (root / "images").mkdir()
    tifffile.imwrite(root / "images/a.tif", pixels, photometric="rgb")
    mend(root, root.parent / "copy", bands=(3, 2, 1))
    assert np.asarray(Image.open(root.parent / "copy/images/a.png"))[0, 0].tolist() == [30, 20, 10]


def test_masks_as_bitmaps_are_masks(root, rng):
    for i in range(3):
        save(root / "images" / f"t{i}.bmp", picture(rng))
        save(root / "masks" / f"t{i}.bmp", blob(1))
    _, copy = copied(root)
    assert all((read_mask(copy / f"masks/t{i}.png") == blob(1)).all() for i in range(3))


@pytest.mark.parametrize("array", [np.array([["a"]]), np.zeros((0, 0)), np.zeros((2, 2, 2))])
def test_arrays_that_are_no_masks_are_told(root, rng, array):
    for i in range(2):
        save(root / "images" / f"t{i}.png", picture(rng))
    (root / "masks").mkdir()
    np.save(root / "masks/t0.npy", array)
    np.save(root / "masks/t1.npy", blob(1))
    assert codes(copied(root)[0]) == {"MASK-DTYPE"}


def test_a_class_called_like_a_formula_is_plain_text_in_every_table(root, rng):
    for name in ("=1+1", "negative"):
        for i in range(6):
            save(root / name / f"{name[-3:]}{i}.png", picture(rng))
    mended, copy = copied(root)
    assert not mended.report.problems
    assert [row["name"] for row in table(copy / "classes.csv")] == ["_=1+1"]
    assert not [line for path in copy.glob("*.csv") for line in path.read_text().splitlines()
                if any(cell.startswith("=") for cell in line.split(","))]  # fmt: skip


def test_slices_without_anything_to_see_are_left_out(root, rng):
    nibabel = pytest.importorskip("nibabel")
    voxels = rng.random((8, 8, 6)).astype(np.float32)
    voxels[..., 4:] = 0
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), root / "v.nii.gz")
    mended, copy = copied(root)
    assert mended.written == 4
    assert "IMAGE-BLANK" in (copy / "repairs.csv").read_text()
    assert not mended.report.problems


def test_an_images_function_may_give_deep_colours(root, tmp_path):
    from fewmask.layouts.plain_copy import write_plain
    from fewmask.layouts.records import Entry, Source

    deep = np.zeros((4, 5, 3), np.uint16) + np.array([0, 257 * 7, 65_535], np.uint16)
    write_plain(Source("test", root, [Entry("a", lambda: deep)]), tmp_path / "copy")
    assert np.asarray(Image.open(tmp_path / "copy/images/a.png"))[0, 0].tolist() == [0, 7, 255]
