"""Look into the files of a scanned folder: decode every image, compare it with its mask and kin."""

from __future__ import annotations

import hashlib
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.copies import find_copies, fingerprint
from fewmask.data.mask_encoding import WORKERS
from fewmask.data.records import DataFolder, Sample
from fewmask.errors import DataError, Problem
from fewmask.io.images import ImageHeader, read_header, read_image


@dataclass
class Inspection:
    """One sample after its files were decoded.

    Attributes:
        sample: The sample.
        image: Header of the image; None if it cannot be read.
        mask: Header of the mask; None if there is none, or it cannot be read.
        digest: SHA-256 of size and pixels; empty if the image cannot be decoded.
        fingerprint: From :func:`fewmask.data.copies.fingerprint`; None as well then.
        peak: Largest value of a pixel after scaling to 0..255; 0 as well then.
        problems: What is wrong with the image, or between the image and its mask.
    """

    sample: Sample
    image: ImageHeader | None = None
    mask: ImageHeader | None = None
    digest: str = ""
    fingerprint: np.ndarray | None = None
    peak: int = 0
    problems: list[Problem] = field(default_factory=list)


Watch = Callable[[Iterable[Inspection], int], Iterable[Inspection]]
"""Is given what is inspected and how many there are, and hands it on: to show progress."""


def unwatched(inspections: Iterable[Inspection], total: int) -> Iterable[Inspection]:  # noqa: ARG001
    """Hand them on, and show nothing."""
    return inspections


def inspect_all(samples: Sequence[Sample], watch: Watch = unwatched) -> list[Inspection]:
    """Decode every image fully, a few at a time; damage is reported, never raised."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(watch(pool.map(_inspect, samples), len(samples)))


def digest_of(image: np.ndarray) -> str:
    """SHA-256 of an image's shape and pixels: equal pixels, equal digest, whatever the file."""
    return hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()


def find_duplicates(inspections: Iterable[Inspection]) -> list[Problem]:
    """Images with exactly equal pixels, a problem for each set of copies."""
    return [_duplicate(samples) for samples in find_exact_copies(inspections)]


def find_exact_copies(inspections: Iterable[Inspection]) -> list[list[Sample]]:
    """Images with exactly equal pixels."""
    copies: dict[str, list[Sample]] = defaultdict(list)
    for inspection in inspections:
        if inspection.digest:
            copies[inspection.digest].append(inspection.sample)
    return [samples for samples in copies.values() if len(samples) > 1]


def find_near_copies(inspections: Iterable[Inspection]) -> list[list[Sample]]:
    """The same picture in other pixels; of exact duplicates, only the first is compared."""
    first_with: dict[str, Inspection] = {}
    for inspection in inspections:
        if inspection.digest:
            first_with.setdefault(inspection.digest, inspection)
    distinct = list(first_with.values())
    prints = [one.fingerprint for one in distinct if one.fingerprint is not None]
    copies: dict[int, list[Sample]] = defaultdict(list)
    for inspection, first in zip(distinct, find_copies(prints), strict=True):
        copies[first].append(inspection.sample)
    return [samples for samples in copies.values() if len(samples) > 1]


def compare_tags_with_masks(
    folder: DataFolder, values_of: Mapping[Path, Mapping[int, int]]
) -> tuple[list[Problem], list[str]]:
    """Compare what the tags claim with what the masks show.

    Args:
        folder: A folder whose mask values are all understood.
        values_of: Pixels per stored value of each mask.

    Returns:
        Problems (a class in the mask that is not among the tags) and the ids of the samples
        that lack a tagged class in their mask.
    """
    problems, without = [], []
    shown_of = {
        sample: _ids_shown(values_of[sample.mask_path], folder)
        for sample in folder.samples
        if sample.mask_path and sample.mask_path in values_of
    }
    several = len(folder.class_names) > 1
    for sample, ids in shown_of.items():
        shown = {folder.class_names[number - 1]: number for number in ids}
        extra = [f"{name} (id {number})" if several else name
                 for name, number in shown.items() if name not in sample.tags]  # fmt: skip
        if extra:
            problems.append(Problem(
                "TAG-MASK", str(sample.mask_path), f"a mask that shows {', '.join(extra)}",
                f"only what is tagged: {', '.join(sample.tags) or 'nothing'}",
                "correct the tags of the image, or its mask"
                + (", or the order of the names with --class-names" if several else ""),
            ))  # fmt: skip
        elif set(sample.tags) - set(shown):
            without.append(sample.id)
    if several and problems and (order := _fitting_order(shown_of, folder.class_names)):
        ids_now = ", ".join(f"{number} {name}" for number, name in enumerate(folder.class_names, 1))
        return [Problem(
            "TAG-MASK", str(folder.root),
            f"{len(problems)} of {len(shown_of)} masks that show what is not tagged, if the ids "
            f"are {ids_now}", "names in the order of the masks' ids",
            f"--class-names {shlex.join(order)} (fits all masks)",
        )], []  # fmt: skip
    return problems, without


