"""The images of a data folder, in whatever arrangement: listed once, then shown in any order."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fewmask.data.folder import read_target
from fewmask.data.records import DataFolder, Sample
from fewmask.data.scan import scan_folder
from fewmask.io.images import read_image
from fewmask.io.whole_files import write_whole
from fewmask.layouts.recognise import is_foreign, read_any
from fewmask.layouts.records import Pixels, ReadingOptions
from fewmask.report.figures import colours_like, drawn_ids, overlay
from fewmask.web.library import id_of, not_there

THUMB_PX = 160
VIEW_PX = 1400


@dataclass(frozen=True)
class Picture:
    """One image of an album.

    Attributes:
        id: By which it is asked for.
        name: Its name in the folder.
        tags: Classes on it; None where nobody has said.
        image: The file, or a function that reads it.
        mask: Reads its mask (H, W) of class ids, 255 ignored; None without one.
    """

    id: str
    name: str
    tags: tuple[str, ...] | None
    image: Path | Pixels
    mask: Callable[[], np.ndarray | None] | None

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8.

        Raises:
            DataError: it cannot be read.
        """
        found = read_image(self.image) if isinstance(self.image, Path) else self.image()
        if found.dtype == np.uint16:
            found = (found >> 8).astype(np.uint8)
        return np.repeat(found[..., None], 3, 2) if found.ndim == 2 else found[..., :3]


@dataclass(frozen=True)
class Album:
    """What a folder holds.

    Attributes:
        pictures: Sorted by name.
        class_names: Classes of its masks and tags.
        class_colours: Their colours, where the data say so.
        has_background: Whether id 0 of a mask is no class.
    """

    pictures: tuple[Picture, ...]
    class_names: tuple[str, ...]
    class_colours: tuple[str, ...] = ()
    has_background: bool = True

    def find(self, name: str) -> Picture:
        """The picture of that id.

        Raises:
            UsageError: none has it.
        """
        for picture in self.pictures:
            if picture.id == name:
                return picture
        raise not_there("image", name)

    def chosen(self, show: str = "", text: str = "") -> list[Picture]:
        """Pictures of a kind, whose name has a text in it.

        Args:
            show: ``with-mask``, ``without-mask``, ``without-tag``, ``tag:NAME``, or empty for all.
            text: Part of a name.
        """
        kept: dict[str, Callable[[Picture], bool]] = {
            "with-mask": lambda each: each.mask is not None,
            "without-mask": lambda each: each.mask is None,
            "without-tag": lambda each: not each.tags,
        }
        tag = show.removeprefix("tag:")
        keep = kept.get(show, lambda each: not show or tag in (each.tags or ()))
        text = text.casefold()
        return [each for each in self.pictures if keep(each) and text in each.name.casefold()]

    def drawn(self, picture: Picture) -> np.ndarray:
        """A picture with its mask over it, if it has one; (H, W, 3) uint8."""
        image = picture.pixels()
        mask = picture.mask() if picture.mask else None
        if mask is None or mask.shape != image.shape[:2]:
            return image
        shown = drawn_ids(mask, self.has_background)
        return overlay(image, shown, colours=colours_like(self.class_colours))


class Albums:
    """Opens folders, and keeps what it has opened until it is told to look again.

    Args:
        place: Where small pictures are kept.
    """

    def __init__(self, place: Path) -> None:
        self._place = place / "thumbs"
        self._open: dict[Path, Album] = {}
        self._locks: dict[Path, threading.Lock] = {}  # one folder does not wait for another

    def open(self, root: Path, *, again: bool = False) -> Album:
        """The album of a folder; the first time takes as long as the masks take to read.

        Raises:
            FewmaskError: nothing can be understood, or a package is missing.
        """
        with self._locks.setdefault(root, threading.Lock()):
            if again or root not in self._open:
                self._open[root] = _foreign(root) if is_foreign(root) else _plain(root)
            return self._open[root]

    def thumb(self, picture: Picture) -> bytes:
        """A small JPEG, made once.

        Raises:
            DataError: the image cannot be read.
        """
        if not isinstance(picture.image, Path):
            return small(picture.pixels(), THUMB_PX)
        facts = picture.image.stat()
        key = f"{picture.image}\0{facts.st_mtime_ns}\0{facts.st_size}"
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        path = self._place / name[:2] / f"{name}.jpg"
        if path.is_file():
            return path.read_bytes()
        made = small(picture.pixels(), THUMB_PX)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, made)
        return made


def small(pixels: np.ndarray, most_px: int) -> bytes:
    """(H, W, 3) uint8 as a JPEG with no side longer than ``most_px``."""
    image = Image.fromarray(pixels)
    image.thumbnail((most_px, most_px))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _plain(root: Path) -> Album:
    folder = scan_folder(root, require_tags=False).folder

    def picture(sample: Sample) -> Picture:
        tags = sample.tags if folder.has_tags else None
        mask = _mask_of(sample, folder) if sample.mask_path else None
        return Picture(id_of(sample.id), sample.id, tags, sample.image_path, mask)

    return Album(
        tuple(map(picture, folder.samples)), folder.class_names, tuple(folder.class_colours),
        folder.has_background,
    )  # fmt: skip


def _mask_of(sample: Sample, folder: DataFolder) -> Callable[[], np.ndarray | None]:
    return lambda: read_target(sample, folder)


def _foreign(root: Path) -> Album:
    source = read_any(root, ReadingOptions())
    pictures = (Picture(id_of(e.id), e.id, e.tags, e.image, e.mask) for e in source.entries)
    names = tuple(each.name for each in source.classes)
    return Album(tuple(sorted(pictures, key=lambda each: each.name)), names)
