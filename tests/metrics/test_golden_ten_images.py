"""Ten images whose score depends on the rule: pooled .66; per image .80, .20, .50 or .67."""

import numpy as np
import pytest

from fewmask.metrics.confusion import confusion_matrix, summarise

SIDE = 16


def image(truth_px: int, hit_px: int, false_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction with exactly these pixel counts."""
    target = np.zeros(SIDE * SIDE, np.uint8)
    pred = np.zeros(SIDE * SIDE, np.uint8)
    target[:truth_px] = 1
    pred[:hit_px] = 1
    pred[truth_px : truth_px + false_px] = 1
    return target.reshape(SIDE, SIDE), pred.reshape(SIDE, SIDE)


# Three images hold the object (IoU 30/30, 10/20, 5/10); seven do not, and one of those has a
# false alarm of 8 pixels. Pooled: (30 + 10 + 5) / (30 + 20 + 10 + 8) = 45 / 68 = 0.6617647.
TEN_IMAGES = [image(30, 30, 0), image(15, 10, 5), image(10, 5, 0), image(0, 0, 8)]
TEN_IMAGES += [image(0, 0, 0)] * 6


@pytest.fixture(scope="module")
def matrices() -> np.ndarray:
    return np.stack([confusion_matrix(target, pred, 2) for target, pred in TEN_IMAGES])


@pytest.fixture(scope="module")
def summary(matrices) -> dict:
    return summarise(matrices, ["object"])


def test_pooled_iou_is_45_of_68(summary):
    assert summary["iou.pooled.object"] == pytest.approx(0.6617647, abs=5e-8)
    assert summary["iou.pooled.object"] == 45 / 68


def test_per_image_iou_skips_images_with_empty_truth(summary):
    assert summary["iou.per_image.object"] == pytest.approx(2 / 3)  # "skip empty truth": .67


def test_counts_of_empty_truth_and_false_alarms_are_reported(summary):
    assert summary["n"] == 10
    assert summary["n_empty_truth.object"] == 7
    assert summary["fp_images_on_empty.object"] == 1
    assert summary["fpr_on_empty.object"] == 8 / (7 * SIDE * SIDE)


def test_two_class_mean_is_the_flattering_83_percent(summary):
    assert round(summary["miou"], 2) == 0.83
    assert summary["miou_foreground"] == summary["iou.pooled.object"]


@pytest.mark.parametrize(
    ("rule", "quoted"),
    [
        ("0/0 is 1", 0.80),
        ("0/0 is 0", 0.20),
        ("skip empty union", 0.50),
        ("skip empty truth", 0.67),
    ],
)
def test_the_same_ten_images_give_all_the_quoted_numbers(matrices, rule, quoted):
    scores = []
    for (_, false_px), (missed_px, hit_px) in matrices:
        truth_px, union_px = hit_px + missed_px, hit_px + missed_px + false_px
        if rule == "skip empty truth" and truth_px == 0:
            continue
        if union_px > 0:
            scores.append(hit_px / union_px)
        elif rule != "skip empty union":
            scores.append(1.0 if rule == "0/0 is 1" else 0.0)
    assert round(float(np.mean(scores)), 2) == quoted
