"""``fewmask check`` of data in any arrangement, and its repaired copy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fewmask.data.check import CheckReport, check_folder, listed
from fewmask.errors import Problem, UsageError
from fewmask.layouts.plain_copy import write_plain
from fewmask.layouts.recognise import is_foreign, read_any
from fewmask.layouts.records import ReadingOptions, Source
from fewmask.layouts.survey import Survey, survey
from fewmask.training.progress import watched
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


def check(
    data: str | Path,
    *,
    class_name: str | None = None,
    class_names: Sequence[str] = (),
    group_pattern: str | None = None,
    bands: Sequence[int] = (),
    window: tuple[float, float] | None = None,
) -> CheckReport | Survey:
    """What is in a data folder and everything that is wrong with it; nothing is written.

    Args:
        data: The folder.
        class_name: Name of the one class.
        class_names: The classes in the order of their mask ids.
        group_pattern: Regular expression searched in a file's stem; its first group is the group.
        bands: Numbers, from 1, of bands that are red, green and blue, or a grey one.
        window: Values that become black and white, where pixels have no fixed range.

    Returns:
        Of a plain folder its :class:`~fewmask.data.check.CheckReport`; of one that another tool
        has arranged, a :class:`~fewmask.layouts.survey.Survey` of what :func:`mend` would write.
        Both have ``text()`` and ``as_dict()``.

    Raises:
        UsageError: options that make no sense.
        ResourceError: a package that the arrangement needs is not installed.
    """
    root = Path(data)
    options = ReadingOptions(tuple(class_names), tuple(bands), window, group_pattern, class_name)
    if is_foreign(root):
        with _quiet_decoders():
            return survey(read_any(root, options), partial(watched, title="check", unit="image"))
    return check_folder(
        root,
        watch=partial(watched, title="check", unit="image"),
        class_name=class_name,
        class_names=tuple(class_names) or None,
        group_pattern=group_pattern,
    ).for_any_use()


def mend(
    data: str | Path,
    out: str | Path,
    *,
    class_name: str | None = None,
    class_names: Sequence[str] = (),
    group_pattern: str | None = None,
    bands: Sequence[int] = (),
    window: tuple[float, float] | None = None,
) -> Mended:
    """Write a repaired, plain copy of a data set in any arrangement, and check it.

    Args:
        data: The folder; nothing in it is written.
        out: A new or empty folder outside it.
        class_name: As for :func:`check`, like all that follows.
        class_names: The same.
        group_pattern: The same.
        bands: The same.
        window: The same.

    Raises:
        UsageError: ``out`` holds something, or options make no sense.
        DataError: no such folder, or ``out`` is inside it.
        ResourceError: a package is not installed, or the disk refuses.
    """
    root, target = Path(data), Path(out)
    options = ReadingOptions(tuple(class_names), tuple(bands), window, group_pattern, class_name)
    refuse_inside(target, root, "--fix")
    _require_new(target)
    with _quiet_decoders():
        source = read_any(root, options)
        written = write_plain(source, target, partial(watched, title="write", unit="image"))
        report = check_folder(
            target,
            watch=partial(watched, title="check", unit="image"),
            group_pattern=group_pattern,
        ).for_any_use()
    return Mended(source, written, report)


def _require_new(out: Path) -> None:
    """Refuse a place that holds anything, also what is hidden."""
    empty = out.is_dir() and not any(out.iterdir()) and out.resolve() != Path.cwd()
    if out.is_symlink() or (out.exists() and not empty):
        raise UsageError.of(
            "FIX-EXISTS", where=f"--fix {out}", found="something that is there already",
            expected="a new folder", fix="choose another name",
        )  # fmt: skip


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Decoders warn about files that are reported anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
