"""Part of pipeline ``factory``: the reports of a generator and of an interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fewmask.errors import shell_command
from fewmask.io.images import read_image
from fewmask.models.pixel_classifier import Labels
from fewmask.pipelines.factory_features import picture_of, teacher_generator
from fewmask.pipelines.factory_generator import SHEET
from fewmask.pipelines.factory_watch import contact_sheet
from fewmask.report.bill import pretrained_labels
from fewmask.report.figures import curves_figure, drawn_ids, strip_png
from fewmask.report.held_out import parts_text
from fewmask.report.html import Case, ReportData, render_report
from fewmask.report.verdict import Verdict
from fewmask.training import curves
from fewmask.training.checkpoint import write_atomically
from fewmask.training.segmenting import true_targets
from fewmask.training.workspace import Workspace

SHEET_PX = 640
"""Side of a sheet of samples."""
SHOWN = 8
"""Annotated images in a report."""


def generator_report(work: Workspace, summary: dict[str, Any]) -> None:
    """Write the report of ``fewmask factory train``."""
    run, config = work.run, work.config
    label = work.stages["generate"].label
    records = list(curves.read(run.path))
    sheets = sorted((run.path / "samples" / work.folder).glob("generated-*.png"))
    shown = [sheets[i] for i in sorted({0, len(sheets) // 2, len(sheets) - 1})]
    real = contact_sheet(np.asarray(work.images[work.rows("train")[: SHEET * SHEET]]), SHEET)
    panels = [("real images", real)]
    panels += [(f"after {int(p.stem.split('-')[1]):,} images", read_image(p)) for p in shown]
    data = ReportData(
        title=run.path.name,
        subtitle=f"fewmask factory train, preset {run.record['preset']}",
        verdict=Verdict(**summary["verdict"]),
        facts=[
            ("images: train / val / test", parts_text(summary["parts"], "images")),
            ("image size", f"{config.image_size} px"),
            ("seed", f"{config.seed}, one seed"),
            ("minutes", f"{summary['minutes']:.1f}"),
            ("peak memory", f"{summary['peak_gb']:.1f} GB"),
            ("device", f"{run.record['device']}, threads: {config.threads}"),
        ],
        class_names=work.class_names,
        headline_metrics=[],
        rows=[],
        made=summary["made"],
        curves=[(label, curves_figure(records, label))],
        cases=[
            Case(title, "", "", strip_png([(title, sheet)], height_px=SHEET_PX))
            for title, sheet in panels
        ],
        cases_title="Images",
        bill=[
            ("images without masks", f"{len(work.rows('train')):,}", "your data, training part"),
            *pretrained_labels(config),
        ],
        notes=[
            "KID compares features of a packaged network, not InceptionV3: values compare within "
            "this report and with no published table.",
            "A low distance says that two sets of images are alike, not that a segmenter gains.",
        ],
        synthetic=bool(run.record.get("synthetic")),
        run_yaml=(run.path / "run.yaml").read_text(),
        next_commands=[shell_command(*summary["next"])],
    )
    write_atomically(run.path / "report.html", render_report(data).encode())


def interpreter_report(
    work: Workspace, summary: dict[str, Any], label: Callable[[int], Labels]
) -> None:
    """Write the report of ``fewmask factory label``; ``label`` says what was learned of a row."""
    run, config = work.run, work.config
    records = list(curves.read(run.path))
    data = ReportData(
        title=run.path.name,
        subtitle=f"fewmask factory label, route {config.route}, preset {run.record['preset']}",
        verdict=Verdict(**summary["verdict"]),
        facts=[
            ("annotated images", str(summary["annotated"])),
            ("classes", ", ".join(work.class_names)),
            ("pixel classifiers", str(config.interpret_members)),
            ("seed", f"{config.seed}, one seed"),
            ("minutes", f"{summary['minutes']:.1f}"),
            ("peak memory", f"{summary['peak_gb']:.1f} GB"),
            ("device", f"{run.record['device']}, threads: {config.threads}"),
        ],
        class_names=work.class_names,
        headline_metrics=[],
        rows=[],
        made=summary["made"],
        curves=[
            (label, curves_figure(records, label))
            for label in dict.fromkeys(record["stage"] for record in records)
        ],
        cases=_cases(work, label),
        cases_title="Annotated images",
        bill=[
            ("pixel masks", str(summary["annotated"]), f"yours, route {config.route}"),
            *(pretrained_labels(config) if config.route != "generated" else []),
        ],
        notes=["The pictures show images that the interpreter has learned from: no test."],
        synthetic=bool(run.record.get("synthetic")),
        run_yaml=(run.path / "run.yaml").read_text(),
        next_commands=[shell_command(*summary["next"])],
    )
    write_atomically(run.path / "report.html", render_report(data).encode())


def _cases(work: Workspace, label: Callable[[int], Labels]) -> list[Case]:
    """Image, what the generator makes of it, the mask as drawn, and as learned."""
    rows = range(min(SHOWN, len(work.data.samples)))
    masks, cases = true_targets(work, rows), []
    network = teacher_generator(work) if work.config.route == "invert" else None
    for row in rows:
        panels: list[tuple[str, np.ndarray]] = [
            ("annotated image", work.images[row]),
            ("mask as drawn", drawn_ids(masks[row], has_background=True)),
        ]
        if network is not None:
            ws = np.load(work.stages["invert"].path / "styles.npy", mmap_mode="r")[row : row + 1]
            styles = torch.from_numpy(np.array(ws)).to(work.device)
            with torch.no_grad():
                repeated = picture_of(network.synthesis(styles, "none"))[0]
            panels.append(("as the generator repeats it", repeated))
        learned = label(row)
        spread = learned.disagreement[0].cpu().numpy()
        panels += [
            ("as learned", learned.mask[0].cpu().numpy().astype(np.uint8)),
            ("disagreement", spread / max(float(np.log(len(work.class_names) + 1)), 1e-9)),
        ]
        panels = [(t, p.clip(0, 1) if p.dtype.kind == "f" else p) for t, p in panels]
        sample = work.data.samples[row]
        fact = f"mean disagreement {spread.mean():.3f} nats"
        cases.append(Case(f"annotated {row + 1}", sample.id, fact, strip_png(panels)))
    return cases
