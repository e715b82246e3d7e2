"""Last part of pipeline ``tags``: masks straight from the evidence, and every row of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.data.transforms import resize_image, resize_mask, to_unit
from fewmask.masks.fuse import fuse_soft
from fewmask.masks.pseudo_labels import class_ids, pseudo_target
from fewmask.masks.threshold import threshold_map
from fewmask.metrics.controls import oracle_threshold
from fewmask.pipelines.tags_bill import AT_CAM, AT_CUT, AT_DIFFERENCE, threshold_choice
from fewmask.pipelines.tags_config import TagsConfig
from fewmask.pipelines.tags_evidence import EvidenceMaker
from fewmask.pipelines.tags_reviewed import labels_of
from fewmask.report.html import Case
from fewmask.training.evaluation import (
    FULL_SUPERVISION,
    Candidate,
    Kind,
    measured_rows,
    trivial_controls,
)
from fewmask.training.segmenting import SegmenterPredictor, load_segmenter, true_target
from fewmask.training.workspace import Workspace

CAM_NAMES = {"cam": "CAM", "grad_cam": "Grad-CAM", "score_cam": "Score-CAM"}
AUTOMATIC = ("otsu", "niblack", "sauvola")


class Evidence:
    """The maps of stage ``evidence``, and the masks that they give by themselves."""

    def __init__(self, work: Workspace) -> None:
        self.config: TagsConfig = work.config
        path = work.stages["evidence"].path
        self.cams = np.load(path / "cams.npy", mmap_mode="r")  # (N, K, S, S)
        self.differences = np.load(path / "differences.npy", mmap_mode="r")  # (N, S, S)
        self.known_tags = np.load(path / "known_tags.npy")  # (N, K) given, on test images predicted
        self.has_difference = "translate" in work.stages
        self.grad_cams = _array_if_there(path / "grad_cams.npy")  # (N, K, S, S)
        self.attentions = _array_if_there(path / "attentions.npy")  # (N, S, S)

    def scores(self, row: int) -> np.ndarray:
        """(K, S, S) float32 in [0, 1]: both maps as one score for each class."""
        cams = self.cams[row].astype(np.float32)
        if self.config.pseudo_fusion == "none" or not self.has_difference:
            return cams
        difference = stretched(self.differences[row].astype(np.float32))
        fused = np.stack([fuse_soft(c, difference, self.config.pseudo_fusion) for c in cams])
        return fused / np.maximum(fused.max((1, 2), keepdims=True), 1e-6)

    def attention(self, row: int) -> np.ndarray:
        """(K, S, S) float32 in [0, 1]: the generator's own mask for each class that is there."""
        score = self.attentions[row].astype(np.float32)
        return np.where(self.known_tags[row][:, None, None], score, 0)

    def difference(self, row: int, *, minmax: bool = False) -> np.ndarray:
        """(K, S, S) float32 in [0, 1]: the difference map of each class that is there, else 0."""
        score = self.differences[row].astype(np.float32)
        if minmax:
            score = stretched(score - score.min())
        return np.where(self.known_tags[row][:, None, None], score, 0)


def _array_if_there(path: Path) -> Any:
    return np.load(path, mmap_mode="r") if path.exists() else None


def stretched(score: np.ndarray) -> np.ndarray:
    """A map divided by its maximum."""
    return score / max(float(score.max()), 1e-6)


def cut(scores: np.ndarray, value: float | None, method: str = "otsu") -> np.ndarray:
    """(K, S, S) maps to bool masks: at a value, or by an automatic method where it is None."""
    if value is None:
        return np.stack([threshold_map(score, method) for score in scores])
    return np.stack([threshold_map(score, "manual", value=value) for score in scores])


def target_of(
    image: np.ndarray,
    scores: np.ndarray,
    tags: np.ndarray,
    cuts: Sequence[float],
    config: TagsConfig,
    before: np.ndarray | None = None,
) -> np.ndarray:
    """A training target by the run's settings, see :mod:`fewmask.masks.pseudo_labels`."""
    return pseudo_target(
        image,
        scores,
        tags,
        method=config.pseudo_refine,
        cuts=cuts,
        band=config.pseudo_band,
        band_px=config.pseudo_band_px,
        before=before,
    )


def refined_masks(work: Workspace, evidence: Evidence, row: int) -> np.ndarray:
    """(K, S, S) bool: the refined evidence of an image, by its known or predicted tags."""
    tags, cuts = evidence.known_tags[row], work.stages["pseudo_masks"].read_json("used_cuts.json")
    scores, method = evidence.scores(row), work.config.pseudo_refine
    target = pseudo_target(work.images[row], scores, tags, method=method, cuts=cuts)
    return np.stack([target == k for k in range(1, len(tags) + 1)])


