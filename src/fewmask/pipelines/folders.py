"""How a pipeline comes to its data; for ``tags`` and ``train``, one folder: check, open, cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fewmask.config import Settings
from fewmask.data.check import TOLERATED, check_folder
from fewmask.data.folder import DataFolder, open_folder, refuse
from fewmask.data.splits import Split
from fewmask.training.progress import watched
from fewmask.training.workspace import cut_parts


class DataSource(NamedTuple):
    """How a pipeline comes to its data.

    Attributes:
        check: Decode everything once and refuse all at once what would fail or mislead later;
            what is left are the samples' groups by id, copies of a picture in one.
        open: The samples, without decoding an image; masks are, where only they name the classes.
        cut: The parts of one fold.
    """

    check: Callable[[Path, Settings], Mapping[str, str]]
    open: Callable[[Path, Settings], DataFolder]
    cut: Callable[[DataFolder, Settings, int], Split]


def check_one_folder(root: Path, config: Settings, *, require_tags: bool) -> Mapping[str, str]:
    """Refuse a folder that :func:`fewmask.data.check.check_folder` finds fault with.

    Returns:
        Its samples' groups by id, copies of a picture in one.

    Raises:
        DataError: with every problem of the folder.
        SecurityError: if one of them is a path that leaves it.
    """
    report = check_folder(
        root,
        watch=partial(watched, title="check", unit="image"),
        class_name=config.class_name,
        class_names=config.class_names,
        group_pattern=config.group_pattern,
        require_tags=require_tags,
    )
    refuse([problem for problem in report.problems if problem.code not in TOLERATED])
    return report.groups


def open_one_folder(root: Path, config: Settings, *, require_tags: bool) -> DataFolder:
    """The data folder as the settings describe it."""
    return open_folder(
        root,
        class_name=config.class_name,
        class_names=config.class_names,
        group_pattern=config.group_pattern,
        require_tags=require_tags,
    )


def cut_one_folder(data: DataFolder, config: Settings, fold: int) -> Split:
    """The parts of one fold, by group and tags or from a file."""
    return cut_parts(data.samples, config, fold)


def one_folder(*, require_tags: bool) -> DataSource:
    """A single folder, with or without tags."""
    return DataSource(
        check=partial(check_one_folder, require_tags=require_tags),
        open=partial(open_one_folder, require_tags=require_tags),
        cut=cut_one_folder,
    )
