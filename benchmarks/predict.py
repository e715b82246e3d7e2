"""Images per second of `fewmask predict`, beside the bare network on the same images.

    python benchmarks/predict.py --data IMAGES                # writes predict.json and export.json
    python benchmarks/predict.py --data IMAGES --images 8     # a glance; nothing is written
    python benchmarks/predict.py --data IMAGES --ray          # also ray.json: takes all cores

A segmenter of preset fast's kind (U-Net on EfficientNet-Lite0, one view) with random weights, at
512 px: what is measured is the way of a picture, not what is seen on it. *Bare* is the network on
the same pictures, decoded and resized before, one after the other: no file is read or written. The
folder's way (decode, resize, network, enlarge, mask, overlay, two PNG files) and the bare loop run
in turns, so that whatever else the machine does falls on both; ``ratio`` is the median over the
rounds of the folder's seconds by the bare loop's.

Forms of export: the same network in ONNX Runtime, fp32, fp16 and int8, in turns with torch; here
``ratio`` is torch's seconds by the file's. What a form loses in IoU, ``fewmask export`` tells of a
trained run.

Ray: the folder by one worker and by two, and by this process with one thread; masks must be equal
to the last byte, else it stops. Time to start the workers counts.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from fewmask.data.files import images_below
from fewmask.data.transforms import resize_image, to_unit
from fewmask.engine import Engine
from fewmask.io.images import read_image, write_image
from fewmask.models.segmenter import build_segmenter
from fewmask.onnx_model import Precision, export_onnx, largest_difference, open_onnx
from fewmask.predict_folder import Predicting, predict_pictures
from fewmask.trained import Trained
from fewmask.training.device import peak_gigabytes
from fewmask.training.segmenting import SegmenterPredictor
from recording import machine, provenance, write_results, write_table

SIDE, COUNT, ROUNDS = 512, 24, 5
CARD = {"class_names": ["object"], "background": True, "metrics": {}}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def predictor() -> SegmenterPredictor:
    """The network, at 512 px, by a single view."""
    torch.manual_seed(0)
    network = build_segmenter(num_classes=2, pretrained=True).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return SegmenterPredictor(network, (SIDE, SIDE), "single")


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, round by round, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name in sorted(calls, reverse=bool(number % 2)):
            started = time.perf_counter()
            calls[name]()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def folder_row(pictures: dict[str, Path], out: Path, rounds: int) -> dict[str, Any]:
    """A folder of pictures beside the bare network."""
    trained = Trained(predictor(), dict(CARD))
    ready = [
        to_unit(resize_image(read_image(path), SIDE, SIDE))[None].contiguous(
            memory_format=torch.channels_last
        )
        for path in pictures.values()
    ]

    @torch.no_grad()
    def bare() -> None:
        for image in ready:
            trained.predictor.network(image).softmax(1)

    def folder() -> None:
        shutil.rmtree(out, ignore_errors=True)
        predict_pictures(trained, Path(), pictures, out)

    @torch.no_grad()
    def one_after_the_other() -> None:
        shutil.rmtree(out, ignore_errors=True)
        work = Predicting(trained, out, save_probs=False)
        for name, path in pictures.items():
            work.write(name, work.compute(read_image(path)))

    seconds = in_turns({"bare": bare, "folder": folder, "plain": one_after_the_other}, rounds)
    by_round = [f / b for f, b in zip(seconds["folder"], seconds["bare"], strict=True)]
    serial = [p / b for p, b in zip(seconds["plain"], seconds["bare"], strict=True)]
    return {
        "name": f"folder, {SIDE} px",
        **provenance(),
        "n": len(pictures),
        "metrics": {
            "images_per_second": _rate(pictures, seconds["folder"]),
            "images_per_second.bare": _rate(pictures, seconds["bare"]),
            "images_per_second.not_side_by_side": _rate(pictures, seconds["plain"]),
            "ratio.not_side_by_side": round(statistics.median(serial), 4),
        },
        "by_round": [round(ratio, 4) for ratio in by_round],
        "ratio": round(statistics.median(by_round), 4),
        "peak_gb": peak_gigabytes(torch.device("cpu")),
    }


def export_rows(pictures: dict[str, Path], folder: Path, rounds: int) -> list[dict[str, Any]]:
    """The network's forms beside torch."""
    own = predictor()
    images = [read_image(path) for path in islice(pictures.values(), 8)]
    ready = [to_unit(resize_image(image, SIDE, SIDE))[None] for image in images]

    @torch.no_grad()
    def run(network: torch.nn.Module) -> None:
        for image in ready:
            network(image)

    rows = []
    for precision in PRECISIONS:
        path = folder / f"{precision}.onnx"
        started = time.perf_counter()
        export_onnx(own, CARD, path, precision=precision, calibrate=images)
        export_seconds = time.perf_counter() - started
        other, _ = open_onnx(path)

        calls = {"torch": partial(run, own.network), "onnx": partial(run, other.network)}
        seconds = in_turns(calls, rounds)
        by_round = [t / o for t, o in zip(seconds["torch"], seconds["onnx"], strict=True)]
        rows.append(
            {
                "name": f"{precision}, {SIDE} px",
                **provenance(),
                "n": len(ready),
                "metrics": {
                    "largest_difference": largest_difference(own, other, images),
                    "images_per_second": _rate(ready, seconds["onnx"]),
                    "images_per_second.torch": _rate(ready, seconds["torch"]),
                    "megabytes": round(path.stat().st_size / 1e6, 2),
                    "export_seconds": round(export_seconds, 1),
                },
                "by_round": [round(ratio, 4) for ratio in by_round],
                "ratio": round(statistics.median(by_round), 4),
            }
        )
        print(rows[-1], flush=True)
    return rows


