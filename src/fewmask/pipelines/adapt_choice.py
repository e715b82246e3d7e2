"""Part of pipeline ``adapt``: what is chosen without a mask, target images and the network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import nn

from fewmask.data.light import light_score
from fewmask.io.images import read_image
from fewmask.metrics.choice import Method, choose
from fewmask.models.features import level_statistics
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.adapt_data import domain_rows, masked_rows
from fewmask.pipelines.adapt_teaching import information, use_statistics_of
from fewmask.training.inference import vector_of
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import Workspace

QUANTILES = (0.05, 0.95)
"""Of the target's light scores: outside it an image is not chosen by histogram."""
ENOUGH_FOR_QUANTILES = 20
"""With fewer target images none is too dark or too light."""
BEGIN = "the start"


def choose_targets(work: Workspace, stage: Stage) -> None:
    """The target images to learn from: those most like the target as a whole.

    Source: sections 3.4 and 4.2, choice by histogram and by FID; see ``fewmask select``.
    """
    config: AdaptConfig = work.config
    rows = domain_rows(work, "target", "train")
    keep = max(1, round(config.choose_share * len(masked_rows(work, "source"))))
    measure: Callable[[np.ndarray], float | np.ndarray] = light_score
    if config.choose_method == "distance":
        network = level_statistics(config.choose_encoder, config.choose_weights)
        measure = partial(vector_of, network.to(work.device))
    loop = Loop(stage, len(rows), seed=config.seed, state={}, unit="image", resumable=False)
    measured = {
        str(row): measure(read_image(work.data.samples[row].image_path))
        for row in (rows[i] for i in loop)
    }
    method: Method = "distance" if config.choose_method == "distance" else "histogram"
    quantiles = QUANTILES if len(rows) >= ENOUGH_FOR_QUANTILES else (0.0, 1.0)
    found = choose(method, measured, measured, keep, None, None, quantiles)
    work.run.log(f"{stage.label}: {found}")
    names = {work.data.samples[int(row)].id: found.scores[row] for row in found.kept}
    stage.write_json("chosen.json", names)


def chosen_rows(work: Workspace) -> list[int]:
    """Target rows to learn from."""
    rows = domain_rows(work, "target", "train")
    if "choose" not in work.stages:
        return rows
    chosen = work.stages["choose"].read_json("chosen.json")
    return [row for row in rows if work.data.samples[row].id in chosen]


class Choice:
    """The network to hand out, chosen by what its labels tell about the target images.

    With ``adapt_target_statistics`` each network is there twice: as it is, and normalising by the
    statistics of the target images. Without ``adapt_stop_if_worse`` the last one as it is is kept,
    or, where statistics are all that is learned (``adapt_method``), with those of the target.

    Attributes:
        information: Of each network offered, by name, in nats.
        kept: Name of the one to hand out.
        network: It itself.
    """

    def __init__(self, work: Workspace, rows: Sequence[int]) -> None:
        self.work, self.rows = work, rows
        self.information: dict[str, float] = {}
        self.kept = ""
        self.network = nn.Module()

    def offer(self, name: str, network: nn.Module) -> bool:
        """Measure a network; returns whether it, in either form, is the one kept now."""
        config: AdaptConfig = self.work.config
        forms, wanted = {name: network}, name
        if config.adapt_target_statistics and len(self.rows) > 1:
            other = copy.deepcopy(network)
            use_statistics_of(other, self.work.images, self.rows)
            of_target = f"{name}, statistics of the target"
            forms[of_target] = other
            wanted = of_target if config.adapt_method == "statistics" else name
        better = False
        for form, candidate in forms.items():
            found = information(candidate, self.work.images, self.rows)
            best = max(self.information.values(), default=-math.inf)
            self.information[form] = found
            if found > best if config.adapt_stop_if_worse else form == wanted:
                self.kept, self.network, better = form, candidate, True
        return better
