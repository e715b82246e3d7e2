"""Pipeline ``factory``, first half: a generator of images, from images alone.

========  ===========  ====================================
stage     reads        writes
========  ===========  ====================================
prepare   images       images.npy, digests.json
split     groups       split.json, split.csv
generate  images       generator.safetensors, quality.json
========  ===========  ====================================

The second half, :mod:`fewmask.pipelines.factory_label`, teaches an interpreter of the generator's
features from few masks. The test part is kept from both, so that what they make can be judged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from fewmask.data.folder import DataFolder
from fewmask.data.splits import Split
from fewmask.errors import DataError, UsageError, shell_command
from fewmask.pipelines.factory_config import PRESETS, FactoryConfig
from fewmask.pipelines.factory_generator import GENERATOR, new_gan, train_generator
from fewmask.pipelines.factory_report import generator_report
from fewmask.pipelines.folders import one_folder
from fewmask.report.verdict import Verdict
from fewmask.training.checkpoint import remove_temporaries, sha256_file, write_atomically
from fewmask.training.known_images import KnownImages
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace, prepare, split

__all__ = ["ALWAYS", "DATA", "NEEDS", "PRESETS", "STAGES", "FactoryConfig", "finish", "stages_of"]

FEWEST_IMAGES = 10
"""With fewer there is nothing to learn a distribution from."""


def refuse_impossible(
    config: FactoryConfig,
    data: DataFolder,
    stages: Sequence[str],  # noqa: ARG001 - always all
    parts: Sequence[Split],
) -> None:
    """Refuse too few images, and build the networks once.

    Raises:
        DataError: the training part is too small.
    """
    for part in parts:
        if len(part.train) < FEWEST_IMAGES:
            raise DataError.of(
                "TOO-FEW",
                where=data.root,
                found=f"{len(part.train)} images in the training part",
                expected=f"{FEWEST_IMAGES} or more; hundreds for images worth looking at",
                fix="add images; none of them needs a mask",
            )
    new_gan(config)


def predictor_of(work: Workspace) -> NoReturn:
    """A generator makes images and labels none.

    Raises:
        UsageError: always, with what to do first.
    """
    raise UsageError.of(
        "RUN-GENERATOR",
        where=work.run.path,
        found="a generator of images",
        expected="a run that has learned to segment",
        fix=f"`{shell_command('factory', 'label', work.run.path, '--masks', 'MASKS')}` first",
    )


def write_weights(work: Workspace, weights: Path, card: dict[str, Any]) -> None:
    """``RUN/weights``: a copy of the weights, the card, the images that the run knows."""
    folder = work.run.path / "weights"
    folder.mkdir(exist_ok=True)
    write_atomically(folder / weights.name, weights.read_bytes())
    known = KnownImages.of_stages(work.run)
    if known is not None:
        known.save(folder)
    card = {**card, "sha256": sha256_file(weights), "image_size": list(work.config.working_size)}
    write_atomically(folder / "card.json", json.dumps(card, indent=1).encode())


def finish(works: Sequence[Workspace]) -> None:
    """Write weights, metrics.json and the report."""
    work = works[0]
    run, stage = work.run, work.stages["generate"]
    remove_temporaries(run.path)
    quality = stage.read_json("quality.json")
    quality["kimg_per_hour"] = quality["kimg"] / max(stage.facts["seconds"], 0.1) * 3600
    card = {"kind": "generator", "class_names": list(work.class_names), "synthetic": True}
    write_weights(work, stage.path / GENERATOR, card)
    parts = [{name: {"images": len(ids)} for name, ids in w.parts.items()} for w in works]
    summary: dict[str, Any] = {
        "class_names": list(work.class_names),
        "n": 0,
        "metrics": {},
        "rows": [],
        "verdict": asdict(Verdict("not_measured", MADE)),
        "made": made(quality),
        "next": ["factory", "export-seeds", str(run.path), "-n", 30, "-o", "DIR"],
        "quality": quality,
        "parts": parts,
        "minutes": round(sum(s.facts.get("seconds", 0) for s in work.stages.values()) / 60, 2),
        "peak_gb": max(s.facts.get("peak_gb_so_far", 0) for s in work.stages.values()),
    }
    write_atomically(run.path / "metrics.json", json.dumps(summary, indent=1).encode())
    generator_report(work, summary)


MADE = "Images, and no masks yet: whether they help a segmenter, `fewmask factory judge` measures."


def made(quality: dict[str, Any]) -> list[str]:
    """What the training has come to, in lines."""
    floor = quality["kid_of_real_halves"]
    return [
        f"distance of generated from real images (KID): {quality['kid']:.4g} "
        f"[{quality['kid_low']:.4g}, {quality['kid_high']:.4g}]; of one half of the real images "
        f"from the other: {floor['value']:.4g} [{floor['low']:.4g}, {floor['high']:.4g}]",
        f"variety of generated images, relative to real ones: {quality['variety']:.2f}",
        f"{quality['kimg']:g} thousand images seen, {quality['kimg_per_hour']:.1f} an hour; "
        f"augmentation at the end: p = {quality['p']:.2f}",
        "sheets of generated images: samples/",
    ]


DATA = one_folder(require_tags=False)
STAGES = (
    StageSpec("prepare", prepare, shared=True),
    StageSpec("split", split, reads=("prepare",)),
    StageSpec("generate", train_generator, reads=("prepare", "split"), outside=True, together=True),
)
ALWAYS = ("prepare", "split", "generate")
NEEDS: dict[str, tuple[str, ...]] = {}


def stages_of(config: FactoryConfig) -> list[str]:  # noqa: ARG001 - all, whatever the settings
    """All stages, in running order."""
    return [spec.name for spec in STAGES]
