"""The form in which a segmenter computes: chosen by measurement, on some of the images to come.

All forms are the same network. They differ in the order of a picture's numbers in memory, in their
precision, and in who computes. Which one is fastest depends on the machine: half precision is twice
as fast on a CPU with instructions for it, and many times slower on one without.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.data.transforms import resize_image, to_unit
from fewmask.errors import FewmaskError, UsageError
from fewmask.training.inference import predict_probs
from fewmask.training.segmenting import SegmenterPredictor

Form = Literal["channels-last", "contiguous", "bf16", "onnx"]
Runtime = Literal["auto", "channels-last", "contiguous", "bf16", "onnx"]
AS_TRAINED: Form = "channels-last"
EXPORTED = "segmenter.onnx"
"""Beside a run's weights: its exported form, which is then measured, too."""
WORTH_IMAGES = 200
"""Of fewer pictures, or windows of a scene, no form saves as much as measuring costs."""
ROUNDS = 4
"""Times that each form is measured; the first one, which plans and allocates, does not count."""
LEAST_GAIN = 1.1
"""Another form must be so many times as fast: less than that is noise."""
MOST_DIFFERENT = 1e-3
"""And give another class to no more than this share of pixels."""


class InForm(nn.Module):
    """A network that computes in another memory format or precision.

    Args:
        network: Images (N, 3, H, W) float32 to logits (N, C, H, W).
        memory_format: Of the images that it is given.
        dtype: Of its convolutions; the logits are float32.
    """

    def __init__(
        self, network: nn.Module, memory_format: torch.memory_format, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.network, self.memory_format, self.dtype = network, memory_format, dtype

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) float32 -> (N, C, H, W) float32."""
        image = image.contiguous(memory_format=self.memory_format)
        lower = self.dtype != torch.float32
        with torch.autocast(image.device.type, self.dtype, enabled=lower):
            return self.network(image).float()


@dataclass(frozen=True)
class Choice:
    """What was measured, and what follows from it.

    Attributes:
        form: The fastest whose masks are the same.
        milliseconds: Of each form, a picture at the network's size, one view.
        different: Share of pixels to which a form gives another class than the network as it was
            trained.
        images: So many pictures were looked at.
    """

    form: Form
    milliseconds: dict[Form, float]
    different: dict[Form, float]
    images: int

    def __str__(self) -> str:
        said = [f"runtime: {self._told(self.form)}"]
        said += [f"not taken: {self._told(form)}; --runtime {form} takes it all the same"
                 for form, share in self.different.items() if share > MOST_DIFFERENT]  # fmt: skip
        return "\n".join(said)

    def _told(self, form: Form) -> str:
        if form == AS_TRAINED:
            return f"{form}, as the network was trained"
        gain = self.milliseconds[AS_TRAINED] / self.milliseconds[form]
        return (
            f"{form}, {gain:.1f} times as fast here; {100 * self.different[form]:.2g} % of the "
            f"pixels of {self.images} pictures get another class"
        )


def in_form(predictor: Any, form: Form, exported: Path | None = None) -> Any:
    """A predictor that computes in a form.

    Args:
        predictor: Of a run or of an exported file.
        form: ``channels-last`` is the predictor itself.
        exported: File of :func:`fewmask.onnx_model.export_onnx`, for ``onnx``.

    Raises:
        UsageError: it does not have this form.
        CheckpointError: the file is damaged.
        ResourceError: ONNX Runtime is not installed.
    """
    if form == AS_TRAINED:
        return predictor
    if not isinstance(predictor, SegmenterPredictor):
        raise UsageError.of(
            "RUNTIME-RUN", where=f"--runtime {form}", expected="a run that ends with a segmenter",
            found="a run whose masks need more than that", fix="leave out --runtime",
        )  # fmt: skip
    if form == "onnx":
        from fewmask.onnx_model import open_onnx

        if exported is None:
            raise UsageError.of(
                "RUNTIME-EXPORT", where="--runtime onnx", found=f"no weights/{EXPORTED} in the run",
                expected="the run's exported form, made from its own weights",
                fix=f"`fewmask export RUN --to onnx -o RUN/weights/{EXPORTED}`",
            )  # fmt: skip
        return replace(predictor, network=open_onnx(exported)[0].network)
    if form == "bf16":
        network = InForm(predictor.network, torch.channels_last, torch.bfloat16)
    else:
        network = InForm(predictor.network, torch.contiguous_format, torch.float32)
    return replace(predictor, network=network.eval())


def exported_form(weights: Path, sha256: str) -> Path | None:
    """The exported file in a run's folder of weights, if it was made from these weights."""
    path = weights / EXPORTED
    if not path.is_file():
        return None
    from fewmask.onnx_model import open_onnx

    try:
        return path if open_onnx(path)[1].get("weights_sha256") == sha256 else None
    except FewmaskError:  # damaged, or no ONNX Runtime: it is no candidate
        return None


def choose_form(
    predictor: SegmenterPredictor, images: Sequence[np.ndarray], exported: Path | None = None
) -> Choice:
    """Measure all forms in turns, and take the fastest that gives the same masks.

    Args:
        predictor: Of a run.
        images: Some of those to come, each (H, W, 3) uint8; no less than one.
        exported: See :func:`in_form`.
    """
    names: list[Form] = [AS_TRAINED, "contiguous", "bf16"]
    on_cpu = next(predictor.network.parameters()).device.type == "cpu"
    names += ["onnx"] if exported and on_cpu else []
    forms = {name: in_form(predictor, name, exported).network for name in names}
    pixels = [to_unit(resize_image(each, *predictor.working_size))[None] for each in images]
    seconds: dict[Form, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS):
        for name, network in forms.items():
            started = time.perf_counter()
            predict_probs(network, pixels[turn % len(pixels)])
            seconds[name].append(time.perf_counter() - started)
    # of several times the least: whatever else the machine does only adds to it
    milliseconds = {name: 1e3 * min(each[1:]) for name, each in seconds.items()}
    own, different = [_ids(forms[AS_TRAINED], image) for image in pixels], {AS_TRAINED: 0.0}
    fastest = AS_TRAINED
    for name in sorted(names, key=milliseconds.__getitem__):
        if milliseconds[name] * LEAST_GAIN > milliseconds[AS_TRAINED]:
            break
        found = [_ids(forms[name], image) for image in pixels]
        different[name] = float(np.mean([np.mean(a != b) for a, b in zip(own, found, strict=True)]))
        if different[name] <= MOST_DIFFERENT:
            fastest = name
            break
    return Choice(fastest, milliseconds, different, len(pixels))


def _ids(network: nn.Module, image: Tensor) -> np.ndarray:
    return predict_probs(network, image).argmax(1).numpy()
