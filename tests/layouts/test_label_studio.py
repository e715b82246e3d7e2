"""Label Studio exports: brush, polygons, choices; images by name; what is damaged or hostile."""

import json

import numpy as np
import pytest
from PIL import Image

from fewmask.errors import UsageError
from fewmask.io.rle import encode_brush
from fewmask.layouts import label_studio
from fewmask.layouts.records import Class, ReadingOptions

SQUARE = np.zeros((4, 8), bool)
SQUARE[1:3, 2:4] = True


def brush(label, mask=SQUARE, **more):
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
    return {"id": label, "type": "brushlabels", "original_width": 8, "original_height": 4,
            "image_rotation": 0, "value": value} | more  # fmt: skip


def polygon(label, *points, **more):
    value = {"points": [list(point) for point in points], "polygonlabels": [label]}
    return {"id": "p", "type": "polygonlabels", "original_width": 8, "original_height": 4,
            "value": value} | more  # fmt: skip


def choice(*names):
    return {"type": "choices", "value": {"choices": list(names)}}


def task(*results, image="/data/upload/1/0a1b2c3d-a.png", **more):
    return {"id": 7, "annotations": [{"result": list(results)}], "data": {"image": image}} | more


@pytest.fixture
def data(tmp_path):
    """``data(tasks)`` writes an export and images of 4 x 8 px; returns the root."""

    def write(tasks, images=("a.png",)):
        for name in images:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(path)
        (tmp_path / "export.json").write_text(json.dumps(tasks))
        return tmp_path

    return write


def read(root, **options):
    return label_studio.read(root, ReadingOptions(**options))


def codes(problems):
    return [problem.code for problem in problems]


class TestRegions:
    def test_a_brush(self, data):
        source = read(data([task(brush("rust"))]))
        assert (source.problems, source.notes, source.classes) == ([], [], (Class("rust"),))
        (entry,) = source.entries
        assert np.array_equal(entry.mask(), SQUARE)
        assert entry.mask().dtype == np.uint8
        assert (entry.id, entry.tags) == ("a", ("rust",))

    def test_polygons_are_in_percent(self, data):
        # a rectangle from column 2 to 6 and row 1 to 3 of 8 x 4 px
        source = read(data([task(polygon("rust", (25, 25), (75, 25), (75, 75), (25, 75)))]))
        expected = np.zeros((4, 8))
        expected[1:3, 2:6] = 1
        assert np.array_equal(source.entries[0].mask(), expected)

    def test_classes_are_numbered_by_name_and_later_regions_cover(self, data):
        whole = np.ones((4, 8), bool)
        source = read(data([task(brush("rust", whole), brush("crack"))]))
        assert [each.name for each in source.classes] == ["crack", "rust"]
        assert source.entries[0].mask()[1].tolist() == [2, 2, 1, 1, 2, 2, 2, 2]
        assert codes(source.notes) == ["LABEL-STUDIO-OVERLAP"]

    def test_the_order_of_names_given_by_hand(self, data):
        source = read(data([task(brush("a"), brush("b"))]), class_names=("b", "a"))
        assert source.entries[0].mask().max() == 1

    def test_other_names_by_hand_are_refused(self, data):
        with pytest.raises(UsageError, match="CLASS-NAMES"):
            read(data([task(brush("a"))]), class_names=("b",))

    def test_a_brush_whose_label_stands_in_another_result(self, data):
        shape = brush("x", id="r1", type="brush")
        label = {"id": "r1", "type": "labels", "value": {"labels": ["rust"]}}
        del shape["value"]["brushlabels"]
        source = read(data([task(shape, label)]))
        assert (source.problems, source.classes) == ([], (Class("rust"),))

    def test_ignored_is_255_and_background_0(self, data):
        whole = np.ones((4, 8), bool)
        hole = np.zeros((4, 8), bool)
        hole[1, 2] = True
        regions = brush("Ignored", whole), brush("rust"), brush("background", hole)
        source = read(data([task(*regions)]))
        assert source.entries[0].mask()[1].tolist() == [255, 255, 0, 1, 255, 255, 255, 255]
        assert source.classes == (Class("rust"),)

    def test_choices_are_tags(self, data):
        tasks = [task(choice("rust", "crack")), task(image="b.png")]
        source = read(data(tasks, ("a.png", "b.png")))
        assert [entry.tags for entry in source.entries] == [("crack", "rust"), ()]
        assert [entry.mask for entry in source.entries] == [None, None]

    def test_without_regions_the_mask_is_empty_if_others_have_some(self, data):
        source = read(data([task(brush("rust")), task(image="b.png")], ("a.png", "b.png")))
        assert not source.entries[1].mask().any()
        assert codes(source.notes) == ["LABEL-STUDIO-EMPTY"]

    def test_boxes_are_tags_and_no_mask(self, data):
        box = polygon("rust", type="rectanglelabels", value={"rectanglelabels": ["rust"], "x": 1})
        source = read(data([task(box)]))
        assert (source.entries[0].mask, source.entries[0].tags) == (None, ("rust",))
        assert codes(source.notes) == ["LABEL-STUDIO-BOXES"]

    def test_other_results_are_counted(self, data):
        source = read(data([task(brush("rust"), {"type": "textarea", "value": {"text": ["x"]}})]))
        assert codes(source.notes) == ["LABEL-STUDIO-OTHER"]
        assert "textarea (1)" in source.notes[0].found


