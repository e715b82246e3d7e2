"""DICOM files put into patients, series and the order in which the slices lie in the body."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from fewmask.io.dicom import Frame, Header

_SAME_MM = 1e-3
_GAP = 1.5


@dataclass(frozen=True)
class Plane:
    """One frame of a file.

    Attributes:
        header: Of the file.
        frame: Counted from 0.
        place: mm along the normal of the slices; None: not said.
    """

    header: Header
    frame: int
    place: float | None

    @property
    def at(self) -> Frame:
        """Where it lies."""
        return self.header.frames[self.frame]


@dataclass(frozen=True)
class Series:
    """The frames of a series, in order.

    Attributes:
        patient: Counted from 1 in the order in which patients are found.
        number: Of the series among the patient's, counted from 1.
        planes: In order.
        ordered_by: What the order was taken from: positions in the body, the scanner's numbers,
            or file names.
        copies: Files that were left out because they repeat another.
    """

    patient: int
    number: int
    planes: tuple[Plane, ...]
    ordered_by: Literal["position", "number", "file"]
    copies: int

    @property
    def name(self) -> str:
        """A name that says nothing about the patient: ``patient-001/series-01``."""
        return f"patient-{self.patient:03d}/series-{self.number:02d}"

    def gaps(self) -> list[float]:
        """Distances in mm between neighbours that are 1.5 times the usual one or more."""
        if self.ordered_by != "position" or len({_facing(plane) for plane in self.planes}) > 1:
            return []
        places = [plane.place for plane in self.planes if plane.place is not None]
        steps = np.array([b - a for a, b in pairwise(places) if b - a > _SAME_MM])
        return steps[steps >= _GAP * np.median(steps)].tolist() if len(steps) > 1 else []


def find_series(headers: Iterable[Header]) -> list[Series]:
    """Group files by patient and series, and order the frames of each.

    Slices are ordered along their normal by where they lie. Only where a position is lacking, the
    scanner's numbers count, and only where these lack too, the names of the files.

    Args:
        headers: In the order in which patients and series are to be counted.
    """
    patients: dict[str, dict[str, list[Header]]] = {}
    for header in headers:
        who = header.identity
        own = patients.setdefault(who.patient, {})
        own.setdefault(who.series or str(header.path.parent), []).append(header)
    return [
        _ordered(patient, number, files)
        for patient, series in enumerate(patients.values(), 1)
        for number, files in enumerate(series.values(), 1)
    ]


def _ordered(patient: int, number: int, headers: list[Header]) -> Series:
    kept: dict[str, Header] = {}
    for header in headers:
        kept.setdefault(header.identity.instance or str(header.path), header)
    planes = [
        Plane(header, i, _place(frame))
        for header in kept.values()
        for i, frame in enumerate(header.frames)
    ]
    by: Literal["position", "number", "file"] = "file"
    if all(plane.place is not None for plane in planes):
        by = "position"
        facing = list(dict.fromkeys(_facing(plane) for plane in planes))
        planes.sort(key=lambda plane: (
            facing.index(_facing(plane)), round((plane.place or 0) / _SAME_MM),
            plane.header.number or 0, plane.frame,
        ))  # fmt: skip
    elif all(plane.header.number is not None for plane in planes):
        by = "number"
        planes.sort(key=lambda plane: (plane.header.number or 0, plane.frame))
    else:
        planes.sort(key=lambda plane: (_natural(str(plane.header.path)), plane.frame))
    return Series(patient, number, tuple(planes), by, len(headers) - len(kept))


def _place(frame: Frame) -> float | None:
    if frame.position is None or frame.normal is None:
        return None
    return float(np.dot(frame.position, frame.normal))


def _facing(plane: Plane) -> tuple[float, ...]:
    return tuple(round(n, 2) + 0.0 for n in plane.at.normal or ())


def _natural(name: str) -> list[tuple[int, str]]:
    """So that ``2`` stands before ``10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
