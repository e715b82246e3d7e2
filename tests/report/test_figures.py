"""Colours are exact, files are valid and of the stated size, and equal input gives equal bytes."""

import io
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from fewmask.errors import DataError
from fewmask.report.figures import (
    GAP_PX,
    PALETTE,
    PANEL_PX,
    TITLE_PX,
    class_colour,
    curves_figure,
    overlay,
    strip_png,
)

SVG = "{http://www.w3.org/2000/svg}"


def records(count=60, **values):
    return [
        {"stage": "01-classify", "loop": "train", "step": i, "loss": 1.0 / (i + 1), **values}
        for i in range(count)
    ]


def panel(drawn: np.ndarray, index: int, width: int = PANEL_PX) -> np.ndarray:
    left = index * (width + GAP_PX)
    return drawn[TITLE_PX:, left : left + width]


def read(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGBA"))


def test_overlay_tints_the_inside_and_lines_the_edge_of_each_class():
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    mask = np.zeros((12, 20), np.int64)
    mask[2:8, 2:8], mask[2:8, 8:14] = 1, 2  # neighbours: each has its own line
    drawn = overlay(image, mask, alpha=0.45)
    for class_id, columns in ((1, slice(2, 8)), (2, slice(8, 14))):
        area = drawn[2:8, columns]
        edge = np.ones((6, 6), bool)
        edge[1:-1, 1:-1] = False
        assert (area[edge] == class_colour(class_id)).all()
        tint = 0.55 * image[2:8, columns] + 0.45 * np.array(class_colour(class_id))
        assert (area[~edge] == np.rint(tint)[~edge]).all()
    assert (drawn[mask == 0] == image[mask == 0]).all()


def test_overlay_has_no_line_along_the_border_of_the_image():
    image = np.zeros((4, 4, 3), np.uint8)
    drawn = overlay(image, np.ones((4, 4), bool), alpha=0.5)
    assert (drawn == np.rint(PALETTE[0] / 2)).all()


def test_overlay_hatches_what_is_ignored_and_leaves_the_input_alone():
    image = np.full((12, 12, 3), 10, np.uint8)
    mask = np.zeros((12, 12), np.uint8)
    mask[:6] = 255
    drawn = overlay(image, mask)
    assert set(np.unique(drawn[:6])) == {10, 128}
    assert (drawn[:6, :, 0] == 128).mean() == pytest.approx(1 / 3)
    assert (drawn[6:] == 10).all()
    assert (image == 10).all()


def test_nineteen_classes_have_nineteen_colours_then_they_come_again():
    assert len({class_colour(c) for c in range(1, 20)}) == 19
    assert class_colour(20) == class_colour(1)
    image = np.zeros((3, 3, 3), np.uint8)
    drawn = overlay(image, np.full((3, 3), 21), alpha=1.0)
    assert tuple(drawn[1, 1]) == class_colour(2)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), int)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), int)),
    ],
)
def test_overlay_refuses_what_does_not_fit(image, mask):
    with pytest.raises(DataError, match="IMAGE-SHAPE"):
        overlay(image, mask)


def test_strip_is_a_png_of_the_stated_size():
    square, wide = np.zeros((30, 30, 3), np.uint8), np.zeros((30, 60), np.float32)
    drawn = read(strip_png([("image", square), ("map", wide)]))
    assert drawn.shape == (PANEL_PX + TITLE_PX, PANEL_PX + GAP_PX + 2 * PANEL_PX, 4)
    assert (drawn[-1, PANEL_PX + 1 : PANEL_PX + GAP_PX - 1, 3] == 0).all()  # the gap is clear


def test_strip_draws_pictures_masks_and_maps_each_in_its_way():
    image = np.full((60, 60, 3), 90, np.uint8)
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40, 20:40] = 1
    score = np.zeros((60, 60), np.float32)
    score[:30] = 1.0
    drawn = read(strip_png([("image", image), ("truth", mask), ("map", score)]))[..., :3]
    assert (panel(drawn, 0)[20:-20, 20:-20] == 90).all()
    tint = np.rint(0.55 * 90 + 0.45 * PALETTE[0].astype(float))
    assert (panel(drawn, 1)[110:130, 110:130] == tint).all()
    assert (panel(drawn, 1)[10:60, 10:60] == 90).all()
    top, bottom = panel(drawn, 2)[60, 120].astype(int), panel(drawn, 2)[180, 120].astype(int)
    assert top.tolist() == [251, 252, 191]  # magma at 1
    assert bottom.tolist() == [0, 0, 3]  # and at 0


def test_mask_without_a_picture_is_drawn_on_black():
    drawn = read(strip_png([("mask", np.ones((8, 8), bool))]))
    assert (panel(drawn, 0)[100, 100, :3] == np.rint(0.45 * PALETTE[0])).all()


@pytest.mark.parametrize(
    "panels", [[], [("one", np.zeros(4))], [("four", np.zeros((4, 4, 4), np.uint8))]]
)
def test_strip_refuses_other_arrays(panels):
    with pytest.raises(DataError, match="IMAGE-SHAPE"):
        strip_png(panels)


def test_strip_and_curves_are_the_same_bytes_each_time():
    panels = [("image $x$ <b>", np.zeros((9, 9, 3), np.uint8))]
    assert strip_png(panels) == strip_png(panels)
    assert curves_figure(records(), "01-classify") == curves_figure(records(), "01-classify")


def test_curves_have_one_panel_for_each_number_of_the_stage_alone():
    mixed = [*records(accuracy=0.9), {"stage": "02-cam", "step": 0, "entropy": 3.0}]
    root = ET.fromstring(curves_figure(mixed, "01-classify"))
    assert root.tag == f"{SVG}svg"
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert "loss" in words
    assert "accuracy" in words
    assert "entropy" not in words
    panels = [g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("axes_")]
    assert len(panels) == 2


def test_curves_of_several_loops_are_kept_apart():
    two = [*records(3), *({**r, "loop": "second"} for r in records(3))]
    words = [t.text for t in ET.fromstring(curves_figure(two, "01-classify")).iter(f"{SVG}text")]
    assert "train: loss" in words
    assert "second: loss" in words


def test_curves_size_grows_with_the_panels():
    def size(svg):
        root = ET.fromstring(svg)
        return [float(root.get(side).removesuffix("pt")) for side in ("width", "height")]

    one = size(curves_figure(records(), "01-classify"))
    four = size(curves_figure(records(a=1.0, b=2.0, c=3.0), "01-classify"))
    assert one == pytest.approx([3.35 * 72, 2.0 * 72])
    assert four == pytest.approx([3 * one[0], 2 * one[1]])


def test_curves_of_nothing_say_so():
    assert "no numbers were recorded" in curves_figure([], "01-classify")
    assert "no numbers were recorded" in curves_figure(records(), "another")


def test_hostile_names_stay_text_in_the_svg():
    name = "</text><script>1</script> $\\frac$"
    svg = curves_figure(records(3, **{name: 1.0}), "01-classify")
    root = ET.fromstring(svg)
    assert not list(root.iter(f"{SVG}script"))
    assert name in [text.text for text in root.iter(f"{SVG}text")]


def test_curves_follow_light_and_dark_mode():
    svg = curves_figure(records(), "01-classify")
    assert "prefers-color-scheme:dark" in svg
    assert "currentColor" in svg


def test_importing_the_report_does_not_import_matplotlib_or_torch():
    code = (
        "import sys, fewmask.report.figures, fewmask.report.html; "
        "print(sorted({'matplotlib', 'torch', 'jinja2'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
