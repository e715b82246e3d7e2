"""Is a saliency map worth a channel? The published rows and their controls, on three real sets.

Units of (set, number of labelled images); a unit is one call of ``fewmask saliency`` with five
seeds of each of its rows. What is finished in ``OUT/units`` is skipped, a stopped unit goes on.
Without ``--set`` or ``--labels``, units whose figures are committed under ``results/saliency/`` are
skipped too.

    python benchmarks/saliency.py --data DATA                  # all that is missing: hours
    python benchmarks/saliency.py --data DATA --set horses --labels 40
    python benchmarks/saliency.py --data DATA --set "horses, gates"
    python benchmarks/saliency.py --aggregate                  # results and table only

DATA holds ``weizmann_horses``, ``ecssd`` and ``covid_cxr_organs``. Of each set as many images are
drawn once, by a seed of their own, to learn from, to validate and to test on; of copies of a
picture, the first alone. All units of the set cut them alike. The largest unit of a set has all
rows; the smaller ones are the learning curve, of the colours, the colours with edges and the
colours with the map that did best at the largest unit's *validation* images.

The published network is VGG16, whose weights are not offline: maps are EfficientNet-Lite0's. Its
segmenter without pretraining, the classic U-Net, is the set ``horses, from scratch``, narrower
images and fewer epochs than published so that two cores can pay for it. Attempts to make a map
worth more are sets of their own, too: the same horses, 20 labelled, the colours and Grad-CAM.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewmask.data.copies import find_copies, fingerprint
from fewmask.io.images import IMAGE_SUFFIXES, read_image
from fewmask.pipelines.saliency_maps import channels_of
from fewmask.pipelines.saliency_rows import title_of
from fewmask.randomness import generator
from recording import HERE, commit, machine, write_results, write_table
from units import call, keep, label_of, settings_file, threads_of

SEEDS = 5
MAPS_BY = "EfficientNet-Lite0; published: VGG16, whose weights are not offline"
MAPS = ("plain", "deconv", "guided", "grad_cam")
COMMON: dict[str, Any] = {
    "seeds": SEEDS,
    "image_size": 96,
    "segment_decoder_width": 32,
    "seen_from_above": False,
    "segment_epochs": 1,
    "segment_min_steps": 200,
    "segment_batch_size": 8,
}
"""What changes of preset fast. Smaller images and a narrower decoder, to pay for 470 trainings."""
SCRATCH: dict[str, Any] = {
    "segment_architecture": "classic_unet", "encoder_weights": "none", "segment_loss": "ce",
    "segment_optimizer": "adam", "segment_learning_rate": 1e-4, "segment_schedule": "constant",
    "segment_weight_decay": 0.0, "segment_ema_decay": 0.0, "segment_batch_size": 1,
    "segment_augment": False, "predict_views": "single", "image_size": 64,
    "segment_min_steps": 800,
}  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """One of the sets.

    Attributes:
        folder: Its name below DATA.
        class_names: In the order of the ids.
        parts: Images to learn from, to validate and to test on.
        labels: Numbers of labelled images, the largest first.
        settings: What changes of ``COMMON`` and of the largest unit's rows.
    """

    folder: str
    class_names: tuple[str, ...]
    parts: tuple[int, int, int]
    labels: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def horses(labels: int, **settings: Any) -> DataSet:
        """The horses with so many of the 80 labelled, and no curve."""
        return DataSet("weizmann_horses", ("object",), (80, 20, 100), (labels,), settings)


ATTEMPT: dict[str, Any] = {
    "maps": ("grad_cam",), "controls_each": False, "controls_maps": (), "controls_alone": False,
}  # fmt: skip
ATTEMPTS: dict[str, dict[str, Any]] = {
    "a channel that begins as grey": {"segment_fusion": "mean_channel"},
    "an encoder as fast as the decoder": {"segment_encoder_rate": 1.0},
    "gates": {"segment_fusion": "gates"},
    "joined late": {"segment_fusion": "late"},
    "all four maps, joined late": {"segment_fusion": "late", "maps": MAPS},
    "the map of sorrel": {"saliency_class": "sorrel"},
    "the map of sorrel, joined late": {"saliency_class": "sorrel", "segment_fusion": "late"},
    "seen at 448 px": {"saliency_image_size": 448},
}
"""What each changes of preset fast with Grad-CAM. Sorrel is a brown horse, ImageNet's only class of
horses: an attempt that knows what it looks for."""
ORGANS = ("left lung", "right lung", "heart", "airways")
SETS = {
    "horses": DataSet("weizmann_horses", ("object",), (80, 20, 100), (80, 40, 20, 10)),
    "ecssd": DataSet("ecssd", ("object",), (80, 20, 100), (80, 40, 20, 10)),
    "cxr": DataSet("covid_cxr_organs", ORGANS, (40, 10, 30), (40, 20, 10)),
    "horses, from scratch": DataSet.horses(80, **SCRATCH, maps=("plain", "deconv", "guided")),
    **{f"horses, {name}": DataSet.horses(20, **ATTEMPT | more) for name, more in ATTEMPTS.items()},
}  # fmt: skip


def prepare(name: str, data: Path, out: Path) -> tuple[Path, Path]:
    """The drawn images of a set with their masks, and the file that says which part each is in."""
    chosen = SETS[name]
    folder = out / "data" / chosen.folder
    lines = folder.parent / f"{folder.name}.csv"
    if lines.exists():
        return folder, lines
    source = data / chosen.folder
    every = sorted(p for p in (source / "images").iterdir() if p.suffix in IMAGE_SUFFIXES)
    first_copy = find_copies([fingerprint(read_image(path)) for path in every])
    images = [path for i, path in enumerate(every) if first_copy[i] == i]
    order = generator(0, "saliency", chosen.folder).permutation(len(images))
    shutil.rmtree(folder, ignore_errors=True)
    text, first = ["id,part"], 0
    for part, count in zip(("train", "val", "test"), chosen.parts, strict=True):
        for path in (images[i] for i in order[first : first + count]):
            for kind, file in (("images", path), ("masks", source / "masks" / f"{path.stem}.png")):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / kind)
            text.append(f"images/{path.stem},{part}")
        first += count
    lines.write_text("\n".join(text) + "\n")
    return folder, lines


def settings_of(name: str, labels: int, best: str) -> dict[str, Any]:
    """What a unit changes of preset fast."""
    chosen = SETS[name]
    rows: dict[str, Any] = {
        "maps": MAPS, "controls_each": True, "controls_maps": ["sobel", "random", "other"],
        "controls_alone": True,
    }  # fmt: skip
    if labels < chosen.labels[0]:
        rows = {"maps": (best,), "controls_maps": ["sobel"]}
    settings = {**COMMON, **rows, **chosen.settings, "class_names": chosen.class_names}
    return dict(json.loads(json.dumps({**settings, "masks": labels})))


def best_map(unit: dict[str, Any]) -> str:
    """The map with which validation images were segmented best, of a set's largest unit."""
    scores = {
        name: unit["checks"][f"saliency.rgb+{name}.val.iou"] for name in unit["settings"]["maps"]
    }
    return max(scores, key=lambda name: scores[name])