def pictures(works: Sequence[Workspace]) -> list[Case]:  # noqa: ARG001
    """Nothing but test images to look at."""
    return []


def remarks(works: Sequence[Workspace]) -> list[str]:  # noqa: ARG001
    """Nothing beside the numbers."""
    return []


def candidates(work: Workspace) -> list[Candidate]:
    """The rows of the table: the answer, the evidence behind it, controls and references."""
    rows = trivial_controls(work.num_classes)
    if "evidence" in work.stages:
        rows += evidence_rows(work, Evidence(work))
    if "controls" in work.stages:
        stage = work.stages["controls"]
        for name, count in stage.read_json("controls.json").items():
            predictor = load_segmenter(work, stage.path / f"{name}.safetensors")
            few = name != "masks-all"
            rows.append(
                Candidate(
                    f"segmenter on {count} true masks" if few else FULL_SUPERVISION,
                    "control" if few else "reference",
                    _apply(predictor),
                    masks_used=count,
                    note="the same network, schedule and negatives"
                    if few
                    else "full supervision: the ceiling",
                )
            )
    if "segment" in work.stages:
        stage, rounds = work.stages["segment"], work.config.segment_rounds
        choice, masks = threshold_choice(work, AT_CUT)
        reviewed = labels_of(work)
        for number in range(1, rounds + 1):
            predictor = load_segmenter(work, stage.path / f"round-{number}.safetensors")
            last = number == rounds
            name = "segmenter on pseudo-masks" + (f", {reviewed} of them reviewed" * bool(reviewed))
            name += "" if last else f", round {number}"
            kind: Kind = "result" if last else "reference"
            rows.append(Candidate(name, kind, _apply(predictor), choice, masks + reviewed))
    return rows


def _apply(predictor: SegmenterPredictor) -> Callable[[int, np.ndarray], np.ndarray]:
    return lambda _, image: predictor.mask(image)


def evidence_rows(work: Workspace, evidence: Evidence) -> list[Candidate]:
    """What the maps give without a segmenter; on test images by predicted tags only."""
    config: TagsConfig = work.config
    name = CAM_NAMES.get(config.cam_method, config.cam_method)

    def row(
        title: str, mask: Callable[[int], np.ndarray], *given: str, kind: Kind = "evidence"
    ) -> Candidate:
        def at_own_size(index: int, image: np.ndarray) -> np.ndarray:
            ids = class_ids(mask(index), evidence.scores(index))
            return np.asarray(resize_mask(ids, *image.shape[:2]))

        return Candidate(title, kind, at_own_size, *threshold_choice(work, *given))

    def cams(index: int) -> np.ndarray:
        return evidence.cams[index].astype(np.float32)

    rows = [row(f"{name}, Otsu", lambda i: cut(cams(i), None))]
    if evidence.has_difference:
        rows += [
            row("difference map, Otsu", lambda i: cut(evidence.difference(i), None)),
            row(
                f"{name} AND difference, Otsu",
                lambda i: cut(cams(i), None) & cut(evidence.difference(i), None),
            ),
        ]
    if evidence.has_difference and evidence.attentions is not None:
        rows.insert(2, row("attention mask, Otsu", lambda i: cut(evidence.attention(i), None)))
    if evidence.has_difference and config.pseudo_fusion != "none":
        title = f"fused ({config.pseudo_fusion}), Otsu"
        rows.append(row(title, lambda i: cut(evidence.scores(i), None)))
    rows += _rows_at_given_thresholds(evidence, row, name)
    if "pseudo_masks" in work.stages:
        rows.append(
            row(
                "refined evidence: the pseudo-masks themselves",
                lambda i: refined_masks(work, evidence, i),
                AT_CUT,
            )
        )
    rows += _oracle_rows(work, evidence, row, name)
    if "segment" not in work.stages:
        used = (AT_CAM, AT_DIFFERENCE) if evidence.has_difference else (AT_CAM,)
        rows.append(row(f"{name} chain", lambda i: chain(evidence, i), *used, kind="result"))
    return rows


