"""Cut samples into training, validation and test parts that share nothing.

Folds are cut before anything is learned, by group (patient, scene, county), and every image that
is made later carries the ids of its parents, so that :func:`check_lineage` can refuse an
evaluation whose test images have descendants among the training images.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fewmask.data.records import Sample
from fewmask.errors import DataError, LeakError, Problem, UsageError


@dataclass(frozen=True)
class Split:
    """Ids of the three parts; no group is in two of them.

    Attributes:
        train: Ids that anything may be learned from.
        val: Ids that checkpoints are chosen by; may be empty.
        test: Ids that results are reported on.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def cut_folds(samples: Sequence[Sample], *, folds: int, seed: int) -> list[int]:
    """Give each sample a fold, balanced over combinations of tags, groups never torn apart.

    Args:
        samples: The samples, in an order of their own (``DataFolder.samples`` is sorted by id).
        folds: Number of folds, at least 2.
        seed: The same seed and samples give the same folds.

    Returns:
        For each sample the number of its fold, 0 .. folds - 1; no fold is empty.

    Raises:
        UsageError: ``folds`` is less than 2.
        DataError: There are too few samples or groups.
    """
    if folds < 2:
        raise UsageError.of(
            "FOLDS", where="folds", found=folds, expected="2 or more", fix="set folds to 5 or 10"
        )
    possible = _most_folds(samples)
    if possible < folds:
        number = len({sample.group for sample in samples})
        fewer = f"--test-folds {possible} (--folds of a cross-validation), or " * (possible > 1)
        raise DataError.of(
            "TOO-FEW", where="folds",
            found=f"{len(samples)} images in {number} groups, enough for {possible} folds",
            expected=f"enough for {folds}", fix=f"{fewer}add images, or divide them into more "
            "groups (--group-pattern)" if number < len(samples) else f"{fewer}add images",
        )  # fmt: skip
    strata = [";".join(sorted(sample.tags)) for sample in samples]
    groups = [sample.group for sample in samples]
    state = seed % 2**32
    with warnings.catch_warnings():  # a rare combination of tags cannot be in every fold
        warnings.simplefilter("ignore", UserWarning)
        if _all_alone(samples):
            plain = StratifiedKFold(folds, shuffle=True, random_state=state)
            parts = list(plain.split(groups, strata))
        else:
            grouped = StratifiedGroupKFold(folds, shuffle=True, random_state=state)
            parts = list(grouped.split(groups, strata, groups))
    fold_of = np.zeros(len(samples), dtype=int)
    for fold, (_, members) in enumerate(parts):
        if not len(members):
            raise DataError.of(
                "TOO-FEW", where=f"fold {fold}", found="no sample left for it",
                expected="groups that can be spread evenly", fix="ask for fewer folds",
            )  # fmt: skip
        fold_of[members] = fold
    return fold_of.tolist()


def split_for_fold(
    samples: Sequence[Sample],
    fold_of: Sequence[int],
    fold: int,
    *,
    val_fraction: float = 0.1,
    seed: int,
) -> Split:
    """Test on one fold; validate on a stratified, grouped part of the rest; train on what is left.

    Args:
        samples: The samples that ``fold_of`` was cut from.
        fold_of: Fold of each sample, from :func:`cut_folds`.
        fold: The fold to test on.
        val_fraction: Wanted share of the rest, in [0, 0.5]; 0 gives an empty ``val``. The share
            is rounded to what whole groups allow.
        seed: The same seed and samples give the same split.

    Raises:
        UsageError: No such fold, or ``val_fraction`` out of range.
        DataError: The rest is too small to take a validation part from.
    """
    if fold not in fold_of or len(fold_of) != len(samples):
        raise UsageError.of(
            "FOLD", where="fold", found=fold, expected=f"one of {sorted(set(fold_of))}",
            fix="number the folds from 0",
        )  # fmt: skip
    if not 0 <= val_fraction <= 0.5:
        raise UsageError.of(
            "VAL-FRACTION", where="val_fraction", found=val_fraction, expected="0 to 0.5",
            fix="use 0.1",
        )  # fmt: skip
    test = [sample.id for sample, own in zip(samples, fold_of, strict=True) if own == fold]
    rest = [sample for sample, own in zip(samples, fold_of, strict=True) if own != fold]
    in_val = _validation_part(rest, val_fraction, seed)
    return Split(
        train=tuple(sample.id for sample, val in zip(rest, in_val, strict=True) if not val),
        val=tuple(sample.id for sample, val in zip(rest, in_val, strict=True) if val),
        test=tuple(test),
    )


