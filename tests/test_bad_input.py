"""Bad input of every kind: one clear message, the right exit code, and data left as it was."""

import errno
import json
import os
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fewmask.data.sample import make_sample
from fewmask.training import checkpoint

MESSAGE = re.compile(r"^[A-Z0-9-]+ .+: found .+; expected .+\. Fix: .+$", re.MULTILINE)


@pytest.fixture
def data(tmp_path):
    """Six positives with 0/1 masks and six negatives, 32 px."""
    draw = np.random.default_rng(0)
    root = tmp_path / "data"
    for name in ("positive", "negative", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(6):
        for kind in ("positive", "negative"):
            write(root / kind / f"{kind[0]}{number}.png", draw.integers(0, 256, (32, 32, 3)))
        write(root / "masks" / f"p{number}.png", np.eye(32))
    return root


@pytest.fixture
def tagged(tmp_path):
    """Twelve images with tags.csv: cat and dog in turns."""
    draw = np.random.default_rng(0)
    root = tmp_path / "tagged"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = ["file,tags"]
    for number in range(12):
        write(root / "images" / f"i{number}.png", draw.integers(0, 256, (32, 32, 3)))
        lines.append(f"i{number}.png,{('cat', 'dog', '')[number % 3]}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    return root


def write(path, pixels, **options):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def refused(result, exit_code, code, *parts):
    """The command ended as promised and said where, what, what instead and how to mend it."""
    assert result.code == exit_code, (result.code, result.err)
    assert "Traceback" not in result.err + result.out
    lines = [line for line in result.err.splitlines() if line.startswith(f"{code} ")]
    assert lines, result.err
    assert MESSAGE.match(lines[0]), lines[0]
    for part in parts:
        assert part in " ".join(lines), (part, lines)


def with_flags(tiny, *flags):
    """The tiny settings, except those that ``flags`` set."""
    own = {flag.split("=")[0] for flag in flags if isinstance(flag, str)}
    return [*(flag for flag in tiny if flag.split("=")[0] not in own), *flags]


# --- the data folder -------------------------------------------------------------------------


def only_positives(root):
    shutil.rmtree(root / "negative")


def palette_mask_out_of_range(root):
    image = Image.fromarray(np.full((32, 32), 7, np.uint8), mode="P")
    image.putpalette([0, 0, 0] * 256)
    image.save(root / "masks" / "p0.png")


def coloured_mask(root):
    write(root / "masks" / "p0.png", np.full((32, 32, 3), (255, 0, 0)))


def mask_of_another_size(root):
    write(root / "masks" / "p0.png", np.eye(31))


def mask_without_image(root):
    write(root / "masks" / "p99.png", np.eye(32))


def truncated_png(root):
    path = root / "positive" / "p0.png"
    path.write_bytes(path.read_bytes()[:-300])


def truncated_jpeg(root):
    path = root / "positive" / "p0.jpg"
    write(path, np.random.default_rng(1).integers(0, 256, (32, 32, 3)))
    (root / "positive" / "p0.png").unlink()
    path.write_bytes(path.read_bytes()[:-400])


def empty_file(root):
    (root / "positive" / "p0.png").write_bytes(b"")


def text_called_png(root):
    (root / "positive" / "p0.png").write_text("not an image\n")


def header_bomb(root):
    """A PNG of 100 bytes that says it is 60,000 x 60,000."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (root / "positive" / "p0.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def same_stem_twice(root):
    write(root / "positive" / "p0.jpg", np.zeros((32, 32, 3)))


def transparent_image(root):
    write(root / "positive" / "p0.png", np.full((32, 32, 4), 100))


def image_beside_the_class_folders(root):
    write(root / "stray.png", np.zeros((32, 32, 3)))


def parts_instead_of_classes(root):
    for kind in ("positive", "negative"):
        (root / "train" / kind).parent.mkdir(exist_ok=True)
        (root / kind).rename(root / "train" / kind)
    shutil.rmtree(root / "masks")
    (root / "val" / "positive").mkdir(parents=True)
    write(root / "val" / "positive" / "p9.png", np.eye(32))


def data_folder_one_level_down(root):
    (root / "tiles").mkdir()
    for name in ("positive", "negative", "masks"):
        (root / name).rename(root / "tiles" / name)


def one_mask_of_0_and_1_among_0_and_255(root):
    for number in range(1, 6):
        write(root / "masks" / f"p{number}.png", np.eye(32) * 255)


def link_that_leaves(root):
    outside = root.parent / "outside.png"
    write(outside, np.zeros((32, 32, 3)))
    (root / "positive" / "link.png").symlink_to(outside)


def link_to_nothing(root):
    (root / "positive" / "link.png").symlink_to(root / "positive" / "gone.png")


def mask_on_a_negative(root):
    write(root / "masks" / "n0.png", np.eye(32))


@pytest.mark.parametrize(
    ("damage", "exit_code", "code", "where"),
    [
        (shutil.rmtree, 10, "FOLDER-MISSING", "data"),
        (lambda root: (shutil.rmtree(root), root.mkdir()), 10, "FOLDER-EMPTY", "data"),
        (palette_mask_out_of_range, 10, "MASK-VALUES", "p0.png"),
        (coloured_mask, 10, "MASK-RGB", "p0.png"),
        (mask_of_another_size, 10, "MASK-SIZE", "31x31"),
        (mask_without_image, 10, "MASK-UNPAIRED", "p99"),
        (truncated_png, 10, "IMAGE-TRUNCATED", "p0.png"),
        (truncated_jpeg, 10, "IMAGE-TRUNCATED", "p0.jpg"),
        (empty_file, 10, "IMAGE-EMPTY", "p0.png"),
        (text_called_png, 10, "IMAGE-FORMAT", "p0.png"),
        (header_bomb, 10, "IMAGE-TOO-LARGE", "p0.png"),
        (same_stem_twice, 10, "STEM-TWICE", "p0.png"),
        (transparent_image, 10, "IMAGE-ALPHA", "p0.png"),
        (image_beside_the_class_folders, 10, "IMAGE-STRAY", "stray.png"),
        (parts_instead_of_classes, 10, "SPLIT-FOLDERS", "train, val"),
        (data_folder_one_level_down, 10, "FOLDER-NESTED", "tiles with negative"),
        (one_mask_of_0_and_1_among_0_and_255, 10, "MASK-MIXED", "5 masks of tagged images"),
        (link_that_leaves, 15, "PATH-OUTSIDE", "link.png"),
        (link_to_nothing, 10, "PATH-BROKEN", "link.png"),
        (mask_on_a_negative, 10, "TAG-MASK", "n0"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
@pytest.mark.parametrize("command", ["tags", "check"])
def test_bad_data_is_refused_before_training_and_left_as_it_was(
    fewmask, tiny, tree, data, tmp_path, command, damage, exit_code, code, where
):
    damage(data)
    before, out = tree(data), tmp_path / "out"
    if command == "tags":
        refused(fewmask("tags", data, "-o", out, *tiny), exit_code, code, where)
    else:
        result = fewmask("check", data, "--json")
        assert result.code == 10
        assert code in {problem["code"] for problem in result.json["problems"]}
        text = fewmask("check", data)
        assert text.code == 10
        assert re.search(rf"{code} .*{where}", text.out)
    assert tree(data) == before
    assert not out.exists()


def test_the_parts_of_a_split_are_told_without_what_follows_from_them(fewmask, data):
    parts_instead_of_classes(data)
    (data / "train" / "masks").mkdir()
    write(data / "train" / "masks" / "p0.png", np.eye(32))
    problems = fewmask("check", data, "--json").json["problems"]
    assert [problem["code"] for problem in problems] == ["SPLIT-FOLDERS"]


def test_check_offers_only_what_the_command_would_not_refuse(fewmask, tiny, data, tmp_path):
    (data / "negative").rename(data / "with pond")
    result = fewmask("check", data, "--json")
    assert "tags" not in result.json["uses"]
    flags = with_flags(tiny, "--stages", "prepare", "split", "translate")
    result = fewmask("tags", data, "-o", tmp_path / "out", "--dry-run", *flags)
    refused(result, 10, "NO-NEGATIVES", "without")


def test_positives_alone_are_refused(fewmask, tiny, data, tmp_path):
    only_positives(data)
    refused(fewmask("tags", data, "-o", tmp_path / "out", *tiny), 10, "TAGS-ONE-KIND", "positive")
    assert not (tmp_path / "out").exists()


def table_names_a_missing_file(root):
    with (root / "tags.csv").open("a") as stream:
        stream.write("gone.png,cat\n")


def table_without_header(root):
    lines = (root / "tags.csv").read_text().splitlines()
    (root / "tags.csv").write_text("\n".join(lines[1:]) + "\n")


def table_without_a_row(root):
    lines = (root / "tags.csv").read_text().splitlines()
    (root / "tags.csv").write_text("\n".join(lines[:-1]) + "\n")


def masks_of_0_and_255(root):
    for number in range(12):
        write(root / "masks" / f"i{number}.png", np.eye(32) * 255)


def table_in_latin_1(root):
    (root / "tags.csv").write_bytes("file,tags\ni0.png,Schnée\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("damage", "code", "where"),
    [
        (table_names_a_missing_file, "TAGS-NO-FILE", "gone.png"),
        (table_without_header, "TAGS-COLUMN", "tags.csv"),
        (table_without_a_row, "TAGS-NO-ROW", "i11"),
        (masks_of_0_and_255, "MASK-AMBIGUOUS", "masks"),
        (table_in_latin_1, "TAGS-ENCODING", "tags.csv"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
def test_bad_tables_of_tags_are_refused(fewmask, tiny, tree, tagged, tmp_path, damage, code, where):
    damage(tagged)
    before, out = tree(tagged), tmp_path / "out"
    refused(fewmask("tags", tagged, "-o", out, *tiny), 10, code, where)
    assert tree(tagged) == before
    assert not out.exists()


def test_all_problems_of_a_folder_are_told_at_once(fewmask, tiny, data, tmp_path):
    for damage in (truncated_png, image_beside_the_class_folders, mask_without_image):
        damage(data)
    result = fewmask("tags", data, "-o", tmp_path / "out", *tiny)
    for code in ("IMAGE-STRAY", "MASK-UNPAIRED", "IMAGE-TRUNCATED"):
        refused(result, 10, code)
    codes = {problem["code"] for problem in fewmask("check", data, "--json").json["problems"]}
    assert {"IMAGE-TRUNCATED", "IMAGE-STRAY", "MASK-UNPAIRED"} <= codes


def test_check_tells_of_one_sided_tags_and_names_the_command_that_can_use_the_rest(
    fewmask, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where no run is
    only_positives(data)
    result = fewmask("check", data)
    assert result.code == 10
    assert "TAGS-ONE-KIND" in result.out
    assert "can be used for: fewmask train, fewmask predict" in result.out
    (data / "positive").rename(data / "images")
    result = fewmask("check", data)
    assert result.code == 0
    assert "TAGS-MISSING" in result.out
    assert f"next: fewmask train {data} -o runs/first" in result.out
    shutil.rmtree(data / "masks")
    assert f"own RUN: fewmask predict RUN {data} -o new_masks" in fewmask("check", data).out


# --- settings and flags ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "exit_code", "code", "part"),
    [
        (["--segment-epochs=many"], 2, "USAGE", "many"),
        (["--segmnt-epochs=1"], 2, "USAGE", "--segment-epochs"),
        (["--cam-method=magic"], 2, "USAGE", "magic"),
        (["--preset=fats"], 2, "PRESET", "'fast'"),
        (["--stages", "sgement"], 2, "STAGE-UNKNOWN", "segment"),
        (["--stages", "segment", "nonsense"], 2, "STAGE-UNKNOWN", "found nonsense"),
        (["--fold=9"], 2, "FOLD", "0 to 4"),
        (["--image-size=8"], 2, "SETTING-VALUE", "image_size"),
        (["--folds=0"], 2, "SETTING-VALUE", "folds"),
        (["--segment-batch-size=0"], 2, "SETTING-VALUE", "segment_batch_size"),
        (["--segment-learning-rate=nan"], 2, "SETTING-VALUE", "segment_learning_rate"),
        (["--threads=-1"], 2, "SETTING-VALUE", "threads"),
        (["--val-fraction=0.9"], 2, "SETTING-VALUE", "val_fraction"),
        (["--class-names", "scar", "pond"], 10, "CLASS-UNKNOWN", "positive"),
        (["--group-pattern=("], 2, "GROUP-PATTERN", "("),
        (["--device=cuda:97"], 14, "DEVICE", "cuda:97"),
        (["--device=toaster"], 2, "DEVICE", "toaster"),
        (["--device=meta"], 2, "DEVICE", "cuda:N"),
        (["--config=gone.yaml"], 2, "CONFIG-FILE", "gone.yaml"),
        (["--split-file=gone.csv"], 10, "SPLIT-FILE", "gone.csv"),
        (["--folds=50"], 10, "TOO-FEW", "50"),
        (["--encoder=resnet1234"], 2, "ENCODER-NAME", "resnet1234"),
        (["--encoder-weights=gone.pth"], 2, "WEIGHTS-MISSING", "gone.pth"),
        (["--segment-architecture=vnet"], 2, "USAGE", "deeplabv3plus"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_settings_are_refused(
    fewmask, tiny, tree, data, tmp_path, flags, exit_code, code, part
):
    before = tree(data)
    result = fewmask("tags", data, "-o", tmp_path / "out", *with_flags(tiny, *flags))
    refused(result, exit_code, code, part)
    assert tree(data) == before
    assert not list(tmp_path.glob("out/*-classify")), "refused only after something was trained"


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("segment_epoch: 3\n", "SETTING-UNKNOWN", "did you mean 'segment_epochs'?"),
        ("segment_epochs: many\n", "SETTING-VALUE", "'many'"),
        ("- segment_epochs\n", "CONFIG-FILE", "list"),
        ("a: [1\n", "CONFIG-FILE", "settings.yaml"),
        ("a: !!python/object/apply:os.getcwd []\n", "CONFIG-FILE", "settings.yaml"),
    ],
)
def test_bad_settings_files_are_refused(fewmask, data, tmp_path, text, code, part):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    result = fewmask("tags", data, "-o", tmp_path / "out", "--preset=smoke", "--config", file)
    refused(result, 2, code, part)
    assert not (tmp_path / "out").exists()


def test_a_split_file_that_tears_a_group_apart_is_a_leak(fewmask, tiny, data, tmp_path):
    lines = ["id,part"]
    for number in range(6):
        part = "test" if number < 2 else "train"
        lines += [f"positive/p{number},{part}", f"negative/n{number},{part}"]
    split = tmp_path / "split.csv"
    split.write_text("\n".join(lines) + "\n")
    flags = ("--split-file", split, "--group-pattern", "^(p)")
    refused(fewmask("tags", data, "-o", tmp_path / "out", *tiny, *flags), 11, "LEAK", "group p")


def split_file_of(data, tmp_path, part_of):
    ids = [f"{kind}/{kind[0]}{n}" for kind in ("positive", "negative") for n in range(6)]
    lines = ["id,part", *(f"{name},{part_of(name)}" for name in ids)]
    (tmp_path / "split.csv").write_text("\n".join(lines) + "\n")
    return ("--split-file", tmp_path / "split.csv")


def test_a_split_file_with_folds_is_refused_before_a_run_is_made(fewmask, tiny, data, tmp_path):
    flags = split_file_of(data, tmp_path, lambda name: "test" if name[-1] in "01" else "train")
    result = fewmask("tags", data, "-o", tmp_path / "out", *tiny, *flags, "--folds=2")
    refused(result, 2, "SPLIT-FILE", "leave out --folds")
    for fold in (0, 3):
        result = fewmask("tags", data, "-o", tmp_path / "out", *tiny, *flags, f"--fold={fold}")
        refused(result, 2, "SPLIT-FILE", "--split-file with --fold:", f"fold {fold}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_split_file_that_leaves_a_part_empty_is_refused(fewmask, tiny, data, tmp_path, part):
    others = {"train": ("val", "test"), "test": ("val", "train")}[part]
    flags = split_file_of(data, tmp_path, lambda name: others[name[-1] > "1"])
    result = fewmask("tags", data, "-o", tmp_path / "out", *tiny, *flags)
    refused(result, 10, "SPLIT-FILE", f"no sample in {part}")
    assert not (tmp_path / "out").exists()


def test_a_split_file_that_names_an_image_twice_is_refused(fewmask, tiny, data, tmp_path):
    flags = split_file_of(data, tmp_path, lambda name: "test" if name[-1] in "01" else "train")
    with flags[1].open("a") as stream:
        stream.write("positive/p0,train\n")
    result = fewmask("tags", data, "-o", tmp_path / "out", *tiny, *flags)
    refused(result, 10, "SPLIT-FILE", "positive/p0")
    assert not (tmp_path / "out").exists()


# --- places ----------------------------------------------------------------------------------


def test_a_run_is_never_overwritten(fewmask, tiny, tree, tiny_run):
    before = tree(tiny_run.path)
    result = fewmask("tags", tiny_run.data, "-o", tiny_run.path, *tiny)
    refused(result, 2, "RUN-EXISTS", "a finished run", "fewmask report")
    assert tree(tiny_run.path) == before


def test_a_folder_that_is_not_empty_is_never_written_to(fewmask, tiny, data, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    refused(fewmask("tags", data, "-o", tmp_path / "full", *tiny), 2, "RUN-EXISTS", "another -o")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("below", ["run", "positive/deep/run", "."])
def test_nothing_is_written_into_the_data_folder(fewmask, tiny, tree, data, below):
    before = tree(data)
    refused(fewmask("tags", data, "-o", data / below, *tiny), 10, "DATA-READ-ONLY", "runs/NAME")
    assert tree(data) == before


def test_predictions_are_not_written_into_the_images(fewmask, tree, tiny_run, data):
    before = tree(data)
    result = fewmask("predict", tiny_run.path, data / "positive", "-o", data / "positive" / "new")
    refused(result, 10, "DATA-READ-ONLY", "new")
    assert tree(data) == before


def test_nothing_is_written_into_the_folder_of_a_single_image(fewmask, tree, tiny_run, data):
    before = tree(data)
    for out in (data / "positive" / "out", data / "positive" / "deep" / "out"):
        result = fewmask("predict", tiny_run.path, data / "positive" / "p0.png", "-o", out)
        refused(result, 10, "DATA-READ-ONLY", "out")
    assert tree(data) == before


def test_an_image_in_the_working_folder_can_be_predicted_beside_itself(
    fewmask, tiny_run, data, monkeypatch
):
    monkeypatch.chdir(data / "positive")
    assert fewmask("predict", tiny_run.path, "p0.png", "-o", "out").code == 0
    assert (data / "positive" / "out" / "masks" / "p0.png").is_file()


def test_nothing_is_written_into_the_data_that_a_run_has_learned_from(
    fewmask, tree, tiny_run, data, monkeypatch
):
    before, new = tree(tiny_run.data), tiny_run.data / "new"
    for images in (tiny_run.data / "positive", data, data / "positive" / "p0.png"):
        refused(fewmask("predict", tiny_run.path, images, "-o", new), 10, "DATA-READ-ONLY", "new")
    for root in (tiny_run.data, data):
        result = fewmask("evaluate", tiny_run.path, root, "--save-masks", new)
        refused(result, 10, "DATA-READ-ONLY", "--save-masks")
    monkeypatch.chdir(tiny_run.data)
    result = fewmask("predict", tiny_run.path, data / "positive" / "p0.png", "-o", "new")
    refused(result, 10, "DATA-READ-ONLY", "new")
    assert tree(tiny_run.data) == before


@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_folder_that_is_no_run_is_refused(fewmask, data, command):
    refused(fewmask(command, data), 2, "RUN-MISSING", "run.yaml")


@pytest.mark.parametrize("text", ["", "[]", "pipeline: nonsense\n", "pipeline: tags\n", "{"])
def test_a_damaged_run_record_is_refused(fewmask, tmp_path, data, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text(text)
    for arguments in (["resume"], ["predict", data, "-o", tmp_path / "out"], ["evaluate", data]):
        result = fewmask(arguments[0], tmp_path / "run", *arguments[1:])
        assert result.code == 2, result.err
        assert "Traceback" not in result.err
        assert MESSAGE.search(result.err)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"settings": 5}, "settings 5"),
        ({"data": None}, "data None"),
        ({"data": 3, "preset": []}, "preset [], data 3"),
        ({"settings": {"seed": "many"}}, "'many'"),
    ],
)
def test_a_run_record_that_holds_something_else_is_refused(fewmask, tmp_path, change, found):
    record = {"pipeline": "tags", "preset": "smoke", "data": "d", "device": "cpu", "settings": {}}
    (tmp_path / "run.yaml").write_text(json.dumps({**record, **change}))
    result = fewmask("resume", tmp_path)
    assert result.code == 2, result.err
    assert MESSAGE.search(result.err)
    assert found in result.err


def test_an_unfinished_run_neither_predicts_nor_measures(fewmask, tiny_run, data, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(tiny_run.path / "run.yaml", unfinished)
    for arguments in (
        ["predict", unfinished, data, "-o", tmp_path / "out"],
        ["evaluate", unfinished, data],
        ["report", unfinished],
    ):
        refused(fewmask(*arguments), 2, "RUN-UNFINISHED", "fewmask resume")


def test_predicting_without_images_is_refused(fewmask, tiny_run, tmp_path):
    (tmp_path / "none").mkdir()
    for path in (tmp_path / "none", tmp_path / "gone"):
        result = fewmask("predict", tiny_run.path, path, "-o", tmp_path / "out")
        refused(result, 2, "IMAGES-MISSING", path.name)


def test_predicting_names_unreadable_images_after_doing_the_others(
    fewmask, tree, tiny_run, data, tmp_path
):
    text_called_png(data)
    before, out = tree(data), tmp_path / "out"
    refused(fewmask("predict", tiny_run.path, data, "-o", out), 10, "IMAGE-FORMAT", "p0.png")
    assert len(list((out / "masks").rglob("*.png"))) == 11
    assert tree(data) == before
    one = fewmask("predict", tiny_run.path, data / "positive" / "p0.png", "-o", tmp_path / "one")
    refused(one, 10, "PREDICT-PARTIAL", "1 of 1 images that cannot be read; nothing was written")


def test_predicting_with_an_unreadable_image_says_how_many_masks_were_written(
    fewmask, tiny_run, data, tmp_path
):
    text_called_png(data)
    result = fewmask("predict", tiny_run.path, data, "-o", tmp_path / "out")
    refused(result, 10, "PREDICT-PARTIAL", "1 of 12 images", f"the 11 others are in {tmp_path}")


@pytest.mark.parametrize("images", ["positive", "positive/p0.png", "negative"])
def test_predictions_are_not_written_beside_the_class_folders_of_a_data_folder(
    fewmask, tree, tiny_run, data, images
):
    shutil.rmtree(data / "masks")
    before = tree(data)
    result = fewmask("predict", tiny_run.path, data / images, "-o", data / "out")
    refused(result, 10, "DATA-READ-ONLY", "out")
    assert tree(data) == before


def test_predictions_are_not_written_beside_images_with_tags_or_masks(
    fewmask, tree, tiny_run, tagged, data, monkeypatch
):
    shutil.rmtree(data / "negative")  # left: positive and masks
    before = tree(tagged), tree(data)
    for images, out in ((tagged / "images", tagged / "out"), (data / "positive", data / "out")):
        refused(fewmask("predict", tiny_run.path, images, "-o", out), 10, "DATA-READ-ONLY", "out")
    monkeypatch.chdir(tagged)
    refused(fewmask("predict", tiny_run.path, "images", "-o", "out"), 10, "DATA-READ-ONLY", "out")
    assert (tree(tagged), tree(data)) == before


def test_predictions_may_stand_beside_images_that_are_no_data_folder(
    fewmask, tiny_run, data, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(data / "positive", "images")
    for out in ("masks", "again"):  # what an earlier prediction left is no mask of an image
        assert fewmask("predict", tiny_run.path, "images", "-o", out).code == 0


# --- leaks -----------------------------------------------------------------------------------


def learned_images(run):
    parts = json.loads((run.path / "2-split" / "split.json").read_text())
    return parts["train"] + parts["val"]


@pytest.mark.parametrize("again", ["copied", "re-encoded and renamed"])
def test_measuring_on_training_images_is_refused_and_names_five_and_their_number(
    fewmask, tree, tiny_run, tmp_path, again
):
    other = tmp_path / "other"
    learned = [name for name in learned_images(tiny_run) if name.startswith("positive/")]
    assert learned
    for number, name in enumerate(learned):
        source = tiny_run.data / f"{name}.png"
        new = source.name if again == "copied" else f"new{number}.png"
        for folder, original in (
            ("images", source),
            ("masks", tiny_run.data / "masks" / source.name),
        ):
            (other / folder).mkdir(parents=True, exist_ok=True)
            if again == "copied":
                shutil.copy(original, other / folder / new)
            else:
                Image.open(original).save(other / folder / new, compress_level=1)
    before = tree(other)
    result = fewmask("evaluate", tiny_run.path, other)
    refused(result, 11, "LEAK", "evaluate on other images")
    assert len(MESSAGE.findall(result.err)) == 1
    assert f"found {len(learned)} images that the run has learned from: images/" in result.err
    assert result.err.count("(an image of the run's ") == 5
    assert f" and {len(learned) - 5} more; expected" in result.err
    assert tree(other) == before


CHANGES = {
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "compressed": lambda image: image,
    "enlarged": lambda image: image.resize((96, 96), Image.Resampling.BICUBIC),
}


@pytest.mark.parametrize("change", CHANGES)
def test_measuring_on_changed_copies_of_training_images_is_refused(
    fewmask, smoke_run, tmp_path, change
):
    name = next(name for name in learned_images(smoke_run) if name.startswith("positive/"))
    source = smoke_run.data / f"{name}.png"
    other, suffix = tmp_path / "other", "jpg" if change == "compressed" else "png"
    for folder, original in (("images", source), ("masks", smoke_run.data / "masks" / source.name)):
        (other / folder).mkdir(parents=True)
        kind = suffix if folder == "images" else "png"
        CHANGES[change](Image.open(original)).save(other / folder / f"new.{kind}", quality=80)
    for mask in (other / "masks").iterdir():
        write(mask, np.zeros(Image.open(mask).size[::-1]))
    result = fewmask("evaluate", smoke_run.path, other)
    refused(result, 11, "LEAK", "images/new", f"a copy of {name}")


def test_changed_copies_stay_on_one_side_of_the_split(fewmask, tmp_path):
    data = make_sample(tmp_path / "data", seed=3, images_per_class=8, image_size=64)
    for path in sorted(data.glob("*tive/*.png")):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(
            path.with_name(f"{path.stem}-turned.jpg"), quality=85
        )
    flags = ("--preset=smoke", "--threads=1", "--image-size=32", "--segment-epochs=1")
    result = fewmask("train", data, "-o", tmp_path / "run", *flags)
    assert result.code == 0, result.err
    parts = json.loads((tmp_path / "run" / "2-split" / "split.json").read_text())
    part_of = {name: part for part, names in parts.items() for name in names}
    assert len(part_of) == 32
    assert all(part_of[name.removesuffix("-turned")] == part for name, part in part_of.items())


def test_an_official_split_with_changed_copies_on_both_sides_is_refused(fewmask, tmp_path):
    data = make_sample(tmp_path / "data", seed=3, images_per_class=8, image_size=64)
    path = sorted(data.glob("positive/*.png"))[0]
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(data / "positive" / "turned.png")
    names = [p.relative_to(data).with_suffix("").as_posix() for p in data.glob("*tive/*.png")]
    lines = [f"{n},{'test' if n == 'positive/turned' else 'train'}" for n in names]
    (tmp_path / "split.csv").write_text("\n".join(["id,part", *lines]) + "\n")
    flags = ("--preset=smoke", "--threads=1", "--image-size=32", "--segment-epochs=1")
    split = ("--split-file", tmp_path / "split.csv")
    result = fewmask("train", data, "-o", tmp_path / "run", *flags, *split)
    refused(result, 11, "LEAK", f"positive/{path.stem} in train and positive/turned in test")
    assert not list((tmp_path / "run").glob("*-segment*"))


def test_measuring_on_classes_that_the_run_does_not_know_names_those_that_it_knows(
    fewmask, tiny_run, tagged
):
    result = fewmask("evaluate", tiny_run.path, tagged)
    assert result.code == 10, result.err
    assert "the run knows positive" in result.err
    assert "class_names" not in result.err


def test_measuring_without_masks_is_refused(fewmask, tiny_run, data):
    shutil.rmtree(data / "masks")
    refused(fewmask("evaluate", tiny_run.path, data), 10, "NO-MASKS", "masks/")


def test_training_on_masks_without_masks_is_refused(fewmask, data, tmp_path):
    shutil.rmtree(data / "masks")
    result = fewmask("train", data, "-o", tmp_path / "out", "--preset=smoke", "--threads=1")
    refused(result, 10, "NO-MASKS", "masks/")


# --- weights ---------------------------------------------------------------------------------


def test_damaged_weights_are_refused(fewmask, tiny_run, data, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(tiny_run.path, copy)
    path = copy / "weights" / "segmenter.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    result = fewmask("predict", copy, data, "-o", tmp_path / "out")
    refused(result, 12, "WEIGHTS-DAMAGED", "segmenter.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_weights_that_were_cut_off_are_refused(fewmask, tiny_run, data, tmp_path, keep):
    copy = tmp_path / "run"
    shutil.copytree(tiny_run.path, copy)
    path = copy / "weights" / "segmenter.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    result = fewmask("predict", copy, data, "-o", tmp_path / "out")
    assert result.code == 12, result.err
    assert MESSAGE.search(result.err)


class Canary:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_weights_with_code_are_refused_and_the_code_does_not_run(fewmask, tiny, data, tmp_path):
    import pickle

    import torch

    canary = tmp_path / "canary"
    torch.save({"weight": Canary(canary)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Canary(canary)))
    for number, name in enumerate(("zip.pth", "plain.pth")):
        flags = ("--encoder-weights", tmp_path / name)
        result = fewmask("tags", data, "-o", tmp_path / f"out{number}", *tiny, *flags)
        refused(result, 12, "WEIGHTS-DAMAGED", name)
        assert not canary.exists()


# --- the machine -----------------------------------------------------------------------------


def test_a_full_disk_is_told_when_the_run_is_made(fewmask, tiny, tree, data, tmp_path, monkeypatch):
    before = tree(data)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "replace", full)
    monkeypatch.setattr(checkpoint.Path, "replace", full)
    monkeypatch.setattr(checkpoint.Path, "rename", full)
    result = fewmask("tags", data, "-o", tmp_path / "out", *tiny)
    assert result.code == 14, result.err
    assert "No space left" in result.err
    assert MESSAGE.search(result.err)
    assert tree(data) == before


def test_a_full_disk_in_a_stage_is_told(fewmask, tiny, data, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    result = fewmask("tags", data, "-o", tmp_path / "out", *tiny)
    refused(result, 14, "RESOURCES", "No space left")
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert status["state"] == "failed"


def test_a_training_that_explodes_is_told(fewmask, tiny, data, tmp_path):
    flags = with_flags(tiny, "--translate-learning-rate=1e30", "--translate-steps=6")
    result = fewmask("tags", data, "-o", tmp_path / "out", *flags)
    assert result.code == 13, result.err
    assert MESSAGE.search(result.err)


def test_problems_are_json_on_request(fewmask, tmp_path):
    for arguments in (["check", tmp_path / "gone"], ["evaluate", tmp_path, tmp_path]):
        result = fewmask(*arguments, "--json")
        problem = result.json["problems"][0]
        assert set(problem) == {"code", "where", "found", "expected", "fix"}
        assert all(problem.values())
