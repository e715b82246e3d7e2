"""The image files below a folder that runs would refuse: what names and folders say about them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewmask.data.files import composed, is_inside, is_utf8, outside, shown
from fewmask.data.roles import Part, Role, part_called, role_in, role_of
from fewmask.io.images import IMAGE_SUFFIXES
from fewmask.layouts.odd_images import ODD_SUFFIXES
from fewmask.layouts.records import Source

_MASK_WORDS = r"masks?|labels?|gt|seg(?:mentation)?|annotations?|ground_?truth|labelids|manual\d?"
_MASK_END = re.compile(rf"(?i)[ _.-](?:{_MASK_WORDS})(?:[ _.-]\d+)?$")
_MASK_START = re.compile(rf"(?i)^(?:{_MASK_WORDS})[ _.-](?=.)")
_IMAGE_END = re.compile(r"(?i)[ _.-](?:sat|images?|img|rgb|photo)$")
_IMAGE_START = re.compile(r"(?i)^(?:images?|img|photo)[ _.-](?=.)")
_LONGEST_BYTES = 200


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes:
        path: Where it is.
        name: Below the folder, without suffix, parts of a split, and folders with a role.
        role: What it holds, by the folders that it is in.
        part: The part of a split that it is in.
        in_role: Whether one of its outermost folders has a role.
    """

    path: Path
    name: str
    role: Role
    part: Part | None
    in_role: bool


def core_of(name: str) -> tuple[str, bool]:
    """A name without what marks it as an image's or a mask's, and whether it is a mask's.

    >>> core_of("a/x_mask"), core_of("a/x_sat"), core_of("mask_1"), core_of("a/x")
    (('a/x', True), ('a/x', False), ('1', True), ('a/x', False))
    """
    folder, slash, stem = name.rpartition("/")
    for pattern in (_MASK_END, _MASK_START):
        if pattern.search(stem):
            return f"{folder}{slash}{pattern.sub('', stem)}", True
    for pattern in (_IMAGE_END, _IMAGE_START):
        if pattern.search(stem):
            return f"{folder}{slash}{pattern.sub('', stem)}", False
    return name, False


def marked_as_mask(name: str, names: Collection[str]) -> bool:
    """Whether a name is marked as a mask's, and another is that of its image.

    >>> marked_as_mask("x_mask", {"x", "x_mask"}), marked_as_mask("x_mask", {"x_mask"})
    (True, False)
    """
    core, is_mask = core_of(name)
    return is_mask and any(
        not marked and other == core for other, marked in map(core_of, names) if other == core
    )


def innermost(root: Path, source: Source) -> Path:
    """Enter a folder that is the only one with images, and has folders of its own."""
    base = root
    while True:
        entries = [path for path in base.iterdir() if path.name[0] not in "._"]
        folders = [path for path in entries if path.is_dir() and not path.is_symlink()]
        alone = len(folders) == 1 and not any(map(_is_image_name, entries))
        if not alone or role_of(folders[0].name) or not _has_folders(folders[0]):
            return base
        source.repaired("FOLDER-NESTED", base, f"no images but in {shown(folders[0].name)}",
                        "the folder that holds the data", "read that one")  # fmt: skip
        base = folders[0]


def list_files(base: Path, source: Source) -> list[ImageFile]:
    """Every image file, with what its folders say about it."""
    paths = list(_walk(base, base, source))
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
        outer = [role_of(folder) for folder in folders]
        in_role = bool(outer) and outer[0] is not None
        role = "masks" if path.suffix == ".npy" else role
        files.append(ImageFile(path, plain, role, part, in_role))
    if strange := [file.path for file in files if not is_utf8(file.path)]:
        source.repaired("NAME-ENCODING", shown(strange[0]), f"{len(strange)} names whose bytes are "
                        "not UTF-8", "names in UTF-8", "_ for each such byte")  # fmt: skip
    return _without_strangers(base, files, source)


def images_and_masks(
    files: Sequence[ImageFile], source: Source
) -> tuple[dict[str, ImageFile], list[ImageFile]]:
    """Images by the ids that they get, and masks."""
    images = [file for file in files if file.role == "images"]
    masks = [file for file in files if file.role == "masks"]
    names = {file.name for file in images}
    beside = set() if masks else {file for file in images if marked_as_mask(file.name, names)}
    if beside:
        source.repaired("MASK-BESIDE", min(file.path for file in beside), f"{len(beside)} masks "
                        "beside their images, told apart by their names",
                        "masks/ with the names of the images", "read as masks")  # fmt: skip
        masks = [file for file in images if file in beside]
        images = [file for file in images if file not in beside]
    return _named(images, source), masks


