"""Image-level tags to masks: Score-CAM of a classifier x CycleGAN difference, then a segmenter.

Sources: the two landslide studies "CycleGAN + Score-CAM" (VGG16, Bijie tiles), Wang et al. 2020
(Score-CAM, arXiv 1910.01279), Zhu et al. 2017 (CycleGAN, arXiv 1703.10593).

============  =============================  ===================================  ================
stage         reads                          writes                               published in
============  =============================  ===================================  ================
prepare       images                         images.npy, digests.json             (ours)
split         tags, groups, digests          split.json, split.csv                5-10 folds
translate     images by tag                  gen_ab, gen_ba .safetensors          3.2.1, 3.3
augment       negatives, gen_ba              generated/*.png, generated.csv       4.2
classify      images, tags, generated        classifier.safetensors               3.2.2, 3.3
evidence      all of the above               cams.npy, differences.npy            1.3.3, 3.4
pseudo_masks  evidence                       targets.npy                          3.4
segment       images, targets                round-N.safetensors                  ours
controls      true masks, if any             masks-N.safetensors                  U-Net reference
masks         segmenter, all images          RUN/masks, RUN/weights               (ours)
evaluate      test images and masks          confusion.npy, evaluation.json       4.1, table 4.1
============  =============================  ===================================  ================

Differs from the paper (preset ``paper``):

- The loss weights and norms of the CycleGAN are not published: least squares, L1, lambda_cycle
  10, lambda_identity 5 and an image pool of 50, CycleGAN's own, stand in for them.
- Batches of 6 images at 512 px need more memory than most machines have: gradients are
  accumulated over ``translate_micro_batch_size`` images, which is exact (instance norm).
- The 10 generated images rejected by hand are named in a file (``augment_reject_file``).
- Images are evaluated at their own size, and over all test images, negatives included.
- Folds are cut before anything is generated: no copy of a test image can be trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fewmask.data.transforms import IGNORE_INDEX, resize_image, resize_mask, to_unit
from fewmask.masks.fuse import fuse_soft, intersect
from fewmask.masks.targets import class_ids, pseudo_target
from fewmask.masks.threshold import threshold_map
from fewmask.metrics.controls import oracle_threshold
from fewmask.pipelines.tags_config import PRESETS, TagsConfig
from fewmask.pipelines.tags_cut import balanced_cut
from fewmask.pipelines.tags_evidence import EvidenceMaker, make_evidence, train_classifier
from fewmask.pipelines.tags_translation import augment, train_translation
from fewmask.training.evaluation import Candidate, measure, measured_rows, trivial_controls
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import (
    SegmenterPredictor,
    controls,
    export_masks,
    fit_segmenter,
    load_segmenter,
    probs_of_rows,
    true_target,
)
from fewmask.training.workspace import StageSpec, Workspace, prepare, split

__all__ = ["ALWAYS", "NEEDS", "PRESETS", "STAGES", "TagsConfig", "predictor_of", "stages_of"]


class Evidence:
    """The maps of stage ``evidence``, and the masks that they give by themselves."""

    def __init__(self, work: Workspace) -> None:
        self.config: TagsConfig = work.config
        self.path = work.stages["evidence"].path
        self.cams = np.load(self.path / "cams.npy", mmap_mode="r")  # (N, K, S, S)
        self.differences = np.load(self.path / "differences.npy", mmap_mode="r")  # (N, S, S)
        self.has_difference = "translate" in work.stages

    def scores(self, row: int) -> np.ndarray:
        """(K, S, S) float32 in [0, 1]: both maps as one score for each class."""
        cams = self.cams[row].astype(np.float32)
        if self.config.pseudo_fusion == "none" or not self.has_difference:
            return cams
        difference = self.differences[row].astype(np.float32)
        difference = difference / max(float(difference.max()), 1e-6)
        fused = np.stack([fuse_soft(c, difference, self.config.pseudo_fusion) for c in cams])
        return fused / np.maximum(fused.max((1, 2), keepdims=True), 1e-6)

    def cam_masks(self, row: int, threshold: float | None, name: str = "cams") -> np.ndarray:
        """(K, S, S) bool: the CAMs cut at a value, or at Otsu's."""
        maps = self.cams if name == "cams" else np.load(self.path / f"{name}.npy", mmap_mode="r")
        return np.stack([_cut(cam, threshold) for cam in maps[row].astype(np.float32)])

    def difference_mask(self, row: int, threshold: float | None) -> np.ndarray:
        """(S, S) bool: the difference map cut at a value, or at Otsu's."""
        return _cut(self.differences[row].astype(np.float32), threshold)


