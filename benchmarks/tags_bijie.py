"""`fewmask tags` on the Bijie landslide tiles: units of (row, fold, seed), and the table of them.

A unit is one call of the real command line. A finished unit is skipped, a stopped one goes on where
it was. The result is kept in ``OUT/units``; the runs themselves may be deleted.

    python benchmarks/tags_bijie.py --data DATA                       # rows fast and fast-county
    python benchmarks/tags_bijie.py --data DATA --row best --seed 0   # one unit
    python benchmarks/tags_bijie.py --aggregate                       # results and table only
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recording import HERE, commit, machine, write_results, write_table

CLASS = "landslide"
COUNTY = r"^[dz]?(df|hz|js|ny|qxg|qx|wn|zj)"
"""File names begin with a code of the county; negatives have a d before it, or no county (fyb)."""
NOTES = {
    "fast-county": "whole counties are held out, except for the 517 of 620 negatives (fyb) whose "
    "names hold no county: those are split at random",
}
ROWS: dict[str, list[str]] = {
    "fast": ["--preset", "fast"],
    "fast-county": ["--preset", "fast", "--group-pattern", COUNTY],
    "best": ["--preset", "best"],
}
SEEDS = (0, 1, 2)
UNTAUGHT = ("all background", "centre prior", "Otsu of the grey image")
"""Lines of a run's table that see no tag."""
METRICS = (
    f"iou.pooled.{CLASS}",
    f"iou.per_image.{CLASS}",
    f"precision.{CLASS}",
    f"recall.{CLASS}",
    f"dice.pooled.{CLASS}",
    f"fpr.{CLASS}",
    f"fpr_on_empty.{CLASS}",
    f"fp_images_on_empty.{CLASS}",
    f"iou.pooled.{CLASS}.ci95",
    "miou",
    "pixel_accuracy",
    "gap_closed",
)


def run_unit(row: str, fold: int, seed: int, data: Path, out: Path, threads: int) -> None:
    """Run the command of one unit, or go on with it, and keep its table."""
    name = f"{row}-fold{fold}-seed{seed}"
    unit, run = out / "units" / f"{name}.json", out / name
    if unit.exists():
        print(f"{name}: finished before")
        return
    options = [*ROWS[row], "--class-name", CLASS, "--fold", str(fold), "--seed", str(seed)]
    options += ["--threads", str(threads)] if threads else []
    arguments = ["tags", str(data), "-o", str(run), *options]
    if (run / "run.yaml").exists():
        arguments = ["resume", str(run)]
    print(f"{name}: fewmask {' '.join(arguments)}", flush=True)
    measured = commit()
    subprocess.run([sys.executable, "-m", "fewmask", *arguments], check=True)
    summary = json.loads((run / "metrics.json").read_text())
    parts = json.loads(next(run.glob("*-split/split.json")).read_text())
    record = {
        "row": row,
        "fold": fold,
        "seed": seed,
        "command": " ".join(["fewmask tags DATA", *options]),
        "commit": measured,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "tags": len(parts["train"]) + len(parts["val"]),
        "n": summary["n"],
        "minutes": summary["minutes"],
        "peak_gb": summary["peak_gb"],
        "table": summary["rows"],
    }
    unit.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unit.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record, indent=1))
    unfinished.rename(unit)


def aggregate(out: Path) -> None:
    """Means and deviations over the finished units, to the results file and the table."""
    units = [json.loads(path.read_text()) for path in sorted((out / "units").glob("*.json"))]
    if not units:
        raise SystemExit(f"no finished unit in {out / 'units'}")
    rows = []
    for name in ROWS:
        of_row = [unit for unit in units if unit["row"] == name]
        rows += _rows_of(name, of_row) if of_row else []
    tiles = sorted({f"{unit['tags']} training and {unit['n']} test tiles" for unit in units})
    path = write_results(
        "tags_bijie",
        "python benchmarks/tags_bijie.py --data DATA",
        rows,
        machine="; ".join(sorted({unit["machine"] for unit in units})),
        data="Bijie landslides, " + ", ".join(tiles),
    )
    write_table(
        "tags_bijie",
        ["row", "kind", "seeds", "pooled IoU", "IoU per image", "precision", "recall",
         "FPR on empty", "gap closed", "true masks", "minutes"],
        [_cells(row) for row in rows],
    )  # fmt: skip
    print(f"{len(units)} units in {path.relative_to(HERE.parent)}")


