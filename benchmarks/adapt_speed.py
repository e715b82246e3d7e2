"""One step of each published network of `adapt`, at full size: seconds and memory, fp32 and bf16.

    python benchmarks/adapt_speed.py                 # on the device at hand; a GPU is meant
    python benchmarks/adapt_speed.py --small         # tiny networks: only to see that it runs

UNIT: one step of auto-encoders and judges with the VGG16 perceptual loss at 512 px, batch 1.
Panoptic FPN: one step of ResNet-101 at 512 x 1024 px. Weights are random; a step takes as long.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewmask.config import resolve
from fewmask.losses.segmentation import cross_entropy
from fewmask.models.features import content_features
from fewmask.models.segmenter import build_segmenter
from fewmask.pipelines.adapt_config import PRESETS, AdaptConfig
from fewmask.pipelines.adapt_translation import new_unit, unit_step
from fewmask.training.device import choose_device
from recording import HERE, provenance, write_results, write_table

WARM, TIMED = 3, 10
BATCHES = {"cpu": (2,), "cuda": (2, 8)}
SMALL = {
    "image_size": 64, "image_width": 64, "translate_crop_px": [64], "translate_width": 8,
    "translate_discriminator_width": 8, "translate_scales": 1,
}  # fmt: skip


class Plain:
    """What a step needs of a training loop: backward and the optimiser's step."""

    def update(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        """As :meth:`fewmask.training.loop.Loop.update`, without its checks."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def unit_case(config: AdaptConfig, device: torch.device) -> Callable[[], Any]:
    """One step of UNIT at the crop's size, batch 1."""
    nets = new_unit(config)
    for net in nets:
        net.to(device)
    features = content_features(config.translate_perceptual_network, "none").to(device)
    judges = [*nets.disc_a.parameters(), *nets.disc_b.parameters()]
    optimizers = {
        "optimizer_unit": torch.optim.Adam(nets.unit.parameters(), 1e-4),
        "optimizer_judges": torch.optim.Adam(judges, 1e-4),
    }
    side = config.translate_crop_px[-1]
    day, night = (torch.rand(1, 3, side, side, device=device) * 2 - 1 for _ in range(2))
    loop: Any = Plain()
    return lambda: unit_step(nets, features, optimizers, day, night, config, loop)


def segmenter_case(config: AdaptConfig, device: torch.device, batch: int) -> Callable[[], Any]:
    """One step of the segmenter at the working size."""
    network = build_segmenter("fpn", config.encoder, num_classes=19, pretrained=False).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.9)
    image = torch.rand(batch, 3, *config.working_size, device=device)
    target = torch.randint(0, 19, (batch, *config.working_size), device=device)

    def step() -> None:
        Plain().update(optimizer, cross_entropy(network(image).float(), target))

    return step


def timed(case: Callable[[], Any], device: torch.device, bf16: bool) -> dict[str, float]:
    """Median seconds of a step after warming up, and the peak of the device's memory."""
    cuda = device.type == "cuda"
    seconds = []
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    for number in range(WARM + TIMED):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            case()
        if cuda:
            torch.cuda.synchronize(device)
        if number >= WARM:
            seconds.append(time.perf_counter() - start)
    found = {"seconds": round(sorted(seconds)[len(seconds) // 2], 4)}
    if cuda:
        found["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return found


def main() -> None:
    """Time all cases and write them down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny networks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=HERE, help="whose results/ is written")
    given = parser.parse_args()
    device = choose_device(given.device)
    small = {**SMALL, "encoder": "resnet18"} if given.small else {}
    config = resolve(AdaptConfig, PRESETS, "paper", overrides=small)
    side = config.translate_crop_px[-1]
    cases = {f"UNIT step, {side} px, batch 1": lambda: unit_case(config, device)}
    for batch in BATCHES[device.type]:
        size = "{} x {}".format(*config.working_size)
        name = f"Panoptic FPN step, {config.encoder}, {size} px, batch {batch}"
        cases[name] = partial(segmenter_case, config, device, batch)
    rows: list[dict[str, Any]] = []
    for name, build in cases.items():
        for bf16 in (False, True):
            torch.manual_seed(0)
            found = timed(build(), device, bf16)
            kind = "bf16" if bf16 else "fp32"
            where = provenance(str(device))
            rows.append({"name": f"{name}, {kind}", "metrics": found, **where})
            print(rows[-1], flush=True)
    write_results("adapt_speed", "python benchmarks/adapt_speed.py", rows, machine="",
                  data="random pixels", folder=given.out)  # fmt: skip
    lines = [
        [row["name"], f"{row['metrics']['seconds']:.3f}", str(row["metrics"].get("peak_gb", ""))]
        for row in rows
    ]
    write_table("adapt_speed", ["step", "seconds", "peak GB"], lines, folder=given.out)


if __name__ == "__main__":
    main()
