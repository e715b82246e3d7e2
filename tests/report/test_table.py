"""The table says how far the result has come from its controls, and whether by more than chance."""

import numpy as np
import pytest

from fewmask.report.assemble import compared_lines, sharpness_notes
from fewmask.report.html import text_table
from fewmask.report.table import (
    best_label_free_control,
    comparison_text,
    headline_metrics,
    shown_metrics,
    summary_rows,
    table_rows,
    terminal_metrics,
)
from fewmask.training.evaluation import FULL_SUPERVISION, Candidate, Evaluation

MAIN = "iou.pooled.scar"


def evaluation(rows, images=4, class_names=("scar",), groups=None):
    """Rows as (name, kind, IoU in tenths, threshold choice, masks); the same on every image."""
    candidates = [
        Candidate(name, kind, lambda _, image: image, choice, masks).facts()
        for name, kind, _, choice, masks in rows
    ]
    matrices = [[[[90, 0], [10 - tenths, tenths]]] * images for _, _, tenths, _, _ in rows]
    ids = [str(i) for i in range(images)]
    shape = (len(rows), images, 2, 2)
    return Evaluation(list(class_names), ids, groups or ids, candidates,
                      np.array(matrices, int).reshape(shape))  # fmt: skip


TAGS = [
    ("all background", "control", 0, "label_free", 0),
    ("centre prior", "control", 1, "label_free", 0),
    ("CAM, Otsu", "evidence", 3, "label_free", 0),
    ("CAM at 0.4", "evidence", 5, "given", 0),
    ("CAM at 0.5", "evidence", 5, "8 masks", 8),
    ("CAM at its best", "oracle", 9, "16 masks", 16),
    ("segmenter on 10 true masks", "control", 4, "label_free", 10),
    (FULL_SUPERVISION, "reference", 8, "label_free", 90),
    ("segmenter on pseudo-masks", "result", 6, "label_free", 0),
]


def rows_by_name(found):
    return {row["name"]: row for row in summary_rows(found)}


def test_gap_is_measured_from_the_best_row_without_masks_to_full_supervision():
    rows = rows_by_name(evaluation(TAGS))
    closed = {name: row["gap_closed"] for name, row in rows.items()}
    assert closed["segmenter on pseudo-masks"] == pytest.approx((0.6 - 0.3) / (0.8 - 0.3))
    assert closed["CAM, Otsu"] == 0
    assert closed[FULL_SUPERVISION] == 1
    assert closed["all background"] == pytest.approx(-0.3 / 0.5)


def test_a_given_threshold_is_no_label_free_control():
    rows = summary_rows(evaluation(TAGS))
    assert rows[best_label_free_control(rows, MAIN)]["name"] == "CAM, Otsu"


@pytest.mark.parametrize("missing", [FULL_SUPERVISION, "all label-free controls"])
def test_gap_is_null_without_ceiling_or_floor(missing):
    kept = [row for row in TAGS if row[0] != missing]
    if missing != FULL_SUPERVISION:
        kept = [row for row in TAGS if row[1] in {"result", "reference"}]
    assert all(r["gap_closed"] is None for r in summary_rows(evaluation(kept)))


def test_full_supervision_that_is_the_result_itself_has_closed_no_gap():
    rows = [*TAGS[:2], (FULL_SUPERVISION, "result", 8, "label_free", 90)]
    assert rows_by_name(evaluation(rows))[FULL_SUPERVISION]["gap_closed"] is None


def test_result_is_compared_with_its_label_free_and_its_few_masks_control():
    rows = rows_by_name(evaluation(TAGS))
    compared = rows["segmenter on pseudo-masks"]["compared"]
    assert [(c["with"], c["as"]) for c in compared] == [
        ("CAM, Otsu", "best label-free control"),
        ("segmenter on 10 true masks", "few-masks control"),
    ]
    assert [c["difference"] for c in compared] == pytest.approx([0.3, 0.2])
    assert [c["p"] for c in compared] == [2 / 2**4] * 2
    assert {c["metric"] for c in compared} == {MAIN}
    assert not any("compared" in row for name, row in rows.items() if "pseudo" not in name)


