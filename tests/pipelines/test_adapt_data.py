"""The folders of `adapt`: what is learned from, what is measured on, and what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fewmask.data.folder import read_target
from fewmask.data.street import STREET_CLASS_NAMES, make_street
from fewmask.errors import DataError, FewmaskError, LeakError, UsageError
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.adapt_data import check_domains, cut_domains, open_domains
from fewmask.training.stages import input_files, settings_by_content


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("street")
    return make_street(root, day=12, night=6, test=4, width=48, height=32)


@pytest.fixture
def street(made, tmp_path):
    return shutil.copytree(made, tmp_path / "street")


def config(root, **settings):
    folders = {"target": root / "night", "test": root / "test"}
    given = {"class_names": STREET_CLASS_NAMES, "val_fraction": 0.1, **settings}
    return AdaptConfig(**{**folders, **given})


def parts(root, **settings):
    settings = config(root, **settings)
    data = open_domains(root / "day", settings)
    return data, cut_domains(data, settings, 0)


def domains(ids):
    return {name.split("/")[0] for name in ids}


def test_a_labelled_day_and_an_unlabelled_night_become_one_set_of_samples(street, tree):
    before = tree(street)
    check_domains(street / "day", config(street))
    data, split = parts(street)
    assert data.class_names == STREET_CLASS_NAMES
    assert data.num_classes == len(STREET_CLASS_NAMES)
    assert not data.has_background
    assert not data.has_tags
    assert len(data.samples) == 12 + 6 + 4
    assert domains(split.train) == {"source", "target"}
    assert domains(split.val) == {"source"}
    assert domains(split.test) == {"test"}
    assert len(split.val) in (1, 2)
    assert len(split.train) + len(split.val) + len(split.test) == len(data.samples)
    assert tree(street) == before


def test_masks_keep_their_ids_and_what_is_ignored(street):
    mask = street / "day" / "masks" / "0000.png"
    pixels = np.array(Image.open(mask))
    pixels[0, :3] = (9, 255, 7)
    Image.fromarray(pixels).save(mask)
    data, _ = parts(street, ignore_ids=(9,))
    sample = next(s for s in data.samples if s.id == "source/0000")
    target = read_target(sample, data)
    assert target[0, :3].tolist() == [255, 255, 7]
    assert np.array_equal(target[1:], pixels[1:])
    unlabelled = next(s for s in data.samples if s.id.startswith("target/"))
    assert read_target(unlabelled, data) is None


def test_without_names_the_ids_name_the_classes(street):
    data, _ = parts(street, class_names=None)
    assert data.class_names == tuple(f"class_{i}" for i in range(8))


def test_no_test_folder_nothing_to_measure_on(street):
    _, split = parts(street, test=None)
    assert split.test == ()
    assert domains(split.train) == {"source", "target"}


def test_official_parts_of_source_and_target_are_kept(street):
    for kind in ("images", "masks"):
        for i, part in enumerate(["train"] * 8 + ["val"] * 2 + ["test"] * 2):
            folder = street / "day" / kind / part
            folder.mkdir(exist_ok=True)
            (street / "day" / kind / f"{i:04d}.png").rename(folder / f"{i:04d}.png")
    for i, part in enumerate(["train"] * 4 + ["test"] * 2):
        folder = street / "night" / "images" / part
        folder.mkdir(exist_ok=True)
        (street / "night" / "images" / f"{i:04d}.png").rename(folder / f"{i:04d}.png")
    _, split = parts(street, test=None)
    assert [n for n in split.train if n.startswith("source")] == [
        f"source/train/{i:04d}" for i in range(8)
    ]
    assert split.val == ("source/val/0008", "source/val/0009")
    assert split.test == ("target/test/0004", "target/test/0005")
    assert not set(split.test) & set(split.train)


def test_folders_are_no_files_and_enter_no_stage_key_by_name(street, tmp_path):
    here, moved = config(street), config(shutil.copytree(street, tmp_path / "moved"))
    assert here.data_folders == {"target": street / "night", "test": street / "test"}
    assert input_files(here) == {}
    assert settings_by_content(here) == settings_by_content(moved)


def test_weights_of_the_perceptual_loss_count_by_their_content(street, tmp_path):
    first, second = tmp_path / "a.pth", tmp_path / "b.pth"
    for path in (first, second):
        path.write_bytes(b"the same")
    keys = [settings_by_content(config(street, translate_perceptual_weights=str(path)))
            for path in (first, second)]  # fmt: skip
    assert keys[0] == keys[1]
    with pytest.raises(UsageError, match="FILE-MISSING"):
        settings_by_content(config(street, translate_perceptual_weights="nowhere.pth"))


def cityscapes(root, folder, suffix, mask):
    """One Cityscapes-like image with its mask; images differ with the mask."""
    (root / "leftImg8bit" / folder / "u").mkdir(parents=True)
    (root / "gtFine" / folder / "u").mkdir(parents=True)
    image = np.repeat(mask[..., None], 3, -1) * 3
    Image.fromarray(image).save(root / "leftImg8bit" / folder / "u" / "u_0_0_leftImg8bit.png")
    Image.fromarray(mask).save(root / "gtFine" / folder / "u" / f"u_0_0_gtFine_{suffix}.png")


def test_each_folder_s_masks_are_read_by_its_own_table(tmp_path):
    rng = np.random.default_rng(0)
    cityscapes(
        tmp_path / "day", "train", "labelIds", rng.choice([7, 26], (16, 16)).astype(np.uint8)
    )
    of_test = rng.choice([0, 7], (16, 16)).astype(np.uint8)
    cityscapes(tmp_path / "test", "test", "labelTrainIds", of_test)
    (tmp_path / "night").mkdir()
    Image.fromarray(rng.integers(0, 99, (16, 16, 3), np.uint8)).save(tmp_path / "night" / "a.png")
    settings = AdaptConfig(target=tmp_path / "night", test=tmp_path / "test", val_fraction=0)
    check_domains(tmp_path / "day", settings)
    data = open_domains(tmp_path / "day", settings)
    found = {s.id.split("/")[0]: read_target(s, data) for s in data.samples}
    assert set(np.unique(found["source"])) == {0, 13}  # road, car
    assert np.array_equal(found["test"], of_test)  # road, traffic sign


def test_an_unlabelled_target_in_another_data_set_s_layout_is_no_conflict(street):
    folder = street / "drives" / "leftImg8bit" / "u"
    folder.mkdir(parents=True)
    shutil.copy(street / "night" / "images" / "0000.png", folder / "u_0_0_leftImg8bit.png")
    settings = config(street, target=street / "drives")
    check_domains(street / "day", settings)
    data = open_domains(street / "day", settings)
    assert "target/u/u_0_0" in {sample.id for sample in data.samples}


@pytest.mark.parametrize("values", [(0, 255), (0, 38, 75, 113), (0, 300), (255, 255)])
def test_without_names_values_that_cannot_be_ids_are_refused(street, values):
    for path in (street / "day" / "masks").iterdir():
        pixels = np.resize(np.array(values, np.uint16), (32, 48))
        Image.fromarray(pixels.astype(np.uint16 if max(values) > 255 else np.uint8)).save(path)
    if values == (0, 255):  # one class and nothing else: legal, and useless
        data, _ = parts(street, class_names=None, test=None)
        assert data.class_names == ("class_0",)
        return
    with pytest.raises(DataError, match="MASK-VALUES"):
        check_domains(street / "day", config(street, class_names=None, test=None))


@pytest.mark.parametrize("settings", [{"folds": 3}, {"fold": 0}, {"split_file": "split.csv"}])
def test_folds_and_split_files_are_refused(street, settings):
    with pytest.raises(UsageError, match="SPLIT-FOLDERS"):
        parts(street, **settings)


def test_a_drive_that_is_learned_from_and_tested_on_is_a_leak(street):
    for folder in ("night", "test"):
        images = street / folder / "images"
        (images / "0000.png").rename(images / "drive7_0.png")
    (street / "test" / "masks" / "0000.png").rename(street / "test" / "masks" / "drive7_0.png")
    parts(street)
    with pytest.raises(LeakError, match="drive7"):
        parts(street, group_pattern="^(drive[0-9]+)_")


def test_linked_copies_among_the_test_images_are_no_drive(street):
    """Their group is the name of one of them, which the target may have too."""
    settings = config(street)
    data = open_domains(street / "day", settings)
    tested = [s for s in data.samples if s.id.startswith("test/")]
    linked = [replace(s, group=tested[0].group) if s is tested[1] else s for s in data.samples]
    names = {s.id.partition("/")[2] for s in data.samples if s.id.startswith("target/")}
    assert tested[0].id.partition("/")[2] in names
    cut_domains(replace(data, samples=tuple(linked)), settings, 0)


def target_with_a_test_part(root):
    """The dark images in parts of their own; the one to test on is a mirrored copy of another."""
    images = root / "night" / "images"
    for part, names in (("train", ("0000", "0001", "0002")), ("test", ("0003", "0004"))):
        (images / part).mkdir()
        for name in names:
            (images / f"{name}.png").rename(images / part / f"{name}.png")
    image = Image.open(images / "train" / "0001.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(images / "test" / "0004.png")


def test_a_copy_in_the_targets_own_test_part_is_refused(street):
    target_with_a_test_part(street)
    with pytest.raises(FewmaskError, match="target/test/0004") as caught:
        check_domains(street / "day", config(street, test=None))
    assert [p.code for p in caught.value.problems] == ["DUPLICATE"]
    check_domains(street / "day", config(street))  # another folder is measured on


def test_linked_copies_on_both_sides_are_a_leak(street):
    """Should the check before the run have missed them: no name of a drive holds these together."""
    target_with_a_test_part(street)
    settings = config(street, test=None)
    data = open_domains(street / "day", settings)
    group = "target/train/0001"
    linked = [replace(s, group=group) if s.id == "target/test/0004" else s for s in data.samples]
    cut_domains(data, settings, 0)
    with pytest.raises(LeakError, match="0001"):
        cut_domains(replace(data, samples=tuple(linked)), settings, 0)


def test_nothing_left_to_learn_from(street):
    folder = street / "night" / "images" / "test"
    folder.mkdir()
    for path in (street / "night" / "images").glob("*.png"):
        path.rename(folder / path.name)
    with pytest.raises(DataError, match="PART-EMPTY"):
        parts(street)


def test_images_too_small_for_the_judges_are_refused_with_the_settings():
    with pytest.raises(ValueError, match="translate_scales 3 needs sides of 64 px"):
        AdaptConfig(image_size=48, image_width=64)
    AdaptConfig(image_size=48, image_width=64, translate_scales=2)


def break_mask(root):
    (root / "day" / "masks" / "0001.png").write_bytes(b"no png")


def strange_id(root):
    path = root / "day" / "masks" / "0002.png"
    pixels = np.array(Image.open(path))
    pixels[3, 3] = 77
    Image.fromarray(pixels).save(path)


def truncate(root):
    path = root / "night" / "images" / "0003.png"
    path.write_bytes(path.read_bytes()[:200])


def other_size(root):
    path = root / "day" / "masks" / "0004.png"
    Image.open(path).resize((24, 16)).save(path)


def orphan(root):
    (root / "day" / "images" / "0005.png").unlink()


def copy_of_target_in_test(root):
    shutil.copy(root / "night" / "images" / "0000.png", root / "test" / "images" / "9999.png")


def mirrored_target_in_test(root):
    image = Image.open(root / "night" / "images" / "0001.png")
    turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned.save(root / "test" / "images" / "a, b.png")


def no_masks(root):
    shutil.rmtree(root / "day" / "masks")


def no_target(root):
    shutil.rmtree(root / "night")


def empty_target(root):
    shutil.rmtree(root / "night")
    (root / "night").mkdir()


@pytest.mark.parametrize(
    ("damage", "code", "where"),
    [
        (break_mask, "IMAGE-FORMAT", "0001.png"),
        (strange_id, "MASK-VALUES", "0002.png"),
        (truncate, "IMAGE", "0003.png"),
        (other_size, "MASK-SIZE", "0004.png"),
        (orphan, "MASK-UNPAIRED", "0005.png"),
        (copy_of_target_in_test, "DUPLICATE", "9999"),
        (mirrored_target_in_test, "DUPLICATE", "a, b"),
        (no_masks, "NO-MASKS", "day"),
        (no_target, "FOLDER-MISSING", "night"),
        (empty_target, "IMAGES-MISSING", "night"),
    ],
)
def test_refusals_name_the_file(street, tree, damage, code, where):
    damage(street)
    before = tree(street)
    with pytest.raises(FewmaskError) as caught:
        check_domains(street / "day", config(street))
    told = [p for p in caught.value.problems if p.code.startswith(code)]
    assert told, caught.value
    assert any(where in f"{p.where} {p.found}" for p in told)
    assert tree(street) == before


def test_all_problems_of_all_folders_are_told_at_once(street):
    for damage in (break_mask, strange_id, truncate, other_size):
        damage(street)
    with pytest.raises(DataError) as caught:
        check_domains(street / "day", config(street))
    places = " ".join(problem.where for problem in caught.value.problems)
    assert all(f"000{i}.png" in places for i in (1, 2, 3, 4))


def test_no_target_named(street):
    with pytest.raises(UsageError, match="--target NIGHT"):
        check_domains(street / "day", config(street, target=None))


def test_test_masks_of_other_classes_are_refused(street, tmp_path):
    for folder in ("test", "testannot"):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
        blank = np.zeros((8, 8, 3) if folder == "test" else (8, 8), np.uint8)
        Image.fromarray(blank).save(tmp_path / "camvid" / folder / "0001TP_1.png")
    with pytest.raises(DataError, match="LABELS-DIFFER"):
        open_domains(street / "day", config(street, test=tmp_path / "camvid"))


def test_copies_within_a_domain_are_no_problem(street):
    shutil.copy(street / "day" / "images" / "0000.png", street / "day" / "images" / "0100.png")
    shutil.copy(street / "day" / "masks" / "0000.png", street / "day" / "masks" / "0100.png")
    check_domains(street / "day", config(street))
