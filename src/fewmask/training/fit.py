"""Fit a classifier or a segmenter: the supervised training that all pipelines share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fewmask.data.loading import TrainingSet, images_per_step, step_loader, steps_per_epoch
from fewmask.training.distributed import from_first, rank, take_weights_of_first
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.shared_batches import Team
from fewmask.training.signals import step_first


@dataclass(frozen=True)
class FitSettings:
    """How long and how fast.

    Attributes:
        epochs: Passes over the training rows.
        min_steps: No fewer optimiser steps than this: few rows get more passes.
        batch_size: Images a step.
        learning_rate: Highest rate of the schedule.
        optimizer: ``sgd`` has momentum 0.9; ``adam`` and ``adamw`` torch's defaults.
        weight_decay: L2 penalty (``sgd``, ``adam``) or decoupled decay (``adamw``).
        schedule: ``constant``, or ``cosine`` to zero after a linear rise over 5 % of the steps.
        ema_decay: Weights averaged over steps are the result if > 0.
        ema_from_start: The average begins with the weights that the training begins with, instead
            of forgetting them quickly: for a network that is trained already.
        micro_batch_size: Largest number of images at once, on all processes together; gradients
            are accumulated over the batch. 0 = the whole batch.
        keep: ``last`` weights, or the ``best`` by the validation score.
        validate_every_epochs: How often the validation score is taken.
        max_gradient_norm: Gradients are scaled down to it.
        encoder_rate: Learning rate of parameters below a module called ``encoder``, as a fraction.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    min_steps: int = 0
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = 0.0
    ema_from_start: bool = False
    micro_batch_size: int = 0
    keep: Literal["last", "best"] = "last"
    validate_every_epochs: int = 1
    max_gradient_norm: float = math.inf
    encoder_rate: float = 1.0


Teach = Callable[[int, Tensor, Tensor, Callable[[Tensor], Tensor], nn.Module], Tensor]
"""A further loss of a step: (step, image, target, network, average) to a scalar. ``image`` and
``target`` are the step's batch, ``average`` is the network with averaged weights. ``network`` may
share what it is given among several processes; all are to give it the same."""


class Best:
    """The weights with the highest score so far."""

    def __init__(self) -> None:
        self.score, self.step = -math.inf, -1
        self.weights: dict[str, Tensor] = {}

    def offer(self, score: float, step: int, network: nn.Module) -> None:
        """Keep a copy of ``network``'s weights if ``score`` is the highest."""
        if score > self.score:
            self.score, self.step = score, step
            self.weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Score, step and weights."""
        return {"score": self.score, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put them back."""
        self.score, self.step = state_dict["score"], state_dict["step"]
        self.weights = state_dict["weights"]


