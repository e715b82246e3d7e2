"""Labelled source domain and unlabelled target domain to a segmenter for the target: day to night.

Sources: "Semantic segmentation at night" by UNIT, Panoptic FPN and self-training, tested on
Nighttime Driving. Ours: DACS and DAFormer, see ``adapt_teaching``.

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
  stand in, with batches of 8, 50 passes, and 10,000 steps a round.
- UNIT is trained between the two folders at hand; the paper had NEXET's day and night for it.
- Target images are chosen by EfficientNet-Lite0's features, not InceptionV3's, and the nearest are
  kept, not those below a threshold that belongs to one network.
- Its test images are no part of what is learned from.

The other presets leave the paper by design.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fewmask.data.appearance import TRANSLATIONS, Translate, with_noise_of
from fewmask.data.folder import DataFolder
from fewmask.data.light import light_score
from fewmask.data.loading import Stacked, steps_per_epoch
from fewmask.data.mixing import rare_image_shares
from fewmask.data.splits import Split, check_lineage
from fewmask.data.transforms import resize_image, to_unit
from fewmask.errors import CheckpointError, LeakError, UsageError
from fewmask.io.images import read_image, write_image, write_mask
from fewmask.masks.confidence import place_prior
from fewmask.metrics.choice import Method, choose
from fewmask.models.features import content_features, level_statistics
from fewmask.pipelines.adapt_config import PRESETS, AdaptConfig
from fewmask.pipelines.adapt_data import DOMAINS, domain_rows
from fewmask.pipelines.adapt_rows import (
    bill,
    candidates,
    checks,
    known_images_of,
    masked_rows,
    panels,
    pictures,
    predictor_of,
    remarks,
)
from fewmask.pipelines.adapt_teaching import (
    information,
    label_images,
    teacher,
    use_statistics_of,
)
from fewmask.pipelines.adapt_translation import (
    load_unit,
    new_unit,
    train_unit,
    translate_image,
)
from fewmask.randomness import generator
from fewmask.training.checkpoint import load_weights, save_weights
from fewmask.training.evaluation import measure, measured_rows
from fewmask.training.export import export_masks
from fewmask.training.fit import FitSettings
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import (
    fit_segmenter,
    fit_settings,
    load_segmenter,
    new_segmenter,
    true_targets,
)
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace, open_array, prepare, split_by

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

CHOOSE_PX = 224
"""Side to which images are resized for the features to choose by."""
QUANTILES = (0.05, 0.95)
"""Of the target's light scores: outside it an image is not chosen by histogram."""
ENOUGH_FOR_QUANTILES = 20
"""With fewer target images none is too dark or too light."""


def refuse_impossible(
    config: AdaptConfig,
    data: DataFolder,
    stages: Sequence[str],
    parts: Sequence[Split],
) -> None:
    """Build each network once, before anything is trained.

    Raises:
        FewmaskError: there is no such network, or not with these weights; UNIT is to translate and
            not to be trained, or has seen test images; or a stage has nothing to do.
    """
    idle = [name for name in stages if name not in stages_of(config)]
    if idle:
        raise UsageError.of(
            "STAGE-IDLE",
            where="--stages",
            found=", ".join(idle),
            expected="stages that the settings have something to do for",
            fix="leave them out; or see --render-methods, --choose-method, --adapt-method",
        )
    if "render" in stages and "unit" in config.render_methods and "translate" not in stages:
        raise UsageError.of(
            "STAGE-NEEDED",
            where="--stages",
            found="render by unit, without translate",
            expected="the stage that trains UNIT",
            fix="add translate to --stages, or choose cheap --render-methods",
        )
    new_segmenter(config, data.num_classes)
    ready = config.translate_weights != "none"
    if "translate" in stages and ready:
        _check_given_unit(Path(config.translate_weights), config, data, parts[0].test)
    elif "translate" in stages and config.translate_lambda_perceptual:
        content_features(config.translate_perceptual_network, config.translate_perceptual_weights)
    if "choose" in stages and config.choose_method == "distance":
        level_statistics(config.choose_encoder, config.choose_weights)


