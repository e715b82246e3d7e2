"""Folders of NIfTI volumes and nnU-Net's, as slices with ids."""

import json

import numpy as np
import pytest
from PIL import Image

from fewmask.errors import DataError, UsageError
from fewmask.io.nifti import Volume
from fewmask.layouts import nifti, nnunet
from fewmask.layouts.records import ReadingOptions

nibabel = pytest.importorskip("nibabel")

AFFINE = np.diag([1, 1, 3, 1.0])
LABELS = np.zeros((4, 5, 3), np.uint8)
LABELS[0, 4, 1] = 1  # the left, the front: shown at the top right of the second slice
LABELS[3, 0, 2] = 2  # the right, the back: at the bottom left of the third


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(data), affine), path)
    return path


def scan(value=100):
    return np.arange(60, dtype=np.int16).reshape(4, 5, 3) + value


def plain(root, **options):
    return nifti.read(root, ReadingOptions(**options))


def nnu(root, **options):
    return nnunet.read(root, ReadingOptions(**options))


def codes(problems):
    return sorted(problem.code for problem in problems)


def about(root, **keys):
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(keys))


VERSION_1 = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver", "2": "tumour"}}
VERSION_2 = {
    "channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1, "tumour": 2},
    "file_ending": ".nii.gz",
}  # fmt: skip


def nnunet_folder(root, **keys):
    about(root, **{**VERSION_2, **keys})
    for name in ("case_1", "case_2"):
        save(root / "imagesTr" / f"{name}_0000.nii.gz", scan())
        save(root / "labelsTr" / f"{name}.nii.gz", LABELS)
    return root


# --- plain folders --------------------------------------------------------------------------------


def test_each_slice_is_an_entry_with_its_mask(tmp_path):
    save(tmp_path / "images" / "a.nii.gz", scan())
    save(tmp_path / "labels" / "a.nii.gz", LABELS)
    source = plain(tmp_path)
    assert [entry.id for entry in source.entries] == ["a/slice_001", "a/slice_002", "a/slice_003"]
    assert {entry.group for entry in source.entries} == {"a"}
    assert [c.name for c in source.classes] == ["class_1", "class_2"]
    masks = [entry.mask() for entry in source.entries]
    assert [mask.dtype for mask in masks] == [np.uint8] * 3
    assert [np.argwhere(mask).tolist() for mask in masks] == [[], [[0, 3]], [[4, 0]]]
    assert (masks[1].max(), masks[2].max()) == (1, 2)
    assert source.entries[0].image().shape == masks[0].shape == (5, 4)
    assert codes(source.problems) == []


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.nii.gz", "a_seg.nii.gz"),
        ("a.nii", "a_mask.nii"),
        ("p1/a.nii.gz", "p1/a-label.nii.gz"),
        ("p1/a.nii.gz", "p1/a_GT.nii.gz"),
        ("volume-7.nii", "segmentation-7.nii"),
        ("case_3/imaging.nii.gz", "case_3/segmentation.nii.gz"),
        ("b_t1.nii.gz", "b_seg.nii.gz"),
        ("images/a_0000.nii.gz", "labels/a.nii.gz"),
        ("images/p/a.nii", "gt/p/a.nii.gz"),
        ("training/images/a.nii", "training/masks/a_seg.nii"),
    ],
)
def test_labels_find_their_image(tmp_path, image, label):
    save(tmp_path / image, scan())
    save(tmp_path / label, LABELS)
    source = plain(tmp_path)
    assert codes(source.problems) == []
    assert len(source.entries) == 3
    assert source.entries[1].mask()[0, 3] == 1


def test_several_modalities_share_their_labels_and_their_group(tmp_path):
    for name in ("B_1_flair", "B_1_t1", "B_10_t1"):
        save(tmp_path / f"{name}.nii.gz", scan())
    save(tmp_path / "B_1_seg.nii.gz", LABELS)
    found = {e.id.split("/")[0]: (e.group, e.mask is not None) for e in plain(tmp_path).entries}
    assert found == {
        "B_1_flair": ("B_1", True),
        "B_1_t1": ("B_1", True),
        "B_10_t1": ("B_10_t1", False),
    }


def test_a_folder_with_a_number_is_a_patient(tmp_path):
    for patient in ("patient001", "patient002"):
        for frame in ("01", "12"):
            save(tmp_path / patient / f"{patient}_frame{frame}.nii.gz", scan())
            save(tmp_path / patient / f"{patient}_frame{frame}_gt.nii.gz", LABELS)
    source = plain(tmp_path)
    assert {entry.group for entry in source.entries} == {"patient001", "patient002"}
    assert source.entries[0].id == "patient001/patient001_frame01/slice_001"


