"""Pipeline ``label``, second half of the factory: few masks in, an interpreter of features out.

=========  =========================  ====================================
stage      reads                      writes
=========  =========================  ====================================
prepare    annotated images           images.npy, digests.json
split      (all of them teach)        split.json, split.csv
invert     images, generator          styles.npy       (route invert)
features   images or their styles     map-00.npy, …
interpret  features, masks            interpreter.safetensors
=========  =========================  ====================================

Three routes lead to features of annotated images. ``generated``: masks drawn on generated images,
whose codes are known. ``invert``: real images with masks; the generator is made to repeat them.
``encoder``: real images with masks; a frozen ImageNet encoder takes the generator's place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.data.folder import DataFolder
from fewmask.data.splits import Split
from fewmask.data.transforms import resize_image, to_unit
from fewmask.errors import DataError, UsageError, shell_command
from fewmask.models.features import feature_pyramid
from fewmask.models.pixel_classifier import Labels, PixelClassifier, enlarge
from fewmask.pipelines.factory import write_weights
from fewmask.pipelines.factory_annotated import ANNOTATED
from fewmask.pipelines.factory_config import PRESETS, LabelConfig
from fewmask.pipelines.factory_features import (
    EncoderFeatures,
    features_of,
    frozen_pyramid,
    teacher_generator,
)
from fewmask.pipelines.factory_interpreter import (
    INTERPRETER,
    NativeMaps,
    fit_interpreter,
    interpret,
    new_interpreter,
)
from fewmask.pipelines.factory_inversion import invert
from fewmask.pipelines.factory_report import interpreter_report
from fewmask.pipelines.factory_seeds import number_of, read_seeds
from fewmask.report.verdict import Verdict
from fewmask.training.checkpoint import (
    load_weights,
    remove_temporaries,
    sha256_file,
    write_atomically,
)
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import true_targets
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace, prepare, split_by

__all__ = ["ALWAYS", "DATA", "NEEDS", "PRESETS", "STAGES", "LabelConfig", "finish", "stages_of"]


def refuse_impossible(
    config: LabelConfig,
    data: DataFolder,
    stages: Sequence[str],  # noqa: ARG001 - those of the route
    parts: Sequence[Split],  # noqa: ARG001 - all in one
) -> None:
    """Refuse masks on generated images that are not those of the generator; build the networks.

    Raises:
        DataError: the images were made by another generator, or are not called like exported ones.
        UsageError: the route takes a generator and none is named.
        FewmaskError: the encoder is not there.
    """
    if config.route != "generated":
        feature_pyramid(config.encoder, config.encoder_weights)
    if config.route == "encoder":
        return
    if config.generator_weights == "none":
        raise UsageError.of(
            "GENERATOR-MISSING",
            where="generator_weights",
            found="none",
            expected="generator.safetensors of a run of `fewmask factory train`",
            fix="`fewmask factory label RUN` gives it",
        )
    if config.route == "generated":
        weights = Path(config.generator_weights)
        read_seeds(data.root, sha256_file(weights), weights.parents[1])
        strange = [s.id for s in data.samples if number_of(s.image_path.stem) is None]
        if strange:
            raise DataError.of(
                "SEEDS-NAME",
                where=data.root / strange[0],
                found=f"{len(strange)} names without a number",
                expected="seed-000012.png and the like, as they were exported",
                fix="give the images their names back, and the masks theirs",
            )


def invert_images(work: Workspace, stage: Stage) -> None:
    """The styles of the annotated images."""
    config: LabelConfig = work.config
    invert(stage, teacher_generator(work), frozen_pyramid(work), work.images, config)


def write_features(work: Workspace, stage: Stage) -> None:
    """The feature maps of the annotated images."""
    NativeMaps.write(stage, features_of(work), len(work.data.samples))


def train_interpreter(work: Workspace, stage: Stage) -> None:
    """The ensemble of pixel classifiers."""
    rows = range(len(work.data.samples))
    masks = true_targets(work, rows).array
    maps = NativeMaps(work.stages["features"].path)
    fit_interpreter(stage, maps, masks, work.num_classes, work.config, work.device)
    stage.write_json("channels.json", maps.channels)


def load_interpreter(work: Workspace) -> list[PixelClassifier]:
    """The trained ensemble, in eval mode."""
    stage = work.stages["interpret"]
    members = new_interpreter(stage.read_json("channels.json"), work.num_classes, work.config)
    load_weights(stage.path / INTERPRETER, members)
    return list(members.to(work.device).eval())  # type: ignore[arg-type]


@dataclass(frozen=True)
class InterpreterPredictor:
    """Masks of real images by the encoder route.

    Attributes:
        features: Of an image.
        members: Of the ensemble.
        side_px: Side of the image that the encoder sees before it is enlarged.
    """

    features: EncoderFeatures
    members: list[PixelClassifier]
    side_px: int

    @torch.no_grad()
    def probs(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to (K + 1, H, W) float32: the members' mean at the image's own size."""
        device = next(self.members[0].parameters()).device
        small = to_unit(resize_image(image, self.side_px, self.side_px))[None].to(device)
        maps = self.features(small)
        size = (self.side_px, self.side_px)
        probs = torch.stack([m.of_images(maps, size).softmax(1) for m in self.members]).mean(0)
        return enlarge(probs, image.shape[:2])[0].cpu().numpy()

    def mask_of_probs(self, image: np.ndarray, probs: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """(H, W) uint8 ids."""
        return probs.argmax(0).astype(np.uint8)


def predictor_of(work: Workspace) -> InterpreterPredictor:
    """What ``fewmask predict`` applies.

    Raises:
        UsageError: the interpreter reads a generator's features, which real images do not have.
    """
    if work.config.route != "encoder":
        raise UsageError.of(
            "RUN-INTERPRETER",
            where=work.run.path,
            found="an interpreter of a generator's features",
            expected="a run that segments real images",
            fix=f"`{shell_command('factory', 'judge', work.run.path, 'DATA')}` trains one on what "
            "it labels",
        )
    return InterpreterPredictor(
        EncoderFeatures.of(work), load_interpreter(work), work.config.image_size
    )


def annotated_labels(work: Workspace) -> Callable[[int], Labels]:
    """What the interpreter says of each image that it has learned from, by its row."""
    maps, members = NativeMaps(work.stages["features"].path), load_interpreter(work)

    def label(row: int) -> Labels:
        features = [m.permute(2, 0, 1)[None].to(work.device) for m in maps.of_image(row)]
        return interpret(members, features, work.config.working_size)

    return label


def finish(works: Sequence[Workspace]) -> None:
    """Write weights, metrics.json and the report."""
    work = works[0]
    run, stages = work.run, work.stages
    remove_temporaries(run.path)
    card = {
        "kind": "interpreter",
        "route": work.config.route,
        "class_names": list(work.class_names),
        "background": True,
    }
    write_weights(work, stages["interpret"].path / INTERPRETER, card)
    rows = range(len(work.data.samples))
    masks = true_targets(work, rows)
    known = float(np.mean([(masks[row] != 255).mean() for row in rows]))
    summary: dict[str, Any] = {
        "class_names": list(work.class_names),
        "n": 0,
        "metrics": {},
        "rows": [],
        "verdict": asdict(Verdict("not_measured", MADE)),
        "made": [
            f"{len(work.data.samples)} annotated images, {known:.1%} of their pixels labelled",
            f"route: {work.config.route}; classes: {', '.join(work.class_names)}",
            "pictures of what it has learned from: report.html",
        ],
        "next": next_words(work),
        "annotated": len(work.data.samples),
        "minutes": round(sum(s.facts.get("seconds", 0) for s in stages.values()) / 60, 2),
        "peak_gb": max(s.facts.get("peak_gb_so_far", 0) for s in stages.values()),
    }
    write_atomically(run.path / "metrics.json", json.dumps(summary, indent=1).encode())
    interpreter_report(work, summary, annotated_labels(work))


def next_words(work: Workspace) -> list[str | int]:
    """The command to go on with."""
    if work.config.route == "encoder":
        return ["predict", str(work.run.path), "IMAGES", "-o", "OUT"]
    return ["factory", "sample", str(work.run.path), "-n", 1500, "-o", "DATASET"]


MADE = "An interpreter of features; what its labels are worth, `fewmask factory judge` measures."


DATA = ANNOTATED
STAGES = (
    StageSpec("prepare", prepare, shared=True),
    StageSpec("split", partial(split_by, ANNOTATED.cut), reads=("prepare",)),
    StageSpec("invert", invert_images, reads=("prepare",)),
    StageSpec("features", write_features, reads=("prepare", "invert")),
    StageSpec("interpret", train_interpreter, reads=("features",), masks=True),
)
ALWAYS = ("prepare", "split", "features", "interpret")
NEEDS: dict[str, tuple[str, ...]] = {}


def stages_of(config: LabelConfig) -> list[str]:
    """The stages of the route, in running order."""
    return [spec.name for spec in STAGES if spec.name != "invert" or config.route == "invert"]
