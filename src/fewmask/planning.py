"""What can be done with a data set, what it costs in labels, and about how long it takes here.

A time is counted, not remembered: how many megapixels pass through which network by the settings
of a preset, times the CPU seconds that one of them took where that was measured, times how much
faster this machine multiplies matrices. It is good to a factor of two.
"""

from __future__ import annotations

import math
import os
import time
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from fewmask.config import resolve
from fewmask.data.check import CheckReport
from fewmask.layouts.survey import Survey
from fewmask.pipelines import (
    adapt_config,
    factory_config,
    saliency_config,
    supervised_config,
    tags_config,
)

PRESET = "fast"
COSTS = {
    "segmenter, training": 3.1,
    "segmenter, a view": 1.5,
    "classifier, training": 3.1,
    "map, a view": 1.1,
    "cut along colours": 1.4,
    "translators, training": 17.0,
    "generator, training": 23.0,
}
"""CPU seconds a megapixel; measured by ``benchmarks/step_costs.py``."""
COSTS_GFLOPS = 42.9
"""What one core of that machine reached at :func:`matrix_rate`."""
CORES_TELL = 0.8
"""So many times as many cores are that to this power times as fast."""
VIEWS = {"single": 1, "mirror": 2, "dihedral": 8}
FEW = 30
"""Masks that somebody may be asked to draw."""


class Plan(NamedTuple):
    """One thing to do with a data set.

    Attributes:
        command: The command, without its arguments.
        purpose: What comes out.
        labels: What it costs in labels.
        lacks: What the data set does not have, or "".
        minutes: About how long it takes on this machine with preset ``fast``; None if unknown.
    """

    command: str
    purpose: str
    labels: str
    lacks: str = ""
    minutes: float | None = None

    def __str__(self) -> str:
        if self.lacks:
            return f"{self.command}: needs {self.lacks}"
        about = "" if self.minutes is None else f"; about {duration(self.minutes)}"
        return f"{self.command}: {self.purpose}, from {self.labels}{about}"


def plans_of(report: CheckReport | Survey) -> list[Plan]:
    """What each pipeline could do with a data set; nothing where no image can be used.

    Args:
        report: What :func:`fewmask.checking.check` has found.
    """
    counts = report.counts
    if isinstance(report, CheckReport):
        tagged = counts["images"] - counts["without_tag"] if "tags" in report.uses else 0
        usable = bool(report.uses)
    else:  # as the copy will be; the class on most images leaves some without
        tagged = max(counts["classes"].values(), default=0)
        usable = counts["images"] > 0
    return plans_for(counts["images"], counts["masks"], tagged) if usable else []


def plans_for(images: int, masks: int, tagged: int) -> list[Plan]:
    """What each pipeline could do with so much.

    Args:
        images: How many there are.
        masks: How many of them have a mask.
        tagged: How many are known to show an object; if any are, the rest shows none.
    """
    both = 0 < tagged < images
    few = f"{masks} masks" if masks else f"about {FEW} masks, which you would draw"
    return [
        Plan("fewmask tags", "masks and a segmenter", f"the tags of {images} images, no mask",
             "" if both else "images with and without the object, tagged so",
             minutes_of("tags", images, masks) if both else None),
        Plan("fewmask train", "a segmenter", f"{masks} masks",
             "" if masks else "masks", minutes_of("train", images, masks) if masks else None),
        Plan("fewmask saliency", "a segmenter that also sees what a classifier looked at",
             f"{masks} masks", "" if masks else "masks",
             minutes_of("saliency", images, masks) if masks else None),
        Plan("fewmask adapt --target FOLDER", "a segmenter for images in another light",
             f"{masks} masks of these images", "" if masks else "masks of one of two domains",
             minutes_of("adapt", images, masks) if masks else None),
        Plan("fewmask factory", "synthetic images with masks, and whether they help",
             f"{images} images and {few}", "", minutes_of("factory", images, masks)),
    ]  # fmt: skip


Work = dict[str, float]
"""Megapixels of each kind of work."""


def minutes_of(pipeline: str, images: int, masks: int) -> float:
    """About how long a pipeline takes here with preset ``fast``.

    Args:
        pipeline: tags, train, saliency, adapt or factory.
        images: How many there are.
        masks: How many of them have a mask; none: as many as one may be asked to draw.
    """
    work = {
        "tags": lambda: of_tags(images),
        "train": lambda: of_train(masks or FEW),
        "saliency": lambda: of_saliency(masks or FEW),
        "adapt": lambda: of_adapt(masks or FEW),
        "factory": lambda: of_factory(images, masks or FEW),
    }[pipeline]()
    return _slower_here() * sum(COSTS[kind] * megapixels for kind, megapixels in work.items()) / 60


