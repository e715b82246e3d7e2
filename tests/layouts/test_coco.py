"""COCO files: categories, shapes, crowds, parts; what is damaged, hostile or left out."""

import json

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from fewmask.errors import UsageError
from fewmask.layouts import coco
from fewmask.layouts.records import Class, ReadingOptions

CAT, DOG = {"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}


def box(left, top, right, bottom):
    """A polygon of four corners."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number, image, category, segmentation, **more):
    found = {"id": number, "image_id": image, "category_id": category}
    return found | {"segmentation": segmentation, "iscrowd": 0} | more


@pytest.fixture
def data(tmp_path):
    """``data(["a.png"], annotations)`` writes images of 6 x 8 px and the file; returns the root."""

    def write(
        names, annotations=(), categories=(CAT, DOG), at="annotations/instances.json", **more
    ):
        images = []
        for number, name in enumerate(names, 1):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((6, 8, 3), number, np.uint8)).save(path)
            images.append({"id": number, "file_name": name, "height": 6, "width": 8})
        content = {"images": images, "categories": list(categories), "annotations": [*annotations]}
        file = tmp_path / at
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content | more))
        return tmp_path

    return write


def read(root, **options):
    return coco.read(root, ReadingOptions(**options))


def only(root, **options):
    source = read(root, **options)
    assert source.problems == []
    (entry,) = source.entries
    return entry


def codes(problems):
    return [problem.code for problem in problems]


class TestShapes:
    def test_a_polygon_covers_what_pycocotools_covers(self, data):
        polygon = [[1.2, 0.7, 6.9, 2.1, 3.3, 5.4]]
        entry = only(data(["a.png"], [annotation(1, 1, 7, polygon)]))
        (rle,) = pycocotools.mask.frPyObjects(polygon, 6, 8)
        assert np.array_equal(entry.mask(), 2 * pycocotools.mask.decode(rle))
        assert entry.mask().dtype == np.uint8
        assert entry.tags == ("dog",)

    def test_run_lengths(self, data):
        counts = {"size": [6, 8], "counts": [6, 3, 39]}
        mask = only(data(["a.png"], [annotation(1, 1, 3, counts)])).mask()
        assert np.argwhere(mask).tolist() == [[0, 1], [1, 1], [2, 1]]

    def test_later_annotations_cover_earlier_ones_and_are_counted(self, data):
        shapes = [annotation(1, 1, 7, box(0, 0, 4, 2)), annotation(2, 1, 3, box(2, 0, 6, 2))]
        source = read(data(["a.png"], shapes))
        assert source.entries[0].mask()[0].tolist() == [2, 2, 1, 1, 1, 1, 0, 0]
        assert codes(source.notes) == ["COCO-OVERLAP"]

    def test_objects_of_one_class_may_overlap_in_silence(self, data):
        shapes = [annotation(1, 1, 7, box(0, 0, 4, 2)), annotation(2, 1, 7, box(2, 0, 6, 2))]
        assert read(data(["a.png"], shapes)).notes == []

    def test_a_crowd_is_ignored_where_nothing_else_covers(self, data):
        shapes = [annotation(1, 1, 3, box(2, 0, 4, 1)),
                  annotation(2, 1, 3, box(0, 0, 6, 1), iscrowd=1)]  # fmt: skip
        mask = only(data(["a.png"], shapes)).mask()
        assert mask[0].tolist() == [255, 255, 1, 1, 255, 255, 0, 0]

    def test_an_image_without_annotations_has_an_empty_mask(self, data):
        source = read(data(["a.png"]))
        assert not source.entries[0].mask().any()
        assert (source.entries[0].tags, codes(source.notes)) == ((), ["COCO-EMPTY"])

    @pytest.mark.parametrize("segmentation", [[], None])
    def test_boxes_give_tags_and_no_mask(self, data, segmentation):
        shapes = [annotation(1, 1, 7, segmentation, bbox=[0, 0, 2, 2])]
        source = read(data(["a.png"], shapes))
        assert (source.entries[0].mask, source.entries[0].tags) == (None, ("dog",))
        assert codes(source.notes) == ["COCO-BOXES"]

    def test_a_stored_size_is_turned_as_the_image_is(self, data, tmp_path):
        root = data([], [annotation(1, 1, 3, box(0, 0, 1, 1))],
                    images=[{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}])  # fmt: skip
        exif = Image.Exif()
        exif[274] = 6  # the first stored row is displayed as the right column
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
        source = read(root)
        mask = source.entries[0].mask()
        assert (mask.shape, np.argwhere(mask).tolist()) == ((8, 6), [[0, 5]])
        assert "IMAGE-TURNED" in codes(source.repairs)


class TestClasses:
    def test_gaps_in_the_ids_close_and_are_told(self, data):
        source = read(data(["a.png"], categories=(DOG, CAT)))
        assert source.classes == (Class("cat"), Class("dog"))
        assert codes(source.repairs) == ["COCO-CATEGORY-IDS"]
        assert "3 -> 1, 7 -> 2" in source.repairs[0].fix

    def test_ids_without_gaps_need_no_repair(self, data):
        assert read(data(["a.png"], categories=({"id": 1, "name": "cat"},))).repairs == []

    def test_colours_are_kept(self, data):
        source = read(data(["a.png"], categories=(CAT | {"color": [1, 2, 255]}, DOG)))
        assert [each.colour for each in source.classes] == [(1, 2, 255), None]

    def test_the_order_of_names_given_by_hand(self, data):
        root = data(["a.png"], [annotation(1, 1, 3, box(0, 0, 8, 6))])
        source = read(root, class_names=("dog", "cat"))
        assert [each.name for each in source.classes] == ["dog", "cat"]
        assert set(np.unique(source.entries[0].mask())) == {2}

    def test_other_names_by_hand_are_refused(self, data):
        with pytest.raises(UsageError, match="CLASS-NAMES"):
            read(data(["a.png"]), class_names=("dog", "cow"))

    def test_a_heading_of_roboflow_is_no_class(self, data):
        heading = {"id": 0, "name": "pets", "supercategory": "none"}
        source = read(data(["a.png"], categories=(heading, CAT | {"supercategory": "pets"})))
        assert [each.name for each in source.classes] == ["cat"]
        assert "COCO-CATEGORY-UNUSED" in codes(source.repairs)

    def test_a_heading_that_is_annotated_is_a_class(self, data):
        heading = {"id": 1, "name": "pets", "supercategory": "none"}
        shapes = [annotation(1, 1, 1, box(0, 0, 2, 2))]
        source = read(data(["a.png"], shapes, (heading, CAT | {"supercategory": "pets"})))
        assert [each.name for each in source.classes] == ["pets", "cat"]

    def test_background_is_0_and_ignored_is_255(self, data):
        special = ({"id": 1, "name": "background"}, {"id": 2, "name": "ignored"}, CAT)
        shapes = [annotation(1, 1, 3, box(0, 0, 6, 1)), annotation(2, 1, 1, box(0, 0, 2, 1)),
                  annotation(3, 1, 2, box(4, 0, 8, 1))]  # fmt: skip
        source = read(data(["a.png"], shapes, categories=special))
        assert source.entries[0].mask()[0].tolist() == [0, 0, 1, 1, 1, 1, 255, 255]
        assert source.classes == (Class("cat"),)
        assert source.entries[0].tags == ("cat",)

    def test_files_with_other_ids_for_the_same_names_agree(self, data):
        data(["train/a.png"], [annotation(1, 1, 3, box(0, 0, 8, 6))], at="train.json")
        swapped = ({"id": 3, "name": "dog"}, {"id": 7, "name": "cat"})
        root = data(["val/b.png"], [annotation(1, 1, 7, box(0, 0, 8, 6))], swapped, at="val.json")
        assert [set(np.unique(e.mask())) for e in read(root).entries] == [{1}, {1}]

    def test_more_classes_than_a_mask_can_hold(self, data):
        many = [{"id": i, "name": f"c{i}"} for i in range(1, 256)]
        source = read(data(["a.png"], categories=many))
        assert (codes(source.problems), source.entries) == (["CLASSES-MANY"], [])


class TestPartsAndNames:
    @pytest.mark.parametrize(
        ("at", "part"),
        [("annotations/instances_train2017.json", "train"), ("valid/_annotations.coco.json", "val"),
         ("annotations/test/all.json", "test"), ("all.json", None)],
    )  # fmt: skip
    def test_the_part_by_the_names_of_file_and_folder(self, data, at, part):
        assert only(data(["a.png"], at=at)).part == part

    def test_the_part_by_the_folder_of_the_image(self, data):
        assert only(data(["val/a.png"], at="all.json")).part == "val"

    def test_the_id_is_the_path_without_the_folder_of_images(self, data):
        assert only(data(["x/a.png"])).id == "x/a"

    def test_of_images_of_one_name_the_nearer_one_is_taken(self, data, tmp_path):
        data(["train2017/a.png"])
        root = data(["val2017/a.png"], at="annotations/instances.json")
        file = root / "annotations/instances.json"
        content = json.loads(file.read_text())
        content["images"][0]["file_name"] = "a.png"
        file.rename(root / "annotations/instances_val2017.json").write_text(json.dumps(content))
        source = read(root)
        assert [entry.id for entry in source.entries] == ["val2017/a"]
        assert codes(source.notes) == ["COCO-EMPTY", "COCO-UNLISTED"]

    def test_of_images_of_one_name_none_is_guessed(self, data):
        root = data(["x/a.png", "y/a.png"], images=[
            {"id": 1, "file_name": "a.png", "height": 6, "width": 8}])  # fmt: skip
        assert codes(read(root).problems) == ["IMAGE-AMBIGUOUS"]

    def test_groups(self, data):
        assert only(data(["p7_1.png"]), group_pattern="^p[0-9]+").group == "p7"

    def test_keypoints_of_the_same_images_are_no_second_labels(self, data):
        data(["a.png"], at="annotations/person_keypoints_val.json")
        source = read(data(["a.png"], at="annotations/instances_val.json"))
        assert (len(source.entries), source.problems) == (1, [])
        assert "COCO-OTHER" in codes(source.notes)


class TestProblems:
    def test_annotations_of_unknown_images(self, data):
        source = read(data(["a.png"], [annotation(5, 9, 3, box(0, 0, 2, 2))]))
        assert codes(source.problems) == ["COCO-IMAGE-UNKNOWN"]
        assert "5" in source.problems[0].found

    @pytest.mark.parametrize("category", [4, None, [], "3"])
    def test_an_unknown_category_leaves_its_image_out(self, data, category):
        source = read(data(["a.png"], [annotation(5, 1, category, box(0, 0, 2, 2))]))
        assert codes(source.problems) == ["COCO-CATEGORY"]
        assert "annotation 5" in source.problems[0].where
        assert source.entries == []

    def test_all_damaged_shapes_of_an_image_are_told(self, data):
        shapes = [annotation(1, 1, 3, [[0, 0, 1, 1, 2]]), annotation(2, 1, 3, "rle"),
                  annotation(3, 1, 3, {"size": [6, 9], "counts": [54]})]  # fmt: skip
        source = read(data(["a.png"], shapes))
        assert codes(source.problems) == ["POLYGON", "POLYGON", "RLE"]
        assert source.entries == []

    def test_an_image_of_another_size(self, data):
        root = data(["a.png"], images=[{"id": 1, "file_name": "a.png", "height": 8, "width": 6}])
        (problem,) = read(root).problems
        assert problem.code == "IMAGE-SIZE"
        assert "8x6" in problem.found
        assert "6x8" in problem.found

    def test_an_image_listed_twice(self, data):
        record = {"file_name": "a.png", "height": 6, "width": 8}
        source = read(data(["a.png"], images=[{"id": 1, **record}, {"id": 2, **record}]))
        assert codes(source.problems) == ["COCO-IMAGE-TWICE"]
        assert len(source.entries) == 1

    def test_two_images_with_one_id(self, data):
        records = [{"id": 1, "file_name": f"{n}.png", "height": 6, "width": 8} for n in "ab"]
        source = read(data(["a.png", "b.png"], images=records))
        assert (codes(source.problems), source.entries) == (["COCO-IMAGE-TWICE"], [])

    def test_a_category_id_given_twice(self, data):
        assert codes(read(data(["a.png"], categories=(CAT, CAT))).problems) == ["COCO-CATEGORY"]

    def test_many_missing_images_are_one_problem(self, data):
        records = [{"id": i, "file_name": f"{i}.png", "height": 6, "width": 8} for i in range(9)]
        (problem,) = read(data([], images=records)).problems
        assert problem.code == "IMAGE-MISSING"
        assert problem.found.startswith("9 such")

    def test_a_missing_image_in_another_folder_is_hinted_at(self, data):
        root = data(["x/a.png"], images=[
            {"id": 1, "file_name": "y/a.png", "height": 6, "width": 8}])  # fmt: skip
        (problem,) = read(root).problems
        assert (problem.code, "images/x/a.png" in problem.found) == ("IMAGE-MISSING", True)

    def test_an_image_of_a_foreign_format(self, data, tmp_path):
        (tmp_path / "a.webp").write_bytes(b"RIFF")
        root = data([], images=[{"id": 1, "file_name": "a.webp", "height": 6, "width": 8}])
        assert codes(read(root).problems) == ["IMAGE-FORMAT"]

    @pytest.mark.parametrize(
        "name", ["/etc/passwd.png", "../out.png", "x/../../out.png", "C:\\a.png", "..\\out.png"]
    )
    def test_names_that_lead_out_are_refused(self, data, tmp_path, name):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path.parent / "out.png")
        root = data([], images=[{"id": 1, "file_name": name, "height": 6, "width": 8}])
        source = read(root)
        assert (codes(source.problems), source.entries) == (["PATH-OUTSIDE"], [])

    @pytest.mark.parametrize("name", [None, 7, "", "a\0.png", ["a.png"], "a" * 5000])
    def test_names_that_are_none(self, data, name):
        root = data(["a.png"], images=[{"id": 1, "file_name": name, "height": 6, "width": 8}])
        assert codes(read(root).problems) == ["IMAGE-MISSING"]

    def test_invalid_json_is_told_with_line_and_column(self, data):
        root = data(["a.png"])
        (root / "annotations/instances.json").write_text('{"images": [],\n "annotations": [}')
        (problem,) = read(root).problems
        assert (problem.code, "line 2, column 18" in problem.found) == ("JSON", True)

    @pytest.mark.parametrize(
        "content",
        [
            b"[" * 100_000,
            b'{"images": [], "annotations": [NaN]}',
            b"1" * 5000,
            b"",
            b"\xff\xfe\xfd",
            b'{"images": "\\ud800"}',
        ],
        ids=["deep", "nan", "long number", "empty", "no utf-8", "half a character"],
    )
    def test_hostile_json_is_a_problem(self, tmp_path, content):
        (tmp_path / "a.json").write_bytes(content)
        assert codes(read(tmp_path).problems) == ["JSON"]

    @pytest.mark.parametrize("key", ["images", "annotations", "categories"])
    @pytest.mark.parametrize("value", [{}, [1], "x", None])
    def test_parts_of_another_kind(self, data, key, value):
        root = data(["a.png"])
        file = root / "annotations/instances.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        assert codes(read(root).problems) == ["COCO-STRUCTURE"]

    @pytest.mark.parametrize("size", [None, "6", 6.5, -6, 10**30, [6]])
    def test_sizes_that_are_none(self, data, size):
        root = data(["a.png"], images=[{"id": 1, "file_name": "a.png", "height": size, "width": 8}])
        assert codes(read(root).problems) == ["IMAGE-SIZE"]

    def test_a_link_out_of_the_folder_is_not_read(self, data, tmp_path, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "instances.json"
        root = data(["a.png"])
        (root / "annotations/instances.json").rename(elsewhere)
        (root / "annotations/instances.json").symlink_to(elsewhere)
        assert not coco.recognise(root)
        assert read(root).entries == []


HOSTILE = (None, True, -1, 1.5, 10**30, "", "../a.png", "a\0", [], {}, [[]], [None])


def mutations(tree):
    """The tree with each of its values, one at a time, replaced by each hostile one."""
    yield from HOSTILE
    for key in (
        tree if isinstance(tree, dict) else range(len(tree) if isinstance(tree, list) else 0)
    ):
        for changed in mutations(tree[key]):
            copy = tree.copy()
            copy[key] = changed
            yield copy


def test_no_change_of_any_value_gets_past_the_checks(data):
    root = data(
        ["a.png"],
        [
            annotation(1, 1, 3, box(0, 0, 2, 2)),
            annotation(2, 1, 7, {"size": [6, 8], "counts": [40, 8]}),
        ],
    )
    file = root / "annotations/instances.json"
    count = 0
    for content in mutations(json.loads(file.read_text())):
        file.write_text(json.dumps(content))
        for entry in read(root).entries:
            assert entry.mask is None or entry.mask().shape == (6, 8)
        count += 1
    assert count > 200


class TestRecognition:
    def test_coco_files_at_their_places(self, data):
        for at in ("annotations/instances_val.json", "train/_annotations.coco.json", "a.json"):
            assert coco.recognise(data(["a.png"], at=at))

    def test_annotations_that_come_first(self, tmp_path):
        shapes = [annotation(i, 1, 3, box(0, 0, 100, 100)) for i in range(2000)]
        (tmp_path / "a.json").write_text(json.dumps({"annotations": shapes, "images": []}))
        assert coco.recognise(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 3}', '[{"image_id": 1}]', "\0"])
    def test_other_files(self, tmp_path, text):
        (tmp_path / "a.json").write_text(text)
        assert not coco.recognise(tmp_path)

    def test_no_folder(self, tmp_path):
        assert not coco.recognise(tmp_path / "none")
