"""``fewmask check`` of data in any arrangement, and its repaired copy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fewmask.data.check import CheckReport, check_folder, listed
from fewmask.errors import Problem
from fewmask.layouts.plain_copy import write_plain
from fewmask.layouts.recognise import is_foreign, read_any
from fewmask.layouts.records import ReadingOptions, Source
from fewmask.layouts.survey import Survey, survey
from fewmask.training.progress import watched
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import refuse_inside


@dataclass(frozen=True)
class Mended:
    """A repaired copy.

    Attributes:
        source: What was read, with notes, repairs and what was left out.
        written: Number of images in the copy.
        report: What :func:`fewmask.data.check.check_folder` finds in the copy.
    """

    source: Source
    written: int
    report: CheckReport

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""

        def told(problems: Sequence[Problem]) -> list[dict[str, str]]:
            return [each.as_dict() for each in problems]

        return {
            "layout": self.source.layout,
            "written": self.written,
            "notes": told(self.source.notes),
            "repairs": told(self.source.repairs),
            "left_out": told(self.source.problems),
            "copy": self.report.as_dict(),
        }

    def text(self) -> str:
        """Plain text for a terminal: what was done, then the check of the copy."""
        source = self.source
        lines = [f"layout: {source.layout}", *listed("Notes", source.notes)]
        lines += listed("Repaired", source.repairs, "Done")
        lines += listed("Left out", source.problems)
        return "\n".join([*lines, "", f"The copy, {self.written} images:", self.report.text()])


def survey_foreign(root: Path, options: ReadingOptions) -> Survey | None:
    """What is in a folder as another tool arranges it; None for a plain folder.

    Raises:
        UsageError: options that make no sense.
        ResourceError: a package that the arrangement needs is not installed.
    """
    if not is_foreign(root):
        return None
    with warnings.catch_warnings():  # decoders warn about files that are reported anyway
        warnings.simplefilter("ignore")
        source = read_any(root, options)
        return survey(source, partial(watched, title="check", unit="image"))


def mend(root: Path, out: Path, options: ReadingOptions) -> Mended:
    """Write a repaired, plain copy of a data set in any arrangement, and check it.

    Args:
        root: The data; nothing in it is written.
        out: A new or empty folder outside it.
        options: What the files do not say.

    Raises:
        UsageError: ``out`` holds something, or options make no sense.
        DataError: no such folder, ``out`` is inside it, or there is no image that can be read.
        ResourceError: a package is not installed, or the disk refuses.
    """
    RunFolder.require_free(out)
    refuse_inside(out, root, "--fix")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = read_any(root, options)
        written = write_plain(source, out, partial(watched, title="write", unit="image"))
        report = check_folder(
            out,
            watch=partial(watched, title="check", unit="image"),
            group_pattern=options.group_pattern,
        ).for_any_use()
    return Mended(source, written, report)
