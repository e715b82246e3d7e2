"""Where runs are, and where new output may go: never over something, never into user data."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fewmask.errors import DataError, UsageError
from fewmask.training.run_folder import RunFolder


def run_files(root: Path) -> set[Path]:
    """Each ``run.yaml`` of ``root`` and of two levels below it."""
    return {*root.glob("run.yaml"), *root.glob("*/run.yaml"), *root.glob("*/*/run.yaml")}


def find_runs(root: Path) -> list[RunFolder]:
    """All runs below ``root`` (two levels), newest first; folders that are none are passed over."""
    runs = []
    for path in run_files(root):
        with contextlib.suppress(UsageError):
            runs.append(RunFolder.open(path.parent))
    return sorted(runs, key=lambda run: str(run.record.get("created", "")), reverse=True)


def free_path(path: Path) -> Path:
    """The path itself, or numbered from 2 if something is there."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def refuse_inside(folder: Path, data: Path, what: str = "-o") -> None:
    """Keep user data read-only: an output folder must not lie in a data folder.

    Raises:
        DataError: it does.
    """
    if data.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise DataError.of(
            "DATA-READ-ONLY",
            where=f"{what} {folder}",
            found=f"a place inside the data folder {data}",
            expected="a folder elsewhere: user data is never written to",
            fix=f"{what} runs/NAME",
        )
