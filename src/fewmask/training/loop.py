"""The one loop of every stage: resumable, interruptible, watched, and bit-identical after a kill.

::

    loop = Loop(stage, total_steps, seed=seed, state={"network": network, "optimizer": optimizer})
    for step in loop:                       # goes on where the newest checkpoint stopped
        loss = ...
        loop.update(optimizer, loss)        # backward, gradient check, step
        loop.record(loss=loss)

All randomness of a step is seeded from (seed, stage, loop, step) before its body runs, so there is
no generator state to save and none to lose.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from fewmask.errors import Interrupted, NumericalError, Problem, shell_command
from fewmask.randomness import seed_all
from fewmask.training.checkpoint import CheckpointStore, Stateful, disk_error
from fewmask.training.distributed import anywhere, processes, rank
from fewmask.training.progress import Progress
from fewmask.training.run_folder import Stage
from fewmask.training.shared_batches import Team
from fewmask.training.signals import stop_requested


class Loop:
    """Steps ``0 … total_steps - 1`` of a stage, with checkpoints in between.

    Args:
        stage: Where checkpoints and records go.
        total_steps: Length of the loop.
        seed: The run's seed.
        state: Everything that a step changes and a later step reads. Networks, optimisers, EMA,
            image pools; a missing key would show as a difference after a resume.
        name: Tells several loops of one stage apart.
        drawn_by: Name by which random numbers are drawn; default ``name``.
        save_every_steps: A checkpoint after so many steps …
        save_every_seconds: … or after so many seconds, whichever comes first.
        before_save: Called before a checkpoint is written (to flush memory-mapped results).
        unit: What a step is, for the progress line.
        resumable: False for a short loop that begins anew after an interruption.
        team: The processes that take each step together: gradients are summed, and all stop after
            the same step. In any case only the first process of a run writes checkpoints.
    """

    def __init__(
        self,
        stage: Stage,
        total_steps: int,
        *,
        seed: int,
        state: Mapping[str, Stateful],
        name: str = "steps",
        drawn_by: str | None = None,
        save_every_steps: int | None = None,
        save_every_seconds: float = 120.0,
        before_save: Callable[[], None] | None = None,
        unit: str = "step",
        resumable: bool = True,
        team: Team | None = None,
    ) -> None:
        self.stage = stage
        self.total_steps = total_steps
        self.seed = seed
        self.state = dict(state)
        self.name, self.drawn_by = name, drawn_by or name
        self.save_every_steps = save_every_steps
        self.save_every_seconds = save_every_seconds
        self.before_save = before_save
        self.unit = unit
        self.resumable, self.team = resumable, team or Team()
        self.store = CheckpointStore(stage.checkpoints / name)
        self.step = 0
        self._records: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[int]:
        self.step = 0
        meta: dict[str, Any] = {}
        warnings: list[str] = []
        if self.resumable:
            self.step, meta, warnings = self.store.load_latest(self.state)
        for warning in warnings:
            self.stage.run.log(f"passed over a damaged checkpoint: {warning}")
        if self.step:
            self.stage.run.log(f"{self.stage.label}: going on after {self.unit} {self.step}")
            self._warn_of_other_sums(meta)
        if self.team.parts and self.team.count < processes():
            self.stage.run.log(f"{self.stage.label}: too few images a step to be shared out")
        self.stage.forget_metrics(self.step, self.name)
        saved_at, saved_step = time.monotonic(), self.step
        title = self.stage.label if self.name == "steps" else f"{self.stage.label} {self.name}"
        with Progress(title, self.total_steps, self.step, self.unit, self.stage.run) as progress:
            while self.step < self.total_steps:
                self._stop_if_asked(saved_step)
                seed_all(self.seed, self.stage.label, self.drawn_by, self.step)
                yield self.step
                self.step += 1
                progress.advance(self.step, self._records[-1] if self._records else {})
                due = time.monotonic() - saved_at >= self.save_every_seconds or (
                    self.save_every_steps and self.step % self.save_every_steps == 0
                )
                if due or self.step == self.total_steps:
                    self.save()
                    saved_at, saved_step = time.monotonic(), self.step
        self._flush_records()

    def update(
        self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, *, max_norm: float = math.inf
    ) -> None:
        """Backward, a check that every gradient is finite, and the optimiser's step.

        Raises:
            NumericalError: the loss or a gradient is NaN or infinite; the weights are untouched.
        """
        self.require_finite(loss=loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.step_optimizer(optimizer, max_norm=max_norm)

    def step_optimizer(
        self, optimizer: torch.optim.Optimizer, *, max_norm: float = math.inf
    ) -> None:
        """The optimiser's step on gradients that are there already (after accumulation)."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.team.add_gradients(parameters)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(norm):
            raise self._not_finite(self._name_of_bad_gradient(parameters))
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        optimizer.step()

    def record(self, **values: float | torch.Tensor) -> None:
        """Keep numbers of this step for ``metrics.jsonl``; they must be finite."""
        self.require_finite(**values)
        numbers = {name: _number(value) for name, value in values.items()}
        self._records.append({"loop": self.name, "step": self.step, **numbers})

    def require_finite(self, **values: float | torch.Tensor) -> None:
        """Stop with exit code 13 if a value is NaN or infinite.

        Raises:
            NumericalError: names the value.
        """
        for name, value in values.items():
            if not math.isfinite(_number(value)):
                raise self._not_finite(name)

    def save(self) -> None:
        """Write a checkpoint now; only the first of several processes does."""
        if not self.resumable or rank() > 0:
            return
        try:
            if self.before_save:
                self.before_save()
            self._flush_records()
            self.stage.keep_seconds()
        except OSError as error:
            raise disk_error(self.stage.path, error) from error
        meta = {"threads": torch.get_num_threads(), "processes": self.team.count}
        self.store.save(self.step, self.state, meta)

    def _flush_records(self) -> None:
        self.stage.record_metrics(self._records)
        self._records = []

    def _stop_if_asked(self, saved_step: int) -> None:
        if anywhere(stop_requested()) if self.team.count > 1 else stop_requested():
            if self.step > saved_step:
                self.save()
            raise Interrupted.of(
                "INTERRUPTED",
                where=f"{self.stage.label} after {self.unit} {self.step} of {self.total_steps}",
                found="a signal to stop",
                expected="everything saved, and it is",
                fix=shell_command("resume", self.stage.run.path),
            )

    def _warn_of_other_sums(self, meta: Mapping[str, Any]) -> None:
        now = {"threads": torch.get_num_threads(), "processes": self.team.count}
        before = {"threads": meta.get("threads"), "processes": meta.get("processes", 1)}
        for name, count in now.items():
            if before[name] != count:
                self.stage.run.log(
                    f"NOT-BIT-EXACT: saved with {before[name]} {name}, now {count}; "
                    "the result will differ in the last digits"
                )

    def _name_of_bad_gradient(self, parameters: list[torch.Tensor]) -> str:
        bad = next(
            (p for p in parameters if p.grad is not None and not p.grad.isfinite().all()), None
        )
        if bad is None:
            return "the norm of all gradients"
        for key, item in self.state.items():
            if isinstance(item, torch.nn.Module):
                for name, parameter in item.named_parameters():
                    if parameter is bad:
                        return f"gradient of {key}.{name}"
        return "a gradient"

    def _not_finite(self, name: str) -> NumericalError:
        kept = self.store.complete()
        return NumericalError(
            Problem(
                "NOT-FINITE",
                f"{self.stage.label} {self.unit} {self.step}: {name}",
                "NaN or infinity",
                "a finite number",
                "lower the learning rate and start a new run; last good state: "
                + (kept[-1].name if kept else "the start of the stage"),
            )
        )


def _number(value: float | torch.Tensor) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)
