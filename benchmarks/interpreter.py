"""The style interpreter at the published size: native maps against the published form.

    python benchmarks/interpreter.py            # both rows of labelling, in alternation
    python benchmarks/interpreter.py --repeats 1

256 px, 14 maps with 4,992 channels, 10 classifiers, 6 classes. The *naive* form is the published
one: all maps enlarged to 256 px, laid on top of one another, one vector of 4,992 numbers a pixel.
Weights and features are random; neither changes the work. Time: both forms by turns in one process,
the median. Memory: each form in a fresh process, the most that it takes beyond what that process
holds when classifiers and maps are there. Training: 30 images, resident memory beyond an idle
process that has imported what it needs; the pages of the memory-mapped maps are counted in.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewmask.config import resolve
from fewmask.models.pixel_classifier import PixelClassifier, disagreement, enlarge, label
from fewmask.pipelines.factory_config import PRESETS, FactoryConfig
from fewmask.pipelines.factory_interpreter import NativeMaps, fit_interpreter
from fewmask.training.device import peak_gigabytes
from fewmask.training.run_folder import RunFolder
from recording import machine, write_results, write_table

SIZES = [size for size in (4, 8, 16, 32, 64, 128, 256) for _ in range(2)]
CHANNELS = [512] * 8 + [256] * 2 + [128] * 2 + [64] * 2
SIZE, CLASSES, MEMBERS, IMAGES = (256, 256), 6, 10, 30


def parts() -> tuple[list[PixelClassifier], list[Tensor]]:
    """Ten classifiers and one image's maps."""
    torch.manual_seed(0)
    members = [PixelClassifier(CHANNELS, CLASSES).eval() for _ in range(MEMBERS)]
    maps = [torch.randn(1, c, s, s) for c, s in zip(CHANNELS, SIZES, strict=True)]
    return members, maps


