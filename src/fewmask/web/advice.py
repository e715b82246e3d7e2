"""What a checked data folder is good for: pipelines that fit, what they cost in labels and time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewmask.planning import PRESET, duration, minutes_of
from fewmask.training.run_folder import RunFolder
from fewmask.web.watching import image_count


@dataclass(frozen=True)
class Advice:
    """One pipeline, seen from a data folder.

    Attributes:
        pipeline: Its name.
        fits: Whether it can start from this folder as it is.
        is_first: Whether it is what to try first.
        why: In words.
        labels: What it costs in labels.
        time: What it takes, if a run here tells.
    """

    pipeline: str
    fits: bool
    is_first: bool
    why: str
    labels: str
    time: str


def advise(
    report: Mapping[str, Any], runs: Sequence[RunFolder], *, other_folders: int
) -> list[Advice]:
    """What fits a folder.

    Args:
        report: Of ``fewmask check --json`` on a plain folder.
        runs: Runs that tell how long one takes.
        other_folders: Number of further data folders, one of which could be a target domain.
    """
    counts, uses = report["counts"], set(report["uses"])
    images, masks, untagged = counts["images"], counts["masks"], counts["without_tag"]
    tags, train, can_read = "tags" in uses, "train" in uses, "predict" in uses
    few = f"{masks} of {images} images have a mask"
    first = "train" if train and 2 * masks >= images else "tags" if tags else "train"
    sure = f"{images} answers, yes or no: about {_duration(images)} at a second each"
    drawn = f"{masks} masks" + (" (and the tags, if any, are not needed)" if tags else "")
    found = [
        ("tags", tags,
         f"each image says what is on it ({images - untagged} with a tag, {untagged} without)"
         if tags else "each image must say whether the object is on it, and some must not show it",
         sure + (f"; the {masks} masks only measure" if masks else "") if tags else ""),
        ("train", train, few if train else "some images need a mask", drawn if train else ""),
        ("saliency", train, f"{few}; tells what saliency maps add to them" if train
         else "some images need a mask", drawn if train else ""),
        ("adapt", train and other_folders > 0,
         "masks of one kind of image here; another folder has the kind to adapt to"
         if train and other_folders else "needs masks here, and a second folder (--data) of the "
         "images to adapt to", f"{masks} masks of this kind, none of the other" if train else ""),
    ]  # fmt: skip
    return [
        Advice(name, fits, fits and name == first, why, labels,
               time_of(name, images, masks, runs))
        if can_read
        else Advice(name, False, False, "the problems must be mended first", "", "")
        for name, fits, why, labels in found
    ]  # fmt: skip


def time_of(pipeline: str, images: int, masks: int, runs: Sequence[RunFolder]) -> str:
    """How long a pipeline takes on so many images: by a finished run of it, or as counted."""
    finished = [r for r in runs if r.record.get("pipeline") == pipeline and r.is_finished()]
    finished.sort(key=lambda run: run.record.get("preset") != PRESET)
    for run in finished:
        try:
            minutes = float(json.loads((run.path / "metrics.json").read_text())["minutes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        seconds = minutes * 60 * images / max(image_count(run), 1)
        preset = run.record.get("preset")
        return f"about {_duration(seconds)} with preset {preset}, by run {run.path.name}"
    return f"about {duration(minutes_of(pipeline, images, masks))} with preset {PRESET}"


def _duration(seconds: float) -> str:
    """In words.

    >>> _duration(40), _duration(480), _duration(9000)
    ('40 s', '8 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
