"""What a run writes when its last stage is done: scores, masks' manifest, weights, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from types import ModuleType
from typing import Any

from fewmask.data.folder import DataFolder
from fewmask.data.label_sets import label_set_as_dict
from fewmask.io.images import image_size
from fewmask.report.assemble import write_report
from fewmask.report.held_out import held_out_facts
from fewmask.report.table import summary_rows
from fewmask.report.verdict import verdict_of
from fewmask.training.checkpoint import (
    remove_temporaries,
    save_weights,
    sha256_file,
    write_atomically,
)
from fewmask.training.evaluation import Evaluation
from fewmask.training.export import write_manifest
from fewmask.training.known_images import KnownImages
from fewmask.training.segmenting import SegmenterPredictor
from fewmask.training.workspace import Workspace


def finish(works: Sequence[Workspace], module: ModuleType) -> None:
    """Pool the folds; write metrics.json, manifest.csv, weights and report."""
    run = works[0].run
    remove_temporaries(run.path)
    evaluation = Evaluation.read([work.stages["evaluate"] for work in works])
    rows, result = summary_rows(evaluation), evaluation.result
    summary = {
        "class_names": evaluation.class_names,
        "background": evaluation.has_background,
        "n": len(evaluation.ids),
        "metrics": rows[result]["metrics"] if result is not None else {},
        "gap_closed": rows[result]["gap_closed"] if result is not None else None,
        "verdict": asdict(verdict_of(evaluation, rows)),
        "rows": rows,
        **held_out_facts(works, evaluation),
        "checks": module.checks(works),
        "minutes": round(_total(works, "seconds", sum) / 60, 2),
        "peak_gb": _total(works, "peak_gb_so_far", max),
    }
    write_atomically(run.path / "metrics.json", json.dumps(summary, indent=1).encode())
    manifest = [r for work in works for r in work.stages["export"].read_json("manifest.json")]
    write_manifest(run.path / "masks" / "manifest.csv", manifest)
    _write_weights(works, module, summary["metrics"])
    write_report(works, evaluation, summary, module)


def _write_weights(
    works: Sequence[Workspace], module: ModuleType, metrics: Mapping[str, Any]
) -> None:
    """The final segmenter, its card and the images it knows in ``weights/``.

    For the published chain without the segmenter.

    Of a cross-validation the weights are those of the first fold, the metrics those of all.
    """
    work = works[0]
    origin = "the test part of this run, by these weights"
    if len(works) > 1:
        origin = (
            f"cross-validation: the test parts of {len(works)} folds, each by its own weights; "
            f"the weights here are those of fold {work.fold}"
        )
    folder = work.run.path / "weights"
    folder.mkdir(exist_ok=True)
    predictor = module.predictor_of(work)
    config = work.config
    card = {
        "kind": "evidence",
        "class_names": list(work.class_names),
        "class_colours": list(work.data.class_colours),
        "background": work.data.has_background,
        "image_size": list(config.working_size),
        "image_px": usual_size(work.data),
        "encoder": config.encoder,
        "encoder_weights": config.encoder_weights,
        "input": "RGB in [0, 1]; normalisation is inside the network",
        "licence": "derived from your data and from the encoder's weights",
        "fold": work.fold,
        "metrics_from": origin,
        "metrics": dict(metrics),
    }
    if work.data.label_sets:
        card["label_set"] = label_set_as_dict(work.data.label_sets["source"])
    if isinstance(predictor, SegmenterPredictor):
        save_weights(folder / "segmenter.safetensors", predictor.network)
        card |= {
            "kind": "segmenter",
            "sha256": sha256_file(folder / "segmenter.safetensors"),
            "architecture": config.segment_architecture,
            "decoder_width": config.segment_decoder_width,
            "views": config.predict_views,
            "refine": config.predict_refine,
        }
    known = KnownImages.of_stages(work.run)
    if known is not None:
        known.save(folder)
    write_atomically(folder / "card.json", json.dumps(card, indent=1).encode())


def usual_size(data: DataFolder) -> list[int]:
    """Height and width in px that are usual among a folder's images: the median of each.

    Of several domains it is the target's that will be predicted.
    """
    target = [sample for sample in data.samples if sample.id.startswith("target/")]
    images = target if data.layout == "domains" and target else data.samples
    sizes = [image_size(sample.image_path) for sample in images]
    return [round(median(side)) for side in zip(*sizes, strict=True)]


def _total(works: Sequence[Workspace], fact: str, how: Any) -> float:
    stages = {stage.label: stage for work in works for stage in work.stages.values()}
    return float(how(stage.facts.get(fact, 0) for stage in stages.values()))
