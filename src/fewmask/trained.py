"""Something trained that predicts: a finished run, or a file that was exported from one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.errors import UsageError
from fewmask.pipelines.finished import predictor_of_run, read_card
from fewmask.pipelines.running import data_folders_of
from fewmask.runtimes import (
    AS_TRAINED,
    WORTH_IMAGES,
    Choice,
    Form,
    Runtime,
    choose_form,
    exported_form,
    in_form,
)
from fewmask.training.device import choose_device
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import SegmenterPredictor

MEASURED_IMAGES = 3
"""Pictures that forms are measured on."""


@dataclass(frozen=True)
class Trained:
    """A predictor with what belongs to it.

    Attributes:
        predictor: See :class:`fewmask.training.segmenting.Predictor`.
        card: Names and colours of the classes, and how they were trained.
        data_folders: What it was made from, where that is known: never written to.
        exported: A run's exported form beside its weights, if there is one.
        is_file: It is an exported file, which has no other form.
    """

    predictor: Any
    card: dict[str, Any]
    data_folders: tuple[Path, ...] = ()
    exported: Path | None = None
    is_file: bool = False

    def in_form(self, form: Form) -> Trained:
        """The same, computed in a form.

        Raises:
            UsageError: it does not have this form.
            CheckpointError: the exported form is damaged.
            ResourceError: ONNX Runtime is not installed.
        """
        if not self.is_file:
            return replace(self, predictor=in_form(self.predictor, form, self.exported))
        if form not in {AS_TRAINED, "onnx"}:
            raise UsageError.of(
                "RUNTIME-FILE", where=f"--runtime {form}", found="an exported file",
                expected="a run, which torch computes", fix="leave out --runtime",
            )  # fmt: skip
        return self

    def measured(
        self, runtime: Runtime, count: int, images: Iterable[np.ndarray]
    ) -> tuple[Form, Choice | None]:
        """The form that is asked for or, of ``auto``, the fastest that gives the same masks.

        Args:
            runtime: What is asked for.
            count: How many pictures, or windows, are to come.
            images: Some of them, each (H, W, 3) uint8; read only if they are needed.

        Returns:
            The form, and what was measured, if anything was.
        """
        if runtime != "auto":
            return runtime, None
        if self.is_file or count < WORTH_IMAGES:
            return AS_TRAINED, None
        shown = list(islice(images, MEASURED_IMAGES))
        if not shown or not isinstance(self.predictor, SegmenterPredictor):
            return AS_TRAINED, None
        choice = choose_form(self.predictor, shown, self.exported)
        return choice.form, choice


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

        return Trained(*open_onnx(source), is_file=True)
    run = source if isinstance(source, RunFolder) else RunFolder.open(source)
    predictor, card = predictor_of_run(run, choose_device(device)), read_card(run)
    exported = exported_form(run.path / "weights", card.get("sha256", ""))
    return Trained(predictor, card, tuple(data_folders_of(run)), exported)
