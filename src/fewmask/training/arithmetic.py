"""How this process computes while a run is under way, and as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def arithmetic(threads: int) -> Iterator[None]:
    """So many threads, and numbers below 1e-38 as zero; afterwards as the caller had it.

    Such numbers are 100 times slower, and never matter.
    """
    threads_before = torch.get_num_threads()
    flushed_before = bool(torch.tensor(2.0**-1070, dtype=torch.float64) == 0)  # torch cannot say
    torch.set_num_threads(threads or threads_before)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.set_flush_denormal(flushed_before)
