"""Which device, how many threads: decided once, printed, and written to the run."""

from __future__ import annotations

import resource
import sys

import torch

from fewmask.errors import ResourceError


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then Apple's MPS, then the CPU; any other name must exist.

    Raises:
        ResourceError: the device is not there. fewmask never falls back silently.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ResourceError.of(
            "DEVICE",
            where=f"--device {name}",
            found=str(error).splitlines()[0],
            expected="a device of this machine",
            fix="--device auto, or --device cpu",
        ) from None
    return device


def peak_gigabytes(device: torch.device) -> float:
    """Highest memory use so far: of the GPU, or resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