def fit(
    stage: Stage,
    network: nn.Module,
    dataset: TrainingSet,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    settings: FitSettings,
    *,
    seed: int,
    device: torch.device,
    name: str = "steps",
    drawn_by: str | None = None,
    score: Callable[[nn.Module], float] | None = None,
    workers: int = 0,
    shares: np.ndarray | None = None,
    teach: Teach | None = None,
) -> nn.Module:
    """Train ``network`` on ``dataset`` inside a resumable loop.

    Where a run has several processes, all call this with the same arguments, and share each batch.

    Args:
        stage: Holds checkpoints and records.
        network: image (N, 3, H, W) in [0, 1] to logits; changed in place.
        dataset: Images and targets.
        loss_function: ``(logits, target)`` to a scalar, a mean over the batch. It gets the whole
            batch, or micro-batch, in every process.
        settings: Length, rates, averaging.
        seed: The run's seed.
        device: Where to train.
        name: Tells several trainings of a stage apart.
        drawn_by: Name by which random numbers are drawn; default ``name``.
        score: Validation score of a network, higher is better; never sees test data.
        workers: Loader processes; the result does not depend on them.
        shares: How often each position of ``dataset`` is drawn; None = once an epoch. See
            :func:`fewmask.data.loading.step_loader`.
        teach: A further loss of each step, added to that on ``dataset``. It needs ``ema_decay``.

    Returns:
        The network with its final weights (EMA or best if asked for), in eval mode. Its tensors
        lie in memory as those of a network that was loaded: the last digits depend on that.
    """
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = _optimizer(settings, network)
    per_epoch = steps_per_epoch(len(dataset), settings.batch_size)
    total_steps = max(settings.epochs * per_epoch, settings.min_steps)
    state: dict[str, Any] = {"network": network, "optimizer": optimizer}
    if settings.ema_decay:
        steady = settings.ema_from_start
        decay = (get_ema_multi_avg_fn if steady else warm_ema)(settings.ema_decay)
        state["ema"] = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
        state["ema"].n_averaged += steady  # otherwise the first update is a copy
    if settings.keep == "best":
        state["best"] = Best()
    count = images_per_step(len(dataset), settings.batch_size, shares)
    team = Team(_part_sizes(count, settings.micro_batch_size))
    loop = Loop(
        stage,
        total_steps,
        seed=seed,
        state=state,
        name=name,
        drawn_by=drawn_by,
        save_every_steps=per_epoch,
        team=team,
    )
    batches = None
    for step in loop:
        if batches is None:  # the loop knows only now where it goes on
            batches = step_loader(
                dataset,
                settings.batch_size,
                total_steps=total_steps,
                first_step=step,
                workers=workers,
                shares=shares,
                own=team.own,
            )
        image, target = (tensor.to(device) for tensor in next(batches))
        image = image.contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * _schedule(settings.schedule, step, total_steps)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for size, part, part_target in zip(
            team.parts, team.split(image), team.split(target), strict=True
        ):
            logits = team.logits(network, part, size)
            loss = loss_function(logits, team.gather(part_target, size)) * (size / count)
            loop.require_finite(loss=loss)
            loss.backward()
            total += loss.item()
        values = {"loss": total}
        if teach:
            shown, truth = team.whole(image), team.whole(target)
            loss = teach(step, shown, truth, team.network(network), state["ema"].module)
            loop.require_finite(taught=loss)
            loss.backward()
            values["taught"] = loss.item()
        loop.step_optimizer(optimizer, max_norm=settings.max_gradient_norm)
        if settings.ema_decay:
            state["ema"].update_parameters(network)
        epoch, place = divmod(step + 1, per_epoch)
        if score and place == 0 and epoch % settings.validate_every_epochs == 0:
            judged = state["ema"].module if settings.ema_decay else network
            judged.eval()
            with step_first():
                values["score"] = from_first(score(judged) if rank() == 0 else -math.inf)
            network.train()
            if settings.keep == "best":
                state["best"].offer(values["score"], step, judged)
        loop.record(**values)
    if settings.ema_decay:
        network.load_state_dict(state["ema"].module.state_dict())
    if settings.keep == "best" and state["best"].weights:
        network.load_state_dict(state["best"].weights)
    take_weights_of_first(network)
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def warm_ema(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that forgets its start quickly.

    After n updates the decay is ``min(decay, (1 + n) / (10 + n))``: without that, a short training
    would keep a good part of the untrained weights.

    Args:
        decay: Of a long training, in (0, 1).

    Returns:
        A ``multi_avg_fn`` for :class:`torch.optim.swa_utils.AveragedModel`.
    """

    @torch.no_grad()
    def update(averages: Any, current: Any, count: Tensor | int) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - now)
            else:
                average.copy_(value)

    return update


def _optimizer(settings: FitSettings, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser with two groups of parameters; ``highest`` is a group's own highest rate."""
    slow: list[nn.Parameter] = []
    quick: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (slow if "encoder" in name.split(".") else quick).append(parameter)
    rate = settings.learning_rate
    parameters = [
        {"params": members, "highest": rate * factor}
        for members, factor in ((quick, 1.0), (slow, settings.encoder_rate))
        if members
    ]
    common: dict[str, Any] = {"lr": rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, **common)
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, **common)
    return torch.optim.AdamW(parameters, **common)


def _schedule(kind: str, step: int, total_steps: int) -> float:
    """Factor on the learning rate at a step, in (0, 1].

    >>> [round(_schedule("cosine", step, 100), 2) for step in (0, 4, 5, 52, 99)]
    [0.2, 1.0, 1.0, 0.51, 0.0]
    """
    if kind == "constant":
        return 1.0
    rise = max(1, total_steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total_steps - rise)))


def _part_sizes(count: int, most: int) -> list[int]:
    """Sizes of the parts of a batch, of at most so many images each; 0 = all in one.

    >>> _part_sizes(7, 3), _part_sizes(7, 0)
    ([3, 3, 1], [7])
    """
    most = most or count
    return [min(most, count - start) for start in range(0, count, most)]
