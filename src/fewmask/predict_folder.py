"""Pictures of a folder to masks: decoded, predicted and written side by side, here or on Ray.

Each file appears whole or not at all, the mask last, so that a mask that is there is finished.
Where it was stopped or killed, the same call goes on with what is missing.

On Ray (see :mod:`fewmask.engine`) each worker has its own copy of the network.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewmask.engine import Done, Engine, done_on_ray
from fewmask.errors import DataError, Interrupted, Problem
from fewmask.io.images import read_image, write_image, write_mask
from fewmask.report.figures import colours_like, drawn_ids, overlay
from fewmask.runtimes import AS_TRAINED, Form, Runtime
from fewmask.trained import Trained, open_trained
from fewmask.training.checkpoint import remove_temporaries, write_atomically
from fewmask.training.export import save_probs
from fewmask.training.progress import watched
from fewmask.training.run_folder import RunFolder

UNFINISHED = ".unfinished"
AHEAD = 4
"""Pictures that are decoded, or wait to be written, while another is predicted."""


class Outcome(NamedTuple):
    """Names of the pictures that have a mask now, and what was wrong with the others."""

    names: list[str]
    problems: list[Problem]


class Picture(NamedTuple):
    """A picture, its class probabilities (K + 1, H, W) and its mask (H, W)."""

    image: np.ndarray
    probs: np.ndarray
    mask: np.ndarray


class Predicting:
    """One picture after the other to files below a folder.

    Args:
        trained: What predicts.
        out: The folder.
        save_probs: Also write class probabilities.
    """

    def __init__(self, trained: Trained, out: Path, *, save_probs: bool) -> None:
        self.predictor, self.out, self.save_probs = trained.predictor, out, save_probs
        self.background = bool(trained.card.get("background", True))
        self.colours = colours_like(trained.card.get("class_colours", ()))

    def __call__(self, piece: tuple[str, str]) -> Done:
        """The name of a picture and its path: read, predict and write it."""
        name, path = piece
        try:
            image = read_image(path)
        except DataError as error:
            return Done(problems=error.problems)
        self.write(name, self.compute(image))
        return Done()

    def compute(self, image: np.ndarray) -> Picture:
        """The network's part."""
        probs = self.predictor.probs(image)
        return Picture(image, probs, self.predictor.mask_of_probs(image, probs))

    def write(self, name: str, picture: Picture) -> None:
        """Overlay, probabilities, and last the mask."""
        target = self.out / "masks" / f"{name}.png"
        drawn = self.out / "overlays" / f"{name}.png"
        for path in (target, drawn):
            path.parent.mkdir(parents=True, exist_ok=True)
        shown = drawn_ids(picture.mask, self.background)
        write_image(drawn, overlay(picture.image, shown, colours=self.colours))
        if self.save_probs:
            save_probs(self.out / "probs" / f"{name}.npy", picture.probs)
        write_mask(target, picture.mask)


def predict_pictures(
    trained: Trained,
    source: RunFolder | Path,
    found: Mapping[str, Path],
    out: Path,
    *,
    device: str = "auto",
    save_probs: bool = False,
    engine: Engine = Engine(),  # noqa: B008 - frozen
    runtime: Runtime = AS_TRAINED,
) -> Outcome:
    """Write a mask and an overlay of each picture.

    Args:
        trained: What predicts, opened from ``source``.
        source: A run, its path, or an exported file: workers open it themselves.
        found: Pictures by name.
        out: New or empty folder, or one in which the same was begun and not finished.
        device: See ``--device``.
        save_probs: Also write class probabilities.
        engine: Where it is done.
        runtime: The form in which the network computes; of ``auto`` the standard error tells which
            one was chosen. What is gone on with keeps its form.

    Raises:
        UsageError: ``out`` holds something else, or the run does not have this form.
        Interrupted: it was stopped; the same call goes on.
        ResourceError: the disk refuses, Ray is not installed, or its cluster cannot be reached.
    """
    form = _begin(out, trained, found, save_probs=save_probs, runtime=runtime)
    trained = trained.in_form(form)
    missing = {name: path for name, path in found.items()
               if not (out / "masks" / f"{name}.png").is_file()}  # fmt: skip
    try:
        if engine.kind == "ray":
            path = source.path if isinstance(source, RunFolder) else source
            opener = partial(_open, path.resolve(), device, form, out.resolve(), save_probs)
            pieces = [(name, str(path.resolve())) for name, path in missing.items()]
            done = done_on_ray(engine, pieces, opener, title="predict", unit="image")
            problems = {name: list(each.problems) for name, each in zip(missing, done, strict=True)
                        if each.problems}  # fmt: skip
        else:
            problems = _here(Predicting(trained, out, save_probs=save_probs), missing)
    except KeyboardInterrupt:
        raise Interrupted.of(
            "INTERRUPTED", where=out, found="a signal to stop",
            expected="finished masks kept, and they are", fix="the same command goes on",
        ) from None  # fmt: skip
    shutil.rmtree(out / UNFINISHED)
    remove_temporaries(out)
    told = [problem for of_one in problems.values() for problem in of_one]
    return Outcome([name for name in found if name not in problems], told)


def _open(source: Path, device: str, form: Form, out: Path, save_probs: bool) -> Predicting:
    """What a worker predicts with."""
    return Predicting(open_trained(source, device).in_form(form), out, save_probs=save_probs)


def _begin(
    out: Path, trained: Trained, found: Mapping[str, Path], *, save_probs: bool, runtime: Runtime
) -> Form:
    """Note what is written there, and choose the form; what was noted before must be the same."""
    names = "\n".join(f"{name}\t{path.resolve()}" for name, path in found.items())
    key = {
        "weights": trained.card.get("sha256") or trained.card.get("weights_sha256", ""),
        "pictures": sha256(names.encode(errors="surrogateescape")).hexdigest(),
        "probs": save_probs,
        "runtime": runtime,
    }
    noted = out / UNFINISHED / "state.json"
    try:
        state = json.loads(noted.read_text())
        form: Form = state.pop("form")
        if state == key:
            return form
    except (OSError, ValueError, LookupError, AttributeError):
        pass
    RunFolder.require_free(out)
    form, choice = trained.measured(runtime, len(found), _readable(found.values()))
    if choice:
        sys.stderr.write(f"{choice}\n")
    noted.parent.mkdir(parents=True)
    write_atomically(noted, json.dumps({**key, "form": form}).encode())
    return form


def _readable(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        with suppress(DataError):  # told later, with its name
            yield read_image(path)


def _here(work: Predicting, found: Mapping[str, Path]) -> dict[str, list[Problem]]:
    """Decode the next pictures and write the last ones while one is predicted.

    Returns:
        What is wrong with those that have no mask, by name.
    """
    problems: dict[str, list[Problem]] = {}
    todo = iter(found.items())
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: deque[Future[np.ndarray]] = deque()
        behind: deque[Future[None]] = deque()
        for _, path in zip(range(AHEAD), todo, strict=False):
            ahead.append(reader.submit(read_image, path[1]))
        for name in watched(found, len(found), "predict", "image"):
            image = ahead.popleft()
            if (following := next(todo, None)) is not None:
                ahead.append(reader.submit(read_image, following[1]))
            try:
                picture = work.compute(image.result())
            except DataError as error:
                problems[name] = list(error.problems)
                continue
            behind.append(writer.submit(work.write, name, picture))
            if len(behind) > AHEAD:
                behind.popleft().result()
        for last in behind:
            last.result()
    return problems