def ray_rows(pictures: dict[str, Path], folder: Path) -> list[dict[str, Any]]:
    """One worker and two beside this process, each with one thread; equal to the last byte."""
    import ray

    torch.set_num_threads(1)
    model = folder / "fp32.onnx"
    if not model.exists():
        export_onnx(predictor(), CARD, model)
    trained = Trained(*open_onnx(model))
    seconds, contents = {}, {}
    for name, engine in (("local", Engine()), ("1 worker", Engine("ray", 1)),
                         ("2 workers", Engine("ray", 2))):  # fmt: skip
        out = folder / name.replace(" ", "-")
        started = time.perf_counter()
        predict_pictures(trained, model, pictures, out, engine=engine)
        seconds[name] = time.perf_counter() - started
        contents[name] = {path.name: path.read_bytes() for path in out.rglob("*.png")}
        if engine.kind == "ray":
            ray.shutdown()
    if not contents["local"] == contents["1 worker"] == contents["2 workers"]:
        raise SystemExit("Ray's masks are other ones")
    return [
        {
            "name": name,
            **provenance(),
            "n": len(pictures),
            "metrics": {"images_per_second": round(len(pictures) / taken, 3)},
            "ratio": round(taken / seconds["local"], 4),
        }
        for name, taken in seconds.items()
    ]


def _rate(items: Any, seconds: list[float]) -> float:
    return round(len(items) / statistics.median(seconds), 3)


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--images", type=int, default=0, help="only so many; nothing is written")
    parser.add_argument("--ray", action="store_true", help="also by Ray's workers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = {}
        count = given.images or COUNT
        for i, path in enumerate(islice(cycle(images_below(given.data).values()), count)):
            pictures[f"p{i:03}"] = folder / "pictures" / f"p{i:03}.png"
            pictures[f"p{i:03}"].parent.mkdir(exist_ok=True)
            write_image(pictures[f"p{i:03}"], resize_image(read_image(path), SIDE, SIDE))
        rounds = 1 if given.images else ROUNDS
        rows = [folder_row(pictures, folder / "out", rounds)]
        print(rows[0], flush=True)
        forms = export_rows(pictures, folder, rounds)
        shared = ray_rows(pictures, folder) if given.ray else []
    if given.images:
        print(*shared, sep="\n")
        return
    for name, found in (("predict", rows), ("export", forms), ("ray", shared)):
        if found:
            write_results(
                name,
                "python benchmarks/predict.py --data IMAGES" + " --ray" * (name == "ray"),
                found,
                machine=machine(),
                data=f"{COUNT} photographs as PNG of {SIDE} px",
            )
            write_table(name, ["row", "images a second", "ratio"], [
                [row["name"], f"{row['metrics']['images_per_second']:.2f}", f"{row['ratio']:.3f}"]
                for row in found
            ])  # fmt: skip


if __name__ == "__main__":
    main()
