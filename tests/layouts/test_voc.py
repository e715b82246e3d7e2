"""Pascal VOC and CVAT masks: colours, labelmap.txt, lists, boxes; what is damaged or lacking."""

import numpy as np
import pytest
from PIL import Image

from fewmask.errors import DataError, UsageError
from fewmask.layouts import voc
from fewmask.layouts.records import Class, ReadingOptions
from fewmask.layouts.voc_palette import VOC_NAMES, voc_colours

LABELMAP = "# label:color_rgb:parts:actions\nrust:250,50,83::\nbackground:0,0,0::\ncrack:1,2,3::\n"


@pytest.fixture
def put(tmp_path):
    """``put("a.png", pixels)`` writes pixels (zeros of 4 x 6), ``put("a.txt", text)`` text."""

    def write(name, content=None, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            pixels = np.zeros((4, 6, 3), np.uint8) if content is None else content
            Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
        return tmp_path

    return write


def palette_file(path, ids):
    """A PNG as the development kit has it: indices, and VOC's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("P", ids.shape[::-1], ids.astype(np.uint8).tobytes())
    image.putpalette([value for colour in voc_colours(256) for value in colour])
    image.save(path)


def coloured(*colours):
    """4 x 6 RGB: one row of each of four colours."""
    return np.repeat(np.array(colours, np.uint8)[:, None], 6, axis=1)


def read(root, **options):
    return voc.read(root, ReadingOptions(**options))


def codes(problems):
    return [problem.code for problem in problems]


def mask_error(entry):
    with pytest.raises(DataError) as caught:
        entry.mask()
    return caught.value.problems[0]


class TestPascalVoc:
    def test_the_palette_is_that_of_the_development_kit(self):
        colours = voc_colours(256)
        assert colours[1] == (128, 0, 0)  # aeroplane
        assert colours[15] == (192, 128, 128)  # person
        assert colours[20] == (0, 64, 128)  # tvmonitor
        assert colours[255] == (224, 224, 192)
        assert len(set(colours)) == 256

    def test_a_palette_file(self, put, tmp_path):
        put("JPEGImages/a.jpg")
        ids = np.resize([0, 1, 15, 20, 255, 7], (4, 6))
        palette_file(tmp_path / "SegmentationClass/a.png", ids)
        source = read(tmp_path)
        assert (source.layout, source.problems) == ("Pascal VOC", [])
        assert np.array_equal(source.entries[0].mask(), ids)
        assert source.entries[0].mask().dtype == np.uint8
        assert [each.name for each in source.classes] == list(VOC_NAMES)
        assert source.classes[14] == Class("person", (192, 128, 128))

    def test_the_same_colours_without_a_palette(self, put):
        put("JPEGImages/a.jpg")
        rows = coloured((0, 0, 0), (128, 0, 0), (192, 128, 128), (224, 224, 192))
        source = read(put("SegmentationClass/a.png", rows))
        assert source.entries[0].mask()[:, 0].tolist() == [0, 1, 15, 255]

    def test_grey_masks_hold_ids(self, put):
        put("JPEGImages/a.jpg")
        ids = np.resize([0, 1, 20, 255], (4, 6))
        source = read(put("SegmentationClass/a.png", ids))
        assert np.array_equal(source.entries[0].mask(), ids)

    def test_a_grey_value_that_is_no_class(self, put):
        put("JPEGImages/a.jpg")
        source = read(put("SegmentationClass/a.png", np.full((4, 6), 21)))
        problem = mask_error(source.entries[0])
        assert (problem.code, "21" in problem.found) == ("VOC-VALUES", True)

    def test_names_by_hand_take_the_colours_in_order(self, put):
        put("JPEGImages/a.jpg")
        put("SegmentationClass/a.png", coloured(*voc_colours(4)[1:], (0, 0, 0)))
        source = read(put("JPEGImages/b.jpg"), class_names=("x", "y", "z"))
        assert source.classes == tuple(
            Class(name, colour) for name, colour in zip("xyz", voc_colours(4)[1:], strict=True)
        )
        assert source.entries[0].mask()[:, 0].tolist() == [1, 2, 3, 0]

    def test_lists_are_parts_and_the_whole_list_is_none(self, put):
        for name in "abcd":
            put(f"JPEGImages/{name}.jpg")
            put(f"SegmentationClass/{name}.png")
        for name, listed in (("train", "a\n"), ("val", "b\n"), ("test", "c"), ("trainval", "a\nb")):
            root = put(f"ImageSets/Segmentation/{name}.txt", listed)
        source = read(root)
        assert [entry.part for entry in source.entries] == ["train", "val", "test", None]
        assert source.problems == []

    def test_two_years_in_one_folder(self, put):
        for year in ("VOC2007", "VOC2012"):
            put(f"VOCdevkit/{year}/JPEGImages/a.jpg")
            root = put(f"VOCdevkit/{year}/SegmentationClass/a.png")
        names = [entry.id for entry in read(root).entries]
        assert names == ["VOCdevkit/VOC2007/a", "VOCdevkit/VOC2012/a"]

    def test_boxes_are_tags_where_there_is_no_mask(self, put):
        boxes = "<annotation><object><name>dog</name></object><object><name>cat</name></object>" \
                "<object><name>dog</name></object></annotation>"  # fmt: skip
        for name in "ab":
            put(f"JPEGImages/{name}.jpg")
            put(f"Annotations/{name}.xml", boxes)
        source = read(put("SegmentationClass/a.png"))
        assert [entry.tags for entry in source.entries] == [None, ("cat", "dog")]
        assert [entry.mask is None for entry in source.entries] == [False, True]
        assert codes(source.notes) == ["VOC-UNLABELLED"]

    def test_boxes_alone_name_the_classes(self, put):
        put("JPEGImages/a.jpg")
        put("Annotations/a.xml", "<annotation><object><name>rust</name></object></annotation>")
        root = put("ImageSets/Main/val.txt", "a\n")
        source = read(root)
        assert source.classes == (Class("rust"),)
        assert (source.entries[0].tags, source.entries[0].part) == (("rust",), "val")


class TestCvat:
    @pytest.fixture
    def export(self, put):
        put("labelmap.txt", LABELMAP)
        rows = coloured((250, 50, 83), (0, 0, 0), (1, 2, 3), (224, 224, 192))
        put("SegmentationClass/s/a.png", rows)
        put("SegmentationObject/s/a.png", rows)
        put("ImageSets/Segmentation/default.txt", "s/a\n")
        return put

    def test_background_is_0_wherever_it_stands(self, export):
        source = read(export("JPEGImages/s/a.jpg"))
        assert (source.layout, source.problems) == ("CVAT segmentation mask", [])
        assert source.classes == (Class("rust", (250, 50, 83)), Class("crack", (1, 2, 3)))
        assert source.entries[0].id == "s/a"
        assert source.entries[0].mask()[:, 0].tolist() == [1, 0, 2, 255]

    def test_images_in_another_folder(self, export):
        source = read(export("images/s/a.jpg"))
        assert [entry.id for entry in source.entries] == ["s/a"]
        assert source.problems == []

    def test_an_export_without_images(self, export, tmp_path):
        source = read(tmp_path)
        assert (source.entries, codes(source.problems)) == ([], ["VOC-IMAGES"])
        assert "Save images" in source.problems[0].fix

    def test_the_order_of_names_given_by_hand(self, export):
        source = read(export("JPEGImages/s/a.jpg"), class_names=("crack", "rust"))
        assert source.entries[0].mask()[:, 0].tolist() == [2, 0, 1, 255]

    def test_other_names_by_hand_are_refused(self, export):
        with pytest.raises(UsageError, match="CLASS-NAMES"):
            read(export("JPEGImages/s/a.jpg"), class_names=("x",))

    def test_a_class_called_ignored(self, export):
        export("labelmap.txt", LABELMAP + "ignored:9,9,9::\n")
        export("SegmentationClass/s/a.png", coloured((9, 9, 9), *[(0, 0, 0)] * 3))
        source = read(export("JPEGImages/s/a.jpg"))
        assert source.entries[0].mask()[:, 0].tolist() == [255, 0, 0, 0]
        assert codes(source.repairs) == ["CLASS-SPECIAL"]

    def test_a_declared_class_of_the_borders_colour_is_a_class(self, export):
        export("labelmap.txt", LABELMAP + "foam:224,224,192::\n")
        source = read(export("JPEGImages/s/a.jpg"))
        assert source.entries[0].mask()[:, 0].tolist() == [1, 0, 2, 3]

    def test_a_background_that_is_not_black(self, export):
        export("labelmap.txt", "background:9,9,9::\nrust:0,0,0::\n")
        export("SegmentationClass/s/a.png", coloured((9, 9, 9), *[(0, 0, 0)] * 3))
        source = read(export("JPEGImages/s/a.jpg"))
        assert source.entries[0].mask()[:, 0].tolist() == [0, 1, 1, 1]

    def test_grey_masks_count_from_the_background_on(self, export):
        export("SegmentationClass/s/a.png", np.resize([0, 1, 2, 255], (4, 6)))
        source = read(export("JPEGImages/s/a.jpg"))
        assert source.entries[0].mask()[0].tolist() == [0, 1, 2, 255, 0, 1]

    def test_grey_masks_of_declared_colours_are_colours(self, export):
        export("labelmap.txt", "background:0,0,0::\nrust:255,255,255::\n")
        export("SegmentationClass/s/a.png", np.resize([0, 255], (4, 6)))
        source = read(export("JPEGImages/s/a.jpg"))
        assert source.entries[0].mask()[0].tolist() == [0, 1] * 3

    def test_an_undeclared_colour_is_told_with_count_and_place(self, export):
        rows = coloured((0, 0, 0), (250, 50, 83), (250, 50, 83), (7, 8, 9))
        rows[1, 4] = rows[2, 1] = (250, 50, 84)
        export("SegmentationClass/s/a.png", rows)
        problem = mask_error(read(export("JPEGImages/s/a.jpg")).entries[0])
        assert problem.code == "VOC-COLOUR"
        assert problem.found == (
            "7,8,9 on 6 pixels, first at row 3, column 0; "
            "250,50,84 on 2 pixels, first at row 1, column 4"
        )

    @pytest.mark.parametrize(
        "line",
        ["rust", "rust:1,2", "rust:1,2,256", "rust:1,2,x", "rust::", ":1,2,3", "rust:-1,2,3",
         "a:1,2,3::\nrust:1,2,3", "rust:1,2,3\nrust:4,5,6", "rust:1,2,3,4"],
    )  # fmt: skip
    def test_a_damaged_line_is_told_by_its_number(self, export, line):
        export("labelmap.txt", f"background:0,0,0::\n{line}\n")
        source = read(export("JPEGImages/s/a.jpg"))
        assert (codes(source.problems), source.entries) == (["VOC-LABELMAP"], [])
        number = 3 if "\n" in line else 2
        assert source.problems[0].where.endswith(f"labelmap.txt, line {number}")


class TestTurnedImages:
    @pytest.mark.parametrize("coloured_mask", [True, False])
    def test_a_mask_of_the_stored_size_is_turned_as_the_image_is(self, put, coloured_mask):
        exif = Image.Exif()
        exif[274] = 6  # the first stored row is displayed as the right column
        put("JPEGImages/a.jpg", exif=exif)
        ids = np.zeros((4, 6), np.uint8)
        ids[0] = 1
        pixels = ids[..., None] * np.array([128, 0, 0], np.uint8) if coloured_mask else ids
        source = read(put("SegmentationClass/a.png", pixels))
        expected = np.zeros((6, 4))
        expected[:, 3] = 1
        assert np.array_equal(source.entries[0].mask(), expected)
        assert codes(source.repairs) == ["IMAGE-TURNED"]


class TestProblems:
    def test_a_mask_of_another_size(self, put):
        put("JPEGImages/a.jpg")
        source = read(put("SegmentationClass/a.png", np.zeros((6, 4, 3))))
        assert (codes(source.problems), source.entries) == (["IMAGE-SIZE"], [])

    def test_a_damaged_image_and_a_damaged_mask(self, put):
        put("JPEGImages/a.jpg", "no image")
        put("JPEGImages/b.jpg")
        put("SegmentationClass/a.png")
        source = read(put("SegmentationClass/b.png", ""))
        assert sorted(codes(source.problems)) == ["IMAGE-EMPTY", "IMAGE-FORMAT"]

    def test_lists_that_tear_and_miss(self, put):
        put("JPEGImages/a.jpg")
        put("SegmentationClass/a.png")
        put("ImageSets/Segmentation/train.txt", "a\n../../etc/passwd\n")
        source = read(put("ImageSets/Segmentation/val.txt", "a\n"))
        assert codes(source.problems) == ["VOC-PARTS", "VOC-PARTS"]
        assert source.entries[0].part is None

    @pytest.mark.parametrize(
        "text",
        ['<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "<annotation>", "",
         "<annotation><object/></annotation>", "<" * 1000],
    )  # fmt: skip
    def test_hostile_xml_is_a_problem(self, put, text):
        put("JPEGImages/a.jpg")
        put("SegmentationClass/b.png")
        put("JPEGImages/b.jpg")
        source = read(put("Annotations/a.xml", text))
        assert codes(source.problems) == ["VOC-XML"]

    def test_an_entity_is_not_hidden_by_another_encoding(self, put, tmp_path):
        put("JPEGImages/a.jpg")
        put("Annotations/a.xml", "")
        hidden = (
            '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><annotation/>'
        )
        (tmp_path / "Annotations/a.xml").write_bytes(hidden.encode("utf-16"))
        assert codes(read(tmp_path).problems) == ["VOC-TEXT"]

    def test_an_object_that_no_class_is_called(self, put):
        put("JPEGImages/a.jpg")
        put("Annotations/a.xml", "<annotation><object><name>gnu</name></object></annotation>")
        put("JPEGImages/b.jpg")
        source = read(put("SegmentationClass/b.png"))
        assert codes(source.problems) == ["VOC-OBJECT"]
        assert [entry.id for entry in source.entries] == ["b"]

    def test_folders_whose_labelmaps_differ(self, put):
        for name, line in (("x", "rust:1,2,3"), ("y", "rust:1,2,4")):
            put(f"{name}/labelmap.txt", line)
            put(f"{name}/JPEGImages/a.jpg")
            root = put(f"{name}/SegmentationClass/a.png")
        assert codes(read(root).problems) == ["VOC-LABELMAP"]

    def test_a_labelmap_outside_is_not_read(self, put, tmp_path, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "labelmap.txt"
        elsewhere.write_text(LABELMAP)
        put("SegmentationClass/a.png")
        (tmp_path / "labelmap.txt").symlink_to(elsewhere)
        assert codes(read(tmp_path).problems) == ["VOC-TEXT"]


class TestRecognition:
    @pytest.mark.parametrize("above", ["", "VOC2012/", "VOCdevkit/VOC2012/"])
    def test_masks_at_their_places(self, put, above):
        assert voc.recognise(put(f"{above}SegmentationClass/a.png"))

    def test_boxes(self, put):
        put("JPEGImages/a.jpg")
        assert voc.recognise(put("Annotations/a.xml", "<annotation/>"))

    def test_other_folders(self, put, tmp_path):
        put("images/a.png")
        assert not voc.recognise(put("JPEGImages/a.png"))
        assert not voc.recognise(tmp_path / "none")
