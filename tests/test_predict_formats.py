"""`fewmask predict --to`: what tools import says the same as the PNG masks."""

import shutil

import numpy as np
import pytest

from fewmask.data.classes_csv import read_classes
from fewmask.io.images import read_mask
from fewmask.layouts import coco, label_studio, voc
from fewmask.layouts.records import ReadingOptions
from fewmask.predict_formats import hand_over

pytest.importorskip("pycocotools")


@pytest.fixture
def predicted(fewmask, tiny_run, tmp_path):
    images = tmp_path / "photos"
    images.mkdir()
    for path in sorted(tiny_run.data.glob("positive/*.png"))[:3]:
        shutil.copy(path, images)
    out = tmp_path / "out"
    result = fewmask(
        "predict", tiny_run.path, images, "-o", out, "--to", "coco", "cvat", "label-studio"
    )
    assert result.code == 0, result.err
    return images, out, result


def same(source, out):
    assert not source.problems
    assert [each.name for each in source.classes] == ["positive"]
    masks = {path.stem: read_mask(path) for path in (out / "masks").glob("*.png")}
    assert any(mask.any() for mask in masks.values())
    found = {entry.id.rpartition("/")[2]: entry.mask() for entry in source.entries}
    assert found.keys() == masks.keys()
    assert all((found[name] == mask).all() for name, mask in masks.items())


@pytest.mark.parametrize(("name", "layout"), [("coco", coco), ("label-studio", label_studio)])
def test_a_json_file_beside_the_images_is_read_as_the_same_masks(predicted, tmp_path, name, layout):
    images, out, _ = predicted
    root = tmp_path / "tool"
    shutil.copytree(images, root / "photos")
    shutil.copy(out / f"{name}.json", root)
    assert layout.recognise(root)
    same(layout.read(root, ReadingOptions()), out)


def test_a_cvat_folder_is_read_as_the_same_masks_and_colours(predicted):
    _, out, _ = predicted
    source = voc.read(out / "cvat", ReadingOptions())
    same(source, out)
    assert source.classes == read_classes(out / "classes.csv")[0]
    assert (out / "cvat/annotations.zip").is_file()


def test_the_labelling_configuration_is_told(predicted):
    assert '<Label value="positive" background="#' in predicted[2].err


def test_without_a_background_the_first_class_is_one_in_these_formats(tmp_path):
    from fewmask.io.images import write_image, write_mask

    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2, (12, 10)).astype(np.uint8)
    for folder in ("photos", "out/masks"):
        (tmp_path / folder).mkdir(parents=True)
    write_image(tmp_path / "photos/a.png", rng.integers(0, 255, (12, 10, 3)).astype(np.uint8))
    write_mask(tmp_path / "out/masks/a.png", ids)
    card = {"class_names": ["sky", "road"], "background": False}
    hand_over(tmp_path / "photos", tmp_path / "out", card, ("cvat",))
    source = voc.read(tmp_path / "out/cvat", ReadingOptions())
    assert (source.entries[0].mask() == ids + 1).all()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cvat", "masks"]


def test_a_single_file_is_refused_before_anything_is_predicted(fewmask, tiny_run, tmp_path):
    image = next(tiny_run.data.glob("positive/*.png"))
    result = fewmask("predict", tiny_run.path, image, "-o", tmp_path / "out", "--to", "coco")
    assert result.code == 2
    assert "FORMAT-FOLDER" in result.err
    assert not (tmp_path / "out").exists()
