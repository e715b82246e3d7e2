"""Where the images of ``fewmask factory label`` come from: those that have a mask, and no others.

Masks come back by the names of their images, from any tool: exported generated images
(``seed-000012.png``), or real images of the folder that the generator was trained on. Masks of
images of the test part are left where they are, for judging.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from fewmask.data.content import inspect_all
from fewmask.data.files import images_below, list_images
from fewmask.data.folder import DataFolder, refuse
from fewmask.data.mask_encoding import conclude_encoding, read_values
from fewmask.data.records import Sample
from fewmask.data.roles import role_in
from fewmask.data.splits import Split
from fewmask.errors import DataError, Problem, UsageError
from fewmask.pipelines.factory_config import LabelConfig
from fewmask.pipelines.folders import DataSource
from fewmask.training.progress import watched

SHOWN = 5
"""So many files of one kind of problem are named."""


def open_annotated(root: Path, config: LabelConfig) -> DataFolder:
    """The images that have a mask and are not of the test part.

    Args:
        root: Folder of the images, in any sub-folders.
        config: Names the masks, the classes and the split.

    Raises:
        UsageError: no masks are named, or no image is there.
        DataError: a mask without an image, unreadable or with values that are no ids; or none left.
    """
    if config.masks is None:
        raise UsageError.of(
            "MASKS-MISSING",
            where="--masks",
            found="nothing",
            expected="a folder of masks with the names of their images",
            fix="--masks MASKS",
        )
    image_of = {role_in(name)[1]: (name, path) for name, path in images_below(root).items()}
    masks = _masks_below(config.masks)
    problems = [
        Problem(
            "MASK-UNPAIRED",
            str(path),
            "no image of this name",
            f"the name of an image in {root}",
            "rename the mask like its image, or remove it",
        )
        for name, path in masks.items()
        if name not in image_of
    ]
    held_out = _held_out(config.split_file)
    used = {n: p for n, p in masks.items() if n in image_of and image_of[n][0] not in held_out}
    values, unreadable = read_values(used.values())
    names = config.class_names or ((config.class_name,) if config.class_name else None)
    reading = conclude_encoding(values, names)
    refuse([*problems, *unreadable, *reading.problems])
    if not used:
        raise DataError.of(
            "NO-MASKS",
            where=config.masks,
            found="masks of test images only" if masks else "no mask",
            expected="masks of images that may be learned from",
            fix="add masks" + (f"; the parts are listed in {config.split_file}" if masks else ""),
        )
    samples = [
        Sample(image_of[name][0], image_of[name][1], path, (), image_of[name][0])
        for name, path in used.items()
    ]
    return DataFolder(
        root=root,
        samples=tuple(sorted(samples, key=lambda sample: sample.id)),
        class_names=reading.class_names,
        layout="images",
        mask_encoding=reading.encoding,
    )


def check_annotated(root: Path, config: LabelConfig) -> Mapping[str, str]:
    """Decode every annotated image and its mask, and refuse all at once what is wrong with them.

    Returns:
        The samples' groups by id; nothing is cut here.

    Raises:
        DataError: with every problem; as :func:`open_annotated` else.
    """
    data = open_annotated(root, config)
    watch = partial(watched, title="check", unit="image")
    refuse([p for found in inspect_all(data.samples, watch) for p in found.problems])
    return {sample.id: sample.group for sample in data.samples}


def all_for_training(data: DataFolder, config: LabelConfig, fold: int) -> Split:  # noqa: ARG001
    """All annotated images teach; what they have taught is judged on others."""
    return Split(train=tuple(sample.id for sample in data.samples), val=(), test=())


def _masks_below(folder: Path) -> dict[str, Path]:
    """Masks by the names of their images; of a folder that holds images too, its masks."""
    if not folder.is_dir():
        raise UsageError.of(
            "MASKS-MISSING",
            where=folder,
            found="no such folder",
            expected="a folder of masks with the names of their images",
            fix="correct the path",
        )
    listing = list_images(folder)
    refuse(listing.problems)
    roles = {key: role_in(key) for key in listing.files}
    only = {role for role, _ in roles.values()}
    wanted = "masks" if "masks" in only else "images"
    return {roles[key][1]: p for key, p in listing.files.items() if roles[key][0] == wanted}


def _held_out(split_file: Path | None) -> set[str]:
    """Ids of the test part, by a run's ``split.csv``."""
    if split_file is None:
        return set()
    with split_file.open(encoding="utf-8", newline="") as stream:
        return {line["id"] for line in csv.DictReader(stream) if line["part"] == "test"}


ANNOTATED = DataSource(check=check_annotated, open=open_annotated, cut=all_for_training)  # type: ignore[arg-type]
