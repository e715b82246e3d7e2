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
def benchmark(monkeypatch):
    """A benchmark's module by name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        for helper in ("recording", "units"):
            monkeypatch.delitem(sys.modules, helper, raising=False)
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # its dataclasses look themselves up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def adapt_camvid(benchmark):
    return benchmark("adapt_camvid")


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
    whole = {"controls_source_only": True, "controls_oracle": True}
    assert resolved["best"].replaced(**whole) == resolve(AdaptConfig, PRESETS, "best")
    assert resolved[adapt_camvid.ONE] == resolved["best"].replaced(**whole, adapt_networks=1)


def measured(module, row, seed, scores):
    """A unit's figures: mean IoU of the lines of its table by name."""
    lines = [
        {"name": name, "kind": "result" if name == "adapted" else
         "oracle" if "target masks" in name else "control", "masks_used": 0,
         "metrics": {"miou_foreground": score}}
        for name, score in scores.items()
    ]  # fmt: skip
    return {
        "set": "dusk", "row": row, "seed": seed, "settings": module.settings_of(row), "commit": "c",
        "date": "d", "machine": "m", "n": 31, "minutes": 1.0, "peak_gb": 1.0, "table": lines,
        "checks": {},
    }  # fmt: skip


def test_a_gap_of_adapt_is_that_of_the_same_seed_and_length(adapt_camvid, monkeypatch, tmp_path):
    """Long rows lie between the controls of the run with one network, short rows between others."""
    module, results = adapt_camvid, {}
    attempt = next(iter(module.ATTEMPTS))
    short = {"source only": {"source and target masks": 0.8, "adapted": 0.3},
             "+ self-training": {"adapted": 0.4}}  # fmt: skip
    one = {"source only": 0.4, "source and target masks": 0.6, "before self-training": 0.42,
           "adapted": 0.45}  # fmt: skip
    runs = [
        (module.BEST, 0, {"adapted": 0.5}),
        (module.BEST, 1, {"adapted": 0.7}),
        (module.ONE, 0, one),
        (module.ONE, 1, {**one, "source only": 0.5, "source and target masks": 1.0}),
        (attempt, 0, {"adapted": 0.35}),
        *((row, 0, scores) for row, scores in short.items()),
    ]
    for row, seed, scores in runs:
        path = tmp_path / "out/units" / f"{module.label_of(row, 'dusk', seed)}.json"
        module.keep(path, measured(module, row, seed, scores))
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(module, "write_table", lambda *_: None)
    monkeypatch.setattr(
        module, "write_results",
        lambda name, _, rows, **__: results.update({name: rows}) or tmp_path.parent / name,
    )  # fmt: skip
    monkeypatch.setattr(Path, "relative_to", lambda self, *_: self)
    module.aggregate(tmp_path / "out")
    rows = {row["name"].removesuffix(", dusk"): row for row in results["adapt_camvid"]}
    closed = {name: row["by_seed"].get("gap_closed") for name, row in rows.items()}
    assert closed[module.BEST] == pytest.approx([0.5, 0.4])
    assert closed[module.ONE] == pytest.approx([0.25, -0.1])
    assert closed["best: before self-training"] == pytest.approx([0.1, -0.16])
    assert closed[attempt] == pytest.approx([-0.25])
    assert closed["+ self-training"] == pytest.approx([0.2])
    assert closed["best: oracle"] == [1, 1]
    assert closed["oracle"] == [1]
    assert rows[module.BEST]["kind"] == "result"


def test_a_run_made_with_other_settings_is_not_taken_for_this_one(adapt_camvid, tmp_path):
    path = adapt_camvid.settings_file("dusk-best-seed0", {"adapt_networks": 1}, tmp_path)
    (tmp_path / "runs/dusk-best-seed0").mkdir(parents=True)
    assert adapt_camvid.settings_file("dusk-best-seed0", {"adapt_networks": 1}, tmp_path) == path
    with pytest.raises(SystemExit, match="other settings"):
        adapt_camvid.settings_file("dusk-best-seed0", {"adapt_networks": 3}, tmp_path)


