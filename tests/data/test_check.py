"""The check: every code is found in a folder that has exactly this fault, and only there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from fewmask.data.check import check_folder
from fewmask.data.folder import open_folder
from fewmask.errors import DataError
from fewmask.io.images import read_image


def problem_codes(root, **options):
    return {problem.code for problem in check_folder(root, **options).problems}


def note_codes(root, **options):
    report = check_folder(root, **options)
    assert not report.problems
    return {note.code for note in report.notes}


def tree_hash(root):
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(os.fsencode(path) + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


BYTES = os.fsdecode(b"p\xe9")
"""A name in another encoding than UTF-8, as old archives leave it behind."""


@pytest.mark.parametrize("name", [f"positive/{BYTES}.png", f"{BYTES}/a.png", f"masks/{BYTES}.png"])
def test_names_that_are_not_utf8_are_problems_that_can_be_printed(good, save, name):
    save(name)
    report = check_folder(good)
    assert [problem.code for problem in report.problems] == ["NAME-ENCODING"]
    assert "p\\xe9" in report.problems[0].where
    assert report.text().encode()
    with pytest.raises(DataError, match="NAME-ENCODING"):
        open_folder(good)


def test_a_folder_whose_own_name_is_not_utf8_is_a_problem(tmp_path):
    (tmp_path / BYTES / "positive").mkdir(parents=True)
    report = check_folder(tmp_path / BYTES / "positive")
    assert [problem.code for problem in report.problems] == ["NAME-ENCODING"]
    assert report.text().encode()


def test_names_of_what_is_not_read_may_be_anything(good):
    (good / "positive" / f"{BYTES}.txt").touch()
    (good / f"{BYTES}.txt").touch()
    (good / "positive" / f".{BYTES}.png").touch()
    report = check_folder(good)
    assert not report.problems
    assert report.text().encode()


def oriented(code):
    exif = Image.Exif()
    exif[274] = code
    return exif


def test_good_data_has_no_problem_and_is_counted(good):
    report = check_folder(good, group_pattern="[0-9]+")
    assert report.problems == ()
    assert [note.code for note in report.notes] == ["MASK-BINARY255"]
    assert report.counts == {
        "images": 12, "masks": 6, "tags": {"positive": 6}, "without_tag": 6, "groups": 6,
        "sizes": {"8x6": 12}, "formats": {"PNG": 12}, "modes": {"RGB": 12}, "mask_modes": {"L": 6},
    }  # fmt: skip
    pixels = read_image(good / "positive/df0.png")
    expected = hashlib.sha256(b"(8, 6, 3)" + pixels.tobytes()).hexdigest()
    assert report.digests["positive/df0"] == expected


def test_the_report_is_json_and_text(good):
    (good / "positive/df0.png").write_bytes(b"GIF89a..")
    report = check_folder(good)
    assert json.loads(json.dumps(report.as_dict()))["problems"][0]["code"] == "IMAGE-FORMAT"
    assert "IMAGE-FORMAT" in report.text()
    assert "No problems" not in report.text()


def test_text_shows_ten_problems_of_a_code_and_counts_the_rest(good):
    for path in [*good.glob("positive/*"), *good.glob("negative/*")]:
        path.write_bytes(b"")
    text = check_folder(good).text()
    assert text.count("IMAGE-EMPTY /") == 10
    assert "and 2 more IMAGE-EMPTY" in text


def truncated(root, save, mask_of):
    path = root / "positive/df0.png"
    path.write_bytes(path.read_bytes()[:-40])


def empty(root, save, mask_of):
    (root / "negative/hz0.png").write_bytes(b"")


def foreign(root, save, mask_of):
    (root / "negative/hz0.png").write_bytes(b"<svg></svg>")


def transparent(root, save, mask_of):
    save("negative/hz0.png", np.full((8, 6, 4), 100))


def floats(root, save, mask_of):
    tifffile.imwrite(root / "negative/new.tif", np.zeros((8, 6), np.float32))


def five_bands(root, save, mask_of):
    tifffile.imwrite(root / "negative/new.tif", np.zeros((8, 6, 5), np.uint8),
                     photometric="minisblack", planarconfig="contig")  # fmt: skip


def broken_mask(root, save, mask_of):
    (root / "masks/df0.png").write_bytes((root / "masks/df0.png").read_bytes()[:50])


def rgb_mask(root, save, mask_of):
    save("masks/df0.png")


def wrong_value(root, save, mask_of):
    save("masks/df0.png", mask_of(0, 7))


def wrong_size(root, save, mask_of):
    save("masks/df0.png", np.zeros((8, 5)))


def turned(root, save, mask_of):
    save("positive/df0.png", exif=oriented(6))


def unpaired(root, save, mask_of):
    save("masks/ghost.png", mask_of(0, 255))


def negative_with_object(root, save, mask_of):
    save("masks/hz0.png", mask_of(0, 255))


def copy(root, save, mask_of):
    save("positive/new.tif", read_image(root / "positive/df0.png"))


def conflict(root, save, mask_of):
    save("negative/new.tif", read_image(root / "positive/df0.png"))


def few(root, save, mask_of):
    for number in range(2):
        (root / f"negative/hz{number}.png").unlink()


def outside(root, save, mask_of):
    (root / "negative/link.png").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (truncated, "IMAGE-TRUNCATED"), (empty, "IMAGE-EMPTY"), (foreign, "IMAGE-FORMAT"),
        (transparent, "IMAGE-ALPHA"), (floats, "IMAGE-DTYPE"), (five_bands, "IMAGE-CHANNELS"),
        (broken_mask, "IMAGE-TRUNCATED"), (rgb_mask, "MASK-RGB"), (wrong_value, "MASK-VALUES"),
        (wrong_size, "MASK-SIZE"), (turned, "ORIENTATION"), (unpaired, "MASK-UNPAIRED"),
        (negative_with_object, "TAG-MASK"), (copy, "DUPLICATE"), (conflict, "DUPLICATE-CONFLICT"),
        (few, "TOO-FEW"), (outside, "PATH-OUTSIDE"),
    ],
)  # fmt: skip
def test_each_fault_is_found_alone_and_the_data_stay_as_they_are(good, save, mask_of, spoil, code):
    spoil(good, save, mask_of)
    before = tree_hash(good)
    assert problem_codes(good) == {code}
    assert tree_hash(good) == before


def test_0_and_255_with_several_classes_is_ambiguous(good, save):
    for number in range(5):
        save(f"second/x{number}.png")
    assert problem_codes(good) == {"MASK-AMBIGUOUS"}


def test_a_mask_that_shows_an_untagged_class_contradicts_the_tags(save, mask_of, tmp_path):
    for number in range(5):
        save(f"cat/a{number}.png"), save(f"dog/b{number}.png")
        save(f"masks/a{number}.png", mask_of(0, 1)), save(f"masks/b{number}.png", mask_of(0, 2))
    assert problem_codes(tmp_path) == set()
    save("masks/b0.png", mask_of(0, 1, 2))
    assert problem_codes(tmp_path) == {"TAG-MASK"}


def test_peculiarities_are_notes(good, save, mask_of):
    save("positive/df0.png", exif=oriented(3))
    Image.fromarray(np.arange(48, dtype=np.uint16).reshape(8, 6) * 999).save(
        good / "negative/n.png"
    )
    save("negative/alpha.png", np.dstack([np.eye(8, 6) * 9] * 3 + [np.full((8, 6), 255)]))
    save("negative/large.png", np.zeros((9, 6, 3)))
    save("masks/df1.png", np.zeros((8, 6)))
    (good / "masks/df2.png").unlink()
    palette = Image.fromarray(mask_of(0, 255))
    palette.putpalette([value for grey in range(256) for value in (grey, 0, 0)])
    palette.save(good / "masks/df3.png")
    (good / "positive/readme.txt").write_text("hello")
    (good / "positive/.hidden.png").write_text("hello")
    assert note_codes(good) == {
        "MASK-BINARY255", "EXIF-ORIENTATION", "SIXTEEN-BIT", "ALPHA-OPAQUE", "MIXED-SIZES",
        "MASK-EMPTY", "MASK-MISSING", "MASK-PALETTE", "FILE-SKIPPED",
    }  # fmt: skip


def test_255_alone_in_masks_of_tagged_images_is_refused_where_others_use_1(good, save, mask_of):
    save("masks/df0.png", mask_of(0, 1))
    (problem,) = check_folder(good).problems
    assert (problem.code, problem.where) == ("MASK-MIXED", str(good / "masks/df1.png"))
    assert problem.found.startswith("5 masks of tagged images")


def test_255_alone_in_masks_of_images_without_tag_is_noted_where_others_use_1(good, save, mask_of):
    for number in range(6):
        save(f"masks/df{number}.png", mask_of(0, 1))
    save("masks/hz0.png", mask_of(0, 255))
    assert note_codes(good) == {"MASK-MIXED"}


def two_classes(save, mask_of, root, first, second):
    """Five images of `roof`, whose masks show one id, five of `lake` that show another."""
    lines = ["file,tags"]
    for number in range(5):
        for name, value in (("roof", first), ("lake", second)):
            save(f"images/{name}{number}.png")
            save(f"masks/{name}{number}.png", mask_of(0, value))
            lines.append(f"{name}{number}.png,{name}")
        save(f"images/none{number}.png")
        lines.append(f"none{number}.png,")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")


def test_ids_of_several_classes_are_told_with_their_names(save, mask_of, tmp_path):
    two_classes(save, mask_of, tmp_path, 2, 1)
    report = check_folder(tmp_path)
    assert report.problems == ()
    assert report.counts["ids"] == {"1": "lake", "2": "roof"}
    assert "\nids: 1 lake, 2 roof\n" in report.text()


def test_masks_that_fit_another_order_of_the_names_are_one_problem_that_gives_it(
    save, mask_of, tmp_path
):
    two_classes(save, mask_of, tmp_path, 1, 2)
    (problem,) = check_folder(tmp_path).problems
    assert (problem.code, problem.found[:14]) == ("TAG-MASK", "10 of 10 masks")
    assert problem.fix == "--class-names roof lake (fits all masks)"
    assert check_folder(tmp_path, class_names=("roof", "lake")).problems == ()
    save("masks/roof0.png", mask_of(0, 2))
    save("masks/roof1.png", mask_of(0, 1))
    assert len(check_folder(tmp_path).problems) == 9
    assert not any("fits" in problem.fix for problem in check_folder(tmp_path).problems)


def test_tags_on_every_image_are_noted_and_keep_the_folder_from_fewmask_tags(save, tmp_path):
    for number in range(5):
        save(f"cat/a{number}.png"), save(f"dog/b{number}.png")
    assert note_codes(tmp_path) == {"NO-NEGATIVES"}
    assert check_folder(tmp_path).uses == ("predict",)
    (tmp_path / "dog").rename(tmp_path / "Ohne")
    assert note_codes(tmp_path) == set()
    assert check_folder(tmp_path).uses == ("tags", "predict")


@pytest.mark.parametrize(("reason", "folds"), [("images", 2), ("groups", 2), ("copies", 4)])
def test_what_cannot_be_cut_into_parts_is_for_prediction_only(good, save, reason, folds):
    options = {"group_pattern": "^[a-z]"} if reason == "groups" else {}
    for kind, name in (("positive", "df"), ("negative", "hz")) if reason != "groups" else ():
        for number in (2, 3, 4, 5):
            (good / f"{kind}/{name}{number}.png").unlink()
            (good / f"masks/df{number}.png").unlink(missing_ok=True)
            if reason == "copies":
                save(f"{kind}/{name}{number}.tif", Image.open(good / f"{kind}/{name}0.png"))
    report = check_folder(good, **options)
    (problem,) = (one for one in report.problems if one.where == "folds")
    assert problem.code == "TOO-FEW"
    assert problem.fix.startswith(f"--test-folds {folds} ")
    assert report.uses == ("predict",)


def test_16_bit_images_that_use_a_part_of_the_range_are_refused(good):
    for number in range(3):
        twelve = np.random.default_rng(number).integers(0, 2300, (8, 6, 3), np.uint16)
        tifffile.imwrite(good / f"negative/n{number}.tif", twelve, photometric="rgb")
    report = check_folder(good)
    (problem,) = report.problems
    assert problem.code == "IMAGE-DARK"
    assert "negative/n0" in problem.where
    assert "-scale 0 4095 0 255" in problem.fix
    assert "SIXTEEN-BIT" not in {note.code for note in report.notes}
    bright = np.full((8, 6, 3), 40_000, np.uint16)
    tifffile.imwrite(good / "negative/n3.tif", bright, photometric="rgb")
    assert "IMAGE-DARK" not in problem_codes(good)


def test_what_follows_from_a_layout_or_table_that_is_not_understood_is_not_told(
    save, mask_of, tmp_path
):
    two_classes(save, mask_of, tmp_path, 1, 2)
    (tmp_path / "tiles").mkdir()
    for name in ("images", "masks", "tags.csv"):
        (tmp_path / name).rename(tmp_path / "tiles" / name)
    (problem,) = check_folder(tmp_path).problems
    assert problem.code == "FOLDER-NESTED"
    assert problem.fix == f"give {tmp_path / 'tiles'}"
    table = tmp_path / "tiles/tags.csv"
    rows = table.read_text()
    for text, code in (
        (rows.replace("file,", "Datei,"), "TAGS-COLUMN"), (rows + "\xe9.png,x", "TAGS-ENCODING"),
        (rows.replace("roof0.png,roof", "roof0.png,ROOF"), "TAGS-VALUE"),
    ):  # fmt: skip
        table.write_bytes(text.encode("latin-1"))
        assert [problem.code for problem in check_folder(tmp_path / "tiles").problems] == [code]


def test_masks_with_one_ending_are_one_problem_that_names_it(good):
    for path in list((good / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    (problem,) = check_folder(good).problems
    assert problem.code == "MASK-UNPAIRED"
    assert problem.found.startswith("6 masks")
    assert problem.fix == "remove '_mask' from the masks' names"


def test_arrays_among_the_masks_are_named_as_masks_to_be_saved_otherwise(good):
    for path in list((good / "masks").iterdir()):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.eye(8))
    (note,) = check_folder(good).notes
    assert note.code == "FILE-SKIPPED"
    assert note.fix.startswith("save masks as 8-bit PNG")


def test_a_changed_copy_is_a_note_that_names_both_files(good, save):
    draw = np.random.default_rng(7)
    scene = np.kron(draw.integers(0, 256, (8, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    save("positive/scene.png", scene)
    save("negative/turned.jpg", np.rot90(scene), quality=70)
    save("positive/same.tif", scene)
    report = check_folder(good)
    assert [problem.code for problem in report.problems] == ["DUPLICATE"]
    (note,) = (note for note in report.notes if note.code == "DUPLICATE-NEAR")
    assert note.found.endswith("under different tags: negative/turned, positive/same")


def test_the_report_says_which_commands_can_use_the_folder(good, save, mask_of):
    def uses(code=None):
        report = check_folder(good).for_any_use()
        assert {problem.code for problem in report.problems} == ({code} if code else set())
        assert "The folder can be used for: " in report.text()
        assert report.as_dict()["uses"] == report.uses
        return report.uses

    assert uses() == ("tags", "train", "predict")
    shutil.copy(good / "positive/df0.png", good / "positive/again.png")
    assert uses("DUPLICATE") == ("tags", "train", "predict")
    (good / "positive/again.png").unlink()
    shutil.rmtree(good / "negative")
    assert uses("TAGS-ONE-KIND") == ("train", "predict")
    (good / "masks/df0.png").write_bytes(b"")
    assert check_folder(good).uses == ()
    shutil.rmtree(good / "masks")
    assert uses("TAGS-ONE-KIND") == ("predict",)
    (good / "positive").rename(good / "images")
    assert uses() == ("predict",)
    save("masks/df0.png", mask_of(0, 1))
    assert uses() == ("train", "predict")
    assert "TAGS-MISSING" in {note.code for note in check_folder(good).for_any_use().notes}


def test_structural_problems_do_not_hide_damaged_files(good):
    (good / "positive/df0.png").write_bytes(b"")
    (good / "positive/df1.jpg").write_bytes((good / "positive/df1.png").read_bytes())
    assert problem_codes(good) == {"IMAGE-EMPTY", "STEM-TWICE"}


def test_a_missing_folder_is_reported_not_raised(tmp_path):
    assert problem_codes(tmp_path / "nowhere") == {"FOLDER-MISSING"}


def test_the_check_does_not_import_torch():
    code = "import sys, fewmask.data.check, fewmask.data.splits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.realdata
def test_the_real_landslides_have_no_problem():
    if "FEWMASK_DATA" not in os.environ:
        pytest.skip("FEWMASK_DATA is not set")
    report = check_folder(f"{os.environ['FEWMASK_DATA']}/bijie_landslide", class_name="landslide")
    assert report.problems == ()
    assert report.counts["tags"] == {"landslide": report.counts["masks"]}
