"""Every score against a pure Python oracle, scikit-learn and torchmetrics; undefined is None."""

import math
import random

import numpy as np
import pytest

from fewmask import torchvision_compat
from fewmask.errors import DataError
from fewmask.metrics.confusion import confusion_matrix, gap_closed, summarise

IGNORE = 255


def mean(values):
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def ratio(a, b):
    return a / b if b else None


def oracle(images, names):
    """All scores by counting pixels one by one; ``images`` are (truth, pred) lists of ids."""
    judged = [[(t, p) for t, p in zip(*image, strict=True) if t != IGNORE] for image in images]
    pooled = [pair for image in judged for pair in image]

    def count(pairs, c):
        tp = sum(t == c and p == c for t, p in pairs)
        fp = sum(t != c and p == c for t, p in pairs)
        fn = sum(t == c and p != c for t, p in pairs)
        return tp, fp, fn, len(pairs) - tp - fp - fn

    out = {"n": len(images)}
    ious, recalls, weighted = [], [], 0.0
    for c, name in enumerate(["background", *names]):
        tp, fp, fn, tn = count(pooled, c)
        iou = ratio(tp, tp + fp + fn)
        ious.append(iou)
        recalls.append(ratio(tp, tp + fn))
        weighted += (tp + fn) * (iou or 0.0)
        out[f"iou.pooled.{name}"] = iou
        if c == 0:
            continue
        out[f"dice.pooled.{name}"] = ratio(2 * tp, 2 * tp + fp + fn)
        out[f"precision.{name}"] = ratio(tp, tp + fp)
        out[f"recall.{name}"] = ratio(tp, tp + fn)
        out[f"fpr.{name}"] = ratio(fp, fp + tn)
        per_image = [count(image, c) for image in judged]
        full = [x for x in per_image if x[0] + x[2] > 0]
        empty = [x for x in per_image if x[0] + x[2] == 0]
        out[f"iou.per_image.{name}"] = mean([x[0] / (x[0] + x[1] + x[2]) for x in full])
        out[f"dice.per_image.{name}"] = mean([2 * x[0] / (2 * x[0] + x[1] + x[2]) for x in full])
        out[f"n_empty_truth.{name}"] = len(empty)
        out[f"fp_images_on_empty.{name}"] = sum(x[1] > 0 for x in empty)
        out[f"fpr_on_empty.{name}"] = ratio(sum(x[1] for x in empty), sum(map(sum, empty)))
    out["miou"], out["miou_foreground"] = mean(ious), mean(ious[1:])
    out["class_accuracy"] = mean(recalls)
    out["pixel_accuracy"] = ratio(sum(t == p for t, p in pooled), len(pooled))
    out["fwiou"] = ratio(weighted, len(pooled))
    return out


def random_case(seed):
    """A few small images; some classes and some truths are missing, some pixels ignored."""
    draw = random.Random(seed)
    k = draw.randint(1, 4)
    true_ids = draw.sample(range(k + 1), draw.randint(1, k + 1))
    images = []
    for _ in range(draw.randint(1, 6)):
        size = draw.randint(1, 20)
        ids = draw.sample(true_ids, draw.randint(1, len(true_ids)))
        ignored = draw.choice([0.0, 0.2, 1.0 if draw.random() < 0.1 else 0.0])
        truth = [IGNORE if draw.random() < ignored else draw.choice(ids) for _ in range(size)]
        images.append((truth, [draw.choice([*ids, draw.randint(0, k)]) for _ in range(size)]))
    return images, [f"class{i}" for i in range(k)]


def test_summary_equals_a_pure_python_oracle_on_500_random_cases():
    undefined = 0
    for seed in range(500):
        images, names = random_case(seed)
        matrices = [confusion_matrix(t, p, len(names) + 1) for t, p in images]
        summary = summarise(matrices, names, bootstrap=0)
        scores = {n: v for n, v in summary.items() if not n.endswith(".ci95") and n != "n_groups"}
        expected = oracle(images, names)
        assert scores.keys() == expected.keys()
        for name, value in expected.items():
            undefined += value is None
            assert scores[name] == (
                None if value is None else pytest.approx(value, rel=0, abs=1e-12)
            ), f"{name}, seed {seed}"
    assert undefined > 100  # the cases do reach the undefined scores


def test_matrix_equals_scikit_learn_and_torchmetrics():
    import torch
    from sklearn.metrics import confusion_matrix as sklearn_matrix

    torchvision_compat.ensure()  # torchmetrics imports torchvision
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    draw = np.random.default_rng(0)
    for num_classes in (2, 3, 12):
        target = draw.integers(0, num_classes, (3, 17, 9))
        pred = draw.integers(0, num_classes, target.shape)
        target[draw.random(target.shape) < 0.1] = IGNORE
        ours = confusion_matrix(target, pred, num_classes)
        judged = target != IGNORE
        theirs = sklearn_matrix(target[judged], pred[judged], labels=range(num_classes))
        third = multiclass_confusion_matrix(
            torch.from_numpy(pred), torch.from_numpy(target), num_classes, ignore_index=IGNORE
        )
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ours, third.numpy())


