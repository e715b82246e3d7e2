"""The verdict is decided by the paired interval against the strongest control of no more masks."""

import numpy as np
import pytest

from fewmask.report.table import summary_rows
from fewmask.report.verdict import verdict_of
from fewmask.training.evaluation import Candidate, Evaluation


def verdict(rows, images=20, groups=None):
    """Rows as (kind, correct pixels of 10 on each image: a number or a list, masks used if any)."""
    candidates = [Candidate(f"row {i}", kind, lambda _, image: image, masks_used=sum(masks)).facts()
                  for i, (kind, _, *masks) in enumerate(rows)]  # fmt: skip
    matrices = np.zeros((len(rows), images, 2, 2), int)
    for i, (_, correct, *_) in enumerate(rows):
        hits = np.resize(np.asarray(correct, int), images)
        matrices[i, :, 0, 0], matrices[i, :, 1, 0], matrices[i, :, 1, 1] = 90, 10 - hits, hits
    ids = [str(i) for i in range(images)]
    found = Evaluation(["scar"], ids, groups or ids, candidates, matrices)
    return verdict_of(found, summary_rows(found))


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ([("result", 6), ("control", 4)], "beats"),
        ([("result", 4), ("control", 6)], "does_not_beat"),
        ([("result", 5), ("control", 5)], "too_close"),
        ([("result", [2, 9]), ("control", 5)], "too_close"),
        ([("result", 6), ("control", 4), ("evidence", 8)], "does_not_beat"),
        ([("result", 6), ("control", 4), ("reference", 9), ("oracle", 9)], "beats"),
        ([("result", 0), ("control", 0)], "too_close"),
        ([("result", 6), ("reference", 4)], "not_compared"),
        ([("result", 6), ("control", 4), ("control", 9, 10)], "beats"),
        ([("result", 6, 10), ("control", 4), ("control", 9, 10)], "does_not_beat"),
        ([("result", 6, 9), ("control", 4), ("control", 9, 10)], "beats"),
        ([("result", 6), ("control", 4, 10)], "not_compared"),
        ([("control", 4)], "not_measured"),
    ],
)
def test_state_follows_from_the_interval_against_the_strongest_control(rows, state):
    assert verdict(rows).state == state


@pytest.mark.parametrize("count", [1, 2, 9])
def test_fewer_than_ten_groups_are_too_few_to_tell_whatever_the_images(count):
    groups = [str(i % count) for i in range(20)]
    found = verdict([("result", 9), ("control", 1)], groups=groups)
    assert found.state == "too_few"
    assert str(found).startswith("Too few test images to tell. IoU 0.900")
    enough = [str(i % 10) for i in range(20)]
    assert verdict([("result", 9), ("control", 1)], groups=enough).state == "beats"


def test_verdict_tells_score_strongest_control_and_interval():
    found = verdict([("result", 6), ("control", 3), ("evidence", 4)])
    assert str(found) == (
        "Beats its strongest control without masks. IoU 0.600, strongest control “row 2” 0.400: "
        "difference +0.200 [+0.200, +0.200] (20 test images or groups; one seed)."
    )


def test_a_control_that_needs_more_masks_is_told_beside_the_verdict():
    found = verdict([("result", 6), ("control", 3), ("control", 8, 10), ("reference", 9, 99)])
    assert found.headline == "Beats its strongest control without masks"
    assert found.text.endswith("one seed). With more masks: “row 2” 0.800.")


def test_a_result_that_used_masks_is_not_called_without_masks():
    found = verdict([("result", 6, 10), ("control", 3)])
    assert found.headline == "Beats its strongest control"


def test_without_masks_nothing_is_scored():
    found = verdict([("result", 6), ("control", 3)], images=0)
    assert str(found) == "Not measured. No masks: nothing is scored."


def test_the_verdict_is_the_same_on_the_terminal_and_in_the_report(smoke_run, fewmask):
    told = smoke_run.table["verdict"]
    headline = {"beats": "Beats its strongest control", "too_close": "Too close to tell",
                "does_not_beat": "Does not beat its strongest control",
                "too_few": "Too few test images to tell"}[told["state"]]  # fmt: skip
    assert headline in (smoke_run.path / "report.html").read_text()
    printed = " ".join(fewmask("report", smoke_run.path).out.split())
    assert headline in printed
    assert told["text"] in printed
    assert max(map(len, smoke_run.result.out.splitlines())) <= 120 + len(str(smoke_run.path))
