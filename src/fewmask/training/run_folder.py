"""A run on disk: settings, status, log, one numbered folder per stage, and the lock.

::

    RUN/
      run.yaml          command, resolved settings, versions, seed, threads: reproduces the run
      status.json       state, stage and process        log.txt   metrics.jsonl
      1-split/ …        one folder per stage; DONE.json closes it: key of inputs, SHA-256
      checkpoints/      of the stage under way          weights/  safetensors + card.json
      masks/ samples/   pictures and pseudo-masks       report.html
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import yaml

from fewmask import __version__
from fewmask.errors import FewmaskError, Interrupted, UsageError, shell_command
from fewmask.training import curves
from fewmask.training.checkpoint import (
    disk_error,
    remove_temporaries,
    sha256_file,
    sync,
    write_atomically,
)

DONE = "DONE.json"
KEY = "KEY"
SECONDS = "seconds.json"
PACKAGES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "numpy")


class RunFolder:
    """An existing run folder; :meth:`create` makes a new one, :meth:`open` finds one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = yaml.safe_load((path / "run.yaml").read_text())
        self.quiet = False

    @classmethod
    def create(cls, path: Path, record: Mapping[str, Any]) -> RunFolder:
        """Make the folder and its ``run.yaml``.

        Args:
            path: Must not exist, or be an empty folder.
            record: ``pipeline``, ``settings``, ``data`` and the like; versions are added here.

        Raises:
            UsageError: the folder holds something already; a run is never overwritten.
            ResourceError: the disk refuses.
        """
        cls.require_free(path)
        versions = {name: _version(name) for name in PACKAGES}
        versions["fewmask"] = __version__
        versions["python"] = platform.python_version()
        full = {**record, "versions": versions, "command": command_line(), "created": _now()}
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error
        write_atomically(path / "run.yaml", yaml.safe_dump(full, sort_keys=False).encode())
        return cls(path)

    @staticmethod
    def require_free(path: Path) -> None:
        """Refuse a path that holds something.

        Raises:
            UsageError: if it is a run, with the command that goes on with it or shows it.
        """
        if not path.exists():
            return
        if path.is_dir() and all(child.name.startswith(".tmp-") for child in path.iterdir()):
            return  # empty, or left so by a run that was killed before it began
        found, way = "a folder that is not empty" if path.is_dir() else "a file", ""
        if (path / "run.yaml").is_file():
            found, way = "a run", f"`{shell_command('resume', path)}` to go on with it, or "
            if (path / "weights" / "card.json").is_file():
                found, way = "a finished run", f"`{shell_command('report', path)}` to see it, or "
        raise UsageError.of(
            "RUN-EXISTS", where=path, found=found, expected="a new name", fix=f"{way}another -o"
        )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run at ``path``.

        Raises:
            UsageError: there is no run, or its ``run.yaml`` cannot be read.
        """
        try:
            run = cls(path)
            run.record["pipeline"]
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
            raise UsageError.of(
                "RUN-MISSING",
                where=path,
                found="a file" if path.is_file() else "no readable run.yaml",
                expected="the folder of a run",
                fix="`fewmask runs` lists those below ./runs",
            ) from None
        return run

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the system frees the lock however the process ends.

        Raises:
            UsageError: another process works on this run.
        """
        with (self.path / ".lock").open("a+") as stream:
            if not _take_lock(stream):
                stream.seek(0)
                raise UsageError.of(
                    "RUN-LOCKED",
                    where=self.path,
                    found=f"process {stream.read().strip() or '?'} at work on it",
                    expected="one process per run",
                    fix=f"wait for it or stop it, then `{shell_command('resume', self.path)}`",
                )
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
            yield

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Keep ``status.json`` true around the work: running, then finished, stopped or failed."""
        self.set_status("running")
        try:
            yield
        except (Interrupted, KeyboardInterrupt):
            self.set_status("interrupted")
            raise
        except FewmaskError as error:
            self.set_status("failed", error=str(error))
            raise
        except BaseException as error:
            self.set_status("failed", error=f"{type(error).__name__}: {error}")
            raise
        self.set_status("finished")

    def set_data(self, root: Path, folders: Mapping[str, str]) -> None:
        """Write to ``run.yaml`` where the data folder and those in settings are, if moved."""
        settings = self.record["settings"]
        before = (self.record.get("data"), {name: settings.get(name) for name in folders})
        if before != (str(root), dict(folders)):
            self.record["data"] = str(root)
            self.record["settings"] = {**settings, **folders}
            content = yaml.safe_dump(self.record, sort_keys=False)
            write_atomically(self.path / "run.yaml", content.encode())

    def set_status(self, state: str, **facts: Any) -> None:
        """Write ``status.json``."""
        status = {"state": state, "pid": os.getpid(), "time": _now(), **facts}
        write_atomically(self.path / "status.json", json.dumps(status, indent=1).encode())

    @property
    def status(self) -> dict[str, Any]:
        """The last status; ``{"state": "unknown"}`` if there is none that can be read."""
        try:
            status = json.loads((self.path / "status.json").read_text())
        except (OSError, ValueError):
            status = None
        return status if isinstance(status, dict) else {"state": "unknown"}

    def summary(self) -> dict[str, str]:
        """One line of ``fewmask runs``: path, pipeline, preset, state, headline score, error."""
        score = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            metrics = json.loads((self.path / "metrics.json").read_text())["metrics"]
            names = [n for n in metrics if n.startswith("iou.pooled.") and n.count(".") == 2]
            names.remove("iou.pooled.background")
            name = names[0] if len(names) == 1 else "miou_foreground"
            score = f"{name} {metrics[name]:.3f}"
        status = self.status
        state = str(status.get("state"))
        if state == "running" and not self.is_locked():
            state = "killed"
        return {
            "path": str(self.path),
            "pipeline": str(self.record["pipeline"]),
            "preset": str(self.record.get("preset")),
            "state": state,
            "score": score,
            "error": str(status.get("error", "")) if state == "failed" else "",
        }

    def is_finished(self) -> bool:
        """Whether its last stage is done."""
        return self.status.get("state") == "finished"

    def is_locked(self) -> bool:
        """Whether a process works on this run."""
        try:
            with (self.path / ".lock").open("a+") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

    def log(self, message: str) -> None:
        """A line for the reader and for ``log.txt``."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{_now()} {message}\n")
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)  # noqa: T201

    def stage_path(self, number: int, name: str, folder: str = "") -> Path:
        """Where a stage's files are, or will be."""
        return self.path / folder / f"{number}-{name}"

    def stage(self, number: int, name: str, key: str, *, folder: str = "") -> Stage:
        """The stage's folder, emptied of a former result whose inputs were others.

        Args:
            number: Place in the pipeline, from 1.
            name: The stage's name.
            key: Digest of all that the stage reads.
            folder: Sub-folder of the run (a fold of a cross-validation), or empty.
        """
        stage = Stage(self, self.stage_path(number, name, folder), name, key)
        stage.discard_if_stale()
        return replace(stage, earlier_seconds=stage.kept_seconds())


