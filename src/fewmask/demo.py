"""``fewmask demo``: sample data made from packaged textures, then the real commands on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fewmask import factory_runs
from fewmask.api import free_run_path
from fewmask.config import resolve
from fewmask.data.brain import BRAIN_CLASS_NAMES, make_brain
from fewmask.data.sample import Split, make_sample
from fewmask.data.street import STREET_CLASS_NAMES, make_street
from fewmask.errors import UsageError
from fewmask.pipelines import adapt_config, factory_config, saliency_config, tags_config
from fewmask.pipelines.adapt_rows import RESULT, SOURCE_ONLY
from fewmask.pipelines.running import start
from fewmask.randomness import generator
from fewmask.report.assemble import read_summary
from fewmask.training.run_folder import RunFolder


def run_demo(pipeline: str, out: Path | None, *, seed: int = 0) -> Path:
    """Make the data, run the pipeline; returns the run's folder.

    Raises:
        UsageError: no such demo, or ``out`` holds something.
    """
    if pipeline not in DEMOS:
        raise UsageError.of(
            "DEMO",
            where="fewmask demo",
            found=pipeline,
            expected=" or ".join(DEMOS),
            fix="fewmask demo tags",
        )
    folder = out or free_run_path(Path("demo"), pipeline)
    RunFolder.require_free(folder)
    return DEMOS[pipeline](folder, seed)


def demo_tags(folder: Path, seed: int) -> Path:
    """Tiles with and without a scar; tags in, masks out."""
    data, split_file = make_halves(folder / "data", seed=seed)
    config = resolve(
        tags_config.TagsConfig,
        tags_config.PRESETS,
        "fast",
        overrides={**SETTINGS, "seed": seed, "split_file": split_file},
    )
    return start("tags", data, folder / "run", config, preset="fast", synthetic=True).path


def demo_adapt(folder: Path, seed: int) -> Path:
    """A street by day with masks and another by night without."""
    data = make_street(folder / "data", seed=seed)
    config = resolve(
        adapt_config.AdaptConfig,
        adapt_config.PRESETS,
        "fast",
        overrides={
            **ADAPT_SETTINGS,
            "seed": seed,
            "target": data / "night",
            "test": data / "test",
            "class_names": STREET_CLASS_NAMES,
        },
    )
    run = start("adapt", data / "day", folder / "run", config, preset="fast", synthetic=True)
    return run.path


def margin(run: Path) -> str:
    """What adaptation has gained, in a line; empty for a run without a row "source only"."""
    rows = {row["name"]: row for row in read_summary(run)["rows"]}
    if SOURCE_ONLY not in rows:
        return ""
    with_it, without = (rows[name]["metrics"]["miou_foreground"] for name in (RESULT, SOURCE_ONLY))
    return f"adapted {with_it:.3f}, source only {without:.3f}: {with_it - without:+.3f} mean IoU"


def demo_saliency(folder: Path, seed: int) -> Path:
    """Tiles with a scar, masks of a few, and what an ImageNet classifier sees in them."""
    data, split_file = make_halves(
        folder / "data", seed=seed, train_images=SALIENCY_IMAGES, test_images=SALIENCY_IMAGES
    )
    config = resolve(
        saliency_config.SaliencyConfig,
        saliency_config.PRESETS,
        "fast",
        overrides={**SALIENCY_SETTINGS, "seed": seed, "split_file": split_file},
    )
    return start("saliency", data, folder / "run", config, preset="fast", synthetic=True).path


def demo_factory(folder: Path, seed: int) -> Path:
    """Slices of an average brain, masks of a few: generator, interpreter, verdict."""
    data, split_file = make_brain(folder / "data", image_size=FACTORY_SETTINGS["image_size"])
    shared = {"seed": seed, "class_names": BRAIN_CLASS_NAMES}
    config = resolve(
        factory_config.FactoryConfig,
        factory_config.PRESETS,
        "fast",
        overrides={**FACTORY_SETTINGS, **shared, "split_file": split_file},
    )
    made = start("factory", data, folder / "generator", config, preset="fast", synthetic=True)
    few = folder / "few_masks"
    few.mkdir()
    names = [line.split(",") for line in split_file.read_text().splitlines()[1:]]
    train = [name.partition("/")[2] for name, part in names if part == "train"]
    drawn = generator(seed, "demo", "few masks").permutation(train)[:FEW]
    for name in sorted(drawn):
        shutil.copy(data / "masks" / f"{name}.png", few)
    taught = factory_runs.label(made.path, few, "invert")
    return factory_runs.judge(taught, data, out=folder / "run", settings={
        "seed": seed, "split_file": split_file, **JUDGE_SETTINGS,
    }).path  # fmt: skip


DEMOS = {
    "tags": demo_tags, "adapt": demo_adapt, "saliency": demo_saliency, "factory": demo_factory,
}  # fmt: skip
"""Folder and seed to the finished run."""


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
SALIENCY_IMAGES = 40
"""Tiles of each kind to learn from, and as many to test on."""
SALIENCY_SETTINGS: dict[str, Any] = {
    "class_name": "scar",
    "image_size": 96,
    "maps": ("guided",),
    "masks": 20,
    "segment_epochs": 1,
    "segment_min_steps": 120,
    "segment_batch_size": 8,
}
FEW = 10
"""Annotated slices of the demo of ``factory``."""
FACTORY_SETTINGS: dict[str, Any] = {
    "image_size": 64,
    "seen_from_above": False,
    "generate_kimg": 3,
    "generate_watches": 3,
    "generate_watch_images": 100,
    "invert_steps": 100,
    "interpret_members": 3,
    "interpret_steps": 300,
    "interpret_learning_rate": 1e-3,
    "interpret_balance": 0.5,
}
JUDGE_SETTINGS = {"sample_count": 300, "judge_steps": 200, "seen_from_above": False}
ADAPT_SETTINGS = {
    "image_size": 128,
    "image_width": 192,
    "segment_min_steps": 300,
}
