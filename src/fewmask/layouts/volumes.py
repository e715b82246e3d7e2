"""What arrangements of volumes share: finding the files, grey levels, values of label volumes.

==========================================  ================================================
values                                      black to white
==========================================  ================================================
any, with ``--window LOW HIGH``             LOW to HIGH
CT (Hounsfield units)                       -1024 to 1023
others (MR, ultrasound, X-ray)              the 0.5 and the 99.5 percentile of the volume
==========================================  ================================================
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.files import is_utf8, list_images, misnamed
from fewmask.data.mask_encoding import count_values
from fewmask.data.roles import Part
from fewmask.errors import DataError
from fewmask.io.nifti import Volume
from fewmask.layouts.records import MOST_CLASSES, Class, Entry, Source, stretched

CT_WINDOW = (-1024.0, 1023.0)
"""The 11 bits around water that show bone, soft tissue and air at once; one for all volumes."""
PERCENTILES = (0.5, 99.5)
_HOUNSFIELD = -200
_LOOKED_AT = 2_000
_KEPT = 2
_SAME_AFFINE = 1e-3


def some_files(root: Path, most: int = _LOOKED_AT) -> Iterator[Path]:
    """The first files below a folder, by name; nothing where it cannot be listed."""

    def all_files() -> Iterator[Path]:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if name[0] != ".")

    yield from islice(all_files(), most)


def other_files(root: Path, source: Source) -> list[Path]:
    """Files below the root that are neither PNG, JPEG nor TIFF, sorted; bad links are problems."""
    listing = list_images(root)
    source.problems += [
        problem for problem in listing.problems if not problem.code.startswith("STEM")
    ]
    files = [path for path in listing.skipped if path.is_file()]
    source.problems += [misnamed(path) for path in files if not is_utf8(path.name)]
    return [path for path in files if is_utf8(path.name)]


def note_window(source: Source) -> None:
    """Say how values become grey levels where the user has not."""
    source.note(
        "WINDOW", source.root, "values without a fixed range", "black and white for all images",
        f"CT is shown from {CT_WINDOW[0]:g} to {CT_WINDOW[1]:g} Hounsfield units, everything else "
        f"from the {PERCENTILES[0]} to the {PERCENTILES[1]} percentile of its volume; "
        "--window LOW HIGH sets one range for all, for example --window -160 240",
    )  # fmt: skip


def percentile_window(values: np.ndarray) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles; a range above them where they are equal.

    >>> percentile_window(np.arange(1001.0))
    (5.0, 995.0)
    """
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(n) for n in np.percentile(values, PERCENTILES))
    return low, high if high > low else low + 1.0


@dataclass(frozen=True)
class Case:
    """A volume, and its labels if anybody has drawn them.

    Attributes:
        name: Its id; that of a slice is ``name/slice_012``, counted from 1 from the feet.
        image: The volume.
        label: As large as the image; None: nobody has labelled it.
        group: What must not be cut apart.
        part: Of an official split.
    """

    name: str
    image: Volume
    label: Volume | None
    group: str
    part: Part | None


class Shelf:
    """The volumes that were read last, so that slice after slice decodes no file anew."""

    def __init__(self) -> None:
        self.volume = lru_cache(maxsize=_KEPT)(Volume)
        self._windows: dict[Path, tuple[float, float]] = {}

    def grey(self, path: Path, i: int, window: tuple[float, float] | None) -> np.ndarray:
        """The i-th slice of a volume: (rows, columns) uint16.

        Raises:
            DataError: the file is damaged.
        """
        volume = self.volume(path)
        if window is None and path not in self._windows:
            values = volume.sample()
            ct = values.size > 0 and values.min() < _HOUNSFIELD
            self._windows[path] = CT_WINDOW if ct else percentile_window(values)
        return stretched(volume.slice(i), *(window or self._windows[path]))

    def ids(self, path: Path, i: int, id_of: Mapping[int, int]) -> np.ndarray:
        """The i-th slice of a label volume: (rows, columns) uint8 ids.

        Raises:
            DataError: the file is damaged, or has values that ``id_of`` lacks.
        """
        return as_ids(path, whole_numbers(path, self.volume(path).slice(i)), id_of)


def whole_numbers(path: Path, values: np.ndarray) -> np.ndarray:
    """Label values as int64.

    Raises:
        DataError: ``MASK-DTYPE``, fractions, such as of a mask that was interpolated.
    """
    with np.errstate(invalid="ignore"):
        whole = np.rint(values)
    odd = values[~(np.isfinite(values) & (np.abs(values - whole) < 1e-3))]
    if odd.size:
        raise DataError.of(
            "MASK-DTYPE", where=path, found=f"{odd.size} voxels such as {odd.flat[0]:g}",
            expected="whole class ids",
            fix="resample label volumes with nearest neighbour only",
        )  # fmt: skip
    return whole.astype(np.int64)


def as_ids(path: Path, values: np.ndarray, id_of: Mapping[int, int]) -> np.ndarray:
    """Stored values to class ids, uint8.

    Raises:
        DataError: ``MASK-VALUES``.
    """
    found = count_values(values)
    if strange := {value: n for value, n in found.items() if value not in id_of}:
        raise unknown_values(path, strange, id_of)
    ids = np.zeros(values.shape, np.uint8)
    for value in found:
        if id_of[value]:
            ids[values == value] = id_of[value]
    return ids