def _inspect(sample: Sample) -> Inspection:
    result = Inspection(sample)
    try:
        result.image = read_header(sample.image_path)
        pixels = read_image(sample.image_path)
        result.digest, result.fingerprint = digest_of(pixels), fingerprint(pixels)
        result.peak = int(pixels.max())
    except DataError as error:
        result.problems += error.problems
    try:
        result.mask = read_header(sample.mask_path) if sample.mask_path else None
    except DataError:  # reported when its values were read
        return result
    if result.image and result.mask:
        result.problems += _compare_sizes(sample, result.image, result.mask)
    return result


def _compare_sizes(sample: Sample, image: ImageHeader, mask: ImageHeader) -> list[Problem]:
    size, mask_size = (image.height, image.width), (mask.height, mask.width)
    if size == mask_size:
        return []
    found = f"{mask.height}x{mask.width}"
    expected = f"{image.height}x{image.width} as {sample.image_path.name}"
    turned = image.orientation in (5, 6, 7, 8) or mask.orientation in (5, 6, 7, 8)
    if turned and size == mask_size[::-1]:
        fix = "turn the mask as the image is displayed, or remove the EXIF orientation of both"
        return [Problem("ORIENTATION", str(sample.mask_path), found, f"{expected} (turned)", fix)]
    fix = "export the mask at the size of its image; it is never resized silently"
    return [Problem("MASK-SIZE", str(sample.mask_path), found, expected, fix)]


def _duplicate(samples: Sequence[Sample]) -> Problem:
    ids = ", ".join(sample.id for sample in samples)
    if len({frozenset(sample.tags) for sample in samples}) > 1:
        return Problem(
            "DUPLICATE-CONFLICT", samples[0].id, f"equal pixels under different tags: {ids}",
            "one answer per image", "keep the copy with the right tags",
        )  # fmt: skip
    return Problem(
        "DUPLICATE", samples[0].id, f"equal pixels: {ids}", "each image once",
        "keep one of the copies; otherwise one may be trained on and the other tested on",
    )  # fmt: skip


def near_copies(samples: Sequence[Sample]) -> Problem:
    """The note about one group from :func:`find_near_copies`."""
    ids = ", ".join(sample.id for sample in samples)
    kinds = len({frozenset(sample.tags) for sample in samples})
    return Problem(
        "DUPLICATE-NEAR", samples[0].id,
        "the same picture again, mirrored, turned, resized or compressed anew"
        + (f", under different tags: {ids}" if kinds > 1 else f": {ids}"),
        "each picture once", "see which to keep; they are kept on one side of every split",
    )  # fmt: skip


def _ids_shown(values: Mapping[int, int], folder: DataFolder) -> list[int]:
    if folder.mask_encoding == "binary255":
        return [1] if 255 in values else []
    return [value for value in values if value not in (0, IGNORE_INDEX)]


def _fitting_order(
    ids_of: Mapping[Sample, Sequence[int]], names: Sequence[str]
) -> tuple[str, ...] | None:
    """The order of the names in which no mask shows what is not tagged; None if there is none.

    Of several, the one in which the fewest tags are missing from the masks.
    """
    shown = np.array([[k in ids for k in range(1, len(names) + 1)] for ids in ids_of.values()])
    tagged = np.array([[name in sample.tags for name in names] for sample in ids_of])
    denied = shown.T.astype(int) @ ~tagged  # (id, name): masks with the id, without the tag
    missing = (~shown).T.astype(int) @ tagged
    ids, order = linear_sum_assignment(denied * (shown.size + 1) + missing)
    return None if denied[ids, order].any() else tuple(names[column] for column in order)
