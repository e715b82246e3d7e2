"""Pipeline ``judge``: does a factory's output pay for the labels that went into it?

=========  ==========================  ====================================
stage      reads                       writes
=========  ==========================  ====================================
prepare    real images                 images.npy, digests.json
split      groups, or the factory's    split.json, split.csv
sample     generator, interpreter      images.npy, masks.npy; test-images.npy
segment    both kinds of images        one segmenter a row
interpret  the few real masks          interpreter.safetensors
evaluate   real and synthetic tests    confusion.npy, test-G.json
export     the result, images          RUN/masks, RUN/weights
=========  ==========================  ====================================

Every segmenter has the same network, augmentation and number of steps. The control that decides is
the one that the published tables lack: the few real masks alone.

Source: the factory pipeline's source, section III-D (test-R on real images, test-G on synthetic
ones); Zhang et al. 2021 (DatasetGAN), section 4.2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fewmask.data.folder import DataFolder
from fewmask.data.loading import Stacked
from fewmask.data.splits import Split
from fewmask.data.transforms import resize_image, resize_mask, to_unit
from fewmask.errors import DataError, LeakError, UsageError
from fewmask.io.images import read_image
from fewmask.pipelines.adapt_teaching import teacher
from fewmask.pipelines.factory_config import JUDGE_PRESETS as PRESETS
from fewmask.pipelines.factory_config import JudgeConfig
from fewmask.pipelines.factory_features import EncoderFeatures
from fewmask.pipelines.factory_interpreter import NativeMaps, fit_interpreter
from fewmask.pipelines.factory_judge_rows import (
    SYNTHETIC,
    agreement,
    bill,
    candidates,
    checks,
    encoder_settings,
    panels,
    pictures,
    predictor_of,
    read_route,
    remarks,
    taught_ids,
    taught_run,
)
from fewmask.pipelines.factory_sampling import Gate, generator_of, labelled_images, to_generate
from fewmask.pipelines.finished import restore_workspace
from fewmask.pipelines.folders import one_folder
from fewmask.training.controls import few_masked_rows, masked_rows
from fewmask.training.evaluation import measure
from fewmask.training.export import export_masks
from fewmask.training.known_images import KnownImages
from fewmask.training.run_folder import RunFolder, Stage
from fewmask.training.segmenting import (
    fit_segmenter,
    fit_settings,
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
    "JudgeConfig",
    "bill",
    "checks",
    "panels",
    "pictures",
    "predictor_of",
    "refuse_impossible",
    "remarks",
    "stages_of",
]


def refuse_impossible(
    config: JudgeConfig,
    data: DataFolder,
    stages: Sequence[str],  # noqa: ARG001 - those of the settings
    parts: Sequence[Split],
) -> None:
    """Look for masks to train and to measure on, and build the network once.

    Raises:
        UsageError: no interpreter is named.
        DataError: there are no masks where some are needed.
        LeakError: as :func:`refuse_known`.
    """
    if config.interpreter_weights == "none":
        raise UsageError.of(
            "INTERPRETER-MISSING",
            where="interpreter_weights",
            found="none",
            expected="a run of `fewmask factory label`",
            fix="`fewmask factory judge RUN DATA` gives it",
        )
    masked = {s.id for s in data.samples if s.mask_path}
    for part in parts:
        for name, ids in (("training", (*part.train, *part.val)), ("test", part.test)):
            if masked.isdisjoint(ids):
                raise DataError.of(
                    "NO-MASKS",
                    where=data.root,
                    found=f"no mask in the {name} part",
                    expected="real images with masks to train the control on, and to measure on",
                    fix="add masks",
                )
    refuse_known(config, data, {name for part in parts for name in part.test})
    new_segmenter(config, data.num_classes)


def refuse_known(config: JudgeConfig, data: DataFolder, test_ids: Collection[str]) -> None:
    """Refuse to test on what the factory has seen.

    Raises:
        LeakError: a test image, or a copy of one, has taught generator or interpreter.
    """
    taught = taught_run(config)
    runs = [taught]
    weights = str(taught.record["settings"]["generator_weights"])
    if weights != "none":
        runs.append(RunFolder.open(Path(weights).parents[1]))
    known = [KnownImages.of(run) for run in runs]
    for sample in data.samples:
        if sample.id not in test_ids:
            continue
        image = read_image(sample.image_path)
        for images, run in zip(known, runs, strict=True):
            if what := images.learned(image):
                raise LeakError.of(
                    "LEAK",
                    where=sample.image_path,
                    found=f"{what}: {run.path}",
                    expected="test images that the factory has not seen",
                    fix="judge on the factory's own data folder, whose test part it has left "
                    "alone, or on other images",
                )


def cut(work: Workspace, stage: Stage) -> None:
    """As :func:`fewmask.training.workspace.split`; what the factory has seen is no test image."""
    split(work, stage)
    refuse_known(work.config, work.data, stage.read_json("split.json")["test"])


def sample_pairs(work: Workspace, stage: Stage) -> None:
    """Synthetic images with masks, at the working size: to train on, and the last ones to test."""
    config: JudgeConfig = work.config
    taught, _ = restore_workspace(taught_run(config), work.device)
    _require_same_classes(work, taught)
    weights = generator_of(taught)
    gate, known = Gate(), KnownImages.of(RunFolder.open(weights.parents[1]))
    wanted = config.sample_count + config.sample_test
    count = to_generate(wanted, config.sample_drop)
    size = config.working_size
    images, masks = np.empty((count, *size, 3), np.uint8), np.empty((count, *size), np.uint8)
    psi = config.sample_truncation_psi
    for pair in labelled_images(taught, weights, config.seed, psi, count):
        if gate.admits(pair.number, pair.disagreement, copy=bool(known.learned(pair.image))):
            images[pair.number] = resize_image(pair.image, *size)
            masks[pair.number] = resize_mask(pair.mask, *size)
    kept = sorted(gate.surest(wanted))
    test = min(config.sample_test, len(kept) // 2)
    parts = {"": kept[: len(kept) - test], "test-": kept[len(kept) - test :]}
    for part, numbers in parts.items():
        np.save(stage.path / f"{part}images.npy", images[numbers])
        np.save(stage.path / f"{part}masks.npy", masks[numbers])
    stage.write_json("samples.json", {"pairs": len(parts[""]), "copies": len(gate.copies)})


def few_rows(work: Workspace) -> list[int]:
    """The few real images with masks: those of the interpreter if they are among these.

    Otherwise as many are drawn by the seed.
    """
    config: JudgeConfig = work.config
    taught = set(taught_ids(config))
    same = [row for row in masked_rows(work) if work.data.samples[row].id in taught]
    if same and config.masks in {0, len(same)}:
        return same
    return few_masked_rows(work, config.masks or len(taught))


def train_segmenters(work: Workspace, stage: Stage) -> None:
    """One segmenter for each row of the table, in equally many steps."""
    config: JudgeConfig = work.config
    few, every = few_rows(work), masked_rows(work)
    plans: dict[str, dict[str, Any]] = {
        "few": {"rows": few},
        "few-plain": {"rows": few, "augment": False},
        "taught": {"rows": few, "unlabelled": work.rows("train", "val")},
        "synthetic": {"rows": [], "synthetic": True},
        "both": {"rows": few, "synthetic": True},
        "all": {"rows": every},
    }
    idle = set() if "sample" in work.stages else set(SYNTHETIC)
    if len(every) == len(few) and "few" in config.judge_rows:
        idle.add("all")  # the same images
    for name, plan in plans.items():
        if name in config.judge_rows and name not in idle:
            _fit(work, stage, name, **plan)
    ids = [work.data.samples[row].id for row in few]
    stage.write_json("rows.json", {"few": ids, "all": len(every)})


def _fit(
    work: Workspace, stage: Stage, name: str, rows: Sequence[int], *, synthetic: bool = False,
    unlabelled: Sequence[int] = (), augment: bool = True,
) -> nn.Module:  # fmt: skip
    """Train on real rows, on synthetic pairs, or on both with ``sample_share`` of the latter.

    With ``unlabelled`` rows, also on what the moving average says of these.
    """
    config: JudgeConfig = work.config
    settings = replace(fit_settings(config), epochs=0, min_steps=config.judge_steps)
    images: list[np.ndarray] = [work.images]
    targets: list[Any] = [true_targets(work, rows)]
    places, shares = list(rows), np.full(len(rows), 1 / max(1, len(rows)))
    if synthetic:
        folder, first = work.stages["sample"].path, len(work.images)
        images.append(np.load(folder / "images.npy", mmap_mode="r"))
        targets.append(np.load(folder / "masks.npy", mmap_mode="r"))
        count, share = len(images[1]), config.sample_share if rows else 1.0
        places += range(first, first + count)
        shares = np.concatenate([shares * (1 - share), np.full(count, share / count)])
    return fit_segmenter(
        work, stage, Stacked(*targets), places, name, images=Stacked(*images), settings=settings,
        shares=shares, augment=augment,
        teach=teacher(work, unlabelled, f"{stage.label}/{name}") if unlabelled else None,
    )  # fmt: skip


def teach_encoder_route(work: Workspace, stage: Stage) -> None:
    """The encoder route with the few real masks: the other use that these could be put to."""
    taught, _ = restore_workspace(taught_run(work.config), work.device)
    config, rows = encoder_settings(work, taught), few_rows(work)
    own = Workspace(work.run, config, work.data, work.device, stages=work.stages)
    encoder, masks = EncoderFeatures.of(own), true_targets(work, rows)
    features = (encoder(to_unit(work.images[row])[None].to(work.device)) for row in rows)
    maps = NativeMaps.write(stage, features, len(rows))
    truth = np.stack([masks[row] for row in rows])
    fit_interpreter(stage, maps, truth, work.num_classes, config, work.device)
    stage.write_json("channels.json", maps.channels)


def evaluate(work: Workspace, stage: Stage) -> None:
    """Measure every row on real test images, and segmenters by the interpreter's masks too."""
    measure(work, stage, candidates(work))
    if "sample" in work.stages:
        stage.write_json("test-G.json", agreement(work))


