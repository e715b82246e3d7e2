"""Splits: nothing that is learned from can reach the test part."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewmask.data.folder import Sample
from fewmask.data.splits import (
    check_lineage,
    cut_folds,
    descends,
    link_copies,
    link_duplicates,
    split_for_fold,
)
from fewmask.errors import DataError, LeakError, UsageError


def make(tags, groups=None):
    groups = groups or [f"s{n}" for n in range(len(tags))]
    return [
        Sample(f"s{n}", Path(f"s{n}.png"), None, tuple(tag), group)
        for n, (tag, group) in enumerate(zip(tags, groups, strict=True))
    ]


def test_folds_of_single_samples_are_stratified_exactly():
    samples = make([["a"]] * 30 + [[]] * 20)
    fold_of = cut_folds(samples, folds=5, seed=3)
    assert Counter(fold_of[:30]) == dict.fromkeys(range(5), 6)
    assert Counter(fold_of[30:]) == dict.fromkeys(range(5), 4)


def test_the_seed_alone_decides():
    samples = make([["a"], []] * 20)
    assert cut_folds(samples, folds=4, seed=1) == cut_folds(samples, folds=4, seed=1)
    assert cut_folds(samples, folds=4, seed=1) != cut_folds(samples, folds=4, seed=2)
    assert len(cut_folds(samples, folds=4, seed=2**62)) == 40


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=12, max_size=60),
       st.integers(2, 4), st.integers(0, 2**40))  # fmt: skip
def test_no_group_is_ever_on_two_sides(rows, folds, seed):
    samples = make([["a"] if tag else [] for tag, _ in rows], [f"g{group}" for _, group in rows])
    try:
        fold_of = cut_folds(samples, folds=folds, seed=seed)
        splits = [
            split_for_fold(samples, fold_of, fold, val_fraction=0.2, seed=seed)
            for fold in range(folds)
        ]
    except DataError as error:
        assert error.problems[0].code == "TOO-FEW"  # noqa: PT017
        return
    group_of = {sample.id: sample.group for sample in samples}
    for split in splits:
        parts = [{group_of[one] for one in part} for part in (split.train, split.val, split.test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert sorted(split.train + split.val + split.test) == sorted(group_of)
        assert split.test
        assert split.val
    assert sorted(one for split in splits for one in split.test) == sorted(group_of)


def test_validation_takes_the_wanted_share_of_the_rest_in_proportion():
    samples = make([["a"]] * 50 + [[]] * 50)
    fold_of = cut_folds(samples, folds=5, seed=0)
    split = split_for_fold(samples, fold_of, 2, val_fraction=0.1, seed=0)
    assert (len(split.train), len(split.val), len(split.test)) == (72, 8, 20)
    assert sum(int(one[1:]) < 50 for one in split.val) == 4
    assert split_for_fold(samples, fold_of, 2, val_fraction=0, seed=0).val == ()


def test_impossible_cuts_are_refused():
    with pytest.raises(UsageError):
        cut_folds(make([["a"], []] * 4), folds=1, seed=0)
    with pytest.raises(DataError, match="TOO-FEW"):
        cut_folds(make([["a"], []] * 4), folds=9, seed=0)
    with pytest.raises(DataError, match="TOO-FEW"):
        cut_folds(make([["a"], []] * 4, ["x", "y"] * 4), folds=3, seed=0)
    samples = make([["a"], []] * 4)
    fold_of = cut_folds(samples, folds=2, seed=0)
    with pytest.raises(UsageError):
        split_for_fold(samples, fold_of, 2, seed=0)
    with pytest.raises(UsageError):
        split_for_fold(samples, fold_of, 0, val_fraction=0.9, seed=0)


def test_copies_join_groups_even_through_a_chain():
    samples = make([[]] * 6, ["a", "a", "b", "b", "c", "d"])
    digests = {"s1": "x", "s2": "x", "s3": "y", "s4": "y", "s5": "z"}
    linked = link_duplicates(samples, digests)
    assert [sample.group for sample in linked] == ["a", "a", "a", "a", "a", "d"]
    assert [sample.id for sample in linked] == [sample.id for sample in samples]


def test_copies_of_two_kinds_join_groups():
    samples = make([[]] * 5, list("abcde"))
    exact, near = [samples[:2]], [[samples[1], samples[3]]]
    assert [s.group for s in link_copies(samples, exact, near)] == list("aacae")
    assert [s.group for s in link_copies(samples)] == list("abcde")


def reachable(parents, item):
    """The naive answer: repeat until nothing is added."""
    found = set(parents.get(item, ()))
    while True:
        more = found | {grand for one in found for grand in parents.get(one, ())}
        if more == found:
            return found
        found = more


def test_every_planted_leak_in_1000_random_lineages_is_found_and_nothing_else():
    draw = np.random.default_rng(0)
    leaky = 0
    for _ in range(1000):
        size = int(draw.integers(4, 25))
        parents = {
            f"n{n}": [f"n{p}" for p in draw.choice(n, min(n, int(draw.integers(0, 3))), False)]
            for n in range(size)
        }
        names = list(parents)
        test = set(draw.choice(names[: size // 2], int(draw.integers(1, size // 2 + 1)), False))
        train = [n for n in names if n not in test and draw.random() < 0.5]
        expected = {(item, one) for item in train for one in reachable(parents, item) & test}
        for item in train:
            assert descends(parents, item) == reachable(parents, item)
        if not expected:
            check_lineage(train, parents, test)
            continue
        leaky += 1
        with pytest.raises(LeakError) as caught:
            check_lineage(train, parents, test)
        found = {(p.where, p.found.rsplit(" ", 1)[1]) for p in caught.value.problems}
        assert found == expected
        assert {problem.code for problem in caught.value.problems} == {"LEAK"}
    assert 200 < leaky < 1000


def test_a_test_image_in_training_is_a_leak_and_cycles_end():
    with pytest.raises(LeakError, match="LEAK a"):
        check_lineage(["a"], {}, ["a"])
    assert descends({"a": ["b"], "b": ["a"]}, "a") == {"a", "b"}