def test_scores_equal_scikit_learn_on_pooled_pixels():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, jaccard_score

    draw = np.random.default_rng(1)
    target, pred = draw.integers(0, 3, (2, 400))
    summary = summarise([confusion_matrix(target, pred, 3)], ["a", "b"])
    jaccard = jaccard_score(target, pred, average=None)
    assert summary["iou.pooled.background"] == pytest.approx(jaccard[0], abs=1e-12)
    assert summary["iou.pooled.b"] == pytest.approx(jaccard[2], abs=1e-12)
    assert summary["miou"] == pytest.approx(jaccard.mean(), abs=1e-12)
    assert summary["dice.pooled.a"] == pytest.approx(f1_score(target, pred, average=None)[1])
    assert summary["pixel_accuracy"] == pytest.approx(accuracy_score(target, pred))
    assert summary["class_accuracy"] == pytest.approx(balanced_accuracy_score(target, pred))
    weighted = jaccard_score(target, pred, average="weighted")
    assert summary["fwiou"] == pytest.approx(weighted, abs=1e-12)


def test_rows_are_the_truth_and_columns_the_prediction():
    assert confusion_matrix([1, 1, 1, 0], [0, 0, 1, 1], 2).tolist() == [[0, 1], [2, 1]]


def test_uint8_ids_of_many_classes_do_not_overflow():
    ids = np.arange(200, dtype=np.uint8)
    assert (confusion_matrix(ids, ids, 200) == np.eye(200)).all()


def test_what_is_predicted_on_ignored_pixels_does_not_matter():
    target = np.array([0, 1, IGNORE, IGNORE])
    assert confusion_matrix(target, np.array([0, 1, 77, -3]), 2).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("target", "pred", "code"),
    [
        ([0, 2], [0, 1], "MASK-VALUES"),
        ([0, 1], [0, 2], "MASK-VALUES"),
        ([0, -1], [0, 1], "MASK-VALUES"),
        ([0, 1], [0, IGNORE], "MASK-VALUES"),
        ([0.0, 0.5], [0, 1], "MASK-VALUES"),
        ([[0, 1]], [0, 1], "MASK-SIZE"),
    ],
)
def test_ids_and_shapes_that_do_not_fit_are_refused_by_name(target, pred, code):
    with pytest.raises(DataError, match=code):
        confusion_matrix(target, pred, 2)


def test_message_shows_the_strange_ids():
    with pytest.raises(DataError, match=r"true mask: found ids \[7, 9\]; expected .* 0\.\.1"):
        confusion_matrix([0, 7, 9, 7], [0, 0, 0, 0], 2)


def test_absent_class_is_none_and_leaves_the_means_alone():
    matrices = [confusion_matrix([0, 1, 1, 0], [0, 1, 0, 0], 3)]
    summary = summarise(matrices, ["seen", "absent"])
    names = ["iou.pooled", "iou.per_image", "dice.pooled", "dice.per_image", "precision", "recall"]
    assert all(summary[f"{name}.absent"] is None for name in names)
    assert summary["fpr.absent"] == 0.0  # defined: no pixel of four is falsely called so
    assert summary["miou_foreground"] == 0.5
    assert summary["class_accuracy"] == 0.75


def test_no_image_gives_none_everywhere_and_no_nan():
    summary = summarise([], ["a"])
    assert summary["n"] == 0
    scores = [v for name, v in summary.items() if not name.startswith(("n", "fp_images"))]
    assert scores
    assert all(value is None for value in scores)


def test_no_value_is_ever_nan():
    for seed in range(50):
        images, names = random_case(seed)
        matrices = [confusion_matrix(t, p, len(names) + 1) for t, p in images]
        for value in summarise(matrices, names, bootstrap=20).values():
            numbers = value if isinstance(value, list) else [value]
            assert not any(isinstance(x, float) and math.isnan(x) for x in numbers)


@pytest.mark.parametrize("names", [["a", "a"], ["background"], ["a", ""], ["a", "a.ci95"]])
def test_doubled_and_reserved_class_names_are_refused(names):
    with pytest.raises(DataError, match="CLASS-NAMES"):
        summarise(np.zeros((1, len(names) + 1, len(names) + 1)), names)


def test_matrices_that_do_not_fit_the_names_are_refused():
    with pytest.raises(DataError, match="MATRIX-SHAPE"):
        summarise(np.zeros((2, 3, 3), int), ["only one"])


@pytest.mark.parametrize(
    ("score", "floor", "ceiling", "expected"),
    [
        (0.5, 0.25, 0.75, 0.5),
        (0.0, 0.25, 0.75, -0.5),
        (1.0, 0.0, 0.5, 2.0),
        (0.5, 0.5, 0.5, None),
        (0.5, 0.6, 0.4, None),
        (None, 0.1, 0.9, None),
        (0.5, None, 0.9, None),
        (0.5, 0.1, math.nan, None),
    ],
)
def test_gap_closed_is_the_share_of_the_way_or_none(score, floor, ceiling, expected):
    assert gap_closed(score, floor, ceiling) == expected
