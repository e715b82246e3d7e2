"""A bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from fewmask.training.run_folder import RunFolder

LINE_EVERY_SECONDS = 30.0


class Progress:
    """Shows how far a loop is; a context manager.

    Args:
        title: What is under way.
        total: Number of steps.
        done: Steps done before (a resumed loop).
        unit: What a step is.
        run: Receives the plain lines.
    """

    def __init__(self, title: str, total: int, done: int, unit: str, run: RunFolder) -> None:
        self.title, self.total, self.unit, self.run = title, total, unit, run
        self.first = done
        self.started = self.last_line = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self.run.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                "{task.description}",
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                "{task.fields[values]}",
                console=Console(stderr=True),
            )
            self.bar.start()
            self.task = self.bar.add_task(
                self.title, total=self.total, completed=self.first, values=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, done: int, values: Mapping[str, Any]) -> None:
        """Show that ``done`` steps are finished, with the newest recorded values."""
        shown = " ".join(
            f"{name} {value:.4g}" for name, value in values.items() if name not in {"loop", "step"}
        )
        now = time.monotonic()
        if self.bar:
            self.bar.update(self.task, completed=done, values=shown)
        elif done == self.total or now - self.last_line >= LINE_EVERY_SECONDS:
            self.last_line = now
            seconds = now - self.started
            left = seconds / max(done - self.first, 1) * (self.total - done)
            self.run.log(
                f"{self.title}: {self.unit} {done}/{self.total}, {seconds:.0f} s, "
                f"{left:.0f} s left  {shown}".rstrip()
            )
