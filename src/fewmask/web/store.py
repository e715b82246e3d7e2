"""What the app remembers: one SQLite file, and nothing is said to be saved that is not on disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewmask.errors import ResourceError
from fewmask.io.whole_files import as_disk_error

FOLDER = ".fewmask-ui"
"""In the folder of runs: the database, logs of jobs, small pictures."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, about TEXT NOT NULL, words TEXT NOT NULL,
    pid INTEGER NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS reviews (
    client_id TEXT PRIMARY KEY, run TEXT NOT NULL, image TEXT NOT NULL, version INTEGER NOT NULL,
    verdict TEXT NOT NULL, seconds REAL NOT NULL, created REAL NOT NULL, mask BLOB,
    base_version INTEGER NOT NULL, kept_beside INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS reviews_of ON reviews (run, image, version);
"""


class Store:
    """The database; safe to use from several threads.

    Args:
        root: The folder of runs.

    Raises:
        ResourceError: the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self._lock = threading.RLock()
        with as_disk_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with _as_resource_error(self.folder):
            self._connection = sqlite3.connect(
                self.folder / "ui.sqlite", check_same_thread=False, isolation_level=None, timeout=30
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")  # a commit is an fsync
            self._connection.executescript(SCHEMA)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on disk when the block ends, or has left nothing.

        Raises:
            ResourceError: the disk refuses.
        """
        with self._lock, _as_resource_error(self.folder):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, question: str, *values: Any) -> list[sqlite3.Row]:
        """The rows that answer a query."""
        with self._lock, _as_resource_error(self.folder):
            return self._connection.execute(question, values).fetchall()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()


@contextmanager
def _as_resource_error(where: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ResourceError.of(
            "DISK-WRITE", where=where, found=error, expected="a folder with room for the database",
            fix="free space, or look at who may write there",
        ) from error  # fmt: skip
