"""``fewmask check``: everything that is wrong with a data folder, found before any training.

Every image and mask is decoded to its last row. Nothing is written, repaired or skipped: what is
wrong is reported with a stable code, the file, what was found and how to mend it. The codes are
listed in ``docs/data.md``.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewmask.config import Settings
from fewmask.data.content import (
    Inspection,
    Watch,
    compare_tags_with_masks,
    find_duplicates,
    find_exact_copies,
    find_near_copies,
    inspect_all,
    near_copies,
    unwatched,
)
from fewmask.data.records import DataFolder, Sample
from fewmask.data.scan import Scan, scan_folder
from fewmask.errors import DataError, Problem

FEWEST_PER_CLASS = 5
TOLERATED = {"DUPLICATE", "DUPLICATE-CONFLICT", "TOO-FEW"}
"""Problems that are told but do not stop a run: copies are kept on one side of every split."""
_SHOWN_PER_CODE = 10


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check_folder` found.

    Attributes:
        counts: Numbers of ``images``, ``masks``, ``without_tag`` and ``groups``, and numbers by
            name in ``tags``, ``sizes`` (height x width), ``formats``, ``modes``, ``mask_modes``.
            With several classes, ``ids``: their names by mask id.
        notes: Worth knowing; nothing has to be done.
        problems: Have to be mended before the data can be used.
        digests: SHA-256 of the decoded pixels by sample id.
        groups: By sample id, the group that it is cut with; copies of a picture have one.
        can_be_cut: Whether there is enough to cut a test part as a run does by default.
    """

    counts: dict[str, Any]
    notes: tuple[Problem, ...]
    problems: tuple[Problem, ...]
    digests: dict[str, str]
    groups: dict[str, str]
    can_be_cut: bool = True

    @property
    def uses(self) -> tuple[str, ...]:
        """Commands that can work with the folder as it is, of ``tags``, ``train``, ``predict``."""
        stopping = {problem.code for problem in self.problems} - TOLERATED
        lacking = {one.code for one in (*self.problems, *self.notes)} & {
            "TAGS-MISSING", "TAGS-ONE-KIND", "NO-NEGATIVES",
        }  # fmt: skip
        can = {
            "tags": self.can_be_cut and not lacking,
            "train": self.can_be_cut and self.counts["masks"] > 0,
            "predict": True,
        }
        return () if stopping - lacking else tuple(name for name, can_it in can.items() if can_it)

    def for_any_use(self) -> CheckReport:
        """The same report where nobody has said yet what the data are for.

        Images without any tag are then no problem but a note: `fewmask train` and `fewmask predict`
        need none. Class folders of one kind stay a problem: somebody meant to tag.
        """
        untagged = tuple(one for one in self.problems if one.code == "TAGS-MISSING")
        rest = tuple(one for one in self.problems if one not in untagged)
        return replace(self, problems=rest, notes=(*self.notes, *untagged))

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "uses": self.uses,
            "counts": self.counts,
            "notes": [note.as_dict() for note in self.notes],
            "problems": [problem.as_dict() for problem in self.problems],
            "digests": self.digests,
        }

    def text(self) -> str:
        """Plain text for a terminal; of many problems of one code, the first ten."""
        lines = (
            counted(self.counts) + listed("Notes", self.notes) + listed("Problems", self.problems)
        )
        if not self.problems:
            lines.append("No problems found.")
        usable = ", ".join(f"fewmask {name}" for name in self.uses) or "nothing until mended"
        lines.append(f"The folder can be used for: {usable}.")
        return "\n".join(lines)