def export(work: Workspace, stage: Stage) -> None:
    """Masks of all images."""
    export_masks(work, stage, predictor_of(work))


def _require_same_classes(work: Workspace, taught: Workspace) -> None:
    if work.class_names != taught.class_names:
        raise DataError.of(
            "CLASSES-DIFFER",
            where=work.data.root,
            found=f"classes {', '.join(work.class_names)}",
            expected=f"those that the interpreter was taught: {', '.join(taught.class_names)}",
            fix="give --class-names in the same order as to `fewmask factory label`",
        )


DATA = one_folder(require_tags=False)
STAGES = (
    StageSpec("prepare", prepare, shared=True),
    StageSpec("split", cut, reads=("prepare",)),
    StageSpec("sample", sample_pairs),
    StageSpec(
        "segment", train_segmenters, reads=("prepare", "split", "sample"),
        settings=("judge", "sample", "masks"), masks=True, together=True,
    ),
    StageSpec(
        "interpret", teach_encoder_route, reads=("prepare", "split"), settings=("masks",),
        masks=True,
    ),
    StageSpec(
        "evaluate", evaluate, reads=("split", "sample", "segment", "interpret"),
        settings=("predict",), masks=True,
    ),
    StageSpec("export", export, reads=("segment",), settings=("predict",), outside=True),
)  # fmt: skip
ALWAYS = ("prepare", "split", "segment", "evaluate", "export")
NEEDS: dict[str, tuple[str, ...]] = {}


def stages_of(config: JudgeConfig) -> list[str]:
    """All stages, in running order, but for those that are not asked for."""
    idle = set()
    if not config.sample_count or set(SYNTHETIC).isdisjoint(config.judge_rows):
        idle.add("sample")
    if "encoder" not in config.judge_rows or (
        config.interpreter_weights != "none" and read_route(config) == "encoder"
    ):
        idle.add("interpret")
    return [spec.name for spec in STAGES if spec.name not in idle]
