"""``fewmask check``: what is in a data folder, and what it is good for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewmask.errors import shell_command


def check(
    data: Path,
    /,
    *,
    fix: Path | None = None,
    class_name: str | None = None,
    class_names: tuple[str, ...] | None = None,
    group_pattern: str | None = None,
    bands: tuple[int, ...] = (),
    window: tuple[float, float] | None = None,
    json: bool = False,
) -> None:
    """What is in a data folder and every problem at once; changes nothing. Exit 10 if problems.

    Also what each pipeline could make of it, from which labels, and about how long preset `fast`
    takes on this machine. With --fix, exit 10 also if anything could not be read and was left out
    of the copy.

    Args:
        data: The folder, as fewmask reads it (docs/data.md) or as COCO, Pascal VOC, CVAT, Label
            Studio, Cityscapes, CamVid, nnU-Net, NIfTI or DICOM have it.
        fix: Write a repaired copy there, that every command reads. The data stay as they are.
        class_name: Name of the one class.
        class_names: The classes in the order of their mask ids.
        group_pattern: Regular expression for groups, as in `fewmask tags`.
        bands: With --fix: bands that are red, green and blue, or a grey one, counted from 1.
        window: With --fix: values that become black and white, where pixels have no fixed range.
        json: One JSON object on the standard output.
    """
    from fewmask.checking import check as check_data
    from fewmask.checking import mend
    from fewmask.cli import print_json

    options: dict[str, Any] = {
        "class_name": class_name, "class_names": class_names or (),
        "group_pattern": group_pattern, "bands": bands, "window": window,
    }  # fmt: skip
    if fix is not None:
        mended = mend(data, fix, **options)
        if json:
            print_json(mended.as_dict() | {"plans": _plans(mended.report)})
        else:
            print(mended.text())
            _tell_plans(mended.report)
        if not mended.report.problems and not json:
            _tell_use(fix, mended.report.uses[0], None, None, None)  # names stand in the copy
        raise SystemExit(10 if mended.report.problems or mended.source.problems else 0)
    report = check_data(data, **options)
    if json:
        print_json(report.as_dict() | {"plans": _plans(report)})
    else:
        print(report.text())
        _tell_plans(report)
        _tell_what_follows(data, report, class_name, class_names, group_pattern, bands, window)
    raise SystemExit(10 if report.problems else 0)


def _plans(report: Any) -> list[dict[str, Any]]:
    from fewmask.planning import plans_of

    return [plan._asdict() for plan in plans_of(report)]


def _tell_plans(report: Any) -> None:
    from fewmask.planning import PRESET, plans_of

    plans = plans_of(report)
    if plans:
        print(f"\nWhat could be made of it; times of preset {PRESET} here, to a factor of two:")
        print(*(f"  {plan}" for plan in plans), sep="\n")


def _tell_what_follows(
    data: Path, report: Any, class_name: str | None, class_names: tuple[str, ...] | None,
    group_pattern: str | None, bands: tuple[int, ...], window: tuple[float, float] | None,
) -> None:  # fmt: skip
    """The command that a folder is good for, or the one that mends it."""
    from fewmask.cli import tell_next
    from fewmask.data.check import CheckReport
    from fewmask.training.run_places import free_path

    if isinstance(report, CheckReport) and not report.problems:
        _tell_use(data, report.uses[0], class_name, class_names, group_pattern)
    elif report.counts["images"]:
        place = free_path(Path("fixed"))
        if data.resolve() in (place.resolve(), *place.resolve().parents):
            place = free_path(data.resolve().parent / f"{data.resolve().name}-fixed")
        flags: list[object] = ["--class-name", class_name] if class_name else []
        flags += ["--class-names", *class_names] if class_names else []
        flags += [f"--group-pattern={group_pattern}"] if group_pattern else []
        flags += ["--bands", *bands] if bands else []
        flags += ["--window", *window] if window else []
        tell_next(shell_command("check", data, "--fix", place, *flags))


def _tell_use(
    data: Path, verb: str, class_name: str | None, class_names: tuple[str, ...] | None,
    group_pattern: str | None,
) -> None:  # fmt: skip
    """The command that a checked folder is good for."""
    from fewmask.cli import NEW_MASKS, tell_next
    from fewmask.training.run_places import find_runs, free_path

    if verb == "predict":
        finished = [run.path for run in find_runs(Path("runs")) if run.is_finished()]
        words = (verb, finished[0] if finished else "RUN", data, "-o", free_path(NEW_MASKS))
        tell_next(shell_command(*words), own="" if finished else "RUN")
        return
    flags: list[object] = ["-o", free_path(Path("runs/first"))]
    flags += ["--class-name", class_name] if class_name else []
    flags += ["--class-names", *class_names] if class_names else []
    flags += [f"--group-pattern={group_pattern}"] if group_pattern else []
    flags += [f"--split-file={data / 'split.csv'}"] if (data / "split.csv").is_file() else []
    tell_next(shell_command(verb, data, *flags))
