"""Part of pipeline ``saliency``: the rows of its table, its pictures, what a map was worth."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from fewmask.data.transforms import resize_image
from fewmask.metrics.confusion import summarise
from fewmask.metrics.paired import compare_rows
from fewmask.pipelines.saliency_config import SaliencyConfig
from fewmask.pipelines.saliency_maps import (
    COLOURS,
    FACTS,
    MapMaker,
    MapPredictor,
    channels_of,
    network_of,
    rows_of,
    stacked,
)
from fewmask.randomness import generator
from fewmask.report.bill import pretrained_labels, pretrained_weights
from fewmask.report.figures import heat_overlay, strip_png
from fewmask.report.html import Case
from fewmask.training.checkpoint import load_weights
from fewmask.training.evaluation import Candidate, Evaluation, trivial_controls
from fewmask.training.known_images import KnownImages
from fewmask.training.segmenting import SegmenterPredictor, has_encoder
from fewmask.training.workspace import Workspace

COLLAPSED_BELOW = 0.05
"""A training whose Dice on its own training images is lower has learned nothing."""
SHOWN = 3


def maps_of_row(work: Workspace, row: int) -> dict[str, np.ndarray]:
    """The channels of an image by name, (h, w) uint8; ``other`` is another image's first map."""
    stage, config = work.stages["saliency"], work.config
    names = stage.read_json("channels.json")
    maps = np.load(stage.path / "maps.npy", mmap_mode="r")
    found = {name: np.asarray(maps[row, i]) for i, name in enumerate(names)}
    if config.maps[0] in names:
        found["other"] = np.asarray(maps[another(work, row), names.index(config.maps[0])])
    return found


def another(work: Workspace, row: int) -> int:
    """The row whose map stands in for this one's: of the same part, each for one other."""
    parts = [work.rows(part) for part in work.parts]
    part = next((rows for rows in parts if row in rows), list(range(len(work.images))))
    order = generator(work.config.seed, "saliency", "other").permutation(part)
    place = int(np.flatnonzero(order == row)[0])
    return int(order[(place + 1) % len(order)])


def title_of(row: str, seed: int = 0) -> str:
    """A row's name in the table.

    >>> title_of("rgb+grad_cam"), title_of("rgb+random", 2)
    ('RGB + Grad-CAM', 'RGB + random weights, seed 2')
    """
    names = {
        COLOURS: "RGB", "sobel": "Sobel edges", "random": "random weights",
        "other": "another image's map", "cam": "CAM", "grad_cam": "Grad-CAM",
        "grad_cam_pp": "Grad-CAM++", "layer_cam": "LayerCAM", "score_cam": "Score-CAM",
        "guided_grad_cam": "guided Grad-CAM", "smoothgrad": "SmoothGrad",
    }  # fmt: skip
    words = [names.get(name, name.replace("_", " ")) for name in row.split("+")]
    return " + ".join(words) + (f", seed {seed}" if seed else "")


def candidates(work: Workspace) -> list[Candidate]:
    """Every row of every seed; the first row of the first seed is the run's answer."""
    config: SaliencyConfig = work.config
    used = len(work.stages["segment"].read_json("masks_used.json"))
    fitted = work.stages["segment"].read_json("fitted.json")
    found = trivial_controls(work.num_classes)
    for row in reversed(rows_of(config)):
        for seed in reversed(range(config.seeds)):
            dice = fitted[f"{row}-{seed}"]["train.dice"]
            own = row == rows_of(config)[0]
            found.append(
                Candidate(
                    title_of(row, seed),
                    "result" if own and not seed else "reference" if own or seed else "control",
                    _masks_of(work, row, seed),
                    masks_used=used,
                    note="collapsed: " * _collapsed(dice) + f"Dice in training {_shown(dice)}",
                )
            )
    return found


def _masks_of(work: Workspace, row: str, seed: int) -> Any:
    predictor = _segmenter(work, row, seed)

    def mask_of(number: int, image: np.ndarray) -> np.ndarray:
        small = np.asarray(work.images[number])
        pixels = stacked(row, small, maps_of_row(work, number))
        return predictor.mask_of_probs(image, predictor.enlarged(pixels, image.shape[:2]))

    return mask_of


def _segmenter(work: Workspace, row: str, seed: int = 0) -> SegmenterPredictor:
    config = work.config
    network = network_of(row, config, work.num_classes, pretrained=False)
    load_weights(work.stages["segment"].path / f"{row}-{seed}.safetensors", network)
    return SegmenterPredictor(
        network.to(work.device).eval(), config.working_size, config.predict_views,
        config.predict_refine,
    )  # fmt: skip


def predictor_of(work: Workspace) -> MapPredictor:
    """What ``fewmask predict`` applies: maps first, then the mask."""
    row = rows_of(work.config)[0]
    config = work.config.replaced(saliency_cache=None)  # a prediction writes nothing of its own
    maker = MapMaker(config, channels_of(row), work.device, work.stages["saliency"].path)
    return MapPredictor(_segmenter(work, row), maker, row)


