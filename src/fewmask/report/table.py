"""The table of a run: its rows with every score, and how the result stands against its controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fewmask.metrics.confusion import gap_closed
from fewmask.metrics.paired import compare_rows
from fewmask.report.html import Row
from fewmask.training.evaluation import FULL_SUPERVISION, Evaluation

KIND = {"evidence": "control"}
"""The raw evidence is a control of the table: a segmenter that does not beat it adds nothing."""

NOTE = {"evidence": "raw evidence"}


def headline_metrics(class_names: Sequence[str], background: bool = True) -> list[str]:
    """Columns of the table: for one class its own scores, for several the means over them."""
    if not background:
        means = ["miou_foreground", "fwiou", "pixel_accuracy", "class_accuracy"]
        return [*means, *(f"iou.pooled.{name}" for name in class_names)]
    if len(class_names) == 1:
        name = class_names[0]
        return [
            f"iou.pooled.{name}",
            f"iou.per_image.{name}",
            "miou",
            f"precision.{name}",
            f"recall.{name}",
            f"fpr_on_empty.{name}",
        ]
    return ["miou_foreground", "miou", *(f"iou.pooled.{name}" for name in class_names)]


def headline_of(evaluation: Evaluation) -> list[str]:
    """:func:`headline_metrics` of what was measured."""
    return headline_metrics(evaluation.class_names, evaluation.has_background)


def shown_metrics(
    class_names: Sequence[str], rows: Sequence[Row], background: bool = True
) -> list[str]:
    """:func:`headline_metrics`, and ``gap_closed`` where there is a reference to measure it by."""
    closed = any(row.metrics.get("gap_closed") is not None for row in rows)
    return [*headline_metrics(class_names, background), *(["gap_closed"] if closed else [])]


def terminal_metrics(
    class_names: Sequence[str], rows: Sequence[Row], background: bool = True
) -> list[str]:
    """The few of :func:`shown_metrics` that fit a terminal."""
    shown = shown_metrics(class_names, rows, background)
    if not background:
        return [metric for metric in shown if not metric.startswith("iou.pooled.")]
    first = class_names[0]
    wide = {"miou", f"iou.per_image.{first}", f"fpr_on_empty.{first}"}
    kept = [metric for metric in shown if metric not in wide]
    if len(class_names) == 1:
        return kept
    return [*kept[:4], *(metric for metric in kept[4:] if metric == "gap_closed")]


def summary_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The rows of ``metrics.json``: facts, scores, and what a row is only beside the others.

    That is ``gap_closed``, of the first column, and in the result's row ``compared``: its paired
    comparisons, see :func:`comparisons`.
    """
    rows = [
        {**facts, "metrics": evaluation.metrics(i)} for i, facts in enumerate(evaluation.candidates)
    ]
    main = headline_of(evaluation)[0]
    best = best_label_free_control(rows, main)
    full = [r for r in rows if (r["name"], r["kind"]) == (FULL_SUPERVISION, "reference")]
    if any(row.get("anchor") for row in rows) or not evaluation.has_background:
        floor, ceiling = (_anchor(rows, end, main) for end in ("floor", "ceiling"))
    else:
        floor = None if best is None else rows[best]["metrics"][main]
        ceiling = full[0]["metrics"].get(main) if full else None
    for row in rows:
        row["gap_closed"] = gap_closed(row["metrics"].get(main), floor, ceiling)
    if evaluation.result is not None and evaluation.ids:
        rows[evaluation.result]["compared"] = comparisons(evaluation, rows, best)
    return rows


def _anchor(rows: Sequence[dict[str, Any]], anchor: str, metric: str) -> float | None:
    """The score of the row that a pipeline has named as one end of the gap."""
    return next((r["metrics"].get(metric) for r in rows if r.get("anchor") == anchor), None)


def best_label_free_control(rows: Sequence[dict[str, Any]], metric: str) -> int | None:
    """Index of the best control or raw evidence that neither mask nor given threshold has helped.

    None if no such row has a score.
    """
    scores = {
        i: row["metrics"][metric]
        for i, row in enumerate(rows)
        if row["kind"] in {"control", "evidence"}
        and row["threshold_choice"] == "label_free"
        and not row["masks_used"]
        and row["metrics"].get(metric) is not None
    }
    return max(scores, key=lambda i: scores[i]) if scores else None


def comparisons(
    evaluation: Evaluation, rows: Sequence[dict[str, Any]], best: int | None
) -> list[dict[str, Any]]:
    """The result against its best label-free control, and against each control on a few masks.

    Args:
        evaluation: Holds the confusion matrices.
        rows: Of the table.
        best: From :func:`best_label_free_control`.

    Returns:
        For each: ``with`` (a row), ``as``, ``metric``, and what
        :func:`fewmask.metrics.paired.compare_rows` found.
    """
    result = evaluation.result
    others = [] if best is None else [(best, "best label-free control")]
    few = [i for i, row in enumerate(rows) if row["kind"] == "control" and row["masks_used"]]
    others += [(i, "few-masks control") for i in few]
    return [
        {
            "with": rows[i]["name"],
            "as": role,
            "metric": headline_of(evaluation)[0],
            **compare_rows(
                evaluation.matrices[result], evaluation.matrices[i], groups=evaluation.groups
            ),
        }
        for i, role in others
    ]


def comparison_text(found: dict[str, Any]) -> str:
    """A comparison in words.

    >>> comparison_text({"with": "CAM, Otsu", "as": "best label-free control", "n_groups": 40,
    ...                  "difference": 0.1234, "ci95": [0.05, 0.2], "p": 0.0004})
    '+0.123 [0.050, 0.200], p < 0.001 against the best label-free control, CAM, Otsu'
    """
    if found["difference"] is None:
        return f"undefined against the {found['as']}, {found['with']}"
    words = f"{found['difference']:+.3f}"
    if found["ci95"] is not None:
        low, high = found["ci95"]
        p = "< 0.001" if found["p"] < 0.001 else f"= {found['p']:.3f}"
        words += f" [{low:.3f}, {high:.3f}], p {p}"
    else:
        words += f" ({found['n_groups']} group: no test)"
    return f"{words} against the {found['as']}, {found['with']}"


def table_rows(
    rows: Sequence[dict[str, Any]], class_names: Sequence[str], background: bool = True
) -> list[Row]:
    """The rows of ``metrics.json`` as they are printed: the result, then the others by score."""
    main = headline_metrics(class_names, background)[0]

    def rank(row: dict[str, Any]) -> tuple[bool, float]:
        score = row["metrics"].get(main)
        return row["kind"] != "result", math.inf if score is None else -score

    return [
        Row(
            name=row["name"],
            kind=KIND.get(row["kind"], row["kind"]),
            metrics={**row["metrics"], "gap_closed": row["gap_closed"]},
            threshold_choice=row["threshold_choice"],
            label_cost=_label_cost(row),
            note="; ".join(filter(None, [NOTE.get(row["kind"]), row["note"]])),
        )
        for row in sorted(rows, key=rank)
    ]


def _label_cost(row: dict[str, Any]) -> str:
    """The labels of a row in words; a control without masks has not seen a tag either."""
    if row.get("label_cost"):
        return str(row["label_cost"])
    if row["masks_used"]:
        return f"{row['masks_used']} masks"
    return "none" if row["kind"] == "control" else "tags only"
