"""Part of pipeline ``factory``: generated images to draw masks on, and how to know them again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewmask.errors import DataError, shell_command
from fewmask.io.images import write_image
from fewmask.models.stylegan2 import Generator
from fewmask.pipelines.factory_watch import generated_images
from fewmask.training.checkpoint import sha256_file, write_atomically
from fewmask.training.progress import watched

FILE = "seeds.json"
"""In the folder of exported images: what they were made with."""
PREFIX = "seed-"


def name_of(number: int) -> str:
    """The stem of an exported image.

    >>> name_of(12), number_of("seed-000012"), number_of("heart")
    ('seed-000012', 12, None)
    """
    return f"{PREFIX}{number:06d}"


def number_of(stem: str) -> int | None:
    """The number of the code of an exported image; None for any other name."""
    found = re.fullmatch(PREFIX + r"(\d+)", stem)
    return int(found[1]) if found else None


def export_seeds(
    network: Generator, weights: Path, out: Path, numbers: Sequence[int], *,
    seed: int, truncation_psi: float,
) -> list[Path]:  # fmt: skip
    """Write ``OUT/images/seed-<number>.png`` to draw on, and ``OUT/seeds.json``.

    Args:
        network: The generator.
        weights: Its file, to know it again by.
        out: New or empty folder; appears whole or not at all.
        numbers: Of the codes.
        seed: Of the codes.
        truncation_psi: See :meth:`fewmask.models.stylegan2.Mapping.truncate`.

    Returns:
        The images' paths.
    """
    making = out.with_name(f".making-{out.name}")
    shutil.rmtree(making, ignore_errors=True)
    (making / "images").mkdir(parents=True)
    record = {
        "generator_sha256": sha256_file(weights),
        "seed": seed,
        "truncation_psi": truncation_psi,
        "synthetic": True,
    }
    write_atomically(making / FILE, json.dumps(record, indent=1).encode())
    written = []
    for number in watched(numbers, len(numbers), "export-seeds", "image"):
        file = Path("images") / f"{name_of(number)}.png"
        write_image(making / file, generated_images(network, seed, [number], truncation_psi)[0])
        written.append(out / file)
    if out.exists():
        out.rmdir()
    making.replace(out)
    return written


def read_seeds(folder: Path, generator_sha256: str, run: Path) -> dict[str, Any]:
    """What the images in a folder were made with.

    Args:
        folder: From :func:`export_seeds`.
        generator_sha256: Of the generator that is to be taught.
        run: Its run, to name in an error.

    Raises:
        DataError: there is no such record, or another generator has made the images.
    """
    path = folder / FILE
    again = shell_command("factory", "export-seeds", run, "-n", 30, "-o", "DIR")
    try:
        record = json.loads(path.read_text())
        made_by = record["generator_sha256"], int(record["seed"]), float(record["truncation_psi"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError.of(
            "SEEDS-MISSING",
            where=path,
            found="no readable file" if path.exists() else "no such file",
            expected="what the generated images were made with, beside their folder images/",
            fix=f"restore it, or `{again}` and draw on those images",
        ) from None
    if made_by[0] != generator_sha256:
        raise DataError.of(
            "SEEDS-OTHER",
            where=path,
            found=f"images of another generator, {str(made_by[0])[:12]}",
            expected=f"images of the generator of {run}, {generator_sha256[:12]}",
            fix=f"give the run that they were exported from, or `{again}` and draw on those",
        )
    return dict(record)
