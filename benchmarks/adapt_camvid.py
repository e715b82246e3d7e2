"""`fewmask adapt` on CamVid, day to dusk and day to a declared synthetic night.

Units of (set, row, seed); a unit is one call of the real command line, which takes over the stages
that an earlier unit of the set and seed has made in the same way (``--reuse``). One that is
finished in ``OUT/units`` is skipped, a stopped one goes on where it was. Without ``--row``, so are
those whose figures are committed under ``results/adapt_camvid/``; a row that is asked for is
measured anew.

    python benchmarks/adapt_camvid.py --data CAMVID                     # all that is missing: hours
    python benchmarks/adapt_camvid.py --data CAMVID --row best --seed 0
    python benchmarks/adapt_camvid.py --aggregate                       # results and table only

Source: the day sequences of train, with masks. Target: the train frames of the dusk sequence
(0001TP), without. Test: its test frames. ``dark`` is the same with every dusk frame darkened
(:func:`darkened`); no method knows how.

``best`` is the preset as it is, but for its controls: the same with the labels of one network
trains them, in rows ``source only`` and ``oracle`` of the same network, loss, augmentation and
number of steps, as labels do not enter these. On dusk, attempts of the same length stand beside it,
measured by the same two rows. The other rows, shorter to keep two dozen of them payable, are the
published steps, cheap translations, and variants of ours; they have a ``source only`` and an
``oracle`` of their own length. ``gap_closed`` is (row - source only) / (oracle - source only) of
the same seed and length, in mean IoU.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from fewmask.pipelines.adapt_config import OURS, PRESETS
from recording import HERE, commit, machine, write_results, write_table
from units import call, keep, label_of, settings_file, threads_of

COMMAND = ("adapt", "--preset", "best", "-o")
SEEDS = (0, 1, 2)
SETS = ("dusk", "dark")
STEPS = 100
"""Before self-training, and again in it; rows without self-training take both at once."""

BEST = "best"
ONE = "best, labels of one network"
NO_CONTROLS = {"controls_source_only": False, "controls_oracle": False}
COMMON: dict[str, Any] = {
    "image_size": 192,
    "image_width": 256,
    "segment_batch_size": 4,
    "segment_min_steps": STEPS,
    "adapt_steps": STEPS,
    "render_methods": [],
    "render_copies": 1,
    "segment_rare_classes": False,
    "adapt_method": "none",
    "adapt_loss": "ce",
    "adapt_target_share": 0.21,
    "adapt_keep": 1.0,
    "adapt_networks": 1,
    "adapt_sizes": [1.0],
    "adapt_walk": False,
    **NO_CONTROLS,
}
"""All rows but ``best`` learn from masks as ``best`` does (cross-entropy and Dice, the same rates);
the rest is as published."""
BY_LITE0 = "(by EfficientNet-Lite0)"
"""Published: VGG16 for the perceptual loss, InceptionV3 for the distance; neither is offline."""
UNIT = {
    "render_methods": ["unit"],
    "translate_width": 24,
    "translate_blocks": 2,
    "translate_crop_px": [128],
    "translate_scales": 2,
    "translate_discriminator_width": 24,
    "translate_steps": 2000,
    "translate_learning_rate": 3e-4,
    "translate_perceptual_network": "tf_efficientnet_lite0",
    "translate_perceptual_weights": "packaged",
}
"""UNIT small enough for two cores, and taught faster, as it is taught so briefly: at the published
1e-4 its images are still grey and blurred. The published sizes are preset paper's."""
PLAIN_UNIT = {**UNIT, "translate_lambda_perceptual": 0.0}
WHOLE = {"segment_min_steps": 2 * STEPS}
"""For rows without self-training."""
ROUNDS = {
    "adapt_method": "rounds", "adapt_keep": 1.0, "adapt_stop_if_worse": False,
    "adapt_target_statistics": False, "choose_share": 0.1,
}  # fmt: skip
"""Published self-training: every pixel a label, no criterion; 0.1 chooses 30 of the 62 frames."""
COMBINED = {"adapt_loss": "combined"}
TWO = {"adapt_rounds": 2, "adapt_steps": STEPS // 2}
CHEAP = ["histogram", "lab", "fourier", "gamma"]
TEACHER = {
    "adapt_method": "teacher", "adapt_learning_rate": 5e-4, "adapt_sizes": [1.0],
    "adapt_walk": False, "adapt_keep": 0.7, "adapt_unsure_weight": 0.6,
}  # fmt: skip

ATTEMPTS: dict[str, dict[str, Any]] = {
    "one network, the surest half alone": {"adapt_keep": 0.5, "adapt_walk": False},
    "one network, two rounds": {"adapt_rounds": 2, "adapt_steps": 200},
    "one network, labels that know the place": {"adapt_place_prior": 0.5},
}
"""On dusk, as long as ``best`` and otherwise as it is with the labels of one network."""
LONG: dict[str, dict[str, Any]] = {BEST: NO_CONTROLS, ONE: {"adapt_networks": 1},
        **{row: {"adapt_networks": 1, **NO_CONTROLS} for row in ATTEMPTS}}  # fmt: skip
"""Rows that begin with preset best, and what they change of it all."""

ROWS: dict[str, dict[str, Any]] = {
    "source only": {**WHOLE, "controls_oracle": True},
    "source only, drawn by rare classes": {**WHOLE, "segment_rare_classes": True},
    "+ self-training": ROUNDS,
    "+ translated, UNIT without perceptual loss": {**PLAIN_UNIT, **WHOLE},
    f"+ translated, UNIT with perceptual loss {BY_LITE0}": {**UNIT, **WHOLE},
    "UNIT, then on translated images alone": {**UNIT, "segment_translated_steps": STEPS},
    "UNIT, self-training on all": {**UNIT, **ROUNDS},
    "UNIT, histogram choice": {**UNIT, **ROUNDS, "choose_method": "histogram"},
    "UNIT, histogram choice, combined loss": {
        **UNIT, **ROUNDS, **COMBINED, "choose_method": "histogram",
    },
    f"UNIT, distance choice {BY_LITE0}": {**UNIT, **ROUNDS, "choose_method": "distance"},
    f"UNIT, distance choice {BY_LITE0}, combined loss": {
        **UNIT, **ROUNDS, **COMBINED, "choose_method": "distance",
    },
    f"UNIT, distance choice {BY_LITE0}, combined loss, two rounds": {
        **UNIT, **ROUNDS, **COMBINED, **TWO, "choose_method": "distance",
    },
    **{f"translated, {method}": {**WHOLE, "render_methods": [method]} for method in CHEAP},
    "translated, all cheap ones": {**WHOLE, "render_methods": CHEAP, "render_copies": 4},
    "ours": OURS,
    "ours, plain source": {**OURS, "render_methods": [], "render_copies": 1},
    "ours, every pixel a label": {**OURS, "adapt_keep": 1.0, "adapt_walk": False},
    "ours, a mean teacher with ClassMix instead": {**OURS, **TEACHER},
    BEST: {},
    ONE: {},
    **ATTEMPTS,
}  # fmt: skip
METRICS = ("miou_foreground", "fwiou", "pixel_accuracy", "class_accuracy")
SHORT = {"miou_foreground": "miou"}


ORDER = sorted(ROWS, key=lambda row: row not in LONG)
"""In which they are measured: what is longest first."""


def darkened(image: np.ndarray, stem: str) -> np.ndarray:
    """The declared synthetic night: round(255 clip(0.3 (x / 255)^1.8 (0.85, 0.95, 1.15) + 0.02 n)).

    Args:
        image: (H, W, 3) uint8.
        stem: Of the file; its CRC-32 seeds the noise n, standard normal.
    """
    noise = np.random.default_rng(crc32(stem.encode())).standard_normal(image.shape)
    dark = 0.3 * (image / 255) ** 1.8 * np.array([0.85, 0.95, 1.15]) + 0.02 * noise
    return np.round(255 * np.clip(dark, 0, 1)).astype(np.uint8)


def prepare(camvid: Path, out: Path) -> None:
    """Folders of both sets in CamVid's own layout: source, and target and test of each."""
    if out.exists():
        return
    making = Path(mkdtemp(prefix=f".making-{out.name}-", dir=out.parent))
    for line in csv.DictReader((camvid / "sequences.csv").open()):
        split, stem, dusk = line["split"], line["stem"], line["sequence"] == "0001TP"
        image = camvid / "images" / split / f"{stem}.jpg"
        mask = camvid / "masks" / split / f"{stem}.png"
        places = [f"{name}-{'target' if split == 'train' else 'test'}" for name in SETS]
        if not image.exists() or split == "val" or (split == "test" and not dusk):
            continue
        for place in places if dusk else ["source"]:
            for folder in (split, f"{split}annot"):
                (making / place / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(mask, making / place / f"{split}annot")
            if place.startswith("dark"):
                pixels = darkened(np.asarray(Image.open(image).convert("RGB")), stem)
                Image.fromarray(pixels).save(making / place / split / f"{stem}.png")
            else:
                shutil.copy(image, making / place / split)
    try:
        making.rename(out)
    except OSError:
        shutil.rmtree(making)
        if not out.exists():  # otherwise another process was faster, with the same
            raise


KEPT = HERE / "results" / "adapt_camvid"
"""Figures of the units that are committed: measured over several days, a few at a time."""


def is_current(unit: Path) -> bool:
    """Whether a unit was measured with the settings that its row has now."""
    record = json.loads(unit.read_text())
    return record["row"] in ROWS and record["settings"] == settings_of(record["row"])


def settings_of(name: str) -> dict[str, Any]:
    """What a row changes of preset best, but for UNIT's file; of long rows all settings of that."""
    begin: dict[str, Any] = {**PRESETS[BEST], **LONG[name]} if name in LONG else COMMON
    return dict(json.loads(json.dumps({**begin, **ROWS[name]})))


def lender_of(name: str, which: str, seed: int, out: Path) -> Path | None:
    """A run of the same set, seed and commit whose first stages are the same, or some of them."""

    def first(row: str) -> dict[str, Any]:
        prefixes = ("segment_", "render_", "translate_")
        return {key: v for key, v in settings_of(row).items() if key.startswith(prefixes)}

    runs = {row: out / "runs" / label_of(row, which, seed) for row in ROWS if row != name}
    units = {row: out / "units" / f"{run.name}.json" for row, run in runs.items()}
    finished = [
        row
        for row, unit in units.items()
        if unit.exists() and json.loads(unit.read_text())["commit"] == commit()
    ]
    alike = sorted(finished, key=lambda row: (first(row) != first(name), row in LONG))
    return runs[alike[0]] if alike else None


def run_unit(name: str, which: str, seed: int, out: Path, threads: int) -> None:
    """Run the command of one unit, or go on with it, and keep its table."""
    label = label_of(name, which, seed)
    unit, run = out / "units" / f"{label}.json", out / "runs" / label
    if unit.exists() and is_current(unit):
        return
    settings = settings_of(name)
    if "unit" in settings.get("render_methods", ()):
        plain = "translate_lambda_perceptual" in settings
        trained = unit_weights(which, plain, out, threads)
        settings["translate_weights"] = str(trained)
    config = settings_file(label, settings, out)
    measured, lender = commit(), lender_of(name, which, seed, out)
    folders = {name: out / "data" / f"{which}-{name}" for name in ("target", "test")}
    call(run, [*COMMAND, run, "--source", out / "data" / "source", "--config", config,
               *(f"--{name}={path}" for name, path in folders.items()), f"--seed={seed}",
               *([f"--threads={threads}"] if threads else []),
               *(["--reuse", lender] if lender else [])])  # fmt: skip
    summary = json.loads((run / "metrics.json").read_text())
    record = {
        "set": which,
        "row": name,
        "seed": seed,
        "settings": settings_of(name),
        "commit": measured,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "threads": threads_of(run),
        "n": summary["n"],
        "minutes": summary["minutes"],
        "peak_gb": summary["peak_gb"],
        "checks": summary["checks"],
        "table": [figures_of(line) for line in summary["rows"]],
    }
    keep(unit, record)


def figures_of(line: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a line of a run's table."""
    scores = {
        name: value if value is None else round(value, 5)
        for name, value in line["metrics"].items()
        if name in METRICS or (name.startswith("iou.pooled.") and not name.endswith(".ci95"))
    }
    return {**{key: line[key] for key in ("name", "kind", "masks_used")}, "metrics": scores}


def unit_weights(which: str, plain: bool, out: Path, threads: int) -> Path:
    """UNIT, trained once for each set and loss with seed 0, and used by all rows and seeds."""
    run = out / "runs" / f"{which}-unit{'-plain' if plain else ''}"
    settings = {**COMMON, **(PLAIN_UNIT if plain else UNIT), "segment_min_steps": 1}
    config = settings_file(run.name, settings, out)
    if not (run / "metrics.json").exists():
        call(run, [*COMMAND, run, "--source", out / "data" / "source", "--config", config,
                   f"--target={out / 'data' / f'{which}-target'}",
                   *([f"--threads={threads}"] if threads else [])])  # fmt: skip
    return next(run.glob("*-translate/unit.safetensors")).resolve()


IN_ONE = {
    "source only": "best: source only",
    "before self-training": "best: before self-training",
    "source and target masks": "best: oracle",
}
"""Lines of the run with the labels of one network that are rows here, and their names."""


def lines_of(unit: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a run's table that are rows here: its result, and what it is compared with."""
    for line in unit["table"]:
        if line["kind"] == "result":
            yield unit["row"], line
        elif unit["row"] == ONE and line["name"] in IN_ONE:
            yield IN_ONE[line["name"]], line
        elif line["kind"] == "oracle":
            yield "oracle", line
        elif unit["row"] == "source only" and line["name"] in {
            "most frequent class", "prior of the place",
        }:  # fmt: skip
            yield line["name"], line


def aggregate(out: Path) -> None:
    """Means and deviations over the finished units, to the results file and the table."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for path in filter(is_current, (out / "units").glob("*.json")):
        shutil.copy(path, KEPT)
    units = [json.loads(p.read_text()) for p in sorted(KEPT.glob("*.json")) if is_current(p)]
    if not units:
        raise SystemExit(f"no finished unit in {out / 'units'}")
    rows = []
    for which in SETS:
        found: dict[str, dict[int, tuple[dict[str, Any], dict[str, Any]]]] = {}
        for unit in (unit for unit in units if unit["set"] == which):
            for name, line in lines_of(unit):
                found.setdefault(name, {})[unit["seed"]] = (unit, line)
        order = ["most frequent class", "prior of the place", *ROWS]
        first = [BEST, ONE, *IN_ONE.values(), *ATTEMPTS]
        order = [*first, *(name for name in order if name not in first), "oracle"]
        rows += [_row(name, which, found) for name in order if name in found]
    tested = "/".join(sorted({str(unit["n"]) for unit in units}))
    path = write_results(
        "adapt_camvid",
        "python benchmarks/adapt_camvid.py --data CAMVID",
        rows,
        machine=machine(),
        data=f"CamVid: 305 day frames with masks, 62 dusk frames without, {tested} to test on",
    )
    write_table(
        "adapt_camvid",
        [
            "row",
            "seeds",
            "mIoU",
            "FWIoU",
            "accuracy",
            "class accuracy",
            "gap closed",
            "minutes of the run",
        ],
        [_cells(row) for row in rows],
    )
    print(f"{len(units)} units in {path.relative_to(HERE.parent)}")


def _row(name: str, which: str, found: dict[str, Any]) -> dict[str, Any]:
    by_seed = found[name]
    first_unit, first = next(iter(by_seed.values()))
    metrics: dict[str, list[float]] = {}
    for seed, (_, line) in sorted(by_seed.items()):
        scores = line["metrics"]
        for metric, value in scores.items():
            if value is not None:
                metrics.setdefault(SHORT.get(metric, metric), []).append(value)
        own = "best: " if name in {*LONG, *IN_ONE.values()} else ""
        ends = [found.get(f"{own}{end}", {}).get(seed) for end in ("source only", "oracle")]
        if all(ends):
            floor, ceiling = (end[1]["metrics"]["miou_foreground"] for end in ends)
            metrics.setdefault("gap", []).append(ceiling - floor)
            closed = (scores["miou_foreground"] - floor) / (ceiling - floor)
            metrics.setdefault("gap_closed", []).append(closed)
    seeds = [unit for unit, _ in by_seed.values()]
    return {
        "name": f"{name}, {which}",
        "kind": "result" if name == BEST else "oracle" if "oracle" in name else "control",
        "settings": first_unit["settings"],
        **{
            key: "; ".join(sorted({unit[key] for unit in seeds}))
            for key in ("commit", "date", "machine")
        },
        "seeds": sorted(by_seed),
        "n": first_unit["n"],
        "label_cost": {"source_masks": 305, "target_masks": first["masks_used"]},
        "metrics": {key: round(statistics.fmean(of), 5) for key, of in metrics.items()},
        "sd": {key: round(statistics.stdev(of), 5) for key, of in metrics.items() if len(of) > 1},
        "by_seed": {key: [round(value, 5) for value in metrics[key]]
                    for key in ("miou", "gap_closed") if key in metrics},
        "checks": [unit["checks"] for unit in seeds],
        "minutes_of_run": round(statistics.fmean(unit["minutes"] for unit in seeds), 1),
        "peak_gb": max(unit["peak_gb"] for unit in seeds),
    }  # fmt: skip


def _cells(row: dict[str, Any]) -> list[str]:
    def score(name: str) -> str:
        if name not in row["metrics"]:
            return ""
        deviation = f" ± {row['sd'][name]:.3f}" if name in row["sd"] else ""
        return f"{row['metrics'][name]:.3f}{deviation}"

    names = ("miou", "fwiou", "pixel_accuracy", "class_accuracy", "gap_closed")
    bold = "**" if row["kind"] == "result" else ""
    return [
        f"{bold}{row['name']}{bold}",
        ", ".join(map(str, row["seeds"])),
        *(score(name) for name in names),
        f"{row['minutes_of_run']:.1f}",
    ]


def main() -> None:
    """Run the units that are missing, then aggregate all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="CamVid with images/, masks/ and sequences.csv")
    parser.add_argument("--row", choices=ROWS, nargs="+", help="default: all")
    parser.add_argument("--set", choices=SETS, nargs="+", default=SETS, help="default: both")
    parser.add_argument("--seed", type=int, nargs="+", default=SEEDS, help="default: 0, 1 and 2")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all cores")
    parser.add_argument("--out", type=Path, default=Path("runs/adapt_camvid"))
    parser.add_argument("--aggregate", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.aggregate:
        if given.data is None:
            parser.error("--data FOLDER or --aggregate")
        given.out.mkdir(parents=True, exist_ok=True)
        prepare(given.data, given.out / "data")
        for seed in given.seed:
            for which in given.set:
                missing = [row for row in ORDER if which == "dusk" or row not in ATTEMPTS]
                for row in given.row or missing:
                    kept = KEPT / f"{label_of(row, which, seed)}.json"
                    if given.row or not (kept.exists() and is_current(kept)):
                        run_unit(row, which, seed, given.out, given.threads)
    aggregate(given.out)


if __name__ == "__main__":
    main()
