"""Masks handed to COCO, CVAT and Label Studio, and read back by others and by ourselves."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from fewmask.errors import DataError, UsageError
from fewmask.layouts import coco, label_studio, voc
from fewmask.layouts.handing_over import write_coco, write_label_studio, write_voc
from fewmask.layouts.records import Class, ReadingOptions

CLASSES = (Class("rust", (250, 50, 83)), Class("crack", (1, 2, 3)), Class("unused", (9, 9, 9)))
IDS = {
    "a": np.array([[1, 0, 1, 0, 2], [0, 1, 0, 0, 2], [0, 0, 0, 0, 255], [255, 0, 2, 0, 0]]),
    "s/b c": np.zeros((3, 4), int),
    "s/d": np.full((2, 2), 2),
}


@pytest.fixture
def plain(tmp_path):
    """Folders of images and masks."""
    images, masks = tmp_path / "plain/images", tmp_path / "plain/masks"
    for name, ids in IDS.items():
        for folder, pixels, suffix in (
            (images, np.stack([ids] * 3, 2), "jpg"),
            (masks, ids, "png"),
        ):
            path = folder / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return images, masks


def same(source):
    """Whether a source holds exactly the masks that were written."""
    assert source.problems == []
    assert {entry.id for entry in source.entries} == set(IDS)
    for entry in source.entries:
        assert np.array_equal(entry.mask(), IDS[entry.id]), entry.id
    return True


def codes(problems):
    return [problem.code for problem in problems]


class TestCoco:
    @pytest.fixture
    def written(self, plain, tmp_path):
        notes = write_coco(*plain, CLASSES, tmp_path / "plain/out.json")
        return tmp_path / "plain", notes

    @pytest.fixture
    def theirs(self, written):
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(str(written[0] / "out.json"))

    def test_pycocotools_sees_the_same_masks(self, theirs):
        names = {i: each["name"] for i, each in theirs.cats.items()}
        assert names == {1: "rust", 2: "crack", 3: "unused", 4: "ignored"}
        for number, record in theirs.imgs.items():
            ids = IDS[record["file_name"].removesuffix(".jpg")]
            for class_id in names:
                seen = np.zeros(ids.shape, int)
                for each in theirs.loadAnns(theirs.getAnnIds([number], [class_id])):
                    seen += theirs.annToMask(each)
                assert np.array_equal(seen, ids == (255 if class_id == 4 else class_id))

    def test_parts_that_touch_by_a_corner_are_one_annotation(self, theirs):
        (rust,) = theirs.loadAnns(theirs.getAnnIds(catIds=[1]))
        assert (rust["area"], rust["bbox"], rust["iscrowd"]) == (3, [0, 0, 3, 2], 0)

    def test_parts_that_do_not_touch_are_several(self, theirs):
        first = next(i for i, each in theirs.imgs.items() if each["file_name"] == "a.jpg")
        found = theirs.loadAnns(theirs.getAnnIds([first], [2]))
        assert sorted((each["area"], each["bbox"]) for each in found) == [
            (1, [2, 3, 1, 1]), (2, [4, 0, 1, 2]),
        ]  # fmt: skip

    def test_ignored_pixels_are_one_crowd_and_a_note(self, theirs, written):
        (ignored,) = theirs.loadAnns(theirs.getAnnIds(catIds=[4]))
        assert (ignored["area"], ignored["iscrowd"]) == (2, 1)
        assert codes(written[1]) == ["IGNORED"]

    def test_round_trip(self, written):
        source = coco.read(written[0], ReadingOptions())
        assert same(source)
        assert source.classes == CLASSES
        assert {entry.id: entry.tags for entry in source.entries} == {
            "a": ("rust", "crack"), "s/b c": (), "s/d": ("crack",),
        }  # fmt: skip

    def test_without_ignored_pixels_there_is_no_such_category(self, plain, tmp_path):
        (plain[1] / "a.png").unlink()
        notes = write_coco(*plain, CLASSES, tmp_path / "out.json")
        assert codes(notes) == ["MASK-NONE"]
        content = json.loads((tmp_path / "out.json").read_text())
        assert [each["name"] for each in content["categories"]] == ["rust", "crack", "unused"]


class TestVoc:
    @pytest.fixture
    def written(self, plain, tmp_path):
        notes = write_voc(*plain, CLASSES, tmp_path / "out")
        return tmp_path / "out", notes

    def test_the_folder_is_as_cvat_exports_it(self, written):
        folder, notes = written
        assert (folder / "labelmap.txt").read_text() == (
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\nrust:250,50,83::\n"
            "crack:1,2,3::\nunused:9,9,9::\nignored:224,224,192::\n"
        )
        lists = folder / "ImageSets/Segmentation/default.txt"
        assert lists.read_text() == 'a\n"s/b c"\ns/d\n'
        pixels = np.asarray(Image.open(folder / "SegmentationClass/a.png"))
        assert pixels[0].tolist() == [[250, 50, 83], [0, 0, 0], [250, 50, 83], [0, 0, 0], [1, 2, 3]]
        assert pixels[2, 4].tolist() == [224, 224, 192]
        assert codes(notes) == ["IGNORED"]

    def test_the_archive_holds_all_but_the_images(self, written):
        with zipfile.ZipFile(written[0] / "annotations.zip") as archive:
            assert archive.testzip() is None
            assert sorted(archive.namelist()) == [
                "ImageSets/Segmentation/default.txt", "SegmentationClass/a.png",
                "SegmentationClass/s/b c.png", "SegmentationClass/s/d.png", "labelmap.txt",
            ]  # fmt: skip

    def test_images_are_copied_byte_by_byte(self, written, plain):
        assert (written[0] / "JPEGImages/s/d.jpg").read_bytes() == (
            plain[0] / "s/d.jpg"
        ).read_bytes()

    def test_round_trip(self, written):
        source = voc.read(written[0], ReadingOptions())
        assert same(source)
        assert source.classes == CLASSES

    def test_classes_without_colours_take_those_of_voc_that_are_free(self, plain, tmp_path):
        classes = (Class("x"), Class("y", (128, 0, 0)), Class("z"))
        write_voc(*plain, classes, tmp_path / "out")
        source = voc.read(tmp_path / "out", ReadingOptions())
        assert same(source)
        assert [each.colour for each in source.classes] == [
            (0, 128, 0), (128, 0, 0), (128, 128, 0),
        ]  # fmt: skip

    def test_a_class_of_the_borders_colour_keeps_it(self, plain, tmp_path):
        classes = (Class("x", (224, 224, 192)), Class("y"))
        write_voc(*plain, classes, tmp_path / "out")
        source = voc.read(tmp_path / "out", ReadingOptions())
        assert same(source)
        assert source.classes[0] == classes[0]

    @pytest.mark.parametrize("colours", [((0, 0, 0), None), ((1, 1, 1), (1, 1, 1))])
    def test_colours_that_tell_nothing_apart_are_refused(self, plain, tmp_path, colours):
        classes = [Class(name, colour) for name, colour in zip("xy", colours, strict=True)]
        with pytest.raises(UsageError, match="CLASS-COLOUR"):
            write_voc(*plain, classes, tmp_path / "out")

    @pytest.mark.parametrize("name", ["a:b", "#a", " a", "a\nb"])
    def test_names_that_labelmap_cannot_hold_are_refused(self, plain, tmp_path, name):
        with pytest.raises(UsageError, match="CLASSES"):
            write_voc(*plain, (Class(name), Class("y")), tmp_path / "out")


class TestLabelStudio:
    @pytest.fixture
    def written(self, plain, tmp_path):
        prefix = "/data/local-files/?d=photos/"
        out = tmp_path / "plain/out.json"
        return out, write_label_studio(*plain, CLASSES, out, url_prefix=prefix)

    def test_tasks_are_as_label_studio_imports_them(self, written):
        tasks = json.loads(written[0].read_text())
        assert [task["data"]["image"] for task in tasks] == [
            f"/data/local-files/?d=photos/{name}" for name in ("a.jpg", "s/b%20c.jpg", "s/d.jpg")
        ]
        (prediction,) = tasks[0]["predictions"]
        rust, crack, ignored = prediction["result"]
        assert (rust["original_width"], rust["original_height"]) == (5, 4)
        assert [each["value"]["brushlabels"] for each in (rust, crack, ignored)] == [
            ["rust"], ["crack"], ["ignored"],
        ]  # fmt: skip
        assert rust["value"]["rle"][:4] == [0, 0, 0, 4 * 5 * 4]
        assert len({each["id"] for each in prediction["result"]}) == 3

    def test_the_configuration_names_every_label(self, written):
        assert codes(written[1]) == ["IGNORED", "LABEL-CONFIG"]
        config = written[1][1].fix
        assert '<Label value="rust" background="#fa3253"/>' in config
        assert '<Label value="ignored"/>' in config
        assert 'value="$image"' in config

    def test_round_trip(self, written):
        source = label_studio.read(written[0].parent, ReadingOptions())
        assert same(source)
        assert source.classes == CLASSES

    def test_round_trip_through_a_person_who_submits_the_predictions(self, written):
        tasks = json.loads(written[0].read_text())
        for task in tasks:
            task["annotations"] = task.pop("predictions")
        written[0].write_text(json.dumps(tasks))
        source = label_studio.read(written[0].parent, ReadingOptions())
        assert same(source)
        assert "LABEL-STUDIO-PREDICTIONS" not in codes(source.repairs)


WRITERS = pytest.mark.parametrize("write", [write_coco, write_voc, write_label_studio])


@WRITERS
class TestAll:
    def damaged(self, plain, name, pixels):
        Image.fromarray(np.asarray(pixels, np.uint8)).save(plain[1] / name)

    def refused(self, write, plain, out, classes=CLASSES):
        with pytest.raises((DataError, UsageError)) as caught:
            write(*plain, classes, out)
        return codes(caught.value.problems)

    def test_all_that_is_wrong_is_told_and_nothing_is_written(self, write, plain, tmp_path):
        self.damaged(plain, "a.png", np.full((4, 5), 4))
        self.damaged(plain, "s/d.png", np.zeros((3, 2)))
        before = sorted(tmp_path.rglob("*"))
        assert self.refused(write, plain, tmp_path / "out") == ["MASK-VALUES", "MASK-SIZE"]
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_mask_without_an_image(self, write, plain, tmp_path):
        self.damaged(plain, "z.png", np.zeros((3, 2)))
        assert self.refused(write, plain, tmp_path / "out") == ["MASK-UNPAIRED"]

    def test_what_is_there_is_not_overwritten(self, write, plain, tmp_path):
        (tmp_path / "out").write_text("mine")
        assert self.refused(write, plain, tmp_path / "out") == ["OUT-EXISTS"]
        assert (tmp_path / "out").read_text() == "mine"

    def test_nothing_is_written_among_images_and_masks(self, write, plain, tmp_path):
        for folder in plain:
            assert self.refused(write, plain, folder / "x/out") == ["OUT-INSIDE"]

    @pytest.mark.parametrize(
        "names", [[], ["a", "a"], ["a", " "], ["a", "Background"], ["a", "ignored"],
                  [str(i) for i in range(255)]]
    )  # fmt: skip
    def test_classes_that_could_not_come_back(self, write, plain, tmp_path, names):
        classes = [Class(name) for name in names]
        assert self.refused(write, plain, tmp_path / "out", classes) == ["CLASSES"]

    def test_images_without_a_mask_are_noted(self, write, plain, tmp_path):
        (plain[1] / "s/d.png").unlink()
        assert "MASK-NONE" in codes(write(*plain, CLASSES, tmp_path / "out"))
