"""The processes of one run, as ``torchrun`` starts them, on one machine or several.

The first of them (rank 0) makes the run as if it were alone: it alone checks, decides, and writes
to the run's folder. The others follow it, see :mod:`fewmask.training.following`, and take their
share of each batch, see :mod:`fewmask.training.shared_batches`. A process that ``torchrun`` has not
started is the first of one, and nothing here does anything.

``torchrun`` tells a process its place by environment variables, which torch reads: the one
exception to fewmask's rule that none is needed.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fewmask.errors import ResourceError
from fewmask.training.signals import stop_requested

Value = TypeVar("Value")
PATIENCE = timedelta(days=365)
"""A stage of the first process alone may last for days; ``torchrun`` sees to processes that die."""


def join() -> None:
    """Meet the other processes, if ``torchrun`` has started this one; at most once."""
    if dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with exchange():
            dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    """How many work on this run; 1 without ``torchrun``."""
    return dist.get_world_size() if _joined() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if _joined() else 0


def place_on_machine() -> int:
    """The number of this process among those on the same machine, from 0: which GPU it takes."""
    return dist.get_node_local_rank(0)


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def exchange() -> Iterator[None]:
    """Around whatever waits for other processes: one that has gone is told in our own words.

    Raises:
        KeyboardInterrupt: a signal has asked for a stop, which the others have obeyed already.
        ResourceError: another process has failed, and says why itself.
    """
    try:
        yield
    except RuntimeError as error:
        if stop_requested():
            raise KeyboardInterrupt from None
        raise ResourceError.of(
            "PROCESS-LOST",
            where=f"process {rank()} of {processes()}",
            found=(str(error).splitlines() or ["an exchange that failed"])[0][:200],
            expected="all processes of the run at work",
            fix="see what the one that failed first has said, then the same command with `resume`",
        ) from error


def from_first(value: Value) -> Value:
    """What the first process has; the others' own value is not looked at."""
    if processes() == 1:
        return value
    box = [value if rank() == 0 else None]
    with exchange():
        dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]  # type: ignore[return-value]


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process. All come here, so none is ahead of another."""
    if processes() == 1:
        return flag
    return bool(add_up(torch.tensor(float(flag))))


def wait_for_all() -> None:
    """Go on when every process has come here."""
    anywhere(False)


def add_up(tensor: Tensor) -> Tensor:
    """The sum of every process's tensor, put into this one; to the same bits everywhere."""
    with exchange():
        dist.all_reduce(tensor)
    return tensor


def take_weights_of_first(network: nn.Module) -> None:
    """Make a network that all have trained alike the same to the last bit."""
    if processes() > 1:
        with exchange(), torch.no_grad():
            for tensor in network.state_dict().values():
                copy = tensor.contiguous()
                dist.broadcast(copy, 0)
                tensor.copy_(copy)