def largest_unit(name: str, out: Path) -> dict[str, Any] | None:
    """A set's unit with the most labels as it is measured now, new or committed."""
    file = _file(name, SETS[name].labels[0])
    found = [path for path in (out / "units" / file, KEPT / file) if path.exists()]
    return next((json.loads(path.read_text()) for path in found if is_current(path)), None)


def run_unit(name: str, labels: int, data: Path, out: Path, threads: int) -> None:
    """Run the command of one unit, or go on with it, and keep its table."""
    largest = SETS[name].labels[0]
    label = label_of(f"{name} {labels}", "saliency", 0)
    unit, run = out / "units" / f"{label}.json", out / "runs" / label
    if unit.exists() and is_current(unit):
        return
    best = ""
    if labels < largest:
        if largest_unit(name, out) is None:
            run_unit(name, largest, data, out, threads)
        best = best_map(largest_unit(name, out) or {})
    folder, lines = prepare(name, data, out)
    settings = settings_of(name, labels, best)
    config = settings_file(label, settings, out)
    measured = commit()
    call(run, ["saliency", folder, "-o", run, "--preset", "fast", "--config", config,
               f"--split-file={lines}", f"--saliency-cache={out / 'maps'}",
               *([f"--threads={threads}"] if threads else [])])  # fmt: skip
    summary = json.loads((run / "metrics.json").read_text())
    names = set(SETS[name].class_names)
    inputs = [key.split(".")[1] for key in summary["checks"] if key.endswith(".collapsed")]
    titles = {title_of(row, seed) for row in inputs for seed in range(SEEDS)}
    keep(unit, {
        "set": name, "labels": labels, "settings": settings, "commit": measured,
        "date": time.strftime("%Y-%m-%d"), "machine": machine(),
        "threads": threads_of(run), "n": summary["n"],
        "minutes": summary["minutes"], "peak_gb": summary["peak_gb"],
        "checks": {k: v for k, v in summary["checks"].items() if k.startswith("saliency.")},
        "by_class": {
            row["name"]: {k: v for k, v in row["metrics"].items()
                          if k.startswith(("iou.pooled.", "dice.pooled."))
                          and k.split(".")[-1] in names}
            for row in summary["rows"] if row["name"] in titles
        },
    })  # fmt: skip


def _file(name: str, labels: int) -> str:
    return f"{label_of(f'{name} {labels}', 'saliency', 0)}.json"


KEPT = HERE / "results" / "saliency"
"""Figures of the units that are committed."""


def is_current(path: Path) -> bool:
    """Whether a unit was measured with the settings that it has now."""
    unit = json.loads(path.read_text())
    if unit["set"] not in SETS or unit["labels"] not in SETS[unit["set"]].labels:
        return False
    now = settings_of(unit["set"], unit["labels"], unit["settings"]["maps"][0])
    return bool(unit["settings"] == now)


