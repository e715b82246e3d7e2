"""The choices behind `fast`'s evidence, measured on masks of training tiles: never on test masks.

From a finished run the trained classifier and translator are taken; the evidence is then made in
other ways, one choice changed at a time. Each row has the IoU of the refined evidence at the
label-free cut and at the best of the cuts (which needs the masks: an oracle); the JSON also has the
two curves by which the classifier judges the masks, area and lead at every cut (these need none).

    python benchmarks/evidence_choices.py --run runs/tags_bijie/fast-fold0-seed0
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.data.loading import Sparse
from fewmask.data.transforms import to_unit
from fewmask.masks.fuse import fuse_soft
from fewmask.masks.refine import refine
from fewmask.pipelines.finished import restore_workspace
from fewmask.pipelines.tags_erasure import (
    CUTS,
    balanced_cut,
    drawn_rows,
    erase,
    mean_erasure,
)
from fewmask.pipelines.tags_evidence import EvidenceMaker
from fewmask.pipelines.tags_rows import stretched
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import true_targets
from fewmask.training.workspace import Workspace
from recording import machine, write_results, write_table

IMAGES = 50
FIRST = {"factor": 1.0, "views": "dihedral", "refine": "colour_model", "fusion": "none"}


def variants() -> Iterator[dict[str, Any]]:
    """The reference, then one choice changed at a time."""
    yield FIRST
    for name, values in {
        "factor": (1.5, 2.0),
        "views": ("single", "mirror"),
        "refine": ("none", "superpixel_vote", "pixel_adaptive", "random_walker"),
        "fusion": ("mean", "geometric_mean", "product"),
    }.items():
        for value in values:
            yield {**FIRST, name: value}


def measured(work: Workspace, rows: list[int], truth: Sparse, choice: dict[str, Any]) -> Any:
    """IoU at every cut and what the classifier makes of the masks, for class 0."""
    size = round(choice["factor"] * work.config.image_size)
    config = work.config.replaced(cam_views=choice["views"])
    maker = EvidenceMaker.of(work)._replace(config=config, cam_image_size=size)
    tags = np.arange(len(work.class_names))[None] == 0
    overlap, union, erasures = np.zeros(len(CUTS)), np.zeros(len(CUTS)), []
    for row in rows:
        image, pixels = work.images[row], to_unit(work.images[[row]])
        score = maker.cams(pixels, tags)[0, 0]
        if choice["fusion"] != "none":
            score = stretched(
                fuse_soft(score, stretched(maker.differences(pixels)[0]), choice["fusion"])
            )
        masks = np.stack([refine(image, score, method=choice["refine"], cut=cut) for cut in CUTS])
        overlap += (masks & (truth[row] == 1)).sum((1, 2))
        union += (masks | (truth[row] == 1)).sum((1, 2))
        erasures.append(erase(image, score, maker.prob_of(0), choice["refine"]))
    return overlap / union, mean_erasure(erasures)


def main() -> None:
    """Parse arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished `fewmask tags` run")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    run = RunFolder.open(arguments.run)
    work, tags = restore_workspace(run, torch.device("cpu"))
    work.data = tags.DATA.open(Path(run.record["data"]), work.config)
    train = work.rows("train", tagged=True)
    rows = drawn_rows(work.tags, train, IMAGES, 0, "benchmark")[0]
    truth = true_targets(work, rows)
    name = work.class_names[0]
    records = []
    for choice in variants():
        iou, erasure = measured(work, rows, truth, choice)
        cut = balanced_cut(erasure)
        records.append(
            {
                "name": ", ".join(f"{key} {value}" for key, value in choice.items()),
                "kind": "training masks",
                "metrics": {
                    f"iou.pooled.{name}.label_free_cut": round(float(np.interp(cut, CUTS, iou)), 4),
                    f"iou.pooled.{name}.best_cut": round(float(iou.max()), 4),
                    "label_free_cut": cut,
                    "best_cut": CUTS[int(iou.argmax())],
                },
                "area": np.round(erasure.area, 4).tolist(),
                "lead": np.round(erasure.lead, 4).tolist(),
                "label_cost": len(rows),
            }
        )
        print(records[-1], flush=True)
    data = f"{len(rows)} training tiles of the run's fold 0"
    command = "python benchmarks/evidence_choices.py --run RUN"
    write_results("evidence_choices", command, records, machine=machine(), data=data)
    metrics = [record["metrics"] for record in records]
    keys = list(metrics[0])
    write_table(
        "evidence_choices",
        ["choice", "IoU, label-free cut", "IoU, best cut", "label-free cut", "best cut"],
        [[r["name"], *(f"{r['metrics'][key]:.3f}" for key in keys)] for r in records],
    )


if __name__ == "__main__":
    main()
