"""A data set in any arrangement, as it is read: images, masks, tags, and what was wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fewmask.data.classes_csv import MOST_CLASSES, Class, Colour
from fewmask.data.roles import Part
from fewmask.errors import DataError, Problem, UsageError

__all__ = [
    "MOST_CLASSES",
    "Class",
    "Colour",
    "Entry",
    "Pixels",
    "ReadingOptions",
    "Source",
    "stretched",
    "try_read",
]

Pixels = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One image.

    Attributes:
        id: Its name in a plain folder: a path without suffix, with ``/`` between folders; unique.
        image: A PNG, JPEG or TIFF that can be taken as it is, or a function that reads the image:
            (H, W) or (H, W, 3), uint8 or uint16. It raises ``DataError`` where the file is damaged.
        mask: A function that reads the class ids: (H, W) uint8, 0 background, 255 ignored, as
            large as the image is displayed. None: nobody has labelled the image.
        tags: Classes on the image; None: nobody has said.
        group: What must not be cut apart (patient, scene); empty: the image by itself.
        part: Of an official split.
    """

    id: str
    image: Path | Pixels
    mask: Pixels | None = None
    tags: tuple[str, ...] | None = None
    group: str = ""
    part: Part | None = None


@dataclass
class Source:
    """A data set as it was understood.

    Attributes:
        layout: Name of the arrangement, in the words of its users: ``COCO``, ``nnU-Net``.
        root: Its folder; never written.
        entries: Its images.
        classes: By id, from 1; 0 is the background.
        problems: What cannot be read at all and is left out.
        notes: What is worth knowing.
        repairs: What is read otherwise than it stands there; each says in ``fix`` what was done.
        is_private: Names of files and folders may tell who a patient is: no copy has them.
    """

    layout: str
    root: Path
    entries: list[Entry] = field(default_factory=list)
    classes: tuple[Class, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    repairs: list[Problem] = field(default_factory=list)
    is_private: bool = False

    def report(self, code: str, where: object, found: str, expected: str, fix: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(code, str(where), found, expected, fix))

    def note(self, code: str, where: object, found: str, expected: str, fix: str) -> None:
        """Add a note."""
        self.notes.append(Problem(code, str(where), found, expected, fix))

    def repaired(self, code: str, where: object, found: str, expected: str, done: str) -> None:
        """Add a repair."""
        self.repairs.append(Problem(code, str(where), found, expected, done))


@dataclass(frozen=True)
class ReadingOptions:
    """What nobody can tell from the files alone.

    Attributes:
        class_names: Names of the ids 1, 2, ...; empty: what the data set says, or ``class_1``.
        class_name: New name of the only class.
        bands: Numbers, from 1, of the bands that are red, green and blue, or of one that is grey;
            empty: the first three, or the only one.
        window: Values that become black and white, for pixels without a fixed range (floats,
            Hounsfield units); empty: see the layout.
        group_pattern: Regular expression searched in a file's stem; its first group is the group.
    """

    class_names: tuple[str, ...] = ()
    bands: tuple[int, ...] = ()
    window: tuple[float, float] | None = None
    group_pattern: str | None = None
    class_name: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ids that were given, in either way."""
        return self.class_names or ((self.class_name,) if self.class_name else ())

    def __post_init__(self) -> None:
        if len(self.bands) not in {0, 1, 3} or any(band < 1 for band in self.bands):
            raise UsageError.of(
                "BANDS",
                where="--bands",
                found=" ".join(map(str, self.bands)),
                expected="one band, or red, green and blue, counted from 1",
                fix="for example --bands 4 3 2",
            )
        if self.window is not None and not self.window[0] < self.window[1]:
            raise UsageError.of(
                "WINDOW",
                where="--window",
                found=f"{self.window[0]:g} {self.window[1]:g}",
                expected="the value that becomes black, then a larger one that becomes white",
                fix="for example --window -160 240",
            )


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values of any kind to 16-bit grey, ``low`` or less black, ``high`` or more white.

    >>> stretched(np.array([[-1.0, 0.5, 2.0]]), 0, 1).tolist()
    [[0, 32768, 65535]]

    Args:
        values: Any shape, numbers.
        low: Becomes 0.
        high: Becomes 65,535; above ``low``.

    Returns:
        The same shape, uint16; what is not a number becomes 0.
    """
    scaled = np.nan_to_num((values.astype(np.float64) - low) / (high - low), nan=0.0)
    return np.rint(np.clip(scaled, 0, 1) * 65_535).astype(np.uint16)


def try_read(pixels: Pixels, problems: list[Problem]) -> np.ndarray | None:
    """What a function reads; None, and its problems kept, where it cannot."""
    try:
        return pixels()
    except DataError as error:
        problems += error.problems
        return None
