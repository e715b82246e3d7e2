"""What the processes beside the first do while it makes a run: wait, or train with it.

They never write to the run's folder. Each has a folder of its own that looks like it and goes when
the run does: in it finished stages are links, and a stage that all take part in begins as a copy of
what an earlier process has left of it, so that all take the same steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fewmask.training.distributed import from_first, wait_for_all
from fewmask.training.run_folder import RunFolder, Stage
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace


@contextmanager
def own_folder(run: RunFolder) -> Iterator[RunFolder]:
    """A folder for one of the other processes, with the run's settings and nothing else."""
    with TemporaryDirectory(prefix="fewmask-") as folder:
        shutil.copy(run.path / "run.yaml", folder)
        own = RunFolder(Path(folder))
        own.quiet = True
        yield own


def follow_stages(
    run: RunFolder, work: Workspace, specs: Sequence[StageSpec], selected: Sequence[str]
) -> None:
    """The counterpart of :func:`fewmask.training.stages.run_stages` in the other processes.

    Args:
        run: That the first process makes.
        work: In the folder from :func:`own_folder`.
        specs: The pipeline's stages.
        selected: Names of those to run.
    """
    for number, spec in enumerate(specs, start=1):
        if spec.name not in selected:
            continue
        first = Stage(run, run.stage_path(number, spec.name, spec.folder(work)), spec.name, "")
        own = Stage(
            work.run, work.run.stage_path(number, spec.name, spec.folder(work)), spec.name, ""
        )
        work.stages[spec.name] = own
        done = from_first(True)
        if not done and spec.together:
            _copy(first.path, own.path)
            _copy(first.checkpoints, own.checkpoints)
            wait_for_all()  # the first begins when all have their copy
            spec.function(work, own)
            shutil.rmtree(own.path)
        if not done:
            wait_for_all()  # for the first to finish it
        if not own.path.is_symlink():  # a stage of all folds is there from the first of them
            own.path.parent.mkdir(parents=True, exist_ok=True)
            own.path.symlink_to(first.path.resolve())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists():
        shutil.copytree(source, target)
