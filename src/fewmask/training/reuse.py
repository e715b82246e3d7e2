"""Take finished stages over from another run, so that a later setting is tried for its own cost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fewmask import __version__
from fewmask.errors import UsageError
from fewmask.training.checkpoint import disk_error
from fewmask.training.run_folder import DONE, KEY, RunFolder, Stage


def refuse_strange(reuse: Path, pipeline: str) -> None:
    """Refuse to take stages over from what is no run of this pipeline and version.

    Raises:
        UsageError: says what it is.
    """
    record = RunFolder.open(reuse).record
    version = _part(record, "versions").get("fewmask", "?")
    if (record["pipeline"], version) != (pipeline, __version__):
        raise UsageError.of(
            "REUSE",
            where=f"--reuse {reuse}",
            found=f"a run of {record['pipeline']} by fewmask {version}",
            expected=f"one of {pipeline} by fewmask {__version__}, this one",
            fix="leave out --reuse",
        )


def take_over(reuse: Path, stage: Stage) -> bool:
    """Copy the files and records of a stage from another run, if it was made from the same there.

    The log says what was copied, or why not.

    Args:
        reuse: The other run, finished or not; one that has gone by now is passed over.
        stage: Of this run; nothing is there yet.

    Returns:
        Whether the stage is there now.

    Raises:
        ResourceError: the disk refuses.
    """
    copying = stage.path.with_name(f".tmp-{stage.path.name}")
    shutil.rmtree(copying, ignore_errors=True)  # of a process that was killed
    try:
        other = RunFolder.open(reuse)
    except UsageError:
        stage.run.log(f"{stage.label}: made here, there is no run at {reuse} any more")
        return False
    lender = Stage(other, reuse / stage.label, stage.name, stage.key)
    try:
        flaw = lender.flaw()
    except OSError as error:
        flaw = str(error)
    if flaw:
        stage.run.log(f"{stage.label}: made here, not copied from {reuse}: {flaw}")
        return False
    lent = lender.metrics()
    try:
        for name in (*lender.facts["files"], KEY, DONE):
            (copying / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(lender.path / name, copying / name)
        for loop in {str(line.get("loop")) for line in lent}:
            stage.forget_metrics(0, loop)
        stage.record_metrics(lent)
        copying.rename(stage.path)
    except OSError as error:
        raise disk_error(stage.path, error) from error
    stage.run.log(f"{stage.label}: copied from {reuse}{_made_otherwise(stage.run, other)}")
    return True


def _made_otherwise(run: RunFolder, other: RunFolder) -> str:
    """What may make a copied stage's last digits others than those of a stage made here."""
    own, lent = (
        (record.get("device"), _part(record, "settings").get("threads"))
        for record in (run.record, other.record)
    )
    return "" if own == lent else f", made on {lent[0]} with {lent[1]} threads"


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    part = record.get(name)
    return part if isinstance(part, dict) else {}
