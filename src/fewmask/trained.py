"""Something trained that predicts: a finished run, or a file that was exported from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewmask.pipelines.finished import predictor_of_run, read_card
from fewmask.pipelines.running import data_folders_of
from fewmask.training.device import choose_device
from fewmask.training.run_folder import RunFolder


@dataclass(frozen=True)
class Trained:
    """A predictor with what belongs to it.

    Attributes:
        predictor: See :class:`fewmask.training.segmenting.Predictor`.
        card: Names and colours of the classes, and how they were trained.
        data_folders: What it was made from, where that is known: never written to.
    """

    predictor: Any
    card: dict[str, Any]
    data_folders: tuple[Path, ...] = ()


def open_trained(source: RunFolder | Path, device: str = "auto") -> Trained:
    """Open a run, or a file that ``fewmask export`` has written.

    Args:
        source: A finished run, its path, or the path of an ``.onnx`` file.
        device: See ``--device``; a file is computed on the CPU.

    Raises:
        UsageError: no run, an unfinished one, or no such file.
        CheckpointError: it is damaged.
        ResourceError: no such device, or ONNX Runtime is not installed.
    """
    if isinstance(source, Path) and source.suffix == ".onnx":
        from fewmask.onnx_model import open_onnx

        return Trained(*open_onnx(source))
    run = source if isinstance(source, RunFolder) else RunFolder.open(source)
    predictor = predictor_of_run(run, choose_device(device))
    return Trained(predictor, read_card(run), tuple(data_folders_of(run)))
