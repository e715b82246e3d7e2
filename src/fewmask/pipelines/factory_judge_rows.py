"""Part of pipeline ``judge``: the rows of its table, its pictures, its bill of labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.io.images import read_image
from fewmask.metrics.confusion import confusion_matrix, summarise
from fewmask.pipelines.factory_config import JudgeConfig, LabelConfig
from fewmask.pipelines.factory_label import InterpreterPredictor
from fewmask.pipelines.factory_label import predictor_of as interpreter_predictor
from fewmask.pipelines.finished import restore_workspace
from fewmask.report.bill import pretrained_labels
from fewmask.report.figures import drawn_ids, strip_png
from fewmask.report.html import Case
from fewmask.training.evaluation import Candidate, trivial_controls
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import SegmenterPredictor, load_segmenter
from fewmask.training.signals import stop_if_asked
from fewmask.training.workspace import Workspace

ENCODER_ROW = "{k} real, encoder route"
ROWS = {
    "few": "{k} real only",
    "few-plain": "{k} real only, no augmentation",
    "taught": "{k} real + self-training",
    "synthetic": "synthetic only",
    "both": "synthetic + {k} real",
    "all": "all real",
}
"""File of a segmenter to the name of its row."""
SYNTHETIC = ("synthetic", "both")
"""Those that synthetic images teach."""
ANSWERS = ("both", "synthetic", "encoder", "taught", "few")
"""The first of these rows that there is is the result."""


def taught_run(config: JudgeConfig) -> RunFolder:
    """The run of ``fewmask factory label`` that is judged."""
    return RunFolder.open(Path(config.interpreter_weights).parents[1])


def taught_ids(config: JudgeConfig) -> list[str]:
    """Ids of the images that the interpreter was taught with."""
    cut = next(taught_run(config).path.glob("*-split/split.json"))
    return list(json.loads(cut.read_text())["train"])


def made_rows(work: Workspace) -> list[str]:
    """Names of the segmenters that were trained, in the order of the table."""
    stage = work.stages["segment"]
    return [name for name in ROWS if (stage.path / f"{name}.safetensors").exists()]


def candidates(work: Workspace) -> list[Candidate]:
    """Trivial controls, each segmenter, and the interpreter itself if it reads real images."""
    counts = work.stages["segment"].read_json("rows.json")
    ids = taught_ids(work.config)
    k, taught, together = len(counts["few"]), len(ids), len({*counts["few"], *ids})
    route = read_route(work.config)
    result = _answer(work)
    rows = trivial_controls(work.num_classes)
    for name in made_rows(work):
        used = {"all": counts["all"], "synthetic": taught, "both": together}.get(name, k)
        cost = f"{used} annotated images"
        if name in {"synthetic", "both"} and route == "generated":
            cost = f"{taught} annotated generated images" + f", {k} real ones" * (name == "both")
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
    if _has_encoder_row(work):
        used = taught if route == "encoder" else k
        rows.append(
            Candidate(
                ENCODER_ROW.format(k=used),
                "result" if result == "encoder" else "control",
                _applied(_encoder_predictor(work)),
                masks_used=used,
                label_cost=f"{used} annotated images",
                note="an interpreter of real images' features, no segmenter",
            )
        )
    return rows


def agreement(work: Workspace) -> dict[str, dict[str, Any]]:
    """How far each segmenter agrees with the interpreter on synthetic images (test-G).

    Returns:
        By the name of the row its ``miou`` (with background, as published) and
        ``miou_foreground``; nothing where no such image was kept. That is no accuracy: the
        interpreter may be wrong, and a segmenter that repeats its errors scores higher.
    """
    folder = work.stages["sample"].path
    images, masks = (np.load(folder / f"test-{kind}.npy") for kind in ("images", "masks"))
    k = len(work.stages["segment"].read_json("rows.json")["few"])
    found = {}
    for name in made_rows(work) if len(images) else ():
        segmenter, matrices = _segmenter(work, name), []
        for image, mask in zip(images, masks, strict=True):
            stop_if_asked()
            matrices.append(confusion_matrix(mask, segmenter.mask(image), work.num_classes))
        scores = summarise(np.stack(matrices), work.class_names, bootstrap=0)
        found[ROWS[name].format(k=k)] = {key: scores[key] for key in ("miou", "miou_foreground")}
    return found


def _has_encoder_row(work: Workspace) -> bool:
    return read_route(work.config) == "encoder" or "interpret" in work.stages


def _answer(work: Workspace) -> str:
    """Which row is the pipeline's answer."""
    made = [*made_rows(work), *(["encoder"] if _has_encoder_row(work) else [])]
    return next((name for name in ANSWERS if name in made), made[0])


def _encoder_predictor(work: Workspace) -> InterpreterPredictor:
    """The judged interpreter itself if it reads real images, or the one that was taught here."""
    taught, _ = restore_workspace(taught_run(work.config), work.device)
    if read_route(work.config) == "encoder":
        return interpreter_predictor(taught)
    config = encoder_settings(work, taught)
    own = Workspace(work.run, config, work.data, work.device, stages=work.stages)
    return interpreter_predictor(own)


def encoder_settings(work: Workspace, taught: Workspace) -> LabelConfig:
    """Settings of the encoder route: the interpreter's, at the size of this run."""
    config: LabelConfig = taught.config
    return config.replaced(
        route="encoder",
        image_size=work.config.image_size,
        encoder=work.config.encoder,
        encoder_weights=work.config.encoder_weights,
        seed=work.config.seed,
    )


def read_route(config: JudgeConfig) -> str:
    """By which route the interpreter was taught."""
    return str(taught_run(config).record["settings"]["route"])


def _segmenter(work: Workspace, name: str) -> SegmenterPredictor:
    return load_segmenter(work, work.stages["segment"].path / f"{name}.safetensors")


def _applied(predictor: Any) -> Any:
    return lambda _, image: predictor.mask_of_probs(image, predictor.probs(image))


def predictor_of(work: Workspace) -> Any:
    """What ``fewmask predict`` applies: the row that is the result."""
    answer = _answer(work)
    return _encoder_predictor(work) if answer == "encoder" else _segmenter(work, answer)


def panels(work: Workspace, row: int, size: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:  # noqa: ARG001
    """The control on a test image, if it was trained."""
    if "few" not in made_rows(work):
        return []
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
    found = work.stages["evaluate"].read_json("test-G.json") if "sample" in work.stages else {}
    told = ", ".join(f"{name} {scores['miou']:.3f}" for name, scores in found.items())
    synthetic = (
        "On synthetic images with the interpreter's masks (test-G, mean IoU with background): "
        f"{told}. That is agreement with the interpreter, not with the truth."
    )
    return [
        *([synthetic] if found else []),
        f"If the result does not beat “{ROWS['few'].format(k=k)}”, do not use the synthetic "
        f"images: `fewmask train DATA --masks {k}` gives the control.",
        "Choose between rows by more than one seed; this table has one.",
    ]


def checks(works: Sequence[Workspace]) -> dict[str, Any]:
    """Synthetic pairs, copies of training images that were left out, and test-G."""
    if "sample" not in works[0].stages:
        return {}
    stages = works[0].stages
    pairs, found = (
        stages[stage].read_json(file)
        for stage, file in (("sample", "samples.json"), ("evaluate", "test-G.json"))
    )
    test_g = {
        f"test-G.{key}.{row}": value
        for row, scores in found.items()
        for key, value in scores.items()
    }
    return {**{f"sample.{name}": value for name, value in pairs.items()}, **test_g}