def _check_given_unit(
    path: Path, config: AdaptConfig, data: DataFolder, tested: Sequence[str]
) -> None:
    """Refuse a UNIT that is none, or that the run it comes from has trained on test images.

    Raises:
        UsageError: no such file, or weights of another network.
        LeakError: a test image is one of that run's training images.
    """
    try:
        load_weights(path, new_unit(config).unit)
    except CheckpointError as error:
        raise UsageError.of(
            "UNIT-WEIGHTS",
            where=f"translate_weights: {path}",
            found=error.problems[0].found,
            expected="unit.safetensors of a run with the same --translate-width, -blocks, -norm",
            fix="correct the path or these settings",
        ) from None
    known = known_images_of(path)
    samples = [s for s in data.samples if s.id in set(tested)] if known else []
    for sample in samples:
        if known and (what := known.learned(read_image(sample.image_path))):
            raise LeakError.of(
                "LEAK",
                where=sample.image_path,
                found=f"{what}, where {path} was trained",
                expected="a UNIT that has not seen the test images",
                fix="train UNIT here (leave out --translate-weights), or test on other images",
            )


def translators(work: Workspace) -> dict[str, Translate]:
    """The translations that the settings ask for, UNIT and the cheap ones behind one signature.

    Each takes a source image, a target image and a generator, and gives the source image in the
    target's light; UNIT has learned that light and looks at neither of the two others.
    """
    found = {name: TRANSLATIONS[name] for name in work.config.render_methods if name != "unit"}
    if "unit" in work.config.render_methods:
        unit = load_unit(work)
        found["unit"] = lambda image, _reference, _rng: translate_image(unit, image, "b")
    return found


def render(work: Workspace, stage: Stage) -> None:
    """Translate each labelled image ``render_copies`` times; its mask stays valid."""
    config: AdaptConfig = work.config
    source, target = masked_rows(work, "source"), domain_rows(work, "target", "train")
    by_name, names = translators(work), config.render_methods
    count = config.render_copies * len(source)
    rendered = open_array(stage.path / "rendered.npy", np.uint8, (count, *config.working_size, 3))
    loop = Loop(stage, count, seed=config.seed, state={}, before_save=rendered.flush, unit="image")
    origins: list[dict[str, Any]] = []
    references = generator(config.seed, stage.label, "references").choice(target, count)
    for i in range(count):
        copy, k = divmod(i, len(source))
        method = names[(copy + k) % len(names)]
        parents = [source[k]] if method == "unit" else [source[k], int(references[i])]
        name = f"translated/{work.data.samples[source[k]].id}-{copy}"
        ids = [work.data.samples[row].id for row in parents]
        origins.append({"id": name, "method": method, "parents": ids})
    for i in loop:
        rng = generator(config.seed, stage.label, i)
        image, reference = work.images[source[i % len(source)]], work.images[references[i]]
        made = by_name[origins[i]["method"]](image, reference, rng)
        if config.render_noise and origins[i]["method"] != "unit":
            made = with_noise_of(made, reference, rng)
        rendered[i] = made
    rendered.flush()
    stage.write_json("rendered.json", origins)


def choose_targets(work: Workspace, stage: Stage) -> None:
    """The target images to learn from: those most like the target as a whole.

    Source: sections 3.4 and 4.2, choice by histogram and by FID; see ``fewmask select``.
    """
    config: AdaptConfig = work.config
    rows = domain_rows(work, "target", "train")
    keep = max(1, round(config.choose_share * len(masked_rows(work, "source"))))
    measured: dict[str, Any] = {}
    network = None
    if config.choose_method == "distance":
        network = level_statistics(config.choose_encoder, config.choose_weights).to(work.device)
    loop = Loop(stage, len(rows), seed=config.seed, state={}, unit="image", resumable=False)
    for row in (rows[i] for i in loop):
        image = np.asarray(work.images[row])
        if network is None:
            measured[str(row)] = light_score(image)
            continue
        small = to_unit(resize_image(image, CHOOSE_PX, CHOOSE_PX))[None].to(work.device)
        with torch.no_grad():
            measured[str(row)] = network(small)[0].cpu().double().numpy()
    method: Method = "distance" if config.choose_method == "distance" else "histogram"
    quantiles = QUANTILES if len(rows) >= ENOUGH_FOR_QUANTILES else (0.0, 1.0)
    found = choose(method, measured, measured, keep, None, None, quantiles)
    work.run.log(f"{stage.label}: {found}")
    names = {work.data.samples[int(row)].id: found.scores[row] for row in found.kept}
    stage.write_json("chosen.json", names)