def _rows_of(name: str, units: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The result of a row first, then the other lines of its runs' tables."""
    lines: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = defaultdict(list)
    for unit in units:
        for line in unit["table"]:
            title = re.sub(r"(test masks), [\d.]+$", r"\1", line["name"])  # an oracle's threshold
            lines[name if line["kind"] == "result" else f"{name}: {title}"].append((unit, line))
    lines = {name: lines.pop(name), **lines}
    return [_row(title, pairs) for title, pairs in lines.items()]


def _row(title: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    first_unit, first = pairs[0]
    row: dict[str, Any] = {
        "name": title,
        "kind": first["kind"],
        "command": re.sub(r"--fold \d+ --seed \d+", "--fold F --seed S", first_unit["command"]),
        "commits": sorted({unit["commit"] for unit, _ in pairs}),
        "dates": sorted({unit["date"] for unit, _ in pairs}),
        "folds": sorted({unit["fold"] for unit, _ in pairs}),
        "seeds": sorted({unit["seed"] for unit, _ in pairs}),
        "n": [unit["n"] for unit, _ in pairs],
        "metrics": {},
        "sd": {},
    }
    for name in METRICS:
        values = [{**line, **line["metrics"]}.get(name) for _, line in pairs]
        if name.endswith(".ci95"):
            row[name] = values  # an interval of each run, over its test images
            continue
        known = [value for value in values if value is not None]
        row["metrics"][name] = _round(statistics.fmean(known)) if known else None
        row["sd"][name] = _round(statistics.stdev(known)) if len(known) > 1 else None
    if first["kind"] == "result":
        if first_unit["row"] in NOTES:
            row["note"] = NOTES[first_unit["row"]]
        row["compared"] = [line.get("compared") for _, line in pairs]  # of each run: one seed each
        row["minutes"] = _round(statistics.fmean(unit["minutes"] for unit, _ in pairs))
        row["peak_gb"] = max(unit["peak_gb"] for unit, _ in pairs)
    untaught = first["name"] in UNTAUGHT
    row["label_cost"] = {
        "image_tags": 0 if untaught else round(statistics.fmean(u["tags"] for u, _ in pairs)),
        "masks": max(line["masks_used"] for _, line in pairs),
    }
    return row


def _round(value: float) -> float:
    return round(value, 5)


def _cells(row: dict[str, Any]) -> list[str]:
    def score(name: str) -> str:
        mean, sd = row["metrics"][name], row["sd"][name]
        return "–" if mean is None else f"{mean:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")

    names = ("iou.pooled", "iou.per_image", "precision", "recall", "fpr_on_empty")
    return [
        f"**{row['name']}**" if row["kind"] == "result" else row["name"],
        row["kind"],
        ", ".join(map(str, row["seeds"])),
        *(score(f"{name}.{CLASS}") for name in names),
        score("gap_closed"),
        str(row["label_cost"]["masks"]),
        f"{row['minutes']:.1f}" if "minutes" in row else "",
    ]


def main() -> None:
    """Run the units that are missing, then aggregate all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder with positive, negative and masks")
    parser.add_argument("--row", choices=ROWS, help="default: fast, then fast-county")
    parser.add_argument("--fold", type=int, default=0, help="held-out fold of five; default 0")
    parser.add_argument("--seed", type=int, help="default: 0, 1 and 2")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all cores")
    parser.add_argument("--out", type=Path, default=Path("runs/tags_bijie"))
    parser.add_argument("--aggregate", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.aggregate:
        if given.data is None:
            parser.error("--data FOLDER or --aggregate")
        for row in [given.row] if given.row else ("fast", "fast-county"):
            for seed in SEEDS if given.seed is None else (given.seed,):
                run_unit(row, given.fold, seed, given.data, given.out, given.threads)
    aggregate(given.out)


if __name__ == "__main__":
    main()
