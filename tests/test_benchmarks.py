"""What benchmarks write: every row keeps saying where it was measured."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def recording():
    spec = importlib.util.spec_from_file_location("recording", FOLDER / "recording.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_measured_elsewhere_keeps_its_commit_date_and_machine(recording, tmp_path):
    old = {"name": "a", "commit": "0ld", "date": "2020-01-01", "machine": "a large one"}
    new = {"name": "b", **recording.provenance()}
    path = recording.write_results(
        "x", "python x.py", [old, new], machine=recording.machine(), data="none", folder=tmp_path
    )
    record = json.loads(path.read_text())
    assert path == tmp_path / "results" / "x.json"
    assert record["rows"] == [old, new]
    for key in ("commit", "date", "machine"):
        assert {old[key], new[key]} == set(record[key].split("; "))


def test_rows_without_a_commit_are_of_the_commit_of_the_file(recording, tmp_path):
    path = recording.write_results(
        "x", "python x.py", [{"name": "a"}], machine="this", data="none", folder=tmp_path
    )
    record = json.loads(path.read_text())
    assert record["commit"] == recording.commit()
    assert record["machine"] == "this"


def test_a_table_goes_into_the_readme_of_its_folder_or_to_the_terminal(recording, tmp_path, capsys):
    tracked = (FOLDER / "README.md").read_bytes()
    recording.write_table("paper_steps", ["a"], [["1"]], tmp_path)
    assert capsys.readouterr().out == "| a |\n| --- |\n| 1 |\n"
    readme = tmp_path / "README.md"
    readme.write_text("x\n<!-- t: start -->\nold\n<!-- t: end -->\ny\n")
    recording.write_table("t", ["a"], [["1"]], tmp_path)
    expected = "x\n<!-- t: start -->\n| a |\n| --- |\n| 1 |\n<!-- t: end -->\ny\n"
    assert readme.read_text() == expected
    assert (FOLDER / "README.md").read_bytes() == tracked


@pytest.mark.parametrize("path", sorted((FOLDER / "results").glob("*.json")), ids=lambda p: p.stem)
def test_results_have_the_agreed_form(path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem
    assert {"command", "commit", "date", "machine", "data"} <= set(record)
    assert all(row["name"] and isinstance(row["metrics"], dict) for row in record["rows"])


@pytest.fixture
def adapt_camvid(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "recording", raising=False)
    spec = importlib.util.spec_from_file_location("adapt_camvid", FOLDER / "adapt_camvid.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_declared_night_is_the_declared_formula(adapt_camvid):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)
    dark = adapt_camvid.darkened(image, "0001TP_006690")
    noise = np.random.default_rng(crc32(b"0001TP_006690")).standard_normal((3, 4, 3))
    for y in range(3):
        for x in range(4):
            for c, gain in enumerate((0.85, 0.95, 1.15)):
                level = 0.3 * math.pow(int(image[y, x, c]) / 255, 1.8) * gain
                level = min(max(level + 0.02 * noise[y, x, c], 0.0), 1.0)
                assert dark[y, x, c] == round(255 * level)


def test_day_frames_are_the_source_and_dusk_frames_target_and_test_of_both_sets(
    adapt_camvid, tmp_path
):
    camvid, lines = tmp_path / "camvid", ["split,stem,sequence,light"]
    for split, sequence in (("train", "0006R0"), ("train", "0001TP"), ("val", "0016E5"),
                            ("test", "0001TP"), ("test", "Seq05VD")):  # fmt: skip
        stem = f"{sequence}_{split}"
        lines.append(f"{split},{stem},{sequence},x")
        for kind, suffix, value in (("images", "jpg", (9, 99, 199)), ("masks", "png", 3)):
            path = camvid / kind / split / f"{stem}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if kind == "images" else "L", (8, 6), value).save(path)
    lines.append("test,0001TP_missing,0001TP,x")
    (camvid / "sequences.csv").write_text("\n".join(lines))
    adapt_camvid.prepare(camvid, tmp_path / "out")
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    both = {
        f"{name}-{place}/{split}{annot}/0001TP_{split}."
        + ("png" if annot or name == "dark" else "jpg")
        for name in ("dusk", "dark")
        for place, split in (("target", "train"), ("test", "test"))
        for annot in ("", "annot")
    }
    day = {"source/train/0006R0_train.jpg", "source/trainannot/0006R0_train.png"}
    assert found == both | day


def test_no_two_rows_are_the_same_and_the_floor_is_plain(adapt_camvid):
    from fewmask.config import resolve
    from fewmask.pipelines.adapt_config import PRESETS, AdaptConfig

    resolved = {
        name: resolve(AdaptConfig, PRESETS, "best", overrides=adapt_camvid.settings_of(name))
        for name in adapt_camvid.ROWS
    }
    assert len({config.model_dump_json() for config in resolved.values()}) == len(resolved)
    floor = resolved["source only"]
    assert (floor.render_methods, floor.adapt_method, floor.segment_rare_classes) == (
        (), "none", False,
    )  # fmt: skip
    assert resolved["best"] == resolve(AdaptConfig, PRESETS, "best")
