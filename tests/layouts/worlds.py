"""Thirty broken data sets, each as a user once had it; all seeded, none larger than it must be.

A world is a function that fills a folder, with what the check must say of it and what must hold of
its repaired copy.
"""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SIDE = 24


@dataclass(frozen=True)
class World:
    """A broken data set.

    Attributes:
        name: What is wrong with it.
        fill: Fills an empty folder, given a random generator.
        told: Codes of problems that `fewmask check` must name.
        holds: Asserts what must be true of the repaired copy.
        left_out: Codes of what the copy must lack.
    """

    name: str
    fill: Callable[[Path, np.random.Generator], None]
    told: frozenset[str]
    holds: Callable[[Path], None]
    left_out: frozenset[str] = frozenset()


WORLDS: list[World] = []


def world(*told: str, left_out: tuple[str, ...] = (), holds: Callable[[Path], None]):
    """Register a world; its name is that of the function."""

    def add(fill):
        name = fill.__name__.replace("_", " ")
        WORLDS.append(World(name, fill, frozenset(told), holds, frozenset(left_out)))
        return fill

    return add


def picture(rng, shape=(SIDE, SIDE, 3)):
    """Smooth noise: different for every call, so that nothing is a copy."""
    coarse = rng.integers(0, 255, (4, 4, shape[2])).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(shape[1::-1], Image.Resampling.BICUBIC))