def check_folder(
    root: Path | str,
    *,
    watch: Watch = unwatched,
    **open_kwargs: Any,
) -> CheckReport:
    """Check a data folder to the last pixel.

    Args:
        root: The data folder; nothing in it is written.
        watch: Shows how far it is; see :data:`fewmask.data.content.Watch`.
        **open_kwargs: As :func:`fewmask.data.folder.open_folder`.

    Returns:
        The report; bad data is in its ``problems``, never raised.

    Raises:
        UsageError: An argument makes no sense.
    """
    from fewmask.data.splits import link_copies

    with warnings.catch_warnings():  # decoders warn about files that are reported below anyway
        warnings.simplefilter("ignore")
        scan = scan_folder(root, **open_kwargs)
        inspections = inspect_all(scan.folder.samples, watch)
    problems = list(scan.problems)
    for inspection in inspections:
        problems += inspection.problems
    problems += find_duplicates(inspections)
    digests = {one.sample.id: one.digest for one in inspections if one.digest}
    near = find_near_copies(inspections)
    linked = link_copies(scan.folder.samples, find_exact_copies(inspections), near)
    dark = _dark(inspections)
    problems += dark
    notes = scan.notes + [near_copies(samples) for samples in near]
    notes += _notes(inspections, dark=bool(dark))
    cut: list[Problem] = []
    if not scan.unclear:
        cut = _too_few_to_cut(scan.folder, linked)
        for_tags = scan.folder.has_tags
        problems += _too_few(scan.folder) + (cut if for_tags else [])
        notes += _no_negatives(scan.folder) + ([] if for_tags else cut)
    if scan.folder.has_tags and not _values_unclear(scan):
        conflicts, without = compare_tags_with_masks(scan.folder, scan.mask_values)
        problems += conflicts
        notes += _note("MASK-EMPTY", without, "a mask that lacks a tagged class",
                       "a mask of all that is tagged", "see if it was forgotten")  # fmt: skip
    counts = _count(scan.folder, inspections)
    groups = {sample.id: sample.group for sample in linked}
    return CheckReport(counts, tuple(notes), tuple(problems), digests, groups, can_be_cut=not cut)


def _values_unclear(scan: Scan) -> bool:
    unclear = {"MASK-VALUES", "MASK-AMBIGUOUS", "MASK-MIXED"}
    return scan.unclear or any(problem.code in unclear for problem in scan.problems)


def _too_few(folder: DataFolder) -> list[Problem]:
    """Kinds of images (each tag, and no tag) with too few images to cut folds from."""
    if not folder.has_tags:
        return []
    kinds = Counter(name for sample in folder.samples for name in sample.tags or ("without tag",))
    kinds.update(dict.fromkeys(folder.class_names, 0))
    return [
        Problem(
            "TOO-FEW", kind, f"{number} images", f"at least {FEWEST_PER_CLASS}",
            "add images of this kind, or drop the class",
        )
        for kind, number in sorted(kinds.items())
        if number < FEWEST_PER_CLASS
    ]  # fmt: skip


def _too_few_to_cut(folder: DataFolder, samples: Sequence[Sample]) -> list[Problem]:
    """Why a run with the default settings could not cut its parts of samples linked with copies."""
    from fewmask.data.splits import cut_folds, split_for_fold

    masks = any(sample.mask_path for sample in folder.samples)
    if not folder.samples or (not folder.has_tags and not masks):
        return []
    config = Settings.model_validate({})
    try:
        fold_of = cut_folds(samples, folds=config.test_folds, seed=config.split_seed)
        split_for_fold(
            samples, fold_of, 0, val_fraction=config.val_fraction, seed=config.split_seed
        )
    except DataError as error:
        return list(error.problems)
    return []


def _no_negatives(folder: DataFolder) -> list[Problem]:
    """A note if each image has a tag, which `fewmask tags` translates nothing to."""
    kinds = {frozenset(sample.tags) for sample in folder.samples}
    if len(kinds) < 2 or frozenset() in kinds:
        return []
    rename = "rename the folder of images without the object to `negative`"
    if folder.layout == "tags.csv":
        rename = "add images on which nothing is tagged"
    return [
        Problem("NO-NEGATIVES", str(folder.root),
                f"no image without a tag, of {', '.join(folder.class_names)}",
                "images that show none of the classes, for `fewmask tags`",
                f"{rename}, or --stages classify evidence pseudo_masks segment controls")
    ]  # fmt: skip


def _dark(inspections: Sequence[Inspection]) -> list[Problem]:
    """16-bit images that use less than a quarter of the range, such as 12-bit sensors give."""
    deep = [one for one in inspections if one.digest and one.image and one.image.bits == 16]
    peak = max((one.peak for one in deep), default=255)
    if peak >= 64:
        return []
    highest = peak * 257 + 128  # what is rounded to the peak
    full = 2 ** highest.bit_length() - 1
    return _note(
        "IMAGE-DARK", [one.sample.id for one in deep],
        f"16-bit samples with a largest value of about {peak * 257:,}",
        "values up to 65,535, which become 255: these images would be almost black",
        "scale all images to 8 bits with one fixed range "
        f"(gdal_translate -ot Byte -scale 0 {full} 0 255 old.tif new.tif)",
    )  # fmt: skip


