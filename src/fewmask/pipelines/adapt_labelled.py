"""Part of pipeline ``adapt``: the labelled images to train on, as they are and translated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.appearance import TRANSLATIONS, Translate, in_light_of
from fewmask.data.loading import Sparse
from fewmask.data.mixing import rare_image_shares
from fewmask.data.transforms import resize_image
from fewmask.io.images import read_image
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.adapt_data import domain_rows, masked_rows
from fewmask.pipelines.adapt_translation import load_unit, translate_image
from fewmask.randomness import generator
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import true_targets
from fewmask.training.workspace import Workspace, open_array

LEAST_PX = 16
"""An image has a class, for the draw by rare classes, if so many pixels of its mask do."""


def translators(work: Workspace) -> dict[str, Translate]:
    """The translations that the settings ask for, UNIT and the cheap ones behind one signature.

    Each takes a source image, a target image and a generator, and gives the source image in the
    target's light; UNIT has learned that light and looks at neither of the two others. Images may
    have any size; UNIT works at the working size.
    """
    found = {
        name: partial(in_light_of, name) if work.config.render_noise else TRANSLATIONS[name]
        for name in work.config.render_methods
        if name != "unit"
    }
    if "unit" in work.config.render_methods:
        unit = load_unit(work)
        size = work.config.working_size
        found["unit"] = lambda image, _reference, _rng: translate_image(
            unit, resize_image(image, *size), "b"
        )
    return found


LARGEST = 2
"""Images are translated at their own size, or at so many times the working size: noise is made
before they are made small, as in a camera."""


def read_to_translate(path: Path, working_size: tuple[int, int]) -> np.ndarray:
    """An image as large as it is to be translated, (H, W, 3) uint8."""
    image = read_image(path)
    sides = zip(image.shape[:2], working_size, strict=True)
    return resize_image(image, *(min(own, LARGEST * working) for own, working in sides))


def render(work: Workspace, stage: Stage) -> None:
    """Translate each labelled image ``render_copies`` times; its mask stays valid."""
    config: AdaptConfig = work.config
    source, target = masked_rows(work, "source"), domain_rows(work, "target", "train")
    by_name, names = translators(work), config.render_methods
    count = config.render_copies * len(source)
    rendered = open_array(stage.path / "rendered.npy", np.uint8, (count, *config.working_size, 3))
    loop = Loop(stage, count, seed=config.seed, state={}, before_save=rendered.flush, unit="image")
    origins: list[dict[str, Any]] = []
    references = generator(config.seed, stage.label, "references").choice(target, count)
    for i in range(count):
        copy, k = divmod(i, len(source))
        method = names[(copy + k) % len(names)]
        parents = [source[k]] if method == "unit" else [source[k], int(references[i])]
        name = f"translated/{work.data.samples[source[k]].id}-{copy}"
        ids = [work.data.samples[row].id for row in parents]
        origins.append({"id": name, "method": method, "parents": ids})

    def seen(row: int) -> np.ndarray:
        return read_to_translate(work.data.samples[row].image_path, config.working_size)

    for i in loop:
        rng = generator(config.seed, stage.label, i)
        image, reference = seen(source[i % len(source)]), seen(references[i])
        made = by_name[origins[i]["method"]](image, reference, rng)
        rendered[i] = resize_image(made, *config.working_size)
    rendered.flush()
    stage.write_json("rendered.json", origins)


@dataclass(frozen=True)
class Labelled:
    """Images with targets to train on, and how often each is drawn.

    Attributes:
        images: Arrays (N_i, H, W, 3) uint8, one after the other.
        targets: Their masks (N_j, H, W) uint8, cut otherwise perhaps; as many in all.
        rows: Rows of all arrays together.
        shares: (len(rows),) float that sums to 1.
    """

    images: tuple[np.ndarray, ...]
    targets: tuple[np.ndarray | Sparse, ...]
    rows: list[int]
    shares: np.ndarray

    def joined(
        self,
        images: np.ndarray,
        targets: Sequence[np.ndarray],
        share: float,
        weights: np.ndarray,
    ) -> Labelled:
        """These and others, which then have ``share`` of all draws, by their ``weights``."""
        first = sum(len(array) for array in self.images)
        return Labelled(
            (*self.images, images),
            (*self.targets, *targets),
            [*self.rows, *range(first, first + len(images))],
            np.concatenate([self.shares * (1 - share), weights / weights.sum() * share]),
        )


def labelled(
    work: Workspace, *, target_masks: bool = False, translated: float | None = None
) -> Labelled:
    """The labelled source images.

    Args:
        work: Images, masks, settings.
        target_masks: Also target images with their true masks: for the oracle alone.
        translated: Share of the translated copies, if there are any; default ``render_share``.
    """
    config: AdaptConfig = work.config
    source = masked_rows(work, "source")
    rows = [*source, *(masked_rows(work, "target") if target_masks else ())]
    truth = true_targets(work, rows)
    shares = np.full(len(rows), 1 / len(rows))
    if config.segment_rare_classes:
        counts = [np.bincount(truth[row].ravel(), minlength=256) for row in rows]
        shares = rare_image_shares(np.stack(counts)[:, : work.num_classes], least_px=LEAST_PX)
    plain = Labelled((work.images,), (truth,), rows, shares)
    share = config.render_share if translated is None else translated
    if not share or "render" not in work.stages:
        return plain
    rendered = np.load(work.stages["render"].path / "rendered.npy", mmap_mode="r")
    copies = len(rendered) // len(source)
    masks = [truth.array[: len(source)]] * copies
    return plain.joined(rendered, masks, share, np.tile(shares, copies))
