"""Choose, from a pool of unlabelled images, those that are like a target: ``fewmask select``.

=============  =======================================================  ========================
method         score of an image                                        kept
=============  =======================================================  ========================
``distance``   squared distance to the target in a network's features   the nearest
``histogram``  light score S = (0.5 R + G + B) / 2.5                    within a range of S
``grey``       mean grey level: day or night                            within a range of levels
=============  =======================================================  ========================

Source: the adapt pipeline, sorting of its translation data and choice of its unlabelled images.
Differs: A range comes from quantiles of the target instead of fixed thresholds, unless ``low`` or
``high`` give one. Features are means and deviations of EfficientNet-Lite0's channels at five levels
instead of InceptionV3's last ones (``features="last"`` is their counterpart, and finds content
rather than light: ``benchmarks/select_retrieval.py``), so that the published threshold of the
distance (450) does not carry over.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from fewmask.data.files import images_below
from fewmask.data.light import NIGHT_BELOW_GREY, grey_level, light_score
from fewmask.errors import DataError, Problem, UsageError
from fewmask.io.images import read_image
from fewmask.metrics.choice import Method, Selection, choose
from fewmask.models.features import level_statistics, pooled_features
from fewmask.models.weights import PACKAGED_ENCODER
from fewmask.training.arithmetic import arithmetic
from fewmask.training.device import choose_device
from fewmask.training.inference import vector_of
from fewmask.training.progress import watched
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import refuse_inside
from fewmask.training.workspace import csv_cell


def select(
    pool: str | Path,
    out: str | Path,
    *,
    like: str | Path | None = None,
    method: Method = "distance",
    keep: int | None = None,
    low: float | None = None,
    high: float | None = None,
    quantiles: tuple[float, float] = (0.05, 0.95),
    copy: bool = True,
    features: Literal["levels", "last"] = "levels",
    encoder: str = PACKAGED_ENCODER,
    encoder_weights: str = "packaged",
    device: str = "auto",
) -> Selection:
    """Score every image of a pool and keep the fitting ones.

    Args:
        pool: Folder of images, or one image.
        out: New or empty folder: ``selected.csv`` (all images) and ``images/`` (copies of the kept
            ones).
        like: Folder of images of the target; may lie inside the pool, of which it is then no part.
            ``distance`` needs it.
        method: See the module's table.
        keep: No more than so many. By distance: the nearest. By light or grey level: those nearest
            to the target's median; without a target, to the middle of the range, or farthest from
            its only bound.
        low: Lowest score to keep.
        high: Highest score to keep.
        quantiles: The range of a light score or grey level, as quantiles of the target's scores,
            where neither ``low`` nor ``high`` is given.
        copy: Whether to copy the kept images.
        features: What ``distance`` compares: :func:`fewmask.models.features.level_statistics`, or
            the classifier's last ones, :func:`fewmask.models.features.pooled_features`.
        encoder: timm's name of the network whose features ``distance`` compares.
        encoder_weights: ``packaged``, or a file.
        device: See ``--device``.

    Returns:
        Scores and choice; the same are in ``selected.csv``.

    Raises:
        UsageError: no images, nothing to choose by, or ``out`` holds something already.
        DataError: images that cannot be read (all of them at once, after the others are done); no
            image with a score in the range (``selected.csv`` is written all the same); or an
            ``out`` inside the images.
    """
    pool, out, like = Path(pool), Path(out), Path(like) if like else None
    _refuse_unclear(like, method, keep, low, high, quantiles)
    chosen_device = choose_device(device)
    RunFolder.require_free(out)
    images = images_below(pool)
    target = images_below(like) if like else {}
    for folder in filter(None, (pool, like)):
        if folder.is_dir():
            refuse_inside(out, folder)
    inside = {path.resolve() for path in target.values()}
    images = {name: path for name, path in images.items() if path.resolve() not in inside}
    if not images:
        raise UsageError.of(
            "POOL-EMPTY",
            where=pool,
            found="no image that is not one of --like",
            expected="images to choose from",
            fix="give another pool",
        )
    with arithmetic(0):
        if method == "distance":
            build = level_statistics if features == "levels" else pooled_features
            network = build(encoder, encoder_weights).to(chosen_device)
            measure: Measure = partial(vector_of, network)
        else:
            measure = light_score if method == "histogram" else grey_level
        of_target, problems = _measured(target, measure, "target")
        of_pool, more = _measured(images, measure, "pool")
    problems += more
    if like and not of_target:
        raise DataError(*problems)
    found = choose(method, of_pool, of_target, keep, low, high, quantiles)
    _write(found, images, out, copy=copy)
    if problems:
        raise DataError(*problems, _partial(pool, len(problems), len(images) + len(target), out))
    if not found.kept:
        raise DataError.of(
            "SELECT-NONE",
            where=pool,
            found=f"{found}; scores from {min(found.scores.values(), default=0):.4g} to "
            f"{max(found.scores.values(), default=0):.4g}",
            expected="images in the range",
            fix=f"another range, see {out / 'selected.csv'}; then another -o",
        )
    return found


Measure = Callable[[np.ndarray], "float | np.ndarray"]


def _refuse_unclear(
    like: Path | None,
    method: str,
    keep: int | None,
    low: float | None,
    high: float | None,
    quantiles: tuple[float, float],
) -> None:
    """Refuse a question that has no answer, before anything is read."""
    bounded = low is not None or high is not None
    problems = []
    if method == "distance" and like is None:
        problems.append(("--like", "nothing", "a folder of target images", "--like TARGET"))
    if method != "distance" and like is None and not bounded:
        night = f", for night --method grey --high {NIGHT_BELOW_GREY:g}"
        problems.append(("--like", "neither a target nor a range", "one of them",
                         f"--like TARGET, or --low and --high{night}"))  # fmt: skip
    if method == "distance" and keep is None and not bounded:
        problems.append(("--keep", "nothing", "how many to keep", "--keep 1600, or --high"))
    if keep is not None and keep < 1:
        problems.append(("--keep", str(keep), "1 or more", "--keep 1600"))
    if low is not None and high is not None and low > high:
        problems.append(("--low", f"{low:g} above --high {high:g}", "low to high", "swap them"))
    if not 0 <= quantiles[0] < quantiles[1] <= 1:
        problems.append(("--quantiles", "{:g} {:g}".format(*quantiles), "two rising numbers in "
                         "[0, 1]", "--quantiles 0.05 0.95"))  # fmt: skip
    if problems:
        raise UsageError(*(Problem("SELECT", *problem) for problem in problems))


def _measured(
    images: Mapping[str, Path], measure: Measure, title: str
) -> tuple[dict[str, float | np.ndarray], list[Problem]]:
    found: dict[str, float | np.ndarray] = {}
    problems: list[Problem] = []
    for name, path in watched(images.items(), len(images), title, "image"):
        try:
            found[name] = measure(read_image(path))
        except DataError as error:
            problems += error.problems
    return found, problems


def _write(found: Selection, images: Mapping[str, Path], out: Path, *, copy: bool) -> None:
    """``selected.csv``, the kept images first, and their copies."""
    out.mkdir(parents=True, exist_ok=True)
    if copy:
        for name in watched(found.kept, len(found.kept), "copy", "image"):
            path = out / "images" / f"{name}{images[name].suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(images[name], path)
    kept = set(found.kept)
    rest = sorted((name for name in found.scores if name not in kept), key=found.scores.__getitem__)
    lines = ["image,score,kept"]
    lines += [
        f"{csv_cell(name)},{found.scores[name]:.6g},{int(name in kept)}"
        for name in (*found.kept, *rest)
    ]
    (out / "selected.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _partial(pool: Path, unreadable: int, asked: int, out: Path) -> Problem:
    return Problem(
        "SELECT-PARTIAL",
        str(pool),
        f"{unreadable} of {asked} images that cannot be read; the choice among the others is in "
        f"{out}",
        "images that can be read",
        "mend or remove them, then select into another -o; or use what is there",
    )
