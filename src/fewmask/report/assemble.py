"""From a finished run to ``report.html``, ``samples/`` and the table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.folder import read_target
from fewmask.errors import CheckpointError, UsageError
from fewmask.io.images import read_image
from fewmask.report.figures import curves_figure, strip_png
from fewmask.report.html import Case, ReportData, Row, render_report, text_table
from fewmask.report.table import comparison_text, headline_metrics, shown_metrics, table_rows
from fewmask.training.checkpoint import write_atomically
from fewmask.training.evaluation import Evaluation
from fewmask.training.workspace import Workspace

PAIRED = "paired by group, one seed"


def read_summary(run_path: Path) -> dict[str, Any]:
    """``metrics.json`` of a finished run.

    Raises:
        UsageError: the run has not come that far.
        CheckpointError: the file is damaged.
    """
    path = run_path / "metrics.json"
    if not path.is_file():
        raise UsageError.of(
            "RUN-UNFINISHED",
            where=run_path,
            found="no metrics.json",
            expected="a finished run",
            fix=f"fewmask resume {run_path}",
        )
    try:
        summary = json.loads(path.read_text())
        kinds = {"rows": list, "metrics": dict, "class_names": list}
        wrong = [name for name, kind in kinds.items() if not isinstance(summary[name], kind)]
        if not wrong:
            return dict(summary)
        found = f"{wrong[0]} {summary[wrong[0]]!r}"
    except (OSError, ValueError, TypeError, KeyError) as error:
        found = f"{type(error).__name__}: {error}"
    raise CheckpointError.of(
        "METRICS-DAMAGED",
        where=path,
        found=found,
        expected="the table that the run has written",
        fix=f"restore the file, or `fewmask resume {run_path}` to write it again",
    )


def summary_table(run_path: Path) -> str:
    """The table of a finished run as plain text, with the result's comparisons below it.

    Raises:
        FewmaskError: see :func:`read_summary`.
    """
    summary = read_summary(run_path)
    rows = table_rows(summary["rows"])
    lines = [text_table(rows, shown_metrics(summary["class_names"], rows))]
    for row in summary["rows"]:
        if row.get("compared"):
            lines.append(f"{row['name']}, {row['compared'][0]['metric']}, {PAIRED}:")
            lines += [f"  {comparison_text(found)}" for found in row["compared"]]
    return "\n".join(lines)


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
    rows = table_rows(summary["rows"])
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
        headline_metrics=shown_metrics(evaluation.class_names, rows),
        rows=rows,
        curves=[(label, curves_figure(records, label)) for label in labels],
        cases=cases,
        bill=module.bill(works),
        notes=notes(works, evaluation, summary),
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


def notes(works: Sequence[Workspace], evaluation: Evaluation, summary: dict[str, Any]) -> list[str]:
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
    if any(row.get("compared") for row in summary["rows"]):
        remarks.append(
            f"Differences under the result ({headline_metrics(evaluation.class_names)[0]}) are "
            f"{PAIRED}: both rows on the same test images, 95 % bootstrap interval, and a "
            "permutation test that exchanges the two rows on whole groups. The label-free control "
            "is the best one on these very images. They speak of these trained networks; another "
            "seed trains others, and a claim about the method needs at least three."
        )
    if len(works) > 1:
        remarks.append(
            f"Scores are cross-validated over {len(works)} folds; the weights that this run hands "
            f"out are those of fold {work.fold} alone."
        )
    if evaluation.incomplete:
        remarks.append("Left out, as some folds lack them: " + "; ".join(evaluation.incomplete))
    return remarks + sharpness_notes(evaluation.class_names, summary["checks"])


def sharpness_notes(class_names: Sequence[str], checks: dict[str, Any]) -> list[str]:
    """A line for each class: is the tag, or the CAM, a matter of sharpness?"""
    lines = []
    for name in class_names:
        found = checks.get(f"sharpness.auc.{name}")
        if found is None:
            continue
        line = (
            f"Image sharpness alone tells the tag {name} with an AUC of {found:.2f} on the test "
            "images (0.5: not at all; below: images with the tag are blurrier)"
        )
        follows = checks[f"sharpness.cam_correlation.{name}"]
        if follows is not None:
            line += (
                f"; the CAM's rank correlation with local sharpness is {follows:+.2f}, mean over "
                f"{checks[f'sharpness.cam_images.{name}']} of them (near +1 or -1: a sharpness map)"
            )
        lines.append(line + ".")
    return lines


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
