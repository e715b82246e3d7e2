"""Few masks, and a classifier's saliency maps as further channels of a U-Net's input.

Sources: "saliency maps as extra channels of a U-Net" on iCoseg and Inria; Simonyan et al. 2014,
Zeiler & Fergus 2014, Springenberg et al. 2015 (the three rules, see ``attribution/saliency.py``).

========  ==============================  =================================  ============
stage     reads                           writes                             published in
========  ==============================  =================================  ============
prepare   images                          images.npy, digests.json           (ours)
split     masks, groups                   split.json, split.csv              80 / 10 / 10
saliency  images                          maps.npy, channels.json            method, 1
segment   images, maps, masks             ROW-SEED.safetensors, fitted.json  method, 2
evaluate  test images, maps               confusion.npy, evaluation.json     results
export    the first segmenter, images     RUN/masks, RUN/weights             (ours)
========  ==============================  =================================  ============

A row is an input: ``rgb+plain`` are the colours and one map. All rows are trained alike, from the
same random numbers, once for each of ``seeds``; the first row is the run's answer. Beside it stand
the colours alone, and channels that are no maps: edges, the map of a network with random weights,
the map of another image. What a map is worth is what it adds to the colours and to these.

Differs from the paper (preset ``paper``):

- Two logits under a softmax instead of one under a sigmoid: cross-entropy is binary cross-entropy
  of their difference, and 0.5 the same threshold.
- Which class is explained, how channels become one and how a map is scaled is not published: the
  predicted class, the largest absolute value, min-max.
- Gradients are cut at norm 5. Nothing is augmented.
- Scores pool the pixels of all images; the paper's two data sets are averaged in two ways.
- The network's convolutions are padded, see :class:`fewmask.models.segmenter.ClassicUNet`.

The other presets leave the paper by design.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from fewmask.attribution.maps import require_size
from fewmask.conventions import IGNORE_INDEX
from fewmask.data.folder import DataFolder
from fewmask.data.loading import Sparse
from fewmask.data.splits import Split
from fewmask.data.transforms import to_unit
from fewmask.io.images import read_image
from fewmask.metrics.confusion import confusion_matrix
from fewmask.pipelines.folders import one_folder
from fewmask.pipelines.saliency_config import PRESETS, SaliencyConfig
from fewmask.pipelines.saliency_maps import (
    MapMaker,
    channels_of,
    classifier_of,
    has_colours,
    keep_classifier,
    network_of,
    rows_of,
    stacked,
)
from fewmask.pipelines.saliency_rows import (
    bill,
    candidates,
    checks,
    iou_and_dice,
    maps_of_row,
    panels,
    pictures,
    predictor_of,
    remarks,
)
from fewmask.training.controls import balanced_rows, few_masked_rows, masked_rows, no_masks
from fewmask.training.evaluation import measure
from fewmask.training.export import export_masks
from fewmask.training.inference import predict_probs
from fewmask.training.known_images import KnownImages, refuse_learned, refuse_weights_that_saw
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.run_places import refuse_inside
from fewmask.training.segmenting import fit_segmenter, true_targets
from fewmask.training.signals import stop_if_asked
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace, open_array, prepare, split

__all__ = [
    "ALWAYS",
    "DATA",
    "NEEDS",
    "PRESETS",
    "STAGES",
    "SaliencyConfig",
    "bill",
    "checks",
    "panels",
    "pictures",
    "predictor_of",
    "refuse_impossible",
    "remarks",
    "stages_of",
]


QUICKER = {"score_cam": "grad_cam", "smoothgrad": "plain", "integrated_gradients": "plain"}
"""Maps that can be made where these can, for much less."""


def refuse_impossible(
    config: SaliencyConfig,
    data: DataFolder,
    stages: Sequence[str],  # noqa: ARG001 - always all
    parts: Sequence[Split],
) -> None:
    """Look for masks in each fold's cut, and build each network once, before anything is trained.

    Raises:
        DataError: there is no mask to train on, or maps would be kept among the data.
        LeakError: the tag classifier has learned a test image.
        FewmaskError: there is no such network, not with these weights, it has no such class,
            fails at that size of images, or has no such map.
    """
    masked = {s.id for s in data.samples if s.mask_path and (s.tags or not data.has_tags)}
    if any(masked.isdisjoint(part.train) for part in parts):
        raise no_masks(data)
    if config.saliency_cache is not None:
        refuse_inside(config.saliency_cache, data.root, "--saliency-cache")
    side = config.saliency_image_size
    fix = "--saliency-image-size 224, or what it was trained at"
    require_size(classifier_of(config).network, (side, side), "saliency_image_size", fix, None)
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    quick = dict.fromkeys(QUICKER.get(name, name) for name in config.maps)
    MapMaker(config.replaced(saliency_cache=None), list(quick), torch.device("cpu"))([noise])
    for row in rows_of(config):
        network_of(row, config, data.num_classes)
    if config.saliency_classifier is not None:
        tested = {name for part in parts for name in part.test}
        samples = [sample for sample in data.samples if sample.id in tested]
        refuse_weights_that_saw(config.saliency_classifier, samples, ANOTHER_CLASSIFIER)


ANOTHER_CLASSIFIER = "train the classifier on the same split, or take one with ImageNet's classes"
TRAIN = ("train",)
"""Learned from; the validation part is measured, as published."""


def make_maps(work: Workspace, stage: Stage) -> None:
    """Every channel of every image, at the working size."""
    config: SaliencyConfig = work.config
    wanted = [name for row in rows_of(config) for name in channels_of(row)]
    names = [name for name in dict.fromkeys(wanted) if name != "other"]
    if "other" in wanted:
        names = list(dict.fromkeys([*names, config.maps[0]]))
    samples, batch = work.data.samples, config.saliency_batch_size
    shape = (len(samples), len(names), *config.working_size)
    maps = open_array(stage.path / "maps.npy", np.uint8, shape)
    starts = range(0, len(samples), batch)
    loop = Loop(
        stage, len(starts), seed=config.seed, state={}, before_save=maps.flush, unit="batch"
    )
    keep_classifier(config, stage.path)
    maker = MapMaker(config, names, work.device, stage.path)
    for step in loop:
        rows = range(starts[step], min(starts[step] + batch, len(samples)))
        maps[rows.start : rows.stop] = maker([read_image(samples[r].image_path) for r in rows])
    maps.flush()
    stage.write_json("channels.json", names)


def train_segmenters(work: Workspace, stage: Stage) -> None:
    """Train each row ``seeds`` times, and see how well it fits what it has learned from.

    Writes ``fitted.json``: of each training IoU and Dice of the foreground on the training and the
    validation images at the working size.
    """
    config: SaliencyConfig = work.config
    if lent := KnownImages.lent_to(work.run):  # the cut is known for certain only now
        tested = [work.data.samples[row] for row in work.rows("test")]
        refuse_learned(lent, tested, str(config.saliency_classifier), ANOTHER_CLASSIFIER)
    masked = masked_rows(work, TRAIN)
    if not masked:
        raise no_masks(work.data)
    chosen = few_masked_rows(work, config.masks, TRAIN) if config.masks else masked
    rows = balanced_rows(work, chosen, TRAIN)
    seen = sorted({*rows, *work.rows("train", "val")})
    truth = true_targets(work, seen)
    fitted: dict[str, dict[str, float | None]] = {}
    for row in rows_of(config):
        images = Sparse(np.stack([_input(work, row, each) for each in seen]), seen,
                        len(work.images))  # fmt: skip
        for seed in range(config.seeds):
            name = f"{row}-{seed}"
            network = fit_segmenter(
                work,
                stage,
                truth,
                rows,
                name,
                images=images,
                augment=config.segment_augment,
                build=partial(network_of, row),
                drawn_by=f"seed {seed}",
                colours=3 * has_colours(row),
            )
            fitted[name] = {}
            for part, of_part in (("train", sorted(set(rows))), ("val", work.rows("val"))):
                matrix = np.zeros((work.num_classes, work.num_classes), np.int64)
                for target, mask in _predicted(network, images, truth, of_part, config):
                    matrix += confusion_matrix(target, mask, work.num_classes)
                scores = iou_and_dice(matrix[None], work.class_names)
                fitted[name] |= {f"{part}.{key}": value for key, value in scores.items()}
    stage.write_json("fitted.json", fitted)
    stage.write_json("masks_used.json", [work.data.samples[row].id for row in chosen])


def _input(work: Workspace, row: str, number: int) -> np.ndarray:
    return stacked(row, np.asarray(work.images[number]), maps_of_row(work, number))


def _predicted(
    network: Any, images: Sparse, truth: Sparse, rows: Sequence[int], config: SaliencyConfig
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for row in rows:
        stop_if_asked()
        target = truth[row]
        if (target != IGNORE_INDEX).any():  # without a mask it says nothing
            probs = predict_probs(network, to_unit(images[row])[None], views=config.predict_views)
            yield target, probs[0].argmax(0).numpy().astype(np.uint8)


def evaluate(work: Workspace, stage: Stage) -> None:
    """Measure every row of every seed on the test images at their own sizes."""
    measure(work, stage, candidates(work))


def export(work: Workspace, stage: Stage) -> None:
    """Masks of all images by the run's answer."""
    export_masks(work, stage, predictor_of(work))


DATA = one_folder(require_tags=False)
STAGES = (
    StageSpec("prepare", prepare, shared=True),
    StageSpec("split", split, reads=("prepare",)),
    StageSpec(
        "saliency", make_maps, reads=("prepare",), settings=("maps", "controls_maps"), shared=True
    ),
    StageSpec(
        "segment",
        train_segmenters,
        reads=("split", "saliency"),
        settings=("maps", "controls", "seeds", "masks", "predict"),
        masks=True,
        together=True,
    ),
    StageSpec("evaluate", evaluate, reads=("split", "segment"), settings=("predict",), masks=True),
    StageSpec("export", export, reads=("segment",), settings=("predict",), outside=True),
)
ALWAYS = ("prepare", "split", "saliency", "segment", "evaluate", "export")
NEEDS: dict[str, tuple[str, ...]] = {}


def stages_of(config: SaliencyConfig) -> list[str]:  # noqa: ARG001 - all, whatever the settings
    """All stages, in running order."""
    return [spec.name for spec in STAGES]