def label_cost(unit: dict[str, Any], name: str) -> dict[str, int]:
    """Masks behind a row: those learned from, and those by which the map was chosen."""
    chosen = SETS[unit["set"]]
    cost = {"masks": unit["labels"]}
    if unit["labels"] < chosen.labels[0] and channels_of(name) == unit["settings"]["maps"]:
        cost["masks_to_choose_the_map"] = sum(chosen.parts[:2])
    return cost


def aggregate(out: Path) -> None:
    """All rows of all finished units, to the results file and the table."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for path in filter(is_current, (out / "units").glob("*.json")):
        shutil.copy(path, KEPT)
    units = [json.loads(p.read_text()) for p in sorted(KEPT.glob("*.json")) if is_current(p)]
    if not units:
        raise SystemExit(f"no finished unit in {out / 'units'}")
    order = list(SETS)
    units.sort(key=lambda unit: (order.index(unit["set"]), -unit["labels"]))
    rows = [row for unit in units for row in rows_of_unit(unit)]
    path = write_results(
        "saliency",
        "python benchmarks/saliency.py --data DATA",
        rows,
        machine=machine(),
        data="weizmann_horses, ecssd: 80 to learn from, 20 to validate, 100 to test; "
        "covid_cxr_organs: 40, 10, 30",
    )
    write_table(
        "saliency",
        [
            "row (maps by EfficientNet-Lite0)",
            "train IoU",
            "validation IoU",
            "IoU",
            "Dice",
            "beyond RGB",
            "p",
            "collapsed",
        ],
        [_cells(row) for row in rows],
    )
    print(f"{len(units)} units in {path.relative_to(HERE.parent)}")


def rows_of_unit(unit: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each input of a unit, over its seeds."""
    checks, rows = unit["checks"], []
    inputs = [key.split(".")[1] for key in checks if key.endswith(".collapsed")]
    for name in inputs:
        key = f"saliency.{name}"
        of = {
            "iou.pooled.object": f"{key}.test.iou", "dice.pooled.object": f"{key}.test.dice",
            "iou.train": f"{key}.train.iou", "dice.train": f"{key}.train.dice",
            "iou.val": f"{key}.val.iou", "dice.val": f"{key}.val.dice",
            "iou.learned": f"{key}.test.iou.learned", "gain": f"{key}.gain",
            "p_value": f"{key}.gain.p",
        }  # fmt: skip
        rows.append(
            {
                "name": f"{unit['set']} {name} {unit['labels']}",
                "kind": "result" if name == inputs[0] else "control",
                "title": title_of(name),
                "settings": unit["settings"],
                **{k: unit[k] for k in ("commit", "date", "machine", "n", "peak_gb")},
                "seeds": list(range(unit["settings"]["seeds"])),
                "label_cost": label_cost(unit, name),
                "maps_by": MAPS_BY,
                "collapsed": checks[f"{key}.collapsed"],
                "metrics": {
                    metric: round(checks[source], 5)
                    for metric, source in of.items()
                    if checks.get(source) is not None
                },
                "sd": {
                    metric: round(checks[f"{source}.sd"], 5)
                    for metric, source in of.items()
                    if checks.get(f"{source}.sd") is not None
                },
                **({"gain_ci95": checks[f"{key}.gain.ci95"]} if f"{key}.gain" in checks else {}),
                "minutes": unit["minutes"],
            }
        )
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    def score(name: str) -> str:
        if name not in row["metrics"]:
            return ""
        deviation = f" ± {row['sd'][name]:.3f}" if name in row["sd"] else ""
        return f"{row['metrics'][name]:.3f}{deviation}"

    gain = ""
    if interval := row.get("gain_ci95"):
        gain = f"{row['metrics']['gain']:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    p = f"{row['metrics']['p_value']:.3f}" if "p_value" in row["metrics"] else ""
    scores = (score(name) for name in ("iou.train", "iou.val", "iou.pooled.object",
                                       "dice.pooled.object"))  # fmt: skip
    return [row["name"], *scores, gain, p, str(row["collapsed"])]


def main() -> None:
    """Run the units that are missing, then aggregate all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the three sets")
    parser.add_argument("--set", choices=SETS, nargs="+", help="default: all")
    parser.add_argument("--labels", type=int, nargs="+", help="default: all of the set's")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all cores")
    parser.add_argument("--out", type=Path, default=Path("runs/saliency"))
    parser.add_argument("--aggregate", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.aggregate:
        if given.data is None:
            parser.error("--data FOLDER or --aggregate")
        given.out.mkdir(parents=True, exist_ok=True)
        asked = bool(given.set or given.labels)
        for name in given.set or SETS:
            for labels in SETS[name].labels:
                if given.labels and labels not in given.labels:
                    continue
                kept = KEPT / _file(name, labels)
                if asked or not (kept.exists() and is_current(kept)):
                    run_unit(name, labels, given.data, given.out, given.threads)
    aggregate(given.out)


if __name__ == "__main__":
    main()
