"""Opening a folder: layouts, masks, groups, and all structural problems at once."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from fewmask.data.folder import open_folder, read_target
from fewmask.data.roles import is_negative
from fewmask.data.scan import scan_folder
from fewmask.errors import DataError, FewmaskError, SecurityError, UsageError


def codes(root, **options):
    with pytest.raises(FewmaskError) as caught:
        open_folder(root, **options)
    return {problem.code for problem in caught.value.problems}


def by_id(folder):
    return {sample.id: sample for sample in folder.samples}


def test_class_folders_give_ids_tags_masks_and_groups(good):
    folder = open_folder(good, class_name="landslide", group_pattern="^[a-z]+")
    assert folder.layout == "folders"
    assert folder.class_names == ("landslide",)
    assert folder.mask_encoding == "binary255"
    assert [sample.id for sample in folder.samples] == sorted(by_id(folder))
    positive, negative = by_id(folder)["positive/df0"], by_id(folder)["negative/hz0"]
    assert (positive.tags, positive.group) == (("landslide",), "df")
    assert positive.mask_path == good / "masks/df0.png"
    assert (negative.tags, negative.group, negative.mask_path) == ((), "hz", None)
    assert folder.tag_matrix().tolist() == [[False]] * 6 + [[True]] * 6


def test_targets_are_ids_and_the_unknown_stays_unknown(good, save):
    save("positive/bare.png")
    folder = open_folder(good)
    samples = by_id(folder)
    assert set(np.unique(read_target(samples["positive/df0"], folder))) == {0, 1}
    empty = read_target(samples["negative/hz0"], folder)
    assert (empty.shape, empty.max(), empty.dtype) == ((8, 6), 0, np.uint8)
    assert read_target(samples["positive/bare"], folder) is None
    assert samples["positive/bare"].group == "positive/bare"


def test_negatives_have_no_target_where_no_mask_exists(save, tmp_path):
    for name in ("positive/a.png", "negative/b.png"):
        save(name)
    folder = open_folder(tmp_path)
    assert folder.mask_encoding is None
    assert read_target(folder.samples[0], folder) is None


def test_an_untagged_image_without_mask_is_not_taken_for_a_negative(save, mask_of, tmp_path):
    save("images/a.png"), save("images/b.png"), save("masks/a.png", mask_of(0, 1))
    folder = open_folder(tmp_path, require_tags=False)
    assert (folder.layout, folder.class_names) == ("images", ("foreground",))
    assert read_target(by_id(folder)["images/b"], folder) is None


def test_a_mask_of_another_size_is_never_resized(good, save, mask_of):
    save("masks/df0.png", mask_of(0, 255)[:7])
    folder = open_folder(good)
    with pytest.raises(DataError, match=r"MASK-SIZE .*df0.png: found 7x6; expected 8x6"):
        read_target(by_id(folder)["positive/df0"], folder)


@pytest.mark.parametrize("name", ["negative", "Negatives", "BACKGROUND", "none", "no", "clean",
                                  "no_slide", "non_x", "Not_y", "non-slide", "No-slide",
                                  "not slide", "Non Slide", "Negativ", "neg", "ohne",
                                  "without slide"])  # fmt: skip
def test_folders_that_say_no_are_negatives(save, tmp_path, name):
    save("slide/a.png"), save(f"{name}/b.png")
    assert is_negative(name)
    assert open_folder(tmp_path).class_names == ("slide",)


def bijie(save, mask_of):
    """The published layout: layers inside each class, the same file names in all of them."""
    for number in range(3):
        for layer in ("image", "dem"):
            save(f"landslide/{layer}/df{number}.png")
            save(f"non-landslide/{layer}/df{number}.png")
        save(f"landslide/mask/df{number}.png", mask_of(0, 255))


def test_layers_inside_the_class_folders_are_images_masks_or_left_out(save, mask_of, tmp_path):
    bijie(save, mask_of)
    folder = open_folder(tmp_path)
    assert (folder.layout, folder.class_names) == ("folders", ("landslide",))
    assert {sample.id: sample.tags for sample in folder.samples} == {
        **{f"landslide/image/df{n}": ("landslide",) for n in range(3)},
        **{f"non-landslide/image/df{n}": () for n in range(3)},
    }
    samples = by_id(folder)
    assert samples["landslide/image/df1"].mask_path == tmp_path / "landslide/mask/df1.png"
    assert samples["non-landslide/image/df1"].mask_path is None
    assert read_target(samples["non-landslide/image/df1"], folder).max() == 0
    (note,) = (note for note in scan_folder(tmp_path).notes if note.code == "FOLDER-SKIPPED")
    assert "landslide/dem, non-landslide/dem" in note.found


def test_one_class_of_that_layout_is_images_with_masks(save, mask_of, tmp_path):
    bijie(save, mask_of)
    scan = scan_folder(tmp_path / "landslide", require_tags=False)
    assert [sample.id for sample in scan.folder.samples] == [f"image/df{n}" for n in range(3)]
    assert all(sample.mask_path for sample in scan.folder.samples)
    assert [note.found for note in scan.notes if note.code == "FOLDER-SKIPPED"] == [
        "1 folders that are not read: dem"
    ]


@pytest.mark.parametrize("name", ["mask", "Masks", "label", "labels", "gt", "Ground_Truth"])
def test_folders_of_masks_are_known_by_their_names(save, mask_of, tmp_path, name):
    for place in ("slide", "negative"):
        for number in range(2):
            save(f"{place}/{place}{number}.png")
    save(f"{name}/slide0.png", mask_of(0, 1))
    save(f"slide/{name}/slide1.png", mask_of(0, 1))
    folder = open_folder(tmp_path)
    assert folder.class_names == ("slide",)
    assert [s.id for s in folder.samples if s.mask_path] == ["slide/slide0", "slide/slide1"]
    assert len(folder.samples) == 4


def test_a_folder_beside_images_that_is_not_read_is_named(save, mask_of, tmp_path):
    save("images/a.png"), save("gt/a.png", mask_of(0, 1)), save("scribbles/a.png")
    scan = scan_folder(tmp_path, require_tags=False)
    assert [sample.mask_path for sample in scan.folder.samples] == [tmp_path / "gt/a.png"]
    assert [(n.code, n.where) for n in scan.notes if n.code.startswith("FOLDER")] == [
        ("FOLDER-SKIPPED", str(tmp_path / "scribbles"))
    ]


def test_two_masks_of_one_image_are_refused(save, mask_of, tmp_path):
    save("slide/a.png"), save("negative/b.png")
    save("masks/slide/a.png", mask_of(0, 1)), save("slide/gt/a.png", mask_of(0, 1))
    assert codes(tmp_path) == {"MASK-TWICE"}


def test_suffixes_count_in_any_case_and_hidden_or_foreign_files_do_not(good, save, mask_of):
    save("positive/x.png").rename(good / "positive/a.JPG")
    save("negative/x.tif").rename(good / "negative/b.TIF")
    save("masks/x.png", mask_of(0, 255)).rename(good / "masks/a.PNG")
    for name in ("positive/.DS_Store", "positive/._df0.png", "masks/._df0.png", ".DS_Store",
                 ".cache/x.png", "positive/Thumbs.db", "Thumbs.db"):  # fmt: skip
        (good / name).parent.mkdir(exist_ok=True)
        (good / name).write_bytes(b"no image")
    scan = scan_folder(good)
    samples = by_id(scan.folder)
    assert scan.problems == []
    assert len(samples) == 14
    assert samples["positive/a"].mask_path == good / "masks/a.PNG"
    assert samples["negative/b"].tags == ()
    skipped = [note.found for note in scan.notes if note.code == "FILE-SKIPPED"]
    assert all("Thumbs.db" in found and "DS_Store" not in found for found in skipped)
    assert len(skipped) == 1


def test_masks_may_be_sorted_by_class(save, mask_of, tmp_path):
    save("cat/a.png"), save("dog/a.png")
    save("masks/cat/a.png", mask_of(0, 1)), save("masks/dog/a.png", mask_of(0, 2))
    folder = open_folder(tmp_path)
    assert by_id(folder)["dog/a"].mask_path == tmp_path / "masks/dog/a.png"
    assert read_target(by_id(folder)["dog/a"], folder).max() == 2


@pytest.mark.parametrize(
    "table",
    [
        "file,tags\na.png,cat;dog\nb.png,\nc.png,dog\n",
        "\ufefffile;tags\r\na.png;cat|dog\r\nimages/b.png;\r\nc;dog\r\n",
        "Filename,tags\na.png,\"dog, cat\"\nb.png,\nc.png,dog\n",
        "image,cat,dog\na.png,1,1\nb.png,0,0\nc.png,0,1\n",
        "image\tcat\tdog\na.png\ttrue\tTRUE\nb.png\t0\t0\nc.png\t0\t1\n",
        "image,cat,dog\na.png,yes,Yes\nb.png,no,no\nc.png,NO,1\n",
    ],
)  # fmt: skip
def test_every_dialect_of_tags_csv_means_the_same(save, tmp_path, table):
    for name in "abc":
        save(f"images/{name}.png")
    (tmp_path / "tags.csv").write_text(table, encoding="utf-8", newline="")
    folder = open_folder(tmp_path)
    assert folder.layout == "tags.csv"
    assert folder.class_names == ("cat", "dog")
    assert folder.tag_matrix().tolist() == [[True, True], [False, False], [False, True]]


def test_the_group_column_wins_over_the_pattern(save, tmp_path):
    save("images/x1.png"), save("images/y2.png")
    (tmp_path / "tags.csv").write_text("file,tags,group\nx1.png,cat,p7\ny2.png,,\n")
    folder = open_folder(tmp_path, group_pattern="^([a-z])")
    assert [sample.group for sample in folder.samples] == ["p7", "y"]


def test_all_problems_of_a_table_come_at_once(save, tmp_path):
    for name in "abc":
        save(f"images/{name}.png")
    (tmp_path / "tags.csv").write_text(
        "file,tags,colour\na.png,cat,red\na.png,,red\nz.png,cat,red\nb.png,cat\n../x.png,cat,red\n"
    )
    assert codes(tmp_path) >= {
        "TAGS-COLUMN", "TAGS-TWICE", "TAGS-NO-FILE", "TAGS-FORMAT", "TAGS-NO-ROW", "PATH-OUTSIDE",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"name,tags\na.png,cat\n", "TAGS-COLUMN"),
        (b"file,cat\na.png,1\nb.png,2\n", "TAGS-VALUE"),
        (b"file,cat,colour\na.png,1,red\nb.png,0,red\n", "TAGS-COLUMN"),
        (b"file,tags\na.png,\nb.png,\n", "TAGS-EMPTY"),
        (b"file,tags\na.png,cat\nb.png,cat\n", "TAGS-ONE-KIND"),
        (b"file,tags\na.png,\xe9\nb.png,\n", "TAGS-ENCODING"),
        (b'file,tags\na.png,"cat\nb.png,\n', "TAGS-FORMAT"),
        (b"", "TAGS-COLUMN"),
    ],
)
def test_a_bad_table_is_named(save, tmp_path, content, code):
    save("images/a.png"), save("images/b.png")
    (tmp_path / "tags.csv").write_bytes(content)
    assert code in codes(tmp_path)


def test_missing_empty_and_one_sided_folders_are_refused(save, tmp_path):
    assert codes(tmp_path / "nowhere") == {"FOLDER-MISSING"}
    assert "FOLDER-EMPTY" in codes(tmp_path)
    save("positive/a.png"), save("positive/b.png")
    assert codes(tmp_path) == {"TAGS-ONE-KIND"}
    assert len(open_folder(tmp_path, require_tags=False).samples) == 2


def test_untagged_images_need_permission(save, tmp_path):
    save("a.png"), save("b.jpg")
    assert codes(tmp_path) == {"TAGS-MISSING"}
    folder = open_folder(tmp_path, require_tags=False)
    assert [sample.id for sample in folder.samples] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [("labels.csv", "rename it to tags.csv"), ("tags.xlsx", "export it to tags.csv")],
)
def test_a_table_of_another_name_is_named_where_tags_are_missing(save, tmp_path, name, advice):
    save("images/a.png")
    (tmp_path / name).write_bytes(b"file,tags\n")
    with pytest.raises(DataError, match=f"TAGS-MISSING .*if {name} holds the tags, {advice}"):
        open_folder(tmp_path)


def test_a_column_that_is_no_tag_is_never_to_be_thrown_away(save, tmp_path):
    save("images/a.png"), save("images/b.png")
    for table in ("file,cat\na.png,ja\nb.png,nein\n", "file,tags,x\na.png,cat,1\nb.png,,1\n"):
        (tmp_path / "tags.csv").write_text(table)
        with pytest.raises(DataError, match="TAGS-COLUMN") as caught:
            open_folder(tmp_path)
        assert "remove" not in str(caught.value)


def test_names_that_could_be_confused_are_refused(good, save):
    save("positive/df0.jpg"), save("positive/DF1.png"), save("stray.png")
    save("masks/nobody.png", np.zeros((8, 6)))
    assert codes(good) == {"STEM-TWICE", "STEM-CASE", "IMAGE-STRAY", "MASK-UNPAIRED"}


def test_one_mask_for_two_images_is_refused(good, save):
    save("negative/df0.png")
    assert codes(good) == {"MASK-SHARED"}


def test_composed_and_decomposed_letters_are_one_name(good, save, mask_of):
    save("positive/cafe\u0301.png"), save("masks/caf\u00e9.png", mask_of(0, 255))
    assert by_id(open_folder(good))["positive/caf\u00e9"].mask_path is not None


def test_links_out_of_the_folder_are_not_followed(good, save, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (6, 8)).save(outside / "x.png")
    (good / "positive/link.png").symlink_to(outside / "x.png")
    with pytest.raises(SecurityError, match="PATH-OUTSIDE"):
        open_folder(good)
    (good / "positive/link.png").unlink()
    (good / "other").symlink_to(outside)
    with pytest.raises(SecurityError, match="PATH-OUTSIDE"):
        open_folder(good)
    (good / "other").unlink()
    (good / "positive/broken.png").symlink_to(good / "nothing.png")
    assert codes(good) == {"PATH-BROKEN"}


def test_arguments_without_a_meaning_are_usage_errors(good, save):
    for options in (
        {"group_pattern": "("}, {"class_names": []}, {"class_names": ["a", "a"]},
        {"class_name": "a", "class_names": ["a"]}, {"class_name": ""},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            open_folder(good, **options)
    save("second/x.png")
    with pytest.raises(UsageError, match="CLASS-NAME"):
        open_folder(good, class_name="landslide")
    assert "CLASS-UNKNOWN" in codes(good, class_names=["positive"])


@pytest.mark.parametrize(
    ("values", "names", "encoding"),
    [
        ((0, 1), ("foreground",), "ids"),
        ((0, 255), ("foreground",), "binary255"),
        ((0, 1, 255), ("foreground",), "ids"),
        ((0, 1, 2, 3, 255), ("class_1", "class_2", "class_3"), "ids"),
    ],
)
def test_classes_are_concluded_from_ids(save, mask_of, tmp_path, values, names, encoding):
    save("images/a.png"), save("masks/a.png", mask_of(*values))
    folder = open_folder(tmp_path, require_tags=False)
    assert (folder.class_names, folder.mask_encoding) == (names, encoding)
    expected = {0, 1} if encoding == "binary255" else set(values)
    assert set(np.unique(read_target(folder.samples[0], folder))) == expected


@pytest.mark.parametrize(
    ("values", "names", "hint"),
    [
        ((0, 7), ["a"], "values 0, 7; 24 pixels .* row 0, column 1"),
        ((0, 128), ["a"], "store 1 for the object, or 255"),
        ((0, 38, 75, 113), ["a", "b", "c"], "palette image converted to grey"),
        ((0, 38, 75, 113), None, "palette image converted to grey"),
        (tuple(range(0, 240, 8)), ["a"], "many grey values"),
        ((0, 255), ["a", "b"], "MASK-AMBIGUOUS"),
    ],
)
def test_values_that_are_no_ids_are_refused_with_place_and_hint(
    save, mask_of, tmp_path, values, names, hint
):
    save("images/a.png"), save("masks/a.png", mask_of(*values))
    with pytest.raises(DataError, match=hint):
        open_folder(tmp_path, class_names=names, require_tags=False)


def test_opening_decodes_no_image_and_changes_nothing(good):
    (good / "positive/df0.png").write_bytes((good / "positive/df0.png").read_bytes()[:60])
    before = tree_hash(good)
    assert len(open_folder(good).samples) == 12
    assert tree_hash(good) == before


def tree_hash(root):
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(os.fsencode(path) + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()
