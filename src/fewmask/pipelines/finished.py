"""Use a finished run: its card, its stages, and what it predicts with."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fewmask.data.folder import DataFolder
from fewmask.errors import CheckpointError, UsageError, shell_command
from fewmask.pipelines.running import folds_of_run, recorded_settings, stages_of_run
from fewmask.training.checkpoint import load_weights, sha256_file
from fewmask.training.run_folder import DONE, RunFolder, Stage
from fewmask.training.segmenting import SegmenterPredictor, new_segmenter
from fewmask.training.workspace import Workspace

KINDS = ("segmenter", "evidence", "generator", "interpreter")
"""What a finished run has made: a trained segmenter, the published chain of stages to predict with,
a generator of images, or an interpreter of features."""


def restore_workspace(run: RunFolder, device: torch.device) -> tuple[Workspace, ModuleType]:
    """The finished stages of a run's first fold, to predict with; no data folder is opened.

    Raises:
        UsageError: the run is not finished.
        CheckpointError: its card is damaged, or one of its stages is not there.
    """
    module, config = recorded_settings(run)
    card = read_card(run)
    root, names = Path(run.record["data"]), tuple(card["class_names"])
    data = DataFolder(root, (), names, "images", None, card.get("background", True))
    folds = folds_of_run(config)
    folder = f"fold-{folds[0]}" if len(folds) > 1 else ""
    work = Workspace(run, config, data, device, folds[0], folder)
    selected = stages_of_run(module, config)
    for number, spec in enumerate(module.STAGES, start=1):
        if spec.name not in selected:
            continue
        path = run.stage_path(number, spec.name, spec.folder(work))
        if not (path / DONE).is_file():
            raise CheckpointError.of(
                "STAGE-UNFINISHED",
                where=path / DONE,
                found="no such file",
                expected="a finished stage",
                fix=shell_command("resume", run.path),
            )
        work.stages[spec.name] = Stage(run, path, spec.name, key="")  # its files are only read
    return work, module


def read_card(run: RunFolder) -> dict[str, Any]:
    """``weights/card.json`` of a finished run.

    Raises:
        UsageError: the run has not come that far.
        CheckpointError: the file is damaged.
    """
    path = run.path / "weights" / "card.json"
    if not path.is_file():
        raise UsageError.of(
            "RUN-UNFINISHED",
            where=run.path,
            found=f"state {run.status.get('state')!r}, no weights/card.json",
            expected="a finished run",
            fix=shell_command("resume", run.path),
        )
    try:
        card = dict(json.loads(path.read_text()))
        names, kind = card["class_names"], card["kind"]
        if kind in KINDS and isinstance(names, list) and all(isinstance(n, str) for n in names):
            return card
        found = f"kind {kind!r}, class_names {names!r}"
    except (OSError, ValueError, TypeError, KeyError) as error:
        found = f"{type(error).__name__}: {error}"
    raise CheckpointError.of(
        "CARD-DAMAGED",
        where=path,
        found=found,
        expected="the card that the run has written",
        fix=f"restore the file, or `{shell_command('resume', run.path)}` to write it again",
    )


def predictor_of_run(run: RunFolder, device: torch.device) -> Any:
    """The run's predictor, from ``weights/`` alone where it is a segmenter.

    Raises:
        UsageError: the run is not finished.
        CheckpointError: its weights or its card are damaged.
    """
    card = read_card(run)
    if card["kind"] != "segmenter":
        work, module = restore_workspace(run, device)
        return module.predictor_of(work)
    _, config = recorded_settings(run)
    weights = run.path / "weights" / "segmenter.safetensors"
    if not weights.is_file() or card.get("sha256", "") not in {"", sha256_file(weights)}:
        raise CheckpointError.of(
            "WEIGHTS-DAMAGED",
            where=weights,
            found="other bytes than card.json vouches for" if weights.is_file() else "no file",
            expected="the weights that the run has written",
            fix=f"restore the file, or `{shell_command('resume', run.path)}` to write it again",
        )
    num_classes = len(card["class_names"]) + card.get("background", True)
    network = new_segmenter(config, num_classes, pretrained=False)
    load_weights(weights, network)
    return SegmenterPredictor(
        network.to(device).eval(), config.working_size, config.predict_views, config.predict_refine
    )
