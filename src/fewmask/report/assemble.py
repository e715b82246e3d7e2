"""From a finished run to ``report.html``, ``samples/`` and the table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.folder import read_target
from fewmask.io.images import read_image
from fewmask.metrics.confusion import gap_closed
from fewmask.report.figures import curves_figure, strip_png
from fewmask.report.html import Case, ReportData, Row, render_report, text_table
from fewmask.training.checkpoint import write_atomically
from fewmask.training.evaluation import Evaluation
from fewmask.training.workspace import Workspace

KIND = {"evidence": "control"}
"""The raw evidence is a control of the table: a segmenter that does not beat it adds nothing."""


def headline_metrics(class_names: Sequence[str]) -> list[str]:
    """Columns of the table: for one class its own scores, for several the means over them."""
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


def table_rows(evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> list[Row]:
    """The table's rows, with the share of the gap to full supervision that each has closed."""
    main = headline_metrics(evaluation.class_names)[0]
    ceiling = next((r["metrics"].get(main) for r in rows if r["name"].endswith("true masks")
                    and r["kind"] == "reference"), None)  # fmt: skip
    floor = next((r["metrics"].get(main) for r in rows if r["kind"] == "control"), None)
    return [
        Row(
            name=row["name"],
            kind=KIND.get(row["kind"], row["kind"]),
            metrics={
                **row["metrics"],
                "gap_closed": gap_closed(row["metrics"].get(main), floor, ceiling),
            },
            threshold_choice=row["threshold_choice"],
            label_cost=f"{row['masks_used']} masks" if row["masks_used"] else "tags only",
            note=row["note"],
        )
        for row in rows
    ]


def summary_table(run_path: Path) -> str:
    """The table of a finished run as plain text."""
    summary = json.loads((run_path / "metrics.json").read_text())
    rows = [
        Row(
            name=row["name"],
            kind=KIND.get(row["kind"], row["kind"]),
            metrics=row["metrics"],
            threshold_choice=row["threshold_choice"],
            label_cost=str(row["masks_used"]),
        )
        for row in summary["rows"]
    ]
    return text_table(rows, headline_metrics(summary["class_names"]))


def write_report(
    works: Sequence[Workspace], evaluation: Evaluation, summary: dict[str, Any], module: Any
) -> Path:
    """Write ``report.html`` and the pictures in ``samples/``.

    Args:
        works: One finished workspace for each fold.
        evaluation: Pooled over the folds.
        summary: What ``metrics.json`` says.
        module: The pipeline: ``panels`` and ``predictor_of`` draw the cases, ``bill`` lists labels.

    Returns:
        The report's path.
    """
    run, config = works[0].run, works[0].config
    rows = table_rows(evaluation, summary["rows"])
    records = [json.loads(line) for line in _lines(run.path / "metrics.jsonl")]
    labels = dict.fromkeys(record["stage"] for record in records)
    cases = draw_cases(works, evaluation, module)
    folder = run.path / "samples"
    folder.mkdir(exist_ok=True)
    for case in cases:
        write_atomically(folder / f"{case.title}.png", case.png)
    data = ReportData(
        title=run.path.name,
        subtitle=f"fewmask {run.record['pipeline']}, preset {run.record['preset']}",
        verdict=verdict(rows, evaluation),
        facts=[
            ("test images", str(summary["n"])),
            ("classes", ", ".join(evaluation.class_names)),
            ("folds measured", str(len(works))),
            ("seed", f"{config.seed} (one seed: no claim without three)"),
            ("minutes", f"{summary['minutes']:.1f}"),
            ("peak memory", f"{summary['peak_gb']:.1f} GB"),
            ("device", f"{run.record['device']}, {config.threads} threads"),
        ],
        headline_metrics=[*headline_metrics(evaluation.class_names), "gap_closed"],
        rows=rows,
        curves=[(label, curves_figure(records, label)) for label in labels],
        cases=cases,
        bill=module.bill(works),
        notes=notes(works, evaluation),
        synthetic=bool(run.record.get("synthetic")),
        run_yaml=(run.path / "run.yaml").read_text(),
        next_commands=[
            f"fewmask predict {run.path} IMAGES -o OUT",
            f"fewmask evaluate {run.path} OTHER_DATA --json",
        ],
    )
    path = run.path / "report.html"
    write_atomically(path, render_report(data).encode())
    return path


def verdict(rows: Sequence[Row], evaluation: Evaluation) -> str:
    """What the table says, in a sentence or two."""
    main = headline_metrics(evaluation.class_names)[0]
    result = next((row for row in rows if row.kind == "result"), None)
    if not evaluation.ids or result is None:
        return "Not measured: no test image has a true mask, or no stage that gives a result ran."
    score = result.metrics.get(main)
    if score is None:
        return f"{main} is undefined on this test set."
    controls = [(row.metrics[main], row) for row in rows
                if row.kind == "control" and row.metrics.get(main) is not None]  # fmt: skip
    if not controls:
        return f"{main} = {score:.3f}; no control was measured."
    best, row = max(controls, key=lambda pair: pair[0])
    word = "beats" if score > best else "does not beat"
    return f"{main} = {score:.3f} {word} the best control, “{row.name}” ({best:.3f})."


def notes(works: Sequence[Workspace], evaluation: Evaluation) -> list[str]:
    """Remarks that belong beside the numbers."""
    work = works[0]
    remarks = [
        "All pixels of all test images are counted at the images' own sizes, images without the "
        "object included. Intervals are 95 % bootstrap intervals over groups.",
    ]
    if work.data.layout == "folders" and "translate" not in work.stages:
        remarks.append("There is no translation stage: the evidence is the CAM alone.")
    if not evaluation.ids:
        remarks.append("The data has no masks for its test images, so nothing could be measured.")
    return remarks


def draw_cases(works: Sequence[Workspace], evaluation: Evaluation, module: Any) -> list[Case]:
    """Strips of the best, median and worst test image of the result."""
    if evaluation.result is None or not evaluation.ids:
        return []
    scores = evaluation.image_scores(evaluation.result)
    has_truth = evaluation.matrices[evaluation.result][:, 1:].sum((1, 2)) > 0
    ranked = sorted((s, i) for i, s in enumerate(scores) if s is not None and has_truth[i])
    if not ranked:
        return []
    chosen = {"best": ranked[-1], "median": ranked[len(ranked) // 2], "worst": ranked[0]}
    cases = []
    for title, (score, index) in chosen.items():
        sample_id = evaluation.ids[index]
        work = next(w for w in works if sample_id in w.parts["test"])
        row = [s.id for s in work.data.samples].index(sample_id)
        sample = work.data.samples[row]
        image = read_image(sample.image_path)
        predictor = module.predictor_of(work)
        final = predictor.mask_of_probs(image, predictor.probs(image))
        panels: list[tuple[str, np.ndarray]] = [("image", image)]
        truth = read_target(sample, work.data)
        if truth is not None:
            panels.append(("truth", truth))
        panels += module.panels(work, row, image.shape[:2])
        panels.append(("final prediction", final))
        cases.append(Case(title, sample_id, score, strip_png(panels)))
    return cases


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
