"""Images per second of each saliency method on EfficientNet-Lite0, and of Captum doing the same.

    python benchmarks/saliency_speed.py --data ../shared/data/ecssd/images
    python benchmarks/saliency_speed.py --data FOLDER --images 8 --method guided   # a glance

Real images at 224 px, in batches of 16, on the CPU. A round is a batch by one, then the same batch
by the other, in turns, so that whatever else the machine does falls on both; ``ratio`` is the
median over the rounds of Captum's seconds by ours. Plain and guided gradients, SmoothGrad (25
copies), integrated gradients (50 points) and Grad-CAM are asked for as Captum's users would, for
the same class of each image; both sides make of them one min-max scaled map an image. Captum has no
Score-CAM, and its ``guided`` puts hooks on modules called ReLU, of which this network (ReLU6) has
none: it is then a plain gradient, which takes as long.

Memory: the process's growth after the first hundred images, over all that follow, of maps that are
consumed one by one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from captum import attr
from torch import Tensor, nn

from fewmask.attribution.explain import Explainer, default_layer, explain
from fewmask.attribution.maps import min_max
from fewmask.data.files import images_below
from fewmask.data.transforms import resize_image, to_unit
from fewmask.io.images import read_image
from fewmask.models.classifier import imagenet_classifier
from recording import machine, provenance, write_results, write_table

SIDE, BATCH, ROUNDS = 224, 16, 5
SMOOTH = {"samples": 25}
POINTS = {"steps": 50}
OURS: dict[str, dict[str, Any]] = {
    "plain": {}, "guided": {}, "grad_cam": {}, "smoothgrad": SMOOTH, "integrated_gradients": POINTS,
}  # fmt: skip
SHORTER = {"smoothgrad": 2, "integrated_gradients": 1}
"""Rounds of what takes minutes a batch."""
MEMORY = {"first": 100, "all": 1000}


def captum_maps(network: nn.Module, method: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(image, class) to maps in [0, 1], as Captum's documentation has it."""
    if method == "grad_cam":
        cam = attr.LayerGradCam(network, default_layer(network, torch.zeros(1, 3, SIDE, SIDE)))

        def by_layer(image: Tensor, target: Tensor) -> Tensor:
            found = cam.attribute(image, target, relu_attributions=True)
            return min_max(attr.LayerAttribution.interpolate(found, (SIDE, SIDE), "bilinear")[:, 0])

        return by_layer
    plain = attr.Saliency(network)
    noisy = attr.NoiseTunnel(plain)
    calls: dict[str, Callable[..., Tensor]] = {
        "plain": lambda x, c: plain.attribute(x, c),
        "guided": lambda x, c: attr.GuidedBackprop(network).attribute(x, c),
        "smoothgrad": lambda x, c: noisy.attribute(
            x, nt_type="smoothgrad", nt_samples=25, nt_samples_batch_size=1, stdevs=0.15, target=c
        ),
        "integrated_gradients": lambda x, c: attr.IntegratedGradients(network).attribute(
            x, target=c, n_steps=50, method="gausslegendre", internal_batch_size=BATCH
        ),
    }

    def by_pixel(image: Tensor, target: Tensor) -> Tensor:
        found = calls[method](image.clone().requires_grad_(), target).detach()
        return min_max(found.abs().amax(1))

    return by_pixel


def speed(network: nn.Module, images: list[Tensor], method: str) -> dict[str, Any]:
    """Seconds of both sides in turns, on the same batches."""
    theirs = captum_maps(network, method)
    seconds: dict[str, list[float]] = {"ours": [], "captum": []}
    rounds = SHORTER.get(method, ROUNDS)
    batches = [torch.stack(images[i : i + BATCH]) for i in range(0, rounds * BATCH, BATCH)]
    for number, image in enumerate([batches[0][:2], *batches]):
        with torch.no_grad():
            target = network(image).argmax(1)
        calls = {
            "ours": lambda x=image, c=target: explain(
                network, x, method=method, class_index=c, batch_size=BATCH, **OURS[method]
            ),
            "captum": lambda x=image, c=target: theirs(x, c),
        }
        for side in sorted(calls, reverse=bool(number % 2)):
            start = time.perf_counter()
            calls[side]()
            if number:  # the first warms up
                seconds[side].append(time.perf_counter() - start)
    ratios = [c / o for o, c in zip(seconds["ours"], seconds["captum"], strict=True)]
    return {
        "name": method,
        **provenance(),
        "n": rounds * BATCH,
        "metrics": {
            "images_per_second": round(BATCH / statistics.median(seconds["ours"]), 3),
            "images_per_second.captum": round(BATCH / statistics.median(seconds["captum"]), 3),
        },
        "by_round": [round(ratio, 3) for ratio in ratios],
        "ratio": round(statistics.median(ratios), 3),
    }


def growth(network: nn.Module, images: list[Tensor]) -> dict[str, Any]:
    """Resident memory after 100 and after 1,000 plain maps, and their rate; nothing is cached."""
    explainer = Explainer(network, "plain", batch_size=BATCH)
    start, seen = time.perf_counter(), {}
    stream: Iterator[Tensor] = islice(cycle(images), MEMORY["all"])
    for number, _ in enumerate(explainer.maps(stream), start=1):
        if number in MEMORY.values():
            seen[number] = resident_gb()
    taken = time.perf_counter() - start
    first, last = (seen[MEMORY[name]] for name in ("first", "all"))
    return {
        "name": "plain, 1,000 images in a stream",
        **provenance(),
        "n": MEMORY["all"],
        "metrics": {
            "images_per_second": round(MEMORY["all"] / taken, 3),
            "growth_gb": round(last - first, 4),
        },
        "peak_gb": round(last, 2),
    }


def resident_gb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def main() -> None:
    """Measure all methods, or some, and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--images", type=int, default=0, help="only so many; nothing is written")
    parser.add_argument("--method", choices=OURS, nargs="+", default=list(OURS))
    given = parser.parse_args()
    needed = given.images or ROUNDS * BATCH
    paths = list(islice(cycle(images_below(given.data).values()), needed))
    images = [to_unit(resize_image(read_image(path), SIDE, SIDE)) for path in paths]
    images = list(islice(cycle(images), ROUNDS * BATCH))
    network = imagenet_classifier("tf_efficientnet_lite0", "packaged").eval()
    rows = []
    for method in given.method:
        rows.append(speed(network, images, method))
        print(rows[-1], flush=True)
    if given.images or given.method != list(OURS):
        return
    rows.append(growth(network, images))
    print(rows[-1])
    write_results(
        "saliency_speed",
        "python benchmarks/saliency_speed.py --data IMAGES",
        rows,
        machine=machine(),
        data=f"{ROUNDS * BATCH} photographs at {SIDE} px, {torch.get_num_threads()} threads",
    )
    write_table(
        "saliency_speed",
        ["method", "images", "images a second", "Captum's", "ratio"],
        [
            [
                row["name"],
                str(row["n"]),
                f"{row['metrics']['images_per_second']:.2f}",
                f"{row['metrics'].get('images_per_second.captum', float('nan')):.2f}",
                f"{row['ratio']:.2f}" if "ratio" in row else "",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
