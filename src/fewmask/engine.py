"""Where the pieces of a command's work are done: in this process, or by Ray's workers.

A piece of work says what to read and what it is called; what does it writes files, the same bytes
wherever it is done. With Ray, a worker is a process that opens its own copy of what does the work.
What a killed worker had begun is given to another one: both write the same bytes, and each piece
has one result.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from fewmask.errors import FewmaskError, Problem, ResourceError
from fewmask.shortages import resource_error
from fewmask.training.progress import watched

IN_A_BLOCK = 100
"""Pieces at most that a worker is given at one time, and that are done again if it is killed."""


@dataclass(frozen=True)
class Engine:
    """Where work is done.

    Attributes:
        kind: In this process, or by Ray's workers.
        workers: Of Ray; 0: one for each CPU that Ray has.
        address: Of a Ray cluster, such as ``auto`` for the one that this machine belongs to; None:
            one on this machine, for this process alone.
    """

    kind: Literal["local", "ray"] = "local"
    workers: int = 0
    address: str | None = None


class Done(NamedTuple):
    """What came of a piece of work.

    Attributes:
        result: Whatever JSON can hold.
        problems: What could not be read; the work goes on without it.
    """

    result: Any = None
    problems: Sequence[Problem] = ()


Work = Callable[[Any], Done]
"""Does one piece; an error that it raises ends all work."""


def each_done(
    engine: Engine, pieces: Sequence[Any], work: Work, opener: Callable[[], Work],
    *, title: str, unit: str,
) -> Iterator[Done]:  # fmt: skip
    """Do all pieces of work, in this process or by Ray's workers, with a bar of progress.

    Args:
        engine: Where.
        pieces: Of work, each of what JSON can hold.
        work: What does them in this process.
        opener: What opens the same in a worker: functions and classes of modules, and arguments
            that can be pickled.
        title: Of the bar.
        unit: What the bar calls a piece.

    Yields:
        What came of each, once, in the order of the pieces.

    Raises:
        FewmaskError: what the work raises; also see :func:`done_on_ray`.
        KeyboardInterrupt: a signal has asked for a stop.
    """
    if engine.kind == "ray":
        yield from done_on_ray(engine, pieces, opener, title=title, unit=unit)
    else:
        yield from map(work, watched(pieces, len(pieces), title, unit))


def done_on_ray(
    engine: Engine, pieces: Sequence[Any], opener: Callable[[], Work], *, title: str, unit: str
) -> Iterator[Done]:
    """The same by Ray's workers, each with as many threads as this process.

    A worker that is killed in the middle of writing leaves a file under a temporary name, see
    :func:`fewmask.training.checkpoint.remove_temporaries`.

    Raises:
        FewmaskError: what the work raises.
        ResourceError: Ray is not installed, its cluster cannot be reached, or its workers die.
        KeyboardInterrupt: a signal has asked for a stop.
    """
    if not pieces:
        return
    import torch

    ray = _ray(engine)
    workers = engine.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    rows = [{"number": number, "piece": json.dumps(piece)} for number, piece in enumerate(pieces)]
    blocks = min(len(rows), max(8 * workers, math.ceil(len(rows) / IN_A_BLOCK)))
    made = ray.data.from_items(rows, override_num_blocks=blocks).map(
        _Worker,
        fn_constructor_args=(opener, torch.get_num_threads(), Path.cwd()),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    waiting: dict[int, Done] = {}
    following = 0
    try:
        for row in watched(made.iter_rows(), len(rows), title, unit):
            waiting[row["number"]] = _told(row)
            while following in waiting:
                yield waiting.pop(following)
                following += 1
    except ray.exceptions.ActorDiedError as error:
        raise ResourceError.of(
            "RAY-WORKERS", where=engine.address or "this machine",
            found=f"workers that do not start: {str(error).strip().splitlines()[-1]}",
            expected="the same fewmask, with what it needs, on each machine of the cluster",
            fix="install it there; `ray logs` tells more",
        ) from None  # fmt: skip


class _Worker:
    """What a Ray worker does.

    Work and what comes of it travel as JSON, since the names of files need not be text that Arrow
    takes, and the errors of fewmask are no plain exceptions.
    """

    def __init__(self, opener: Callable[[], Work], threads: int, folder: Path) -> None:
        self.opener, self.threads, self.folder = opener, threads, folder
        self.work: Work | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of work; an error is returned."""
        fatal, done = "", Done()
        try:
            self.work = self.work or self._opened()
            done = self.work(json.loads(row["piece"]))
        except FewmaskError as error:
            fatal, done = type(error).__name__, Done(problems=error.problems)
        except Exception as error:
            shortage = resource_error(error)
            if shortage is None:
                raise
            fatal, done = type(shortage).__name__, Done(problems=shortage.problems)
        problems = [problem.as_dict() for problem in done.problems]
        told = json.dumps({"fatal": fatal, "result": done.result, "problems": problems})
        return {"number": row["number"], "told": told}

    def _opened(self) -> Work:
        import torch

        torch.set_num_threads(self.threads)
        with suppress(FileNotFoundError):  # a machine that shares other folders only
            os.chdir(self.folder)  # so that relative paths mean the same
        return self.opener()


def _told(row: dict[str, Any]) -> Done:
    """What a worker says came of its work; an error is raised."""
    told = json.loads(row["told"])
    problems = [Problem(**each) for each in told["problems"]]
    if told["fatal"]:
        raise _error_called(told["fatal"])(*problems)
    return Done(told["result"], problems)


def _error_called(name: str) -> type[FewmaskError]:
    """The class of an error by its name."""
    return next(each for each in FewmaskError.__subclasses__() if each.__name__ == name)


def _ray(engine: Engine) -> ModuleType:
    """Ray, connected to a cluster, or to one of its own on this machine."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise ResourceError.of(
            "RAY-PACKAGE", where="ray", found="not installed",
            expected="Ray Data, which shares work among processes and machines",
            fix='pip install "fewmask[ray]"',
        ) from None  # fmt: skip
    if not ray.is_initialized():
        how: dict[str, Any] = {"address": engine.address}
        if engine.address is None:  # which alone would mean any cluster that this machine has up
            how = {"address": "local", "num_cpus": engine.workers or None,
                   "include_dashboard": False}  # fmt: skip
        try:
            ray.init(**how, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ResourceError.of(
                "RAY-CLUSTER", where=engine.address or "this machine",
                found=str(error).splitlines()[0], expected="a Ray cluster that can be reached",
                fix="`ray status` tells whether one is up; leave out --ray-address for one on "
                "this machine",
            ) from None  # fmt: skip
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    return ray
