"""Commands of fewmask as processes of their own, that outlive the browser and the server.

A job holds a lock on a file that it inherits. Whether it still runs is therefore known to any
later server too, whatever number the system gives its processes meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewmask.errors import UsageError, shell_command
from fewmask.io.whole_files import as_disk_error
from fewmask.training.run_folder import RunFolder
from fewmask.web.library import not_there
from fewmask.web.store import Store

TAIL_BYTES = 20_000


@dataclass(frozen=True)
class Job:
    """A command that was started.

    Attributes:
        id: Its name here.
        kind: ``run``, ``resume``, ``check`` or ``fix``.
        about: Path of the run or of the data folder that it works on.
        command: As one would type it.
        pid: Of its process.
        created: Seconds since 1970.
        alive: Whether it still runs.
        out: What it wrote to the standard output.
        log: The end of what it wrote to the standard error.
    """

    id: str
    kind: str
    about: str
    command: str
    pid: int
    created: float
    alive: bool
    out: str
    log: str

    @property
    def result(self) -> dict[str, Any] | None:
        """The JSON object of a job that ends with one; None while it runs, or if it has failed."""
        with contextlib.suppress(ValueError):
            found = None if self.alive else json.loads(self.out)
            return found if isinstance(found, dict) else None
        return None


class Jobs:
    """Starts, finds and stops them.

    Args:
        store: Where they are written down.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.folder = store, store.folder / "jobs"
        with as_disk_error(self.folder):
            self.folder.mkdir(exist_ok=True)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def start(self, kind: str, about: Path, words: Sequence[object]) -> Job:
        """Start ``fewmask WORDS``.

        Args:
            kind: See :class:`Job`.
            about: The run, or the data folder.
            words: Of the command, each as the program shall get it.

        Raises:
            ResourceError: the system refuses.
        """
        name, typed = secrets.token_hex(8), [str(word) for word in words]
        with (
            as_disk_error(self.folder),
            self._path(name, "lock").open("w") as lock,
            self._path(name, "out").open("wb") as out,
            self._path(name, "log").open("wb") as log,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)
            child = subprocess.Popen(
                [sys.executable, "-m", "fewmask", *typed],
                stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                pass_fds=[lock.fileno()], start_new_session=True,
            )  # fmt: skip
        with self._lock:
            self._children[name] = child
        with self.store.writing() as connection:
            connection.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)",
                (name, kind, str(about), json.dumps(typed), child.pid, time.time()),
            )
        return self.find(name)

    def find(self, name: str) -> Job:
        """The job of that id.

        Raises:
            UsageError: none has it.
        """
        rows = self.store.rows("SELECT * FROM jobs WHERE id = ?", name)
        if not rows:
            raise not_there("job", name)
        return self._job(dict(rows[0]))

    def latest(self, about: Path, *kinds: str) -> Job | None:
        """The last job of these kinds on a run or data folder."""
        rows = self.store.rows(
            f"SELECT * FROM jobs WHERE about = ? AND kind IN ({','.join('?' * len(kinds))}) "
            "ORDER BY created DESC, rowid DESC LIMIT 1",
            str(about), *kinds,
        )  # fmt: skip
        return self._job(dict(rows[0])) if rows else None

    def beginning(self) -> list[Job]:
        """Runs that were started and have no folder yet: loading, checking data, or refused."""
        rows = self.store.rows("SELECT * FROM jobs WHERE kind = 'run' ORDER BY created DESC")
        return [self._job(dict(r)) for r in rows if not (Path(r["about"]) / "run.yaml").is_file()]

    def forget(self, name: str) -> None:
        """Strike a job that has ended off the list.

        Raises:
            UsageError: it still runs, or there is none.
        """
        job = self.find(name)
        if job.alive:
            raise UsageError.of("JOB-RUNS", where=job.command, found="a process at work",
                                expected="one that has ended", fix="stop it first")  # fmt: skip
        with self.store.writing() as connection:
            connection.execute("DELETE FROM jobs WHERE id = ?", (name,))
        for kind in ("lock", "out", "log"):
            self._path(name, kind).unlink(missing_ok=True)

    def stop(self, name: str) -> None:
        """Ask a job's process to save and stop; nothing if it has ended."""
        job = self.find(name)
        if job.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.pid, signal.SIGTERM)

    def _job(self, row: dict[str, Any]) -> Job:
        name, words = row["id"], json.loads(row["words"])
        return Job(
            name, row["kind"], row["about"], shell_command(*words), row["pid"], row["created"],
            self._is_alive(name), self._text(name, "out"), self._text(name, "log")[-TAIL_BYTES:],
        )  # fmt: skip

    def _is_alive(self, name: str) -> bool:
        with self._lock:
            child = self._children.get(name)
            if child is not None and child.poll() is not None:  # also takes the zombie away
                del self._children[name]
        try:
            with self._path(name, "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def _text(self, name: str, kind: str) -> str:
        try:
            return self._path(name, kind).read_text(errors="replace")
        except OSError:
            return ""

    def _path(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}.{kind}"


def stop_run(run: RunFolder) -> None:
    """Ask the process that works on a run to save and stop, whoever has started it.

    Raises:
        UsageError: no process works on it.
    """
    pid = (run.path / ".lock").read_text().strip() if run.is_locked() else ""
    if not pid.isdigit():
        raise UsageError.of(
            "RUN-IDLE", where=run.path, found="no process at work on it",
            expected="a run under way",
            fix=f"`{shell_command('resume', run.path)}` goes on with it",
        )  # fmt: skip
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid), signal.SIGTERM)