def judged(name, unit, seed, few, full, rows):
    """A unit's figures; foreground scores of its rows by name."""
    rows = {"30 real only": few, "all real": full, **rows} if name == "real" else rows
    lines = [
        {"name": row, "masks_used": 30, "metrics": {"miou": 0.5, "miou_foreground": score}}
        for row, score in rows.items()
    ]
    return {
        "set": "acdc", "unit": name, "seed": seed, "settings": unit, "commit": "c", "date": "d",
        "machine": "m", "n": 9, "minutes": 1.0, "peak_gb": 1.0, "table": lines,
        "checks": {"test-G.miou.synthetic only": 0.7},
    }  # fmt: skip


def test_gap_of_the_factory_is_that_of_the_same_seed(benchmark, monkeypatch, tmp_path):
    """Two seeds with floors .5 and .6, ceilings .7 and .8; synthetic .55 and .75: .25 and .75."""
    module = benchmark("factory_acdc")
    units, results = module.units_of(module.SETS["acdc"]), {}
    for seed, few, full, synthetic in ((0, 0.5, 0.7, 0.55), (1, 0.6, 0.8, 0.75)):
        for name, rows in (("real", {}), ("inverted", {"synthetic only": synthetic})):
            record = judged(name, module.settings_of(units[name]), seed, few, full, rows)
            module.keep(tmp_path / "out/units" / f"acdc-{name}-seed{seed}.json", record)
    old = judged("real", {"route": "another"}, 2, 0.1, 0.9, {})
    module.keep(tmp_path / "out/units/acdc-real-seed2.json", old)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "write_table", lambda *_: None)
    monkeypatch.setattr(
        module, "write_results",
        lambda name, _, rows, **__: results.update({name: rows}) or tmp_path.parent / name,
    )  # fmt: skip
    monkeypatch.setattr(Path, "relative_to", lambda self, *_: self)
    module.aggregate("acdc", tmp_path / "out")
    rows = {row["name"]: row for row in results["factory_acdc"]}
    row = rows["synthetic only, 1500 pairs, 30 inverted"]
    assert row["by_seed"]["gap_closed"] == pytest.approx([0.25, 0.75])
    assert row["metrics"]["test_g_miou"] == 0.7
    assert rows["30 real only"]["seeds"] == [0, 1]
    assert rows["30 real only"]["metrics"]["gap_closed"] == 0


def test_units_of_the_factory_resolve_and_differ(benchmark):
    from fewmask.config import resolve
    from fewmask.pipelines.factory_config import (
        JUDGE_PRESETS,
        PRESETS,
        FactoryConfig,
        JudgeConfig,
        LabelConfig,
    )

    module = benchmark("factory_acdc")
    resolve(FactoryConfig, PRESETS, "fast", overrides=module.GENERATOR)
    for data in module.SETS.values():
        units = module.units_of(data)
        for unit in units.values():
            own = {**module.INTERPRETER, **unit.settings, "route": unit.route}
            resolve(LabelConfig, PRESETS, "fast", overrides=own)
            judge = {**module.SEGMENTER, "judge_rows": unit.rows, "sample_count": unit.pairs}
            resolve(JudgeConfig, JUDGE_PRESETS, "fast", overrides=judge)
        names = [
            module.row_name(f"{unit.labels} {row}", unit)
            for unit in units.values()
            for row in unit.rows
        ]
        assert len({*names}) == len(names)
        assert len({json.dumps(module.settings_of(unit)) for unit in units.values()}) == len(units)


def test_units_of_saliency_resolve_and_the_curve_has_the_map_that_validation_chose(benchmark):
    from fewmask.config import resolve
    from fewmask.pipelines.saliency_config import PRESETS, SaliencyConfig
    from fewmask.pipelines.saliency_maps import rows_of

    module = benchmark("saliency")
    scores = {"plain": 0.5, "deconv": 0.4, "guided": 0.7, "grad_cam": 0.6}
    checks = {f"saliency.rgb+{name}.val.iou": score for name, score in scores.items()}
    best = module.best_map({"settings": {"maps": module.MAPS}, "checks": checks})
    assert best == "guided"
    for name, chosen in module.SETS.items():
        for labels in chosen.labels:
            settings = module.settings_of(name, labels, best)
            config = resolve(SaliencyConfig, PRESETS, "fast", overrides=settings)
            rows = rows_of(config)
            assert config.masks == labels
            assert config.seeds == 5
            if labels < chosen.labels[0]:
                assert rows == ["rgb+guided", "rgb", "rgb+sobel"]
            elif name.removeprefix("horses, ") in module.ATTEMPTS:
                assert len(rows) == 2
                assert (rows[1], labels) == ("rgb", 20)
            elif name == "horses, from scratch":
                alone = {"plain", "deconv", "guided", "rgb"}
                each = {"rgb+plain", "rgb+deconv", "rgb+guided"}
                assert alone | each | {"rgb+random", "rgb+other", "rgb+sobel"} < set(rows)
            else:
                assert {"rgb", "rgb+random", "rgb+other", "rgb+sobel"} < set(rows)
                assert {f"rgb+{each}" for each in module.MAPS} < set(rows)


