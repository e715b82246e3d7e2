"""The commands of ``fewmask factory`` that follow a trained generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewmask.config import resolve
from fewmask.errors import UsageError, shell_command
from fewmask.pipelines.factory_config import JUDGE_PRESETS, PRESETS, JudgeConfig, LabelConfig, Route
from fewmask.pipelines.factory_generator import GENERATOR, load_generator
from fewmask.pipelines.factory_interpreter import INTERPRETER
from fewmask.pipelines.factory_seeds import FILE as SEEDS_FILE
from fewmask.pipelines.factory_seeds import export_seeds as export_images
from fewmask.pipelines.finished import read_card, restore_workspace
from fewmask.pipelines.running import data_folders_of, recorded_settings, start
from fewmask.training.device import choose_device
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import free_path, refuse_inside

LABELLED = "labelled"
"""Beginning of the names of interpreters' runs, which lie in their generator's."""
EXPORTED_FROM = 1_000_000
"""Number of the first code of images to draw on, so that no data set is sampled from the same."""


def export_seeds(
    run: RunFolder,
    out: Path,
    count: int = 30,
    *,
    truncation_psi: float = 0.7,
    device: str = "auto",
) -> list[Path]:
    """Write generated images to draw masks on: ``OUT/images/seed-1000000.png`` and so on.

    Args:
        run: A finished run of ``fewmask factory train``.
        out: New or empty folder.
        count: How many.
        truncation_psi: 1: as varied as the generator can; 0: all the same.
        device: See ``--device``.

    Returns:
        The images' paths.

    Raises:
        UsageError: the run has no generator, or ``out`` holds something.
    """
    _require_kind(run, "generator", "a run of `fewmask factory train`")
    RunFolder.require_free(out)
    _refuse_in_data(run, out)
    work, _ = restore_workspace(run, choose_device(device))
    return export_images(
        load_generator(work.stages["generate"].path / GENERATOR, work.config, work.device),
        run.path / "weights" / GENERATOR,
        out,
        range(EXPORTED_FROM, EXPORTED_FROM + count),
        seed=work.config.seed,
        truncation_psi=truncation_psi,
    )


def label(
    run: Path,
    masks: Path,
    route: Route = "generated",
    *,
    out: Path | None = None,
    preset: str = "fast",
    config: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> RunFolder:
    """Teach an interpreter from few masks; a run of its own in the generator's.

    Args:
        run: A finished run of ``fewmask factory train``; for route ``encoder`` a folder of images
            will do.
        masks: Folder of masks with the names of their images.
        route: ``generated``: ``masks`` or the folder above it has ``images/`` and ``seeds.json``
            from :func:`export_seeds`; otherwise the images are those of the run.
        out: New folder; default ``RUN/labelled-<route>``, numbered if taken.
        preset: Of a folder of images; a run has its own settings.
        config: YAML file of settings, which go before those of the run.
        settings: Go before both.

    Raises:
        FewmaskError: see :mod:`fewmask.errors`.
    """
    given: dict[str, Any] = {**(settings or {}), "route": route, "masks": masks}
    if route == "encoder" and run.is_dir() and not (run / "run.yaml").exists():
        resolved = resolve(LabelConfig, PRESETS, preset, file=config, overrides=given)
        path = out or free_path(Path("runs") / f"{run.resolve().name}-label")
        return start("label", run, path, resolved, preset=preset)
    folder = RunFolder.open(run)
    _require_kind(folder, "generator", "a run of `fewmask factory train`")
    _, before = recorded_settings(folder)
    weights = str(folder.path / "weights" / GENERATOR)
    inherited = {**before.model_dump(exclude={"stages"}), "generator_weights": weights}
    root = Path(folder.record["data"])
    if route == "generated":
        root = _seeds_folder(masks, run)
        inherited["split_file"] = None
    else:
        inherited["split_file"] = _split_of(folder)
    resolved = resolve(LabelConfig, {"run": inherited}, "run", file=config, overrides=given)
    path = out or free_path(folder.path / f"{LABELLED}-{route}")
    return start("label", root, path, resolved, preset=str(folder.record["preset"]))


def judge(
    run: RunFolder,
    data: Path,
    *,
    out: Path | None = None,
    preset: str = "fast",
    config: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> RunFolder:
    """Train segmenters on synthetic, on few real, on both and on all real images; compare them.

    Args:
        run: A finished run of ``fewmask factory label``, or the generator's with one such in it.
        data: Folder of real images with masks. Of the factory's own data the test part, which it
            has left alone, is measured; of other data a part is held out.
        out: New folder; default ``runs/<data>-judge``, numbered if taken.
        preset: smoke, fast or paper.
        config: YAML file of settings.
        settings: Go before it.

    Raises:
        FewmaskError: see :mod:`fewmask.errors`.
    """
    run = interpreter_run(run)
    taught: Any = recorded_settings(run)[1]
    inherited: dict[str, Any] = {
        "class_name": taught.class_name,
        "class_names": taught.class_names,
        "group_pattern": taught.group_pattern,
        "seen_from_above": taught.seen_from_above,
        "image_size": max(32, taught.image_size),
        "split_file": _split_of_data(run, data),
    }
    if taught.generator_weights == "none":
        inherited["sample_count"] = 0
    presets = {name: {**values, **inherited} for name, values in JUDGE_PRESETS.items()}
    given = {**(settings or {}), "interpreter_weights": str(run.path / "weights" / INTERPRETER)}
    resolved = resolve(JudgeConfig, presets, preset, file=config, overrides=given)
    path = out or free_path(Path("runs") / f"{data.resolve().name}-judge")
    return start("judge", data, path, resolved, preset=preset)


def _split_of_data(run: RunFolder, data: Path) -> Path | None:
    """The cut of the generator's run, if it was trained on this folder."""
    taught: Any = recorded_settings(run)[1]
    if taught.generator_weights == "none":
        return None
    factory = RunFolder.open(Path(taught.generator_weights).parents[1])
    same = Path(factory.record["data"]).resolve() == data.resolve()
    return _split_of(factory) if same else None


