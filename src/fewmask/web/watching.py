"""What a run is doing: its stages, how long it still takes, its curves, pictures of its stages."""

from __future__ import annotations

import csv
import json
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.errors import FewmaskError
from fewmask.pipelines.running import folds_of_run, recorded_settings, stages_of_run
from fewmask.report.figures import heat_overlay, overlay
from fewmask.training import curves
from fewmask.training.run_folder import DONE, RunFolder
from fewmask.web.library import not_there

LOG_LINES = 200
MOST_POINTS = 300
PREVIEWS = 6
KINDS = {"image": "image", "evidence": "evidence", "target": "pseudo-mask"}
_STEP = re.compile(r"^\S+ (\S+)(?: \S+)?: \D*(\d+)/(\d+), \d+ s")


@dataclass(frozen=True)
class StageState:
    """One stage of a run.

    Attributes:
        label: Its folder below the run.
        name: Of the stage.
        fold: Sub-folder of the fold; empty without cross-validation.
        state: ``done``, ``under way`` or ``to come``.
        seconds: That it has taken so far; None where it has not begun.
    """

    label: str
    name: str
    fold: str
    state: str
    seconds: float | None


def stages_of(run: RunFolder) -> list[StageState]:
    """The stages that a run passes through, in order; none if its settings cannot be read."""
    try:
        module, config = recorded_settings(run)
        selected, folds = stages_of_run(module, config), folds_of_run(config)
    except FewmaskError:
        return []
    status, running = run.status, run.status.get("state") == "running"
    found: dict[str, StageState] = {}
    for fold in folds:
        for number, spec in enumerate(module.STAGES, start=1):
            if spec.name not in selected:
                continue
            folder = f"fold-{fold}" if len(folds) > 1 and not spec.shared else ""
            path = run.stage_path(number, spec.name, folder)
            label = path.relative_to(run.path).as_posix()
            state, seconds = "to come", None
            if (path / DONE).is_file():
                state, seconds = "done", _seconds(path)
            elif running and status.get("stage") == label:
                state, seconds = "under way", _since(str(status.get("time")))
            found.setdefault(label, StageState(label, spec.name, folder, state, seconds))
    return list(found.values())


