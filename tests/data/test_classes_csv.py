"""``classes.csv`` and ``groups.csv``: names, colours and groups that stand beside the images."""

import numpy as np
import pytest

from fewmask.data.check import check_folder
from fewmask.data.classes_csv import Class, classes_text, read_classes
from fewmask.data.folder import open_folder
from fewmask.io.images import write_image, write_mask


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(4):
        write_image(tmp_path / "images" / f"{i}.png", rng.integers(0, 255, (16, 16, 3), np.uint8))
        write_mask(tmp_path / "masks" / f"{i}.png", rng.integers(0, 3, (16, 16), np.uint8))
    (tmp_path / "classes.csv").write_text("id,name,colour\n2,roof,\n1,lake,#1f77b4\n")
    return tmp_path


def opened(folder, **options):
    return open_folder(folder, require_tags=False, **options)


def codes(folder):
    return {problem.code for problem in check_folder(folder, require_tags=False).problems}


def test_names_and_colours_come_from_the_file(folder):
    data = opened(folder)
    assert data.class_names == ("lake", "roof")
    assert data.class_colours == ("#1f77b4", "")


def test_names_that_are_given_win_and_colours_follow_their_names(folder):
    data = opened(folder, class_names=("roof", "lake"))
    assert data.class_names == ("roof", "lake")
    assert data.class_colours == ("", "#1f77b4")


def test_a_round_trip_keeps_names_that_need_quotation_marks(tmp_path):
    classes = (Class('a "b", c', (0, 1, 255)), Class("é"))
    (tmp_path / "classes.csv").write_text(classes_text(classes), encoding="utf-8")
    assert read_classes(tmp_path / "classes.csv") == (classes, [])


@pytest.mark.parametrize(
    "text",
    [
        "id;name\n1;lake\n",
        "id,name\n",
        "id,name\n1,lake\n3,roof\n",
        "id,name\n1,lake\n1,roof\n",
        "id,name\n1,lake\n2,lake\n",
        "id,name\none,lake\n",
        "id,name,colour\n1,lake,blue\n",
        b"id,name\n1,\xff\n",
    ],
)
def test_a_file_that_cannot_be_understood_is_one_problem(folder, text):
    (folder / "classes.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "CLASSES-FORMAT" in codes(folder)


def test_fewer_names_than_ids_in_the_masks_is_told(folder):
    (folder / "classes.csv").write_text("id,name\n1,lake\n")
    assert codes(folder) == {"MASK-VALUES"}


def test_groups_come_from_their_file(folder):
    (folder / "groups.csv").write_text("id,group\nimages/0,p1\nimages/1,p1\n")
    assert [s.group for s in opened(folder).samples] == ["p1", "p1", "images/2", "images/3"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("id,group\nimages/9,p1\n", "GROUPS-NO-FILE"),
        ("name,group\nimages/0,p1\n", "GROUPS-FORMAT"),
        ("id,group\nimages/0,\n", "GROUPS-FORMAT"),
    ],
)
def test_a_table_of_groups_that_fits_no_image_is_told(folder, text, code):
    (folder / "groups.csv").write_text(text)
    assert code in codes(folder)