def _cut(score: np.ndarray, threshold: float | None) -> np.ndarray:
    if threshold is None:
        return threshold_map(score, "otsu")
    return threshold_map(score, "manual", value=threshold)


def make_pseudo_masks(work: Workspace, stage: Stage) -> None:
    """Evidence to training targets: refined, with an ignore band; negatives are background."""
    evidence, config = Evidence(work), work.config
    rows = work.rows("train", "val")
    cut = config.pseudo_cut
    if cut is None:
        cut = balanced_cut(work, stage, work.rows("train", tagged=True), evidence.scores)
        work.run.log(f"{stage.label}: label-free cut of the evidence at {cut:.2f}")
    stage.write_json("used_cut.json", cut)
    targets = np.full(work.images.shape[:3], IGNORE_INDEX, np.uint8)
    loop = Loop(stage, len(rows), seed=config.seed, state={}, unit="image", resumable=False)
    for row in (rows[i] for i in loop):
        scores = evidence.scores(row)
        targets[row] = target_of(work.images[row], scores, work.tags[row], cut, config)
    np.save(stage.path / "targets.npy", targets)


def target_of(
    image: np.ndarray, scores: np.ndarray, tags: np.ndarray, cut: float, config: TagsConfig
) -> np.ndarray:
    """A training target from the scores of the classes that an image is known to have.

    Args:
        image: (S, S, 3) uint8.
        scores: (K, S, S) float32 in [0, 1].
        tags: (K,) bool.
        cut: Score at which object and background are equally likely.
        config: Reads ``pseudo_*``.

    Returns:
        (S, S) uint8 ids with 255 where the evidence is undecided.
    """
    return pseudo_target(
        image,
        np.where(tags[:, None, None], scores, 0),
        method=config.pseudo_refine,
        cut=cut,
        band=config.pseudo_band,
        band_px=config.pseudo_band_px,
    )


def refined_masks(work: Workspace, evidence: Evidence, row: int) -> np.ndarray:
    """(K, S, S) bool: what a pseudo-mask of this image would be, by its known or predicted tags."""
    tagged = evidence.cams[row].any((1, 2))
    cut = work.stages["pseudo_masks"].read_json("used_cut.json")
    target = target_of(work.images[row], evidence.scores(row), tagged, cut, work.config)
    return np.stack([target == k for k in range(1, len(tagged) + 1)])


def train_segmenter(work: Workspace, stage: Stage) -> None:
    """Train on the pseudo-masks; predict the training images, refine, train anew."""
    config: TagsConfig = work.config
    targets = np.load(work.stages["pseudo_masks"].path / "targets.npy")
    rows, tagged = work.rows("train", "val"), work.rows("train", "val", tagged=True)
    for number in range(1, config.segment_rounds + 1):
        network = fit_segmenter(work, stage, targets, rows, f"round-{number}")
        if number < config.segment_rounds:
            probs = probs_of_rows(work, stage, network, tagged, f"probs-{number}")
            targets = targets.copy()
            for row in tagged:
                scores = probs[row, 1:].astype(np.float32)
                targets[row] = target_of(work.images[row], scores, work.tags[row], 0.5, config)


def candidates(work: Workspace) -> list[Candidate]:
    """The rows of the table: the answer, the evidence behind it, controls and references."""
    rows = trivial_controls(len(work.class_names) + 1)
    if "evidence" in work.stages:
        rows += _evidence_rows(work, Evidence(work))
    if "controls" in work.stages:
        stage = work.stages["controls"]
        for name, count in stage.read_json("controls.json").items():
            predictor = load_segmenter(work, stage.path / f"{name}.safetensors")
            few = name != "masks-all"
            rows.append(
                Candidate(
                    f"segmenter on {count} true masks",
                    "control" if few else "reference",
                    _apply(predictor),
                    masks_used=count,
                    note="the same network, schedule and negatives"
                    if few
                    else "full supervision: the ceiling",
                )
            )
    if "segment" in work.stages:
        stage = work.stages["segment"]
        for number in range(1, work.config.segment_rounds + 1):
            predictor = load_segmenter(work, stage.path / f"round-{number}.safetensors")
            last = number == work.config.segment_rounds
            rows.append(
                Candidate(
                    "segmenter on pseudo-masks" + ("" if last else f", round {number}"),
                    "result" if last else "reference",
                    _apply(predictor),
                )
            )
    return rows


