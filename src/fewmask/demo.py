"""``fewmask demo``: sample data from packaged real textures, then the real commands on it."""

from __future__ import annotations

import shutil
from pathlib import Path

from fewmask.api import free_run_path
from fewmask.config import resolve
from fewmask.data.sample import Split, make_sample
from fewmask.errors import UsageError
from fewmask.pipelines import tags_config
from fewmask.pipelines.running import start
from fewmask.training.run_folder import RunFolder


def run_demo(pipeline: str, out: Path | None, *, seed: int = 0) -> Path:
    """Make the data, run the pipeline; returns the run's folder.

    Raises:
        UsageError: no such demo, or ``out`` holds something.
    """
    if pipeline != "tags":
        raise UsageError.of(
            "DEMO",
            where="fewmask demo",
            found=pipeline,
            expected="tags",
            fix="fewmask demo tags",
        )
    folder = out or free_run_path(Path("demo"), pipeline)
    RunFolder.require_free(folder)
    data, split_file = make_halves(folder / "data", seed=seed)
    config = resolve(
        tags_config.TagsConfig,
        tags_config.PRESETS,
        "fast",
        overrides={**SETTINGS, "seed": seed, "split_file": split_file},
    )
    return start("tags", data, folder / "run", config, preset="fast", synthetic=True).path


def make_halves(
    root: Path, *, seed: int, train_images: int = 200, test_images: int = 60, image_size: int = 96
) -> tuple[Path, Path]:
    """Training tiles from one half of each texture, test tiles from the other, in one folder.

    Args:
        root: New folder.
        seed: Of the tiles.
        train_images: Tiles of each kind (with a scar, without).
        test_images: The same, for testing.
        image_size: Side in px.

    Returns:
        The data folder, and the CSV file that says which tile belongs to which part.
    """
    data, lines = root / "tiles", ["id,part"]
    counts: tuple[tuple[Split, int], ...] = (("train", train_images), ("test", test_images))
    for part, count in counts:
        source = root / part
        make_sample(source, seed=seed, images_per_class=count, image_size=image_size, split=part)
        for path in sorted(source.glob("*/*.png")):
            target = data / path.parent.name / f"{part}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            if path.parent.name != "masks":
                lines.append(f"{target.parent.name}/{target.stem},{part}")
        shutil.rmtree(source)
    split_file = root / "split.csv"
    split_file.write_text("\n".join(lines) + "\n")
    return data, split_file


SETTINGS = {
    "class_name": "scar",
    "image_size": 96,
    "classify_epochs": 6,
    "classify_min_steps": 0,
    "translate_steps": 300,
    "segment_epochs": 8,
    "segment_min_steps": 0,
    "segment_decoder_width": 32,
}
