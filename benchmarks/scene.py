"""A GeoTIFF of 40,000 x 40,000 px through `fewmask predict`: memory, and time for its parts.

    python benchmarks/scene.py --run RUN                   # a finished run of preset fast's kind
    python benchmarks/scene.py --run RUN --side 4000       # a glance; nothing is written

The scene is a mosaic of noise, made once, compressed as scenes are. It is seen at a quarter of its
scale (`--image-px`), which two cores can pay for; all of its pixels are read and written. Peak
memory is that of the command's own process; the scene's height does not matter, since one band of
windows is in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from fewmask.randomness import generator
from recording import machine, provenance, write_results, write_table

SIDE, TILE, COARSER = 40_000, 2_000, 4


def make_scene(path: Path, side: int) -> None:
    """Write a mosaic of noise in blocks of 16 px."""
    draws = generator(0, "scene")
    profile: dict[str, Any] = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8",
        "crs": "EPSG:32648", "transform": from_origin(500_000, 3_000_000, 0.5, 0.5),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate",
        "photometric": "RGB", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path.with_suffix(".making"), "w", **profile) as file:
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                tile = draws.integers(0, 256, (3, TILE // 16, TILE // 16), np.uint8)
                tile = tile.repeat(16, 1).repeat(16, 2)[:, : side - top, : side - left]
                file.write(tile, window=Window(left, top, tile.shape[2], tile.shape[1]))
    path.with_suffix(".making").rename(path)


def measure(run: Path, scene: Path, out: Path, side: int) -> dict[str, Any]:
    """The command in a process of its own."""
    own = json.loads((run / "weights" / "card.json").read_text())["image_px"]
    asked = [str(COARSER * px) for px in own]
    words = ["predict", run, scene, "-o", out, "--image-px", *asked, "--runtime", "channels-last"]
    started = time.perf_counter()
    told = subprocess.run(
        [sys.executable, "-m", "fewmask", *map(str, words)], check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    bands = re.findall(r"band (\d+)/", told.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {
        "name": f"scene of {side} x {side} px, seen at a quarter of its scale",
        **provenance(),
        "metrics": {
            "seconds": round(seconds, 1),
            "megapixels_per_second": round(side**2 / 1e6 / seconds, 2),
            "bands": int(bands[-1]) if bands else None,
        },
        "peak_gb": round(peak, 3),
    }


def main() -> None:
    """Make the scene, predict it, write the row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--side", type=int, default=SIDE, help="of the scene, in px")
    parser.add_argument("--out", type=Path, default=Path("runs/scene"), help="scene and mask")
    given = parser.parse_args()
    scene = given.out / "scenes" / f"noise-{given.side}.tif"
    scene.parent.mkdir(parents=True, exist_ok=True)
    if not scene.exists():
        make_scene(scene, given.side)
    row = measure(given.run, scene, given.out / f"mask-{given.side}", given.side)
    print(json.dumps(row, indent=1))
    if given.side != SIDE:
        return
    data = f"noise in blocks of 16 px, {scene.stat().st_size / 1e9:.2f} GB compressed"
    write_results(
        "scene", "python benchmarks/scene.py --run RUN", [row], machine=machine(), data=data
    )
    found = row["metrics"]
    write_table(
        "scene", ["scene", "seconds", "megapixels a second", "peak GB"],
        [[row["name"], str(found["seconds"]), str(found["megapixels_per_second"]),
          str(row["peak_gb"])]],
    )  # fmt: skip


if __name__ == "__main__":
    main()
