"""Units of a long benchmark: calls of the real command line, of which what is finished stays."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fewmask.training.run_folder import RunFolder


def label_of(name: str, which: str, seed: int) -> str:
    """Name of a unit's files: of its set, its row or run, and its seed.

    >>> label_of("UNIT, self-training on all", "dusk", 0)
    'dusk-unit-self-training-on-all-seed0'
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{which}-{words}-seed{seed}"


def call(run: Path, words: Sequence[object]) -> None:
    """Run a command that makes a run folder; a stopped run goes on, a finished one is left."""
    begun = (run / "run.yaml").exists()
    if begun and RunFolder.open(run).is_finished():
        return
    resumed = ["resume", run] if begun else words
    spoken = [str(word) for word in resumed]
    print(f"{run.name}: fewmask {' '.join(spoken)}", flush=True)
    subprocess.run([sys.executable, "-m", "fewmask", *spoken], check=True)


def settings_file(label: str, settings: dict[str, Any], out: Path) -> Path:
    """The file of settings that a run is started with; another run under its name is refused."""
    config, text = out / "settings" / f"{label}.yaml", yaml.safe_dump(settings)
    if (out / "runs" / label).exists() and (not config.exists() or config.read_text() != text):
        raise SystemExit(f"{out / 'runs' / label} was made with other settings: move it away")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text)
    return config


def threads_of(run: Path) -> int:
    """The CPU threads that a run was made with."""
    return int(RunFolder.open(run).record["settings"]["threads"])


def keep(path: Path, record: dict[str, Any]) -> None:
    """Write a unit's figures, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(record, indent=1))
    path.with_suffix(".tmp").rename(path)