def interpreter_run(run: RunFolder) -> RunFolder:
    """The run itself if it has taught an interpreter, or the only one in it that has.

    Raises:
        UsageError: there is none, or there are several.
    """
    if read_card(run)["kind"] == "interpreter":
        return run
    found = sorted(path.parent for path in run.path.glob(f"{LABELLED}-*/run.yaml"))
    runs = [one for one in map(RunFolder.open, found) if one.is_finished()]
    if len(runs) == 1:
        return runs[0]
    fix = f"`{shell_command('factory', 'label', run.path, '--masks', 'MASKS')}` first"
    if runs:
        fix = "give one of them in place of the generator's run"
    raise UsageError.of(
        "INTERPRETER-MISSING" if not runs else "INTERPRETER-SEVERAL",
        where=run.path,
        found=", ".join(str(one.path) for one in runs) or "no finished run of factory label in it",
        expected="one interpreter",
        fix=fix,
    )


def _seeds_folder(masks: Path, run: Path) -> Path:
    """Where the exported images of these masks are."""
    for folder in (masks, masks.resolve().parent):
        if (folder / SEEDS_FILE).is_file():
            return folder
    raise UsageError.of(
        "SEEDS-MISSING",
        where=masks,
        found=f"no {SEEDS_FILE} in it or above it",
        expected="masks beside the exported images: DIR/images, DIR/seeds.json, DIR/masks",
        fix=f"put them there (`{shell_command('factory', 'export-seeds', run, '-o', 'DIR')}` "
        "exports the same images again), or --invert or --encoder for masks of real images",
    )


def _split_of(run: RunFolder) -> Path:
    """The run's cut, of the first fold."""
    return next(path for place in ("*-split/split.csv", "fold-*/*-split/split.csv")
                for path in sorted(run.path.glob(place)))  # fmt: skip


def _require_kind(run: RunFolder, kind: str, expected: str) -> None:
    found = read_card(run)["kind"]
    if found != kind:
        raise UsageError.of(
            "RUN-KIND",
            where=run.path,
            found=f"a run that has made {_WORDS.get(found, found)}",
            expected=expected,
            fix="give that run",
        )


_WORDS = {"segmenter": "a segmenter", "evidence": "masks", "interpreter": "an interpreter",
          "generator": "a generator"}  # fmt: skip


def _refuse_in_data(run: RunFolder, out: Path) -> None:
    for folder in data_folders_of(run):
        refuse_inside(out, folder)
