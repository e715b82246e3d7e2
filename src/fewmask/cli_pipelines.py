"""The commands that start a run; every setting of a pipeline is a flag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter
from pydantic import BaseModel

from fewmask.config import Settings, optional_fields, resolve
from fewmask.errors import shell_command
from fewmask.pipelines import adapt_config, saliency_config, supervised_config, tags_config

SETTINGS = Group("Settings (default: the preset's)", sort_key=9)
Out = Annotated[Path | None, Parameter(name=["--out", "-o"])]

AdaptFlags: Any = optional_fields(adapt_config.AdaptConfig)
SaliencyFlags: Any = optional_fields(saliency_config.SaliencyConfig)
TagsFlags: Any = optional_fields(tags_config.TagsConfig)
TrainFlags: Any = optional_fields(supervised_config.SupervisedConfig)
Flat = Parameter(name="*", group=SETTINGS)
VERBS = {"adapt": ["adapt", "--source"], "factory": ["factory", "train"]}
"""How the command of a pipeline begins, where it is not its name alone."""


def tags(
    data: Path,
    /,
    *,
    out: Out = None,
    preset: str = "fast",
    config: Path | None = None,
    dry_run: bool = False,
    settings: Annotated[TagsFlags, Flat] = None,
) -> None:
    """Image-level tags in; masks, a trained segmenter and a report out.

    Args:
        data: positive/ and negative/ (any class-named folders), or images/ and tags.csv; masks/
            are used for measuring only.
        out: A new folder for the run; default runs/<data>-tags.
        preset: smoke (seconds), fast (minutes on 2 cores), paper (as published), best (ours).
        config: YAML file of settings; flags win over it.
        dry_run: Print what would be done, and stop.
        settings: Of the pipeline.
    """
    run_pipeline("tags", tags_config.TagsConfig, tags_config.PRESETS, data, out, preset, config, dry_run, settings)  # fmt: skip  # noqa: E501


def adapt(
    *,
    source: Path,
    out: Out = None,
    preset: str = "fast",
    config: Path | None = None,
    dry_run: bool = False,
    settings: Annotated[AdaptFlags, Flat] = None,
) -> None:
    """Labelled source images and unlabelled target images in; a segmenter for the target out.

    Args:
        source: images/ and masks/ of the labelled domain (day), or CamVid's or Cityscapes' layout.
            --target is the folder of unlabelled images (night), --test one of labelled images of
            the target domain, used to measure and for nothing else.
        out: A new folder for the run; default runs/<source>-adapt.
        preset: smoke (seconds), fast (a CPU), paper (as published), best (ours).
        config: YAML file of settings; flags win over it.
        dry_run: Print what would be done, and stop.
        settings: Of the pipeline.
    """
    run_pipeline("adapt", adapt_config.AdaptConfig, adapt_config.PRESETS, source, out, preset, config, dry_run, settings)  # fmt: skip  # noqa: E501


def saliency(
    data: Path,
    /,
    *,
    out: Out = None,
    preset: str = "fast",
    config: Path | None = None,
    dry_run: bool = False,
    settings: Annotated[SaliencyFlags, Flat] = None,
) -> None:
    """Few masks and a classifier's saliency maps in; a segmenter out, and what the maps were worth.

    Args:
        data: Images and masks/ by the same stems.
        out: A new folder for the run; default runs/<data>-saliency.
        preset: smoke (seconds), fast (a CPU), paper (as published), best (ours).
        config: YAML file of settings; flags win over it.
        dry_run: Print what would be done, and stop.
        settings: Of the pipeline.
    """
    run_pipeline("saliency", saliency_config.SaliencyConfig, saliency_config.PRESETS, data, out, preset, config, dry_run, settings)  # fmt: skip  # noqa: E501


def train(
    data: Path,
    /,
    *,
    out: Out = None,
    preset: str = "fast",
    config: Path | None = None,
    dry_run: bool = False,
    settings: Annotated[TrainFlags, Flat] = None,
) -> None:
    """A plain supervised segmenter from images and masks: the reference, and the control.

    Args:
        data: Images and masks/ by the same stems.
        out: A new folder for the run; default runs/<data>-train.
        preset: smoke, fast, paper or best.
        config: YAML file of settings; flags win over it.
        dry_run: Print what would be done, and stop.
        settings: Of the pipeline.
    """
    run_pipeline("train", supervised_config.SupervisedConfig, supervised_config.PRESETS, data, out, preset, config, dry_run, settings)  # fmt: skip  # noqa: E501


def run_pipeline(
    verb: str,
    schema: type[Settings],
    presets: dict[str, dict[str, Any]],
    data: Path,
    out: Path | None,
    preset: str,
    config: Path | None,
    dry_run: bool,
    flags: BaseModel | None,
) -> None:
    """Start a pipeline, or print its plan; what is printed at the end is its table."""
    given = flags.model_dump(exclude_none=True) if flags else {}
    settings = resolve(schema, presets, preset, file=config, overrides=given)
    from fewmask.api import free_run_path
    from fewmask.cli import finished, planned
    from fewmask.pipelines.running import plan, start

    path = out or free_run_path(data, verb)
    if dry_run:
        words = ["-o", path, "--preset", preset, *(["--config", config] if config else [])]
        first = VERBS.get(verb, [verb])
        command = shell_command(*first, data, *words, *as_flags(given))
        planned(plan(verb, data, path, settings), command)
        return
    finished(start(verb, data, path, settings, preset=preset).path)


def as_flags(given: dict[str, Any]) -> list[object]:
    """Settings as one would type them.

    >>> as_flags({"seen_from_above": False, "cam_scales": (1.0, 1.5), "seed": 3})
    ['--no-seen-from-above', '--cam-scales', 1.0, 1.5, '--seed=3']
    """
    words: list[object] = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *value]
        else:
            words.append(f"--{flag}={value}")
    return words
