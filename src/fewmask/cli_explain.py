"""``fewmask explain``: which pixels made a network say so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fewmask.cli_engine import EngineFlags


def explain(
    images: Path,
    /,
    *,
    network: str,
    method: tuple[str, ...] = ("grad-cam",),
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    weights: str | None = None,
    part: Literal["auto", "classifier", "segmenter"] = "auto",
    class_name: Annotated[str | None, Parameter(name="--class")] = None,
    layer: str | None = None,
    size: tuple[int, int] | None = None,
    cache: Path | None = None,
    batch_size: int = 16,
    device: str = "auto",
    where: Annotated[EngineFlags, Parameter(name="*")] = EngineFlags(),  # noqa: B008 - frozen
) -> None:
    """Heatmaps of what a classifier or segmenter looked at, and overlays to see them on.

    Args:
        images: An image, or a folder of images; nothing in it is changed.
        network: A finished run, or timm:NAME for a network with ImageNet's classes; offline
            timm:tf_efficientnet_lite0.
        method: One or more, by commas or spaces: plain, deconv, guided, smoothgrad,
            integrated-gradients, guided-grad-cam (gradients of the image); cam, grad-cam,
            grad-cam-pp, layer-cam, score-cam (maps of a layer).
        out: New or empty folder.
        weights: Of timm's network: packaged, imagenet, none (random), or a file.
        part: Of a run: the tag classifier, or the segmenter.
        class_name: Explain this class, by name or number; default: what the network says.
        layer: Dotted name of the layer for CAMs.
        size: Height and width in px to work at.
        cache: Folder in which maps are kept by content, to be made once.
        batch_size: Images at one time.
        device: auto, cpu, cuda, cuda:1, mps.
        where: The work is done.
    """
    from fewmask.explaining import explain as explain_images
    from fewmask.training.signals import stop_on_signals

    methods = [name for names in method for name in names.split(",") if name]
    with stop_on_signals():
        written = explain_images(
            network, images, out, methods=methods, weights=weights, part=part,
            class_name=class_name, layer=layer, size=size, cache=cache, batch_size=batch_size,
            device=device, engine=where.chosen(),
        )  # fmt: skip
    print(f"{len(written)} {'map' if len(written) == 1 else 'maps'} in {out / 'maps'}")
    print(f"to look at: {out / 'strips'}; classes: {out / 'explained.csv'}")
