"""Translate images between the domains of a finished ``adapt`` run: ``fewmask translate``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from fewmask.data.appearance import TRANSLATIONS, in_light_of
from fewmask.data.files import images_below
from fewmask.data.transforms import resize_image
from fewmask.engine import Done, Engine, each_done
from fewmask.errors import DataError, Problem, UsageError
from fewmask.io.images import read_image, write_image
from fewmask.pipelines.adapt_config import RenderMethod
from fewmask.pipelines.adapt_data import open_domains
from fewmask.pipelines.adapt_labelled import read_to_translate
from fewmask.pipelines.adapt_translation import load_unit, translate_image
from fewmask.pipelines.finished import restore_workspace
from fewmask.pipelines.running import data_folders_of
from fewmask.randomness import generator
from fewmask.training.checkpoint import remove_temporaries
from fewmask.training.device import choose_device
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import refuse_inside
from fewmask.training.workspace import Workspace

Domain = Literal["target", "source"]


def translate(
    run: RunFolder,
    images: Path,
    out: Path,
    *,
    to: Domain = "target",
    method: RenderMethod | None = None,
    device: str = "auto",
    engine: Engine = Engine(),  # noqa: B008 - frozen
) -> list[Path]:
    """Write ``OUT/<name>.png``, each image in the light of the other domain, at its own size.

    Args:
        run: A finished ``adapt`` run.
        images: An image, or a folder (searched through its sub-folders) of images.
        out: New or empty folder, neither inside ``images`` nor inside the run's data.
        to: The domain whose light is wanted.
        method: ``unit``, which works at the run's working size and is enlarged after that, as
            published; or a cheap one, which takes the light of a random training image of that
            domain, read from the run's data. Default: the first of the run's ``render_methods``.
        device: See ``--device``.
        engine: Where it is done, an image at a time.

    Returns:
        The paths written.

    Raises:
        UsageError: no ``adapt`` run, not finished, UNIT was not trained in it, no images, or
            ``out`` holds something already; a cheap method, and the run's data is not there.
        DataError: images that cannot be read (all at once, after the others are done), or an
            ``out`` inside the images or the run's data.
        ResourceError: see :mod:`fewmask.engine`.
    """
    if run.record["pipeline"] != "adapt":
        raise UsageError.of(
            "TRANSLATE-RUN",
            where=run.path,
            found=f"a run of `fewmask {run.record['pipeline']}`",
            expected="a run of `fewmask adapt`, which knows two domains",
            fix="fewmask adapt --source DAY --target NIGHT",
        )
    opener = partial(Translating, run.path.resolve(), out.resolve(), to, method, device)
    work = opener()
    found = images_below(images)
    RunFolder.require_free(out)
    for folder in data_folders_of(run):
        refuse_inside(out, folder)
    if images.is_dir():
        refuse_inside(out, images)
    written: list[Path] = []
    problems: list[Problem] = []
    pieces = [(name, str(path.resolve())) for name, path in found.items()]
    every = each_done(engine, pieces, work, opener, title="translate", unit="image")
    for name, done in zip(found, every, strict=True):
        if done.problems:
            problems += done.problems
        else:
            written.append(out / f"{name}.png")
    remove_temporaries(out)
    if problems:
        raise DataError(
            *problems,
            Problem(
                "TRANSLATE-PARTIAL",
                str(images),
                f"{len(problems)} of {len(found)} images that cannot be read; "
                f"{len(written)} others are in {out}",
                "images that can be read",
                "mend or remove them, then translate into another -o",
            ),
        )
    return written


class Translating:
    """Translates one image after the other, to files below a folder.

    Args:
        run: As in :func:`translate`, like the others.
        out: The folder.

    Raises:
        UsageError: the run cannot translate so.
    """

    def __init__(
        self, run: Path, out: Path, to: Domain, method: RenderMethod | None, device: str
    ) -> None:
        work, _ = restore_workspace(RunFolder.open(run), choose_device(device))
        chosen: str = method or next(iter(work.config.render_methods), "histogram")
        self.out, self.translator = out, _translator(work, chosen, to)

    def __call__(self, piece: tuple[str, str]) -> Done:
        """The name of an image and its path: read, translate and write it."""
        name, path = piece
        try:
            image = read_image(path)
        except DataError as error:
            return Done(problems=error.problems)
        result = self.out / f"{name}.png"
        result.parent.mkdir(parents=True, exist_ok=True)
        write_image(result, self.translator(image, name))
        return Done()


def _translator(
    work: Workspace, method: str, to: Domain
) -> Callable[[np.ndarray, str], np.ndarray]:
    """(image, name) to the translated image."""
    if method not in get_args(RenderMethod):
        raise UsageError.of(
            "TRANSLATE-METHOD",
            where="--method",
            found=repr(method),
            expected="one of " + ", ".join(get_args(RenderMethod)),
            fix="leave out --method",
        )
    if method == "unit":
        if "translate" not in work.stages:
            raise UsageError.of(
                "TRANSLATE-METHOD",
                where=work.run.path,
                found="a run in which UNIT was not trained",
                expected="one started with --render-methods unit",
                fix="--method histogram, or a new run",
            )
        unit = load_unit(work)

        def by_unit(image: np.ndarray, name: str) -> np.ndarray:  # noqa: ARG001
            small = resize_image(image, *work.config.working_size)
            made = translate_image(unit, small, "b" if to == "target" else "a")
            return resize_image(made, *image.shape[:2])

        return by_unit
    config, learned = work.config, set(work.parts["train"])
    samples = open_domains(Path(work.run.record["data"]), config).samples
    references = [s.image_path for s in samples if s.id in learned and s.id.startswith(f"{to}/")]
    if not references:
        raise UsageError.of(
            "TRANSLATE-DATA",
            where=work.run.record["data"],
            found=f"none of the images of the {to} that the run has learned from",
            expected="one at least, to take the light of",
            fix="put them back, or --method unit if the run has one",
        )

    def cheaply(image: np.ndarray, name: str) -> np.ndarray:
        rng = generator(config.seed, "translate", name)
        path = references[rng.choice(len(references))]
        reference = read_to_translate(path, config.working_size)
        if config.render_noise:
            return in_light_of(method, image, reference, rng)
        return TRANSLATIONS[method](image, reference, rng)

    return cheaply
