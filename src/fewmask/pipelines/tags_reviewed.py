"""Masks that somebody has corrected, in the place of pipeline ``tags``' own pseudo-masks.

``review_file`` is the table that ``fewmask ui`` writes: image, verdict, and a mask below its folder
with the SHA-256 of the file. Accepted and edited masks are what the segmenter learns on these
images in every round, and count as labels; of rejected images nothing is learned. Reviews of
test images are left alone: whoever looked at them did not make them training images.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.folder import DataFolder
from fewmask.data.transforms import resize_mask
from fewmask.errors import DataError, Problem
from fewmask.io.images import image_size, read_mask
from fewmask.pipelines.tags_config import TagsConfig
from fewmask.training.checkpoint import sha256_file
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import Workspace

VERDICTS = ("accepted", "edited", "rejected")
USED = "reviewed.json"


class Reviewed(NamedTuple):
    """A line of the table; ``mask`` is None for a rejected image."""

    verdict: str
    mask: Path | None


def read_reviews(path: Path, data: DataFolder) -> dict[str, Reviewed]:
    """The table, checked against the data: every file is what it was, every id is known.

    Args:
        path: ``review.csv``.
        data: The run's data folder.

    Returns:
        By the image's id.

    Raises:
        DataError: all that is wrong with the table and its masks.
    """
    known = {sample.id: sample for sample in data.samples}
    allowed = {*range(data.num_classes), IGNORE_INDEX}
    found: dict[str, Reviewed] = {}
    problems: list[Problem] = []

    def wrong(where: object, what: str, expected: str) -> None:
        problems.append(Problem("REVIEW-FILE", str(where), what, expected, "review it again"))

    lines = _lines(path)
    for name, verdict, file, digest in lines:
        name = name.removeprefix("'") if name not in known else name  # quoted for spreadsheets
        mask = path.parent / file if file else None
        if name not in known:
            wrong(name, "no image of the data", "an image of the data folder")
        elif verdict not in VERDICTS or (mask is None) != (verdict == "rejected"):
            wrong(name, f"{verdict!r} {'with' if mask else 'without'} a mask", ", ".join(VERDICTS))
        elif mask is not None and not mask.resolve().is_relative_to(path.parent.resolve()):
            wrong(mask, "a path that leaves the folder", f"a file below {path.parent}")
        elif mask is not None and (not mask.is_file() or sha256_file(mask) != digest):
            wrong(mask, "missing or altered since the review", "the mask that was saved")
        elif mask is not None:
            stored, size = read_mask(mask), image_size(known[name].image_path)
            if stored.shape != size or not set(np.unique(stored).tolist()) <= allowed:
                wrong(mask, f"{stored.shape}, ids {np.unique(stored)[:5].tolist()}",
                      f"{size}, ids of {', '.join(data.class_names)}")  # fmt: skip
        found[name] = Reviewed(verdict, mask)
    if problems:
        raise DataError(*problems)
    return found


def _lines(path: Path) -> list[tuple[str, str, str, str]]:
    """Image, verdict, mask and SHA-256 of each line."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [(line["image"], line["verdict"], line["mask"], line["sha256"])
                    for line in _with_columns(csv.DictReader(stream))]  # fmt: skip
    except (OSError, ValueError, KeyError, csv.Error) as error:
        found = f"{type(error).__name__}: {error}"
    raise DataError.of("REVIEW-FILE", where=path, found=found,
                       expected="the review.csv of `fewmask ui`", fix="correct --review-file"
                       )  # fmt: skip


def _with_columns(table: csv.DictReader[str]) -> csv.DictReader[str]:
    missing = {"image", "verdict", "mask", "sha256"} - set(table.fieldnames or ())
    if missing:
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    return table


def put_reviews(work: Workspace, stage: Stage, targets: np.ndarray) -> None:
    """Write reviewed masks over the pseudo-masks of training images, and note which they are.

    Args:
        work: Of the run; without a ``review_file`` nothing happens.
        stage: ``pseudo_masks``.
        targets: (N, H, W) uint8, changed in place.
    """
    config: TagsConfig = work.config
    if config.review_file is None:
        return
    reviews, verdicts = read_reviews(config.review_file, work.data), {}
    for row in work.rows("train", "val"):
        name = work.data.samples[row].id
        if name not in reviews:
            continue
        verdict, mask = reviews[name]
        verdicts[name] = verdict
        targets[row] = IGNORE_INDEX
        if mask is not None:
            targets[row] = resize_mask(read_mask(mask).astype(np.uint8), *config.working_size)
    stage.write_json(USED, verdicts)
    counts = ", ".join(
        f"{number} {verdict}" for verdict, number in Counter(verdicts.values()).items()
    )
    work.run.log(f"{stage.label}: reviewed masks: {counts or 'none of a training image'}")


def reviewed_rows(work: Workspace) -> dict[int, str]:
    """Verdict by row of the training images whose pseudo-masks were reviewed."""
    stage = work.stages.get("pseudo_masks")
    if work.config.review_file is None or stage is None:
        return {}
    verdicts = stage.read_json(USED)
    rows = {work.data.samples[row].id: row for row in work.rows("train", "val")}
    return {rows[name]: verdict for name, verdict in verdicts.items()}


def weighed(work: Workspace, rows: list[int]) -> list[int]:
    """Rows to train on: reviewed ones ``review_weight`` times, rejected ones not at all."""
    reviews = reviewed_rows(work)
    times = {row: 0 if v == "rejected" else work.config.review_weight for row, v in reviews.items()}
    return [row for row in rows for _ in range(times.get(row, 1))]


def labels_of(work: Workspace) -> int:
    """How many masks somebody has looked at and let count: the label cost."""
    return sum(verdict != "rejected" for verdict in reviewed_rows(work).values())
