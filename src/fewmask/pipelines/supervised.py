"""The plain supervised segmenter: the reference of every table, and the control on k masks.

=========  ==================  ==============================
stage      reads               writes
=========  ==================  ==============================
prepare    images              images.npy, digests.json
split      masks, groups       split.json, split.csv
segment    images and masks    segmenter.safetensors
evaluate   test images         confusion.npy, evaluation.json
export     segmenter, images   RUN/masks, RUN/weights
=========  ==================  ==============================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewmask.data.folder import DataFolder
from fewmask.data.splits import Split
from fewmask.pipelines.folders import one_folder
from fewmask.pipelines.supervised_config import PRESETS, SupervisedConfig
from fewmask.report.bill import pretrained_labels
from fewmask.report.html import Case
from fewmask.training.controls import balanced_rows, few_masked_rows, masked_rows, no_masks
from fewmask.training.evaluation import FULL_SUPERVISION, Candidate, measure, trivial_controls
from fewmask.training.export import export_masks
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import (
    SegmenterPredictor,
    fit_segmenter,
    has_encoder,
    load_segmenter,
    new_segmenter,
    true_targets,
)
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace, prepare, split

__all__ = [
    "ALWAYS",
    "DATA",
    "NEEDS",
    "PRESETS",
    "STAGES",
    "SupervisedConfig",
    "pictures",
    "predictor_of",
    "refuse_impossible",
    "remarks",
    "stages_of",
]


def refuse_impossible(
    config: SupervisedConfig,
    data: DataFolder,
    stages: Sequence[str],  # noqa: ARG001 - always all
    parts: Sequence[Split],
) -> None:
    """Look for masks in each fold's cut, and build the network once, before anything is trained.

    Raises:
        DataError: there is no mask to train on.
        FewmaskError: there is no such network, or not with these weights.
    """
    masked = {s.id for s in data.samples if s.mask_path and (s.tags or not data.has_tags)}
    for part in parts:
        if masked.isdisjoint((*part.train, *part.val)):
            raise no_masks(data)
    new_segmenter(config, data.num_classes)


def train_segmenter(work: Workspace, stage: Stage) -> None:
    """Train on the masks of the training part, or on ``masks`` of them."""
    masked = masked_rows(work)
    if not masked:
        raise no_masks(work.data)
    chosen = few_masked_rows(work, work.config.masks) if work.config.masks else masked
    rows = balanced_rows(work, chosen)
    fit_segmenter(work, stage, true_targets(work, rows), rows, "segmenter")
    stage.write_json("masks_used.json", [work.data.samples[row].id for row in chosen])


def evaluate(work: Workspace, stage: Stage) -> None:
    """Measure the segmenter and the trivial controls on the held-out images."""
    predictor = predictor_of(work)
    used = len(work.stages["segment"].read_json("masks_used.json"))
    asked = work.config.masks
    result = Candidate(
        _title(work, used),
        "result",
        lambda _, image: predictor.mask(image),
        masks_used=used,
        note=f"{asked} were asked for" if used < asked else "",
    )
    measure(work, stage, [*trivial_controls(work.num_classes), result])


def _title(work: Workspace, used: int) -> str:
    """The row's name; of a cross-validation the same in every fold, whatever masks a fold has."""
    asked = work.config.masks
    there_are = sum(sample.mask_path is not None for sample in work.data.samples)
    if not asked or (work.folder and asked >= there_are):
        return FULL_SUPERVISION
    return f"segmenter on {asked if work.folder else used} true masks"


def export(work: Workspace, stage: Stage) -> None:
    """Masks of all images, the trained weights and their card."""
    export_masks(work, stage, predictor_of(work))


def predictor_of(work: Workspace) -> SegmenterPredictor:
    """What ``fewmask predict`` applies."""
    return load_segmenter(work, work.stages["segment"].path / "segmenter.safetensors")


def panels(work: Workspace, row: int, size: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:  # noqa: ARG001
    """No evidence comes before the prediction."""
    return []


def pictures(works: Sequence[Workspace]) -> list[Case]:  # noqa: ARG001
    """Nothing but test images to look at."""
    return []


def remarks(works: Sequence[Workspace]) -> list[str]:  # noqa: ARG001
    """Nothing beside the numbers."""
    return []


def bill(works: Sequence[Workspace]) -> list[tuple[str, str, str]]:
    """Every label that went into the result: (what, labels, source)."""
    used = [len(work.stages["segment"].read_json("masks_used.json")) for work in works]
    lines = [("pixel masks", ", ".join(map(str, used)), "your data, training part of each fold")]
    if has_encoder(works[0].config):
        lines += pretrained_labels(works[0].config)
    return lines


def checks(works: Sequence[Workspace]) -> dict[str, Any]:  # noqa: ARG001
    """No tag and no evidence that could cheat."""
    return {}


DATA = one_folder(require_tags=False)
STAGES = (
    StageSpec("prepare", prepare, shared=True),
    StageSpec("split", split, reads=("prepare",)),
    StageSpec(
        "segment",
        train_segmenter,
        reads=("prepare", "split"),
        settings=("masks",),
        masks=True,
        together=True,
    ),
    StageSpec("evaluate", evaluate, reads=("split", "segment"), settings=("predict",), masks=True),
    StageSpec("export", export, reads=("segment",), settings=("predict",), outside=True),
)
ALWAYS = ("prepare", "split", "segment", "evaluate", "export")
NEEDS: dict[str, tuple[str, ...]] = {}


def stages_of(config: SupervisedConfig) -> list[str]:  # noqa: ARG001 - all, whatever the settings
    """All stages, in running order."""
    return [spec.name for spec in STAGES]
