"""``fewmask select`` as retrieval: dusk frames among day frames and unrelated images.

Target: the dusk frames of CamVid's train part. Pool: the dusk frames of its test part, all its day
frames, and the images of ECSSD and of the Weizmann horses. Precision and recall of the dusk frames
among the images kept; average precision of the whole ranking.

    python benchmarks/select_retrieval.py --data ../shared/data [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.files import images_below
from fewmask.errors import DataError
from fewmask.selection import select
from recording import HERE, machine, provenance, write_results, write_table

DUSK = "0001TP"


def choices(dusk: int) -> dict[str, dict[str, Any]]:
    """Row names and arguments of :func:`fewmask.selection.select`; so many frames can be found."""
    return {
        "distance, as many as there are": {"method": "distance", "keep": dusk},
        "distance, twice as many": {"method": "distance", "keep": 2 * dusk},
        "distance of a classifier's last features": {
            "method": "distance",
            "keep": dusk,
            "features": "last",
        },
        "histogram, as many as there are": {"method": "histogram", "keep": dusk},
        "histogram, quantiles .05 and .95": {"method": "histogram"},
        "histogram, published range 15 to 20": {"method": "histogram", "low": 15.0, "high": 20.0},
        "grey below 65 (night)": {"method": "grey", "high": 65.0},
    }


def collect(data: Path, work: Path) -> tuple[Path, Path]:
    """Copies of the images: folders ``like`` and ``pool``, with a folder for each source."""
    frames = images_below(data / "camvid" / "images")
    folders: dict[str, dict[str, Path]] = {"like": {}, "dusk": {}, "day": {}}
    with (data / "camvid" / "sequences.csv").open() as file:
        for row in csv.DictReader(file):
            name = f"{row['split']}/{row['stem']}"
            if name not in frames:
                continue
            kind = "day"
            if row["sequence"] == DUSK:
                kind = {"train": "like", "test": "dusk"}[row["split"]]
            folders[kind][row["stem"]] = frames[name]
    folders["ecssd"] = images_below(data / "ecssd" / "images")
    folders["horses"] = images_below(data / "weizmann_horses" / "images")
    for kind, images in folders.items():
        folder = work / "like" if kind == "like" else work / "pool" / kind
        folder.mkdir(parents=True)
        for name, path in images.items():
            target = folder / f"{name.replace('/', '-')}{path.suffix}"
            target.write_bytes(path.read_bytes())
    return work / "pool", work / "like"


def is_dusk(name: str) -> bool:
    """Whether a name of the pool is one to be found."""
    return name.startswith("dusk/")


def average_precision(names: list[str]) -> float:
    """Mean of the precision at each dusk frame of a ranking."""
    hits = np.array([is_dusk(name) for name in names])
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def measure(
    pool: Path, like: Path, out: Path, choice: dict[str, Any], dusk: int
) -> dict[str, float | None]:
    """One row's metrics."""
    started = time.monotonic()
    try:
        found = select(pool, out, like=like, copy=False, **choice)
    except DataError as error:
        if error.problems[0].code != "SELECT-NONE":
            raise
        return {"kept": 0, "precision.dusk": None, "recall.dusk": 0.0}
    seconds = time.monotonic() - started
    hits = sum(map(is_dusk, found.kept))
    metrics = {
        "kept": len(found.kept),
        "precision.dusk": hits / len(found.kept) if found.kept else None,
        "recall.dusk": hits / dusk,
        "images_per_second": (len(found.scores) + len(list(like.iterdir()))) / seconds,
    }
    if choice["method"] == "distance":
        ranking = sorted(found.scores, key=found.scores.__getitem__)
        metrics["average_precision.dusk"] = average_precision(ranking)
    return metrics


def main() -> None:
    """Measure all rows, or one, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        pool, like = collect(arguments.data, Path(folder))
        names = list(images_below(pool))
        dusk = sum(map(is_dusk, names))
        for number, (name, choice) in enumerate(choices(dusk).items()):
            metrics = measure(pool, like, Path(folder) / str(number), choice, dusk)
            print(name, metrics, flush=True)
            rows.append({"name": name, "metrics": metrics, "label_cost": "none", **provenance()})
        counts = (
            f"pool: {len(names)} images, {dusk} of them dusk; target: {len(list(like.iterdir()))}"
        )
    write_results(
        "select_retrieval",
        "python benchmarks/select_retrieval.py --data ../shared/data",
        rows,
        machine=machine(),
        data=f"CamVid 480x360 (SegNet split), ECSSD, Weizmann horses; {counts}",
        folder=arguments.out,
    )
    shown = [
        [
            row["name"],
            str(row["metrics"]["kept"]),
            *(
                "-" if row["metrics"].get(metric) is None else f"{row['metrics'][metric]:.3f}"
                for metric in ("precision.dusk", "recall.dusk", "average_precision.dusk")
            ),
            f"{row['metrics'].get('images_per_second', 0):.0f}",
        ]
        for row in rows
    ]
    heads = ["choice", "kept", "precision", "recall", "average precision", "images a second"]
    write_table("select_retrieval", heads, shown, folder=arguments.out)


if __name__ == "__main__":
    main()
