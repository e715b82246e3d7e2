"""What is not broken is not mended: good folders keep images, masks, names, ids, tags, groups."""

import csv

import numpy as np
import pytest
from PIL import Image

from fewmask.checking import check, mend
from fewmask.data.folder import open_folder, read_target

SIDE = 24


def picture(rng):
    coarse = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def ids(rng, classes, ignored):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for number in range(1, classes + 1):
        row, column = rng.integers(0, SIDE - 4, 2)
        mask[row : row + 4, column : column + 4] = number
    if ignored:
        mask[0] = 255
    return Image.fromarray(mask)


def plain(root, rng, classes, ignored):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}.png", ids(rng, classes, ignored))


def many_classes(root, rng):
    plain(root, rng, 20, ignored=True)


def named(root, rng):
    plain(root, rng, 15, ignored=False)
    save(root / "masks" / "t0.png", ids(rng, 15, ignored=True))
    rows = "".join(f"{i},name {i},#0000{i:02x}\n" for i in range(1, 16))
    (root / "classes.csv").write_text(f"id,name,colour\n{rows}")


def a_class_that_is_missing(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        save(
            root / "masks" / f"t{i}.png",
            Image.fromarray(np.full((SIDE, SIDE), 2 * (i % 2), np.uint8)),
        )


def rare_values(root, rng):
    for i in range(6):
        mask = np.asarray(ids(rng, 2, ignored=True)).copy()
        save(root / "images" / f"t{i}.png", picture(rng))
        save(root / "masks" / f"t{i}.png", Image.fromarray(mask))


def class_folders_with_layers(root, rng):
    for name, tag in (("lake", 1), ("roof", 2), ("negative", 0)):
        for i in range(5):
            save(root / name / "image" / f"{name}{i}.png", picture(rng))
            save(root / name / "dem" / f"{name}{i}.png", picture(rng))
            if tag:
                drawn = np.where(np.eye(SIDE) > 0, tag, 0).astype(np.uint8)
                save(root / name / "mask" / f"{name}{i}.png", Image.fromarray(drawn))


def a_table_with_groups(root, rng):
    plain(root, rng, 2, ignored=True)
    rows = (
        "".join(f"t{i}.png,{'roof;lake'},p{i // 2}\n" for i in range(5)) + "t5.png,roof;lake,p9\n"
    )
    (root / "tags.csv").write_text(f"file,tags,group\n{rows}")
    for i in range(6, 12):
        save(root / "images" / f"t{i}.png", picture(rng))
        with (root / "tags.csv").open("a") as stream:
            stream.write(f"t{i}.png,,\n")


def other_files_around(root, rng):
    plain(root, rng, 1, ignored=True)
    for name in ("color", "visualization", "valid/images"):
        save(root / name / "t0.png", picture(rng))
    (root / "class_dict.csv").write_text("name,r,g,b\na,0,0,1\nb,1,0,0\n")
    (root / "results.json").write_text('{"images": [], "annotations": [], "categories": []}')


def binary_with_white(root, rng):
    for i in range(6):
        save(root / "images" / f"t{i}.png", picture(rng))
        mask = np.asarray(ids(rng, 1, ignored=False)) * 255
        save(root / "masks" / f"t{i}.png", Image.fromarray(mask))


def several_patients(root, rng):
    plain(root, rng, 2, ignored=False)
    rows = "".join(f"images/t{i},p{i // 3}\n" for i in range(6))
    (root / "groups.csv").write_text(f"id,group\n{rows}")


FOLDERS = [
    many_classes,
    named,
    a_class_that_is_missing,
    rare_values,
    class_folders_with_layers,
    a_table_with_groups,
    other_files_around,
    binary_with_white,
    several_patients,
]


@pytest.mark.parametrize("fill", FOLDERS, ids=lambda fill: fill.__name__)
def test_a_good_folder_stays_as_it_is(fill, tmp_path):
    root = tmp_path / "good"
    root.mkdir()
    fill(root, np.random.default_rng(3))
    assert not check(root).problems
    mended = mend(root, tmp_path / "copy")
    assert not mended.report.problems
    assert not mended.source.problems
    before = open_folder(root, require_tags=False)
    after = open_folder(tmp_path / "copy", require_tags=False)
    assert after.class_names == before.class_names
    assert after.class_colours == before.class_colours
    assert len(after.samples) == len(before.samples)
    twins = {sample.image_path.stem: sample for sample in after.samples}
    groups = {}
    for sample in before.samples:
        twin = twins[sample.image_path.stem]
        assert twin.image_path.read_bytes() == sample.image_path.read_bytes()
        assert set(twin.tags) == set(sample.tags)
        one, other = read_target(sample, before), read_target(twin, after)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
        groups.setdefault(sample.group, set()).add(twin.group)
    assert len(set().union(*groups.values())) == len(groups), "as many groups as before"
    assert all(len(found) == 1 for found in groups.values())


def test_names_given_on_the_command_line_rename_the_only_class(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("positive", "negative"):
        for i in range(6):
            save(tmp_path / "data" / name / f"{name[:3]}{i}.png", picture(rng))
    mend(tmp_path / "data", tmp_path / "copy", class_name="landslide")
    with (tmp_path / "copy/tags.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sum(int(row["landslide"]) for row in rows) == 6


def test_nothing_is_written_but_the_copy(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "x" / ".tmp-out"
    plain(root, rng, 1, ignored=False)
    before = sorted(tmp_path.rglob("*"))
    mend(root, tmp_path / "x" / "out")
    made = sorted(path for path in tmp_path.rglob("*") if (tmp_path / "x/out") not in
                  (path, *path.parents))  # fmt: skip
    assert made == before


def test_names_that_climb_out_stay_in_the_copy(tmp_path):
    rng = np.random.default_rng(0)
    for i, folder in enumerate(("-..", " ..", "x.. ", "- ..")):
        save(tmp_path / "a/b/data/images" / folder / folder / f"e{i}.png", picture(rng))
    save(tmp_path / "a/b/data/images" / " .hid.png", picture(rng))
    mended = mend(tmp_path / "a/b/data", tmp_path / "a/b/copy")
    assert mended.written == 5
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["copy", "data"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b"]
    found = [path for path in (tmp_path / "a/b/copy/images").rglob("*") if path.is_file()]
    assert len(found) == 5
    assert not [path for path in found if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["link", "full", "hidden"])
def test_a_place_that_is_taken_is_refused_before_anything_is_read(tmp_path, name):
    from fewmask.errors import UsageError

    plain(tmp_path / "data", np.random.default_rng(0), 1, ignored=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    (tmp_path / "hidden/.tmp-x").mkdir(parents=True)
    with pytest.raises(UsageError, match="FIX-EXISTS"):
        mend(tmp_path / "data", tmp_path / name)
    assert (tmp_path / "full/mine").exists()
