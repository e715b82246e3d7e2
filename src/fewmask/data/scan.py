"""Work out what a data folder holds, and everything about its structure that is wrong."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fewmask.data.classes_csv import CLASSES_FILE, find_classes
from fewmask.data.files import (
    Listing,
    composed,
    is_inside,
    is_utf8,
    list_images,
    misnamed,
    outside,
    shown,
)
from fewmask.data.groups import GROUPS_FILE, find_groups, group_in, read_group_pattern
from fewmask.data.mask_encoding import conclude_encoding, read_values
from fewmask.data.records import DataFolder, Layout, Sample
from fewmask.data.roles import is_negative, is_part, role_in, role_of
from fewmask.data.tags_csv import read_tags
from fewmask.errors import Problem, UsageError

_OTHER_MASKS = {".npy", ".npz", ".mat", ".json", ".xml"}
_OURS = {CLASSES_FILE, GROUPS_FILE, "split.csv", "repairs.csv"}
_TABLES = {".csv", ".tsv", ".xls", ".xlsx", ".ods"}


@dataclass
class Scan:
    """A :class:`DataFolder` with all that is wrong or notable about its structure.

    Attributes:
        folder: The data as far as it can be understood.
        problems: What keeps it from being used.
        notes: What is worth knowing.
        mask_values: Pixels per stored value of each readable mask.
        masks: Mask files with the keys that :func:`role_in` gives them.
        left_out: Folders that are neither images, nor masks, nor classes.
        unclear: Layout or tags are not understood: what would follow from them is not told.
    """

    folder: DataFolder
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    mask_values: dict[Path, dict[int, int]] = field(default_factory=dict)
    masks: list[tuple[str, Path]] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    unclear: bool = False

    def report(self, code: str, where: object, found: str, expected: str, fix: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(code, str(where), found, expected, fix))

    def take(self, listing: Listing) -> dict[str, Path]:
        """Adopt a listing's problems and notes; returns its files."""
        self.problems += listing.problems
        if listing.skipped:
            names = ", ".join(shown(path.name) for path in listing.skipped[:3])
            fix = "nothing to do: they are ignored"
            for path in listing.skipped:
                role = role_in(path.relative_to(self.folder.root).as_posix())[0]
                if role == "masks" and path.suffix.lower() in _OTHER_MASKS:
                    fix = "save masks as 8-bit PNG of class ids; these are ignored"
            self.notes.append(
                Problem(
                    "FILE-SKIPPED", str(listing.skipped[0].parent),
                    f"{len(listing.skipped)} files that are no images by their name: {names}",
                    "png, jpg, jpeg, tif or tiff", fix,
                )
            )  # fmt: skip
        return listing.files

    def take_images(self, listing: Listing) -> dict[str, Path]:
        """Adopt a listing of images; masks and other layers among them are put in their places."""
        images = {}
        for key, path in self.take(listing).items():
            role, mask_key = role_in(_key(path, self.folder.root))
            if role == "images":
                images[key] = path
            elif role == "masks":
                self.masks.append((mask_key, path))
            elif path.parent not in self.left_out:
                self.left_out.append(path.parent)
        return images

    def note_left_out(self) -> None:
        """Say which folders were not read."""
        if self.left_out:
            relative = [path.relative_to(self.folder.root) for path in self.left_out[:5]]
            names = ", ".join(shown(path.as_posix()) for path in relative)
            self.notes.append(
                Problem(
                    "FOLDER-SKIPPED", shown(self.left_out[0]),
                    f"{len(self.left_out)} folders that are not read: {names}",
                    "images, masks or classes", "nothing to do: they are ignored",
                )
            )  # fmt: skip


