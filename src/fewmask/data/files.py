"""Find the image files below a folder, without ever leaving the data root."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fewmask.data.roles import role_in
from fewmask.errors import DataError, Problem, UsageError
from fewmask.io.images import IMAGE_SUFFIXES


@dataclass
class Listing:
    """Image files by key, and what stood in the way.

    Attributes:
        files: Path by key; the key is the path below the listed folder without suffix, in
            Unicode's composed form, with ``/`` between folders.
        problems: Colliding names, names that are not UTF-8, broken links, links that leave the
            data root.
        skipped: Files that are no images, by suffix or kind.
    """

    files: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)


def list_images(folder: Path, root: Path | None = None, *, recursive: bool = True) -> Listing:
    """List the image files in ``folder``, sorted by name; hidden files do not exist.

    Args:
        folder: The folder to list.
        root: The data root (``folder`` by default); a link out of it is a ``PATH-OUTSIDE`` problem.
        recursive: Whether sub-folders are listed too.
    """
    root = folder if root is None else root
    listing = Listing()
    by_folded: dict[str, Path] = {}
    for path in _walk(folder, root, listing, recursive):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            if path != root / "tags.csv":
                listing.skipped.append(path)
            continue
        key = composed(path.relative_to(folder).with_suffix("").as_posix())
        twin = listing.files.get(key) or by_folded.get(key.casefold())
        if twin is not None:
            listing.problems.append(_collision(path, twin, key in listing.files))
            continue
        listing.files[key] = path
        by_folded[key.casefold()] = path
    return listing


def images_below(path: Path) -> dict[str, Path]:
    """Images by name: the path below the folder without suffix.

    As ``fewmask check`` has it, folders at any depth that are called ``masks``, ``overlays`` or the
    like hold no images, see :mod:`fewmask.data.roles`.

    Raises:
        UsageError: nothing there.
        DataError: two images would share a mask (``a.jpg`` and ``a.png``).
    """
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise UsageError.of(
            "IMAGES-MISSING",
            where=path,
            found="nothing there",
            expected="an image or a folder of images",
            fix="correct the path",
        )
    listing = list_images(path)
    if listing.problems:
        raise DataError(*listing.problems)
    found = {name: p for name, p in listing.files.items() if role_in(name)[0] == "images"}
    if not found:
        raise UsageError.of(
            "IMAGES-MISSING",
            where=path,
            found="no image",
            expected="png, jpg, jpeg, tif or tiff",
            fix="correct the path",
        )
    return found


def composed(name: str) -> str:
    """Unicode's composed form (NFC), so that equal-looking names are equal."""
    return unicodedata.normalize("NFC", name)


def is_utf8(name: object) -> bool:
    """Whether a file name can be written as text; other bytes are in it as lone surrogates."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: object) -> str:
    r"""A file name that can be printed: bytes that are not UTF-8 become escapes.

    >>> shown("p\udce9.png")
    'p\\xe9.png'
    """
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def misnamed(path: Path) -> Problem:
    """The problem of a name that no table, report or other program could hold."""
    return Problem(
        "NAME-ENCODING", shown(path), "a name whose bytes are not UTF-8",
        "names in UTF-8", "rename it (convmv -f gbk -t utf8 renames a folder of them)",
    )  # fmt: skip


def is_inside(path: Path, root: Path) -> bool:
    """Whether ``path``, all links followed, lies below ``root``."""
    return path.resolve().is_relative_to(root.resolve())


def outside(path: Path) -> Problem:
    """The problem of a path that leads out of the data root."""
    return Problem(
        "PATH-OUTSIDE", str(path), "a path or link that leaves the data folder",
        "files below the data folder", "copy the files into the data folder",
    )  # fmt: skip


def _walk(folder: Path, root: Path, listing: Listing, recursive: bool) -> Iterator[Path]:
    """Files below ``folder``; linked folders inside the root are skipped, they would repeat it."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        listing.problems.append(
            Problem(
                "FOLDER-UNREADABLE", str(folder), error.strerror or str(error),
                "a readable folder", "give yourself the right to list it (chmod u+rx)",
            )
        )  # fmt: skip
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if not is_utf8(path.name):
            if path.suffix.lower() in IMAGE_SUFFIXES or (recursive and path.is_dir()):
                listing.problems.append(misnamed(path))
            else:
                listing.skipped.append(path)
        elif path.is_symlink() and not is_inside(path, root):
            listing.problems.append(outside(path))
        elif path.is_dir():
            if path.is_symlink():
                listing.skipped.append(path)
            elif recursive:
                yield from _walk(path, root, listing, recursive)
        elif path.is_file():
            yield path
        elif path.is_symlink():
            listing.problems.append(
                Problem(
                    "PATH-BROKEN", str(path), "a link to nothing", "a file",
                    "restore its target or remove the link",
                )
            )  # fmt: skip
        else:
            listing.skipped.append(path)


def _collision(path: Path, twin: Path, same_stem: bool) -> Problem:
    if same_stem:
        return Problem(
            "STEM-TWICE", str(path), f"the same name as {twin.name}, suffix aside",
            "one image per name", "rename or remove one of them",
        )  # fmt: skip
    return Problem(
        "STEM-CASE", str(path), f"a name that differs from {twin.name} in case only",
        "names that stay different on every file system", "rename one of them",
    )  # fmt: skip