def _seconds(path: Path) -> float | None:
    try:
        return float(json.loads((path / DONE).read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _since(text: str) -> float | None:
    try:
        return max(0.0, time.time() - datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp())
    except ValueError:
        return None


def state_of(run: RunFolder, others: Sequence[RunFolder] = ()) -> dict[str, Any]:
    """Everything that the page of a run shows and that changes.

    Args:
        run: The run.
        others: Runs that tell how long such a run takes here.
    """
    stages, lines = stages_of(run), log_lines(run)
    summary = run.summary()
    under_way = summary["state"] == "running"
    left, source = time_left(run, stages, others) if under_way else (None, "")
    return {
        **{name: summary[name] for name in ("pipeline", "preset", "state", "score", "error")},
        "stages": [asdict(stage) for stage in stages],
        "seconds": sum(stage.seconds or 0 for stage in stages),
        "step": _step(lines, stages) if under_way else None,
        "seconds_left": left,
        "left_by": source,
        "log": lines[-LOG_LINES:],
        "has_report": (run.path / "report.html").is_file(),
        "pictures": [path.relative_to(run.path / "samples").as_posix() for path in samples(run)],
    }


def log_lines(run: RunFolder) -> list[str]:
    """The lines of ``log.txt``."""
    path = run.path / "log.txt"
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _step(lines: Sequence[str], stages: Sequence[StageState]) -> dict[str, Any] | None:
    """How far the last loop of the stage under way has come, as far as the log tells."""
    at_work = {stage.label for stage in stages if stage.state == "under way"}
    for line in reversed(lines[-20:]):
        match = _STEP.match(line)
        if match and match[1] in at_work:
            return {"stage": match[1], "done": int(match[2]), "of": int(match[3])}
    return None


def time_left(
    run: RunFolder, stages: Sequence[StageState], others: Sequence[RunFolder]
) -> tuple[float | None, str]:
    """Seconds that a run still takes, by a finished one of its pipeline and preset.

    Args:
        run: The run.
        stages: Its stages.
        others: Newest first; the first that has finished the same stages is taken.

    Returns:
        Seconds and where they come from; None and empty where there is no such run.
    """
    for other in others:
        same = all(other.record.get(k) == run.record.get(k) for k in ("pipeline", "preset"))
        if other.path == run.path or not same or not other.is_finished():
            continue
        took = {stage.label: stage.seconds for stage in stages_of(other)}
        if any(took.get(stage.label) is None for stage in stages):
            continue
        scale = image_count(run) / max(image_count(other), 1)
        left = 0.0
        for stage in stages:
            expected = (took[stage.label] or 0) * scale
            if stage.state == "to come":
                left += expected
            elif stage.state == "under way":
                left += max(0.0, expected - (stage.seconds or 0))
        times = "" if scale == 1 else f", {scale:.2g} times its images"
        return left, f"by run {other.path.name}{times}"
    return None, ""


def image_count(run: RunFolder) -> int:
    """Number of images of a run; 0 before its first stage is done."""
    for path in sorted(run.path.glob("*-prepare/digests.json")):
        try:
            return len(json.loads(path.read_text()))
        except (OSError, ValueError):
            return 0
    return 0


def curves_of(run: RunFolder) -> list[dict[str, Any]]:
    """Every number that the loops have recorded, by stage and loop, thinned to what a screen shows.

    Returns:
        ``{"stage", "loop", "name", "points": [[step, value], …]}`` in order of appearance.
    """
    found: dict[tuple[str, str, str], list[list[float]]] = defaultdict(list)
    for line in curves.read(run.path):
        stage, loop, step = str(line["stage"]), str(line.get("loop", "")), line.get("step")
        if not isinstance(step, int | float):
            continue
        for name, value in line.items():
            if name not in {"stage", "loop", "step"} and isinstance(value, int | float):
                found[stage, loop, name].append([step, value])
    return [
        {"stage": stage, "loop": loop, "name": name, "points": _thinned(points)}
        for (stage, loop, name), points in found.items()
    ]


def _thinned(points: list[list[float]]) -> list[list[float]]:
    """Means of neighbours, at most :data:`MOST_POINTS`."""
    if len(points) <= MOST_POINTS:
        return points
    parts = np.array_split(np.array(points, float), MOST_POINTS)
    return [[float(part[-1, 0]), float(part[:, 1].mean())] for part in parts]


def samples(run: RunFolder) -> list[Path]:
    """Pictures that the run has put into ``samples/``."""
    return sorted((run.path / "samples").rglob("*.png"))


def sample(run: RunFolder, name: str) -> Path:
    """One of :func:`samples` by its name.

    Raises:
        UsageError: there is none.
    """
    found = {path.relative_to(run.path / "samples").as_posix(): path for path in samples(run)}
    if name not in found:
        raise not_there("picture", name)
    return found[name]


def previews(run: RunFolder) -> dict[str, Any]:
    """Which images, and which of :data:`KINDS`, the stages have made so far.

    Returns:
        ``kinds`` and ``rows``, each with ``row`` and ``id``.
    """
    split = stage_file(run, "split", "split.csv")
    if split is None or stage_file(run, "prepare", "images.npy") is None:
        return {"kinds": [], "rows": []}
    with split.open(newline="") as stream:
        rows = [(row, line["id"], line["tags"]) for row, line in enumerate(csv.DictReader(stream))]
    tagged = [each for each in rows if each[2]] or rows
    drawn = [tagged[i * len(tagged) // PREVIEWS] for i in range(min(PREVIEWS, len(tagged)))]
    kinds = ["image"]
    kinds += ["evidence"] * bool(stage_file(run, "evidence", "cams.npy"))
    kinds += ["target"] * bool(stage_file(run, "pseudo_masks", "targets.npy"))
    return {
        "kinds": [{"kind": kind, "title": KINDS[kind]} for kind in kinds],
        "rows": [{"row": row, "id": name} for row, name, _ in drawn],
    }


def preview(run: RunFolder, row: int, kind: str) -> np.ndarray:
    """An image of the run, bare or with what a stage has made of it.

    Returns:
        uint8 (H, W, 3) at the working size.

    Raises:
        UsageError: no such image, or the stage is not done.
    """
    images = _array(run, "prepare", "images.npy")
    made = {"evidence": ("evidence", "cams.npy"), "target": ("pseudo_masks", "targets.npy")}
    array = _array(run, *made[kind]) if kind in made else images
    if images is None or array is None or not 0 <= row < len(images):
        raise not_there("picture", f"{kind} {row}")
    image = np.array(images[row])
    if kind == "evidence":
        return heat_overlay(image, np.asarray(array[row], np.float32).max(0))
    return overlay(image, array[row]) if kind == "target" else image


def stage_file(run: RunFolder, stage: str, name: str) -> Path | None:
    """A file of a finished stage, of the first fold that has it."""
    for folder in sorted([*run.path.glob(f"*-{stage}"), *run.path.glob(f"fold-*/*-{stage}")]):
        if (folder / DONE).is_file() and (folder / name).is_file():
            return folder / name
    return None


def _array(run: RunFolder, stage: str, name: str) -> np.ndarray | None:
    path = stage_file(run, stage, name)
    return np.load(path, mmap_mode="r") if path else None