def save(path: Path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


def blob(value=1, background=0, dtype=np.uint8, rows=slice(4, 12), columns=slice(6, 20)):
    """A rectangle whose place says which way is up."""
    mask = np.full((SIDE, SIDE), background, dtype)
    mask[rows, columns] = value
    return mask


def pairs(root, rng, mask, count=6, name="t{}", masks="masks", suffix=".png"):
    for i in range(count):
        save(root / "images" / f"{name.format(i)}.png", picture(rng))
        save(root / masks / f"{name.format(i)}{suffix}", mask(i))


def classes(root, rng, names=("positive", "negative"), count=6):
    for name in names:
        for i in range(count):
            save(root / name / f"{name[:3]}{i}.png", picture(rng))


def read(path):
    return np.asarray(Image.open(path))


def values(folder):
    """All ids in all masks of a copy."""
    return set().union(*(np.unique(read(p)).tolist() for p in (folder / "masks").rglob("*.png")))


def table(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def names_of(folder):
    return [row["name"] for row in table(folder / "classes.csv")]


def images(folder):
    return sorted(p.relative_to(folder / "images").as_posix()
                  for p in (folder / "images").rglob("*") if p.is_file())  # fmt: skip


# --- masks ----------------------------------------------------------------------------------------


def _by_tag(copy):
    assert names_of(copy) == ["lake", "roof"]
    assert set(np.unique(read(copy / "masks/lake/lak0.png"))) == {0, 1}
    assert set(np.unique(read(copy / "masks/roof/roo0.png"))) == {0, 2}


@world("MASK-AMBIGUOUS", holds=_by_tag)
def two_classes_with_white_masks(root, rng):
    classes(root, rng, ("lake", "roof", "negative"))
    for name in ("lake", "roof"):
        for i in range(6):
            save(root / "masks" / name / f"{name[:3]}{i}.png", blob(255))


def _colours(copy):
    rows = table(copy / "classes.csv")
    assert [row["colour"] for row in rows] == ["#ff0000", "#0000ff"], "the frequent one first"
    assert values(copy) == {0, 1, 2}
    assert (read(copy / "masks/t0.png") == 1).sum() == 8 * 14


@world("MASK-RGB", holds=_colours)
def masks_in_colours(root, rng):
    def mask(i):
        drawn = np.zeros((SIDE, SIDE, 3), np.uint8)
        drawn[4:12, 6:20] = (255, 0, 0)
        drawn[20:, :3] = (0, 0, 255)
        return drawn

    pairs(root, rng, mask)


def _transparent(copy):
    assert values(copy) == {0, 1}
    assert (read(copy / "masks/t0.png") == blob()).all()


@world("MASK-RGB", holds=_transparent)
def masks_painted_on_nothing(root, rng):
    def mask(i):
        drawn = np.zeros((SIDE, SIDE, 4), np.uint8)
        drawn[blob() == 1] = (0, 200, 0, 255)
        return drawn

    pairs(root, rng, mask)


def _three_ids(copy):
    assert values(copy) == {0, 1, 2, 3}


@world("MASK-VALUES", holds=_three_ids)
def palette_masks_saved_as_grey(root, rng):
    def mask(i):
        ids = blob(1) + blob(2, rows=slice(14, 18)) + blob(3, rows=slice(20, 23))
        drawn = Image.fromarray(ids.astype(np.uint8), "P")
        drawn.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 756)
        return drawn.convert("L")

    pairs(root, rng, mask)


def _cut(copy):
    assert values(copy) == {0, 1}
    assert abs(int((read(copy / "masks/t0.png") == 1).sum()) - 8 * 14) < 20


@world("MASK-VALUES", holds=_cut)
def masks_saved_as_jpeg(root, rng):
    pairs(root, rng, lambda i: blob(255), suffix=".jpg")


def _gaps(copy):
    assert values(copy) == {0, 1, 2, 255}
    assert names_of(copy) == ["class_30", "class_70"]


@world("MASK-VALUES", holds=_gaps)
def ids_with_gaps(root, rng):
    pairs(root, rng, lambda i: np.maximum(np.maximum(
        blob(30), blob(70, rows=slice(14, 18))), blob(255, rows=slice(22, 24))))  # fmt: skip


def _object(copy):
    assert all((read(path) == blob()).all() for path in (copy / "masks").glob("*.png"))


@world("MASK-VALUES", holds=_object)
def masks_of_0_and_128(root, rng):
    pairs(root, rng, lambda i: blob(128))


def _all_objects(copy):
    assert all((read(path) == blob()).all() for path in (copy / "masks/positive").glob("*.png"))


@world("MASK-MIXED", holds=_all_objects)
def two_ways_to_store_the_object(root, rng):
    classes(root, rng)
    for i in range(6):
        save(root / "masks/positive" / f"pos{i}.png", blob(255 if i == 3 else 1))


@world("MASK-DTYPE", holds=_object)
def masks_of_floats(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        (root / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(root / "masks" / f"t{i}.tif", blob().astype(np.float32))


def _arrays(copy):
    _object(copy)
    assert len(list((copy / "masks").glob("*.png"))) == 6


@world(holds=_arrays)
def masks_as_numpy_files(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        (root / "masks").mkdir(exist_ok=True)
        np.save(root / "masks" / f"t{i}.npy", blob().astype(np.int64))


@world("MASK-UNPAIRED", holds=_object)
def masks_with_an_ending(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}_mask.png", blob())


def _paired(copy):
    assert images(copy) == [f"t{i}.jpg" for i in range(6)]
    _object(copy)


@world(holds=_paired)
def masks_beside_their_images(root, rng):
    for i in range(6):
        save(root / f"t{i}.jpg", picture(rng))
        save(root / f"t{i}_gt.png", blob())


def _upright(copy):
    image, mask = read(copy / "images/t0.png"), read(copy / "masks/t0.png")
    assert image.shape[:2] == mask.shape == (30, 20)
    assert mask[0, 19] == 1, "the top left corner as stored is the top right one as displayed"
    assert image[0, 19].min() > 200
    assert mask.sum() == 4


@world("ORIENTATION", holds=_upright)
def masks_drawn_on_turned_photographs(root, rng):
    for i in range(6):
        photo = np.array(picture(rng, (20, 30, 3))) // 2
        photo[:4, :4] = 255
        mask = np.zeros((20, 30), np.uint8)
        mask[:2, :2] = 1
        exif = Image.Exif()
        exif[274] = 6
        save(root / "images" / f"t{i}.jpg", photo, exif=exif, quality=100)
        save(root / "masks" / f"t{i}.png", mask)


def _enlarged(copy):
    mask = read(copy / "masks/t0.png")
    assert mask.shape == (SIDE, SIDE)
    assert (mask == np.kron(blob()[::2, ::2], np.ones((2, 2), np.uint8))).all()


@world("MASK-SIZE", holds=_enlarged)
def masks_of_half_the_size(root, rng):
    pairs(root, rng, lambda i: blob()[::2, ::2])


def _lacks_two_masks(copy):
    assert len(list((copy / "masks").glob("*.png"))) == 4
    assert len(images(copy)) == 6


@world("MASK-SIZE", holds=_lacks_two_masks, left_out=("MASK-SIZE",))
def masks_of_other_pictures(root, rng):
    pairs(root, rng, lambda i: blob() if i > 1 else blob()[:10])


# --- folders and names ----------------------------------------------------------------------------


def _split(copy):
    rows = {row["id"]: row["part"] for row in table(copy / "split.csv")}
    assert rows["images/train/positive/pos0"] == "train"
    assert rows["images/test/positive/pos0"] == "test"
    assert len(rows) == 24
    assert names_of(copy) == ["positive"]


@world("SPLIT-FOLDERS", holds=_split)
def folders_train_and_test(root, rng):
    classes(root / "train", rng)
    classes(root / "test", rng)


def _twelve(copy):
    assert len(images(copy)) == 12
    assert names_of(copy) == ["positive"]


@world("FOLDER-NESTED", holds=_twelve)
def a_folder_in_a_folder(root, rng):
    classes(root / "data", rng)


@world("IMAGE-STRAY", holds=_twelve, left_out=("IMAGE-STRAY",))
def images_beside_the_classes(root, rng):
    classes(root, rng)
    save(root / "readme.png", picture(rng))


def _both(copy):
    assert images(copy) == ["t0-2.png", "t0.jpg", *(f"t{i}.jpg" for i in range(1, 6))]


@world("STEM-TWICE", holds=_both)
def the_same_name_twice(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.jpg", picture(rng))
    save(root / "images" / "t0.png", picture(rng))


def _cases(copy):
    assert images(copy) == ["A-2.png", "a.png"] or images(copy) == ["A.png", "a-2.png"]


@world("STEM-CASE", holds=_cases)
def names_that_differ_in_case(root, rng):
    for name in ("a", "A"):
        save(root / "images" / f"{name}.png", picture(rng))


def _legible(copy):
    assert images(copy) == ["caf_.png", "t0.png"]


@world("NAME-ENCODING", holds=_legible)
def names_from_another_system(root, rng):
    for name in ("t0", "plain"):
        save(root / "images" / f"{name}.png", picture(rng))
    (root / "images/plain.png").rename(root / "images" / os.fsdecode(b"caf\xe9.png"))


# --- tables ---------------------------------------------------------------------------------------


def _spreadsheet(copy):
    rows = {row["file"]: row for row in table(copy / "tags.csv")}
    assert len(rows) == 12, "the image without a row is left out"
    assert rows["t0.png"]["Fluß"] == "1"
    assert rows["t1.png"] == {"file": "t1.png", "Fluß": "0", "See": "1"}


@world("TAGS-ENCODING", holds=_spreadsheet, left_out=("TAGS-NO-ROW",))
def a_table_from_a_spreadsheet(root, rng):
    for i in range(13):
        save(root / "images" / f"t{i}.png", picture(rng))
    lines = ["Datei;tags".replace("Datei", "file")]
    lines += [f"t{i}.png;{('Fluß', 'See', '')[i % 3]}" for i in range(12)] + ["gone.png;See"]
    (root / "tags.csv").write_bytes("\n".join(lines).encode("cp1252"))


def _spellings(copy):
    assert names_of(copy) == ["cat"]
    assert sum(int(row["cat"]) for row in table(copy / "tags.csv")) == 6


@world("TAGS-COLUMN", holds=_spellings)
def a_table_with_more_columns_and_two_spellings(root, rng):
    for i in range(12):
        save(root / "images" / f"t{i}.png", picture(rng))
    lines = ["file,tags,camera"]
    lines += [f"t{i}.png,{('cat', 'Cat')[i == 3] if i < 6 else ''},{i}" for i in range(12)]
    (root / "tags.csv").write_text("\n".join(lines))


def _parquet(copy):
    assert sum(int(row["lake"]) for row in table(copy / "tags.csv")) == 6
    assert len(table(copy / "tags.csv")) == 12


@world("TAGS-MISSING", holds=_parquet)
def tags_in_a_parquet_file(root, rng):
    import pyarrow
    from pyarrow import parquet

    for i in range(12):
        save(root / "images" / f"t{i}.png", picture(rng))
    columns = {"image": [f"t{i}.png" for i in range(12)], "lake": [i < 6 for i in range(12)]}
    parquet.write_table(pyarrow.table(columns), root / "train.parquet")


@world("TAGS-MISSING", holds=_parquet)
def a_table_of_another_name(root, rng):
    for i in range(12):
        save(root / "images" / f"t{i}.png", picture(rng))
    lines = ["image_id,label", *(f"T{i},{'lake' if i < 6 else ''}" for i in range(12))]
    (root / "labels.csv").write_text("\n".join(lines))


# --- images ---------------------------------------------------------------------------------------


def _opaque(copy):
    assert read(copy / "images/t0.png").shape == (SIDE, SIDE, 3)
    assert (read(copy / "images/t0.png")[:5] == 0).all()


@world("IMAGE-ALPHA", holds=_opaque)
def transparent_images(root, rng):
    for i in range(3):
        pixels = np.dstack([picture(rng), np.full((SIDE, SIDE), 255, np.uint8)])
        pixels[:5, :, 3] = 0
        save(root / "images" / f"t{i}.png", pixels)


def _first_three(copy):
    pixels = read(copy / "images/t0.png")
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels[0, 0].tolist() == [10, 20, 30]


@world("IMAGE-BANDS", holds=_first_three)
def four_bands(root, rng):
    (root / "images").mkdir(parents=True)
    for i in range(3):
        pixels = np.dstack([picture(rng), picture(rng)[..., :1]])
        pixels[0, 0] = (10, 20, 30, 40)
        tifffile.imwrite(root / "images" / f"t{i}.tif", pixels, photometric="minisblack",
                         planarconfig="contig")  # fmt: skip


def _one_range(copy):
    dark, bright = read(copy / "images/t0.png"), read(copy / "images/t2.png")
    assert dark.dtype == np.uint16
    assert dark.max() < bright.max() / 2, "one range for all"
    assert bright.max() == 65_535


@world("IMAGE-DTYPE", holds=_one_range)
def images_of_floats(root, rng):
    (root / "images").mkdir(parents=True)
    for i in range(3):
        values = picture(rng)[..., 0] / 255 * (i + 1) - 0.5
        tifffile.imwrite(root / "images" / f"t{i}.tif", values.astype(np.float32))


def _twelve_bits(copy):
    assert read(copy / "images/t0.png").max() > 30_000


@world("IMAGE-DARK", holds=_twelve_bits)
def twelve_bits_in_sixteen(root, rng):
    (root / "images").mkdir(parents=True)
    for i in range(3):
        values = picture(rng)[..., 0].astype(np.uint16) * 16
        tifffile.imwrite(root / "images" / f"t{i}.tif", values)


def _pages(copy):
    assert len(images(copy)) == 6
    assert {row["group"] for row in table(copy / "groups.csv")} == {"t0", "t1"}


@world("IMAGE-PAGES", holds=_pages)
def several_pages_in_a_file(root, rng):
    (root / "images").mkdir(parents=True)
    for i in range(2):
        pages = np.stack([picture(rng)[..., 0] for _ in range(3)])
        tifffile.imwrite(root / "images" / f"t{i}.tif", pages, photometric="minisblack")


def _three(copy):
    assert images(copy) == ["t0.png", "t1.png", "t2.png"]


@world("FOLDER-EMPTY", holds=_three)
def images_of_other_formats(root, rng):
    for i in range(3):
        save(root / "images" / f"t{i}.bmp", picture(rng))


@world("IMAGE-TRUNCATED", "IMAGE-EMPTY", holds=_three,
       left_out=("IMAGE-TRUNCATED", "IMAGE-EMPTY"))  # fmt: skip
def damaged_images(root, rng):
    for i in range(5):
        save(root / "images" / f"t{i}.png", picture(rng))
    data = (root / "images/t3.png").read_bytes()
    (root / "images/t3.png").write_bytes(data[: len(data) // 2])
    (root / "images/t4.png").write_bytes(b"")


@world("DUPLICATE", holds=_twelve)
def copies_under_other_names(root, rng):
    classes(root, rng)
    (root / "positive/again.png").write_bytes((root / "positive/pos0.png").read_bytes())


@world("PATH-OUTSIDE", holds=_three, left_out=("PATH-OUTSIDE",))
def a_link_out_of_the_folder(root, rng):
    for i in range(3):
        save(root / "images" / f"t{i}.png", picture(rng))
    save(root.parent / "secret.png", picture(rng))
    (root / "images/t3.png").symlink_to(root.parent / "secret.png")
