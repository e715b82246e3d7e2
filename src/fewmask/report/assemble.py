"""From a finished run to ``report.html``, ``samples/`` and the table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from fewmask.errors import CheckpointError, UsageError, shell_command
from fewmask.report.cases import draw_cases
from fewmask.report.figures import curves_figure
from fewmask.report.headings import heading
from fewmask.report.held_out import accuracy_text, made_instead, parts_text
from fewmask.report.html import ReportData, render_report, text_table
from fewmask.report.table import (
    comparison_text,
    headline_of,
    shown_metrics,
    table_rows,
    terminal_metrics,
)
from fewmask.report.verdict import NO_MASKS, Verdict
from fewmask.training import curves
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
            fix=shell_command("resume", run_path),
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
        fix=f"restore the file, or `{shell_command('resume', run_path)}` to write it again",
    )


def summary_table(run_path: Path) -> str:
    """The table of a finished run as plain text, with the result's comparisons below it.

    Raises:
        FewmaskError: see :func:`read_summary`.
    """
    summary = read_summary(run_path)
    names, background = summary["class_names"], summary.get("background", True)
    if not summary["metrics"] and not summary.get("n"):
        text = summary.get("verdict", {}).get("text", NO_MASKS)
        return "\n".join([text, *(f"  {line}" for line in made_instead(summary))])
    rows = table_rows(summary["rows"], names, background)
    lines = [text_table(rows, terminal_metrics(names, rows, background), names)]
    if "verdict" in summary:
        lines.append(str(Verdict(**summary["verdict"])))
    lines += compared_lines(summary)
    return "\n".join([lines[0], *(fill(line, 118, subsequent_indent="    ") for line in lines[1:])])


def compared_lines(summary: dict[str, Any]) -> list[str]:
    """How the result stands against its controls, below a line that says how that was found."""
    for row in summary["rows"]:
        if row.get("compared"):
            texts = [f"  {comparison_text(found)}" for found in row["compared"]]
            metric = heading(row["compared"][0]["metric"], summary["class_names"])
            return [f"{row['name']}, {metric}, {PAIRED}:", *texts]
    return []


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
    accuracy = summary["tag_accuracy"]
    names, background = evaluation.class_names, evaluation.has_background
    rows = table_rows(summary["rows"], names, background)
    records = list(curves.read(run.path))
    labels = dict.fromkeys(record["stage"] for record in records)
    cases = draw_cases(works, evaluation, module)
    folder = run.path / "samples"
    folder.mkdir(exist_ok=True)
    for case in cases:
        write_atomically(folder / f"{case.title.replace(' ', '-')}.png", case.png)
    data = ReportData(
        title=run.path.name,
        subtitle=f"fewmask {run.record['pipeline']}, preset {run.record['preset']}",
        verdict=Verdict(**summary["verdict"]),
        compared=[line.strip() for line in compared_lines(summary)[1:]],
        made=() if evaluation.ids else made_instead(summary),
        facts=[
            ("held-out images", f"{summary['held_out']:,}, scored: {summary['n']:,}"),
            ("images: train / val / test", parts_text(summary["parts"], "images")),
            ("masks: train / val / test", parts_text(summary["parts"], "masks")),
            *([("tag accuracy, held out", accuracy_text(accuracy))] if accuracy else []),
            ("classes", ", ".join(evaluation.class_names)),
            ("folds measured", str(len(works))),
            ("seed", f"{config.seed}, one seed"),
            ("minutes", f"{summary['minutes']:.1f}"),
            ("peak memory", f"{summary['peak_gb']:.1f} GB"),
            ("device", f"{run.record['device']}, threads: {config.threads}"),
        ],
        class_names=evaluation.class_names,
        headline_metrics=shown_metrics(names, rows, background),
        rows=rows,
        curves=[(label, curves_figure(records, label)) for label in labels],
        cases=cases,
        bill=module.bill(works),
        notes=[*notes(works, evaluation, summary), *module.remarks(works)],
        synthetic=bool(run.record.get("synthetic")),
        run_yaml=(run.path / "run.yaml").read_text(),
        next_commands=[
            shell_command("predict", run.path, "IMAGES", "-o", "OUT"),
            shell_command("evaluate", run.path, "OTHER_DATA", "--json"),
        ],
    )
    path = run.path / "report.html"
    write_atomically(path, render_report(data).encode())
    return path


def notes(works: Sequence[Workspace], evaluation: Evaluation, summary: dict[str, Any]) -> list[str]:
    """Remarks that belong beside the numbers."""
    work = works[0]
    remarks = ["No test image has a true mask, so nothing is scored: look at the pictures."]
    if evaluation.ids:
        remarks = [
            "One seed: another seed trains other networks, and a claim about the method takes at "
            "least three.",
            "All pixels of all test images are counted at the images' own sizes, images without "
            "the object included. Intervals are 95 % bootstrap intervals over groups.",
        ]
    if work.data.layout == "folders" and "translate" not in work.stages:
        remarks.append("There is no translation stage: the evidence is the CAM alone.")
    if any(row.get("compared") for row in summary["rows"]):
        remarks.append(
            f"Differences beside the verdict ({headline_of(evaluation)[0]}) are "
            f"{PAIRED}: both rows on the same test images, 95 % bootstrap interval, and a "
            "permutation test that exchanges the two rows on whole groups. The label-free control "
            "is the best one on these very images. They speak of the networks of this run."
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
