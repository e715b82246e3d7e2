"""``metrics.jsonl`` of a run: what its loops record, one JSON line a step.

Lines have the keys ``stage``, ``loop`` and ``step``, and the numbers by name. A line that a kill
has cut short is no line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewmask.training.checkpoint import write_atomically

FILE = "metrics.jsonl"


def append(run: Path, stage: str, records: Sequence[dict[str, Any]]) -> None:
    """Add lines.

    Args:
        run: The run's folder.
        stage: The stage's label, ``4-classify`` or ``fold-1/4-classify``.
        records: Without their stage.
    """
    with (run / FILE).open("a") as stream:
        stream.writelines(json.dumps({"stage": stage, **record}) + "\n" for record in records)


def read(run: Path) -> Iterator[dict[str, Any]]:
    """All lines of a run's folder; none if there is no file."""
    path = run / FILE
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and "stage" in line:
                yield line


def of_stage(run: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a stage, as they were given to :func:`append`."""
    return [
        {key: value for key, value in line.items() if key != "stage"}
        for line in read(run)
        if line["stage"] == stage
    ]


def forget(run: Path, stage: str, loop: str, from_step: int) -> None:
    """Remove the lines of a stage's loop from that step on."""
    if not (run / FILE).is_file():
        return
    kept = [
        json.dumps(line) + "\n"
        for line in read(run)
        if (line["stage"], line.get("loop")) != (stage, loop) or line["step"] < from_step
    ]
    write_atomically(run / FILE, "".join(kept).encode())
