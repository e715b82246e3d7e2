"""Two rows on the same images: hand-computed differences, exchanges and intervals."""

import itertools

import numpy as np
import pytest

from fewmask.errors import DataError
from fewmask.metrics.confusion import summarise
from fewmask.metrics.paired import EXACT_GROUPS, compare_rows


def matrix(hit, miss=0, false=0, rest=10):
    return [[rest, false], [miss, hit]]


def random_rows(n, classes=2, seed=0):
    return np.random.default_rng(seed).integers(0, 30, (2, n, classes, classes))


def test_three_groups_by_hand():
    """IoU of `first` (1 + 3 + 2) / 12, of `second` (1 + 1 + 1) / 12: a difference of 3 / 12.

    Exchanging group i takes twice its own gap away. Gaps 0, 2 and 1: of the eight exchanges,
    +-(2 + 1) occurs four times and +-(2 - 1) four times, so p = 4 / 8.
    """
    first = [matrix(1, 3), matrix(3, 1), matrix(2, 2)]
    second = [matrix(1, 3), matrix(1, 3), matrix(1, 3)]
    found = compare_rows(first, second)
    assert found["difference"] == pytest.approx(3 / 12)
    assert (found["p"], found["exact"], found["n_groups"]) == (0.5, True, 3)


def test_images_of_a_group_are_exchanged_together():
    first, second = [matrix(4)] * 6, [matrix(2, 2)] * 6
    assert compare_rows(first, second)["p"] == pytest.approx(2 / 2**6)
    grouped = compare_rows(first, second, groups=list("aabbcc"))
    assert grouped["p"] == pytest.approx(2 / 2**3)
    assert grouped["n_groups"] == 3


def test_equal_rows_differ_by_nothing():
    rows = random_rows(8)[0]
    found = compare_rows(rows, rows)
    assert (found["difference"], found["ci95"], found["p"]) == (0.0, [0.0, 0.0], 1.0)


def test_exact_p_is_that_of_a_naive_loop_over_all_exchanges():
    first, second = random_rows(7, classes=3)
    groups = list("abcadbc")

    def iou(matrices):
        total = matrices.sum(0)
        return np.mean([total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k])
                        for k in (1, 2)])  # fmt: skip

    observed, reached = iou(first) - iou(second), 0
    for chosen in itertools.product([False, True], repeat=4):
        swap = np.array([chosen["abcd".index(group)] for group in groups])[:, None, None]
        a, b = np.where(swap, second, first), np.where(swap, first, second)
        reached += abs(iou(a) - iou(b)) >= abs(observed) - 1e-12
    found = compare_rows(first, second, groups=groups)
    assert found["difference"] == pytest.approx(observed)
    assert found["p"] == reached / 16


def test_interval_is_that_of_the_same_draws_for_both_rows():
    first, second = random_rows(5)
    found = compare_rows(first, second, draws=300, seed=3)
    counts = np.random.default_rng(3).multinomial(5, [0.2] * 5, size=300)
    differences = []
    for draw in counts:
        a, b = ((rows * draw[:, None, None]).sum(0) for rows in (first, second))
        differences.append(a[1, 1] / (a.sum() - a[0, 0]) - b[1, 1] / (b.sum() - b[0, 0]))
    assert found["ci95"] == pytest.approx(np.percentile(differences, [2.5, 97.5]))


def test_with_many_groups_drawn_exchanges_come_near_all_of_them_and_p_is_never_zero():
    groups = EXACT_GROUPS + 1
    first, second = random_rows(groups, seed=4)
    swaps = np.array(list(itertools.product([0, 1], repeat=groups)))
    a = first.sum(0) + np.tensordot(swaps, second - first, 1)  # (2^G, 2, 2)
    b = second.sum(0) - np.tensordot(swaps, second - first, 1)
    gaps = [m[:, 1, 1] / (m.sum((1, 2)) - m[:, 0, 0]) for m in (a, b)]
    gaps = np.abs(gaps[0] - gaps[1])
    drawn = compare_rows(first, second)
    assert not drawn["exact"]
    assert drawn["p"] == pytest.approx((gaps >= gaps[0] - 1e-12).mean(), abs=0.02)
    certain = compare_rows([matrix(4)] * 40, [matrix(2, 2)] * 40, exchanges=99)
    assert certain["p"] == pytest.approx(1 / 100)


def test_same_seed_same_answer_and_the_other_way_round_its_negative():
    first, second = random_rows(30)
    one, again, reverse = (
        compare_rows(*rows, seed=1) for rows in ((first, second), (first, second), (second, first))
    )
    assert one == again
    assert reverse["difference"] == -one["difference"]
    assert reverse["p"] == one["p"]
    assert reverse["ci95"] == pytest.approx([-one["ci95"][1], -one["ci95"][0]])


def test_p_is_uniform_where_neither_row_is_better():
    draw = np.random.default_rng(0)
    small = 0
    for trial in range(200):
        hits = draw.binomial(20, 0.5, (2, 14))
        rows = [[matrix(h, 20 - h) for h in row] for row in hits]
        small += compare_rows(*rows, exchanges=200, draws=1, seed=trial)["p"] <= 0.1
    assert 0.04 <= small / 200 <= 0.17


def test_difference_is_that_of_the_named_scores():
    for classes, name in ((2, "iou.pooled.a"), (3, "miou_foreground")):
        first, second = random_rows(6, classes)
        scores = [summarise(rows, ["a", "b"][: classes - 1], bootstrap=0)[name]
                  for rows in (first, second)]  # fmt: skip
        assert compare_rows(first, second)["difference"] == pytest.approx(scores[0] - scores[1])


def test_undefined_is_none():
    nothing = [matrix(0)] * 3
    found = compare_rows(nothing, nothing)
    assert (found["difference"], found["ci95"], found["p"]) == (None, None, None)
    one_group = compare_rows([matrix(4)] * 3, [matrix(2, 2)] * 3, groups=["p"] * 3)
    assert (one_group["difference"], one_group["ci95"], one_group["p"]) == (0.5, None, None)
    empty = np.zeros((0, 2, 2))
    assert compare_rows(empty, empty)["difference"] is None


def test_rows_of_other_images_are_refused():
    with pytest.raises(DataError, match="MATRIX-SHAPE"):
        compare_rows([matrix(1)] * 2, [matrix(1)] * 3)
    with pytest.raises(DataError, match="GROUPS-LENGTH"):
        compare_rows([matrix(1)] * 2, [matrix(1)] * 2, groups=["a"])
