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
    name: str,
    command: str,
    rows: Sequence[dict[str, Any]],
    *,
    machine: str,
    data: str,
    folder: Path = HERE,
) -> Path:
    """Write the rows of a benchmark, with what is needed to run it again.

    Rows that say by themselves where they were measured (:func:`provenance`) are believed: the
    file's own commit, date and machine are then all of theirs.

    Args:
        name: Of the benchmark.
        command: That makes the file anew.
        rows: One dictionary each.
        machine: From :func:`machine`.
        data: What was measured on.
        folder: Whose ``results`` the file is written to.

    Returns:
        The file.
    """
    path = folder / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    of_rows = {
        key: "; ".join(sorted({row[key] for row in rows if key in row}))
        for key in ("commit", "date", "machine")
    }
    record = {
        "name": name,
        "command": command,
        "commit": of_rows["commit"] or commit(),
        "date": of_rows["date"] or today(),
        "machine": of_rows["machine"] or machine,
        "data": data,
        "rows": list(rows),
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def write_table(
    name: str, header: Sequence[str], lines: Sequence[Sequence[str]], folder: Path = HERE
) -> None:
    """Replace the table of a benchmark in ``README.md``, between its two markers.

    A folder without a ``README.md`` gets none: the table is printed.
    """
    cells = [header, ["---"] * len(header), *lines]
    table = "\n".join("| " + " | ".join(line) + " |" for line in cells)
    path = folder / "README.md"
    if not path.exists():
        print(table)
        return
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, rest = path.read_text().split(start)
    _, after = rest.split(end)
    path.write_text(f"{before}{start}\n{table}\n{end}{after}")


def provenance(device: str = "cpu") -> dict[str, str]:
    """Where and when a row is measured: commit, date and machine, for the row itself."""
    return {"commit": commit(), "date": today(), "machine": machine(device)}


def today() -> str:
    """The date, as in 2026-01-31."""
    return time.strftime("%Y-%m-%d")


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
