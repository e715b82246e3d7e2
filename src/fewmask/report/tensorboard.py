"""``metrics.jsonl`` as TensorBoard events."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

from fewmask.errors import ResourceError


def require_tensorboard() -> None:
    """Ask for the package before a run, not after it.

    Raises:
        ResourceError: tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ResourceError.of(
            "EXTRA-MISSING",
            where="--tensorboard",
            found="no package tensorboard",
            expected="the extra `track`",
            fix='pip install "fewmask[track]"',
        )


def write_events(records: Path, folder: Path) -> None:
    """Write one scalar series for each stage and value, replacing earlier events.

    Args:
        records: ``metrics.jsonl`` of a run.
        folder: Where TensorBoard is to look.

    Raises:
        ResourceError: the package tensorboard is not installed.
    """
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for line in records.read_text().splitlines():
            record = json.loads(line)
            where = "/".join(str(record.pop(part)) for part in ("stage", "loop"))
            step = record.pop("step")
            for name, value in record.items():
                writer.add_scalar(f"{where}/{name}", value, step)
