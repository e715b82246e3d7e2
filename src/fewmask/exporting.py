"""``fewmask export``: a run's segmenter for other programs, and what each form of it loses."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fewmask.data.files import images_below
from fewmask.errors import DataError, UsageError, shell_command
from fewmask.io.images import read_image
from fewmask.io.whole_files import whole_folder
from fewmask.onnx_model import Precision, export_onnx, largest_difference, open_onnx
from fewmask.pipelines.finished import predictor_of_run, read_card
from fewmask.pipelines.running import data_folders_of
from fewmask.predict import evaluate
from fewmask.training.device import choose_device
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import refuse_inside
from fewmask.training.segmenting import SegmenterPredictor

CALIBRATION_IMAGES, COMPARED_IMAGES = 32, 4
PARITY = 1e-4
"""The largest difference of probabilities from torch's that a file in fp32 may have."""


@dataclass(frozen=True)
class Exported:
    """One file, and how it does.

    Attributes:
        path: The file.
        precision: Of its arithmetic.
        megabytes: Its size.
        difference: The largest difference of probabilities from the network in torch, on a few
            images; None where there are no images to compare on.
        miou: Mean IoU on the run's test part; None where it was not measured.
        reference: The same of the network in torch, by a single view.
        ms_per_image: Of the network, at the working size, one image at a time.
        reference_ms: The same in torch.
    """

    path: Path
    precision: Precision
    megabytes: float
    difference: float | None
    miou: float | None
    reference: float | None
    ms_per_image: float
    reference_ms: float


def export_to_onnx(
    run: RunFolder,
    out: Path,
    *,
    precisions: Sequence[Precision] = ("fp32",),
    calibrate: Path | None = None,
    tile_px: int = 0,
    ground_cm: float = 0.0,
    measure: bool = True,
) -> list[Exported]:
    """Write a run's segmenter as ONNX, and measure each form against torch.

    Args:
        run: A finished run.
        out: New file, ``.onnx``; of several precisions ``NAME-fp16.onnx`` and so on beside it.
        precisions: Of weights and arithmetic.
        calibrate: Images for int8's ranges, and to compare on; default: the run's own.
        tile_px: For QGIS, see :func:`fewmask.onnx_model.export_onnx`.
        ground_cm: The same.
        measure: Also compute the mean IoU of each on the run's test part, and of torch.

    Raises:
        UsageError: the run does not end with a plain segmenter, or ``out`` is taken.
        DataError: no images for int8, or ``out`` is inside the run's data.
        ResourceError: a package is missing, or the network cannot be exported.
    """
    for folder in data_folders_of(run):
        refuse_inside(out, folder)
    card = read_card(run)
    predictor = predictor_of_run(run, choose_device("cpu"))
    if isinstance(predictor, SegmenterPredictor):  # else export_onnx tells
        predictor = SegmenterPredictor(
            predictor.network, predictor.working_size, "single", predictor.refine
        )
    data = Path(run.record["data"])
    images = calibrate or (data if data.exists() else None)
    measured = measure and data.is_dir()
    reference = _miou(run, data, predictor) if measured else None
    found = []
    for precision in precisions:
        path = out if len(precisions) == 1 else out.with_stem(f"{out.stem}-{precision}")
        export_onnx(
            predictor, card, path, precision=precision, tile_px=tile_px, ground_cm=ground_cm,
            calibrate=_some_images(images, CALIBRATION_IMAGES),
        )  # fmt: skip
        other, _ = open_onnx(path)
        compared = list(_some_images(images, COMPARED_IMAGES))
        sizes = tile_px == 0 or predictor.working_size == (tile_px, tile_px)
        found.append(
            Exported(
                path,
                precision,
                round(path.stat().st_size / 1e6, 2),
                largest_difference(predictor, other, compared) if compared and sizes else None,
                _miou(run, data, other) if measured and sizes else None,
                reference,
                _milliseconds(other, tile_px),
                _milliseconds(predictor, tile_px),
            )
        )
    return found


def export_weights(run: RunFolder, out: Path) -> Path:
    """Copy what predicts, and nothing else: ``weights/``, ``run.yaml`` and a card to read.

    Args:
        run: A finished run.
        out: A new folder; it predicts with ``fewmask predict OUT IMAGES``.

    Raises:
        UsageError: ``out`` is taken, or the run needs more than its weights.
        ResourceError: the disk refuses.
    """
    card = read_card(run)
    if card["kind"] != "segmenter":
        raise UsageError.of(
            "EXPORT-KIND", where=run.path, found=f"a run that ends with {card['kind']}",
            expected="a segmenter", fix="copy the run's folder as it is",
        )  # fmt: skip
    RunFolder.require_free(out)
    for folder in data_folders_of(run):
        refuse_inside(out, folder)
    with whole_folder(out) as making:
        shutil.copytree(run.path / "weights", making / "weights")
        shutil.copy(run.path / "run.yaml", making)
        (making / "README.md").write_text(_card_text(run, card, out), encoding="utf-8")
    return out


def _card_text(run: RunFolder, card: dict[str, Any], out: Path) -> str:
    """A model card: what it is for, what it learned from, what it scored."""
    scores = {name: value for name, value in card["metrics"].items() if isinstance(value, float)}
    settings = run.record["settings"]
    facts = {
        "pipeline": run.record.get("pipeline", "") or settings.get("pipeline", ""),
        "classes": card["class_names"],
        "input": card["input"],
        "working size (height, width in px)": card["image_size"],
        "encoder": card["encoder"],
        "architecture": card.get("architecture", ""),
        "licence": card["licence"],
    }
    lines = [f"# {out.name}", "", "A segmenter trained with fewmask.", "", "```yaml"]
    lines += [yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).strip(), "```", ""]
    lines += ["Use it:", "", f"    {shell_command('predict', out.name, 'IMAGES', '-o', 'masks')}"]
    lines += ["", f"Scores ({card['metrics_from']}):", "", "| score | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in scores.items()]
    return "\n".join(lines) + "\n"


def _some_images(folder: Path | None, count: int) -> Iterator[np.ndarray]:
    """So many images of a folder, spread over it."""
    if folder is None:
        return
    paths = list(images_below(folder).values())
    for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int):
        try:
            yield read_image(paths[i])
        except DataError:  # the pipelines tell; for ranges and comparison the others do
            continue


def _miou(run: RunFolder, data: Path, predictor: Any) -> float | None:
    try:
        return float(evaluate(run, data, predictor=predictor)["miou"])
    except DataError:  # no masks
        return None


def _milliseconds(predictor: SegmenterPredictor, tile_px: int) -> float:
    """Median time of one image, of nine."""
    import torch

    size = (tile_px, tile_px) if tile_px else predictor.working_size
    image, times = torch.rand(1, 3, *size), []
    with torch.no_grad():
        for _ in range(10):
            started = time.perf_counter()
            predictor.network(image)
            times.append(time.perf_counter() - started)
    return round(float(np.median(times[1:])) * 1e3, 2)
