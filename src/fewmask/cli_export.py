"""``fewmask export``: a run's segmenter for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fewmask.errors import UsageError, shell_command


def export(
    run: Path,
    /,
    *,
    to: Literal["onnx", "safetensors"],
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    precision: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32",),
    calibrate: Path | None = None,
    for_: Annotated[Literal["qgis"] | None, Parameter(name="--for")] = None,
    tile_px: int = 512,
    ground_cm: float = 0.0,
    measure: bool = True,
) -> None:
    """A run's segmenter as one ONNX file (extra `export`), or as weights with a card to read.

    Args:
        run: A finished run.
        to: onnx: any size, normalisation inside; safetensors: a folder for `fewmask predict`.
        out: New file or folder; default: the run's name.
        precision: fp32, fp16 or int8; of several, a file each.
        calibrate: Images that give int8 its ranges; default: the run's own.
        for_: qgis: tiles of one size and the facts that the plugin Deepness reads.
        tile_px: With --for: side of a tile.
        ground_cm: With --for: side of a pixel on the ground, in cm.
        measure: Compare with torch on the run's test part.
    """
    from fewmask.cli import NEW_MASKS, tell_next
    from fewmask.training.run_folder import RunFolder
    from fewmask.training.run_places import free_path

    opened = RunFolder.open(run)
    if to == "safetensors":
        from fewmask.exporting import export_weights

        folder = export_weights(opened, out or free_path(Path(f"{run.resolve().name}-model")))
        print(f"weights and card in {folder}")
        tell_next(shell_command("predict", folder, "IMAGES", "-o", free_path(NEW_MASKS)),
                  own="IMAGES")  # fmt: skip
        return
    if for_ is None and ground_cm:
        raise UsageError.of("EXPORT-FLAG", where="--ground-cm", found="a file for any program",
                            expected="--for qgis", fix="add --for qgis")  # fmt: skip
    from fewmask.exporting import PARITY, export_to_onnx

    found = export_to_onnx(
        opened, out or free_path(Path(f"{run.resolve().name}.onnx")), precisions=precision,
        calibrate=calibrate, tile_px=tile_px if for_ else 0, ground_cm=ground_cm, measure=measure,
    )  # fmt: skip
    for each in found:
        told = [f"{each.path}: {each.precision}, {each.megabytes:g} MB"]
        if each.difference is not None:
            told.append(f"probabilities differ from torch by at most {each.difference:.1e}")
        if each.miou is not None and each.reference is not None:
            lost = each.reference - each.miou
            told.append(f"mIoU {each.miou:.4f}, {abs(lost):.4f} {'less' if lost > 0 else 'more'} "
                        "than torch by the same single view")  # fmt: skip
        told.append(f"{each.ms_per_image:g} ms an image, torch {each.reference_ms:g}")
        print("; ".join(told))
        if each.precision == "fp32" and (each.difference or 0) > PARITY:
            print(f"this is more than {PARITY:g}: do not trust the file")
    tell_next(shell_command("predict", found[0].path, "IMAGES", "-o", free_path(NEW_MASKS)),
              own="IMAGES")  # fmt: skip
