"""Folds are pooled row by row, whatever number of masks each fold has."""

import numpy as np
import pytest

from fewmask.metrics.confusion import confusion_matrix, summarise
from fewmask.training.evaluation import (
    Candidate,
    Evaluation,
    pooled_facts,
    with_empty_background,
)
from fewmask.training.run_folder import RunFolder


def facts(name="row", kind="reference", choice="label_free", masks=0, note=""):
    return Candidate(name, kind, lambda _, image: image, choice, masks, note).facts()


@pytest.fixture
def stages(tmp_path):
    """Two folds with the rows given; each measures as many images as asked."""

    def make(*folds):
        run = RunFolder.create(tmp_path / "run", {})
        made = []
        for number, (images, rows) in enumerate(folds):
            stage = run.stage(1, "evaluate", "key", folder=f"fold-{number}")
            if images:
                value = np.arange(len(rows))[:, None, None, None] + 10 * number
                np.save(stage.path / "confusion.npy", value + np.zeros((1, images, 2, 2), int))
            ids = [f"{number}/{i}" for i in range(images)]
            record = {"class_names": ["scar"], "ids": ids, "groups": ids, "candidates": rows}
            stage.write_json("evaluation.json", record)
            made.append(stage)
        return made

    return make


def test_an_oracle_costs_the_test_masks_of_all_folds():
    """No mask is in two test parts."""
    found = pooled_facts([facts(kind="oracle", choice=f"{n} masks", masks=n) for n in (2, 3, 2)])
    assert (found["masks_used"], found["threshold_choice"]) == (7, "7 masks")


def test_a_trained_row_costs_the_masks_of_its_largest_fold():
    """Training parts share masks, so a sum would count them several times."""
    found = pooled_facts([facts(masks=n) for n in (9, 10, 9)])
    assert (found["masks_used"], found["threshold_choice"]) == (10, "label_free")


def test_different_choices_and_notes_are_all_told():
    given = facts(choice="given", note="at 0.40")
    found = pooled_facts([given, facts(choice="3 masks", masks=3, note="at 0.52"), given])
    assert found["threshold_choice"] == "given; 3 masks"
    assert found["note"] == "at 0.40; at 0.52"


def test_rows_are_matched_by_name_in_any_order_and_images_pooled(stages):
    folds = stages((1, [facts("a"), facts("b")]), (2, [facts("b"), facts("a")]))
    found = Evaluation.read(folds)
    assert [c["name"] for c in found.candidates] == ["a", "b"]
    assert found.ids == ["0/0", "1/0", "1/1"]
    assert found.matrices[:, :, 0, 0].tolist() == [[0, 11, 11], [1, 10, 10]]
    assert found.incomplete == ()


def test_a_row_that_a_fold_lacks_is_named_not_lost_in_silence(stages):
    found = Evaluation.read(stages((1, [facts("a")]), (1, [facts("a"), facts("few masks")])))
    assert [c["name"] for c in found.candidates] == ["a"]
    assert found.incomplete == ("few masks",)


def test_a_fold_without_a_true_mask_takes_no_row_away(stages):
    found = Evaluation.read(stages((0, [facts("a")]), (1, [facts("a"), facts("oracle")])))
    assert [c["name"] for c in found.candidates] == ["a", "oracle"]
    assert found.matrices.shape == (2, 1, 2, 2)


def test_without_background_every_class_counts_in_the_means():
    truth = np.array([[0, 0, 1, 1, 2, 255]])
    pred = np.array([[0, 1, 1, 1, 0, 2]])
    matrices = with_empty_background(confusion_matrix(truth, pred, 3)[None])
    scores = summarise(matrices, ["sky", "road", "car"], bootstrap=0)
    iou = {"sky": 1 / 3, "road": 2 / 3, "car": 0.0}
    assert {n: scores[f"iou.pooled.{n}"] for n in iou} == pytest.approx(iou)
    assert scores["miou"] == scores["miou_foreground"] == pytest.approx(1 / 3)
    assert scores["iou.pooled.background"] is None
    assert scores["pixel_accuracy"] == pytest.approx(3 / 5)
    assert scores["class_accuracy"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scores["fwiou"] == pytest.approx((2 / 5) * (1 / 3) + (2 / 5) * (2 / 3))


def test_an_evaluation_without_background_is_read_so(stages):
    (stage,) = stages((2, [facts()]))
    record = stage.read_json("evaluation.json")
    record |= {"class_names": ["sky", "road"], "background": False}
    stage.write_json("evaluation.json", record)
    raw = np.load(stage.path / "confusion.npy")
    found = Evaluation.read([stage])
    assert not found.has_background
    assert found.matrices.shape == (1, 2, 3, 3)
    assert np.array_equal(found.matrices[..., 1:, 1:], raw)
    assert found.matrices[..., 0, :].sum() == found.matrices[..., 0].sum() == 0
