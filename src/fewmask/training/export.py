"""What a finished run hands over: a mask for every image, and where each comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.io.images import read_image, write_mask
from fewmask.masks.pseudo_labels import only_tagged
from fewmask.training.checkpoint import write_atomically
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import Predictor
from fewmask.training.workspace import Ledger, Workspace, csv_cell


def export_masks(
    work: Workspace, stage: Stage, predictor: Predictor, rows: Sequence[int] | None = None
) -> None:
    """Write a mask for every image to ``RUN/masks`` and note where each comes from.

    Where an image's tags are known, its mask holds no other class: they are the user's own word.
    (Nothing of this is measured: the evaluation does not look at tags.) In a cross-validation each
    fold writes the images that it did not train on; otherwise ``rows``, or all.
    """
    if rows is None:
        rows = work.rows("test") if work.folder else list(range(len(work.data.samples)))
    part_of = {i: part for part, ids in work.parts.items() for i in ids}
    ledger, background = Ledger(), work.data.has_background
    loop = Loop(stage, len(rows), seed=work.config.seed, state={"manifest": ledger}, unit="image")
    for i in loop:
        sample = work.data.samples[rows[i]]
        image = read_image(sample.image_path)
        probs = predictor.probs(image)
        if work.data.has_tags:
            probs = only_tagged(probs, work.tags[rows[i]])
        mask = predictor.mask_of_probs(image, probs)
        file = Path("masks") / f"{sample.id}.png"
        target = work.run.path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mask(target, mask)
        if work.config.save_probs:
            save_probs(work.run.path / "probs" / f"{sample.id}.npy", probs)
        ledger[sample.id] = {
            "id": sample.id,
            "mask": file.as_posix(),
            "part": part_of[sample.id],
            "tags": ";".join(sample.tags),
            **({"foreground": round(float((mask > 0).mean()), 6)} if background else {}),
            "confidence": round(float(probs.max(0).mean()), 6),
            "fold": work.fold,
        }
    stage.write_json("manifest.json", list(ledger.values()))


def save_probs(path: Path, probs: np.ndarray) -> None:
    """(K + 1, H, W) class probabilities as a float16 .npy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, probs.astype(np.float16))


def write_manifest(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """``manifest.csv``: one line for each mask; cells that look like formulas are quoted."""
    columns = list(records[0]) if records else ["id"]
    lines = [",".join(columns)]
    lines += [",".join(csv_cell(str(record[c])) for c in columns) for record in records]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
