"""Runs and data folders by opaque ids: no request names a path, so none can name a wrong one."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fewmask.errors import UsageError
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import run_files
from fewmask.web.store import Store


def id_of(path: Path | str) -> str:
    """A name that says nothing and stays the same: 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def not_there(what: str, name: str) -> UsageError:
    """The error of an id that nothing has."""
    return UsageError.of(
        "NOT-THERE", where=what, found=repr(name[:40]), expected=f"a {what} that the pages list",
        fix="load the page anew: it may have been moved or removed",
    )  # fmt: skip


class Library:
    """What there is to see.

    Args:
        root: The folder of runs.
        data: Data folders given on the command line.
        store: Remembers those that were made since.
    """

    def __init__(self, root: Path, data: Sequence[Path], store: Store) -> None:
        self.root, self.store = root.resolve(), store
        self._given = [path.resolve() for path in data]
        self._opened: dict[Path, tuple[int, RunFolder]] = {}
        self._lock = threading.Lock()

    def runs(self) -> list[tuple[str, RunFolder]]:
        """All runs with their ids, newest first."""
        found: dict[Path, tuple[int, RunFolder]] = {}
        with self._lock:
            for file in run_files(self.root):
                try:
                    stamp = file.stat().st_mtime_ns
                    known = self._opened.get(file)
                    if known is None or known[0] != stamp:
                        known = stamp, RunFolder.open(file.parent)
                        known[1].quiet = True
                    found[file] = known
                except (OSError, UsageError):
                    continue
            self._opened = found
        runs = [run for _, run in found.values()]
        runs.sort(key=lambda run: str(run.record.get("created", "")), reverse=True)
        return [(id_of(run.path), run) for run in runs]

    def run(self, name: str) -> RunFolder:
        """The run of that id.

        Raises:
            UsageError: none has it.
        """
        for known, run in self.runs():
            if known == name:
                return run
        raise not_there("run", name)

    def folders(self) -> dict[str, Path]:
        """Data folders by id: given, made by a button, or recorded in a run as its data."""
        made = [Path(row["path"]) for row in self.store.rows("SELECT path FROM folders")]
        of_runs = [Path(str(run.record.get("data"))) for _, run in self.runs()]
        paths = dict.fromkeys([*self._given, *made, *of_runs])
        return {id_of(path): path for path in paths if path.is_absolute() and path.is_dir()}

    def folder(self, name: str) -> Path:
        """The data folder of that id.

        Raises:
            UsageError: none has it.
        """
        folders = self.folders()
        if name not in folders:
            raise not_there("data folder", name)
        return folders[name]

    def add_folder(self, path: Path) -> str:
        """Remember a data folder that the app has made; returns its id."""
        with self.store.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO folders VALUES (?, ?)", (str(path.resolve()), time.time())
            )
        return id_of(path.resolve())
