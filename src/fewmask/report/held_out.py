"""What is known of a run beside its scores: sizes of the parts, accuracy of the tags, alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewmask.report.cases import untagged_test_ids
from fewmask.training.evaluation import Evaluation
from fewmask.training.workspace import Workspace

PARTS = ("train", "val", "test")


def held_out_facts(works: Sequence[Workspace], evaluation: Evaluation) -> dict[str, Any]:
    """What ``metrics.json`` says of the images.

    Returns:
        ``parts``: for each fold and part the number of images and of those with a mask;
        ``held_out``: images in the test parts together; ``tag_accuracy``: by class, on them, the
        mean over folds; ``unscored``: where nothing is scored, the held-out images without a tag
        and how many of them the result marks.
    """
    parts = [{part: _counts(work, work.rows(part)) for part in PARTS} for work in works]
    untagged = untagged_test_ids(works) & evaluation.shares.keys()
    marked = sum(evaluation.shares[name] > 0 for name in untagged)
    return {
        "parts": parts,
        "held_out": sum(fold["test"]["images"] for fold in parts),
        "tag_accuracy": tag_accuracy(works),
        "unscored": {"untagged": len(untagged), "marked": marked} if evaluation.shares else None,
    }


def tag_accuracy(works: Sequence[Workspace]) -> dict[str, float]:
    """Of the classifier on the held-out images, by class; empty for a run without one."""
    stages = [work.stages["classify"] for work in works if "classify" in work.stages]
    found = [stage.read_json("accuracy.json") for stage in stages]
    return {name: float(np.mean([f[name] for f in found])) for name in (found[0] if found else ())}


def parts_text(parts: Sequence[dict[str, Any]], fact: str) -> str:
    """``fact`` of training, validation and test part.

    >>> fold = {part: {"images": n} for part, n in zip(PARTS, (70, 10, 20))}
    >>> parts_text([fold], "images"), parts_text([fold, fold], "images")
    ('70 / 10 / 20', '70 / 10 / 20 (first of 2 folds)')
    """
    words = " / ".join(f"{parts[0][part][fact]:,}" for part in PARTS)
    return words + (f" (first of {len(parts)} folds)" if len(parts) > 1 else "")


def accuracy_text(accuracy: dict[str, float]) -> str:
    """Accuracy of each tag.

    >>> accuracy_text({"scar": 0.94758}), accuracy_text({"roof": 1.0, "lake": 0.5})
    ('0.948', 'roof 1.000, lake 0.500')
    """
    if len(accuracy) == 1:
        return f"{next(iter(accuracy.values())):.3f}"
    return ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())


def made_instead(summary: dict[str, Any]) -> list[str]:
    """What a run without a single score has made, in a few lines."""
    if "made" in summary:
        return list(summary["made"])
    lines = []
    if summary.get("tag_accuracy"):
        lines.append(
            f"tag accuracy on {summary['held_out']} held-out images: "
            f"{accuracy_text(summary['tag_accuracy'])}"
        )
    known = summary.get("unscored")
    if known and known["untagged"]:
        lines.append(
            f"held-out images without a tag, so known to be empty: {known['untagged']}; "
            f"of these, with false foreground: {known['marked']}"
        )
    return [
        *lines,
        "pictures of held-out images: report.html, samples/",
        "a mask of every image: masks/, listed in masks/manifest.csv",
    ]


def _counts(work: Workspace, rows: Sequence[int]) -> dict[str, int]:
    samples = [work.data.samples[row] for row in rows]
    return {
        "images": len(samples),
        "masks": sum(sample.mask_path is not None for sample in samples),
    }
