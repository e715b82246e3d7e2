"""``fewmask predict``: a finished run on pictures, scenes and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fewmask.cli_engine import EngineFlags
from fewmask.errors import UsageError, shell_command


def predict(
    run: Path,
    images: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    device: str = "auto",
    save_probs: bool = False,
    image_px: Annotated[tuple[int, ...], Parameter(negative="")] = (),
    bands: Annotated[tuple[int, ...], Parameter(negative="")] = (),
    margin_px: int = 0,
    polygons: Annotated[bool, Parameter(negative="")] = False,
    window: tuple[float, float] | None = None,
    to: Annotated[tuple[Literal["coco", "cvat", "label-studio"], ...], Parameter(negative="")] = (),
    runtime: Literal["auto", "channels-last", "contiguous", "bf16", "onnx"] = "auto",
    where: Annotated[EngineFlags, Parameter(name="*")] = EngineFlags(),  # noqa: B008 - frozen
) -> None:
    """Masks (PNG, class ids) and overlays for other images, same names and sizes.

    A GeoTIFF scene of any size gives a GeoTIFF mask on the same grid (needs the extra `geo`); where
    it was stopped, the same command goes on.

    Args:
        run: A finished run, or an .onnx file of `fewmask export`.
        images: An image, a folder of images, a GeoTIFF scene (needs the extra `geo`), NIfTI volumes
            or DICOM series (needs the extra `medical`), or a video (needs the extra `video`).
        out: New or empty folder; for a video, a new video with the masks laid over it.
        device: auto, cpu, cuda, cuda:1, mps.
        save_probs: Also write class probabilities (float16 .npy).
        image_px: For scenes at another resolution: height and width in the scene's px, or one
            number for both, of what an image of the run's kind shows.
        bands: Of a scene, the numbers of red, green and blue, or of one band.
        margin_px: Of a scene, how wide a border of each window has no say, at the network's scale;
            default 64. 448 is as far as EfficientNet-Lite0 looks, and six times the work.
        polygons: Of a scene, also a GeoPackage of its areas.
        window: Of volumes, values that become black and white, such as -160 240.
        to: Of a folder of images, also files that these tools import.
        runtime: The form in which the network computes; auto: of 200 pictures or windows and more,
            the fastest on the first ones, if its masks are the same; else channels-last.
        where: A folder of images is predicted.
    """
    from fewmask.cli import NEW_MASKS, tell_next
    from fewmask.predict import predict as predict_images
    from fewmask.predict_video import is_video, predict_video
    from fewmask.training.run_folder import RunFolder
    from fewmask.training.run_places import free_path
    from fewmask.training.signals import stop_on_signals

    if is_video(images):
        given = {"--save-probs": save_probs, "--image-px": image_px, "--bands": bands,
                 "--margin-px": margin_px,
                 "--polygons": polygons, "--window": window, "--to": to}  # fmt: skip
        for flag in (flag for flag, value in given.items() if value):
            raise UsageError.of("VIDEO-FLAG", where=flag, found=f"a video, {images}",
                                expected="images", fix=f"leave out {flag}")  # fmt: skip
        with stop_on_signals():
            print(predict_video(run, images, out, device=device, runtime=runtime))
        tell_next(shell_command("predict", run, "IMAGES", "-o", free_path(NEW_MASKS)), own="IMAGES")
        return
    with stop_on_signals():
        written = predict_images(
            run, images, out, device=device, probs=save_probs,
            image_px=image_px, bands=bands, margin_px=margin_px, polygons=polygons, window=window,
            to=to, engine=where.chosen(), runtime=runtime,
        )  # fmt: skip
    count = "1 mask" if len(written) == 1 else f"{len(written)} masks"
    print(f"{count} in {out / 'masks'}, overlays in {out / 'overlays'}")
    if run.suffix == ".onnx":
        return
    refined = RunFolder.open(run).record["settings"].get("predict_refine", "none")
    if refined != "none" and written[0].suffix == ".tif":
        print(f"scenes are not refined by {refined}, as this run's pictures are")
    tell_next(shell_command("evaluate", run, "DATA"), own="DATA with masks")