@dataclass(frozen=True)
class Stage:
    """One stage's folder: files appear while it runs, ``DONE.json`` says they are all there."""

    run: RunFolder
    path: Path
    name: str
    key: str
    earlier_seconds: float = field(default=0.0, compare=False)
    opened: float = field(default_factory=lambda: time.monotonic(), compare=False)

    @property
    def label(self) -> str:
        """Place in the run, for records: ``4-classify`` or ``fold-1/4-classify``."""
        return self.path.relative_to(self.run.path).as_posix()

    @property
    def checkpoints(self) -> Path:
        """Where the stage's loops keep their state while it runs."""
        return self.run.path / "checkpoints" / self.label

    @property
    def done(self) -> bool:
        """Whether the stage is finished with these inputs and its files are what they were."""
        return not self.flaw()

    def flaw(self) -> str:
        """Why the stage is not :attr:`done`, in words; empty if it is."""
        record = self.done_record()
        if record is None:
            return f"no readable {DONE}"
        if record["key"] != self.key:
            return "made from other data or settings"
        digests = {self.path / file: digest for file, digest in record["files"].items()}
        bad = [p.name for p, d in digests.items() if not p.is_file() or sha256_file(p) != d]
        return f"altered or missing: {', '.join(bad[:5])}" if bad else ""

    def done_record(self) -> dict[str, Any] | None:
        """``DONE.json``; None if the stage is not finished, or the file is damaged."""
        try:
            record = json.loads((self.path / DONE).read_text())
            return record if record["key"] and isinstance(record["files"], dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def discard_if_stale(self) -> None:
        """Make the folder; remove what an earlier run of the stage with other inputs left."""
        marker = self.path / KEY
        try:
            before = marker.read_text() if marker.is_file() else None
            flaw, finished = self.flaw(), (self.path / DONE).exists()
            if flaw and (before != self.key or finished):
                if finished:
                    self.run.log(f"{self.label}: {flaw}; it is made again")
                marker.unlink(missing_ok=True)  # first: a kill from here on leaves it stale
                shutil.rmtree(self.checkpoints, ignore_errors=True)
                if self.path.exists():
                    shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            if not marker.is_file():
                write_atomically(marker, self.key.encode())
        except OSError as error:
            raise disk_error(self.path, error) from error

    @property
    def seconds(self) -> float:
        """Time spent in the stage, by this process and by those before it that did not finish.

        Of a process that was killed, the time after its last save is missing.
        """
        return self.earlier_seconds + time.monotonic() - self.opened

    def keep_seconds(self) -> None:
        """Write the time spent beside the checkpoints, for a process that goes on."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self.checkpoints / SECONDS, json.dumps(self.seconds).encode())

    def kept_seconds(self) -> float:
        """What :meth:`keep_seconds` wrote last; 0 if nothing is there."""
        try:
            return float(json.loads((self.checkpoints / SECONDS).read_text()))
        except (OSError, ValueError, TypeError):
            return 0.0

    def finish(self, **facts: Any) -> None:
        """Close the stage: hash its files, then write ``DONE.json``, then drop its checkpoints."""
        remove_temporaries(self.path)
        files = {}
        for path in sorted(self.path.rglob("*")):
            if path.is_file() and path.name not in {DONE, KEY}:
                sync(path)
                files[path.relative_to(self.path).as_posix()] = sha256_file(path)
        record = {"key": self.key, "files": files, **facts}
        write_atomically(self.path / DONE, json.dumps(record, indent=1).encode())
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    @property
    def facts(self) -> dict[str, Any]:
        """What :meth:`finish` was told."""
        return dict(json.loads((self.path / DONE).read_text()))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the stage, whole or not at all."""
        write_atomically(self.path / name, json.dumps(value, indent=1).encode())

    def holds(self, name: str) -> bool:
        """Whether the stage has written that file."""
        return (self.path / name).is_file()

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the stage."""
        return json.loads((self.path / name).read_text())

    def record_metrics(self, records: list[dict[str, Any]]) -> None:
        """Append lines to the run's ``metrics.jsonl``."""
        curves.append(self.run.path, self.label, records)

    def metrics(self) -> list[dict[str, Any]]:
        """The stage's lines of the run's ``metrics.jsonl``."""
        return curves.of_stage(self.run.path, self.label)

    def forget_metrics(self, from_step: int, loop: str) -> None:
        """Remove records of steps that are about to be done again after a kill."""
        curves.forget(self.run.path, self.label, loop, from_step)


def _take_lock(stream: IO[str]) -> bool:
    """Whether the lock is ours now; somebody who only looks has it for less than a moment."""
    for wait in (0.05, 0.2, 0.0):
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(wait)
    return False


def command_line() -> str:
    """The command as typed, quoted for a shell, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