def scan_folder(
    root: Path | str,
    *,
    class_name: str | None = None,
    class_names: Sequence[str] | None = None,
    group_pattern: str | None = None,
    require_tags: bool = True,
) -> Scan:
    """As :func:`open_folder`, but collect problems instead of raising them.

    Raises:
        UsageError: An argument makes no sense.
    """
    root = Path(root)
    pattern = _require_options(class_name, class_names, group_pattern)
    if class_name is not None and class_names is None:
        wanted: tuple[str, ...] | None = (class_name,)
    else:
        wanted = tuple(class_names) if class_names is not None else None
    scan = Scan(DataFolder(root, (), wanted or (), "images", None))
    if not is_utf8(root.resolve()):
        scan.problems.append(misnamed(root.resolve()))
        return scan
    if not root.is_dir():
        scan.report("FOLDER-MISSING", root, "no such folder", "a data folder", "check the path")
        return scan
    try:
        next(root.iterdir(), None)
    except OSError as error:
        scan.report("FOLDER-UNREADABLE", root, error.strerror or str(error), "a readable folder",
                    "give yourself the right to list it (chmod u+rx)")  # fmt: skip
        return scan
    classes, problems = find_classes(root)
    scan.problems += problems
    if wanted is None and classes:
        wanted = tuple(each.name for each in classes)
    layout, samples, found_names = _list_samples(root, pattern, scan)
    if not samples and not scan.problems:
        scan.report(
            "FOLDER-EMPTY", root, "no images", "positive/ and negative/, images/, or image files",
            "see docs/data.md for the layouts",
        )  # fmt: skip
    groups, problems = find_groups(root, {sample.id for sample in samples})
    scan.problems += problems
    samples = tuple(replace(s, group=groups.get(s.id, s.group)) for s in samples)
    samples, names = _name_classes(samples, found_names, class_name, wanted, layout, scan)
    samples = _pair_masks(root, samples, layout, scan)
    scan.note_left_out()
    scan.mask_values, unreadable = read_values([s.mask_path for s in samples if s.mask_path])
    scan.problems += unreadable
    if scan.unclear:
        scan.folder = DataFolder(root, samples, names or (), layout, None)
        return scan
    tagged = {s.mask_path for s in samples if s.tags and s.mask_path}
    reading = conclude_encoding(scan.mask_values, names, tagged)
    scan.problems += reading.problems
    scan.notes += reading.notes
    if require_tags:
        _require_two_kinds(root, layout, samples, scan)
    colour_of = {each.name: each.hexed for each in classes}
    colours = tuple(colour_of.get(name, "") for name in reading.class_names)
    scan.folder = DataFolder(
        root, samples, reading.class_names, layout, reading.encoding,
        class_colours=colours if any(colours) else (),
    )  # fmt: skip
    return scan


def _require_options(
    class_name: str | None, class_names: Sequence[str] | None, group_pattern: str | None
) -> re.Pattern[str] | None:
    """Refuse arguments that make no sense, all at once; returns the compiled pattern."""
    problems = []
    names = list(class_names) if class_names is not None else None
    if names is not None and class_name is not None:
        problems.append(Problem("CLASS-NAME", "class_name", "class_name and class_names",
                                "one of them", "use class_names alone"))  # fmt: skip
    if names is not None and (
        not names or len(set(names)) < len(names) or "" in names or len(names) > 254
    ):
        problems.append(Problem("CLASS-NAMES", "class_names", str(names),
                                "1 to 254 different names", "name each class once"))  # fmt: skip
    if class_name == "":
        problems.append(Problem("CLASS-NAME", "class_name", "an empty name", "a name",
                                "leave it out or name the class"))  # fmt: skip
    pattern, wrong = read_group_pattern(group_pattern)
    problems += wrong
    if problems:
        raise UsageError(*problems)
    return pattern