PARTS = ("train", "val", "test")


def test_no_image_of_saliency_is_in_two_parts(benchmark, tmp_path):
    from fewmask.data.folder import open_folder
    from fewmask.data.official_split import read_split

    module = benchmark("saliency")
    for kind in ("images", "masks"):
        (tmp_path / "data/weizmann_horses" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 16, 16, 3)).astype(np.uint8)
    for i, pixels in enumerate([*noise, *noise[:10, :, ::-1]]):  # ten of them once more, mirrored
        Image.fromarray(pixels).save(tmp_path / f"data/weizmann_horses/images/{i:03d}.png")
        Image.new("L", (16, 16)).save(tmp_path / f"data/weizmann_horses/masks/{i:03d}.png")
    folder, lines = module.prepare("horses", tmp_path / "data", tmp_path / "out")
    part_of = dict(line.split(",") for line in lines.read_text().splitlines()[1:])
    counts = [list(part_of.values()).count(part) for part in PARTS]
    assert counts == [80, 20, 100]
    assert set(part_of) == {f"images/{i:03d}" for i in range(200)}
    data = open_folder(folder, class_names=["object"], require_tags=False)
    assert {sample.id for sample in data.samples if sample.mask_path} == set(part_of)
    assert {part: len(getattr(read_split(lines, data.samples), part)) for part in PARTS} == dict(
        zip(PARTS, counts, strict=True)
    )


def test_rows_of_saliency_have_their_means_and_what_they_gained(benchmark):
    module = benchmark("saliency")
    checks = {
        "saliency.rgb+plain.collapsed": 1, "saliency.rgb+plain.test.iou": 0.6,
        "saliency.rgb+plain.test.iou.sd": 0.02, "saliency.rgb+plain.test.iou.learned": 0.7,
        "saliency.rgb+plain.gain": 0.1, "saliency.rgb+plain.gain.ci95": [0.05, 0.15],
        "saliency.rgb+plain.gain.p": 0.01, "saliency.rgb.collapsed": 0,
        "saliency.rgb.test.iou": 0.5,
    }  # fmt: skip
    unit = {"set": "horses", "labels": 40, "checks": checks,
            "settings": {"seeds": 5, "maps": ["plain"]}, "commit": "c", "date": "d",
            "machine": "m", "n": 100, "peak_gb": 1.0, "minutes": 2.0}  # fmt: skip
    first, second = module.rows_of_unit(unit)
    assert (first["name"], second["name"]) == ("horses rgb+plain 40", "horses rgb 40")
    assert first["metrics"] == {"iou.pooled.object": 0.6, "iou.learned": 0.7, "gain": 0.1,
                                "p_value": 0.01}  # fmt: skip
    assert first["sd"] == {"iou.pooled.object": 0.02}
    assert (first["collapsed"], first["gain_ci95"]) == (1, [0.05, 0.15])
    assert second["metrics"] == {"iou.pooled.object": 0.5}
    assert "+0.100 [+0.050, +0.150]" in module._cells(first)
    assert module._cells(second) == ["horses rgb 40", "", "", "0.500", "", "", "", "0"]
    assert first["label_cost"] == {"masks": 40, "masks_to_choose_the_map": 100}
    assert second["label_cost"] == {"masks": 40}
    largest = module.rows_of_unit({**unit, "labels": 80})[0]
    assert largest["label_cost"] == {"masks": 80}


def test_a_unit_of_saliency_is_current_while_its_settings_are(benchmark, tmp_path):
    module, path = benchmark("saliency"), tmp_path / "unit.json"
    for labels, settings, expected in (
        (80, module.settings_of("horses", 80, ""), True),
        (40, module.settings_of("horses", 40, "guided"), True),
        (40, {**module.settings_of("horses", 40, "guided"), "seeds": 1}, False),
        (41, module.settings_of("horses", 40, "guided"), False),
    ):
        path.write_text(json.dumps({"set": "horses", "labels": labels, "settings": settings}))
        assert module.is_current(path) == expected
