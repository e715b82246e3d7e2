"""Candidates measured on the held-out images: one confusion matrix per image, all else from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from fewmask.data.folder import read_target
from fewmask.data.splits import check_lineage
from fewmask.data.transforms import resize_mask
from fewmask.io.images import read_image
from fewmask.metrics.confusion import confusion_matrix, summarise
from fewmask.metrics.controls import all_background, centre_prior, otsu_of_grey
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import Ledger, Workspace, open_array

Kind = Literal["result", "evidence", "control", "reference", "oracle"]

FULL_SUPERVISION = "segmenter on all true masks"
"""The row that is the ceiling. How many masks that are differs between folds; the name does not."""


@dataclass(frozen=True)
class Candidate:
    """Something that makes masks, to be measured as one row of the table.

    Attributes:
        name: Of the row; the same in every fold, so without numbers that differ between them.
        kind: ``result`` is the pipeline's answer.
        mask_of: Row number and image (H, W, 3) uint8 to ids (H, W).
        threshold_choice: ``label_free``, ``n masks``, or ``given``: a value whose origin the
            user has not stated.
        masks_used: Pixel masks that went into it: its label cost.
        note: A remark for the reader.
        label_cost: Its labels in words, where ``masks_used`` does not say it all.
        anchor: The row is where the gap that others close begins (``floor``) or ends; without one,
            the best label-free control and full supervision.
    """

    name: str
    kind: Kind
    mask_of: Callable[[int, np.ndarray], np.ndarray] = field(repr=False)
    threshold_choice: str = "label_free"
    masks_used: int = 0
    note: str = ""
    label_cost: str = ""
    anchor: Literal["", "floor", "ceiling"] = ""

    def facts(self) -> dict[str, Any]:
        """All but the function."""
        return {k: v for k, v in asdict(self).items() if k != "mask_of"}


def trivial_controls(num_classes: int) -> list[Candidate]:
    """All background, the centre prior, and Otsu of the grey image (as class 1)."""
    return [
        Candidate("all background", "control", lambda _, image: all_background(image.shape[:2])),
        Candidate(
            "centre prior",
            "control",
            lambda _, image: np.asarray(centre_prior(image.shape[:2])).astype(np.uint8),
            note="a disc over a quarter of every image" + _as_class_one(num_classes),
        ),
        Candidate(
            "Otsu of the grey image",
            "control",
            lambda _, image: np.asarray(otsu_of_grey(image)).astype(np.uint8),
            note="the brighter side" + _as_class_one(num_classes),
        ),
    ]


def prior_controls(targets: np.ndarray, num_classes: int, whose: str) -> list[Candidate]:
    """Without a background: the most frequent class, and at each place the class most often there.

    Args:
        targets: (N, H, W) uint8 masks to count, 255 = ignore.
        num_classes: C.
        whose: Where the masks are from, in words.
    """
    counts = np.stack([(targets == k).sum(0) for k in range(num_classes)])  # (C, H, W)
    most, place = int(counts.sum((1, 2)).argmax()), counts.argmax(0).astype(np.uint8)
    return [
        Candidate(
            "most frequent class",
            "control",
            lambda _, image: np.full(image.shape[:2], most, np.uint8),
            note=f"of {whose}",
            label_cost=whose,
        ),
        Candidate(
            "prior of the place",
            "control",
            lambda _, image: resize_mask(place, *image.shape[:2]),
            note=f"at each pixel the class that is most often there, of {whose}",
            label_cost=whose,
        ),
    ]


def _as_class_one(num_classes: int) -> str:
    return "" if num_classes == 2 else ", called class 1"


def measured_rows(work: Workspace) -> list[int]:
    """Test rows whose truth is known: a mask, or no tag in data that has tags and masks."""
    return [
        row
        for row in work.rows("test")
        if work.data.samples[row].mask_path is not None
        or (work.data.mask_encoding is not None and work.data.has_tags and not work.tags[row].any())
    ]


def refuse_descendants(work: Workspace, maker: str, record: str) -> None:
    """Refuse to measure on test images that training images were made from.

    Args:
        work: A fold, split already.
        maker: Stage that makes images, if it ran.
        record: Its JSON file: a list with the ``id`` and ``parents`` of each image.

    Raises:
        LeakError: something was trained on that descends from a test image.
    """
    made = work.stages[maker].read_json(record) if maker in work.stages else []
    parents = {image["id"]: image["parents"] for image in made}
    trained_on = [*work.parts["train"], *work.parts["val"], *parents]
    check_lineage(trained_on, parents, work.parts["test"])


def measure(work: Workspace, stage: Stage, candidates: Sequence[Candidate]) -> None:
    """Measure every candidate on the test images that have a truth, at their own sizes.

    Writes ``confusion.npy`` (candidates, images, C, C) int64 and ``evaluation.json``. Without any
    truth the share of foreground that the result marks on each test image is all there is.
    """
    rows = measured_rows(work)
    num_classes = work.num_classes
    shape = (len(candidates), len(rows), num_classes, num_classes)
    if rows:
        matrices = open_array(stage.path / "confusion.npy", np.int64, shape)
        loop = Loop(
            stage,
            len(rows),
            seed=work.config.seed,
            state={},
            before_save=matrices.flush,
            unit="test image",
        )
        for i in loop:
            sample = work.data.samples[rows[i]]
            image, target = read_image(sample.image_path), read_target(sample, work.data)
            assert target is not None  # measured_rows holds only samples with a truth
            for c, candidate in enumerate(candidates):
                mask = candidate.mask_of(rows[i], image)
                matrices[c, i] = confusion_matrix(target, mask, num_classes)
        matrices.flush()
    marks = not rows and work.data.has_background
    shares = _foreground_shares(work, stage, candidates) if marks else {}
    samples = [work.data.samples[row] for row in rows]
    record = {
        "class_names": list(work.class_names),
        "background": work.data.has_background,
        "ids": [sample.id for sample in samples],
        "groups": [sample.group for sample in samples],
        "candidates": [candidate.facts() for candidate in candidates],
        "shares": shares,
    }
    stage.write_json("evaluation.json", record)


def _foreground_shares(
    work: Workspace, stage: Stage, candidates: Sequence[Candidate]
) -> dict[str, float]:
    """Share of each test image that the result marks, by id."""
    results = [candidate for candidate in candidates if candidate.kind == "result"]
    rows = work.rows("test") if results else []
    shares = Ledger()
    if rows:
        loop = Loop(
            stage, len(rows), seed=work.config.seed, state={"shares": shares}, unit="test image"
        )
        for i in loop:
            sample = work.data.samples[rows[i]]
            mask = results[0].mask_of(rows[i], read_image(sample.image_path))
            shares[sample.id] = round(float((mask > 0).mean()), 6)
    return dict(shares)


@dataclass(frozen=True)
class Evaluation:
    """What :func:`measure` found, over one fold or pooled over several.

    Attributes:
        class_names: The K classes, without the background.
        ids: Test images.
        groups: The group of each.
        candidates: Facts of each row of the table, see :func:`pooled_facts`.
        matrices: (candidates, images, K + 1, K + 1) int64; without background, row and column 0 are
            empty.
        incomplete: Rows that some folds have and others lack; they cannot be pooled.
        shares: Where no image has a truth: the share of each test image that the result marks.
        has_background: Whether there are pixels of no class.
    """

    class_names: list[str]
    ids: list[str]
    groups: list[str]
    candidates: list[dict[str, Any]]
    matrices: np.ndarray
    incomplete: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)
    has_background: bool = True

    @classmethod
    def read(cls, stages: Sequence[Stage]) -> Evaluation:
        """The evaluation of one fold, or the pooled one of several.

        Folds that measured no image take no row away.
        """
        records = [stage.read_json("evaluation.json") for stage in stages]
        counted = [record for record in records if record["ids"]] or records
        names = list(dict.fromkeys(name for record in counted for name in _names(record)))
        shared = [n for n in names if all(n in _names(record) for record in counted)]
        first = records[0]
        size = len(first["class_names"]) + 1
        parts = []
        for stage, record in zip(stages, records, strict=True):
            if record["ids"]:
                matrices = np.load(stage.path / "confusion.npy")
                if not record.get("background", True):
                    matrices = with_empty_background(matrices)
                parts.append(matrices[[_names(record).index(name) for name in shared]])
        empty = np.zeros((len(shared), 0, size, size), np.int64)
        return cls(
            class_names=first["class_names"],
            ids=[i for record in records for i in record["ids"]],
            groups=[g for record in records for g in record["groups"]],
            candidates=[pooled_facts([_facts(r, name) for r in counted]) for name in shared],
            matrices=np.concatenate(parts, axis=1) if parts else empty,
            incomplete=tuple(name for name in names if name not in shared),
            shares={i: s for record in records for i, s in record.get("shares", {}).items()},
            has_background=first.get("background", True),
        )

    def metrics(self, index: int, *, bootstrap: int = 1000) -> dict[str, Any]:
        """All named scores of one row; empty if there were no true masks."""
        if not self.ids:
            return {}
        return dict(
            summarise(
                self.matrices[index], self.class_names, groups=self.groups, bootstrap=bootstrap
            )
        )

    @property
    def result(self) -> int | None:
        """Index of the pipeline's answer."""
        kinds = [candidate["kind"] for candidate in self.candidates]
        return kinds.index("result") if "result" in kinds else None

    def image_scores(self, index: int) -> list[float | None]:
        """Foreground IoU of each image, classes pooled; None where truth and mask are empty."""
        m = self.matrices[index].astype(np.float64)  # (images, C, C)
        hit = np.einsum("icc->ic", m)[:, 1:].sum(1)
        union = m.sum((1, 2)) - m[:, 0, 0]
        return [float(h / u) if u else None for h, u in zip(hit, union, strict=True)]