def chosen_rows(work: Workspace) -> list[int]:
    """Target rows to learn from."""
    rows = domain_rows(work, "target", "train")
    if "choose" not in work.stages:
        return rows
    chosen = work.stages["choose"].read_json("chosen.json")
    return [row for row in rows if work.data.samples[row].id in chosen]


@dataclass(frozen=True)
class Labelled:
    """Images with targets to train on, and how often each is drawn.

    Attributes:
        images: Arrays (N_i, H, W, 3) uint8, one after the other.
        targets: Their masks (N_i, H, W) uint8.
        rows: Rows of all arrays together.
        shares: (len(rows),) float that sums to 1.
    """

    images: tuple[np.ndarray, ...]
    targets: tuple[np.ndarray, ...]
    rows: list[int]
    shares: np.ndarray

    def joined(self, images: np.ndarray, targets: np.ndarray, share: float) -> Labelled:
        """These and others, which then have ``share`` of all draws, evenly."""
        first = sum(len(array) for array in self.images)
        even = np.full(len(images), share / len(images))
        return Labelled(
            (*self.images, images),
            (*self.targets, targets),
            [*self.rows, *range(first, first + len(images))],
            np.concatenate([self.shares * (1 - share), even]),
        )


def labelled(work: Workspace, *, target_masks: bool = False, translated: bool = True) -> Labelled:
    """The labelled source images.

    Args:
        work: Images, masks, settings.
        target_masks: Also target images with their true masks: for the oracle alone.
        translated: Also the translated copies, if there are any.
    """
    config: AdaptConfig = work.config
    source = masked_rows(work, "source")
    rows = [*source, *(masked_rows(work, "target") if target_masks else ())]
    truth = true_targets(work, rows)
    shares = np.full(len(rows), 1 / len(rows))
    if config.segment_rare_classes:
        counts = [np.bincount(truth[row].ravel(), minlength=256) for row in rows]
        shares = rare_image_shares(np.stack(counts)[:, : work.num_classes], least_px=LEAST_PX)
    plain = Labelled((work.images,), (truth,), rows, shares)
    if not translated or "render" not in work.stages:
        return plain
    rendered = np.load(work.stages["render"].path / "rendered.npy", mmap_mode="r")
    copies = len(rendered) // len(source)
    both = plain.joined(rendered, np.concatenate([truth[source]] * copies), config.render_share)
    even = np.tile(shares * config.render_share / copies, copies)
    return replace(both, shares=np.concatenate([both.shares[: len(rows)], even]))


LEAST_PX = 16
"""An image has a class, for the draw by rare classes, if so many pixels of its mask do."""


def first_steps(work: Workspace) -> int:
    """Optimiser steps before any self-training."""
    config: AdaptConfig = work.config
    epoch = steps_per_epoch(len(masked_rows(work, "source")), config.segment_batch_size)
    return max(config.segment_epochs * epoch, config.segment_min_steps)


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
    """Train on the source images and their translated copies."""
    _fit(work, stage, labelled(work), "segmenter", settings=_steps(work, first_steps(work)))


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
        truth = data.targets[0][masked_rows(work, "source")]
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
            labels = label_images(
                choice.network, work.images, rows, work.num_classes, config.adapt_keep,
                config.predict_views, prior,
            )  # fmt: skip
            more = data.joined(work.images[rows], labels, config.adapt_target_share)
            file, loss = f"round-{number}", config.adapt_loss
            network = _fit(work, stage, more, file, start=start, settings=settings, loss=loss)
            start = stage.path / f"{file}.safetensors"
        if not choice.offer(name, network):
            break
    stopped = choice.kept.startswith(BEGIN)
    save_weights(stage.path / "adapted.safetensors", choice.network)
    stage.write_json(
        "adaptation.json",
        {"information": choice.information, "kept": choice.kept, "stopped": stopped},
    )
    values = ", ".join(f"{name} {value:.3f}" for name, value in choice.information.items())
    end = "self-training stopped" if stopped else f"kept {choice.kept}"
    work.run.log(f"{stage.label}: information in the labels: {values}; {end}")