@torch.no_grad()
def native(members: Sequence[PixelClassifier], maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Ours."""
    return label(members, maps, SIZE)


@torch.no_grad()
def naive(members: Sequence[PixelClassifier], maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The published form: enlarge, concatenate, one vector a pixel, each classifier in turn."""
    vectors = torch.cat([enlarge(m, SIZE) for m in maps], 1)[0].flatten(1).T  # (pixels, 4992)
    logits = [member(vectors) for member in members]
    votes = torch.stack([one.argmax(1) for one in logits])
    probs = torch.stack([one.softmax(1).T.reshape(1, CLASSES, *SIZE) for one in logits])
    return votes.mode(0).values.reshape(1, *SIZE), disagreement(probs)


FORMS = {"native": native, "naive": naive}


def resident() -> float:
    """Memory of this process now, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e9


def memory_of(form: str) -> float:
    """The most that labelling takes in this process beyond what was there, in GB."""
    members, maps = parts()
    before = resident()
    FORMS[form](members, maps)
    return peak_gigabytes(torch.device("cpu")) - before


def memory_of_training(steps: int, folder: Path) -> dict[str, float]:
    """The most that training on 30 annotated images takes beyond an idle process with torch, in GB.

    Maps are written first, by another process, so that only training is counted. Each of the ten
    classifiers takes ``steps`` steps of 4,096 pixels: enough to have read nearly every page of the
    maps, and what a step holds does not depend on their number.
    """
    idle = resident()
    config = resolve(FactoryConfig, PRESETS, "paper", overrides={"interpret_steps": steps})
    run = RunFolder.open(folder)
    run.quiet = True
    masks = np.random.default_rng(0).integers(0, CLASSES, (IMAGES, *SIZE), dtype=np.uint8)
    stage = run.stage(1, "interpret", "key")
    start = time.perf_counter()
    cpu = torch.device("cpu")
    fit_interpreter(stage, NativeMaps(stage.path), masks, CLASSES, config, cpu)
    taken = time.perf_counter() - start
    return {
        "peak_gb": peak_gigabytes(cpu) - idle,
        "seconds_a_step": taken / (steps * MEMBERS),
    }


def write_maps(folder: Path) -> float:
    """The native maps of 30 images, random; returns their size on the disk in GB."""
    run = RunFolder.create(folder, {"pipeline": "factory", "settings": {}})
    run.quiet = True
    torch.manual_seed(0)
    shapes = list(zip(CHANNELS, SIZES, strict=True))
    images = ([torch.randn(1, c, s, s) for c, s in shapes] for _ in range(IMAGES))
    maps = NativeMaps.write(run.stage(1, "interpret", "key"), images, IMAGES)
    return sum(file.nbytes for file in maps.files) / 1e9


def in_new_process(*words: object) -> Any:
    """What this script prints last when it is called with these words."""
    command = [sys.executable, __file__, *map(str, words)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def labelling(repeats: int) -> list[dict[str, Any]]:
    """Rows of labelling one image."""
    memory = {form: in_new_process("--memory-of", form) for form in FORMS}
    members, maps = parts()
    results = {form: function(members, maps) for form, function in FORMS.items()}  # warm
    same = (results["native"][0] == results["naive"][0]).float().mean().item()
    apart = (results["native"][1] - results["naive"][1]).abs().max().item()
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form, function in FORMS.items():
            start = time.perf_counter()
            function(members, maps)
            seconds[form].append(time.perf_counter() - start)
    took = {form: median(values) for form, values in seconds.items()}
    return [
        {
            "name": "label one image",
            "metrics": {
                "seconds": round(took["native"], 3),
                "seconds_naive": round(took["naive"], 3),
                "same_labels": round(same, 6),
                "largest_difference_of_disagreement": float(f"{apart:.1e}"),
            },
            "ratio": round(took["naive"] / took["native"], 2),
        },
        {
            "name": "memory of labelling",
            "metrics": {"gb": round(memory["native"], 3), "gb_naive": round(memory["naive"], 3)},
            "ratio": round(memory["naive"] / memory["native"], 2),
        },
    ]


def training(steps: int) -> dict[str, Any]:
    """The row of training."""
    with tempfile.TemporaryDirectory() as folder:
        size = in_new_process("--write-maps", Path(folder) / "run")
        found = in_new_process("--train", Path(folder) / "run", "--steps", steps)
    naive = IMAGES * SIZE[0] * SIZE[1] * sum(CHANNELS) * 4 / 1e9
    return {
        "name": "train",
        "metrics": {
            "maps_on_disk_gb": round(size, 2),
            "features_of_the_naive_form_gb": round(naive, 1),
            "seconds_a_step": round(found["seconds_a_step"], 3),
            "steps_of_each_classifier": steps,
        },
        "peak_gb": round(found["peak_gb"], 2),
    }


def main() -> None:
    """Measure, print, and write results and table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="labellings of each form")
    parser.add_argument("--steps", type=int, default=60, help="training steps of each classifier")
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--write-maps", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory_of:
        print(json.dumps(memory_of(asked.memory_of)))
    elif asked.write_maps:
        print(json.dumps(write_maps(asked.write_maps)))
    elif asked.train:
        print(json.dumps(memory_of_training(asked.steps, asked.train)))
    else:
        record([*labelling(asked.repeats), training(asked.steps)])


def record(rows: list[dict[str, Any]]) -> None:
    """Print the rows, and write results and table."""
    for row in rows:
        print(row)
    write_results(
        "interpreter",
        "python benchmarks/interpreter.py",
        rows,
        machine=machine(),
        data="random features of the published sizes",
    )
    lines = [
        [
            row["name"],
            f"{row['ratio']:.1f}" if "ratio" in row else "-",
            f"{row['peak_gb']:.2f}" if "peak_gb" in row else "-",
            ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in row["metrics"].items()),
        ]
        for row in rows
    ]
    write_table("interpreter", ["", "ratio to the naive form", "peak GB", "measured"], lines)


if __name__ == "__main__":
    main()
