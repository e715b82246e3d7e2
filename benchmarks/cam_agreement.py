"""Our class activation maps against grad-cam and torchcam, in one process and in alternation.

For each method: the largest difference of the maps after min-max, and how many times as long the
other package takes. Why some maps differ is explained in ``docs/attribution.md``.

    python benchmarks/cam_agreement.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fewmask import torchvision_compat
from fewmask.attribution.cam import METHODS, compute_cam, find_layer
from recording import HERE, machine, write_results, write_table

torchvision_compat.ensure()
import pytorch_grad_cam as grad_cam  # noqa: E402
import torchcam.methods as torchcam  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402

CLASS = 1
GRAD_CAM = {
    "grad_cam": grad_cam.GradCAM,
    "grad_cam_pp": grad_cam.GradCAMPlusPlus,
    "layer_cam": grad_cam.LayerCAM,
    "score_cam": grad_cam.ScoreCAM,
}
TORCHCAM = {
    "cam": torchcam.CAM,
    "grad_cam": torchcam.GradCAM,
    "grad_cam_pp": torchcam.GradCAMpp,
    "layer_cam": torchcam.LayerCAM,
    "score_cam": torchcam.ScoreCAM,
}


def two_convolutions() -> tuple[nn.Module, str, Tensor]:
    """A seeded network of two convolutions, the layer to look at, and images (2, 3, 24, 20)."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, 1, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    return network.eval(), "3", torch.randn(2, 3, 24, 20)


def vgg11() -> tuple[nn.Module, str, Tensor]:
    """VGG11 with seeded random weights, behind its last ReLU; one image of 64 px."""
    from torchvision.models import vgg11 as build

    torch.manual_seed(0)
    network = build(weights=None, num_classes=4)
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # neither package copies the activation
    return network.eval(), "features.19", torch.randn(1, 3, 64, 64)


def ours(network: nn.Module, layer: str, image: Tensor, method: str) -> Tensor:
    """Our map, (N, H, W)."""
    return compute_cam(
        network,
        image,
        target_layer=find_layer(network, layer),
        class_index=CLASS,
        method=method,
        weighting="softmax",
    )


def by_grad_cam(network: nn.Module, layer: str, image: Tensor, method: str) -> Tensor:
    """grad-cam's map, (N, H, W)."""
    with GRAD_CAM[method](network, [find_layer(network, layer)]) as cam:
        targets = [ClassifierOutputTarget(CLASS)] * len(image)
        return torch.from_numpy(cam(image, targets))


def by_torchcam(network: nn.Module, layer: str, image: Tensor, method: str) -> Tensor:
    """Torchcam's map, (N, H, W); negative evidence of its plain CAM is cut as in ours."""
    with TORCHCAM[method](network, find_layer(network, layer)) as cam:
        logits = network(image)
        found = cam(class_idx=CLASS, scores=logits, normalized=False)[0].detach()
    size = image.shape[-2:]
    found = found.relu() if method == "cam" else found
    return interpolate(found[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def compare(
    network: nn.Module,
    layer: str,
    image: Tensor,
    method: str,
    peer: Callable[[nn.Module, str, Tensor, str], Tensor],
    repeats: int,
) -> dict[str, float]:
    """Largest difference, and the medians of both times taken in turn."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    maps = {}
    for _ in range(repeats + 1):  # the first of each only warms up
        for name, function in (("ours", ours), ("peer", peer)):
            started = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
                maps[name] = function(network, layer, image, method)
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
    difference = (_min_max(maps["ours"]) - _min_max(maps["peer"])).abs().max()
    return {
        "max_difference": float(f"{float(difference):.2e}"),
        "ours_ms": round(medians["ours"] * 1e3, 2),
        "peer_ms": round(medians["peer"] * 1e3, 2),
        "ratio": round(medians["peer"] / medians["ours"], 2),
    }


def _min_max(cam: Tensor) -> Tensor:
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
    return (cam - low) / (high - low).clamp_min(1e-20)


def main() -> None:
    """Measure every method, network and package; write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results/; default: here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for title, build in (("two convolutions", two_convolutions), ("VGG11", vgg11)):
        network, layer, image = build()
        for method in METHODS:
            for peer, known, function in (
                ("grad-cam", GRAD_CAM, by_grad_cam),
                ("torchcam", TORCHCAM, by_torchcam),
            ):
                if method not in known or (method == "cam" and title == "VGG11"):
                    continue  # VGG11 has no average-pooled layer before a linear head
                long = (method, title) == ("score_cam", "VGG11")  # 512 masked images each
                repeats = 1 if long else given.repeats
                found = compare(network, layer, image, method, function, repeats)
                ratio = found.pop("ratio")
                row = {"name": f"{method}, {title}, {peer}", "metrics": found, "ratio": ratio}
                rows.append(row)
                print(json.dumps(row), flush=True)
    write_results(
        "cam_agreement",
        "python benchmarks/cam_agreement.py",
        rows,
        machine=machine() + ", 1 thread",
        data="seeded noise, 24 x 20 px and 64 px",
        folder=given.out,
    )
    write_table(
        "cam_agreement",
        ["method, network, package", "largest difference", "ours, ms", "theirs, ms", "ratio"],
        [
            [
                row["name"],
                f"{row['metrics']['max_difference']:.0e}",
                f"{row['metrics']['ours_ms']:.1f}",
                f"{row['metrics']['peer_ms']:.1f}",
                f"{row['ratio']:.1f}",
            ]
            for row in rows
        ],
        given.out,
    )


if __name__ == "__main__":
    main()
