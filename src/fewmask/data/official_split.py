"""An official split, read from a file instead of cut."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fewmask.data.folder import Sample
from fewmask.data.splits import Split
from fewmask.errors import DataError, LeakError, Problem

PARTS = ("train", "val", "test")


def read_split(path: Path, samples: Sequence[Sample]) -> Split:
    """Read columns ``id`` and ``part`` (train, val or test) of a CSV file.

    Args:
        path: The file; it names every sample once.
        samples: With groups, after duplicates were linked.

    Raises:
        DataError: the file cannot be read, lacks a sample or names one twice, names one that is
            not there, or leaves the training or the test part empty.
        LeakError: a group stands on both sides.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [(str(row["id"]), str(row["part"])) for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError.of(
            "SPLIT-FILE",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="a CSV file with columns id and part",
            fix="correct split_file",
        ) from None
    part_of, named = dict(rows), Counter(name for name, _ in rows)
    known = {sample.id for sample in samples}
    problems = [
        Problem("SPLIT-FILE", str(path), f"{sample_id}: {found}", expected, "correct the file")
        for wrong, found, expected in (
            (sorted(known - set(part_of)), "not named", "every sample of the data"),
            (sorted(set(part_of) - known), "no such sample", "samples of the data only"),
            (sorted(i for i, n in named.items() if n > 1), "named again", "one row per sample"),
            (sorted(i for i, p in part_of.items() if p not in PARTS), "unknown part", str(PARTS)),
        )
        for sample_id in wrong
    ]
    problems += [
        Problem("SPLIT-FILE", str(path), f"no sample in {part}",
                "samples to learn from (train) and to measure on (test)",
                f"give some samples the part {part}")
        for part in ("train", "test")
        if part not in part_of.values()
    ]  # fmt: skip
    if problems:
        raise DataError(*problems)
    sides: dict[str, dict[str, str]] = {}
    for sample in samples:
        sides.setdefault(sample.group, {}).setdefault(part_of[sample.id], sample.id)
    torn = [group for group, parts in sides.items() if len(parts) > 1]
    if torn:
        raise LeakError(
            *(
                Problem(
                    "LEAK",
                    f"{path}: group {group}",
                    " and ".join(f"{name} in {part}" for part, name in sides[group].items()),
                    "each group (or set of copies, also mirrored, turned or resized) in one part",
                    "move its images to one part",
                )
                for group in torn
            )
        )
    ids = {part: tuple(s.id for s in samples if part_of[s.id] == part) for part in PARTS}
    return Split(**ids)