def _list_samples(
    root: Path, pattern: re.Pattern[str] | None, scan: Scan
) -> tuple[Layout, tuple[Sample, ...], tuple[str, ...] | None]:
    """Samples without masks, and the class names that the layout itself gives."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
    images = next((path for path in folders if role_of(path.name) == "images"), None)
    table_path = root / "tags.csv"
    for path in folders:
        if role_of(path.name) == "masks":
            _list_masks(path, root, scan)
    if table_path.exists() or images is not None:
        folder = images or root
        if not is_inside(folder, root) or not is_inside(table_path, root):
            scan.problems.append(outside(folder if not is_inside(folder, root) else table_path))
            return "images", (), None
        scan.left_out += [p for p in folders if p != images and role_of(p.name) != "masks"]
        files = scan.take_images(list_images(folder, root, recursive=images is not None))
        if not table_path.exists():
            return "images", _untagged(root, files, pattern), None
        table = read_tags(table_path, files, folder)
        scan.problems += table.problems
        scan.unclear = table.unclear
        return "tags.csv", _sorted(
            _sample(root, path, table.tags.get(key, ()), pattern, table.groups.get(key))
            for key, path in files.items()
        ), table.class_names  # fmt: skip
    loose = list_images(root, root, recursive=False)
    classes = {}
    for path in folders:
        if role_of(path.name) == "other":
            scan.left_out.append(path)
        elif not is_utf8(path.name):
            scan.problems.append(misnamed(path))
        elif role_of(path.name) is None and not is_inside(path, root):
            scan.problems.append(outside(path))
        elif role_of(path.name) is None and (files := scan.take_images(list_images(path, root))):
            classes[composed(path.name)] = files
    if not classes:
        return "images", _untagged(root, scan.take(loose), pattern), None
    scan.problems += loose.problems
    for path in loose.files.values():
        scan.report("IMAGE-STRAY", path, "an image beside the class folders",
                    "every image in a class folder", "move or remove it")  # fmt: skip
    if len(parts := [name for name in classes if is_part(name)]) > 1:  # one alone may be a vehicle
        scan.report(
            "SPLIT-FOLDERS", root, f"parts of a split: {', '.join(parts)}", "one folder per class",
            f"give one part, such as {root / parts[0]}; or sort all images by class, and say which "
            "is for what with --split-file",
        )  # fmt: skip
        scan.unclear = True
    elif len(classes) == 1:
        only = next(path for path in folders if composed(path.name) in classes)
        if below := _classes_below(only):
            scan.report("FOLDER-NESTED", root, f"a data folder in it: {only.name} with {below}",
                        "the folder that holds the classes", f"give {only}")  # fmt: skip
            scan.unclear = True
    if scan.unclear:
        scan.masks.clear()  # their places mean nothing either
    samples = _sorted(
        _sample(root, path, () if is_negative(name) else (name,), pattern, None)
        for name, files in classes.items()
        for path in files.values()
    )
    return "folders", samples, tuple(name for name in classes if not is_negative(name))


def _classes_below(folder: Path) -> str:
    """What makes a data folder of what looks like a class folder; empty if nothing does."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    signs = [name for name in names if is_negative(name)]
    signs += ["tags.csv"] * (folder / "tags.csv").exists()
    return shown(", ".join(signs))


def _list_masks(folder: Path, root: Path, scan: Scan) -> None:
    if not is_inside(folder, root):
        scan.problems.append(outside(folder))
        return
    for path in scan.take(list_images(folder, root)).values():
        scan.masks.append((role_in(_key(path, root))[1], path))


def _untagged(
    root: Path, files: dict[str, Path], pattern: re.Pattern[str] | None
) -> tuple[Sample, ...]:
    return _sorted(_sample(root, path, (), pattern, None) for path in files.values())


def _sorted(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: sample.id))


def _key(path: Path, root: Path) -> str:
    return composed(path.relative_to(root).with_suffix("").as_posix())


def _sample(
    root: Path, path: Path, tags: tuple[str, ...], pattern: re.Pattern[str] | None,
    group: str | None,
) -> Sample:  # fmt: skip
    identity = _key(path, root)
    group = group or group_in(composed(path.stem), pattern)
    return Sample(identity, path, None, tags, group or identity)


def _name_classes(
    samples: tuple[Sample, ...], found: tuple[str, ...] | None, class_name: str | None,
    wanted: tuple[str, ...] | None, layout: Layout, scan: Scan,
) -> tuple[tuple[Sample, ...], tuple[str, ...] | None]:  # fmt: skip
    """Apply ``class_name`` or ``class_names``; None if only the masks can tell."""
    if found is None or wanted is None:
        return samples, wanted if found is None else found
    if class_name is not None:
        if len(found) > 1:
            raise UsageError.of(
                "CLASS-NAME", where="class_name", found=f"{len(found)} classes: {', '.join(found)}",
                expected="exactly one class to rename", fix="leave class_name out",
            )  # fmt: skip
        return tuple(replace(s, tags=wanted if s.tags else ()) for s in samples), wanted
    if unknown := [name for name in found if name not in wanted]:
        scan.report(
            "CLASS-UNKNOWN", layout, ", ".join(unknown), f"the classes {', '.join(wanted)}",
            "add the missing names to class_names",
        )  # fmt: skip
    return samples, wanted


