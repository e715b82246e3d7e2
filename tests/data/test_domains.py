"""The folders of an adaptation: layouts, pairs, parts, groups, and what mask values mean."""

import numpy as np
import pytest
from PIL import Image

from fewmask.data.domains import official_part, open_domain
from fewmask.data.label_sets import CAMVID, CITYSCAPES, CITYSCAPES_TRAIN_IDS, plain_ids
from fewmask.data.mask_encoding import decode
from fewmask.errors import UsageError


def touch(root, *names):
    """Write small images under these names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return root


def facts(domain):
    """Id to (image, mask) below the root, and groups by id."""

    def below(path):
        return path and path.relative_to(domain.root).as_posix()

    pairs = {s.id: (below(s.image_path), below(s.mask_path)) for s in domain.samples}
    return pairs, {s.id: s.group for s in domain.samples}


def parts(domain):
    """Official part by id, of those that have one."""
    return {s.id: part for s in domain.samples if (part := official_part(s.id))}


class TestLayouts:
    def test_plain_folders_pair_by_name_in_sub_folders_too(self, tmp_path):
        touch(tmp_path, "images/a.jpg", "images/x/b.jpg", "masks/a.png", "masks/x/b.png",
              "images/c.jpg")  # fmt: skip
        domain = open_domain(tmp_path, "source")
        assert (domain.layout, domain.labels, domain.problems) == ("plain", None, [])
        pairs, groups = facts(domain)
        assert pairs == {
            "source/a": ("images/a.jpg", "masks/a.png"),
            "source/c": ("images/c.jpg", None),
            "source/x/b": ("images/x/b.jpg", "masks/x/b.png"),
        }
        assert len(set(groups.values())) == 3
        assert parts(domain) == {}

    def test_bare_images(self, tmp_path):
        pairs, _ = facts(open_domain(touch(tmp_path, "b.png", "n/a.png"), "target"))
        assert pairs == {"target/b": ("b.png", None), "target/n/a": ("n/a.png", None)}

    def test_plain_folders_with_an_official_split(self, tmp_path):
        touch(tmp_path, "images/train/a.jpg", "masks/train/a.png", "images/val/b.jpg",
              "images/test/c.jpg")  # fmt: skip
        domain = open_domain(tmp_path, "source")
        assert parts(domain) == {
            "source/train/a": "train", "source/val/b": "val", "source/test/c": "test",
        }  # fmt: skip

    def test_camvid_as_segnet_has_it(self, tmp_path):
        frames = [f"0001TP_{i:06d}" for i in range(25)]
        touch(tmp_path, *(f"train/{f}.png" for f in frames), "val/0016E5_000001.png",
              *(f"trainannot/{f}.png" for f in frames), "valannot/0016E5_000001.png")  # fmt: skip
        domain = open_domain(tmp_path, "source")
        assert domain.layout == "camvid"
        assert domain.labels is CAMVID
        pairs, groups = facts(domain)
        assert len(pairs) == 26
        name = "0001TP_000003"
        assert pairs[f"source/train/{name}"] == (f"train/{name}.png", f"trainannot/{name}.png")
        assert parts(domain)["source/val/0016E5_000001"] == "val"
        blocks = [groups[f"source/train/{f}"] for f in frames]
        assert [len(set(blocks[i : i + 10])) for i in (0, 10, 20)] == [1, 1, 1]
        assert len(set(groups.values())) == 4  # 10 + 10 + 5 frames, and the one of val

    @pytest.mark.parametrize(
        ("kind", "suffix", "labels"),
        [("gtFine", "labelIds", CITYSCAPES), ("gtFine", "labelTrainIds", CITYSCAPES_TRAIN_IDS),
         ("gtCoarse", "labelIds", CITYSCAPES)],
    )  # fmt: skip
    def test_cityscapes_and_nighttime_driving(self, tmp_path, kind, suffix, labels):
        stem = "ulm_000001_000019"
        touch(tmp_path, f"leftImg8bit/train/ulm/{stem}_leftImg8bit.png",
              f"gt/train/ulm/{stem}_{kind}_{suffix}.png", f"gt/train/ulm/{stem}_{kind}_color.png",
              f"gt/train/ulm/{stem}_{kind}_instanceIds.png",
              "leftImg8bit/val/ulm/ulm_000002_000019_leftImg8bit.png")  # fmt: skip
        domain = open_domain(tmp_path, "source")
        assert domain.layout == "cityscapes"
        assert domain.labels is labels
        pairs, groups = facts(domain)
        assert pairs[f"source/train/ulm/{stem}"] == (
            f"leftImg8bit/train/ulm/{stem}_leftImg8bit.png",
            f"gt/train/ulm/{stem}_{kind}_{suffix}.png",
        )
        assert len(pairs) == 2
        assert groups[f"source/train/ulm/{stem}"] == "source/ulm_000001"
        assert parts(domain)["source/val/ulm/ulm_000002_000019"] == "val"

    def test_train_ids_win_over_ids(self, tmp_path):
        touch(tmp_path, "leftImg8bit/train/u/u_0_0_leftImg8bit.png",
              "gtFine/train/u/u_0_0_gtFine_labelIds.png",
              "gtFine/train/u/u_0_0_gtFine_labelTrainIds.png")  # fmt: skip
        domain = open_domain(tmp_path, "source")
        assert domain.labels is CITYSCAPES_TRAIN_IDS
        assert domain.samples[0].mask_path.stem.endswith("TrainIds")

    def test_fine_masks_win_over_coarse_ones_as_a_whole(self, tmp_path):
        touch(tmp_path, "leftImg8bit/train/u/u_0_0_leftImg8bit.png",
              "leftImg8bit/train/u/u_1_0_leftImg8bit.png",
              "gtCoarse/train/u/u_0_0_gtCoarse_labelIds.png",
              "gtCoarse/train/u/u_1_0_gtCoarse_labelIds.png",
              "gtFine/train/u/u_0_0_gtFine_labelIds.png")  # fmt: skip
        pairs, _ = facts(open_domain(tmp_path, "source"))
        assert [mask and mask.split("/")[0] for _, mask in pairs.values()] == ["gtFine", None]

    def test_a_root_that_is_itself_a_level_of_cityscapes(self, tmp_path):
        pairs, _ = facts(open_domain(touch(tmp_path, "train/u_0_0_leftImg8bit.png"), "target"))
        assert list(pairs) == ["target/u_0_0"]

    def test_an_official_split_is_found_one_folder_down(self, tmp_path):
        touch(tmp_path, "CamVid/train/a_1.png", "CamVid/trainannot/a_1.png", "CamVid/test/b_1.png")
        domain = open_domain(tmp_path, "target")
        assert parts(domain) == {
            "target/CamVid/train/a_1": "train", "target/CamVid/test/b_1": "test",
        }  # fmt: skip

    def test_groups_by_pattern(self, tmp_path):
        touch(tmp_path, "s1_a.png", "s1_b.png", "s2_a.png", "other.png")
        _, groups = facts(open_domain(tmp_path, "target", group_pattern=r"^(s\d)_"))
        assert groups["target/s1_a"] == groups["target/s1_b"] != groups["target/s2_a"]
        assert len(set(groups.values())) == 3


class TestRefusals:
    def test_a_mask_without_an_image(self, tmp_path):
        domain = open_domain(touch(tmp_path, "images/a.jpg", "masks/b.png"), "source")
        assert [(p.code, p.where) for p in domain.problems] == [
            ("MASK-UNPAIRED", str(tmp_path / "masks" / "b.png"))
        ]

    def test_two_files_for_one_place(self, tmp_path):
        touch(tmp_path, "images/a.png", "masks/a.png", "labels/a.png", "images/b.png", "b.png")
        problems = open_domain(tmp_path, "source").problems
        assert [p.code for p in problems] == ["STEM-TWICE", "STEM-TWICE"]

    def test_a_pattern_that_is_none(self, tmp_path):
        with pytest.raises(UsageError, match="GROUP-PATTERN"):
            open_domain(touch(tmp_path, "a.png"), "target", group_pattern="(")

    def test_no_folder_and_no_image(self, tmp_path):
        with pytest.raises(UsageError, match="FOLDER-MISSING"):
            open_domain(tmp_path / "none", "target")
        with pytest.raises(UsageError, match="IMAGES-MISSING"):
            open_domain(tmp_path, "target")


class TestLabelSets:
    def test_cityscapes_ids_are_the_published_table(self):
        stored = np.array([[7, 11, 23, 26, 33, 0, 9, 16, 255]])
        names = [CITYSCAPES.names[i] if i != 255 else None for i in CITYSCAPES.decode(stored)[0]]
        assert names == ["road", "building", "sky", "car", "bicycle", None, None, None, None]
        known = set(CITYSCAPES.id_of) | CITYSCAPES.ignored
        assert known == set(range(34))
        assert sorted(CITYSCAPES.id_of.values()) == list(range(19))

    def test_camvid_ignores_unlabelled(self):
        assert CAMVID.decode(np.arange(12)[None])[0].tolist() == [*range(11), 255]
        assert CAMVID.strangers([0, 11, 255]) == []
        assert CAMVID.strangers([3, 12, 40]) == [12, 40]

    def test_a_folder_s_masks_are_decoded_by_its_label_set(self):
        assert decode(np.array([[7, 0]]), CITYSCAPES).tolist() == [[0, 255]]

    def test_values_beyond_a_byte_are_no_class(self):
        mask = np.array([[7, 263, 519, -1, 40000]])
        assert CITYSCAPES.decode(mask)[0].tolist() == [0, 255, 255, 255, 255]

    def test_plain_ids(self):
        labels = plain_ids(("sky", "road"), ignored=[7])
        assert labels.decode(np.array([[0, 1, 7, 255]])).tolist() == [[0, 1, 255, 255]]
        assert labels.strangers([0, 2, 7]) == [2]
