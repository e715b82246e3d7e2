"""One optimiser step of every trained stage of ``--preset paper``, at its published size and batch.

Shows that the published setting runs on this machine, what a step costs in time and memory, and
that it changes the weights. Networks have random weights and images random pixels: neither changes
the cost. Each row runs in a process of its own, so that its peak memory is its own.

    python benchmarks/paper_steps.py                     # all rows
    python benchmarks/paper_steps.py --row translate     # one row again; the others are kept
    python benchmarks/paper_steps.py --out FOLDER        # leave the tracked results alone
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.config import Settings, resolve
from fewmask.data.loading import TrainingSet
from fewmask.data.transforms import Augmentation
from fewmask.pipelines import supervised_config, tags_config
from fewmask.pipelines.tags_evidence import new_classifier, tag_loss
from fewmask.pipelines.tags_translation import new_translators, translation_step
from fewmask.randomness import generator, seed_all
from fewmask.training.fit import FitSettings, fit
from fewmask.training.image_pool import ImagePool
from fewmask.training.loop import Loop
from fewmask.training.run_folder import RunFolder, Stage
from fewmask.training.segmenting import fit_settings, new_segmenter, segmentation_loss
from recording import HERE, machine, provenance, write_results, write_table

COMMAND = "python benchmarks/paper_steps.py"


def classify(stage: Stage, device: torch.device) -> dict[str, Any]:
    """VGG16 at 512 px, batch 32; only the head is trained."""
    config = _paper(tags_config.TagsConfig, tags_config.PRESETS, encoder_weights="none")
    batch = config.classify_batch_size
    network = new_classifier(config, 1)
    settings = FitSettings(
        epochs=1,
        batch_size=batch,
        learning_rate=config.classify_learning_rate,
        optimizer=config.classify_optimizer,
        schedule=config.classify_schedule,
        weight_decay=config.classify_weight_decay,
    )
    tags = (np.arange(batch) % 2 == 0)[:, None]
    images = _images(batch, config.image_size)
    loss = tag_loss(config.classify_loss, config.classify_label_smoothing)
    facts = _fit_once(stage, network, images, tags, loss, settings, device)
    return {**facts, "image_size": config.image_size, "batch": batch, "published_batch": 32}


def translate(stage: Stage, device: torch.device) -> dict[str, Any]:
    """CycleGAN at 512 px, batch 6 of each domain: both generators, then both discriminators."""
    config = _paper(tags_config.TagsConfig, tags_config.PRESETS)
    batch, size = config.translate_batch_size, config.translate_image_size
    nets = type(new_translators(config))(*(net.to(device) for net in new_translators(config)))
    adam: dict[str, Any] = {"lr": config.translate_learning_rate, "betas": (0.5, 0.999)}
    optimizers = {
        "generators": torch.optim.Adam(
            [*nets.gen_ab.parameters(), *nets.gen_ba.parameters()], **adam
        ),
        "discriminators": torch.optim.Adam(
            [*nets.disc_a.parameters(), *nets.disc_b.parameters()], **adam
        ),
    }
    pools = {"pool_a": ImagePool(config.translate_pool), "pool_b": ImagePool(config.translate_pool)}
    signed = torch.from_numpy(_images(2 * batch, size)).permute(0, 3, 1, 2) / 127.5 - 1
    real_a, real_b = signed.to(device).split(batch)
    before = {name: _trained(net) for name, net in nets._asdict().items()}
    loop = Loop(stage, 1, seed=0, state={}, resumable=False)
    losses: dict[str, float] = {}
    started = time.perf_counter()
    for _ in loop:
        losses = translation_step(nets, optimizers, pools, real_a, real_b, config, loop)
        _synchronise(device)
        seconds = time.perf_counter() - started
    changed = [_changed(before[name], net) for name, net in nets._asdict().items()]
    return {
        "loss": sum(losses.values()),
        "seconds": seconds,
        "changed": min(changed),
        "image_size": size,
        "batch": batch,
        "published_batch": 6,
        "micro_batch": config.translate_micro_batch_size,
    }


def segment(stage: Stage, device: torch.device) -> dict[str, Any]:
    """The supervised U-Net (64 … 1024 channels) at 512 px; its batch is not published."""
    config = _paper(supervised_config.SupervisedConfig, supervised_config.PRESETS)
    batch, size = config.segment_batch_size, config.image_size
    settings = replace(fit_settings(config), epochs=1)
    images = _images(batch, size)
    masks = (images[..., 0] > 127).astype(np.uint8)
    loss = segmentation_loss(config.segment_loss)
    facts = _fit_once(stage, new_segmenter(config, 2), images, masks, loss, settings, device)
    return {**facts, "image_size": size, "batch": batch}


ROWS: dict[str, Callable[[Stage, torch.device], dict[str, Any]]] = {
    "classify": classify,
    "translate": translate,
    "segment": segment,
}


def _paper(schema: type[Settings], presets: Mapping[str, Any], **changes: Any) -> Any:
    return resolve(schema, presets, "paper", overrides=changes)


def _images(count: int, size: int) -> np.ndarray:
    """(N, S, S, 3) uint8."""
    draws = generator(0, "images").integers(0, 256, (count, size // 16, size // 16, 3))
    return draws.astype(np.uint8).repeat(16, axis=1).repeat(16, axis=2)


def _fit_once(
    stage: Stage,
    network: nn.Module,
    images: np.ndarray,
    targets: np.ndarray,
    loss: Callable[[Tensor, Tensor], Tensor],
    settings: FitSettings,
    device: torch.device,
) -> dict[str, Any]:
    """``fit`` for an epoch of one batch; the clock stops at its validation, behind the step."""
    dataset = TrainingSet(images, targets, range(len(images)), Augmentation(), seed=0, name="step")
    before = _trained(network)
    ended = []

    def stop_clock(_: nn.Module) -> float:
        _synchronise(device)
        ended.append(time.perf_counter())
        return 0.0

    started = time.perf_counter()
    fit(stage, network, dataset, loss, settings, seed=0, device=device, score=stop_clock)
    record = json.loads((stage.run.path / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "loss": record["loss"],
        "seconds": ended[0] - started,
        "changed": _changed(before, network),
        "micro_batch": settings.micro_batch_size or settings.batch_size,
    }


def _trained(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }


def _changed(before: Mapping[str, Tensor], network: nn.Module) -> float:
    """Fraction of the trained tensors that are no longer what they were; it must not be 0."""
    after = dict(network.named_parameters())
    changed = [not torch.equal(old, after[name].detach().cpu()) for name, old in before.items()]
    if not any(changed):
        raise SystemExit("the step changed no weight")
    return sum(changed) / len(changed)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str, device: torch.device) -> dict[str, Any]:
    """Run one row in this process."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", {"pipeline": "tags", "settings": {}})
        run.quiet = True
        seed_all(0, name)
        facts = ROWS[name](run.stage(1, name, "benchmark"), device)
    metrics = {key: round(facts.pop(key), 4) for key in ("loss", "seconds", "changed")}
    return {
        "name": name,
        "metrics": metrics,
        **facts,
        "peak_gb": round(_peak_gb(device), 2),
        "minutes": round(metrics["seconds"] / 60, 2),
        **provenance(str(device)),
    }