def _pair_masks(
    root: Path, samples: tuple[Sample, ...], layout: Layout, scan: Scan
) -> tuple[Sample, ...]:
    """Give each sample its mask: ``masks/<class>/x``, ``<class>/mask/x`` or ``masks/x``."""
    if not scan.masks:
        return samples
    masks: dict[str, Path] = {}
    for name, path in scan.masks:
        if masks.setdefault(name, path) != path:
            scan.report("MASK-TWICE", path, f"a second mask beside {masks[name]}",
                        "one mask per image", "remove one of them")  # fmt: skip
    mask_of: dict[str, Path] = {}
    known: set[str] = set()
    claims: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        candidates = [role_in(_key(sample.image_path, root))[1]]
        if layout == "folders":
            stem = candidates[0].partition("/")[2]
            candidates += [*(f"{tag}/{stem}" for tag in sample.tags), stem]
        known.update(candidates)
        if key := next((key for key in candidates if key in masks), None):
            mask_of[sample.id] = masks[key]
            claims[key].append(sample.id)
    lone = [key for key in masks if not claims[key]]
    ending = _common_ending(lone, known)
    if ending:
        scan.report("MASK-UNPAIRED", masks[lone[0]],
                    f"{len(lone)} masks named like an image, with {ending!r} behind the name",
                    "masks with the names of their images",
                    f"remove {ending!r} from the masks' names")  # fmt: skip
    for key, path in masks.items():
        if not claims[key] and not ending:
            scan.report("MASK-UNPAIRED", path, "no image of this name", "one image per mask",
                        "rename the mask like its image, or remove it")  # fmt: skip
        elif len(claims[key]) > 1:
            scan.report("MASK-SHARED", path, f"several images: {', '.join(claims[key])}",
                        "one image per mask", "use masks/<class>/<name>")  # fmt: skip
    bare = [s for s in samples if (s.tags or layout == "images") and s.id not in mask_of]
    if mask_of and bare:
        scan.notes.append(
            Problem("MASK-MISSING", bare[0].id, f"{len(bare)} of {len(samples)} images whose mask "
                    "is missing", "a mask where one is to be compared with",
                    "nothing to do: they are left out of pixel metrics")
        )  # fmt: skip
    return tuple(replace(sample, mask_path=mask_of.get(sample.id)) for sample in samples)


def _common_ending(lone: Sequence[str], known: Collection[str]) -> str:
    """What all masks without an image have behind an image's name, such as ``_mask``; or empty."""
    starts = [key for key in known if lone and lone[0].startswith(key)]
    ending = lone[0][len(max(starts, key=len)) :] if starts else ""
    fits = all(key.endswith(ending) and key.removesuffix(ending) in known for key in lone)
    return ending if fits and ending[:1] in ("_", "-", ".", " ") else ""


def _require_two_kinds(root: Path, layout: Layout, samples: tuple[Sample, ...], scan: Scan) -> None:
    """Tags teach nothing unless there are images with and images without them."""
    if samples and layout == "images":
        fix = "sort the images into positive/ and negative/, or add tags.csv"
        for path in sorted(root.iterdir(), reverse=True):
            if path.suffix.lower() in _TABLES and path.name not in _OURS and path.name[0] != ".":
                how = "rename it to tags.csv"
                if path.suffix.lower() != ".csv":
                    how = "export it to tags.csv as `CSV UTF-8`"
                fix = f"if {shown(path.name)} holds the tags, {how}; otherwise {fix}"
                break
        scan.report("TAGS-MISSING", root, "images without tags", "tags of each image", fix)
    elif samples and len({frozenset(sample.tags) for sample in samples}) == 1:
        kind = ", ".join(samples[0].tags) or "no tag"
        scan.report("TAGS-ONE-KIND", root, f"the same tags on all images: {kind}",
                    "images with and images without the object",
                    "add a folder `negative` with images that do not show it")  # fmt: skip
