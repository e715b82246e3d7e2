"""Part of pipeline ``adapt``: the rows of its table, its pictures, its bill of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.io.images import read_image
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.adapt_data import domain_rows, masked_rows
from fewmask.pipelines.adapt_translation import load_unit, translate_image
from fewmask.report.bill import pretrained_labels, pretrained_weights
from fewmask.report.figures import drawn_ids, strip_png
from fewmask.report.html import Case
from fewmask.training.evaluation import Candidate, prior_controls
from fewmask.training.known_images import run_of
from fewmask.training.segmenting import SegmenterPredictor, load_segmenter, true_targets
from fewmask.training.workspace import Workspace

SOURCE_ONLY = "source only"
ORACLE = "source and target masks"
RESULT = "adapted"
BEFORE = "before self-training"
OWN_STATISTICS = "with the statistics of its training"
SHOWN_TRANSLATIONS = 3


def candidates(work: Workspace) -> list[Candidate]:
    """The answer, what it began with, the same network without adaptation and with target masks."""
    changed = "render" in work.stages or "adapt" in work.stages
    source = f"{len(masked_rows(work, 'source'))} source masks"
    truth = true_targets(work, masked_rows(work, "source"))
    rows = prior_controls(truth.array, work.num_classes, source)
    if "controls" in work.stages:
        stage = work.stages["controls"]
        for name, masks in stage.read_json("controls.json").items():
            oracle = name == "oracle"
            rows.append(
                Candidate(
                    ORACLE if oracle else SOURCE_ONLY,
                    "oracle" if oracle else "control",
                    _applied(load_segmenter(work, stage.path / f"{name}.safetensors")),
                    masks_used=masks,
                    note="the same network, augmentation and number of steps",
                    label_cost=f"{source}, {masks} target masks" if oracle else source,
                    anchor="ceiling" if oracle else "floor",
                )
            )
    if "adapt" in work.stages:
        path = work.stages["segment"].path / "segmenter.safetensors"
        rows.append(
            Candidate(
                BEFORE if work.config.total_rounds else OWN_STATISTICS,
                "control",
                _applied(load_segmenter(work, path)),
                note=_translated(work)
                + "; fewer steps than the others" * bool(work.config.total_rounds),
                label_cost=source,
            )
        )
    rows.append(
        Candidate(
            RESULT,
            "result",
            _applied(predictor_of(work)),
            note=_translated(work) + (f"; {_taught(work)}" if "adapt" in work.stages else ""),
            label_cost=source,
            anchor="" if changed else "floor",
        )
    )
    return rows


def predictor_of(work: Workspace) -> SegmenterPredictor:
    """What ``fewmask predict`` applies."""
    name = "adapted" if "adapt" in work.stages else "segmenter"
    stage = work.stages["adapt" if "adapt" in work.stages else "segment"]
    return load_segmenter(work, stage.path / f"{name}.safetensors")


def _applied(predictor: SegmenterPredictor) -> Any:
    return lambda _, image: predictor.mask(image)


def _translated(work: Workspace) -> str:
    if "render" not in work.stages:
        return "plain"
    return f"translated by {', '.join(work.config.render_methods)}"


def _taught(work: Workspace) -> str:
    kept = work.stages["adapt"].read_json("adaptation.json")["kept"]
    how = "self-training, " if work.config.total_rounds else "normalisation, "
    return f"{how}{work.config.adapt_method}: kept {kept}"


def panels(work: Workspace, row: int, size: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:
    """The segmenter without adaptation on a test image, if there is one."""
    stage = work.stages.get("controls")
    path = stage and stage.path / "source-only.safetensors"
    if not path or not path.exists():
        return []
    image = read_image(work.data.samples[row].image_path)
    assert image.shape[:2] == tuple(size)
    mask = load_segmenter(work, path).mask(image)
    return [(SOURCE_ONLY, drawn_ids(mask, work.data.has_background))]


def pictures(works: Sequence[Workspace]) -> list[Case]:
    """A few source images, their translated copies, and a target image beside them."""
    work = works[0]
    if "render" not in work.stages:
        return []
    config: AdaptConfig = work.config
    copies = work.stages["render"].read_json("rendered.json")
    rendered = np.load(work.stages["render"].path / "rendered.npy", mmap_mode="r")
    source, target = domain_rows(work, "source", "train"), domain_rows(work, "target", "train")
    unit = load_unit(work) if "unit" in config.render_methods else None
    strips = []
    for number in range(min(SHOWN_TRANSLATIONS, len(source))):
        k = number * len(source) // SHOWN_TRANSLATIONS
        image, other = work.images[source[k]], work.images[target[k % len(target)]]
        name = work.data.samples[source[k]].id
        shown = [("source image", image)]
        for i, copy in enumerate(copies):
            if copy["parents"][0] == name and len(shown) < 5:
                shown.append((str(copy["method"]), rendered[i]))
        shown.append(("a target image", other))
        if unit is not None:
            shown.append(("this one, unit", translate_image(unit, other, "a")))
        strips.append(
            Case(
                f"translation {number + 1}",
                name,
                "labelled image, translated",
                strip_png([(title, np.asarray(picture)) for title, picture in shown]),
            )
        )
    return strips


def bill(works: Sequence[Workspace]) -> list[tuple[str, str, str]]:
    """Every label that went into the result: (what, labels, source)."""
    work = works[0]
    target, masks = domain_rows(work, "target", "train"), masked_rows(work, "target")
    oracle = f"; {len(masks):,} have masks, for the oracle alone" if masks else ""
    return [
        ("pixel masks of the source", f"{len(masked_rows(work, 'source')):,}",
         "your data, training part"),
        ("pixel masks of the target", "0", f"{len(target):,} images to learn from{oracle}"),
        *pretrained_labels(work.config),
        *_pretrained_helpers(work),
    ]  # fmt: skip


def _pretrained_helpers(work: Workspace) -> list[tuple[str, str, str]]:
    """Networks that helped and are not handed out."""
    config: AdaptConfig = work.config
    lines: list[tuple[str, str, str]] = []
    if "translate" in work.stages and config.translate_weights != "none":
        path = Path(config.translate_weights)
        run = run_of(path)
        seen = "without the test images" if run else "images not known to fewmask"
        while run and (lent := run.record["settings"].get("translate_weights", "none")) != "none":
            run = run_of(Path(lent))  # the run that has trained it
        lines.append(("UNIT of another run", "no masks", f"{path.name}, {seen}"))
        settings: dict[str, Any] = dict(run.record["settings"]) if run else {}
    else:
        settings = config.model_dump()
    if "translate" in work.stages and settings.get("translate_lambda_perceptual"):
        weights = settings["translate_perceptual_weights"]
        lines += pretrained_weights("weights of the perceptual loss", weights)
    if "choose" in work.stages and config.choose_method == "distance":
        lines += pretrained_weights("weights of the features to choose by", config.choose_weights)
    return lines


def checks(works: Sequence[Workspace]) -> dict[str, Any]:
    """Information in the network's labels of target images, before and after self-training."""
    if "adapt" not in works[0].stages:
        return {}
    found = works[0].stages["adapt"].read_json("adaptation.json")
    return {f"adapt.{name}": value for name, value in found.items()}


def remarks(works: Sequence[Workspace]) -> list[str]:
    """What the label-free criterion has said."""
    found = checks(works)
    if not found:
        return []
    values = ", ".join(f"{name} {value:.3f}" for name, value in found["adapt.information"].items())
    end = "Self-training was stopped: " if found["adapt.stopped"] else ""
    return [
        "Label-free criterion, mutual information of pixels and the network's labels on the target "
        f"images, in nats: {values}. {end}handed out is: {found['adapt.kept']}."
    ]
