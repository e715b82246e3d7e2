"""Last part of pipeline ``tags``: masks straight from the evidence, and every row of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from fewmask.data.transforms import resize_image, resize_mask, to_unit
from fewmask.masks.fuse import fuse_soft
from fewmask.masks.targets import class_ids, pseudo_target
from fewmask.masks.threshold import threshold_map
from fewmask.metrics.controls import oracle_threshold
from fewmask.pipelines.tags_config import TagsConfig
from fewmask.pipelines.tags_evidence import EvidenceMaker
from fewmask.training.evaluation import Candidate, Kind, measured_rows, trivial_controls
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
        baseline = path / "grad_cams.npy"
        self.grad_cams = np.load(baseline, mmap_mode="r") if baseline.exists() else None

    def scores(self, row: int) -> np.ndarray:
        """(K, S, S) float32 in [0, 1]: both maps as one score for each class."""
        cams = self.cams[row].astype(np.float32)
        if self.config.pseudo_fusion == "none" or not self.has_difference:
            return cams
        difference = stretched(self.differences[row].astype(np.float32))
        fused = np.stack([fuse_soft(c, difference, self.config.pseudo_fusion) for c in cams])
        return fused / np.maximum(fused.max((1, 2), keepdims=True), 1e-6)

    def difference(self, row: int, *, minmax: bool = False) -> np.ndarray:
        """(K, S, S) float32 in [0, 1]: the difference map of each class that is there, else 0."""
        score = self.differences[row].astype(np.float32)
        if minmax:
            score = stretched(score - score.min())
        return np.where(self.known_tags[row][:, None, None], score, 0)


def stretched(score: np.ndarray) -> np.ndarray:
    """A map divided by its maximum."""
    return score / max(float(score.max()), 1e-6)


def cut(scores: np.ndarray, value: float | None, method: str = "otsu") -> np.ndarray:
    """(K, S, S) maps to bool masks: at a value, or by an automatic method where it is None."""
    if value is None:
        return np.stack([threshold_map(score, method) for score in scores])
    return np.stack([threshold_map(score, "manual", value=value) for score in scores])


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


def candidates(work: Workspace) -> list[Candidate]:
    """The rows of the table: the answer, the evidence behind it, controls and references."""
    rows = trivial_controls(len(work.class_names) + 1)
    if "evidence" in work.stages:
        rows += evidence_rows(work, Evidence(work))
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
        stage, rounds = work.stages["segment"], work.config.segment_rounds
        for number in range(1, rounds + 1):
            predictor = load_segmenter(work, stage.path / f"round-{number}.safetensors")
            name = "segmenter on pseudo-masks"
            if number < rounds:
                rows.append(Candidate(f"{name}, round {number}", "reference", _apply(predictor)))
            else:
                rows.append(Candidate(name, "result", _apply(predictor)))
    return rows


def _apply(predictor: SegmenterPredictor) -> Callable[[int, np.ndarray], np.ndarray]:
    return lambda _, image: predictor.mask(image)


def evidence_rows(work: Workspace, evidence: Evidence) -> list[Candidate]:
    """What the maps give without a segmenter; on test images by predicted tags only."""
    config: TagsConfig = work.config
    name = CAM_NAMES.get(config.cam_method, config.cam_method)
    billed = billed_masks(work)

    def row(
        title: str, mask: Callable[[int], np.ndarray], kind: Kind = "evidence", masks: int = 0
    ) -> Candidate:
        def at_own_size(index: int, image: np.ndarray) -> np.ndarray:
            ids = class_ids(mask(index), evidence.scores(index))
            return np.asarray(resize_mask(ids, *image.shape[:2]))

        choice = f"{masks} masks" if masks else "label_free"
        return Candidate(title, kind, at_own_size, threshold_choice=choice, masks_used=masks)

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
            row(
                f"fused ({config.pseudo_fusion}), Otsu",
                lambda i: cut(evidence.scores(i), None),
            ),
        ]
    values = (config.cam_threshold, config.difference_threshold)
    if evidence.has_difference and values != (None, None):
        rows += _published_rows(evidence, row, name, values, billed)
    if "pseudo_masks" in work.stages:
        rows.append(
            row(
                "refined evidence: the pseudo-masks themselves",
                lambda i: refined_masks(work, evidence, i),
                "reference",
            )
        )
    rows += _oracle_rows(work, evidence, row, name)
    if "segment" not in work.stages:
        rows.append(row(f"{name} chain", lambda i: chain(evidence, i), "result", billed))
    return rows


def billed_masks(work: Workspace) -> int:
    """Masks behind given thresholds: as declared, or else the positives of the validation part.

    The published values were chosen on the masks of a validation set whose size is not given.
    """
    config: TagsConfig = work.config
    if config.cam_threshold is None and config.difference_threshold is None:
        return config.threshold_masks
    return config.threshold_masks or len(work.rows("val", tagged=True))


def _published_rows(
    evidence: Evidence, row: Any, name: str, values: tuple[float | None, float | None], billed: int
) -> list[Candidate]:
    """The rows of the published table, and the automatic thresholds that it calls poor."""
    at_cam, at_difference = values

    def cams(index: int) -> np.ndarray:
        return evidence.cams[index].astype(np.float32)

    rows = [
        row(f"{name} at {at_cam}", lambda i: cut(cams(i), at_cam), masks=billed),
        row(
            f"difference map at {at_difference}",
            lambda i: cut(evidence.difference(i), at_difference),
            masks=billed,
        ),
        row(
            f"difference map, min-max per image, at {at_difference}",
            lambda i: cut(evidence.difference(i, minmax=True), at_difference),
            masks=billed,
        ),
    ]
    rows += [
        row(f"{name} AND difference, {method.capitalize()}", _both_automatic(evidence, method))
        for method in AUTOMATIC[1:]
    ]
    if evidence.grad_cams is not None:
        baseline = evidence.grad_cams

        def grad_cams(index: int) -> np.ndarray:
            return baseline[index].astype(np.float32)

        rows += [
            row(f"Grad-CAM at {at_cam}", lambda i: cut(grad_cams(i), at_cam), masks=billed),
            row(
                f"Grad-CAM at {at_cam} AND difference at {at_difference}",
                lambda i: cut(grad_cams(i), at_cam) & cut(evidence.difference(i), at_difference),
                masks=billed,
            ),
        ]
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
        [true_target(work.data.samples[i], work.data, work.config.image_size) for i in measured],
    )
    title = f"{name} at its best threshold on the test masks"
    masks = sum(work.data.samples[i].mask_path is not None for i in measured)
    cams = evidence.cams
    found = row(title, lambda i: cut(cams[i].astype(np.float32), best), "oracle", masks)
    return [replace(found, note=f"at {best:.2f}")]


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


def bill(works: Sequence[Workspace]) -> list[tuple[str, str, str]]:
    """Every label that went into the result or its rows: (what, labels, source)."""
    work = works[0]
    config: TagsConfig = work.config
    learned = len(work.rows("train")) + len(work.rows("val"))
    lines = [("image-level tags", f"{learned} images", "your data, training part of each fold")]
    if config.encoder_weights != "none":
        lines.append(("weights of the encoder", "1.28 million image-level tags", "ImageNet-1k"))
    lines.append(("masks behind thresholds", str(billed_masks(work)), "see the table"))
    if "controls" in work.stages:
        counts = work.stages["controls"].read_json("controls.json").values()
        text = ", ".join(map(str, counts)) or "0"
        lines.append(
            ("masks for control and reference rows only", text, "your data, training part")
        )
    return lines
