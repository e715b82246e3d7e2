"""Pipeline ``judge``: does a factory's output pay for the labels that went into it?

========  ==========================  ====================================
stage     reads                       writes
========  ==========================  ====================================
prepare   real images                 images.npy, digests.json
split     groups, or the factory's    split.json, split.csv
sample    generator, interpreter      images.npy, masks.npy, samples.json
segment   both kinds of images        one segmenter a row
evaluate  real test images            confusion.npy, evaluation.json
export    the result, images          RUN/masks, RUN/weights
========  ==========================  ====================================

Every segmenter has the same network, augmentation and number of steps. The control that decides is
the one that the published tables lack: the few real masks alone.

Source: the factory pipeline's source, section III-D (test-R); Zhang et al. 2021 (DatasetGAN),
section 4.2.
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
from fewmask.data.transforms import resize_image, resize_mask
from fewmask.errors import DataError, LeakError, UsageError
from fewmask.io.images import read_image
from fewmask.pipelines.factory_config import JudgeConfig
from fewmask.pipelines.factory_label import predictor_of as interpreter_predictor
from fewmask.pipelines.factory_sampling import Gate, generator_of, labelled_images, to_generate
from fewmask.pipelines.finished import restore_workspace
from fewmask.pipelines.folders import one_folder
from fewmask.report.bill import pretrained_labels
from fewmask.report.figures import drawn_ids, strip_png
from fewmask.report.html import Case
from fewmask.training.controls import few_masked_rows, masked_rows
from fewmask.training.evaluation import Candidate, measure, trivial_controls
from fewmask.training.export import export_masks
from fewmask.training.known_images import KnownImages
from fewmask.training.run_folder import RunFolder, Stage
from fewmask.training.segmenting import (
    SegmenterPredictor,
    fit_segmenter,
    fit_settings,
    load_segmenter,
    new_segmenter,
    true_targets,
)
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace, prepare, split

ROWS = {
    "few": "{k} real only",
    "few-plain": "{k} real only, no augmentation",
    "synthetic": "synthetic only",
    "both": "synthetic + {k} real",
    "all": "all real",
}
"""File of a segmenter to the name of its row."""


def taught_run(config: JudgeConfig) -> RunFolder:
    """The run of ``fewmask factory label`` that is judged."""
    return RunFolder.open(Path(config.interpreter_weights).parents[1])


def taught_ids(config: JudgeConfig) -> list[str]:
    """Ids of the images that the interpreter was taught with."""
    tables = sorted(taught_run(config).path.glob("*-split/split.csv"))
    lines = tables[0].read_text(encoding="utf-8").splitlines()[1:]
    return [line.split(",")[0] for line in lines]


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
    for known, run in [(KnownImages.of(run), run) for run in runs]:
        for sample in data.samples:
            if sample.id not in test_ids:
                continue
            if what := known.learned(read_image(sample.image_path)):
                raise LeakError.of(
                    "LEAK",
                    where=sample.image_path,
                    found=f"{what}: {run.path}",
                    expected="test images that the factory has not seen",
                    fix="judge on the factory's own data folder, whose test part it has left "
                    "alone, or on other images",
                )


def sample_pairs(work: Workspace, stage: Stage) -> None:
    """Synthetic images with masks, at the working size."""
    config: JudgeConfig = work.config
    taught, _ = restore_workspace(taught_run(config), work.device)
    _require_same_classes(work, taught)
    weights = generator_of(taught)
    gate = Gate(KnownImages.of(RunFolder.open(weights.parents[1])))
    count = to_generate(config.sample_count, config.sample_drop)
    size = config.working_size
    images, masks = np.empty((count, *size, 3), np.uint8), np.empty((count, *size), np.uint8)
    psi = config.sample_truncation_psi
    for pair in labelled_images(taught, weights, config.seed, psi, count):
        if gate.admits(pair):
            images[pair.number] = resize_image(pair.image, *size)
            masks[pair.number] = resize_mask(pair.mask, *size)
    kept = sorted(gate.surest(config.sample_count))
    np.save(stage.path / "images.npy", images[kept])
    np.save(stage.path / "masks.npy", masks[kept])
    stage.write_json("samples.json", {"pairs": len(kept), "copies": len(gate.copies)})


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
    _fit(work, stage, "few", few)
    if config.judge_plain:
        _fit(work, stage, "few-plain", few, augment=False)
    if "sample" in work.stages:
        _fit(work, stage, "synthetic", [], synthetic=True)
        _fit(work, stage, "both", few, synthetic=True)
    if config.judge_full and len(every) > len(few):
        _fit(work, stage, "all", every)
    ids = [work.data.samples[row].id for row in few]
    stage.write_json("rows.json", {"few": ids, "all": len(every)})


def _fit(
    work: Workspace, stage: Stage, name: str, rows: Sequence[int], *, synthetic: bool = False,
    augment: bool = True,
) -> nn.Module:  # fmt: skip
    """Train on real rows, on synthetic pairs, or on both with ``sample_share`` of the latter."""
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
    )  # fmt: skip


def made_rows(work: Workspace) -> list[str]:
    """Names of the segmenters that were trained, in the order of the table."""
    stage = work.stages["segment"]
    return [name for name in ROWS if (stage.path / f"{name}.safetensors").exists()]


def candidates(work: Workspace) -> list[Candidate]:
    """Trivial controls, each segmenter, and the interpreter itself if it reads real images."""
    counts = work.stages["segment"].read_json("rows.json")
    k, taught = len(counts["few"]), len(taught_ids(work.config))
    route = read_route(work.config)
    result = "both" if "sample" in work.stages else "encoder"
    rows = trivial_controls(work.num_classes)
    for name in made_rows(work):
        used = {"all": counts["all"], "synthetic": taught, "both": max(k, taught)}.get(name, k)
        cost = f"{used} annotated images"
        if name in {"synthetic", "both"} and route == "generated":
            cost = f"{taught} annotated generated images" + f", {k} real ones" * (name == "both")
            used = taught + k * (name == "both")
        rows.append(
            Candidate(
                ROWS[name].format(k=k),
                "result" if name == result else "reference" if name == "all" else "control",
                _applied(_segmenter(work, name)),
                masks_used=used,
                label_cost=cost,
                anchor={"few": "floor", "all": "ceiling"}.get(name, ""),  # type: ignore[arg-type]
            )
        )
    if route == "encoder":
        taught_work, _ = restore_workspace(taught_run(work.config), work.device)
        rows.append(
            Candidate(
                "encoder route",
                "result" if result == "encoder" else "control",
                _applied(interpreter_predictor(taught_work)),
                masks_used=taught,
                label_cost=f"{taught} annotated images",
                note="the interpreter itself, on features of real images",
            )
        )
    return rows


def read_route(config: JudgeConfig) -> str:
    """By which route the interpreter was taught."""
    return str(taught_run(config).record["settings"]["route"])


def _segmenter(work: Workspace, name: str) -> SegmenterPredictor:
    return load_segmenter(work, work.stages["segment"].path / f"{name}.safetensors")


def _applied(predictor: Any) -> Any:
    return lambda _, image: predictor.mask_of_probs(image, predictor.probs(image))


def evaluate(work: Workspace, stage: Stage) -> None:
    """Measure every row on real test images."""
    measure(work, stage, candidates(work))


def predictor_of(work: Workspace) -> Any:
    """What ``fewmask predict`` applies: the segmenter on synthetic and few real images."""
    if "sample" in work.stages:
        return _segmenter(work, "both")
    return _segmenter(work, "few")


def export(work: Workspace, stage: Stage) -> None:
    """Masks of all images."""
    export_masks(work, stage, predictor_of(work))


def panels(work: Workspace, row: int, size: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:  # noqa: ARG001
    """The control on a test image."""
    image = read_image(work.data.samples[row].image_path)
    mask = _segmenter(work, "few").mask(image)
    k = len(work.stages["segment"].read_json("rows.json")["few"])
    return [(ROWS["few"].format(k=k), drawn_ids(mask, has_background=True))]


def pictures(works: Sequence[Workspace]) -> list[Case]:
    """A few synthetic images with their masks."""
    work, cases = works[0], []
    if "sample" not in work.stages:
        return []
    folder = work.stages["sample"].path
    images, masks = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("images", "masks"))
    for i in range(0, min(len(images), 8), 4):
        strip: list[tuple[str, np.ndarray]] = []
        for j in range(i, min(i + 4, len(images))):
            strip.append((f"synthetic {j + 1}", np.asarray(images[j])))
            strip.append(("its mask", drawn_ids(np.asarray(masks[j]), has_background=True)))
        cases.append(Case(f"synthetic {i + 1}", "", "not a test image", strip_png(strip)))
    return cases


def bill(works: Sequence[Workspace]) -> list[tuple[str, str, str]]:
    """Every label that went into the result: (what, labels, source)."""
    work = works[0]
    counts = work.stages["segment"].read_json("rows.json")
    taught, route = len(taught_ids(work.config)), read_route(work.config)
    lines = [("pixel masks for the interpreter", f"{taught}", f"route {route}")]
    if route == "generated":
        lines.append(("real pixel masks beside them", f"{len(counts['few'])}", "your data"))
    return [*lines, *pretrained_labels(work.config)]


def remarks(works: Sequence[Workspace]) -> list[str]:
    """What to do with the numbers."""
    work = works[0]
    k = len(work.stages["segment"].read_json("rows.json")["few"])
    return [
        f"If the result does not beat “{ROWS['few'].format(k=k)}”, do not use the synthetic "
        f"images: `fewmask train DATA --masks {k}` gives the control.",
        "Choose between rows by more than one seed; this table has one.",
    ]


def checks(works: Sequence[Workspace]) -> dict[str, Any]:
    """Synthetic pairs, and copies of training images that were left out."""
    if "sample" not in works[0].stages:
        return {}
    found = works[0].stages["sample"].read_json("samples.json")
    return {f"sample.{name}": value for name, value in found.items()}


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
    StageSpec("split", split, reads=("prepare",)),
    StageSpec("sample", sample_pairs),
    StageSpec(
        "segment", train_segmenters, reads=("prepare", "split", "sample"),
        settings=("judge", "sample", "masks"), masks=True,
    ),
    StageSpec("evaluate", evaluate, reads=("split", "segment"), settings=("predict",), masks=True),
    StageSpec("export", export, reads=("segment",), settings=("predict",)),
)  # fmt: skip
ALWAYS = ("prepare", "split", "segment", "evaluate", "export")
NEEDS: dict[str, tuple[str, ...]] = {}


def stages_of(config: JudgeConfig) -> list[str]:
    """All stages, in running order; nothing is sampled if no synthetic image is asked for."""
    return [spec.name for spec in STAGES if spec.name != "sample" or config.sample_count]
