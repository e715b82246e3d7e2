"""Apply a finished run to a georeferenced scene of any size: a GeoTIFF of class ids on its grid.

What is done is kept beside the output, so that the same command goes on after a stop.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import CheckpointError, Interrupted, UsageError
from fewmask.io.geotiff import BLOCK_PX, Scene, is_georeferenced
from fewmask.io.images import write_image
from fewmask.report.figures import colours_like, drawn_ids, overlay
from fewmask.runtimes import AS_TRAINED, Form, Runtime
from fewmask.trained import Trained
from fewmask.training.checkpoint import write_atomically
from fewmask.training.inference import predict_probs
from fewmask.training.progress import watched
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import SegmenterPredictor
from fewmask.training.signals import stop_if_asked
from fewmask.training.windows import (
    STRIDE,
    Grid,
    enlarged,
    needed,
    probs_of_bands,
    ready,
)

MOST_ENLARGED = 8
"""A scene is enlarged no more than so many times before the network sees it."""
UNFINISHED = ".unfinished"
"""Folder in the output where a scene under way is kept."""
OVERVIEW_PX = 2048
"""Longer side of the picture in ``overlays``."""
COLUMNS_PX = 1024
"""Columns of pixels that are enlarged at one time."""


@dataclass(frozen=True)
class SceneRequest:
    """How scenes are read.

    Attributes:
        image_px: Height and width in px that an image of the run's kind has in the scene.
        bands: See :class:`fewmask.io.geotiff.Scene`.
        margin_px: See :data:`fewmask.training.windows.MARGIN`.
    """

    image_px: tuple[int, int]
    bands: tuple[int, ...] = ()
    margin_px: int = 0

    @classmethod
    def of(
        cls,
        card: dict[str, Any],
        predictor: Any,
        path: Path,
        image_px: Sequence[int],
        bands: Sequence[int],
        margin_px: int = 0,
    ) -> SceneRequest:
        """What is asked for, or what the run's card says of its images.

        Raises:
            UsageError: no scene, a run that predicts from more than the image's pixels, or sizes
                that are none, or so small that a scene would be blown up.
            CheckpointError: nothing is asked for, and the card of an older version says nothing.
        """
        if not path.is_file() or not is_georeferenced(path):
            raise UsageError.of(
                "SCENE-MISSING",
                where="--image-px, --bands, --margin-px or --polygons",
                found=f"{path}, which is no georeferenced TIFF",
                expected="a scene; pictures are seen whole, by their own colours",
                fix="leave these out, or give one GeoTIFF",
            )
        if not isinstance(predictor, SegmenterPredictor):
            raise UsageError.of(
                "SCENE-RUN",
                where=path,
                found="a run whose masks need more than a segmenter",
                expected="a run that ends with a segmenter of the image alone",
                fix="cut the scene into pictures (gdal_retile.py -of PNG), or `fewmask train` on "
                "this run's masks",
            )
        given = list(image_px) or card.get("image_px")
        if not given:
            raise CheckpointError.of(
                "CARD-IMAGE-PX",
                where=path,
                found="no image_px in weights/card.json: the run is of an older version",
                expected="the usual height and width of the run's images",
                fix="--image-px H W: how many of the scene's pixels an image of the run's kind "
                "takes",
            )
        least = [-(-side // MOST_ENLARGED) for side in predictor.working_size]
        sides = [given[0], given[-1]]
        if len(given) > 2 or any(n < few for n, few in zip(sides, least, strict=True)):
            raise UsageError.of(
                "IMAGE-PX",
                where=f"--image-px {' '.join(map(str, given))}",
                found=f"{len(given)} numbers" if len(given) > 2 else "too few pixels to see by",
                expected=f"height and width, or one number for both, of {max(least)} or more",
                fix="count the scene's pixels that an image of the run's kind would take",
            )
        if margin_px < 0 or margin_px % STRIDE:
            raise UsageError.of(
                "MARGIN-PX", where=f"--margin-px {margin_px}", found="no multiple of that",
                expected=f"0 or a multiple of {STRIDE}", fix="leave it out",
            )  # fmt: skip
        return cls((sides[0], sides[1]), tuple(bands), margin_px)


def is_scene(predictor: Any, path: Path) -> bool:
    """Whether a path is a georeferenced TIFF, and a run can predict it as one."""
    return isinstance(predictor, SegmenterPredictor) and path.is_file() and is_georeferenced(path)


def predict_scene(
    trained: Trained,
    path: Path,
    out: Path,
    request: SceneRequest,
    runtime: Runtime = AS_TRAINED,
) -> Path:
    """Write ``OUT/masks/NAME.tif`` and a small ``OUT/overlays/NAME.jpg``.

    Args:
        trained: A segmenter. Its refinement, which knows images of the run's size, is left out.
        path: The scene.
        out: New or empty folder, or one in which the same was begun and not finished.
        request: How to read the scene.
        runtime: The form in which the network computes, as for pictures; the middle of the scene
            is what forms are measured on.

    Returns:
        The mask: uint8 class ids with the scene's coordinate system and transform, a colour table,
        255 where the scene has no data; ``.aux.xml`` beside it names the classes.

    Raises:
        DataError: the scene cannot be read.
        UsageError: ``out`` holds something else.
        Interrupted: it was stopped; the same call goes on.
        ResourceError: the disk refuses, or the extra ``geo`` is not installed.
    """
    with Scene(path, request.bands) as scene:
        grid = Grid.at_scale(
            scene.size, request.image_px, trained.predictor.working_size, request.margin_px
        )
        progress = _Progress.open(out, scene.size, {
            "scene": [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns],
            "weights": trained.card.get("sha256", ""), "grid": grid, "bands": request.bands,
            "runtime": runtime,
        })  # fmt: skip
        form = progress.form or _form(trained, runtime, scene, grid)
        progress.keep_form(form)
        try:
            _fill(progress, trained.in_form(form).predictor, scene, grid)
            target = _write(progress, trained.card, scene, out)
        except KeyboardInterrupt:
            raise Interrupted.of(
                "INTERRUPTED",
                where=out,
                found="a signal to stop",
                expected="finished bands kept, and they are",
                fix="the same command goes on",
            ) from None
    progress.remove()
    return target


def _form(trained: Trained, runtime: Runtime, scene: Scene, grid: Grid) -> Form:
    """Choose the form in which the windows are computed."""
    window = replace(trained.predictor, working_size=(grid.window, grid.window))
    down, across = grid.windows
    count = len(down) * len(across)
    form, choice = replace(trained, predictor=window).measured(
        runtime, count, _some_windows(scene, grid)
    )
    if choice:
        sys.stderr.write(f"{choice}\n")
    return form


def _some_windows(scene: Scene, grid: Grid) -> Iterator[np.ndarray]:
    """Pixels of a few windows, from the middle outwards."""
    for share in (0.5, 0.3, 0.7):
        yield scene.read(*(
            slice(first := int(share * max(pixels - size, 0)), min(first + size, pixels))
            for pixels, cells in zip(grid.pixels, grid.cells, strict=True)
            for size in (max(1, round(grid.window * pixels / cells)),)
        ))  # fmt: skip


def _write(progress: _Progress, card: dict[str, Any], scene: Scene, out: Path) -> Path:
    """The finished ids as a picture to look at, then as the mask."""
    target = out / "masks" / f"{scene.path.stem}.tif"
    for folder in ("masks", "overlays"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    background = bool(card.get("background", True))
    small = scene.small(OVERVIEW_PX)
    ids = drawn_ids(progress.small(small.shape[:2]), background)
    palette = colours_like(card.get("class_colours", ()))
    write_image(out / "overlays" / f"{target.stem}.jpg", overlay(small, ids, colours=palette))
    names = ["background"] * background + list(card["class_names"])
    colours = palette[drawn_ids(np.arange(len(names)), background)]
    colours[: int(background)] = 0
    with scene.writer(target, names, colours) as writer:
        for top in range(0, scene.size[0], BLOCK_PX):
            stop_if_asked()
            writer.write(top, progress.rows(top, top + BLOCK_PX))
    return target


def _fill(progress: _Progress, predictor: SegmenterPredictor, scene: Scene, grid: Grid) -> None:
    """Predict the bands that are missing."""
    if progress.done_rows == grid.pixels[0]:
        return

    def network(image: torch.Tensor) -> torch.Tensor:
        stop_if_asked()
        return predict_probs(predictor.network, image[None], views=predictor.views)[0]

    again = max(progress.bands - 1, 0)  # the next band needs the last rows of the one before
    count = len(grid.windows[0]) - again
    bands = probs_of_bands(network, scene.read, grid, begin=again)
    rest, first = torch.empty(0), 0  # rows of cells that are still needed, and the first of them
    for number, top, probs in watched(bands, count, "predict", "band"):
        rest, first = (torch.cat([rest, probs], 1), first) if rest.numel() else (probs, top)
        begin, end = progress.done_rows, ready(top + probs.shape[1], grid)
        for rows in _slices(begin, end, BLOCK_PX):
            ids = np.empty((rows.stop - rows.start, grid.pixels[1]), np.uint8)
            for columns in _slices(0, grid.pixels[1], COLUMNS_PX):
                valid = scene.valid(rows, columns)
                likeliest = enlarged(rest, first, grid, rows, columns).argmax(0).numpy()
                ids[:, columns] = np.where(valid, likeliest, IGNORE_INDEX)
            progress.write(rows.start, ids)
        progress.save(number + 1, max(begin, end))
        keep = min(needed(max(begin, end), grid), first + rest.shape[1])
        rest, first = rest[:, keep - first :], keep


def _slices(begin: int, end: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, end)) for first in range(begin, end, step)]


class _Progress:
    """A scene's ids as far as they are known, on the disk: rows of bytes, and how many of them."""

    def __init__(self, folder: Path, size: tuple[int, int], state: dict[str, Any]) -> None:
        self.folder, self.size, self._state = folder, size, state

    @classmethod
    def open(cls, out: Path, size: tuple[int, int], key: dict[str, Any]) -> _Progress:
        """What was begun in an output, if it was the same, or a new beginning.

        Raises:
            UsageError: the output holds something else.
        """
        folder, key = out / UNFINISHED, json.loads(json.dumps(key))
        try:
            state = json.loads((folder / "state.json").read_text())
            if state["key"] == key and (folder / "ids.raw").is_file():
                return cls(folder, size, state)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        RunFolder.require_free(out)
        folder.mkdir(parents=True)
        (folder / "ids.raw").touch()
        begun = cls(folder, size, {"key": key})
        begun.save(0, 0)
        return begun

    def remove(self) -> None:
        """Forget it: the mask is written."""
        shutil.rmtree(self.folder)

    @property
    def bands(self) -> int:
        """Bands of windows that are finished."""
        return int(self._state["bands"])

    @property
    def done_rows(self) -> int:
        """Rows of pixels that are finished."""
        return int(self._state["rows"])

    @property
    def form(self) -> Form | None:
        """The form of the network that the bands are computed in, once it is chosen."""
        return self._state.get("form")

    def keep_form(self, form: Form) -> None:
        """Say which it is."""
        self._state["form"] = form
        self.save(self.bands, self.done_rows)

    def write(self, top: int, ids: np.ndarray) -> None:
        """Keep (n, width) uint8 ids, the rows from ``top`` on."""
        with (self.folder / "ids.raw").open("r+b") as stream:
            stream.seek(top * self.size[1])
            stream.write(ids.tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def save(self, bands: int, rows: int) -> None:
        """Say that so much is on the disk."""
        self._state |= {"bands": bands, "rows": rows}
        write_atomically(self.folder / "state.json", json.dumps(self._state).encode())

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows of ids, as far as there are any."""
        height, width = self.size
        with (self.folder / "ids.raw").open("rb") as stream:
            stream.seek(first * width)
            found = np.frombuffer(stream.read((min(last, height) - first) * width), np.uint8)
        return found.reshape(-1, width)

    def small(self, size: tuple[int, int]) -> np.ndarray:
        """The nearest ids on a smaller grid."""
        rows, columns = ((np.arange(n) * own) // n for n, own in zip(size, self.size, strict=True))
        return np.stack([self.rows(row, row + 1)[0, columns] for row in rows.tolist()])
