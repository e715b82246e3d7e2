"""Which pixels made a network say so: ``fewmask explain``, for a run's networks and timm's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.attribution.cam import eval_mode
from fewmask.attribution.explain import Explainer, RegionLogits
from fewmask.attribution.maps import class_called, require_count, require_size
from fewmask.attribution.methods import METHODS
from fewmask.data.files import images_below
from fewmask.data.transforms import resize_image, to_unit
from fewmask.engine import Done, Engine, each_done
from fewmask.errors import DataError, Problem, UsageError
from fewmask.io.images import read_image, write_image
from fewmask.models.classifier import (
    CLASSIFIER_TARGET_LAYER,
    OWN_WEIGHTS,
    imagenet_class_names,
    imagenet_classifier,
    imagenet_size,
)
from fewmask.pipelines.finished import predictor_of_run, read_card, restore_workspace
from fewmask.pipelines.saliency_maps import classifier_of
from fewmask.pipelines.tags_evidence import EvidenceMaker
from fewmask.randomness import seed_all
from fewmask.report.figures import heat_overlay, strip_png
from fewmask.training.checkpoint import remove_temporaries
from fewmask.training.device import choose_device
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import refuse_inside
from fewmask.training.workspace import csv_cell

TIMM = "timm:"
Part = Literal["auto", "classifier", "segmenter"]


@dataclass(frozen=True)
class Explained:
    """A network that can be asked about its classes.

    Attributes:
        network: Image (N, 3, H, W) float in [0, 1] to logits (N, C); a segmenter stands behind
            ``RegionLogits``.
        size: Height and width in px at which it works.
        class_names: Of each logit.
        layer: Dotted name of the layer for CAMs, or None.
        background: Whether the first class of a segmenter is the background.
    """

    network: nn.Module
    size: tuple[int, int]
    class_names: Sequence[str]
    layer: str | None = None
    background: bool = False


def explain(
    network: str,
    images: str | Path,
    out: str | Path,
    *,
    methods: Sequence[str] = ("grad_cam",),
    weights: str | None = None,
    part: Part = "auto",
    class_name: str | None = None,
    layer: str | None = None,
    size: tuple[int, int] | None = None,
    cache: str | Path | None = None,
    batch_size: int = 16,
    device: str = "auto",
    engine: Engine = Engine(),  # noqa: B008 - frozen
) -> list[Path]:
    """Write for each image and method a map, the map over the image, and a strip of all methods.

    ``OUT/maps/<method>/<name>.png`` is grey, 0 to 255, at the image's own size; ``OUT/overlays``
    and ``OUT/strips`` are to look at; ``OUT/explained.csv`` names the class that was explained.

    Args:
        network: A run folder, or ``timm:NAME`` for a network with ImageNet's classes.
        images: An image, or a folder (searched through its sub-folders) of images.
        out: New or empty folder, not inside ``images``.
        methods: Any of :data:`fewmask.attribution.methods.METHODS`.
        weights: Of timm's network: ``packaged``, ``imagenet``, a file or ``none``; None is what
            needs no file.
        part: Of a run: its tag classifier or its segmenter; auto is the classifier, if there is
            one.
        class_name: Explain this class, by its name or its number; None is what the network says of
            each image: a classifier's highest logit, a segmenter's largest class but background.
        layer: Dotted name of the layer for CAMs.
        size: Height and width in px to work at; None is the run's, or 224 x 224 (of timm's
            networks that take one size only, that).
        cache: Folder in which maps are kept, to be made once.
        batch_size: Images at one time; those that cannot be read leave their batch smaller.
        device: See ``--device``.
        engine: Where it is done, a batch at a time.

    Returns:
        The maps' paths.

    Raises:
        UsageError: no such network, method, class or layer; no images; ``out`` holds something.
        DataError: images that cannot be read (all at once, after the others are done), or an
            ``out`` inside the images.
        ResourceError: see :mod:`fewmask.engine`.
    """
    require_count("batch_size", batch_size)
    if size is not None and min(size) < 1:
        raise UsageError.of(
            "IMAGE-SIZE",
            where="--size",
            found=f"{size[0]} x {size[1]} px",
            expected="a height and a width of 1 px or more",
            fix="leave it out, or --size 224 224",
        )
    images, out = Path(images), Path(out)
    methods = [_known_method(method) for method in methods]
    found = images_below(images)
    RunFolder.require_free(out)
    if images.is_dir():
        refuse_inside(out, images)
        if cache is not None:
            refuse_inside(Path(cache), images, "--cache")
    source = network if network.startswith(TIMM) else str(Path(network).resolve())
    opener = partial(
        Explaining, source, methods, out.resolve(), weights=weights, part=part,
        class_name=class_name, layer=layer, size=size,
        cache=None if cache is None else Path(cache).resolve(), batch_size=batch_size,
        device=device,
    )  # fmt: skip
    named = [(name, str(path.resolve())) for name, path in found.items()]
    pieces = [named[first : first + batch_size] for first in range(0, len(named), batch_size)]
    problems: list[Problem] = []
    written: list[Path] = []
    for done in each_done(engine, pieces, opener(), opener, title="explain", unit="batch"):
        problems += done.problems
        if done.result:
            _append(out / "explained.csv", "image,class,name,logit", done.result.values())
        written += [out / "maps" / m / f"{name}.png" for name in done.result for m in methods]
    remove_temporaries(out)
    if problems:
        raise DataError(*problems, _partial(images, len(problems), len(found), out))
    return written


class Explaining:
    """Explains a batch of images after the other, to files below a folder.

    Args:
        network: As in :func:`explain`, like the others.
        methods: Known ones.
        out: The folder.

    Raises:
        UsageError: no such network, class or layer, or it cannot work at this size.
    """

    def __init__(
        self, network: str, methods: Sequence[str], out: Path, *, weights: str | None, part: Part,
        class_name: str | None, layer: str | None, size: tuple[int, int] | None,
        cache: Path | None, batch_size: int, device: str,
    ) -> None:  # fmt: skip
        self.out, self.device = out, choose_device(device)
        self.asked = asked = _network(network, weights, part, self.device)
        self.size = size or asked.size
        fix = f"--size {asked.size[0]} {asked.size[1]}"
        require_size(asked.network, self.size, "--size", fix, self.device)
        self.index = (
            None if class_name is None else class_called(class_name, asked.class_names, "--class")
        )
        self.explainers = {
            method: Explainer(
                asked.network, method, layer or asked.layer, batch_size=batch_size, cache=cache
            )
            for method in methods
        }

    def __call__(self, batch: Sequence[tuple[str, str]]) -> Done:
        """Names and paths of images to the line of each that could be read."""
        images: dict[str, np.ndarray] = {}
        problems: list[Problem] = []
        for name, path in batch:
            try:
                images[name] = read_image(path)
            except DataError as error:
                problems += error.problems
        lines: dict[str, str] = {}
        if images:
            pixels = torch.stack(
                [to_unit(resize_image(image, *self.size)) for image in images.values()]
            )
            classes, logits = _answers(self.asked, pixels.to(self.device), self.index)
            maps = {m: list(each.maps(pixels, classes)) for m, each in self.explainers.items()}
        for i, (name, image) in enumerate(images.items()):
            own = {m: resize_image(of_all[i], *image.shape[:2]) for m, of_all in maps.items()}
            _write(self.out, name, image, own)
            said = csv_cell(self.asked.class_names[classes[i]])
            lines[name] = f"{csv_cell(name)},{classes[i]},{said},{logits[i]:.4f}"
        return Done(lines, problems)


def _known_method(name: str) -> str:
    method = name.strip().lower().replace("-", "_")
    if method not in METHODS:
        close = get_close_matches(method, METHODS, n=3, cutoff=0.4)
        raise UsageError.of(
            "EXPLAIN-METHOD",
            where="--method",
            found=repr(name),
            expected="any of " + ", ".join(METHODS),
            fix="use " + " or ".join(close or METHODS[:1]),
        )
    return method


def _network(source: str, weights: str | None, part: Part, device: torch.device) -> Explained:
    if source.startswith(TIMM):
        name = source.removeprefix(TIMM)
        seed_all(0, "explain", "weights")  # of random ones, so that they are the same each time
        classifier = imagenet_classifier(name, weights or _own_weights(name))
        classes, layer = imagenet_class_names(), CLASSIFIER_TARGET_LAYER.get(name)
        return Explained(classifier.to(device).eval(), imagenet_size(name), classes, layer)
    if weights is not None:
        raise UsageError.of(
            "EXPLAIN-WEIGHTS",
            where="--weights",
            found=f"{weights}, for the run {source}",
            expected="none: a run has its own",
            fix="leave out --weights, or --network timm:NAME",
        )
    run = RunFolder.open(Path(source))
    names = list(read_card(run)["class_names"])
    pipeline = run.record["pipeline"]
    tagged = pipeline == "tags"
    if pipeline == "saliency" and part != "segmenter":
        work, _ = restore_workspace(run, device)
        config, kept = work.config, work.stages["saliency"].path
        found = classifier_of(config, kept=kept)
        size = (config.saliency_image_size, config.saliency_image_size)
        return Explained(found.network.to(device), size, found.class_names, found.layer)
    if part == "classifier" and not tagged:
        raise UsageError.of(
            "EXPLAIN-PART",
            where="--part",
            found=f"classifier, of a run of `fewmask {pipeline}`",
            expected="a run of `fewmask tags` or `fewmask saliency`, which have one",
            fix="--part segmenter",
        )
    if tagged and part != "segmenter":
        work, _ = restore_workspace(run, device)
        maker = EvidenceMaker.of(work)
        exclusive = work.config.classify_loss == "cross_entropy"
        layer = next(n for n, each in maker.classifier.named_modules() if each is maker.layer)
        size = (maker.cam_image_size, maker.cam_image_size)
        return Explained(maker.classifier, size, ["none"] * exclusive + names, layer)
    predictor = predictor_of_run(run, device)
    network = getattr(predictor, "network", None)
    if not isinstance(network, nn.Module):
        raise UsageError.of(
            "EXPLAIN-PART",
            where=source,
            found="a run whose masks are not made by one network from the image alone",
            expected="a run with a segmenter of images",
            fix="--part classifier" if pipeline in {"tags", "saliency"} else "another run",
        )
    background = bool(read_card(run).get("background", True))
    names = ["background"] * background + names
    return Explained(RegionLogits(network), predictor.working_size, names, background=background)


def _own_weights(name: str) -> str:
    if name not in OWN_WEIGHTS:
        raise UsageError.of(
            "EXPLAIN-WEIGHTS",
            where=f"--network {TIMM}{name}",
            found="a network whose weights need a file",
            expected=f"one of {', '.join(OWN_WEIGHTS)}, or --weights",
            fix=f"--weights FILE with weights of {name}",
        )
    return OWN_WEIGHTS[name]


@torch.no_grad()
def _answers(asked: Explained, image: Tensor, index: int | None) -> tuple[list[int], list[float]]:
    """The class that is explained of each image, and its logit."""
    with eval_mode(asked.network):
        logits = asked.network(image)
        if index is not None:
            classes = torch.full((len(image),), index, device=logits.device)
        elif isinstance(asked.network, RegionLogits):
            classes = _largest(asked.network.segmenter(image).argmax(1), asked)
        else:
            classes = logits.argmax(1)
    return classes.tolist(), logits.gather(1, classes[:, None])[:, 0].tolist()


def _largest(mask: Tensor, asked: Explained) -> Tensor:
    """(N,) the class with most pixels of each mask (N, H, W); the background only if alone."""
    areas = torch.stack([m.flatten().bincount(minlength=len(asked.class_names)) for m in mask])
    if asked.background:
        areas[:, 0] = areas[:, 0] > 0  # one pixel at most
    return areas.argmax(1)


def _write(out: Path, name: str, image: np.ndarray, maps: dict[str, np.ndarray]) -> None:
    """The maps of an image, grey and over it, and a strip of all.

    Over the image they reach the brightest colour at their 99 % quantile: a gradient's few highest
    pixels would leave the rest in the dark.
    """
    panels: list[tuple[str, np.ndarray]] = [("image", image)]
    for method, own in maps.items():
        drawn = heat_overlay(image, np.minimum(own / max(np.quantile(own, 0.99), 1.0), 1.0))
        panels.append((method.replace("_", " "), drawn))
        for kind, picture in (("maps", own), ("overlays", drawn)):
            path = out / kind / method / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, picture)
    strip = out / "strips" / f"{name}.png"
    strip.parent.mkdir(parents=True, exist_ok=True)
    strip.write_bytes(strip_png(panels))


def _append(path: Path, head: str, lines: Iterable[str]) -> None:
    first = [] if path.exists() else [head]
    with path.open("a", encoding="utf-8") as stream:
        stream.write("\n".join([*first, *lines]) + "\n")


def _partial(images: Path, unreadable: int, asked: int, out: Path) -> Problem:
    return Problem(
        "EXPLAIN-PARTIAL",
        str(images),
        f"{unreadable} of {asked} images that cannot be read; the others are in {out}",
        "images that can be read",
        "mend or remove them, then explain into another -o",
    )