BEGIN = "the start"


class Choice:
    """The network to hand out, chosen by what its labels tell about the target images.

    With ``adapt_target_statistics`` each network is there twice: as it is, and normalising by the
    statistics of the target images. Without ``adapt_stop_if_worse`` the last one as it is is kept.

    Attributes:
        information: Of each network offered, by name, in nats.
        kept: Name of the one to hand out.
        network: It itself.
    """

    def __init__(self, work: Workspace, rows: Sequence[int]) -> None:
        self.work, self.rows = work, rows
        self.information: dict[str, float] = {}
        self.kept = ""
        self.network = nn.Module()

    def offer(self, name: str, network: nn.Module) -> bool:
        """Measure a network; returns whether it, in either form, is the one kept now."""
        config: AdaptConfig = self.work.config
        forms = {name: network}
        if config.adapt_target_statistics and len(self.rows) > 1:
            other = copy.deepcopy(network)
            use_statistics_of(other, self.work.images, self.rows)
            forms[f"{name}, statistics of the target"] = other
        better = False
        for form, candidate in forms.items():
            found = information(candidate, self.work.images, self.rows)
            best = max(self.information.values(), default=-math.inf)
            self.information[form] = found
            if found > best if config.adapt_stop_if_worse else form == name:
                self.kept, self.network, better = form, candidate, True
        return better


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
        plain = labelled(work, translated=False)
        _fit(work, stage, plain, "source-only", settings=_steps(work, steps))
        made["source-only"] = 0
    if measurable and of_target and config.controls_oracle:
        both = labelled(work, target_masks=True, translated=False)
        _fit(work, stage, both, "oracle", settings=_steps(work, steps))
        made["oracle"] = len(of_target)
    stage.write_json("controls.json", made)


def evaluate(work: Workspace, stage: Stage) -> None:
    """Measure every row on the test images at their own sizes.

    Raises:
        LeakError: something was trained on that descends from a test image.
    """
    parents: dict[str, list[str]] = {}
    if "render" in work.stages:
        copies = work.stages["render"].read_json("rendered.json")
        parents = {copy["id"]: copy["parents"] for copy in copies}
    check_lineage([*work.parts["train"], *work.parts["val"], *parents], parents, work.parts["test"])
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
        "segment", train_segmenter, reads=("split", "render"), settings=("render",), masks=True
    ),
    StageSpec(
        "adapt",
        adapt,
        reads=("segment", "choose", "render"),
        settings=("segment", "render", "predict"),
        masks=True,
    ),
    StageSpec(
        "controls",
        controls,
        reads=("split",),
        settings=("segment", "render", "adapt", "predict"),
        masks=True,
    ),
    StageSpec(
        "evaluate",
        evaluate,
        reads=("split", "render", "segment", "adapt", "controls"),
        settings=("predict",),
        masks=True,
    ),
    StageSpec("export", export, reads=("render", "segment", "adapt"), settings=("predict",)),
)
ALWAYS = ("prepare", "split", "segment", "evaluate", "export")
NEEDS: dict[str, tuple[str, ...]] = {}


def stages_of(config: AdaptConfig) -> list[str]:
    """The stages that the settings ask for, in running order."""
    idle = set()
    if "unit" not in config.render_methods:
        idle.add("translate")
    if not config.render_methods:
        idle.add("render")
    if config.choose_method == "none" or not config.total_rounds:
        idle.add("choose")
    if not config.total_rounds:
        idle.add("adapt")
    if not config.controls_source_only and not config.controls_oracle:
        idle.add("controls")
    return [spec.name for spec in STAGES if spec.name not in idle]
