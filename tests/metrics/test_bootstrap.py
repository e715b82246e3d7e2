"""Intervals come from groups, are reproducible, and are None where there is nothing to resample."""

import numpy as np
import pytest

from fewmask.errors import DataError
from fewmask.metrics.bootstrap import group_indices, resampled_counts, sum_by_group
from fewmask.metrics.confusion import summarise


def matrices(n=40, seed=0):
    return np.random.default_rng(seed).integers(0, 30, (n, 2, 2))


def test_interval_equals_a_naive_loop_over_resampled_groups():
    data, groups = matrices(12), [f"g{i // 3}" for i in range(12)]
    summary = summarise(data, ["a"], groups=groups, seed=3, bootstrap=200)
    counts = resampled_counts(4, draws=200, seed=3)
    pooled, per_image = [], []
    for draw in counts.astype(int):
        chosen = [i for g in range(4) for _ in range(draw[g]) for i in range(3 * g, 3 * g + 3)]
        total = data[chosen].sum(axis=0)
        pooled.append(total[1, 1] / (total.sum() - total[0, 0]))
        per_image.append(np.mean([m[1, 1] / (m.sum() - m[0, 0]) for m in data[chosen]]))
    for name, values in (("iou.pooled.a", pooled), ("iou.per_image.a", per_image)):
        assert summary[f"{name}.ci95"] == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_every_score_has_an_interval_around_it():
    summary = summarise(matrices(), ["a"])
    scores = [n for n, v in summary.items() if isinstance(v, float)]
    assert "iou.pooled.a" in scores
    for name in scores:
        low, high = summary[f"{name}.ci95"]
        assert low <= summary[name] <= high


def test_same_seed_same_interval_and_other_seed_another():
    first, again, other = (summarise(matrices(), ["a"], seed=s)["miou.ci95"] for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_copies_of_an_image_within_its_group_do_not_narrow_the_interval():
    data = matrices(10)
    groups = [str(i) for i in range(10)]
    once = summarise(data, ["a"], groups=groups)
    often = summarise(np.repeat(data, 5, axis=0), ["a"], groups=np.repeat(groups, 5).tolist())
    assert often["iou.pooled.a.ci95"] == pytest.approx(once["iou.pooled.a.ci95"], abs=1e-12)
    as_if_independent = summarise(np.repeat(data, 5, axis=0), ["a"])["iou.pooled.a.ci95"]
    assert np.ptp(as_if_independent) < 0.7 * np.ptp(once["iou.pooled.a.ci95"])


def test_fewer_than_two_groups_have_no_interval():
    summary = summarise(matrices(5), ["a"], groups=["one patient"] * 5)
    assert summary["n_groups"] == 1
    assert summary["iou.pooled.a"] is not None
    assert all(v is None for name, v in summary.items() if name.endswith(".ci95"))


def test_undefined_score_has_no_interval():
    summary = summarise(np.array([[[9, 0], [0, 0]]] * 4), ["a"])
    assert summary["iou.pooled.a"] is None
    assert summary["iou.pooled.a.ci95"] is None


def test_class_of_a_single_group_is_resampled_where_it_is_defined():
    data = np.array([[[9, 0], [0, 0]]] * 5 + [[[0, 0], [1, 3]]])
    assert summarise(data, ["a"])["iou.pooled.a.ci95"] == [0.75, 0.75]


def test_interval_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hits = draw.binomial(50, 0.6, 60)
        data = np.zeros((60, 2, 2), int)
        data[:, 1, 1], data[:, 1, 0] = hits, 50 - hits
        low, high = summarise(data, ["a"], seed=trial, bootstrap=300)["recall.a.ci95"]
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_each_draw_takes_as_many_groups_as_there_are():
    counts = resampled_counts(7, draws=50, seed=0)
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()


def test_groups_need_not_lie_together():
    index, count = group_indices(["a", "b", "a", "c"])
    sums = sum_by_group(np.array([[1.0], [2.0], [4.0], [8.0]]), index, count)
    assert sums[:, 0].tolist() == [5.0, 2.0, 8.0]


def test_wrong_number_of_groups_is_refused():
    with pytest.raises(DataError, match="GROUPS-LENGTH"):
        summarise(matrices(3), ["a"], groups=["x", "y"])
