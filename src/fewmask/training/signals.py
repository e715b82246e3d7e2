"""SIGTERM and Ctrl-C set a flag; loops look at it, save, and stop with exit code 75."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

_stop_requested = threading.Event()
_step_first: ContextVar[bool] = ContextVar("step_first", default=False)


def stop_requested() -> bool:
    """Whether a signal has asked for a stop."""
    return _stop_requested.is_set()


def stop_if_asked() -> None:
    """Between two pieces of work that can simply be done again: stop if a signal has asked for it.

    Costs next to nothing. A loop with a state of its own saves it first, see
    :class:`fewmask.training.loop.Loop`, and work inside its steps stands under :func:`step_first`.

    Raises:
        KeyboardInterrupt: as Ctrl-C does where nothing listens; in a run it becomes exit code 75
            with the command that goes on.
    """
    if _stop_requested.is_set() and not _step_first.get():
        raise KeyboardInterrupt


@contextmanager
def step_first() -> Iterator[None]:
    """Within the block :func:`stop_if_asked` lets pass: the loop around it will save and stop."""
    token = _step_first.set(True)
    try:
        yield
    finally:
        _step_first.reset(token)


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[None]:
    """Within the block SIGTERM or SIGINT only sets the flag; a second SIGINT stops at once.

    Not if it is ``patient``: ``torchrun`` passes a Ctrl-C on that the terminal has sent already.
    Does nothing outside the main thread, where Python has no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request_stop(number: int, _frame: FrameType | None) -> None:
        if _stop_requested.is_set() and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        _stop_requested.set()

    _stop_requested.clear()
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in former:
        signal.signal(number, request_stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _stop_requested.clear()