def _rows_at_given_thresholds(evidence: Evidence, row: Any, name: str) -> list[Candidate]:
    """The rows of the published table, and the automatic thresholds that it calls poor."""
    at_cam, at_difference = evidence.config.cam_threshold, evidence.config.difference_threshold
    baseline = evidence.grad_cams

    def cams(index: int) -> np.ndarray:
        return evidence.cams[index].astype(np.float32)

    def grad_cams(index: int) -> np.ndarray:
        return np.asarray(baseline[index].astype(np.float32))

    def differences(index: int) -> np.ndarray:
        return cut(evidence.difference(index), at_difference)

    rows: list[Candidate] = []
    if not evidence.has_difference:
        return rows
    if at_cam is not None:
        rows.append(row(f"{name} at {at_cam}", lambda i: cut(cams(i), at_cam), AT_CAM))
    if at_difference is not None:
        rows += [
            row(f"difference map at {at_difference}", differences, AT_DIFFERENCE),
            row(
                f"difference map, min-max per image, at {at_difference}",
                lambda i: cut(evidence.difference(i, minmax=True), at_difference),
                AT_DIFFERENCE,
            ),
        ]
    if rows:
        rows += [
            row(f"{name} AND difference, {method.capitalize()}", _both_automatic(evidence, method))
            for method in AUTOMATIC[1:]
        ]
    if baseline is not None and at_cam is not None:
        title = f"Grad-CAM at {at_cam}"
        rows.append(row(title, lambda i: cut(grad_cams(i), at_cam), AT_CAM))
        if at_difference is not None:
            rows.append(
                row(
                    f"{title} AND difference at {at_difference}",
                    lambda i: cut(grad_cams(i), at_cam) & differences(i),
                    AT_CAM,
                    AT_DIFFERENCE,
                )
            )
    return rows


def _both_automatic(evidence: Evidence, method: str) -> Callable[[int], np.ndarray]:
    def mask(index: int) -> np.ndarray:
        cams = cut(evidence.cams[index].astype(np.float32), None, method)
        return cams & cut(evidence.difference(index), None, method)

    return mask


def _oracle_rows(work: Workspace, evidence: Evidence, row: Any, name: str) -> list[Candidate]:
    """The CAM at the threshold that is best on the test masks: nobody can have it."""
    measured = measured_rows(work)
    if len(work.class_names) != 1 or not measured:
        return []
    best, _ = oracle_threshold(
        [evidence.cams[i, 0].astype(np.float32) for i in measured],
        [true_target(work.data.samples[i], work.data, work.config.working_size) for i in measured],
    )
    title = f"{name} at its best threshold on the test masks"
    masks = sum(work.data.samples[i].mask_path is not None for i in measured)
    cams = evidence.cams
    found = row(title, lambda i: cut(cams[i].astype(np.float32), best), kind="oracle")
    return [
        replace(found, threshold_choice=f"{masks} masks", masks_used=masks, note=f"at {best:.2f}")
    ]


def chain(evidence: Evidence, row: int) -> np.ndarray:
    """(K, S, S) bool: the published chain on a row; see :class:`EvidencePredictor`."""
    cams = evidence.cams[row].astype(np.float32)
    difference = evidence.difference(row) if evidence.has_difference else None
    return chain_masks(cams, difference, evidence.config)


def chain_masks(cams: np.ndarray, difference: np.ndarray | None, config: TagsConfig) -> np.ndarray:
    """Both maps cut, and their intersection.

    Args:
        cams: (K, S, S) float32 in [0, 1].
        difference: The same, or None without a translation.
        config: The thresholds; where one is None, ``threshold_method`` finds it.

    Returns:
        (K, S, S) bool.
    """
    masks = cut(cams, config.cam_threshold, config.threshold_method)
    if difference is None:
        return masks
    return masks & cut(difference, config.difference_threshold, config.threshold_method)


class EvidencePredictor:
    """The published chain without a segmenter: classify, both maps, cut, intersect."""

    def __init__(self, maker: EvidenceMaker, config: TagsConfig) -> None:
        self.maker, self.config = maker, config

    def probs(self, image: np.ndarray) -> np.ndarray:
        """1 for the class of each pixel and 0 for the others, (K + 1, H, W) float32."""
        size = self.config.image_size
        small = to_unit(resize_image(image, size, size))[None]
        tags = self.maker.tag_probs(small) > 0.5
        cams = self.maker.cams(small, tags)[0].astype(np.float16).astype(np.float32)
        difference = None
        if self.maker.gen_ab is not None:
            found = self.maker.differences(small)[0].astype(np.float16).astype(np.float32)
            difference = np.where(tags[0][:, None, None], found, 0)
        ids = class_ids(chain_masks(cams, difference, self.config), cams)
        ids = resize_mask(ids, *image.shape[:2])
        return np.eye(len(cams) + 1, dtype=np.float32)[ids].transpose(2, 0, 1)

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
        difference = stretched(evidence.differences[row].astype(np.float32))
        found.append(("difference (stretched)", _map_at(difference, size)))
    scores = evidence.scores(row)
    title, masks = "fused mask", chain(evidence, row)
    if "pseudo_masks" in work.stages:
        title, masks = "refined evidence", refined_masks(work, evidence, row)
    return [*found, (title, resize_mask(class_ids(masks, scores), *size))]


def _map_at(score: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    image = Image.fromarray(score.astype(np.float32))
    resized = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return np.clip(resized, 0, 1)