def link_duplicates(samples: Sequence[Sample], digests: Mapping[str, str]) -> tuple[Sample, ...]:
    """Merge the groups of samples with equal pixels, so that copies stay on one side.

    Args:
        samples: Any samples.
        digests: Digest of the decoded pixels by sample id; samples without one stay as they are.

    Returns:
        The samples in the same order; a merged group has the smallest of the joined names.
    """
    joined: dict[str, str] = {}

    def root(group: str) -> str:
        while joined.get(group, group) != group:
            group = joined[group]
        return group

    first_with: dict[str, str] = {}
    for sample in samples:
        digest = digests.get(sample.id)
        if digest is not None:
            kept, merged = sorted((root(first_with.setdefault(digest, sample.group)),
                                   root(sample.group)))  # fmt: skip
            joined[merged] = kept
    return tuple(replace(sample, group=root(sample.group)) for sample in samples)


def link_copies(
    samples: Sequence[Sample], *kinds: Iterable[Sequence[Sample]]
) -> tuple[Sample, ...]:
    """Merge the groups of samples that show one picture, as :func:`link_duplicates`.

    Args:
        samples: Any samples.
        kinds: Lists of copies, such as :func:`fewmask.data.content.find_exact_copies` gives; a
            sample may be in one list of each kind.
    """
    linked = tuple(samples)
    for lists in kinds:
        linked = link_duplicates(linked, {s.id: copies[0].id for copies in lists for s in copies})
    return linked


def descends(parents: Mapping[str, Sequence[str]], item: str) -> set[str]:
    """Everything that ``item`` was made from, at any distance, without ``item`` itself.

    >>> sorted(descends({"c": ["b"], "b": ["a"]}, "c"))
    ['a', 'b']
    """
    ancestors: set[str] = set()
    waiting = list(parents.get(item, ()))
    while waiting:
        ancestor = waiting.pop()
        if ancestor not in ancestors:
            ancestors.add(ancestor)
            waiting.extend(parents.get(ancestor, ()))
    return ancestors


def check_lineage(
    train_ids: Iterable[str], parents: Mapping[str, Sequence[str]], test_ids: Iterable[str]
) -> None:
    """Refuse an evaluation whose test images took part in training.

    Args:
        train_ids: Everything that was trained on, generated images included.
        parents: For each generated image the ids it was made from.
        test_ids: What is to be evaluated.

    Raises:
        LeakError: One ``LEAK`` problem for each pair of training item and test image.
    """
    tested = set(test_ids)
    problems = [
        Problem(
            "LEAK", item,
            "a test image" if item == source else f"a descendant of the test image {source}",
            "training images that owe nothing to the test images",
            "cut the folds first, then generate from the training part only",
        )
        for item in train_ids
        for source in sorted(tested & (descends(parents, item) | {item}))
    ]  # fmt: skip
    if problems:
        raise LeakError(*problems)


def _all_alone(samples: Sequence[Sample]) -> bool:
    return len({sample.group for sample in samples}) == len(samples)


def _most_folds(samples: Sequence[Sample]) -> int:
    """The largest number of folds that the stratified cut can fill."""
    strata = Counter(frozenset(sample.tags) for sample in samples)
    groups = len({sample.group for sample in samples})
    return min(max(strata.values(), default=0), groups)


def _validation_part(rest: Sequence[Sample], fraction: float, seed: int) -> list[bool]:
    """Cut the rest into equal parts and take as many of them as make up ``fraction``."""
    if fraction == 0:
        return [False] * len(rest)
    parts = min(Fraction(fraction).limit_denominator(20).denominator, _most_folds(rest))
    if parts < 2:
        raise DataError.of(
            "TOO-FEW", where="val_fraction", found=f"{len(rest)} samples that share one group",
            expected="two groups or more", fix="set val_fraction to 0, or add images",
        )  # fmt: skip
    taken = max(1, round(fraction * parts))
    return [part < taken for part in cut_folds(rest, folds=parts, seed=seed)]
