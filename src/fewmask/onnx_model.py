"""A trained segmenter as an ONNX file: written, checked against torch, and predicted with.

The file takes an image of any size of at least 32 px, (N, 3, H, W) float32 in [0, 1], and returns
class probabilities of that size; normalisation and padding are inside. A program resizes an image
to the run's working size first, as ``fewmask predict`` does. The card, with the classes' names,
colours and this size, is in the file's metadata.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fewmask import __version__
from fewmask.data.transforms import resize_image, to_unit
from fewmask.errors import CheckpointError, ResourceError, UsageError
from fewmask.io.whole_files import write_whole
from fewmask.models.blocks import Normalised, Padded
from fewmask.onnx_graph import (
    CARD,
    IMAGE,
    add_facts,
    deepness_facts,
    with_any_size,
    with_fixed_size,
)
from fewmask.training.segmenting import SegmenterPredictor

Precision = Literal["fp32", "fp16", "int8"]
SUFFIX = ".onnx"
_KEPT = ("class_names", "class_colours", "background", "image_px", "licence", "metrics")
_MOST_PX = 2**13


class OnnxNetwork(nn.Module):
    """A network that ONNX Runtime computes; images in [0, 1] to logits, on the CPU.

    Args:
        path: The file.
        threads: Of ONNX Runtime; 0: as many as torch has.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        super().__init__()
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self.session = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells the device

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) float32 in [0, 1] -> (N, classes, H, W), the logarithms of probabilities."""
        given = np.ascontiguousarray(image.numpy(), np.float32)
        return torch.from_numpy(self.session.run(None, {IMAGE: given})[0]).clamp_min(1e-30).log()


def export_onnx(
    predictor: Any,
    card: Mapping[str, Any],
    out: Path,
    *,
    precision: Precision = "fp32",
    calibrate: Iterable[np.ndarray] = (),
    tile_px: int = 0,
    ground_cm: float = 0.0,
) -> None:
    """Write a run's segmenter.

    Args:
        predictor: Of the run, on the CPU.
        card: Of the run.
        out: New file, ``.onnx``; it appears whole or not at all.
        precision: Of weights and arithmetic; input and output stay float32.
        calibrate: For int8, images (H, W, 3) uint8 like those to come: they give the ranges.
        tile_px: For QGIS' Deepness: side of its square tiles; 0: not for it, any size.
        ground_cm: For Deepness: side of a pixel on the ground; 0: not known.

    Raises:
        UsageError: the run does not end with a segmenter of three channels, or ``out`` is taken.
        ResourceError: a package is missing, the network cannot be exported, or the disk refuses.
    """
    if not isinstance(predictor, SegmenterPredictor) or isinstance(predictor.network, OnnxNetwork):
        raise UsageError.of(
            "EXPORT-KIND", where="RUN", found="a run without a plain segmenter at its end",
            expected="a segmenter that sees an image's three channels, in torch",
            fix="`fewmask predict RUN` applies this run as it is",
        )  # fmt: skip
    if out.suffix != SUFFIX or out.exists():
        raise UsageError.of(
            "EXPORT-FILE", where=out, found="a file" if out.exists() else out.suffix or "no suffix",
            expected=f"a new file *{SUFFIX}", fix="choose another name",
        )  # fmt: skip
    model = with_any_size(*_core(predictor.network, len(_id_names(card))))
    if precision == "fp16":
        model = _halved(model)
    elif precision == "int8":
        model = _quantised(model, predictor.working_size, calibrate)
    if tile_px:
        model = with_fixed_size(model, tile_px, tile_px)
        add_facts(model, deepness_facts(_id_names(card), tile_px, ground_cm))
    facts = {name: card[name] for name in _KEPT if name in card} | {
        "kind": "segmenter", "working_size": list(predictor.working_size),
        "refine": predictor.refine, "precision": precision, "version": __version__,
        "weights_sha256": card.get("sha256", ""),
    }  # fmt: skip
    add_facts(model, {CARD: json.dumps(facts)})
    write_whole(out, model.SerializeToString())


def open_onnx(path: Path) -> tuple[SegmenterPredictor, dict[str, Any]]:
    """The predictor in a file of :func:`export_onnx`, and its card.

    Raises:
        UsageError: no such file.
        CheckpointError: it is damaged, or none of ours.
        ResourceError: ONNX Runtime is not installed.
    """
    if not path.is_file():
        raise UsageError.of(
            "MODEL-MISSING", where=path, found="no such file",
            expected="a file of `fewmask export`", fix="correct the path",
        )  # fmt: skip
    try:
        network = OnnxNetwork(path)
        facts = network.session.get_modelmeta().custom_metadata_map
        card = dict(json.loads(facts[CARD]))
        size = (int(card["working_size"][0]), int(card["working_size"][1]))
        return SegmenterPredictor(network, size, "single", str(card["refine"])), card
    except ResourceError:
        raise
    except Exception as error:  # a damaged file can make the runtime raise anything
        raise CheckpointError.of(
            "MODEL-DAMAGED", where=path, found=f"{type(error).__name__}: {str(error)[:200]}",
            expected="a file of `fewmask export`", fix="export it again",
        ) from None  # fmt: skip


def largest_difference(
    first: SegmenterPredictor, second: SegmenterPredictor, images: Iterable[np.ndarray]
) -> float:
    """The largest difference of two networks' probabilities, both by a single view.

    Args:
        first: One.
        second: The other, of the same working size.
        images: (H, W, 3) uint8.
    """
    worst = 0.0
    for image in images:
        given = to_unit(resize_image(image, *first.working_size))[None]
        with torch.no_grad():
            one, other = (each.network(given).softmax(1) for each in (first, second))
        worst = max(worst, float((one - other).abs().max()))
    return worst


class _Core(nn.Module):
    """A segmenter without its padding."""

    def __init__(self, segmenter: Normalised, inner: nn.Module) -> None:
        super().__init__()
        self.segmenter, self.inner = segmenter, inner

    def forward(self, image: Tensor) -> Tensor:
        normalised = (image - self.segmenter.mean) / self.segmenter.std
        logits: Tensor = self.inner(normalised)
        return logits


def _core(network: nn.Module, num_classes: int) -> tuple[Any, int, int]:
    """The network for sides of whole strides, as ONNX; its stride; the number of classes."""
    _packages()
    if not isinstance(network, Normalised) or not isinstance(network.network, Padded):
        raise UsageError.of(
            "EXPORT-KIND", where="segment_architecture", found="a network of another make",
            expected="one of fewmask's segmenters on timm's encoders",
            fix="train one, for example --segment-architecture unet",
        )  # fmt: skip
    stride = network.network.multiple
    most = _MOST_PX // stride
    whole = {
        0: torch.export.Dim("n", min=1, max=1024),
        2: stride * torch.export.Dim("h", min=1, max=most),
        3: stride * torch.export.Dim("w", min=1, max=most),
    }
    core = _Core(network, network.network.network).eval()
    example = torch.rand(2, 3, 2 * stride, 3 * stride)
    try:
        with redirect_stdout(StringIO()):  # the exporter prints how far it is
            program = torch.onnx.export(
                core, (example,), dynamo=True, dynamic_shapes={"image": whole}, verbose=False
            )
    except Exception as error:  # the exporter raises what the network's parts make it raise
        raise ResourceError.of(
            "EXPORT", where=type(network.network.network).__name__,
            found=f"torch cannot export it ({str(error).splitlines()[0][:200]})",
            expected="a network whose operations ONNX has",
            fix="--segment-architecture unet or fpn are known to work",
        ) from error  # fmt: skip
    if program is None:
        raise AssertionError  # dynamo=True returns a program
    return program.model_proto, stride, num_classes


def _halved(model: Any) -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def _quantised(model: Any, size: tuple[int, int], images: Iterable[np.ndarray]) -> Any:
    """8-bit weights and activations, whose ranges are those on the images."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = [to_unit(resize_image(image, *size))[None].numpy() for image in images]
    if not batches:
        raise UsageError.of(
            "EXPORT-CALIBRATE", where="--calibrate", found="no image",
            expected="a few dozen images like those to come, for int8",
            fix="--calibrate FOLDER",
        )  # fmt: skip

    class Reader(CalibrationDataReader):
        rest = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {IMAGE: batch}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (Path(folder, f"{name}.onnx") for name in ("plain", "ready", "small"))
        onnx.save(model, plain)
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready), str(small), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["Conv"],
        )  # fmt: skip
        return onnx.load(small)


def _id_names(card: Mapping[str, Any]) -> list[str]:
    """Names of the ids 0, 1, ..."""
    return ["background"] * bool(card.get("background", True)) + list(card["class_names"])


def _packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise _missing(error.name or "onnx") from None


def _runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError:
        raise _missing("onnxruntime") from None
    return onnxruntime


def _missing(package: str) -> ResourceError:
    return ResourceError.of(
        "EXPORT-PACKAGE", where=package, found="not installed",
        expected="onnx, onnxscript and onnxruntime", fix='pip install "fewmask[export]"',
    )  # fmt: skip
