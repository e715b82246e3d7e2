"""The pictures show different images: good, usual, bad, and the worst false alarm."""

import numpy as np

from fewmask.report.cases import scored_cases
from fewmask.training.evaluation import Candidate, Evaluation


def evaluation(hits, alarms):
    """Images with the object, ``hits`` of 10 pixels found; then empty ones with false pixels."""
    matrices = [[[90, 0], [10 - n, n]] for n in hits] + [[[100 - n, n], [0, 0]] for n in alarms]
    ids = [f"p{i}" for i in range(len(hits))] + [f"n{i}" for i in range(len(alarms))]
    facts = Candidate("row", "result", lambda _, image: image).facts()
    shaped = np.array(matrices, int).reshape(1, len(ids), 2, 2)
    return Evaluation(["scar"], ids, ids, [facts], shaped)


def test_best_median_worst_and_the_worst_false_alarm_are_shown():
    assert scored_cases(evaluation([3, 9, 0, 5, 7], [0, 12, 4])) == [
        ("best", "p1", "IoU 0.900"),
        ("median", "p3", "IoU 0.500"),
        ("worst", "p2", "IoU 0.000"),
        ("worst false alarm", "n1", "12.0 % marked, nothing is there"),
    ]


def test_no_image_is_shown_twice():
    for count in range(4):
        shown = [name for _, name, _ in scored_cases(evaluation(list(range(count)), []))]
        assert len(set(shown)) == len(shown) == min(count, 3)


def test_without_a_false_alarm_none_is_shown():
    titles = [title for title, _, _ in scored_cases(evaluation([3, 9], [0, 0]))]
    assert titles == ["best", "worst"]


def test_facts_of_the_images_stand_in_metrics_and_report(smoke_run):
    table, text = smoke_run.table, (smoke_run.path / "report.html").read_text()
    (parts,) = table["parts"]
    assert sum(part["images"] for part in parts.values()) == 80
    assert sum(part["masks"] for part in parts.values()) == 40
    assert table["held_out"] == parts["test"]["images"]
    numbers = " / ".join(str(parts[part]["images"]) for part in ("train", "val", "test"))
    assert numbers in text
    assert f"{table['tag_accuracy']['scar']:.3f}" in text
