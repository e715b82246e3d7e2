"""The image files below a folder, with what their names and folders say about them."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewmask.data.files import composed, is_inside, is_utf8, outside, shown
from fewmask.data.roles import Part, part_called, role_in, role_of
from fewmask.io.images import IMAGE_SUFFIXES
from fewmask.layouts.odd_images import ODD_SUFFIXES
from fewmask.layouts.records import Source

_ENDING = re.compile(
    r"(?i)[ _.-](masks?|labels?|gt|seg(mentation)?|annotations?|groundtruth|ground_truth|"
    r"labelids|manual\d?)$"
)


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes:
        path: Where it is.
        name: Below the folder, without suffix, parts of a split, and folders with a role.
        role: What it holds by the folders that it is in.
        part: The part of a split that it is in.
        folder: Whether a folder with a role stands first in its path.
    """

    path: Path
    name: str
    role: str
    part: Part | None
    first_role: bool


def innermost(root: Path, source: Source) -> Path:
    """Leave out folders that hold nothing but one folder with folders."""
    base = root
    while True:
        inside = [path for path in base.iterdir() if path.name[0] != "."]
        folders = folders_in(base)
        alone = len(folders) == 1 and len(inside) == 1 and not role_of(folders[0].name)
        if not alone or folders[0].is_symlink() or not folders_in(folders[0]):
            return base
        source.repaired("FOLDER-NESTED", base, f"nothing but {shown(folders[0].name)}",
                        "the folder that holds the data", "read that one")  # fmt: skip
        base = folders[0]


def folders_in(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]


def walk(folder: Path, root: Path, source: Source) -> Iterator[Path]:
    """Files that may be images or masks, sorted; links out of the root are problems."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        source.report("FOLDER-UNREADABLE", folder, error.strerror or str(error),
                      "a readable folder", "chmod u+rx")  # fmt: skip
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not is_inside(path, root):
            source.problems.append(outside(path))
        elif path.is_dir():
            if not path.is_symlink():
                yield from walk(path, root, source)
        elif path.suffix.lower() in (*IMAGE_SUFFIXES, *ODD_SUFFIXES, ".npy"):
            if path.is_file():
                yield path
            else:
                source.report("PATH-BROKEN", path, "a link to nothing", "a file",
                              "restore its target or remove the link")  # fmt: skip


def list_files(base: Path, source: Source) -> list[ImageFile]:
    """Every image file, with what its folders say about it."""
    paths = list(walk(base, base, source))
    parted = [[part_called(folder) for folder in path.relative_to(base).parts[:-1]]
              for path in paths]  # fmt: skip
    several = len({part for parts in parted for part in parts if part}) > 1
    if several:
        source.repaired("SPLIT-FOLDERS", base, "folders of the parts of a split",
                        "one folder", "the parts stand in split.csv")  # fmt: skip
    files = []
    for path, parts in zip(paths, parted, strict=True):
        folders = list(path.relative_to(base).parts[:-1])
        part = next((part for part in parts if part), None) if several else None
        if several:
            folders = [folder for folder in folders if not part_called(folder)]
        name = composed(_readable("/".join([*folders, path.stem])))
        role, plain = role_in(name)
        first_role = bool(folders) and role_of(folders[0]) is not None
        files.append(
            ImageFile(path, plain, "masks" if path.suffix == ".npy" else role, part, first_role)
        )
    if strange := [file.path for file in files if not is_utf8(file.path)]:
        source.repaired("NAME-ENCODING", shown(strange[0]), f"{len(strange)} names whose bytes are "
                        "not UTF-8", "names in UTF-8", "_ for each such byte")  # fmt: skip
    return files


def _readable(name: str) -> str:
    """A name without bytes that are no UTF-8, and without control characters."""
    return re.sub(r"[\x00-\x1f\x7f]", "_", os.fsencode(name).decode("utf-8", "replace")).replace(
        "\ufffd", "_"
    )


def images_and_masks(
    files: Sequence[ImageFile], source: Source
) -> tuple[dict[str, ImageFile], dict[str, list[ImageFile]]]:
    """Images by their ids, and masks by the names of their images."""
    images = [file for file in files if file.role == "images"]
    masks = [file for file in files if file.role == "masks"]
    names = Counter(file.name for file in images)
    endings = {file: without_ending(file.name) for file in images}
    beside = [file for file in images if endings[file] != file.name and names[endings[file]]]
    if not masks and beside:
        source.repaired("MASK-UNPAIRED", beside[0].path, f"{len(beside)} masks beside their "
                        "images, told apart by an ending", "masks/ with the names of the images",
                        "read as masks")  # fmt: skip
        masks = [replace(file, name=endings[file]) for file in beside]
        images = [file for file in images if file not in set(beside)]
    again = Counter(file.name.casefold() for file in images if file.part)
    in_parts = any(number > 1 for number in again.values())
    ids: dict[str, ImageFile] = {}
    folded: set[str] = set()
    collided = []
    for file in images:
        name = _file_name(f"{file.part}/{file.name}" if in_parts and file.part else file.name)
        wanted, number = name, 1
        while wanted.casefold() in folded:
            number += 1
            wanted = f"{name}-{number}"
        if number > 1:
            collided.append(file.path)
        folded.add(wanted.casefold())
        ids[wanted] = file
    if collided:
        source.repaired("STEM-TWICE", shown(collided[0]), f"{len(collided)} names that others "
                        "have, suffix, case and part of a split aside", "one image per name",
                        "a number behind the name")  # fmt: skip
    by_name: dict[str, list[ImageFile]] = defaultdict(list)
    for file in masks:
        by_name[file.name].append(file)
    return ids, by_name


def _file_name(name: str) -> str:
    """A name that every file system and shell takes: no dash first, no space at the ends."""
    parts = [part.strip().lstrip("-") or "_" for part in name.split("/")]
    return "/".join(part.encode()[:200].decode(errors="ignore") for part in parts)


def without_ending(name: str) -> str:
    """A name without what marks it as a mask's.

    >>> without_ending("a/b_mask"), without_ending("a/b")
    ('a/b', 'a/b')
    """
    return _ENDING.sub("", name)