def test_gap_is_a_column_of_the_printed_table():
    rows = table_rows(summary_rows(evaluation(TAGS)), ["scar"])
    table = text_table(rows, [MAIN, "gap_closed"])
    (line,) = (line for line in table.splitlines() if line.startswith(">"))
    assert line.split("result")[1].split()[:2] == ["0.600", "0.600"]


def test_comparisons_are_told_in_words_below_what_they_compare():
    summary = {"rows": summary_rows(evaluation(TAGS)), "class_names": ["scar"]}
    assert compared_lines(summary) == [
        "segmenter on pseudo-masks, IoU, paired by group, one seed:",
        "  +0.300 [0.300, 0.300], p = 0.125 against the best label-free control, CAM, Otsu",
        "  +0.200 [0.200, 0.200], p = 0.125 against the few-masks control, "
        "segmenter on 10 true masks",
    ]


def test_the_result_is_the_first_row_and_the_others_are_sorted_by_score():
    rows = table_rows(summary_rows(evaluation(TAGS)), ["scar"])
    scores = [row.metrics[MAIN] for row in rows]
    assert rows[0].kind == "result"
    assert scores[1:] == sorted(scores[1:], reverse=True)
    assert {row.name: row.note for row in rows}["CAM, Otsu"] == "raw evidence"


def test_trivial_controls_cost_no_label():
    cost = {
        row.name: row.label_cost for row in table_rows(summary_rows(evaluation(TAGS)), ["scar"])
    }
    assert cost["centre prior"] == "none"
    assert cost["CAM, Otsu"] == cost["segmenter on pseudo-masks"] == "tags only"
    assert cost["segmenter on 10 true masks"] == "10 masks"


def test_one_group_gives_a_difference_but_no_test():
    found = summary_rows(evaluation(TAGS, groups=["scene"] * 4))[-1]["compared"][0]
    words = comparison_text(found)
    assert words == "+0.300 (1 group: no test) against the best label-free control, CAM, Otsu"
    undefined = {**found, "difference": None, "ci95": None, "p": None}
    assert comparison_text(undefined).startswith("undefined against")


def test_without_true_masks_there_is_nothing_to_compare():
    rows = summary_rows(evaluation(TAGS, images=0))
    assert all(row["metrics"] == {} for row in rows)
    assert not any("compared" in row for row in rows)


def test_sharpness_is_one_line_with_both_numbers():
    checks = {
        "sharpness.auc.scar": 0.312,
        "sharpness.cam_correlation.scar": -0.05,
        "sharpness.cam_images.scar": 7,
    }
    (line,) = sharpness_notes(["scar"], checks)
    assert "AUC of 0.31" in line
    assert "-0.05, mean over 7" in line
    (line,) = sharpness_notes(["scar"], {**checks, "sharpness.cam_correlation.scar": None})
    assert "CAM" not in line
    assert sharpness_notes(["scar"], {"sharpness.auc.scar": None}) == []
    assert sharpness_notes(["scar"], {}) == []


def test_report_labels_one_seed_as_one(smoke_run):
    text = (smoke_run.path / "report.html").read_text()
    assert "paired by group, one seed" in text
    assert "paired by group, one seed" in smoke_run.result.out


def test_the_gap_is_a_column_only_where_full_supervision_was_measured():
    def columns(lines):
        return shown_metrics(["scar"], table_rows(summary_rows(evaluation(lines)), ["scar"]))

    without = [line for line in TAGS if line[0] != FULL_SUPERVISION]
    assert columns(TAGS)[-1] == "gap_closed"
    assert columns(without) == columns(TAGS)[:-1]


def test_columns_without_a_background_are_the_means_over_all_classes():
    names = ["sky", "road"]
    means = ["miou_foreground", "fwiou", "pixel_accuracy", "class_accuracy"]
    columns = headline_metrics(names, background=False)
    assert columns == [*means, "iou.pooled.sky", "iou.pooled.road"]
    assert terminal_metrics(names, [], background=False) == means
    printed = text_table([], means, names)
    for word in ("mean IoU", "FWIoU", "pixels", "classes"):
        assert word in printed
