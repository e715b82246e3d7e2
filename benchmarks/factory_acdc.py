"""`fewmask factory` on cardiac MR slices and chest X-rays: does a factory pay for its labels?

Units of (set, seed, judgement); a unit is one call of ``fewmask factory judge``, with the
generator and the interpreters that it needs made before, each once. What is finished stays, what
was stopped goes on. Without ``--unit``, units whose figures are committed under
``results/factory_acdc/`` and ``results/factory_cxr/`` are skipped.

    python benchmarks/factory_acdc.py --data DATA                     # all that is missing: days
    python benchmarks/factory_acdc.py --data DATA --set acdc --seed 0
    python benchmarks/factory_acdc.py --aggregate                     # results and tables only

DATA holds ``acdc_cardiac_mri`` and ``covid_cxr_organs``. A seed has a cut (by patient), a choice of
annotated training images, and a generator of its own, which sees no test image. Every segmenter of
a seed has the same network, augmentation and number of steps. Rows whose name says *annotated
generated* have no annotator: the segmenter on all real masks of the same cut draws the masks on
generated images (``simulated annotator``), so they cost more labels than they say.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.io.images import read_image, read_mask, write_mask
from fewmask.pipelines.finished import restore_workspace
from fewmask.randomness import generator
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import load_segmenter
from recording import HERE, commit, machine, write_results, write_table
from units import call, keep, label_of

SEEDS = (0, 1, 2)
GENERATOR: dict[str, Any] = {"image_size": 64, "generate_kimg": 20}
"""What changes of preset fast: so much as two cores train in an hour."""
INTERPRETER: dict[str, Any] = {
    "interpret_steps": 2000, "interpret_learning_rate": 1e-3, "interpret_balance": 0.5,
    "invert_steps": 300,
}  # fmt: skip
"""What changes of preset fast; the published rate and length take as many core hours again."""
SEGMENTER: dict[str, Any] = {
    "image_size": 96, "judge_steps": 800, "seen_from_above": False, "sample_test": 100,
}  # fmt: skip
"""What changes of preset fast, for all segmenters alike."""
FOUR_SIZES = (1500, 5000, 10_000, 15_000)


@dataclass(frozen=True)
class DataSet:
    """One of the two sets.

    Attributes:
        folder: Its name below DATA.
        class_names: In the order of the ids.
        group: Pattern of what must not be cut apart.
        drawn: Numbers of annotated generated images.
        scribbles: Whether it has any.
    """

    folder: str
    class_names: tuple[str, ...]
    group: str
    drawn: tuple[int, ...]
    scribbles: bool = False


SETS = {
    "acdc": DataSet(
        "acdc_cardiac_mri", ("right ventricle", "myocardium", "left ventricle"),
        r"patient\d+", (30, 50, 100), scribbles=True,
    ),
    "cxr": DataSet(
        "covid_cxr_organs", ("left lung", "right lung", "heart", "airways"), r"cxr\d+", (30, 50)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """A judgement: an interpreter, and the rows to train.

    Attributes:
        route: How the interpreter is taught.
        labels: How many images are annotated for it.
        rows: See ``judge_rows``.
        pairs: Synthetic images to train on.
        scribbles: The annotation is scribbles.
        settings: Changes of the interpreter.
    """

    route: str
    labels: int
    rows: tuple[str, ...]
    pairs: int = 0
    scribbles: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def interpreter(self) -> str:
        """Name of the run of ``fewmask factory label``."""
        extra = "".join(f"-{key}-{value}" for key, value in sorted(self.settings.items()))
        return f"{self.route}-{self.labels}{'-scribbles' * self.scribbles}{extra}"


def units_of(data: DataSet) -> dict[str, Unit]:
    """All units of a set, in the order in which they are made."""
    sizes = {
        f"synthetic, {n} pairs": Unit("generated", 30, ("synthetic",), n) for n in FOUR_SIZES[1:]
    }
    drawn = {
        f"{n} annotated generated": Unit("generated", n, ("synthetic",), FOUR_SIZES[0])
        for n in data.drawn[1:]
    }
    made = {
        "real": Unit("encoder", 30, ("few", "few-plain", "taught", "all")),
        "real, 10": Unit("encoder", 10, ("few", "few-plain", "taught")),
        "encoder, enlarged": Unit("encoder", 30, ("encoder",), settings={"interpret_enlarge": 2}),
        "inverted": Unit("invert", 30, ("synthetic", "both"), FOUR_SIZES[0]),
        "inverted, 10": Unit("invert", 10, ("synthetic", "both"), FOUR_SIZES[0]),
        "30 annotated generated": Unit("generated", 30, ("synthetic", "both"), FOUR_SIZES[0]),
        **drawn,
        **sizes,
    }
    if data.scribbles:
        made |= {
            "scribbles": Unit("encoder", 30, ("encoder",), scribbles=True),
            "inverted, scribbles": Unit("invert", 30, ("synthetic", "both"), 1500, scribbles=True),
        }
    return made


class Maker:
    """Makes the units of one set and seed.

    Args:
        which: Name of the set.
        seed: Of cut, choice, generator and all that is trained.
        data: DATA.
        out: Folder for runs and figures.
        threads: CPU threads; 0: all.
        preset: fast, or smoke to try this file out.
    """

    def __init__(
        self, which: str, seed: int, data: Path, out: Path, threads: int, preset: str
    ) -> None:
        self.which, self.seed, self.set = which, seed, SETS[which]
        self.source, self.out, self.preset = data / self.set.folder, out, preset
        self.root = out / "runs" / f"{which}-seed{seed}"
        self.small = preset == "smoke"
        self.common = ["--preset", preset, "--seed", seed]
        self.common += ["--threads", threads] if threads else []

    def run(self, name: str, unit: Unit) -> None:
        """Make one unit, unless its figures are there."""
        path = self.out / "units" / f"{label_of(name, self.which, self.seed)}.json"
        if path.exists():
            return
        started, measured = time.monotonic(), commit()
        run = self.root / f"judge-{label_of(name, self.which, self.seed)}"
        settings = dict(SEGMENTER) if not self.small else {"sample_test": 2}
        pairs = unit.pairs if not self.small else min(unit.pairs, 8)
        interpreter = self.interpreter(unit)
        call(run, ["factory", "judge", interpreter, self.folder(), "-o", run, *self.common,
                   *flags(settings), "--sample-count", pairs, "--masks", unit.labels,
                   "--judge-rows", *unit.rows])  # fmt: skip
        summary = json.loads((run / "metrics.json").read_text())
        keep(path, {
            "set": self.which, "unit": name, "seed": self.seed, "settings": settings_of(unit),
            "commit": measured, "date": time.strftime("%Y-%m-%d"), "machine": machine(),
            "n": summary["n"], "minutes": round((time.monotonic() - started) / 60, 1),
            "peak_gb": summary["peak_gb"], "checks": summary["checks"],
            "table": [figures_of(line) for line in summary["rows"]],
        })  # fmt: skip

    def folder(self) -> Path:
        """Images and masks alone, as the command line wants them."""
        folder = self.out / "data" / self.which
        if not folder.exists():
            making = folder.with_name(f".making-{self.which}")
            for kind in ("images", "masks"):
                shutil.copytree(self.source / kind, making / kind, dirs_exist_ok=True)
            making.rename(folder)
        return folder

    def generator(self) -> Path:
        """The generator of this cut."""
        run = self.root / "generator"
        settings = {} if self.small else GENERATOR
        call(run, ["factory", "train", self.folder(), "-o", run, *self.common, *flags(settings),
                   "--split-seed", self.seed, "--group-pattern", self.set.group,
                   "--no-seen-from-above",
                   "--class-names", *self.set.class_names])  # fmt: skip
        return run

    def interpreter(self, unit: Unit) -> Path:
        """The interpreter of a unit."""
        run = self.root / unit.interpreter
        if unit.route == "generated":
            masks = self.drawn_masks(unit.labels)
        else:
            masks = self.real_masks(unit.labels, unit.scribbles)
        settings = {**({} if self.small else INTERPRETER), **unit.settings}
        call(run, ["factory", "label", self.generator(), f"--{unit.route}", "--masks", masks,
                   "-o", run, *flags(settings)])  # fmt: skip
        return run

    def real_masks(self, count: int, scribbles: bool) -> Path:
        """Masks, or scribbles, of the first ``count`` training images of this seed's order."""
        folder = self.root / f"masks-{count}{'-scribbles' * scribbles}"
        if folder.exists():
            return folder
        cut = next(self.generator().glob("*-split/split.csv"))
        ids = [line["id"] for line in csv.DictReader(cut.open()) if line["part"] == "train"]
        order = generator(self.seed, "factory", "annotated").permutation(sorted(ids))
        making = folder.with_name(f".making-{folder.name}")
        making.mkdir(parents=True, exist_ok=True)
        for stem in (name.rpartition("/")[2] for name in order[:count]):
            kind = "scribbles" if scribbles else "masks"
            mask = read_mask(self.source / kind / f"{stem}.png")
            unsaid = len(self.set.class_names) + 1  # of scribbles: nothing is said there
            write_mask(making / f"{stem}.png", np.where(mask == unsaid, 255, mask).astype(np.uint8))
        making.rename(folder)
        return folder

    def drawn_masks(self, count: int) -> Path:
        """Masks of ``count`` generated images by the segmenter on all real masks of this cut."""
        folder = self.root / f"seeds-{count}"
        if not folder.exists():
            making = folder.with_name(f".making-{folder.name}")
            shutil.rmtree(making, ignore_errors=True)
            call(making, ["factory", "export-seeds", self.generator(), "-n", count, "-o", making])
            making.rename(folder)
        masks = folder / "masks"
        if masks.exists():
            return masks
        self.run("real", units_of(self.set)["real"])
        judged = RunFolder.open(self.root / f"judge-{label_of('real', self.which, self.seed)}")
        work, _ = restore_workspace(judged, torch.device("cpu"))
        annotator = load_segmenter(work, work.stages["segment"].path / "all.safetensors")
        making = folder / ".making-masks"
        making.mkdir(exist_ok=True)
        for image in sorted((folder / "images").iterdir()):
            write_mask(making / image.name, annotator.mask(read_image(image)))
        making.rename(masks)
        return masks


