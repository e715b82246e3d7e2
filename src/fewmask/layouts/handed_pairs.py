"""Images, their masks and classes, checked before they are handed over.

The codes are those of :mod:`fewmask.layouts.handing_over`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.files import images_below, is_inside, list_images
from fewmask.errors import DataError, Problem, UsageError
from fewmask.io.images import image_size, read_mask
from fewmask.layouts.annotation_files import some, special_id
from fewmask.layouts.records import MOST_CLASSES, Class


@dataclass
class Pairs:
    """Images and their masks, by name; notes for the caller."""

    images: dict[str, Path]
    masks: dict[str, Path]
    root: Path
    num_classes: int
    notes: list[Problem] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def read(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and (H, W) uint8 ids of each image with a mask; at the end, all that is wrong.

        Raises:
            DataError: masks that are damaged, or do not fit their image or the classes.
        """
        problems: list[Problem] = []
        for name in sorted(self.masks):
            try:
                ids = _read_ids(self.masks[name], self.images[name], self.num_classes)
            except DataError as error:
                problems += error.problems
                continue
            if (ids == IGNORE_INDEX).any():
                self.ignored.append(name)
            yield name, ids
        if problems:
            raise DataError(*problems)

    def below(self, name: str) -> str:
        """The path of an image below its folder."""
        return self.images[name].relative_to(self.root).as_posix()


def open_pairs(images: Path, masks: Path, classes: Sequence[Class], out: Path) -> Pairs:
    """Images with their masks by name, once the place and the classes are found fit.

    Raises:
        UsageError: ``OUT-EXISTS``, ``OUT-INSIDE`` or ``CLASSES``.
        DataError: names that collide, or a mask without an image.
    """
    _require_place(out, (images, masks))
    require_classes(classes)
    found, listing = images_below(images), list_images(masks)
    problems = listing.problems + [
        Problem("MASK-UNPAIRED", str(path), "a mask without an image", f"an image called {name}",
                "rename or remove the mask")
        for name, path in listing.files.items() if name not in found
    ]  # fmt: skip
    if problems:
        raise DataError(*problems)
    pairs = Pairs(found, listing.files, images, len(classes))
    if bare := sorted(found.keys() - listing.files.keys()):
        pairs.notes.append(
            Problem("MASK-NONE", str(masks), f"{len(bare)} images without a mask: {some(bare)}",
                    "a mask for each", "nothing to do: they are left out")
        )  # fmt: skip
    return pairs


def _require_place(out: Path, folders: Sequence[Path]) -> None:
    if out.exists() or out.is_symlink():
        raise UsageError.of(
            "OUT-EXISTS",
            where=out,
            found="something there already",
            expected="a new name",
            fix="choose another name, or move it away",
        )
    for folder in folders:
        if is_inside(out, folder):
            raise UsageError.of(
                "OUT-INSIDE",
                where=out,
                found=f"a place in {folder}",
                expected="a place outside of the images and masks, which are never changed",
                fix="choose another place",
            )


def require_classes(classes: Sequence[Class]) -> None:
    """Refuse names that none of the formats can hold.

    Raises:
        UsageError: ``CLASSES``.
    """
    names = [each.name for each in classes]
    wrong = [name for name in names if not name.strip() or special_id(name) is not None]
    wrong += [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if wrong or not 1 <= len(names) <= MOST_CLASSES:
        raise UsageError.of(
            "CLASSES",
            where="classes",
            found=some([repr(name) for name in wrong]) if wrong else f"{len(names)} classes",
            expected=f"1 to {MOST_CLASSES} different names, none of them background or ignored",
            fix="rename the classes",
        )


def require_names_in_lines(pairs: Pairs, classes: Sequence[Class]) -> None:
    """Refuse names that CVAT's lists of lines cannot hold.

    Raises:
        UsageError: ``CLASSES``.
        DataError: ``NAME-LINES``.
    """
    lost = [each.name for each in classes if each.name != each.name.strip(" #")
            or ":" in each.name or len(each.name.splitlines()) > 1]  # fmt: skip
    if lost:
        raise UsageError.of(
            "CLASSES",
            where="classes",
            found=some([repr(name) for name in lost]),
            expected="names without a colon, a line break, or # and blanks at their ends",
            fix="rename the classes",
        )
    torn = [name for name in pairs.masks if name != name.strip().strip('"')
            or len(name.splitlines()) > 1]  # fmt: skip
    if torn:
        raise DataError.of(
            "NAME-LINES",
            where=pairs.root,
            found=some([repr(name) for name in torn]),
            expected="names without line breaks, or quotes and blanks at their ends",
            fix="rename the images and their masks",
        )


def _read_ids(mask: Path, image: Path, num_classes: int) -> np.ndarray:
    """(H, W) uint8 of a mask that fits its image and the classes."""
    ids, size = read_mask(mask), image_size(image)
    if ids.shape != size:
        raise DataError.of(
            "MASK-SIZE",
            where=mask,
            found="x".join(map(str, ids.shape)),
            expected=f"{size[0]}x{size[1]}, as {image.name}",
            fix="resize the mask with nearest neighbour",
        )
    strange = [v for v in np.unique(ids).tolist() if not (0 <= v <= num_classes or v == 255)]
    if strange:
        raise DataError.of(
            "MASK-VALUES",
            where=mask,
            found=some(strange, 8),
            expected=f"0..{num_classes}, and 255 to ignore",
            fix="name all classes, or correct the mask",
        )
    return ids.astype(np.uint8)


def note_ignored(pairs: Pairs, out: Path, became: str) -> None:
    """Note what became of ignored pixels."""
    found = f"ignored pixels in {len(pairs.ignored)} masks: {some(pairs.ignored)}"
    pairs.notes.append(
        Problem("IGNORED", str(out), found, "classes only", f"nothing to do: they are {became}")
    )
