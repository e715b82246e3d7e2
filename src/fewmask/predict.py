"""Apply a finished run: masks for a folder of images, or scores on a folder with masks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.content import digest_of
from fewmask.data.domains import open_labelled
from fewmask.data.files import images_below
from fewmask.data.folder import DataFolder, open_folder, read_target
from fewmask.data.label_sets import read_label_set
from fewmask.data.roles import is_negative, role_of
from fewmask.engine import Engine
from fewmask.errors import DataError, LeakError, Problem, UsageError
from fewmask.io.geopackage import require_straight_grid, write_polygons
from fewmask.io.images import IMAGE_SUFFIXES, read_image, write_mask
from fewmask.layouts.stacks import is_stack
from fewmask.metrics.confusion import confusion_matrix, summarise
from fewmask.pipelines.finished import predictor_of_run, read_card
from fewmask.pipelines.running import data_folders_of, folds_of_run, recorded_settings
from fewmask.predict_folder import predict_pictures
from fewmask.predict_formats import Format, hand_over, require_formats
from fewmask.predict_scene import SceneRequest, is_scene, predict_scene
from fewmask.predict_volume import predict_volumes
from fewmask.runtimes import Runtime
from fewmask.trained import open_trained
from fewmask.training.device import choose_device
from fewmask.training.evaluation import with_empty_background
from fewmask.training.known_images import KnownImages
from fewmask.training.progress import watched
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import refuse_inside
from fewmask.training.workspace import UNUSED


def predict(
    run: RunFolder | Path,
    images: Path,
    out: Path,
    *,
    device: str = "auto",
    probs: bool = False,
    image_px: Sequence[int] = (),
    bands: Sequence[int] = (),
    margin_px: int = 0,
    polygons: bool = False,
    window: tuple[float, float] | None = None,
    to: Sequence[Format] = (),
    engine: Engine = Engine(),  # noqa: B008 - frozen
    runtime: Runtime = "auto",
) -> list[Path]:
    """Write ``OUT/masks/<name>.png`` (class ids) and ``OUT/overlays/<name>.png`` for each image.

    ``OUT/classes.csv`` names the ids, unless 0 is one of the classes.

    NIfTI volumes and DICOM series give a mask of the same kind each, see
    :func:`fewmask.predict_volume.predict_volumes`.

    Where a folder was stopped, the same call goes on with what is missing.

    A single georeferenced TIFF is a scene where the run ends with a segmenter: it is read by
    windows, and its mask is a GeoTIFF, see :func:`fewmask.predict_scene.predict_scene`. Where that
    was stopped, the same call goes on.

    Args:
        run: A finished run, or a file of ``fewmask export``.
        images: An image, or a folder (searched through its sub-folders) of images.
        out: New or empty folder, neither inside ``images`` (or the folder of a single image, unless
            that is the working folder), nor inside the data folder that ``images`` is a part of,
            nor inside the run's data.
        device: See ``--device``.
        probs: Also write ``OUT/probs/<name>.npy``, float16 (K + 1, H, W); a scene is then a
            picture like any other.
        image_px: Height and width in px, or one number for both, that an image of the run's kind
            has in a scene; without it, what the run's images have.
        bands: Of a scene, see :class:`fewmask.io.geotiff.Scene`.
        margin_px: Of a scene: pixels at the network's scale at a window's border that have no say;
            0: 64. As wide as the network looks, windows give what the whole scene at once would.
        polygons: Of a scene: also write ``OUT/polygons/NAME.gpkg``.
        window: Of volumes, values that become black and white; None: as ``fewmask check --fix``.
        to: Of a folder of images, what else to write, see
            :func:`fewmask.predict_formats.hand_over`; what is worth knowing about these files goes
            to the standard error.
        engine: Of pictures, where they are predicted.
        runtime: The form in which the network computes, see :mod:`fewmask.runtimes`. Of ``auto`` it
            is measured where there are many pictures or windows; of volumes nothing is measured.

    Returns:
        The masks' paths; each mask has the size of its image.

    Raises:
        DataError: images that cannot be read (all of them at once, after the others are done).
            Also an ``out`` inside a data folder.
        UsageError: no images, ``out`` holds something already, or a scene is asked for and there
            is none, or none that the run can predict.
    """
    trained = open_trained(run, device)
    predictor, card = trained.predictor, trained.card
    if runtime != "auto":
        trained.in_form(runtime)  # refused before anything is written
    require_formats(images, to, card)
    if is_stack(images):
        _refuse_flags(
            images, probs=probs, image_px=image_px, bands=bands, margin_px=margin_px,
            polygons=polygons,
        )  # fmt: skip
        RunFolder.require_free(out)
        _refuse_in_data(out, trained.data_folders, images)
        form, _ = trained.measured(runtime, 0, ())
        return predict_volumes(trained.in_form(form).predictor, card, images, out, window)
    if window is not None:
        raise UsageError.of("VOLUME-MISSING", where="--window", found=f"{images}, no volume",
                            expected="NIfTI or DICOM", fix="leave out --window")  # fmt: skip
    found = images_below(images)
    if image_px or bands or margin_px or polygons or (not probs and is_scene(predictor, images)):
        _refuse_in_data(out, trained.data_folders, images)
        request = SceneRequest.of(card, predictor, images, image_px, bands, margin_px)
        if polygons:
            require_straight_grid(images)
        scene = predict_scene(trained, images, out, request, runtime)
        if polygons:
            _write_polygons(scene, out / "polygons", card)
        return [scene]
    _refuse_in_data(out, trained.data_folders, images)
    names, problems = predict_pictures(
        trained, run, found, out, device=device, save_probs=probs, engine=engine, runtime=runtime
    )
    written = [out / "masks" / f"{name}.png" for name in names]
    for note in hand_over(images, out, card, to) if written else ():
        sys.stderr.write(f"{note}\n")
    if problems:
        left = f"the {len(written)} others are in {out}" if written else "nothing was written"
        raise DataError(
            *problems,
            Problem(
                "PREDICT-PARTIAL",
                str(images),
                f"{len(problems)} of {len(found)} images that cannot be read; {left}",
                "images that can be read",
                "mend or remove them, then predict into another -o",
            ),
        )
    return written


def _refuse_flags(images: Path, **given: object) -> None:
    """Refuse what means nothing for volumes."""
    for name in (name for name, value in given.items() if value):
        flag = f"--{name.replace('_', '-')}".replace("--probs", "--save-probs")
        raise UsageError.of("VOLUME-FLAG", where=flag, found=f"volumes, {images}",
                            expected="pictures or a scene", fix=f"leave out {flag}")  # fmt: skip


def _write_polygons(mask: Path, folder: Path, card: Mapping[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    background = bool(card.get("background", True))
    write_polygons(
        mask, folder / f"{mask.stem}.gpkg", card["class_names"], has_background=background
    )


def evaluate(
    run: RunFolder,
    root: Path,
    *,
    device: str = "auto",
    save_masks: Path | None = None,
    predictor: Any = None,
) -> dict[str, Any]:
    """Measure a finished run on a folder with masks.

    On the run's own data only its test part is measured: on the folder that it was started with, or
    wherever exactly the same images lie. On other data, images that the run was trained on are a
    leak, also as copies in another format, mirrored, turned by quarters, resized or compressed anew
    (see :mod:`fewmask.data.copies`).

    Args:
        run: A finished run.
        root: A folder with masks.
        device: See ``--device``.
        save_masks: New folder for the predicted masks.
        predictor: To measure in place of the run's own: another form of its network.

    Returns:
        Metrics by the names of ``docs/metrics.md``, with ``n`` and ``n_groups``; ``measured`` says
        in words which images and weights these are.

    Raises:
        LeakError: training images among those to be measured, up to five of them by name. Or the
            run was copied without the list of them.
        CheckpointError: the run's weights, card or list of images is damaged.
        DataError: no masks, unreadable files, or ``save_masks`` inside a data folder.
    """
    card = read_card(run)
    predictor = predictor or predictor_of_run(run, choose_device(device))
    data = _open_like(run, root, card)
    known = KnownImages.of(run)
    lent = KnownImages.lent_to(run)
    if save_masks is not None:
        RunFolder.require_free(save_masks)
        _refuse_in_data(save_masks, data_folders_of(run), root, "--save-masks")
    learned, digests = _learned(known, lent, data)
    own = root.resolve() in data_folders_of(run) or known.are_these(digests)
    if learned and not own:
        raise LeakError(_leak(root, learned))
    names, background = card["class_names"], card.get("background", True)
    num_classes = len(names) + background
    matrices, groups = [], []
    unseen = [
        sample
        for sample, digest in zip(data.samples, digests, strict=True)
        if sample.id not in learned and known.part_of(digest) != UNUSED
    ]
    for sample in watched(unseen, len(unseen), "evaluate", "image"):
        target = read_target(sample, data)
        if target is None:
            continue
        image = read_image(sample.image_path)
        mask = predictor.mask_of_probs(image, predictor.probs(image))
        matrices.append(confusion_matrix(target, mask, num_classes))
        groups.append(sample.group)
        if save_masks is not None:
            path = save_masks / f"{sample.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, mask)
    if not matrices:
        raise DataError.of(
            "NO-MASKS",
            where=root,
            found="no image with a true mask that the run has not seen",
            expected="masks/ with the stems of the images",
            fix="evaluate on other images" if learned else "add masks",
        )
    measured = f"{len(matrices)} of {len(data.samples)} images: " + (
        "the run's test part" if own else "none that the run has learned from"
    )
    if learned:
        measured += f"; {len(learned)} that it has learned from are left out"
    if len(matrices) < len(unseen):
        measured += f"; {len(unseen) - len(matrices)} without a true mask are left out"
    folds = folds_of_run(recorded_settings(run)[1])
    if len(folds) > 1:
        measured += f"; weights and test part of fold {folds[0]} of {len(folds)}"
    stacked = np.stack(matrices)
    if not background:
        stacked = with_empty_background(stacked)
    return {"measured": measured, **summarise(stacked, names, groups=groups)}


def _learned(
    known: KnownImages, lent: Sequence[KnownImages], data: DataFolder
) -> tuple[dict[str, str], list[str]]:
    """What the run, or weights lent to it, have learned from, in words by id; and all digests."""
    learned, digests = {}, []
    for sample in watched(data.samples, len(data.samples), "compare", "image"):
        image = read_image(sample.image_path)
        digests.append(digest_of(image))
        if what := known.learned(image):
            learned[sample.id] = what
        elif what := next(filter(None, (each.learned(image) for each in lent)), ""):
            learned[sample.id] = f"{what} that lent its weights"
    return learned, digests


def _leak(root: Path, learned: dict[str, str]) -> Problem:
    named = ", ".join(f"{name} ({what})" for name, what in list(learned.items())[:5])
    more = f" and {len(learned) - 5} more" if len(learned) > 5 else ""
    count = "1 image" if len(learned) == 1 else f"{len(learned)} images"
    return Problem(
        "LEAK",
        str(root),
        f"{count} that the run has learned from: {named}{more}",
        "images that the run has not seen",
        "evaluate on other images, or on all of the run's own data (its test part)",
    )


def _refuse_in_data(out: Path, folders: Sequence[Path], images: Path, what: str = "-o") -> None:
    """Keep data read-only: no folder of images, nor the data folder around it, holds the output."""
    for data in folders:
        refuse_inside(out, data, what)
    folder = (images if images.is_dir() else images.parent).resolve()
    if images.is_file() and folder == Path.cwd():
        return
    refuse_inside(out, folder, what)
    while _is_part_of_data(folder):
        folder = folder.parent
        refuse_inside(out, folder, what)


def _is_part_of_data(folder: Path) -> bool:
    """Whether the folder above looks like a data folder, of which this one holds the images."""
    above = folder.parent
    if (above / "tags.csv").is_file():
        return True
    return any(
        (is_negative(path.name) or role_of(path.name) == "masks") and _holds_images(path)
        for path in above.iterdir()
        if not path.name.startswith(".")
    )


def _holds_images(path: Path) -> bool:
    """Whether there are image files in it, not counting those in its own folders."""
    return path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())


def _open_like(run: RunFolder, root: Path, card: Mapping[str, Any]) -> DataFolder:
    """Open a folder with the classes and groups of the run."""
    settings, class_names = run.record["settings"], card["class_names"]
    if "label_set" in card:
        labels = read_label_set(card["label_set"])
        return open_labelled(root, labels, settings.get("group_pattern"))
    single = len(class_names) == 1
    try:
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
    except DataError as error:
        names = ", ".join(class_names)
        fix = f"rename or remove what is tagged otherwise: the run knows {names}"
        raise DataError(
            *(replace(p, fix=fix) if p.code == "CLASS-UNKNOWN" else p for p in error.problems)
        ) from None