def place_of(file: ImageFile, base: Path) -> str:
    """Where a file lies below the folder, without suffix, as tables have it."""
    return composed(shown(file.path.relative_to(base).with_suffix("").as_posix()))


def safe_name(name: str) -> str:
    """A name that stays in its folder and that every file system and shell takes.

    >>> safe_name("a/-..//.b/ c "), safe_name("-")
    ('a/_/_b/c', '_')
    """
    parts = []
    for part in name.split("/"):
        plain = part.strip().lstrip("-").strip()
        plain = f"_{plain.lstrip('.')}" if plain.startswith(".") else plain
        plain = f"_{plain}" if plain[:1] in ("=", "+", "@") else plain  # no formula in a table
        if plain:
            parts.append(plain.encode()[:_LONGEST_BYTES].decode(errors="ignore"))
    return "/".join(parts) or "_"


def _named(images: Sequence[ImageFile], source: Source) -> dict[str, ImageFile]:
    """Images by names that do not collide on any file system."""
    again = Counter(file.name.casefold() for file in images if file.part)
    in_parts = any(number > 1 for number in again.values())
    ids: dict[str, ImageFile] = {}
    folded: set[str] = set()
    collided, renamed = [], []
    for file in images:
        whole = f"{file.part}/{file.name}" if in_parts and file.part else file.name
        name = safe_name(whole)
        wanted, number = name, 1
        while wanted.casefold() in folded:
            number += 1
            wanted = f"{name}-{number}"
        if number > 1:
            collided.append(file.path)
        elif name != whole:
            renamed.append(file.path)
        folded.add(wanted.casefold())
        ids[wanted] = file
    if collided:
        source.repaired("STEM-TWICE", shown(collided[0]), f"{len(collided)} names that others "
                        "have, suffix, case and part of a split aside", "one image per name",
                        "a number behind the name")  # fmt: skip
    if renamed:
        source.repaired("NAME", shown(renamed[0]), f"{len(renamed)} names with dots, dashes or "
                        "blanks at their ends, or very long", "names that every program takes",
                        "without them")  # fmt: skip
    return ids


def _without_strangers(base: Path, files: list[ImageFile], source: Source) -> list[ImageFile]:
    """Where folders called images hold images, those elsewhere are left out, as runs do."""
    in_role = any(file.in_role and file.role == "images" for file in files)
    kept = [file for file in files if file.in_role or not in_role]
    strangers = sorted({file.path.parent for file in files} - {file.path.parent for file in kept})
    other = {file for file in kept if file.role == "other"}
    if strangers:
        names = ", ".join(shown(path.relative_to(base)) for path in strangers[:5])
        source.report("FOLDER-SKIPPED", shown(strangers[0]), f"images in {len(strangers)} folders "
                      f"beside: {names}", "images, masks or classes",
                      "move what belongs to the data into images/")  # fmt: skip
    return [file for file in kept if file not in other]


def folders_in(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]


def _is_image_name(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *ODD_SUFFIXES) and path.is_file()


def _has_folders(folder: Path) -> bool:
    return bool(folders_in(folder))


def _walk(folder: Path, root: Path, source: Source) -> Iterator[Path]:
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
            if path.is_symlink():
                source.note("FILE-SKIPPED", path, "a link to a folder", "folders",
                            "nothing to do: what it leads to is read where it is")  # fmt: skip
            else:
                yield from _walk(path, root, source)
        elif path.suffix.lower() in (*IMAGE_SUFFIXES, *ODD_SUFFIXES, ".npy"):
            if path.is_file():
                yield path
            else:
                source.report("PATH-BROKEN", path, "a link to nothing", "a file",
                              "restore its target or remove the link")  # fmt: skip


def _readable(name: str) -> str:
    """A name without bytes that are no UTF-8, and without control characters."""
    text = os.fsencode(name).decode("utf-8", "replace").replace("\ufffd", "_")
    return re.sub(r"[\x00-\x1f\x7f]", "_", text)