def of_tags(images: int) -> Work:
    """Work of ``fewmask tags``."""
    config = resolve(tags_config.TagsConfig, tags_config.PRESETS, PRESET)
    train, size = _train(images, config), config.image_size**2 / 1e6
    views = images * VIEWS[config.cam_views] * len(config.cam_scales)
    own = 1 + config.segment_rounds
    trainings = own + len(config.controls_masks) + config.controls_full
    return {
        "translators, training": config.translate_steps * config.translate_batch_size
        * config.translate_image_size**2 / 1e6,
        "classifier, training": size * config.classify_batch_size * max(
            config.classify_min_steps,
            config.classify_epochs * math.ceil(train / config.classify_batch_size),
        ),
        "map, a view": size * views,
        "segmenter, training": trainings * _segmenter(config, train, size),
        "segmenter, a view": size * images * VIEWS[config.predict_views] * own,
        "cut along colours": size * images * own,
    }  # fmt: skip


def of_train(masks: int) -> Work:
    """Work of ``fewmask train``."""
    config = resolve(supervised_config.SupervisedConfig, supervised_config.PRESETS, PRESET)
    size = config.image_size**2 / 1e6
    return {
        "segmenter, training": _segmenter(config, _train(masks, config), size),
        "segmenter, a view": size * masks * VIEWS[config.predict_views],
    }


def of_saliency(masks: int) -> Work:
    """Work of ``fewmask saliency``."""
    config = resolve(saliency_config.SaliencyConfig, saliency_config.PRESETS, PRESET)
    size = config.image_size**2 / 1e6
    rows = (1 + config.controls_rgb + len(config.controls_maps)) * config.seeds
    return {
        "map, a view": masks * config.saliency_image_size**2 / 1e6 * len(config.maps),
        "segmenter, training": rows * _segmenter(config, _train(masks, config), size),
        "segmenter, a view": rows * size * masks * VIEWS[config.predict_views],
    }


def of_adapt(masks: int) -> Work:
    """Work of ``fewmask adapt``, with as many target images as there are source images."""
    config = resolve(adapt_config.AdaptConfig, adapt_config.PRESETS, PRESET)
    size = config.image_size * config.image_width / 1e6
    first = _segmenter(config, _train(masks, config), size)
    more = config.total_rounds * config.adapt_steps * config.adapt_batch_size * size
    trainings = 1 + config.controls_source_only
    sizes = sum(scale**2 for scale in config.adapt_sizes)
    return {
        "segmenter, training": trainings * (first + more),
        "segmenter, a view": size * masks * VIEWS[config.predict_views] * (sizes + trainings),
    }


def of_factory(images: int, masks: int) -> Work:
    """Work of ``fewmask factory train`` and ``judge``; the interpreter takes little beside them."""
    config = resolve(factory_config.FactoryConfig, factory_config.PRESETS, PRESET)
    judge = resolve(factory_config.JudgeConfig, factory_config.JUDGE_PRESETS, PRESET)
    size = judge.image_size**2 / 1e6
    known = {"few", "few-plain", "synthetic", "both"} if masks <= FEW else {*judge.judge_rows}
    steps = judge.judge_steps * len(known & {*judge.judge_rows})
    return {
        "generator, training": config.generate_kimg * 1000 * config.image_size**2 / 1e6,
        "segmenter, training": steps * judge.segment_batch_size * size,
        "segmenter, a view": size * images * VIEWS[judge.predict_views],
    }


def duration(minutes: float) -> str:
    """In words.

    >>> duration(0.4), duration(12.3), duration(170), duration(3000)
    ('a minute', '12 minutes', '3 hours', '2 days')
    """
    if minutes < 90:
        return "a minute" if minutes < 1.5 else f"{minutes:.0f} minutes"
    hours = minutes / 60
    return f"{hours:.0f} hours" if hours < 36 else f"{hours / 24:.0f} days"


def matrix_rate() -> float:
    """Gigaflops of one core, at products of matrices; the best of a few, if others are at work."""
    a = np.ones((768, 768), np.float32)
    best = math.inf
    with threadpool_limits(1):
        for _ in range(8):
            started = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - started)
    return 2 * len(a) ** 3 / best / 1e9


@cache
def _slower_here() -> float:
    """Seconds here for a CPU second of one core of the machine where costs were measured."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return COSTS_GFLOPS / matrix_rate() / cores**CORES_TELL


def _segmenter(config: Any, images: int, megapixels: float) -> float:
    """Megapixels of a training of the segmenter on so many images."""
    per_epoch = math.ceil(max(images, 1) / config.segment_batch_size)
    steps = max(config.segment_epochs * per_epoch, config.segment_min_steps)
    return float(steps * config.segment_batch_size * megapixels)


def _train(images: int, config: Any) -> int:
    """Images of the training part: one fold tests, and a share of the rest validates."""
    return round(images * (1 - 1 / config.test_folds) * (1 - config.val_fraction))
