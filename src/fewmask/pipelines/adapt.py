"""Labelled source domain and unlabelled target domain to a segmenter for the target: day to night.

Sources: "Semantic segmentation at night" by UNIT, Panoptic FPN and self-training, tested on
Nighttime Driving. Ours: labels by class-balanced self-training and a random walk, see
``adapt_labels``; a mean teacher with ClassMix, see ``adapt_teaching``.

==========  ===========================================  ============================  ============
stage       reads                                        writes                        published in
==========  ===========================================  ============================  ============
prepare     images of all folders                        images.npy, digests.json      (ours)
split       the folders, digests                         split.json, split.csv         4.1
translate   source and target images                     unit.safetensors              3.2
render      source images; UNIT or target images         rendered.npy, rendered.json   3.2
choose      target images                                chosen.json                   3.4, 4.2
segment     source images and masks, translated copies   segmenter.safetensors         3.3
adapt       the same, chosen target images               adapted.safetensors           3.4
controls    source masks; for the oracle the target's    source-only, oracle           (ours)
evaluate    test images and masks                        confusion.npy                 4.2
export      target and test images, translated copies    RUN/masks, RUN/translated     (ours)
==========  ===========================================  ============================  ============

Differs from the paper (preset ``paper``):

- Both networks work at 512 x 1024 px; the paper enlarges its translations to 1024 x 2048 for the
  segmenter. Masks are predicted at the images' own sizes.
- Of the segmenter's training nothing is published: Panoptic FPN's SGD, rate 0.01 and decay 1e-4
  stand in, with batches of 8, 50 passes, and 10,000 steps a round; a cosine with warm-up, gradients
  cut at norm 5, images mirrored and enlarged or made smaller by up to 25 %.
- Extra training on translated images alone, one of its variants, is ``segment_translated_steps``.
- UNIT is trained between the two folders at hand; the paper had NEXET's day and night for it.
- Target images are chosen by EfficientNet-Lite0's features, not InceptionV3's, and the nearest are
  kept, not those below a threshold that belongs to one network.
- Its test images are no part of what is learned from.

The other presets leave the paper by design.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from fewmask.data.loading import Stacked, steps_per_epoch
from fewmask.io.images import write_image, write_mask
from fewmask.masks.confidence import place_prior
from fewmask.pipelines.adapt_checks import refuse_impossible
from fewmask.pipelines.adapt_choice import BEGIN, Choice, choose_targets, chosen_rows
from fewmask.pipelines.adapt_config import PRESETS, AdaptConfig
from fewmask.pipelines.adapt_data import DOMAINS, domain_rows, masked_rows
from fewmask.pipelines.adapt_labelled import Labelled, labelled, render
from fewmask.pipelines.adapt_labels import Labelling, MeanOfNetworks, label_images
from fewmask.pipelines.adapt_rows import (
    bill,
    candidates,
    checks,
    panels,
    pictures,
    predictor_of,
    remarks,
)
from fewmask.pipelines.adapt_teaching import teacher
from fewmask.pipelines.adapt_translation import train_unit
from fewmask.training.checkpoint import save_weights
from fewmask.training.evaluation import measure, measured_rows, refuse_descendants
from fewmask.training.export import export_masks
from fewmask.training.fit import FitSettings
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import (
    fit_segmenter,
    fit_settings,
    load_segmenter,
    true_targets,
)
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace, prepare, split_by

__all__ = [
    "ALWAYS",
    "DATA",
    "NEEDS",
    "PRESETS",
    "STAGES",
    "AdaptConfig",
    "bill",
    "checks",
    "panels",
    "pictures",
    "predictor_of",
    "refuse_impossible",
    "remarks",
    "stages_of",
]


def first_steps(work: Workspace) -> int:
    """Optimiser steps before any self-training."""
    config: AdaptConfig = work.config
    epoch = steps_per_epoch(len(masked_rows(work, "source")), config.segment_batch_size)
    steps = max(config.segment_epochs * epoch, config.segment_min_steps)
    return steps + config.segment_translated_steps


def _steps(work: Workspace, steps: int, **changes: Any) -> FitSettings:
    return replace(fit_settings(work.config), epochs=0, min_steps=steps, **changes)


def _fit(work: Workspace, stage: Stage, data: Labelled, name: str, **arguments: Any) -> nn.Module:
    return fit_segmenter(
        work,
        stage,
        Stacked(*data.targets),
        data.rows,
        name,
        images=Stacked(*data.images),
        shares=data.shares,
        **arguments,
    )


def train_segmenter(work: Workspace, stage: Stage) -> None:
    """Train on the source images and their translated copies, then perhaps on these alone."""
    more = work.config.segment_translated_steps
    name = "on-both" if more else "segmenter"
    _fit(work, stage, labelled(work), name, settings=_steps(work, first_steps(work) - more))
    if more:
        start, settings = stage.path / f"{name}.safetensors", _steps(work, more)
        _fit(work, stage, labelled(work, translated=1), "segmenter", start=start, settings=settings)


def adapt(work: Workspace, stage: Stage) -> None:
    """Self-training on target images; what it began with is kept where it tells more.

    Writes ``adapted.safetensors`` and ``adaptation.json``: the ``information`` of each network that
    was there to choose from, which was ``kept``, and whether self-training was ``stopped``.
    """
    config: AdaptConfig = work.config
    data, rows = labelled(work), chosen_rows(work)
    start = work.stages["segment"].path / "segmenter.safetensors"
    prior = None
    if config.adapt_place_prior:
        truth = np.stack([data.targets[0][row] for row in masked_rows(work, "source")])
        prior = place_prior(truth, work.num_classes) ** config.adapt_place_prior
    choice = Choice(work, rows)
    choice.offer(BEGIN, load_segmenter(work, start).network)
    rate = config.adapt_learning_rate
    settings = _steps(work, config.adapt_steps, learning_rate=rate, ema_from_start=True)
    for number in range(1, config.total_rounds + 1):
        if config.adapt_method == "teacher":
            name = "taught"
            taught = teacher(work, rows, f"{stage.label}/{name}", prior)
            network = _fit(work, stage, data, name, start=start, settings=settings, teach=taught)
        else:
            name = f"round {number}"
            how = Labelling(
                keep=config.adapt_keep,
                views=config.predict_views,
                sizes=config.adapt_sizes,
                walk=config.adapt_walk,
                prior=prior,
            )
            labelling = choice.network
            if number == 1 and config.adapt_networks > 1:
                labelling = MeanOfNetworks([labelling, *_further_networks(work, stage, data)])
            labels = label_images(labelling, work.images, rows, work.num_classes, how)
            even, share = np.ones(len(rows)), config.adapt_target_share
            more = data.joined(work.images[rows], [labels], share, even)
            file, loss = f"round-{number}", config.adapt_loss
            network = _fit(work, stage, more, file, start=start, settings=settings, loss=loss)
            start = stage.path / f"{file}.safetensors"
        if not choice.offer(name, network):
            break
    stopped = config.total_rounds > 0 and choice.kept.startswith(BEGIN)
    save_weights(stage.path / "adapted.safetensors", choice.network)
    stage.write_json(
        "adaptation.json",
        {"information": choice.information, "kept": choice.kept, "stopped": stopped},
    )
    values = ", ".join(f"{name} {value:.3f}" for name, value in choice.information.items())
    end = ("self-training stopped, " if stopped else "") + f"kept {choice.kept}"
    work.run.log(f"{stage.label}: information in the labels: {values}; {end}")


def _further_networks(work: Workspace, stage: Stage, data: Labelled) -> list[nn.Module]:
    """Networks trained on the labelled images alone, as long as the one to adapt will be."""
    config: AdaptConfig = work.config
    settings = _steps(work, first_steps(work) + config.adapt_steps)
    names = [f"further-{number}" for number in range(2, config.adapt_networks + 1)]
    return [_fit(work, stage, data, name, settings=settings) for name in names]


def controls(work: Workspace, stage: Stage) -> None:
    """The same network in as many steps: on the source alone, and, as oracle, on target masks too.

    Nothing is trained where there is no mask to measure by.
    """
    config: AdaptConfig = work.config
    rounds = config.total_rounds if "adapt" in work.stages else 0
    steps = first_steps(work) + rounds * config.adapt_steps
    measurable, of_target = bool(measured_rows(work)), masked_rows(work, "target")
    changed = "render" in work.stages or "adapt" in work.stages
    made: dict[str, int] = {}
    if measurable and changed and config.controls_source_only:
        plain = labelled(work, translated=0)
        _fit(work, stage, plain, "source-only", settings=_steps(work, steps))
        made["source-only"] = 0
    if measurable and of_target and config.controls_oracle:
        both = labelled(work, target_masks=True, translated=0)
        _fit(work, stage, both, "oracle", settings=_steps(work, steps))
        made["oracle"] = len(of_target)
    stage.write_json("controls.json", made)


def evaluate(work: Workspace, stage: Stage) -> None:
    """Measure every row on the test images at their own sizes.

    Raises:
        LeakError: something was trained on that descends from a test image.
    """
    refuse_descendants(work, "render", "rendered.json")
    measure(work, stage, candidates(work))


def export(work: Workspace, stage: Stage) -> None:
    """Masks of all target and test images, and the translated labelled images with their masks."""
    rows = [row for part in ("target", "test") for row in domain_rows(work, part, *PARTS)]
    export_masks(work, stage, predictor_of(work), rows)
    if "render" not in work.stages:
        return
    source, folder = masked_rows(work, "source"), work.run.path / "translated"
    truth = true_targets(work, source)
    rendered = np.load(work.stages["render"].path / "rendered.npy", mmap_mode="r")
    loop = Loop(
        stage, len(rendered), seed=work.config.seed, state={}, name="translated", unit="image"
    )
    for i in loop:
        copy, k = divmod(i, len(source))
        name = work.data.samples[source[k]].id.partition("/")[2] + f"-{copy}.png"
        for kind in ("images", "masks"):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / "images" / name, np.asarray(rendered[i]))
        write_mask(folder / "masks" / name, truth[source[k]])


PARTS = ("train", "val", "test")
DATA = DOMAINS
STAGES = (
    StageSpec("prepare", prepare, shared=True),
    StageSpec("split", partial(split_by, DOMAINS.cut), reads=("prepare",), masks=True),
    StageSpec("translate", train_unit, reads=("prepare", "split")),
    StageSpec("render", render, reads=("prepare", "split", "translate"), settings=("translate",)),
    StageSpec("choose", choose_targets, reads=("prepare", "split")),
    StageSpec(
        "segment",
        train_segmenter,
        reads=("split", "render"),
        settings=("render",),
        masks=True,
        together=True,
    ),
    StageSpec(
        "adapt",
        adapt,
        reads=("segment", "choose", "render"),
        settings=("segment", "render", "predict"),
        masks=True,
        together=True,
    ),
    StageSpec(
        "controls",
        controls,
        reads=("split", "render", "adapt"),
        settings=("segment", "render", "adapt", "predict"),
        masks=True,
        together=True,
    ),
    StageSpec(
        "evaluate",
        evaluate,
        reads=("split", "render", "segment", "adapt", "controls"),
        settings=("predict",),
        masks=True,
    ),
    StageSpec(
        "export", export, reads=("render", "segment", "adapt"), settings=("predict",), outside=True
    ),
)
ALWAYS = ("prepare", "split", "segment", "evaluate", "export")
NEEDS: dict[str, tuple[str, ...]] = {}


def stages_of(config: AdaptConfig) -> list[str]:
    """The stages that the settings ask for, in running order."""
    return [spec.name for spec in STAGES if spec.name not in config.idle_stages]
