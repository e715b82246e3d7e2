"""Runs side by side: scores, what they cost in labels and minutes, where their masks differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewmask.errors import FewmaskError
from fewmask.report.assemble import read_summary
from fewmask.report.headings import heading
from fewmask.report.table import headline_metrics, table_rows
from fewmask.training.run_folder import RunFolder
from fewmask.web.run_images import RunImages

MOST_RUNS = 6
MOST_IMAGES = 300
NO_SETTING = {"threads", "workers", "device", "reuse", "tensorboard"}


def column_of(run: RunFolder) -> dict[str, Any]:
    """What the table and the charts show of a finished run.

    Returns:
        ``scores`` (title, value, interval), ``points`` (each row of its table that has a score:
        name, kind, masks, score), ``minutes``, ``peak_gb``, ``labels``, ``verdict``.

    Raises:
        FewmaskError: it is not finished, or damaged.
    """
    summary = read_summary(run.path)
    names, background = summary["class_names"], summary.get("background", True)
    shown = headline_metrics(names, background)
    metrics = summary["metrics"]
    rows = table_rows(summary["rows"], names, background)
    result = next((row for row in rows if row.kind == "result"), None)
    masks = {row["name"]: int(row["masks_used"]) for row in summary["rows"]}
    points = [
        {"name": row.name, "kind": row.kind, "masks": masks[row.name], "score": score}
        for row in rows
        if (score := row.metrics.get(shown[0])) is not None and row.kind in {"result", "control"}
        and (row.kind == "result" or masks[row.name])
    ]  # fmt: skip
    return {
        "name": run.path.name,
        "classes": names,
        "pipeline": str(run.record["pipeline"]),
        "preset": str(run.record.get("preset")),
        "data": str(run.record.get("data", "")),
        "seed": run.record["settings"].get("seed"),
        "measured": summary.get("n"),
        "scores": {
            heading(metric, names): {"value": metrics.get(metric),
                                     "ci95": metrics.get(f"{metric}.ci95")}
            for metric in shown
        },
        "main": heading(shown[0], names),
        "points": points,
        "minutes": summary.get("minutes"),
        "peak_gb": summary.get("peak_gb"),
        "labels": result.label_cost if result else "",
        "verdict": dict(summary.get("verdict") or {}).get("text", ""),
    }  # fmt: skip


def columns_of(runs: Sequence[RunFolder]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The columns of several runs, and the problems of those that cannot be shown."""
    columns, problems = [], []
    for run in runs[:MOST_RUNS]:
        try:
            columns.append(column_of(run))
        except FewmaskError as error:
            problems += [each.as_dict() for each in error.problems]
    return columns, problems


def differing_settings(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs; empty where a run has no such setting."""
    all_settings = [dict(run.record.get("settings") or {}) for run in runs]
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    found = []
    for name in names:
        values = [str(settings.get(name, "")) for settings in all_settings]
        if len(set(values)) > 1 and name not in NO_SETTING:
            found.append((name, values))
    return found


def shared_images(a: RunImages, b: RunImages) -> list[dict[str, Any]]:
    """Images that both runs have a mask of, those on which they differ most first.

    Returns:
        ``id``, ``name``, ``part`` (of the first run), and ``differ``: part of the pixels; of at
        most :data:`MOST_IMAGES` images, test images of the first run before others.
    """
    names = {item.name: item for item in b.items}
    both = [item for item in a.items if item.name in names]
    both = sorted(both, key=lambda item: (item.part != "test", item.name))[:MOST_IMAGES]
    found = []
    for item in both:
        first, second = a.weak_mask(item), b.weak_mask(names[item.name])
        if first.shape == second.shape:
            differ = round(float(np.mean(first != second)), 4)
            found.append({"id": item.id, "name": item.name, "part": item.part, "differ": differ})
    return sorted(found, key=lambda each: (-each["differ"], each["name"]))
