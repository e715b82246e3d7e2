"""What every benchmark writes: ``results/<name>.json``, and the same rows in ``README.md``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent


def write_results(
    name: str, command: str, rows: Sequence[dict[str, Any]], *, machine: str, data: str
) -> Path:
    """Write the rows of a benchmark, with what is needed to run it again.

    Args:
        name: Of the benchmark.
        command: That makes the file anew.
        rows: One dictionary each.
        machine: From :func:`machine`.
        data: What was measured on.

    Returns:
        The file.
    """
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    record = {
        "name": name,
        "command": command,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine,
        "data": data,
        "rows": list(rows),
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def write_table(name: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Replace the table of a benchmark in ``README.md``, between its two markers."""
    path = HERE / "README.md"
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, rest = path.read_text().split(start)
    _, after = rest.split(end)
    cells = [header, ["---"] * len(header), *lines]
    table = "\n".join("| " + " | ".join(line) + " |" for line in cells)
    path.write_text(f"{before}{start}\n{table}\n{end}{after}")


def commit() -> str:
    """The commit that was measured; ``+`` behind it if the sources were changed since."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "src")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def machine(device: str = "cpu") -> str:
    """The machine in words: cores, memory, device, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [f"{len(os.sched_getaffinity(0))} CPU cores", f"{memory:.0f} GB"]
    if device.startswith("cuda"):
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join([*parts, f"torch {torch.__version__}", f"Python {platform.python_version()}"])


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE, check=True, capture_output=True, text=True)
    return done.stdout.strip()