def _apply(predictor: SegmenterPredictor) -> Callable[[int, np.ndarray], np.ndarray]:
    return lambda _, image: predictor.mask(image)


def _evidence_rows(work: Workspace, evidence: Evidence) -> list[Candidate]:
    config: TagsConfig = work.config
    name = {"cam": "CAM", "grad_cam": "Grad-CAM", "score_cam": "Score-CAM"}.get(
        config.cam_method, config.cam_method
    )

    def row(
        title: str, mask: Callable[[int], np.ndarray], kind: Any = "evidence", masks: int = 0
    ) -> Candidate:
        def at_own_size(index: int, image: np.ndarray) -> np.ndarray:
            ids = class_ids(mask(index), evidence.scores(index))
            return np.asarray(resize_mask(ids, *image.shape[:2]))

        choice = f"{masks} masks" if masks else "label_free"
        return Candidate(title, kind, at_own_size, threshold_choice=choice, masks_used=masks)

    def both(cam_value: float | None, difference_value: float | None, maps: str) -> Any:
        def mask(index: int) -> np.ndarray:
            cam = evidence.cam_masks(index, cam_value, maps)
            return intersect(cam, _over(cam, evidence.difference_mask(index, difference_value)))

        return mask

    def refined(index: int) -> np.ndarray:
        return refined_masks(work, evidence, index)

    rows = [row(f"{name}, Otsu", lambda i: evidence.cam_masks(i, None))]
    if "pseudo_masks" in work.stages:
        rows.append(row("pseudo-masks by predicted tags", refined, "reference"))
    measured = measured_rows(work)
    if len(work.class_names) == 1 and measured:
        best, _ = oracle_threshold(
            [evidence.cams[i, 0].astype(np.float32) for i in measured],
            [true_target(work.data.samples[i], work.data, config.image_size) for i in measured],
        )
        rows.append(
            row(
                f"{name} at its best threshold on the test masks, {best:.2f}",
                lambda i: evidence.cam_masks(i, best),
                "oracle",
                len(measured),
            )
        )
    if evidence.has_difference:
        difference = evidence.difference_mask
        known = np.load(evidence.path / "known_tags.npy")
        rows += [
            row(
                "difference map, Otsu",
                lambda i: known[i][:, None, None] & difference(i, None)[None],
            ),
            row(f"{name} AND difference, Otsu", both(None, None, "cams")),
        ]
        if config.cam_threshold is not None:
            values = (config.cam_threshold, config.difference_threshold)
            text = f"{values[0]} / {values[1]}"
            billed = config.threshold_masks
            kind = "evidence" if config.segment_rounds else "result"
            if (evidence.path / "grad_cams.npy").exists():
                rows.append(
                    row(
                        f"Grad-CAM AND difference at {text}",
                        both(*values, "grad_cams"),
                        masks=billed,
                    )
                )
            rows.append(
                row(f"{name} AND difference at {text}", both(*values, "cams"), kind, billed)
            )
        rows.append(
            row(
                f"fused ({config.pseudo_fusion}), Otsu",
                lambda i: np.stack([_cut(score, None) for score in evidence.scores(i)]),
            )
        )
    return rows


