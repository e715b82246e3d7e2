"""One confusion matrix per image, and every score of a segmentation derived from them.

The names say the rule, because the rule decides the number: the same ten images score an IoU of
.66 with pooled pixels and .80, .20, .50 or .67 per image, depending on what 0/0 counts as (see
``tests/metrics/test_golden_ten_images.py``). An undefined score is None, never 0 or 1.

Class ids are 0 = background and 1..K in the order of ``class_names``; C = K + 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewmask.errors import DataError
from fewmask.metrics.bootstrap import (
    check_groups,
    group_indices,
    percentile_interval,
    resampled_counts,
    sum_by_group,
)

Metric = float | int | None | list[float]
Floats = NDArray[np.float64]

BACKGROUND = "background"


def confusion_matrix(
    target: ArrayLike, pred: ArrayLike, num_classes: int, ignore_index: int = 255
) -> NDArray[np.int64]:
    """Count the pixels of each pair of true and predicted class.

    Pixels whose truth is ``ignore_index`` are not counted, whatever is predicted there.

    Args:
        target: True class ids, integer or bool, any shape.
        pred: Predicted class ids, integer or bool, the same shape.
        num_classes: C, background included.
        ignore_index: Id in ``target`` that means "do not judge this pixel".

    Returns:
        int64 (C, C); rows are the truth, columns the prediction.

    Raises:
        DataError: ``MASK-SIZE`` if the shapes differ, ``MASK-VALUES`` if an id is not an integer
            in 0..C-1.

    >>> confusion_matrix([[0, 1], [1, 255]], [[0, 1], [0, 1]], num_classes=2).tolist()
    [[1, 0], [1, 1]]
    """
    truth, predicted = np.asarray(target), np.asarray(pred)
    if truth.shape != predicted.shape:
        raise DataError.of(
            "MASK-SIZE",
            where="prediction",
            found=f"shape {predicted.shape}",
            expected=f"shape {truth.shape}, that of the true mask",
            fix="resize the prediction with nearest neighbour",
        )
    judged = truth != ignore_index
    rows = _class_ids(truth[judged], num_classes, where="true mask")
    columns = _class_ids(predicted[judged], num_classes, where="prediction")
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def summarise(
    matrices: ArrayLike,
    class_names: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
) -> dict[str, Metric]:
    """All scores of a set of images, by name, with an interval beside each.

    The names and formulas are in ``docs/metrics.md``. Beside each score ``<name>`` stands
    ``<name>.ci95``: the 95 % percentile interval of a bootstrap over groups, ``[low, high]``, or
    None where the score is undefined or there are fewer than two groups.

    Args:
        matrices: int64 (N, C, C), one :func:`confusion_matrix` per image.
        class_names: The K = C - 1 foreground classes.
        groups: Patient, scene or sequence of each image; None makes each image its own group.
        seed: Of the bootstrap.
        bootstrap: Resampled sets; 0 leaves every interval None.

    Returns:
        Fractions in [0, 1] and counts; None where undefined.

    Raises:
        DataError: ``CLASS-NAMES`` for names that are doubled or reserved, ``MATRIX-SHAPE`` if the
            matrices do not fit them, ``GROUPS-LENGTH`` if the groups do not fit the images.

    >>> perfect = [[[6, 0], [0, 2]], [[8, 0], [0, 0]]]
    >>> scores = summarise(perfect, ["scar"], bootstrap=0)
    >>> scores["iou.pooled.scar"], scores["iou.per_image.scar"], scores["n_empty_truth.scar"]
    (1.0, 1.0, 1)
    """
    names = check_class_names(class_names)
    counts = _check_matrices(matrices, num_classes=len(names) + 1)
    images = _Sums.of_images(counts)
    group_names = check_groups(groups, len(counts))

    values = _scores(images.map(lambda part: part.sum(axis=0)), names)
    intervals = _intervals(images, names, group_names, seed=seed, bootstrap=bootstrap)

    empty = images.truth[:, 1:] == 0
    false_alarm = empty & (images.predicted[:, 1:] > 0)
    summary: dict[str, Metric] = {"n": len(counts), "n_groups": len(set(group_names))}
    for k, name in enumerate(names):
        summary[f"n_empty_truth.{name}"] = int(empty[:, k].sum())
        summary[f"fp_images_on_empty.{name}"] = int(false_alarm[:, k].sum())
    for name, value in values.items():
        defined = not math.isnan(value)
        summary[name] = float(value) if defined else None
        summary[f"{name}.ci95"] = intervals.get(name) if defined else None
    return summary


def gap_closed(score: float | None, floor: float | None, ceiling: float | None) -> float | None:
    """Share of the distance from ``floor`` to ``ceiling`` that ``score`` has covered.

    The floor is what a control without the method reaches, the ceiling full supervision. Below 0
    the method does harm; above 1 it beats the ceiling.

    Returns:
        None if a score is undefined or the ceiling is not above the floor.

    >>> gap_closed(0.5, floor=0.25, ceiling=0.75)
    0.5
    >>> gap_closed(0.5, floor=0.8, ceiling=0.8) is None
    True
    """
    if score is None or floor is None or ceiling is None:
        return None
    if not all(map(math.isfinite, (score, floor, ceiling))) or ceiling <= floor:
        return None
    return (score - floor) / (ceiling - floor)


@dataclass(frozen=True)
class _Sums:
    """Everything that the scores need, in a form that may be added over images.

    Leading axes are the images, nothing (one set) or the resampled sets; the last axis is the C
    classes for the first three and the K foreground classes for the others.

    Attributes:
        hit: Pixels of each class predicted as that class.
        truth: Pixels that are each class.
        predicted: Pixels called each class.
        present: Images that hold the class.
        image_iou: IoU, added over the images that hold the class.
        image_dice: Dice, added over the images that hold the class.
        empty_false: Pixels called the class on images that hold none of it.
        empty_pixels: Judged pixels of the images that hold none of the class.
    """

    hit: Floats
    truth: Floats
    predicted: Floats
    present: Floats
    image_iou: Floats
    image_dice: Floats
    empty_false: Floats
    empty_pixels: Floats

    @classmethod
    def of_images(cls, matrices: Floats) -> _Sums:
        """The parts of each image, leading axis N, from its matrix (N, C, C)."""
        hit = np.diagonal(matrices, axis1=1, axis2=2)  # (N, C)
        truth, predicted = matrices.sum(axis=2), matrices.sum(axis=1)
        present = truth > 0
        iou = np.where(present, _ratio(hit, truth + predicted - hit), 0.0)
        dice = np.where(present, _ratio(2.0 * hit, truth + predicted), 0.0)
        empty_false = np.where(present, 0.0, predicted)
        empty_pixels = np.where(present, 0.0, truth.sum(axis=1, keepdims=True))
        foreground = (present.astype(np.float64), iou, dice, empty_false, empty_pixels)
        return cls(hit, truth, predicted, *(part[:, 1:] for part in foreground))

    def map(self, function: Callable[[Floats], Floats]) -> _Sums:
        """Apply ``function``, which must only add up images, to each part."""
        return _Sums(*(function(getattr(self, field.name)) for field in fields(self)))


def _scores(sums: _Sums, names: Sequence[str]) -> dict[str, Floats]:
    """Every score of one set (no leading axis) or of many; NaN where undefined."""
    hit, truth, predicted = sums.hit, sums.truth, sums.predicted
    pixels = truth.sum(axis=-1, keepdims=True)
    iou = _ratio(hit, truth + predicted - hit)
    dice = _ratio(2.0 * hit, truth + predicted)
    precision, recall = _ratio(hit, predicted), _ratio(hit, truth)
    fpr = _ratio(predicted - hit, pixels - truth)
    image_iou = _ratio(sums.image_iou, sums.present)
    image_dice = _ratio(sums.image_dice, sums.present)
    on_empty = _ratio(sums.empty_false, sums.empty_pixels)

    scores = {
        "miou": _mean_of_defined(iou),
        "miou_foreground": _mean_of_defined(iou[..., 1:]),
        "pixel_accuracy": _ratio(hit.sum(axis=-1), pixels[..., 0]),
        "class_accuracy": _mean_of_defined(recall),
        "fwiou": _ratio((truth * np.nan_to_num(iou)).sum(axis=-1), pixels[..., 0]),
        f"iou.pooled.{BACKGROUND}": iou[..., 0],
    }
    for k, name in enumerate(names):
        scores |= {
            f"iou.pooled.{name}": iou[..., k + 1],
            f"iou.per_image.{name}": image_iou[..., k],
            f"dice.pooled.{name}": dice[..., k + 1],
            f"dice.per_image.{name}": image_dice[..., k],
            f"precision.{name}": precision[..., k + 1],
            f"recall.{name}": recall[..., k + 1],
            f"fpr.{name}": fpr[..., k + 1],
            f"fpr_on_empty.{name}": on_empty[..., k],
        }
    return scores


def _intervals(
    images: _Sums, names: Sequence[str], groups: Sequence[str], *, seed: int, bootstrap: int
) -> dict[str, list[float] | None]:
    """The interval of each score; empty where no interval can be had."""
    index, count = group_indices(groups)
    if count < 2 or bootstrap < 1:
        return {}
    drawn = resampled_counts(count, draws=bootstrap, seed=seed)  # (D, G)
    resampled = images.map(lambda part: drawn @ sum_by_group(part, index, count))
    scores = _scores(resampled, names)
    return {name: percentile_interval(values) for name, values in scores.items()}


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """``numerator / denominator``; NaN where the denominator is 0."""
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, np.nan, numerator / safe)


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis without the NaN; NaN if all are."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def _class_ids(ids: NDArray, num_classes: int, *, where: str) -> NDArray[np.int64]:
    """``ids`` as int64 if each is one of 0..C-1, else a DataError that shows the strangers."""
    if ids.dtype.kind not in "bui":
        found, strange = f"values of type {ids.dtype}", ids.size > 0
    else:
        strangers = np.unique(ids[(ids < 0) | (ids >= num_classes)])
        found, strange = f"ids {strangers[:8].tolist()}", strangers.size > 0
    if strange:
        raise DataError.of(
            "MASK-VALUES",
            where=where,
            found=found,
            expected=f"integer class ids in 0..{num_classes - 1}",
            fix="map the mask's values to class ids, or name all classes",
        )
    return ids.astype(np.int64)


def check_class_names(class_names: Sequence[str]) -> list[str]:
    """The names of the foreground classes, after checking that scores can be told apart by them.

    Raises:
        DataError: A name is reserved, empty, or stands twice.
    """
    names = list(class_names)
    reserved = [n for n in names if n == BACKGROUND or n.endswith(".ci95") or not n]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if reserved or doubled:
        raise DataError.of(
            "CLASS-NAMES",
            where="class names",
            found=f"{(reserved or doubled)!r} in {names}",
            expected="foreground classes only, each once, none empty or ending in '.ci95'",
            fix="leave the background out and rename what is doubled",
        )
    return names


def _check_matrices(matrices: ArrayLike, *, num_classes: int) -> Floats:
    counts = np.asarray(matrices)
    if counts.size == 0:
        counts = counts.reshape(0, num_classes, num_classes)
    if counts.ndim != 3 or counts.shape[1:] != (num_classes, num_classes):
        raise DataError.of(
            "MATRIX-SHAPE",
            where="confusion matrices",
            found=f"shape {counts.shape}",
            expected=f"(images, {num_classes}, {num_classes}): one matrix per image, "
            "background included",
            fix="name every foreground class once and stack one matrix per image",
        )
    return counts.astype(np.float64)