def main() -> None:
    """Run all rows, or one again, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", choices=ROWS, help="only this one; the others are kept")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results/; default: here")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_process:
        print(json.dumps(measure(given.row, torch.device(given.device))))
        return
    name = "paper_steps" if given.device == "cpu" else "paper_steps_cuda"
    path = given.out / "results" / f"{name}.json"
    kept = (
        {row["name"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
    )
    suffix = "" if given.device == "cpu" else f" --device {given.device}"
    for row in [given.row] if given.row else ROWS:
        command = [sys.executable, __file__, "--in-process", "--row", row]
        done = subprocess.run(
            [*command, "--device", given.device], check=True, stdout=subprocess.PIPE, text=True
        )
        kept[row] = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(kept[row]), flush=True)
        rows = [kept[known] for known in ROWS if known in kept]
        write_results(
            name,
            COMMAND + suffix,
            rows,
            machine=machine(given.device),
            data="random pixels",
            folder=given.out,
        )
        if given.device == "cpu":
            _tabulate(rows, given.out)


def _tabulate(rows: list[dict[str, Any]], folder: Path) -> None:
    header = ["stage", "image px", "batch", "at once", "loss", "seconds", "peak GB"]
    lines = [
        [
            row["name"],
            str(row["image_size"]),
            str(row["batch"]) + ("" if row.get("published_batch") else " (not published)"),
            str(row["micro_batch"]),
            f"{row['metrics']['loss']:.3f}",
            f"{row['metrics']['seconds']:.0f}",
            f"{row['peak_gb']:.1f}",
            f"{row['metrics']['changed']:.0%}",
        ]
        for row in rows
    ]
    write_table("paper_steps", [*header, "tensors changed"], lines, folder)


if __name__ == "__main__":
    main()