def flags(settings: dict[str, Any]) -> list[object]:
    """Settings as the command line has them."""
    words: list[object] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        words += [f"--{'no-' * (value is False)}{flag}"]
        words += [] if isinstance(value, bool) else [value]
    return words


def settings_of(unit: Unit) -> dict[str, Any]:
    """All that a unit's figures depend on, beside the code."""
    record = {
        "route": unit.route, "labels": unit.labels, "rows": unit.rows, "pairs": unit.pairs,
        "scribbles": unit.scribbles, "generator": GENERATOR,
        "interpreter": {**INTERPRETER, **unit.settings}, "segmenter": SEGMENTER,
    }  # fmt: skip
    return dict(json.loads(json.dumps(record)))


def figures_of(line: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a line of a judgement's table."""
    scores = {
        name: value if value is None else round(value, 5)
        for name, value in line["metrics"].items()
        if name in {"miou", "miou_foreground"}
        or (name.startswith("iou.pooled.") and not name.endswith(".ci95"))
    }
    return {"name": line["name"], "masks_used": line["masks_used"], "metrics": scores}


def is_current(path: Path) -> bool:
    """Whether a unit was measured with the settings that it has now."""
    record = json.loads(path.read_text())
    unit = units_of(SETS[record["set"]]).get(record["unit"])
    return unit is not None and record["settings"] == settings_of(unit)


def row_name(line: str, unit: Unit) -> str:
    """Name of a row here: a judgement's own, and how the interpreter was taught."""
    if unit.route == "encoder":
        words = [line, "scribbles"] if unit.scribbles else [line]
        words += [f"{key} {value}" for key, value in unit.settings.items()]
        return ", ".join(words)
    taught = {
        "invert": f"{unit.labels} inverted",
        "generated": f"{unit.labels} annotated generated",
    }
    words = [line, f"{unit.pairs} pairs", taught[unit.route]]
    words += ["scribbles"] * unit.scribbles + ["simulated annotator"] * (unit.route == "generated")
    return ", ".join(words)


TRIVIAL = ("all background", "centre prior", "Otsu of the grey image")
FLOOR, CEILING = "30 real only", "all real"


def aggregate(which: str, out: Path) -> None:
    """Means and deviations over the seeds of the finished units, to results file and table."""
    kept = HERE / "results" / f"factory_{which}"
    kept.mkdir(parents=True, exist_ok=True)
    for path in filter(is_current, (out / "units").glob(f"{which}-*.json")):
        shutil.copy(path, kept)
    records = [json.loads(p.read_text()) for p in sorted(kept.glob("*.json")) if is_current(p)]
    if not records:
        print(f"no finished unit of {which}")
        return
    found: dict[str, dict[int, tuple[dict[str, Any], dict[str, Any]]]] = {}
    for record in records:
        unit = units_of(SETS[which])[record["unit"]]
        for line in record["table"]:
            trivial = line["name"] in TRIVIAL
            if trivial and record["unit"] != "real":
                continue
            name = line["name"] if trivial else row_name(line["name"], unit)
            found.setdefault(name, {})[record["seed"]] = (record, line)
    first = [name for name in (FLOOR, CEILING, *TRIVIAL) if name in found]
    names = [*first, *(name for name in found if name not in first)]
    rows = [_row(name, found) for name in names]
    path = write_results(
        f"factory_{which}",
        f"python benchmarks/factory_acdc.py --data DATA --set {which}",
        rows,
        machine=machine(),
        data=f"{SETS[which].folder}, a fifth of all patients to test on, a cut for each seed",
    )
    header = ["row", "seeds", "mIoU", "foreground", "test-G", "gap closed", "annotated images"]
    write_table(f"factory_{which}", header, [_cells(row) for row in rows])
    print(f"{len(records)} units in {path.relative_to(HERE.parent)}")


def _row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    by_seed = found[name]
    first, line = next(iter(by_seed.values()))
    metrics: dict[str, list[float]] = {}
    for seed, (record, of_seed) in sorted(by_seed.items()):
        test_g = record["checks"].get(f"test-G.miou.{of_seed['name']}")
        for metric, value in {**of_seed["metrics"], "test_g_miou": test_g}.items():
            if value is not None:
                metrics.setdefault(metric, []).append(value)
        ends = [found.get(end, {}).get(seed) for end in (FLOOR, CEILING)]
        if all(ends):
            low, high = (end[1]["metrics"]["miou_foreground"] for end in ends)
            closed = (of_seed["metrics"]["miou_foreground"] - low) / (high - low)
            metrics.setdefault("gap_closed", []).append(closed)
    records = [record for record, _ in by_seed.values()]
    return {
        "name": name,
        "kind": "reference" if name == CEILING else "control" if name == FLOOR else "result",
        "settings": first["settings"],
        **{
            key: "; ".join(sorted({record[key] for record in records}))
            for key in ("commit", "date", "machine")
        },
        "seeds": sorted(by_seed),
        "n": [record["n"] for record in records],
        "label_cost": {"annotated_images": line["masks_used"]},
        "metrics": {key: round(statistics.fmean(of), 5) for key, of in metrics.items()},
        "sd": {key: round(statistics.stdev(of), 5) for key, of in metrics.items() if len(of) > 1},
        "by_seed": {
            key: metrics[key] for key in ("miou_foreground", "gap_closed") if key in metrics
        },
        "minutes_of_run": round(statistics.fmean(record["minutes"] for record in records), 1),
        "peak_gb": max(record["peak_gb"] for record in records),
    }  # fmt: skip


def _cells(row: dict[str, Any]) -> list[str]:
    def score(name: str) -> str:
        if name not in row["metrics"]:
            return ""
        deviation = f" ± {row['sd'][name]:.3f}" if name in row["sd"] else ""
        return f"{row['metrics'][name]:.3f}{deviation}"

    scores = map(score, ("miou", "miou_foreground", "test_g_miou", "gap_closed"))
    seeds = ", ".join(map(str, row["seeds"]))
    return [row["name"], seeds, *scores, str(row["label_cost"]["annotated_images"])]


def main() -> None:
    """Make the units that are missing, then aggregate all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with both sets")
    parser.add_argument("--set", choices=SETS, nargs="+", default=list(SETS), help="default: both")
    parser.add_argument("--seed", type=int, nargs="+", default=SEEDS, help="default: 0, 1 and 2")
    parser.add_argument("--unit", nargs="+", help="default: all")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all cores")
    parser.add_argument("--out", type=Path, default=Path("runs/factory"))
    parser.add_argument("--smoke", action="store_true", help="tiny: only to see that it runs")
    parser.add_argument("--aggregate", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.aggregate:
        if given.data is None:
            parser.error("--data FOLDER or --aggregate")
        preset = "smoke" if given.smoke else "fast"
        for seed in given.seed:
            for which in given.set:
                maker = Maker(which, seed, given.data, given.out, given.threads, preset)
                _make(maker, given.unit, given.unit is None and not given.smoke)
    if not given.smoke:
        for which in given.set:
            aggregate(which, given.out)


def _make(maker: Maker, wanted: Iterable[str] | None, skip_kept: bool) -> None:
    kept = HERE / "results" / f"factory_{maker.which}"
    for name, unit in units_of(maker.set).items():
        known = kept / f"{label_of(name, maker.which, maker.seed)}.json"
        skipped = skip_kept and known.exists() and is_current(known)
        if (wanted is None or name in wanted) and not skipped:
            maker.run(name, unit)


if __name__ == "__main__":
    main()
