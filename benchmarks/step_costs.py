"""CPU seconds of each kind of work, by the megapixel: what `fewmask check` estimates times from.

Networks, losses and sizes of the presets `fast`; random pixels, which change no cost but that of
the cut along colours. CPU seconds of one thread hardly depend on what else the machine does.

    python benchmarks/step_costs.py                 # a minute; prints what planning.py holds
    python benchmarks/step_costs.py --out FOLDER    # leave the tracked results alone
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.attribution.cam import compute_cam
from fewmask.config import resolve
from fewmask.masks.refine import refine
from fewmask.pipelines import factory_config, supervised_config, tags_config
from fewmask.pipelines.factory_generator import GanTraining
from fewmask.pipelines.tags_evidence import new_classifier, tag_loss, target_layer
from fewmask.pipelines.tags_translation import new_translators, translation_step
from fewmask.planning import matrix_rate
from fewmask.randomness import generator
from fewmask.training.image_pool import ImagePool
from fewmask.training.inference import predict_probs
from fewmask.training.loop import Loop
from fewmask.training.run_folder import RunFolder, Stage
from fewmask.training.segmenting import new_segmenter, segmentation_loss
from recording import HERE, machine, provenance, write_results, write_table

REPEATS = 5
Work = tuple[Callable[[], object], float]
"""What to do, and the megapixels that it does."""


def images(count: int, side: int) -> torch.Tensor:
    """(N, 3, S, S) float32 in [0, 1]."""
    drawn = generator(0, "images").random((count, 3, side, side), np.float32)
    return torch.from_numpy(drawn)


def segmenting() -> dict[str, Work]:
    """A step of the segmenter, and its answer to an image."""
    config = resolve(supervised_config.SupervisedConfig, supervised_config.PRESETS, "fast")
    side, batch = config.image_size, config.segment_batch_size
    network = new_segmenter(config, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    loss = segmentation_loss(config.segment_loss)
    x = images(batch, side).contiguous(memory_format=torch.channels_last)
    y = (x[:, 0] > 0.5).long()

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss(network(x), y).backward()
        optimizer.step()

    return {
        "segmenter, training": (step, batch * side**2 / 1e6),
        "segmenter, a view": (lambda: predict_probs(network.eval(), x[:1]), side**2 / 1e6),
    }


def classifying() -> dict[str, Work]:
    """A step of the tag classifier, and a class activation map."""
    config = resolve(tags_config.TagsConfig, tags_config.PRESETS, "fast")
    side, batch = config.image_size, config.classify_batch_size
    network = new_classifier(config, 1)
    optimizer = torch.optim.AdamW(network.parameters())
    loss = tag_loss(config.classify_loss, config.classify_label_smoothing)
    x = images(batch, side)
    y = (torch.arange(batch) % 2 == 0)[:, None].float()

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss(network(x), y).backward()
        optimizer.step()

    def cam() -> None:
        network.eval()
        layer = target_layer(network, config)
        compute_cam(network, x[:1], target_layer=layer, method=config.cam_method, class_index=0)

    return {
        "classifier, training": (step, batch * side**2 / 1e6),
        "map, a view": (cam, side**2 / 1e6),
    }


def translating(stage: Stage) -> dict[str, Work]:
    """A step of the translators, of as many images from each domain."""
    config = resolve(tags_config.TagsConfig, tags_config.PRESETS, "fast")
    side, batch = config.translate_image_size, config.translate_batch_size
    nets = new_translators(config)
    optimizers = {
        name: torch.optim.Adam([p for net in pair for p in net.parameters()])
        for name, pair in (("generators", nets[:2]), ("discriminators", nets[2:]))
    }
    pools = {name: ImagePool(config.translate_pool) for name in ("pool_a", "pool_b")}
    a, b = (images(2 * batch, side) * 2 - 1).split(batch)
    loop = next(_loops(stage))
    return {
        "translators, training": (
            lambda: translation_step(nets, optimizers, pools, a, b, config, loop),
            batch * side**2 / 1e6,
        )
    }


def generating(stage: Stage) -> dict[str, Work]:
    """Sixteen steps of the generator, among them those with its penalties."""
    config = resolve(factory_config.FactoryConfig, factory_config.PRESETS, "fast")
    side, batch = config.image_size, config.generate_batch_size
    training, real, loop = GanTraining(config, torch.device("cpu")), images(batch, side), None
    loop = next(_loops(stage))

    def steps() -> None:
        for step in range(config.generate_r1_interval):
            training.step(step, real * 2 - 1, loop)

    return {"generator, training": (steps, config.generate_r1_interval * batch * side**2 / 1e6)}


def cutting() -> dict[str, Work]:
    """The cut along colours, of an image with an object in it."""
    side = 128
    y, x = np.mgrid[:side, :side] / side
    score = np.exp(-8 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    noise = generator(0, "noise").random((side, side, 3))
    image = ((0.6 * (score[..., None] > 0.5) + 0.4 * noise) * 255).astype(np.uint8)
    return {
        "cut along colours": (lambda: refine(image, score, method="colour_model"), side**2 / 1e6)
    }


def _loops(stage: Stage) -> Any:
    """The loop of a stage, within its first step."""
    loop = Loop(stage, 1, seed=0, state={}, resumable=False)
    for _ in loop:
        yield loop


def cpu_seconds(work: Callable[[], object]) -> float:
    """The median of a few, after one that does not count."""
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", {"pipeline": "tags", "settings": {}})
        run.quiet = True
        stages = [run.stage(i, name, "cost") for i, name in enumerate(("translate", "generate"), 1)]
        works = {**segmenting(), **classifying(), **cutting()}
        works |= {**translating(stages[0]), **generating(stages[1])}
        for name, (work, megapixels) in works.items():
            seconds = cpu_seconds(work) / megapixels
            print(f"{name}: {seconds:.2f} CPU seconds a megapixel", flush=True)
            metrics = {"cpu_seconds_per_megapixel": round(seconds, 3)}
            rows.append({"name": name, **provenance(), "metrics": metrics})
    rate = round(matrix_rate(), 1)
    rows.append(
        {"name": "matrix product, gigaflops of a core", **provenance(), "metrics": {"gflops": rate}}
    )
    data = "random pixels, sizes of preset fast, one thread"
    write_results("step_costs", "python benchmarks/step_costs.py", rows, machine=machine(),
                  data=data, folder=out)  # fmt: skip
    cells = [[row["name"], str(next(iter(row["metrics"].values())))] for row in rows]
    write_table("step_costs", ["work", "CPU seconds a megapixel"], cells, folder=out)


if __name__ == "__main__":
    main()