def _over(masks: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.broadcast_to(mask, masks.shape)


def evaluate(work: Workspace, stage: Stage) -> None:
    """Measure every row on the held-out images at their own sizes."""
    measure(work, stage, candidates(work))


class EvidencePredictor:
    """The published chain without a segmenter: both maps, cut, intersected; class by class."""

    def __init__(self, maker: EvidenceMaker, config: TagsConfig) -> None:
        self.maker, self.config = maker, config

    def probs(self, image: np.ndarray) -> np.ndarray:
        """1 for the class of each pixel and 0 for the others, (K + 1, H, W) float32."""
        size = self.config.image_size
        small = to_unit(resize_image(image, size, size))[None]
        tags = self.maker.tag_probs(small) > 0.5
        cams = self.maker.cams(small, tags)[0]
        masks = np.stack([_cut(cam, self.config.cam_threshold) for cam in cams])
        if self.maker.gen_ab is not None:
            difference = self.maker.differences(small)[0]
            masks = intersect(
                masks, _over(masks, _cut(difference, self.config.difference_threshold))
            )
        ids = resize_mask(class_ids(masks, cams), *image.shape[:2])
        return np.eye(len(masks) + 1, dtype=np.float32)[ids].transpose(2, 0, 1)

    def mask_of_probs(self, image: np.ndarray, probs: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """(H, W) uint8 ids."""
        return probs.argmax(0).astype(np.uint8)


def panels(work: Workspace, row: int, size: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:
    """The evidence of one image for the report: the maps, and the mask that they give."""
    if "evidence" not in work.stages:
        return []
    evidence = Evidence(work)
    found: list[tuple[str, np.ndarray]] = [
        (f"CAM {name}" if len(work.class_names) > 1 else "CAM", _map_at(cam, size))
        for name, cam in zip(work.class_names, evidence.cams[row], strict=True)
    ]
    if evidence.has_difference:
        difference = evidence.differences[row].astype(np.float32)
        shown = difference / max(float(difference.max()), 1e-6)
        found.append(("difference (stretched)", _map_at(shown, size)))
    scores = evidence.scores(row)
    title, masks = "fused mask", np.stack([_cut(score, None) for score in scores])
    if "pseudo_masks" in work.stages:
        title, masks = "refined evidence", refined_masks(work, evidence, row)
    return [*found, (title, resize_mask(class_ids(masks, scores), *size))]


def _map_at(score: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    image = Image.fromarray(score.astype(np.float32))
    resized = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return np.clip(resized, 0, 1)


def bill(works: Sequence[Workspace]) -> list[tuple[str, str, str]]:
    """Every label that went into the result or its rows: (what, labels, source)."""
    work = works[0]
    config: TagsConfig = work.config
    learned = len(work.rows("train")) + len(work.rows("val"))
    lines = [("image-level tags", f"{learned} images", "your data, training part of each fold")]
    if config.encoder_weights != "none":
        lines.append(("weights of the encoder", "1.28 million image-level tags", "ImageNet-1k"))
    lines.append(("masks behind thresholds", str(config.threshold_masks), "see the table"))
    if "controls" in work.stages:
        counts = work.stages["controls"].read_json("controls.json").values()
        text = ", ".join(map(str, counts)) or "0"
        lines.append(
            ("masks for control and reference rows only", text, "your data, training part")
        )
    return lines


def export(work: Workspace, stage: Stage) -> None:
    """Masks of all images, the trained weights and their card."""
    export_masks(work, stage, predictor_of(work))


def predictor_of(work: Workspace) -> SegmenterPredictor | EvidencePredictor:
    """What ``fewmask predict`` applies: the last round's segmenter, or the published chain."""
    if "segment" in work.stages and work.config.segment_rounds:
        name = f"round-{work.config.segment_rounds}.safetensors"
        return load_segmenter(work, work.stages["segment"].path / name)
    return EvidencePredictor(EvidenceMaker.of(work), work.config)


STAGES = (
    StageSpec("prepare", prepare, shared=True),
    StageSpec("split", split, reads=("prepare",)),
    StageSpec("translate", train_translation, reads=("prepare", "split")),
    StageSpec("augment", augment, reads=("prepare", "split", "translate")),
    StageSpec("classify", train_classifier, reads=("prepare", "split", "augment")),
    StageSpec(
        "evidence",
        make_evidence,
        reads=("split", "classify", "translate"),
        settings=("cam", "difference"),
    ),
    StageSpec("pseudo_masks", make_pseudo_masks, reads=("evidence",), settings=("pseudo",)),
    StageSpec("segment", train_segmenter, reads=("pseudo_masks",), settings=("predict", "pseudo")),
    StageSpec(
        "controls",
        controls,
        reads=("split", "classify"),
        settings=("segment", "controls", "predict"),
    ),
    StageSpec(
        "evaluate",
        evaluate,
        reads=("split", "evidence", "segment", "controls"),
        settings=("predict", "threshold"),
    ),
    StageSpec("export", export, reads=("evidence", "segment"), settings=("predict",)),
)
ALWAYS = ("prepare", "split", "evaluate", "export")
NEEDS = {
    "augment": ("translate",),
    "evidence": ("classify",),
    "pseudo_masks": ("evidence",),
    "segment": ("pseudo_masks",),
    "export": ("classify",),
}


def stages_of(config: TagsConfig) -> list[str]:
    """The stages that the settings ask for, in running order."""
    idle = set()
    if not config.augment_images:
        idle.add("augment")
    if not config.segment_rounds:
        idle |= {"pseudo_masks", "segment"}
    if not config.controls_full and not config.controls_masks:
        idle.add("controls")
    return [spec.name for spec in STAGES if spec.name not in idle]