def test_one_folder_around_all_volumes_is_no_patient(tmp_path):
    for name in "ab":
        save(tmp_path / "set7" / f"{name}.nii", scan())
    assert {entry.group for entry in plain(tmp_path).entries} == {"set7/a", "set7/b"}


def test_a_pattern_names_the_group(tmp_path):
    for name in ("p1_x", "p1_y", "p2_x"):
        save(tmp_path / f"{name}.nii", scan())
    source = plain(tmp_path, group_pattern=r"(p\d)_")
    assert {entry.id.split("/")[0]: entry.group for entry in source.entries} == {
        "p1_x": "p1", "p1_y": "p1", "p2_x": "p2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labelled", "parts"), [(("train", "test"), {"train", "test"}), (("train",), {None})]
)
def test_parts_count_only_if_two_have_labels(tmp_path, labelled, parts):
    for part in ("train", "test"):
        save(tmp_path / part / "images" / f"{part}_a.nii", scan())
        if part in labelled:
            save(tmp_path / part / "labels" / f"{part}_a.nii", LABELS)
    assert {entry.part for entry in plain(tmp_path).entries} == parts


def test_labels_of_nothing_are_a_problem(tmp_path):
    save(tmp_path / "images" / "a.nii", scan())
    save(tmp_path / "labels" / "b.nii", LABELS)
    source = plain(tmp_path)
    assert codes(source.problems) == ["MASK-UNPAIRED"]
    assert [entry.mask for entry in source.entries] == [None] * 3


@pytest.mark.parametrize(
    ("labels", "affine"),
    [(np.zeros((4, 5, 4), np.uint8), AFFINE), (LABELS, AFFINE + 0.002 * np.eye(4)[::-1])],
)
def test_labels_on_another_grid_are_a_problem(tmp_path, labels, affine):
    save(tmp_path / "a.nii", scan())
    affine = affine.copy()
    affine[3] = 0, 0, 0, 1
    save(tmp_path / "a_seg.nii", labels, affine)
    source = plain(tmp_path)
    assert codes(source.problems) == ["NIFTI-GRID"]
    assert source.entries == []


def test_an_affine_within_a_thousandth_is_the_same_grid(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 0.0005
    save(tmp_path / "a.nii", scan())
    save(tmp_path / "a_seg.nii", LABELS, moved)
    assert codes(plain(tmp_path).problems) == []


def test_labels_stored_in_another_order_lie_right(tmp_path):
    save(tmp_path / "a.nii", scan())
    turned = nibabel.Nifti1Image(LABELS, AFFINE).as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nibabel.save(turned, tmp_path / "a_seg.nii")
    source = plain(tmp_path)
    assert codes(source.problems) == ["NIFTI-GRID"]  # told, never silently turned


def test_values_with_gaps_are_numbered_anew_and_told(tmp_path):
    save(tmp_path / "a.nii", scan())
    save(tmp_path / "a_seg.nii", np.select([LABELS == 1, LABELS == 2], [4, 255]).astype(np.uint8))
    save(tmp_path / "b.nii", scan())
    save(tmp_path / "b_seg.nii", 2 * (LABELS > 0).astype(np.float32))
    source = plain(tmp_path)
    assert [c.name for c in source.classes] == ["class_2", "class_4"]
    assert codes(source.repairs) == ["MASK-VALUES"]
    assert "2 is 1, 4 is 2" in source.repairs[0].fix
    assert source.entries[1].mask()[0, 3] == 2
    assert source.entries[2].mask()[4, 0] == 255
    assert source.entries[4].mask()[0, 3] == 1


def test_0_and_255_are_one_class(tmp_path):
    save(tmp_path / "a.nii", scan())
    save(tmp_path / "a_seg.nii", np.where(LABELS > 0, 255, 0).astype(np.uint8))
    source = plain(tmp_path, class_names=("liver",))
    assert [c.name for c in source.classes] == ["liver"]
    assert source.entries[1].mask()[0, 3] == 1


def test_values_beyond_the_given_names_are_a_problem_with_their_counts(tmp_path):
    save(tmp_path / "a.nii", scan())
    save(tmp_path / "a_seg.nii", LABELS)
    source = plain(tmp_path, class_names=("liver",))
    assert codes(source.problems) == ["MASK-VALUES"]
    assert "2 (1 voxels)" in source.problems[0].found
    assert source.entries == []


def test_interpolated_labels_are_a_problem(tmp_path):
    save(tmp_path / "a.nii", scan())
    save(tmp_path / "a_seg.nii", LABELS * np.float32(0.5))
    assert codes(plain(tmp_path).problems) == ["MASK-DTYPE"]


def test_negative_labels_are_a_problem(tmp_path):
    save(tmp_path / "a.nii", scan())
    save(tmp_path / "a_seg.nii", -LABELS.astype(np.int16))
    assert codes(plain(tmp_path).problems) == ["MASK-VALUES"]


def test_a_damaged_volume_is_left_out_and_told(tmp_path):
    save(tmp_path / "a.nii", scan())
    save(tmp_path / "b.nii.gz", scan()).write_bytes(b"\x1f\x8b damaged")
    save(tmp_path / "c.nii", np.zeros((2, 2, 2, 9), np.uint8))
    source = plain(tmp_path)
    assert codes(source.problems) == ["NIFTI-CHANNELS", "NIFTI-TRUNCATED"]
    assert {entry.id.split("/")[0] for entry in source.entries} == {"a"}


def test_damage_behind_the_header_is_told_by_the_entry(tmp_path):
    noise = np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:-40])
    source = plain(tmp_path)
    with pytest.raises(DataError, match="NIFTI-TRUNCATED"):
        source.entries[0].image()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    root = tmp_path / "data"
    save(root / "a.nii", scan())
    save(tmp_path / "secret.nii", scan())
    (root / "b.nii").symlink_to(tmp_path / "secret.nii")
    source = plain(root)
    assert codes(source.problems) == ["PATH-OUTSIDE"]
    assert {entry.id.split("/")[0] for entry in source.entries} == {"a"}


