"""Apply a finished run: masks for a folder of images, or scores on a folder with masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.files import list_images
from fewmask.data.folder import DataFolder, open_folder, read_target
from fewmask.errors import DataError, LeakError, Problem, UsageError
from fewmask.io.images import read_image, write_image, write_mask
from fewmask.metrics.confusion import confusion_matrix, summarise
from fewmask.pipelines.finished import predictor_of_run, read_card
from fewmask.report.figures import overlay
from fewmask.training.device import choose_device
from fewmask.training.export import save_probs
from fewmask.training.known_images import KnownImages
from fewmask.training.progress import watched
from fewmask.training.run_folder import RunFolder, refuse_inside


def predict(
    run: RunFolder, images: Path, out: Path, *, device: str = "auto", probs: bool = False
) -> list[Path]:
    """Write ``OUT/masks/<name>.png`` (class ids) and ``OUT/overlays/<name>.png`` for each image.

    Args:
        run: A finished run.
        images: An image, or a folder (searched through its sub-folders) of images.
        out: New or empty folder, neither inside ``images`` (or the folder of a single image, unless
            that is the working folder) nor inside the run's data.
        device: See ``--device``.
        probs: Also write ``OUT/probs/<name>.npy``, float16 (K + 1, H, W).

    Returns:
        The masks' paths; each mask has the size of its image.

    Raises:
        DataError: images that cannot be read (all of them at once, after the others are done).
            Also an ``out`` inside a data folder.
        UsageError: no images, or ``out`` holds something already.
    """
    predictor = predictor_of_run(run, choose_device(device))
    found = images_below(images)
    RunFolder.require_free(out)
    _refuse_in_data(out, run, images)
    written: list[Path] = []
    problems: list[Problem] = []
    for name, path in watched(found.items(), len(found), "predict", "image"):
        try:
            image = read_image(path)
        except DataError as error:
            problems += error.problems
            continue
        scores = predictor.probs(image)
        mask = predictor.mask_of_probs(image, scores)
        target = out / "masks" / f"{name}.png"
        for folder in ("masks", "overlays"):
            (out / folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_mask(target, mask)
        write_image(out / "overlays" / f"{name}.png", overlay(image, mask))
        if probs:
            save_probs(out / "probs" / f"{name}.npy", scores)
        written.append(target)
    if problems:
        raise DataError(*problems)
    return written


def images_below(path: Path) -> dict[str, Path]:
    """Images by name: the path below the folder without suffix; ``masks/`` is left out.

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
    found = {name: p for name, p in listing.files.items() if not name.startswith("masks/")}
    if not found:
        raise UsageError.of(
            "IMAGES-MISSING",
            where=path,
            found="no image",
            expected="png, jpg, jpeg, tif or tiff",
            fix="correct the path",
        )
    return found


def evaluate(
    run: RunFolder, root: Path, *, device: str = "auto", save_masks: Path | None = None
) -> dict[str, Any]:
    """Measure a finished run on a folder with masks.

    On the run's own data folder only its test part is measured. On other data, images that the run
    was trained on are a leak, also as copies in another format, mirrored, turned by quarters,
    resized or compressed anew (see :mod:`fewmask.data.copies`).

    Returns:
        Metrics by the names of ``docs/metrics.md``, with ``n`` and ``n_groups``.

    Raises:
        LeakError: training images among those to be measured; all of them are named. Or the run
            was copied without the list of them.
        CheckpointError: the run's weights, card or list of images is damaged.
        DataError: no masks, unreadable files, or ``save_masks`` inside a data folder.
    """
    card = read_card(run)
    predictor = predictor_of_run(run, choose_device(device))
    data = _open_like(run, root, card["class_names"])
    known = KnownImages.of(run)
    own = root.resolve() == Path(str(run.record["data"]))
    matrices, groups, leaks = [], [], []
    if save_masks is not None:
        RunFolder.require_free(save_masks)
        _refuse_in_data(save_masks, run, root, "--save-masks")
    for sample in watched(data.samples, len(data.samples), "evaluate", "image"):
        image = read_image(sample.image_path)
        learned = known.learned(image)
        if learned:
            if not own:
                leaks.append(
                    Problem(
                        "LEAK",
                        sample.id,
                        learned,
                        "images that the run has not seen",
                        "evaluate on other images, or on the run's own data folder (its test part)",
                    )
                )
            continue
        target = read_target(sample, data)
        if target is None or leaks:
            continue
        mask = predictor.mask_of_probs(image, predictor.probs(image))
        matrices.append(confusion_matrix(target, mask, len(card["class_names"]) + 1))
        groups.append(sample.group)
        if save_masks is not None:
            path = save_masks / f"{sample.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, mask)
    if leaks:
        raise LeakError(*leaks)
    if not matrices:
        raise DataError.of(
            "NO-MASKS",
            where=root,
            found="no image with a true mask that the run has not seen",
            expected="masks/ with the stems of the images",
            fix="add masks",
        )
    return dict(summarise(np.stack(matrices), card["class_names"], groups=groups))


def _refuse_in_data(out: Path, run: RunFolder, images: Path, what: str = "-o") -> None:
    """Keep data read-only: neither the images' folder nor the run's data may hold the output."""
    refuse_inside(out, Path(str(run.record["data"])), what)
    folder = images if images.is_dir() else images.parent
    if images.is_dir() or folder.resolve() != Path.cwd():
        refuse_inside(out, folder, what)


def _open_like(run: RunFolder, root: Path, class_names: Sequence[str]) -> DataFolder:
    """Open a folder with the classes and groups of the run."""
    settings = run.record["settings"]
    single = len(class_names) == 1
    try:
        return open_folder(
            root,
            class_name=class_names[0] if single else None,
            class_names=None if single else list(class_names),
            group_pattern=settings.get("group_pattern"),
            require_tags=False,
        )
    except UsageError:
        return open_folder(root, class_names=list(class_names), require_tags=False)
