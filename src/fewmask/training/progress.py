"""A bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from fewmask.training.run_folder import RunFolder
from fewmask.training.signals import stop_if_asked

LINE_EVERY_SECONDS = 30.0
Item = TypeVar("Item")


class Progress:
    """Shows how far a loop is; a context manager.

    Args:
        title: What is under way.
        total: Number of steps; 0 if nobody knows.
        done: Steps done before (a resumed loop).
        unit: What a step is.
        run: Receives the plain lines; without a run they go to stderr alone.
    """

    def __init__(
        self, title: str, total: int, done: int, unit: str, run: RunFolder | None = None
    ) -> None:
        self.title, self.total, self.unit, self.run = title, total, unit, run
        self.first = done
        self.started = self.last_line = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not (self.run and self.run.quiet):
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
                self.title, total=self.total or None, completed=self.first, values=""
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
            place, rest = f"{done}/{self.total}", f", {left:.0f} s left"
            if done > self.total:  # unknown, or a clip longer than it says
                place, rest = f"{done}", ""
            line = f"{self.title}: {self.unit} {place}, {seconds:.0f} s{rest}  {shown}".rstrip()
            if self.run:
                self.run.log(line)
            else:
                print(line, file=sys.stderr, flush=True)  # noqa: T201

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items one by one, each shown when it is done; a signal to stop is obeyed between."""
        for number, item in enumerate(items, start=1):
            stop_if_asked()
            yield item
            self.advance(number, {})


def watched(items: Iterable[Item], total: int, title: str, unit: str) -> Iterator[Item]:
    """The items one by one, with their progress; a signal to stop is obeyed between."""
    with Progress(title, total, 0, unit) as progress:
        yield from progress.over(items)