def test_two_volumes_of_one_name_are_told(tmp_path):
    save(tmp_path / "a.nii", scan())
    save(tmp_path / "a.nii.gz", scan())
    source = plain(tmp_path)
    assert codes(source.problems) == ["STEM-TWICE"]
    assert len(source.entries) == 3


# --- grey levels ----------------------------------------------------------------------------------


def test_hounsfield_units_have_one_fixed_window(tmp_path):
    values = np.zeros((2, 2, 1), np.int16)
    values[:, :, 0] = [[-1024, -2000], [1023, 3000]]
    save(tmp_path / "a.nii", values)
    source = plain(tmp_path)
    assert source.entries[0].image().tolist() == [[65535, 0], [65535, 0]]
    assert codes(source.notes) == ["WINDOW"]
    assert "--window LOW HIGH" in source.notes[0].fix


def test_other_values_go_from_percentile_to_percentile_of_the_volume(tmp_path):
    values = np.arange(2000, dtype=np.float32).reshape(20, 10, 10)
    save(tmp_path / "a.nii", values)
    entries = plain(tmp_path).entries
    low, high = np.percentile(values, (0.5, 99.5))
    for i in (0, 7):
        expected = np.clip((values[::-1, ::-1, i].T - low) / (high - low), 0, 1) * 65535
        np.testing.assert_allclose(entries[i].image(), expected, atol=0.51)


def test_a_given_window_goes_before_all(tmp_path):
    values = np.full((2, 2, 1), -500, np.int16)
    values[0, 0, 0] = 0
    save(tmp_path / "a.nii", values)
    source = plain(tmp_path, window=(-500, 500))
    assert source.entries[0].image().tolist() == [[0, 0], [0, 32768]]
    assert source.notes == []


def test_a_volume_of_one_value_is_black(tmp_path):
    save(tmp_path / "a.nii", np.full((2, 2, 1), 7, np.int16))
    assert plain(tmp_path).entries[0].image().max() == 0


def test_slice_after_slice_decodes_the_file_once(tmp_path, monkeypatch):
    save(tmp_path / "a.nii.gz", scan())
    save(tmp_path / "a_seg.nii.gz", LABELS)
    entries = plain(tmp_path).entries
    decoded = []
    original = Volume._decoded

    def counted(self):
        if self._voxels is None:
            decoded.append(self.path.name)
        return original(self)

    monkeypatch.setattr(Volume, "_decoded", counted)
    for entry in entries:
        entry.image()
        entry.mask()
    assert sorted(decoded) == ["a.nii.gz", "a_seg.nii.gz"]