def _notes(inspections: Sequence[Inspection], *, dark: bool) -> list[Problem]:
    """What is unusual about readable files, one note per kind."""
    images = [(one.sample.id, one.image) for one in inspections if one.image]
    masks = [(one.sample.id, one.mask) for one in inspections if one.mask]
    sizes = Counter(f"{image.height}x{image.width}" for _, image in images)
    notes = _note(
        "EXIF-ORIENTATION", [name for name, image in images if image.orientation != 1],
        "an EXIF orientation", "pixels stored upright",
        "nothing to do if masks were drawn on the image as displayed",
    )  # fmt: skip
    notes += _note(
        "SIXTEEN-BIT", [name for name, image in images if image.bits == 16 and not dark],
        "16-bit samples", "8-bit samples", "nothing to do: 0..65535 is scaled to 0..255",
    )  # fmt: skip
    notes += _note(
        "ALPHA-OPAQUE",
        [one.sample.id for one in inspections
         if one.digest and one.image and one.image.mode in ("RGBA", "LA", "PA")],
        "an alpha channel without transparency", "RGB", "nothing to do: it is dropped",
    )  # fmt: skip
    notes += _note(
        "MASK-PALETTE", [name for name, mask in masks if mask.mode == "P"],
        "a palette mask", "class ids", "nothing to do: its indices are the ids",
    )  # fmt: skip
    if len(sizes) > 1:
        common = ", ".join(f"{number} of {size}" for size, number in sizes.most_common(3))
        notes.append(
            Problem("MIXED-SIZES", "images", f"{len(sizes)} sizes: {common}", "one size",
                    "nothing to do: images are resized for training")
        )  # fmt: skip
    return notes


def _note(code: str, ids: Sequence[str], found: str, expected: str, fix: str) -> list[Problem]:
    """One entry about all samples that share a peculiarity; none without such samples."""
    if not ids:
        return []
    where = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    return [Problem(code, where, found, expected, fix)]


def _count(folder: DataFolder, inspections: Sequence[Inspection]) -> dict[str, Any]:
    images = [one.image for one in inspections if one.image]
    masks = [one.mask for one in inspections if one.mask]
    samples = folder.samples
    ids = {str(number): name for number, name in enumerate(folder.class_names, 1)}
    return {
        "images": len(samples),
        "masks": sum(sample.mask_path is not None for sample in samples),
        "tags": {
            name: sum(name in sample.tags for sample in samples) for name in folder.class_names
        },
        **({"ids": ids} if len(ids) > 1 else {}),
        "without_tag": sum(not sample.tags for sample in samples),
        "groups": len({sample.group for sample in samples}),
        "sizes": _tally(f"{image.height}x{image.width}" for image in images),
        "formats": _tally(image.format for image in images),
        "modes": _tally(image.mode for image in images),
        "mask_modes": _tally(mask.mode for mask in masks),
    }


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def counted(counts: Mapping[str, object]) -> list[str]:
    """Lines of text about counts, plain or by name."""
    return [f"{name}: {_numbers(number)}" for name, number in counts.items()]


def _numbers(number: object) -> str:
    if not isinstance(number, dict):
        return str(number)
    shown = [f"{name} {count}" for name, count in list(number.items())[:8]]
    return ", ".join(shown + ["..."] * (len(number) > 8)) or "none"


def listed(title: str, problems: Sequence[Problem], remedy: str = "Fix") -> list[str]:
    """Lines of text about problems, of many with one code the first ten; none without any.

    Args:
        title: What they are.
        problems: They themselves.
        remedy: What their ``fix`` is called: something to do, or something done.
    """
    if not problems:
        return []
    lines, seen = ["", f"{title} ({len(problems)}):"], Counter[str]()
    for problem in problems:
        seen[problem.code] += 1
        if seen[problem.code] <= _SHOWN_PER_CODE:
            lines.append(f"  {problem}".replace(". Fix: ", f". {remedy}: "))
    for code, number in seen.items():
        if number > _SHOWN_PER_CODE:
            lines.append(f"  ... and {number - _SHOWN_PER_CODE} more {code}")
    return lines