def with_empty_background(matrices: np.ndarray) -> np.ndarray:
    """Confusion matrices (..., K, K) of classes without a background, as (..., K + 1, K + 1).

    Every score counts id 0 as background; here it has no pixel and no prediction, so that its own
    scores are undefined and left out of the means.
    """
    before = [(0, 0)] * (matrices.ndim - 2)
    return np.pad(matrices, [*before, (1, 0), (1, 0)])


def pooled_facts(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What one row of the table says of all folds.

    Its masks are what one answer costs. Training parts of folds overlap, so their masks must not
    be added up: the row says the most that a fold used. An oracle's masks are the test masks of
    its fold, which no other fold tests: there it is the sum. Different notes are all told.

    Args:
        facts: :meth:`Candidate.facts` of the row in each fold.
    """
    first = facts[0]
    each = [fact["masks_used"] for fact in facts]
    masks = sum(each) if first["kind"] == "oracle" else max(each)
    choices = dict.fromkeys(fact["threshold_choice"] for fact in facts)
    if all(choice.endswith(" masks") for choice in choices):
        choices = dict.fromkeys([f"{masks} masks"])
    return {
        **first,
        "threshold_choice": "; ".join(choices),
        "masks_used": masks,
        "note": "; ".join(dict.fromkeys(fact["note"] for fact in facts if fact["note"])),
    }


def _facts(record: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(record["candidates"][_names(record).index(name)])


def _names(record: dict[str, Any]) -> list[str]:
    return [candidate["name"] for candidate in record["candidates"]]