def unknown_values(path: Path, strange: Mapping[int, int], known: Mapping[int, int]) -> DataError:
    """The error of a label file with values that nobody has given a meaning."""
    listed = ", ".join(f"{value} ({n} voxels)" for value, n in sorted(strange.items())[:8])
    return DataError.of(
        "MASK-VALUES", where=path, found=f"values {listed}",
        expected=", ".join(map(str, sorted(known)[:12])),
        fix="name them (dataset.json, --class-names), or correct the file",
    )  # fmt: skip


def count_labels(volume: Volume) -> dict[int, int]:
    """Voxels per value of a label volume.

    Raises:
        DataError: the file is damaged, or holds no whole numbers.
    """
    total: Counter[int] = Counter()
    for i in range(volume.shape[0]):
        total.update(count_values(whole_numbers(volume.path, volume.slice(i))))
        if len(total) > 2**16:
            raise DataError.of(
                "MASK-VALUES", where=volume.path, found=f"more than {2**16:,} values",
                expected="class ids", fix="give the label volume in place of this one",
            )  # fmt: skip
    return dict(total)


def settle_labels(
    counts: Mapping[Path, Mapping[int, int]], names: Sequence[str], source: Source
) -> dict[int, int]:
    """Classes of label volumes that come without a list, and the id of each stored value.

    With names, the values are the ids of these. Without, the values that occur are numbered from 1;
    255 is ignored, unless it is the only value beside 0. Sets the classes of the source.

    Returns:
        Id by stored value.
    """
    values = sorted({value for found in counts.values() for value in found} - {0})
    kept = {0: 0, IGNORE_INDEX: IGNORE_INDEX}
    if names and (values != [IGNORE_INDEX] or len(names) > 1):
        source.classes = tuple(map(Class, names))
        return {**kept, **{number: number for number in range(1, len(names) + 1)}}
    stored = [value for value in values if value != IGNORE_INDEX] or values
    usable = [value for value in stored if value > 0]
    if len(usable) > MOST_CLASSES:
        source.report(
            "CLASSES-MANY", source.root, f"{len(usable)} values in the label volumes",
            f"at most {MOST_CLASSES}", "merge or remove labels; or these are no label volumes",
        )  # fmt: skip
        usable = []
    new = {value: number for number, value in enumerate(usable, 1)}
    if any(value != number for value, number in new.items()):
        listed = ", ".join(f"{value} is {number}" for value, number in list(new.items())[:12])
        source.repaired(
            "MASK-VALUES", source.root, f"label values {', '.join(map(str, usable[:12]))}",
            "1, 2, 3, ...", f"numbered anew: {listed}",
        )  # fmt: skip
    called = names or (["foreground"] if len(new) == 1 else [f"class_{value}" for value in new])
    source.classes = tuple(map(Class, called))
    return kept | new


def open_volume(path: Path, source: Source) -> Volume | None:
    """A volume by its header; None, and a problem, where it cannot be used."""
    try:
        return Volume(path)
    except DataError as error:
        source.problems += error.problems
        return None


def on_one_grid(image: Volume, label: Volume, source: Source) -> bool:
    """Whether a label volume lies on its image voxel by voxel; else a problem."""
    same_shape = image.shape == label.shape
    if same_shape and np.allclose(image.affine, label.affine, rtol=0, atol=_SAME_AFFINE):
        return True
    by = "x".join
    source.report(
        "NIFTI-GRID", label.path,
        f"{by(map(str, label.shape))} voxels" if not same_shape else "another affine "
        f"(up to {np.abs(image.affine - label.affine).max():.3g} apart)",
        f"{by(map(str, image.shape))} voxels and the affine of {image.path.name}",
        "resample the labels onto the image with nearest neighbour",
    )  # fmt: skip
    return False


def usable_counts(
    cases: Sequence[Case], source: Source
) -> tuple[list[Case], dict[Path, dict[int, int]]]:
    """Cases whose labels can be decoded, and the values of these; the others become problems."""
    kept, counts = [], {}
    for case in cases:
        if case.label is not None:
            try:
                counts[case.label.path] = count_labels(Volume(case.label.path))
            except DataError as error:
                source.problems += error.problems
                continue
        kept.append(case)
    return kept, counts


def add_slices(
    cases: Sequence[Case], counts: Mapping[Path, Mapping[int, int]], id_of: Mapping[int, int],
    window: tuple[float, float] | None, source: Source,
) -> None:  # fmt: skip
    """Entries for all slices; a case whose labels hold unknown values becomes a problem.

    Args:
        cases: In order.
        counts: Voxels per value of each label volume.
        id_of: Id by stored value.
        window: See :class:`~fewmask.layouts.records.ReadingOptions`.
        source: Receives entries, problems and the note on grey values.
    """
    shelf, names = Shelf(), set()
    for case in cases:
        if case.name.casefold() in names:
            source.report("STEM-TWICE", case.image.path, f"the name {case.name}, which another "
                          "volume has", "one volume per name", "rename one of them")  # fmt: skip
            continue
        label = case.label
        if label is not None:
            strange = {v: n for v, n in counts[label.path].items() if v not in id_of}
            if strange:
                source.problems += unknown_values(label.path, strange, id_of).problems
                continue
        names.add(case.name.casefold())
        digits = max(3, len(str(case.image.shape[0])))
        source.entries += [
            Entry(
                id=f"{case.name}/slice_{i + 1:0{digits}d}",
                image=partial(shelf.grey, case.image.path, i, window),
                mask=None if label is None else partial(shelf.ids, label.path, i, id_of),
                group=case.group,
                part=case.part,
            )
            for i in range(case.image.shape[0])
        ]
    if source.entries and window is None:
        note_window(source)
