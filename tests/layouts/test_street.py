"""Street scenes as entries: ids from 1 on, parts, groups, colours."""

import numpy as np
import pytest
from PIL import Image

from fewmask.data.label_sets import CAMVID, CITYSCAPES
from fewmask.errors import DataError, UsageError
from fewmask.layouts import street
from fewmask.layouts.records import Class, ReadingOptions


@pytest.fixture
def put(tmp_path):
    """``put(name, ids)`` writes a mask, ``put(name)`` an image, both 2 x 4; returns the root."""

    def write(name, ids=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((2, 4, 3)) if ids is None else np.resize(ids, (2, 4))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        return tmp_path

    return write


def read(root, **options):
    return street.read(root, ReadingOptions(**options))


class TestCamVid:
    @pytest.fixture
    def root(self, put):
        put("val/0016E5_000001.png")
        put("valannot/0016E5_000001.png", [0, 10, 11, 3])
        return put("test/0001TP_000002.png")

    def test_ids_are_one_more_and_unlabelled_is_ignored(self, root):
        source = read(root)
        assert (source.layout, source.problems) == ("CamVid", [])
        entry = source.entries[1]
        assert (entry.id, entry.part) == ("val/0016E5_000001", "val")
        assert entry.mask()[0].tolist() == [1, 11, 255, 4]
        assert entry.mask().dtype == np.uint8

    def test_a_scene_without_a_mask_is_unlabelled(self, root):
        entry = read(root).entries[0]
        assert (entry.part, entry.mask, entry.group) == ("test", None, "test/0001TP/0")

    def test_names_and_colours_in_the_order_of_the_ids(self, root):
        classes = read(root).classes
        assert tuple(each.name for each in classes) == CAMVID.names
        assert classes[3] == Class("Road", (128, 64, 128))

    def test_the_order_of_names_given_by_hand(self, root):
        source = read(root, class_names=CAMVID.names[::-1])
        assert source.entries[1].mask()[0].tolist() == [11, 1, 255, 8]

    def test_other_names_by_hand_are_refused(self, root):
        with pytest.raises(UsageError, match="CLASS-NAMES"):
            read(root, class_names=("road",))

    def test_a_note_leads_to_adapt(self, root):
        assert "fewmask adapt" in read(root).notes[0].fix

    def test_a_value_that_camvid_does_not_know(self, root, put):
        put("valannot/0016E5_000001.png", [12])
        with pytest.raises(DataError, match="MASK-VALUES"):
            read(root).entries[1].mask()

    def test_a_mask_of_another_size_is_left_out(self, root):
        Image.fromarray(np.zeros((4, 2), np.uint8)).save(root / "valannot/0016E5_000001.png")
        source = read(root)
        assert [problem.code for problem in source.problems] == ["MASK-SIZE"]
        assert [entry.id for entry in source.entries] == ["test/0001TP_000002"]

    def test_a_mask_without_an_image_is_a_problem(self, put):
        put("train/0001TP_000001.png")
        source = read(put("trainannot/0001TP_000009.png", [0]))
        assert [problem.code for problem in source.problems] == ["MASK-UNPAIRED"]


class TestCityscapes:
    def test_label_ids(self, put):
        name = "train/ulm/ulm_000003_000019"
        put(f"leftImg8bit/{name}_leftImg8bit.png")
        source = read(put(f"gtFine/{name}_gtFine_labelIds.png", [7, 33, 0, 26]))
        (entry,) = source.entries
        assert (source.layout, source.problems) == ("Cityscapes", [])
        assert (entry.id, entry.part, entry.group) == (name, "train", "ulm_000003")
        assert entry.mask()[0].tolist() == [1, 19, 255, 14]
        assert source.classes[13] == Class("car", (0, 0, 142))
        assert tuple(each.name for each in source.classes) == CITYSCAPES.names

    def test_train_ids(self, put):
        put("leftImg8bit/val/ulm/ulm_000003_000019_leftImg8bit.png")
        root = put("gtFine/val/ulm/ulm_000003_000019_gtFine_labelTrainIds.png", [0, 18, 255])
        assert read(root).entries[0].mask()[0].tolist() == [1, 19, 255, 1]


class TestRecognition:
    def test_both(self, put, tmp_path):
        assert street.recognise(put("trainannot/a.png"))
        (tmp_path / "trainannot/a.png").unlink()
        assert street.recognise(put("leftImg8bit/val/ulm/a_leftImg8bit.png"))

    def test_other_folders(self, put, tmp_path):
        put("masks/a.png")
        assert not street.recognise(put("images/a.png"))
        assert not street.recognise(tmp_path / "none")
