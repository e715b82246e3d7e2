"""``metrics.jsonl`` as TensorBoard events."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from fewmask.errors import ResourceError
from fewmask.training import curves


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


def write_events(run: Path, folder: Path, stage: str) -> None:
    """Write one scalar series for each loop and value of a stage, replacing its earlier events.

    Args:
        run: The run's folder.
        folder: Where TensorBoard is to look; the stage becomes a sub-folder of it.
        stage: The stage's label in the records.

    Raises:
        ResourceError: the package tensorboard is not installed.
    """
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder / stage, ignore_errors=True)
    own = curves.of_stage(run, stage)
    if not own:
        return
    with SummaryWriter(str(folder / stage)) as writer:
        for record in own:
            loop, step = record.pop("loop"), record.pop("step")
            for name, value in record.items():
                writer.add_scalar(f"{loop}/{name}", value, step)
