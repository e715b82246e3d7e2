"""Randomness as a function of names: no generator state exists to lose, so resuming is exact.

Every random draw in fewmask happens under a seed derived from *what is drawn* (run seed, stage,
epoch, sample), never from what happened before. Results then do not depend on the number of
loader workers, and a resumed run continues bit for bit without saving any generator's state.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a fixed function of ``parts``, the same on every machine.

    >>> derive_seed(0, "classify", 3) == derive_seed(0, "classify", 3)
    True
    >>> derive_seed(0, "classify", 3) == derive_seed(0, "classify", 4)
    False
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_all(*parts: int | str) -> None:
    """Seed Python's, NumPy's and torch's global generators from ``parts``."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries that draw from the global generator
    torch.manual_seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Run a block under ``derive_seed(*parts)`` for torch's CPU generator, then put it back."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(derive_seed(*parts))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator of its own, seeded by ``derive_seed(*parts)``."""
    return np.random.default_rng(derive_seed(*parts))
