"""Start a run, or resume it: the same for every pipeline."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from fewmask.config import Settings, resolve
from fewmask.data.folder import DataFolder
from fewmask.data.splits import Split
from fewmask.errors import DataError, Interrupted, UsageError, shell_command
from fewmask.metrics.confusion import check_class_names
from fewmask.pipelines.finishing import finish
from fewmask.report.tensorboard import require_tensorboard, write_events
from fewmask.training.arithmetic import arithmetic
from fewmask.training.device import choose_device
from fewmask.training.distributed import from_first, join, processes, rank, wait_for_all
from fewmask.training.following import follow_stages, own_folder
from fewmask.training.reuse import refuse_strange
from fewmask.training.run_folder import RunFolder, Stage
from fewmask.training.run_places import refuse_inside
from fewmask.training.signals import stop_on_signals
from fewmask.training.stages import (
    input_files,
    refuse_changed,
    run_stages,
    selected_stages,
    settings_by_content,
)
from fewmask.training.workspace import Workspace

PIPELINES = {
    "adapt": ("fewmask.pipelines.adapt", "AdaptConfig"),
    "factory": ("fewmask.pipelines.factory", "FactoryConfig"),
    "judge": ("fewmask.pipelines.factory_judge", "JudgeConfig"),
    "label": ("fewmask.pipelines.factory_label", "LabelConfig"),
    "saliency": ("fewmask.pipelines.saliency", "SaliencyConfig"),
    "tags": ("fewmask.pipelines.tags", "TagsConfig"),
    "train": ("fewmask.pipelines.supervised", "SupervisedConfig"),
}
"""Command to module and class of its settings."""


def pipeline_of(name: str) -> tuple[ModuleType, type[Settings]]:
    """The module of a pipeline and the class of its settings.

    Raises:
        UsageError: no such pipeline.
    """
    if name not in PIPELINES:
        raise UsageError.of(
            "PIPELINE",
            where="run.yaml",
            found=repr(name),
            expected="one of " + ", ".join(PIPELINES),
            fix="use the version of fewmask that made the run",
        )
    module_name, schema = PIPELINES[name]
    module = importlib.import_module(module_name)
    return module, getattr(module, schema)


class Checked(NamedTuple):
    """A run that can begin: nothing that can be known beforehand stands against it."""

    module: ModuleType
    config: Settings
    data: DataFolder
    device: torch.device
    stages: list[str]
    folds: list[int]
    parts: Split


def checked(pipeline: str, root: Path, out: Path, config: Settings) -> Checked:
    """Refuse now what would fail or mislead later; nothing is written.

    Raises:
        FewmaskError: see :mod:`fewmask.errors`; a DataError tells every problem of the folder.
    """
    module, _ = pipeline_of(pipeline)
    stages, folds = stages_of_run(module, config), folds_of_run(config)
    device = choose_device(config.device)
    if config.tensorboard:
        require_tensorboard()
    for folder in (root, *config.data_folders.values()):
        refuse_inside(out, folder)
    if out.exists():
        RunFolder.require_free(out)
    group_of = module.DATA.check(root, config)
    data = module.DATA.open(root, config)
    check_class_names(data.class_names)
    linked = tuple(replace(sample, group=group_of[sample.id]) for sample in data.samples)
    parts = [module.DATA.cut(replace(data, samples=linked), config, fold) for fold in folds]
    module.refuse_impossible(config, data, stages, parts)
    if config.reuse:
        refuse_strange(config.reuse, pipeline)
    config = config.replaced(
        threads=config.threads or torch.get_num_threads(),
        **{name: str(path.resolve()) for name, path in _paths(config).items()},
    )
    settings_by_content(config)  # refuses a file that is not there
    return Checked(module, config, data, device, stages, folds, parts[0])


def _paths(config: Settings) -> dict[str, Path]:
    """Every setting that is a path, so that a run can be resumed from any working folder."""
    return {n: value for n, value in config if isinstance(value, Path)} | input_files(config)


def plan(pipeline: str, root: Path, out: Path, config: Settings) -> dict[str, Any]:
    """What a run would do, resolved; the answer to ``--dry-run``.

    Raises:
        FewmaskError: as :func:`start`, before it writes anything.
    """
    run = checked(pipeline, root, out, config)
    samples = run.data.samples
    return {
        "pipeline": pipeline,
        "run": str(out),
        "data": {
            "root": str(run.data.root),
            "layout": run.data.layout,
            "images": len(samples),
            "with a tag": sum(bool(s.tags) for s in samples),
            "masks": sum(s.mask_path is not None for s in samples),
            "classes": list(run.data.class_names),
        },
        "device": str(run.device),
        "folds": run.folds,
        "parts": {name: len(getattr(run.parts, name)) for name in ("train", "val", "test")},
        "stages": run.stages,
        "settings": run.config.model_dump(mode="json"),
    }


def start(
    pipeline: str, root: Path, out: Path, config: Settings, *, preset: str, synthetic: bool = False
) -> RunFolder:
    """Check the data, make the run folder, and run.

    Started by ``torchrun``, the first process does so, and the others take part.

    Raises:
        FewmaskError: see :mod:`fewmask.errors`; nothing was trained if it is a DataError.
    """
    join()
    if rank() > 0:
        return _follow()
    module, config, data, device, *_ = checked(pipeline, root, out, config)
    run = RunFolder.create(
        out,
        {
            "pipeline": pipeline,
            "preset": preset,
            "data": str(root.resolve()),
            "device": str(device),
            "synthetic": synthetic,
            "settings": config.model_dump(mode="json"),
        },
    )
    return _work_through(run, module, config, data, device)


RECORDED = {"preset": str, "data": str, "device": str, "settings": dict}
"""What ``run.yaml`` says of a run, beside its pipeline."""


def recorded_settings(run: RunFolder) -> tuple[ModuleType, Settings]:
    """The pipeline of a run and the settings that it was started with.

    Raises:
        UsageError: ``run.yaml`` lacks them, holds something else in their place, or names settings
            that this version does not have.
    """
    module, schema = pipeline_of(str(run.record["pipeline"]))
    wrong = [
        f"{name} {run.record[name]!r}" if name in run.record else f"no {name}"
        for name, kind in RECORDED.items()
        if not isinstance(run.record.get(name), kind)
    ]
    if wrong:
        raise UsageError.of(
            "RUN-MISSING",
            where=run.path / "run.yaml",
            found=", ".join(wrong),
            expected="the record of a run",
            fix="restore the file, or start a new run",
        )
    config = resolve(schema, {"run.yaml": {}}, "run.yaml", overrides=run.record["settings"])
    return module, config


def data_folders_of(run: RunFolder) -> list[Path]:
    """All folders of images that a run was made from: nothing may be written into them."""
    _, config = recorded_settings(run)
    return [Path(run.record["data"]), *config.data_folders.values()]


def resume(path: Path, moved_to: Path | None = None, **folders: Path | None) -> RunFolder:
    """Go on with a run: finished stages are kept, the one under way continues where it was saved.

    Args:
        path: The run.
        moved_to: Where its data folder is now; ``run.yaml`` is told, once the content has proved to
            be what the finished stages were made from.
        **folders: The same for further folders of images, by setting: ``target``, ``test``.

    Raises:
        CheckpointError: data or settings are not those that its finished stages were made from.
        FewmaskError: no such run, its data has gone, or a stage fails.
    """
    join()
    if rank() > 0:
        return _follow()
    run = RunFolder.open(path)
    module, config = recorded_settings(run)
    moved = {name: folder for name, folder in folders.items() if folder is not None}
    strange = [name for name in moved if name not in config.data_folders]
    if strange:
        raise UsageError.of(
            "RESUME-FOLDER",
            where=f"--{strange[0]}",
            found=str(moved[strange[0]]),
            expected=f"one of the folders that this run has: data{_named(config.data_folders)}",
            fix=f"leave out --{strange[0]}",
        )
    config = config.replaced(**{name: str(folder.resolve()) for name, folder in moved.items()})
    device = choose_device(config.device)
    root = moved_to or Path(run.record["data"])
    for folder in filter(None, (moved_to, *moved.values())):
        refuse_inside(run.path, folder, "RUN")
    for name, folder in {"data": root, **config.data_folders}.items():
        if not folder.is_dir():
            raise DataError.of(
                "FOLDER-MISSING",
                where=folder,
                found="no such folder",
                expected=f"the {name} of the run" if name != "data" else "the data of the run",
                fix=f"`{shell_command('resume', path, f'--{name}', 'FOLDER')}` if it was moved "
                "there",
            )
    data = module.DATA.open(root, config)
    return _work_through(run, module, config, data, device, resumed=True)


def _named(folders: Mapping[str, Path]) -> str:
    return "".join(f", {name}" for name in folders)


def stages_of_run(module: ModuleType, config: Settings) -> list[str]:
    """The stages that a run with these settings passes through, in order.

    Raises:
        UsageError: unknown stages.
    """
    wanted = (*config.stages, *module.ALWAYS) if config.stages else module.stages_of(config)
    return selected_stages(module.STAGES, wanted, module.NEEDS)


def folds_of_run(config: Settings) -> list[int]:
    """The folds that a run with these settings holds out, one after the other.

    Raises:
        UsageError: the settings ask for a fold that the cut does not have.
    """
    if config.fold is not None:
        count = config.folds if config.folds > 1 else config.test_folds
        if config.fold >= count:
            raise UsageError.of(
                "FOLD",
                where="--fold",
                found=config.fold,
                expected=f"0 to {count - 1}",
                fix="--folds K cuts K folds",
            )
        return [config.fold]
    return list(range(config.folds)) if config.folds > 1 else [0]


def _workspaces(
    run: RunFolder, config: Settings, data: DataFolder, device: torch.device
) -> list[Workspace]:
    """One for each fold."""

    def events(stage: Stage) -> None:
        if config.tensorboard:
            write_events(run.path, run.path / "tensorboard", stage.label)

    folds = folds_of_run(config)
    return [
        Workspace(
            run, config, data, device, fold, f"fold-{fold}" if len(folds) > 1 else "",
            after_stage=events,
        )
        for fold in folds
    ]  # fmt: skip


def _work_through(
    run: RunFolder,
    module: ModuleType,
    config: Settings,
    data: DataFolder,
    device: torch.device,
    *,
    resumed: bool = False,
) -> RunFolder:
    selected = stages_of_run(module, config)
    works = _workspaces(run, config, data, device)
    with _stopped_on_signals(run), arithmetic(config.threads), run.locked():
        if resumed:
            for work in works:
                refuse_changed(work, module.STAGES, selected)
            moved = {name: str(folder) for name, folder in config.data_folders.items()}
            run.set_data(data.root.resolve(), moved)
        from_first(str(run.path.resolve()))
        with run.reporting():
            threads = "1 thread" if config.threads == 1 else f"{config.threads} threads"
            several = f" in each of {processes()} processes" if processes() > 1 else ""
            run.log(
                f"{run.record['pipeline']} ({run.record['preset']}) on {device}, "
                f"{threads}{several}: {len(data.samples)} images of {', '.join(data.class_names)}"
            )
            for work in works:
                run_stages(work, module.STAGES, selected)
            if hasattr(module, "finish"):  # no segmenter, so no table of scores
                module.finish(works)
            else:
                finish(works, module)
        wait_for_all()
    return run


def _follow() -> RunFolder:
    """What a process beside the first does: whatever that one has been told to."""
    run = RunFolder.open(Path(from_first("")))
    module, config = recorded_settings(run)
    device = choose_device(config.device)
    data = module.DATA.open(Path(run.record["data"]), config)
    with _stopped_on_signals(run), arithmetic(config.threads), own_folder(run) as own:
        for work in _workspaces(own, config, data, device):
            follow_stages(run, work, module.STAGES, stages_of_run(module, config))
        wait_for_all()
    return run


@contextmanager
def _stopped_on_signals(run: RunFolder) -> Iterator[None]:
    """Within the block a signal stops the run where it can go on.

    Raises:
        Interrupted: it has stopped.
    """
    try:
        with stop_on_signals(patient=processes() > 1):
            yield
    except KeyboardInterrupt:  # between two saves: by stop_if_asked, or a second Ctrl-C
        raise Interrupted.of(
            "INTERRUPTED",
            where=run.path,
            found="a signal to stop",
            expected="finished stages and checkpoints kept, and they are",
            fix=shell_command("resume", run.path),
        ) from None