def test_of_many_volumes_only_the_last_stay_in_memory(tmp_path):
    for i in range(6):
        save(tmp_path / f"{i}.nii.gz", scan())
    entries = plain(tmp_path).entries
    shelf = entries[0].image.func.__self__
    for entry in entries:
        entry.image()
    assert shelf.volume.cache_info().currsize == 2


# --- nnU-Net --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [VERSION_1, VERSION_2])
def test_both_versions_are_read(tmp_path, keys):
    root = nnunet_folder(tmp_path / "Dataset001_Liver", **keys)
    source = nnu(root)
    assert codes(source.problems) == codes(source.repairs) == []
    assert [c.name for c in source.classes] == ["liver", "tumour"]
    assert [entry.id for entry in source.entries[:4]] == [
        "case_1/slice_001", "case_1/slice_002", "case_1/slice_003", "case_2/slice_001",
    ]  # fmt: skip
    assert {(entry.group, entry.part) for entry in source.entries} == {
        ("case_1", None), ("case_2", None),
    }  # fmt: skip
    assert source.entries[1].mask()[0, 3] == 1
    assert source.entries[2].mask()[4, 0] == 2


def test_a_data_set_is_found_one_folder_below_but_not_two_of_them(tmp_path):
    nnunet_folder(tmp_path / "Dataset001_A")
    assert nnunet.recognise(tmp_path)
    assert len(nnu(tmp_path).entries) == 6
    nnunet_folder(tmp_path / "Dataset002_B")
    source = nnu(tmp_path)
    assert codes(source.problems) == ["NNUNET-SEVERAL"]
    assert source.entries == []


def test_of_several_channels_the_first_is_read_and_told(tmp_path):
    root = nnunet_folder(tmp_path)
    save(root / "imagesTr" / "case_1_0001.nii.gz", scan(9000))
    source = nnu(root)
    assert codes(source.notes) == ["NNUNET-CHANNELS", "WINDOW"]
    assert len(source.entries) == 6
    assert source.entries[0].image.args[0].name == "case_1_0000.nii.gz"


def test_a_test_set_without_labels_is_unlabelled(tmp_path):
    root = nnunet_folder(tmp_path)
    save(root / "imagesTs" / "case_9_0000.nii.gz", scan())
    entries = nnu(root).entries
    assert [entry.mask for entry in entries if entry.group == "case_9"] == [None] * 3
    assert {entry.part for entry in entries} == {None}


def test_a_test_set_with_labels_is_an_official_split(tmp_path):
    root = nnunet_folder(tmp_path)
    save(root / "imagesTs" / "case_9_0000.nii.gz", scan())
    save(root / "labelsTs" / "case_9.nii.gz", LABELS)
    assert {entry.group: entry.part for entry in nnu(root).entries} == {
        "case_1": "train", "case_2": "train", "case_9": "test",
    }  # fmt: skip


def test_the_ignore_label_becomes_255(tmp_path):
    root = nnunet_folder(tmp_path, labels={"background": 0, "liver": 1, "ignore": 2})
    source = nnu(root)
    assert [c.name for c in source.classes] == ["liver"]
    assert source.entries[2].mask()[4, 0] == 255


def test_regions_name_each_value_by_the_smallest_that_holds_it(tmp_path):
    root = nnunet_folder(
        tmp_path, labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    )
    source = nnu(root)
    assert [c.name for c in source.classes] == ["whole", "core", "enhancing"]
    assert "NNUNET-REGIONS" in codes(source.notes)


def test_values_that_no_one_has_listed_are_a_problem_with_their_counts(tmp_path):
    root = nnunet_folder(tmp_path, labels={"background": 0, "liver": 1})
    source = nnu(root)
    assert codes(source.problems) == ["MASK-VALUES"] * 2
    assert "2 (1 voxels)" in source.problems[0].found
    assert source.entries == []


def test_a_missing_partner_is_told_on_either_side(tmp_path):
    root = nnunet_folder(tmp_path)
    (root / "labelsTr" / "case_1.nii.gz").unlink()
    (root / "imagesTr" / "case_2_0000.nii.gz").unlink()
    source = nnu(root)
    assert codes(source.problems) == ["MASK-MISSING", "MASK-UNPAIRED"]
    assert {entry.group for entry in source.entries} == {"case_1"}


def test_names_without_a_channel_are_whole_cases(tmp_path):
    about(tmp_path, **VERSION_1)
    save(tmp_path / "imagesTr" / "la_0003.nii.gz", scan())
    save(tmp_path / "labelsTr" / "la_0003.nii.gz", LABELS)
    source = nnu(tmp_path)
    assert codes(source.problems) == []
    assert source.entries[0].id == "la_0003/slice_001"