def panels(work: Workspace, row: int, size: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:
    """The maps of a test image."""
    maps = maps_of_row(work, row)
    names = channels_of(rows_of(work.config)[0])
    return [(title_of(name), resize_image(maps[name], *size[:2]) / 255) for name in names]


def pictures(works: Sequence[Workspace]) -> list[Case]:
    """Channels of a few training images, those that are no maps too."""
    work = works[0]
    names = dict.fromkeys(name for row in rows_of(work.config) for name in channels_of(row))
    cases = []
    for number, row in enumerate(work.rows("train")[:SHOWN], start=1):
        image, maps = np.asarray(work.images[row]), maps_of_row(work, row)
        shown = [("image", image)]
        shown += [(title_of(name), heat_overlay(image, maps[name] / 255)) for name in names]
        name = work.data.samples[row].id
        cases.append(Case(f"maps {number}", name, "the input's channels", strip_png(shown)))
    return cases


def iou_and_dice(matrices: np.ndarray, class_names: Sequence[str]) -> dict[str, float | None]:
    """Pooled over the images, mean over the classes: (N, C, C) int64 to ``iou`` and ``dice``."""
    found = summarise(matrices, class_names, bootstrap=0)
    means: dict[str, float | None] = {}
    for metric in ("iou", "dice"):
        values = [found[f"{metric}.pooled.{name}"] for name in class_names]
        defined = [value for value in values if isinstance(value, float)]
        means[metric] = statistics.fmean(defined) if defined else None
    return means


def checks(works: Sequence[Workspace]) -> dict[str, Any]:
    """Of each row over its seeds: IoU and Dice on all parts, collapsed trainings, and the colours.

    ``saliency.<row>.test.iou`` is the mean, ``.sd`` beside it, ``.learned`` leaves collapsed
    trainings out; ``.gain`` is the IoU beyond the colours' alone, both summed over the seeds, with
    ``.gain.ci95`` and ``.gain.p`` over the test images' groups.
    """
    config: SaliencyConfig = works[0].config
    evaluation = Evaluation.read([work.stages["evaluate"] for work in works])
    index = {fact["name"]: i for i, fact in enumerate(evaluation.candidates)}
    fitted = [work.stages["segment"].read_json("fitted.json") for work in works]
    found: dict[str, Any] = {}
    sums: dict[str, np.ndarray] = {}
    for row in rows_of(config):
        key = f"saliency.{row}"
        collapsed = [
            any(_collapsed(of_fold[f"{row}-{seed}"]["train.dice"]) for of_fold in fitted)
            for seed in range(config.seeds)
        ]
        found[f"{key}.collapsed"] = sum(collapsed)
        for part in ("train", "val"):
            for metric in ("iou", "dice"):
                values = [
                    of_fold[f"{row}-{seed}"][f"{part}.{metric}"]
                    for of_fold in fitted for seed in range(config.seeds)
                ]  # fmt: skip
                _describe(found, f"{key}.{part}.{metric}", values)
        if not evaluation.ids:
            continue
        of_seed = [evaluation.matrices[index[title_of(row, s)]] for s in range(config.seeds)]
        sums[row] = np.sum(of_seed, axis=0)
        scores = [iou_and_dice(matrices, evaluation.class_names) for matrices in of_seed]
        for metric in ("iou", "dice"):
            values = [score[metric] for score in scores]
            _describe(found, f"{key}.test.{metric}", values)
            kept = [v for v, lost in zip(values, collapsed, strict=True) if not lost]
            if any(collapsed):
                _describe(found, f"{key}.test.{metric}.learned", kept)
    for row in sums if COLOURS in sums else ():
        if row != COLOURS:
            gain = compare_rows(sums[row], sums[COLOURS], groups=evaluation.groups)
            found[f"saliency.{row}.gain"] = gain["difference"]
            found[f"saliency.{row}.gain.ci95"] = gain["ci95"]
            found[f"saliency.{row}.gain.p"] = gain["p"]
    return found


def _describe(into: dict[str, Any], key: str, values: Sequence[float | None]) -> None:
    defined = [value for value in values if value is not None]
    into[key] = statistics.fmean(defined) if defined else None
    if len(defined) > 1:
        into[f"{key}.sd"] = statistics.stdev(defined)


def _collapsed(dice: float | None) -> bool:
    return dice is not None and dice < COLLAPSED_BELOW


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def remarks(works: Sequence[Workspace]) -> list[str]:
    """What each channel added to the colours, over the seeds."""
    config: SaliencyConfig = works[0].config
    found = checks(works)
    seeds = "1 seed" if config.seeds == 1 else f"{config.seeds} seeds"
    lines = []
    for row in rows_of(config):
        key = f"saliency.{row}"
        if f"{key}.test.iou" not in found:
            continue
        spread = found.get(f"{key}.test.iou.sd")
        line = f"{title_of(row)}, {seeds}: IoU {_shown(found[f'{key}.test.iou'])}"
        line += f" ± {spread:.3f}" if spread is not None else ""
        gain, interval = found.get(f"{key}.gain"), found.get(f"{key}.gain.ci95")
        if gain is not None and interval:
            line += f"; against RGB {gain:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
            line += f", p {found[f'{key}.gain.p']:.3f}"
        if found[f"{key}.collapsed"]:
            line += f"; {found[f'{key}.collapsed']} collapsed, without them "
            line += _shown(found[f"{key}.test.iou.learned"])
        lines.append(line + ".")
    return lines


def bill(works: Sequence[Workspace]) -> list[tuple[str, str, str]]:
    """Every label that went into the result: (what, labels, source)."""
    config: SaliencyConfig = works[0].config
    used = [len(work.stages["segment"].read_json("masks_used.json")) for work in works]
    lines = [("pixel masks", ", ".join(map(str, used)), "your data, training part of each fold")]
    if has_encoder(config):
        lines += pretrained_labels(config)
    if config.saliency_classifier is not None:
        seen = sum(len(known.fingerprints) for known in KnownImages.lent_to(works[0].run))
        lines.append(
            ("tags of the classifier", f"{seen} images", f"the run of {config.saliency_classifier}")
        )
        facts = works[0].stages["saliency"].read_json(FACTS)
        lines += pretrained_weights(
            "weights that the classifier began with", facts["settings"]["encoder_weights"]
        )
    else:
        lines += pretrained_weights("weights of the explained network", config.saliency_weights)
    return lines