class TestAnnotations:
    def test_the_last_that_was_not_cancelled_counts(self, data):
        three = [{"result": [brush("a")]}, {"result": [brush("b")]},
                 {"result": [brush("c")], "was_cancelled": True}]  # fmt: skip
        source = read(data([task(annotations=three)]))
        assert source.classes == (Class("b"),)
        assert codes(source.notes) == ["LABEL-STUDIO-ANNOTATORS"]

    def test_a_task_without_annotation_is_unlabelled(self, data):
        tasks = [task(brush("rust")), task(image="b.png", annotations=[])]
        source = read(data(tasks, ("a.png", "b.png")))
        assert (source.entries[1].mask, source.entries[1].tags) == (None, None)
        assert codes(source.notes) == ["LABEL-STUDIO-UNLABELLED"]

    def test_predictions_beside_annotations_are_not_read(self, data):
        guess = [{"result": [brush("moss")]}]
        tasks = [task(brush("rust")), task(image="b.png", annotations=[], predictions=guess)]
        source = read(data(tasks, ("a.png", "b.png")))
        assert source.classes == (Class("rust"),)
        assert source.entries[1].mask is None

    def test_predictions_alone_are_read_and_told(self, data):
        source = read(data([task(annotations=[], predictions=[{"result": [brush("moss")]}])]))
        assert np.array_equal(source.entries[0].mask(), SQUARE)
        assert codes(source.repairs) == ["LABEL-STUDIO-PREDICTIONS"]


class TestNamesOfImages:
    @pytest.mark.parametrize(
        "address",
        [
            "/data/upload/1/0a1b2c3d-a%20b.png", "/data/local-files/?d=x/a%20b.png",
            "/data/local-files/?d=else/where/x/a b.png", "https://example.org/x/a%20b.png?token=1",
            "s3://bucket/a b.png", "a b.png", "C:\\data\\x\\a b.png",
        ],
    )  # fmt: skip
    def test_the_end_of_an_address_finds_the_image(self, data, address):
        source = read(data([task(brush("rust"), image=address)], ["x/a b.png"]))
        assert [entry.id for entry in source.entries] == ["x/a b"]

    def test_a_name_with_a_number_sign(self, data):
        assert read(data([task(brush("rust"), image="a#1.png")], ["a#1.png"])).problems == []

    def test_a_name_that_really_begins_with_eight_digits(self, data):
        names = ("0a1b2c3d-a.png", "a.png")
        assert read(data([task(brush("rust"))], names)).entries[0].id == "0a1b2c3d-a"

    def test_the_folder_decides_between_equal_names(self, data):
        names = ("train/a.png", "val/a.png")
        source = read(data([task(brush("rust"), image="/data/local-files/?d=z/val/a.png")], names))
        assert [(entry.id, entry.part) for entry in source.entries] == [("val/a", "val")]

    def test_equal_names_are_not_guessed(self, data):
        source = read(data([task(brush("rust"))], ("x/a.png", "y/a.png")))
        assert codes(source.problems) == ["IMAGE-AMBIGUOUS"]

    def test_another_key_than_image(self, data):
        assert len(read(data([task(data={"photo": "a.png", "note": "x"})])).entries) == 1

    @pytest.mark.parametrize(
        "address", ["/data/local-files/?d=../../out.png", "../out.png", "http://x/../../out.png"]
    )
    def test_addresses_that_lead_out(self, data, tmp_path, address):
        Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path.parent / "out.png")
        source = read(data([task(brush("rust"), image=address)]))
        assert (codes(source.problems), source.entries) == (["PATH-OUTSIDE"], [])

    @pytest.mark.parametrize("address", [None, 7, "", "/", "http://[::1", []])
    def test_addresses_that_are_none(self, data, address):
        source = read(data([task(brush("rust"), image=address)]))
        assert codes(source.problems) == ["LABEL-STUDIO-STRUCTURE"]

    def test_a_missing_image(self, data):
        source = read(data([task(brush("rust"), image="z.png")]))
        assert codes(source.problems) == ["IMAGE-MISSING"]
        assert "task 7" in source.problems[0].where

    def test_an_image_in_two_tasks(self, data):
        source = read(data([task(brush("rust")), task(brush("rust"))]))
        assert (codes(source.problems), len(source.entries)) == (["LABEL-STUDIO-TWICE"], 1)