def test_listed_files_are_read_where_they_are(tmp_path):
    listed = {"x": {"images": ["raw/x.nii", "raw/x2.nii"], "label": "seg/x.nii"}}
    about(tmp_path, **VERSION_2, dataset=listed)
    (tmp_path / "imagesTr").mkdir()
    save(tmp_path / "raw" / "x.nii", scan())
    save(tmp_path / "seg" / "x.nii", LABELS)
    source = nnu(tmp_path)
    assert codes(source.problems) == []
    assert [entry.id for entry in source.entries][:1] == ["x/slice_001"]
    assert "NNUNET-CHANNELS" in codes(source.notes)


@pytest.mark.parametrize("name", ["../secret.nii", "/etc/passwd", "raw/../../secret.nii"])
def test_listed_files_outside_are_never_read(tmp_path, name):
    root = tmp_path / "data"
    about(root, **VERSION_2, dataset={"x": {"images": [name], "label": name}})
    (root / "imagesTr").mkdir()
    (root / "raw").mkdir()
    save(tmp_path / "secret.nii", scan())
    source = nnu(root)
    assert codes(source.problems) == ["PATH-OUTSIDE"] * 2
    assert source.entries == []


def test_what_version_1_lists_and_nobody_has_is_told(tmp_path):
    root = nnunet_folder(
        tmp_path, training=[{"image": "./imagesTr/z.nii.gz", "label": "./labelsTr/z.nii.gz"}]
    )
    assert codes(nnu(root).problems) == ["IMAGE-MISSING"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"labels": 3}', '{"labels": {"a": [[1]]}}', "[" * 100_000]
)
def test_a_damaged_list_is_a_problem(tmp_path, content):
    root = nnunet_folder(tmp_path)
    (root / "dataset.json").write_text(content)
    problems = nnu(root).problems
    assert {problem.code for problem in problems} & {"JSON", "NNUNET-LABELS"}


def test_pictures_stay_what_they_are(tmp_path):
    about(tmp_path, channel_names={"0": "R", "1": "G", "2": "B"}, file_ending=".png",
          labels={"background": 0, "road": 1})  # fmt: skip
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "imagesTr" / "img-1_0000.png")
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2] = 1
    Image.fromarray(mask).save(tmp_path / "labelsTr" / "img-1.png")
    (entry,) = nnu(tmp_path).entries
    assert (entry.id, entry.image) == ("img-1", tmp_path / "imagesTr" / "img-1_0000.png")
    np.testing.assert_array_equal(entry.mask(), mask)
    Image.fromarray(mask * 7).save(tmp_path / "labelsTr" / "img-1.png")
    with pytest.raises(DataError, match=r"MASK-VALUES.*7 \(1"):
        entry.mask()
    Image.fromarray(mask.T).save(tmp_path / "labelsTr" / "img-1.png")
    with pytest.raises(DataError, match="MASK-SIZE"):
        entry.mask()


def test_other_endings_are_a_problem(tmp_path):
    root = nnunet_folder(tmp_path)
    (root / "imagesTr" / "case_3_0000.nrrd").write_bytes(b"NRRD0004")
    assert codes(nnu(root).problems) == ["NNUNET-FORMAT"]


def test_names_by_hand_must_be_those_of_the_list(tmp_path):
    root = nnunet_folder(tmp_path)
    source = nnu(root, class_names=("tumour", "liver"))
    assert [c.name for c in source.classes] == ["tumour", "liver"]
    assert source.entries[1].mask()[0, 3] == 2
    with pytest.raises(UsageError, match="CLASS-NAMES"):
        nnu(root, class_names=("kidney",))


def test_each_arrangement_is_recognised_by_one_reader(tmp_path):
    nnunet_folder(tmp_path / "n")
    save(tmp_path / "p" / "x" / "a.nii", scan())
    (tmp_path / "e").mkdir()
    found = {
        name: (nnunet.recognise(tmp_path / name), nifti.recognise(tmp_path / name))
        for name in ("n", "p", "e", "missing")
    }
    assert found == {
        "n": (True, False), "p": (False, True), "e": (False, False), "missing": (False, False),
    }  # fmt: skip


def test_reading_changes_nothing(tmp_path, tree):
    root = nnunet_folder(tmp_path)
    before = tree(root)
    for entry in nnu(root).entries:
        entry.image()
        entry.mask()
    assert tree(root) == before
