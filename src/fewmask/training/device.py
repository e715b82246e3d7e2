"""Which device, how many threads: decided once, printed, and written to the run."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

from fewmask.errors import ResourceError, UsageError
from fewmask.training.distributed import place_on_machine, processes


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then Apple's MPS, then the CPU; any other name must exist.

    Of several processes each takes a GPU of its own.

    Raises:
        UsageError: the name is not one of cpu, cuda, cuda:0 … and mps. Torch knows others, on which
            nothing can be computed (meta), or not all that is needed. Or one device is named for
            several processes.
        ResourceError: the device is not there. fewmask never falls back silently.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name, re.ASCII):
        raise UsageError.of(
            "DEVICE",
            where=f"--device {name}",
            found=repr(name),
            expected="auto, cpu, cuda, cuda:N or mps",
            fix="--device auto, or --device cpu",
        )
    if processes() > 1:
        if name not in {"auto", "cpu", "cuda"}:
            raise UsageError.of(
                "DEVICE",
                where=f"--device {name}",
                found=f"one device for {processes()} processes",
                expected="auto, cpu or cuda: each process takes a GPU of its own",
                fix="--device auto",
            )
        cuda = name != "cpu" and (name == "cuda" or torch.cuda.is_available())
        name = f"cuda:{place_on_machine()}" if cuda else "cpu"
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
    """Highest memory use so far: of the GPU, or resident memory of this process.

    Linux counts into ``ru_maxrss`` what the process was forked from, so its own file is read.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