class TestProblems:
    @pytest.mark.parametrize(
        ("result", "code"),
        [
            (brush("a", original_width=9), "IMAGE-SIZE"),
            (brush("a", original_width="8"), "LABEL-STUDIO-STRUCTURE"),
            (brush("a", original_width=[]), "LABEL-STUDIO-STRUCTURE"),
            (brush("a", image_rotation=90), "LABEL-STUDIO-ROTATED"),
            (brush("a", value=None), "LABEL-STUDIO-STRUCTURE"),
            (brush("a", value={"brushlabels": ["a"], "rle": [1, 2]}), "RLE"),
            (brush("a", value={"brushlabels": ["a"], "rle": "x"}), "RLE"),
            (brush("a", value={"brushlabels": ["a", "b"]}), "LABEL-STUDIO-LABEL"),
            (brush("a", value={"brushlabels": [], "rle": []}), "LABEL-STUDIO-LABEL"),
            (polygon("a", (0, 0), (1, 1)), "POLYGON"),
            (polygon("a", (0, 0), (1, 1), (1,)), "LABEL-STUDIO-STRUCTURE"),
            (polygon("a", (0, 0), (1, 1), (1, 10**300)), "LABEL-STUDIO-STRUCTURE"),
            (choice(*"ab") | {"value": {"choices": 3}}, "LABEL-STUDIO-STRUCTURE"),
        ],
    )
    def test_a_damaged_result_leaves_its_task_out(self, data, result, code):
        tasks = [task(result), task(brush("a"), image="b.png")]
        source = read(data(tasks, ("a.png", "b.png")))
        assert codes(source.problems) == [code]
        assert [entry.id for entry in source.entries] == ["b"]

    def test_regions_for_two_sizes(self, data):
        source = read(data([task(brush("a"), brush("b", original_height=5))]))
        assert codes(source.problems) == ["LABEL-STUDIO-STRUCTURE"]

    @pytest.mark.parametrize("annotations", [3, [3], {"result": []}, [{"result": 3}]])
    def test_annotations_that_are_no_lists(self, data, annotations):
        source = read(data([task(annotations=annotations)]))
        assert codes(source.problems) == ["LABEL-STUDIO-STRUCTURE"]

    def test_a_task_without_data(self, data):
        source = read(data([task(brush("a")), {"id": 8}]))
        assert (codes(source.problems), len(source.entries)) == (["LABEL-STUDIO-STRUCTURE"], 1)

    def test_the_smaller_export_is_told_apart(self, data):
        source = read(data([{"image": "a.png", "tag": [{"rle": [1]}]}]))
        assert codes(source.notes) == ["LABEL-STUDIO-FORMAT"]
        assert "JSON-MIN" in source.notes[0].expected

    def test_invalid_json(self, data):
        root = data([])
        (root / "export.json").write_text('[{"id": 1, "annotations": [')
        assert codes(read(root).problems) == ["JSON"]


HOSTILE = (None, True, -1, 1.5, 10**30, "", "../a.png", "a\0", [], {}, [[]], [None])


SHORT = brush("rust", np.zeros((4, 8), bool))


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
        [
            task(
                {"type": "choices", "value": {"choices": ["x"]}},
                SHORT,
                polygon("p", (0, 0), (9, 0), (9, 9)),
            )
        ]
    )
    file = root / "export.json"
    count = 0
    for content in mutations(json.loads(file.read_text())):
        file.write_text(json.dumps(content))
        for entry in read(root).entries:
            assert entry.mask is None or entry.mask().shape == (4, 8)
        count += 1
    assert count > 200


class TestRecognition:
    def test_an_export(self, data):
        assert label_studio.recognise(data([task(brush("a"))]))

    @pytest.mark.parametrize("content", [{}, [], {"annotations": []}, [1], [{"image": "a"}]])
    def test_other_files(self, data, content):
        assert not label_studio.recognise(data(content))
