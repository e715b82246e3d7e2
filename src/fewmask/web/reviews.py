"""Reviews: accepted, corrected, rejected masks, none of which is lost once it was said to be saved.

The database is what counts. A review is one transaction in it, mask included; then its files are
written to ``RUN/review/`` (``masks/*.png`` and ``review.csv``); then the browser is told. Should
the server die in between, the files are made to follow when the run is next opened.

The browser gives each review an id of its own: sent twice, it counts once. It also says which
version it has seen; if another one was saved meanwhile, both are kept, and the browser is told.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from fewmask.errors import UsageError
from fewmask.io.whole_files import as_disk_error, write_whole
from fewmask.training.run_folder import RunFolder
from fewmask.training.workspace import csv_cell
from fewmask.web.run_images import Item, RunImages
from fewmask.web.store import Store

Verdict = Literal["accepted", "edited", "rejected"]
FOLDER = "review"
COLUMNS = ("image", "verdict", "mask", "sha256", "version", "seconds", "part", "confidence",
           "reviewed")  # fmt: skip


@dataclass(frozen=True)
class Review:
    """What somebody says of one mask.

    Attributes:
        client_id: Made by the browser, new for each review.
        verdict: ``accepted`` as it was, ``edited``, or ``rejected``: nothing to learn from.
        base_version: The version that was looked at; 0 for the run's own mask.
        seconds: Time spent on it.
        mask: (H, W) uint8 class ids, 255 for unsure; None: as it was, or rejected.
    """

    client_id: str
    verdict: Verdict
    base_version: int
    seconds: float
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Saved:
    """What has become of a review.

    Attributes:
        version: Under which it was saved, or, in a conflict, the version that was there already.
        conflict: Whether another one was; then this one is kept beside it.
        file: The mask below the run; empty where there is none.
    """

    version: int
    conflict: bool
    file: str


class Reviews:
    """Saves and finds them.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._files = threading.Lock()
        self._followed: set[Path] = set()

    def save(self, images: RunImages, item: Item, review: Review) -> Saved:
        """Keep a review; when this returns, it is on the disk.

        Raises:
            UsageError: the same id with another content.
            ResourceError: the disk refuses; nothing was saved.
        """
        run = str(images.run.path)
        with self.store.writing() as connection:
            row = _same(connection, review, run, item)
            if row is None:
                now = _latest(connection, run, item.name)
                version = int(now["version"]) if now else 0
                beside = version != review.base_version
                values = (
                    review.client_id, run, item.name, version + (not beside), review.verdict,
                    review.seconds, time.time(), _mask_bytes(images, item, review, now),
                    review.base_version, int(beside),
                )  # fmt: skip
                marks = ", ".join("?" * len(values))
                connection.execute(f"INSERT INTO reviews VALUES ({marks})", values)
                row = _same(connection, review, run, item)
        assert row is not None
        return self._write(images, item, dict(row))

    def _write(self, images: RunImages, item: Item, row: dict[str, Any]) -> Saved:
        """The files of what the database holds."""
        folder = images.run.path / FOLDER
        with self._files, as_disk_error(folder):
            if row["kept_beside"]:
                path = folder / "conflicts" / f"{item.name}.{row['client_id']}.png"
                if row["mask"] is not None:
                    _put(path, row["mask"], folder)
            else:
                path = self._follow(images, [item])
            file = path.relative_to(images.run.path).as_posix() if path.is_file() else ""
        return Saved(int(row["version"]), bool(row["kept_beside"]), file)

    def follow(self, images: RunImages) -> None:
        """Make the files of a run what the database says, once for each server."""
        if images.run.path in self._followed:
            return
        with self._files, as_disk_error(images.run.path):
            names = {row["image"] for row in self.latest(images)}
            items = [item for item in images.items if item.name in names]
            if items:
                self._follow(images, items)
            self._followed.add(images.run.path)

    def _follow(self, images: RunImages, items: Sequence[Item]) -> Path:
        """The masks of some images, and the table; the last one's path."""
        folder = images.run.path / FOLDER
        rows = {row["image"]: row for row in self.latest(images)}
        path = folder
        for item in items:
            path, mask = folder / "masks" / f"{item.name}.png", rows[item.name]["mask"]
            if mask is None:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != mask:
                _put(path, mask, folder)
        _put(folder / "review.csv", _table(images, rows), folder)
        return path

    def latest(self, images: RunImages) -> list[sqlite3.Row]:
        """The newest review of each image of a run."""
        return self.store.rows(
            "SELECT *, MAX(version) FROM reviews WHERE run = ? AND kept_beside = 0 GROUP BY image",
            str(images.run.path),
        )

    def state(self, run: RunFolder) -> dict[str, dict[str, Any]]:
        """Version, verdict and seconds of the newest review of each image, by its name."""
        rows = self.store.rows(
            "SELECT image, MAX(version) AS version, verdict, SUM(seconds) AS seconds FROM reviews "
            "WHERE run = ? AND kept_beside = 0 GROUP BY image",
            str(run.path),
        )
        return {
            row["image"]: {k: row[k] for k in ("version", "verdict", "seconds")} for row in rows
        }

    def mask(self, images: RunImages, item: Item) -> tuple[np.ndarray, int, str]:
        """The mask as it is now, its version and its verdict: a review's, else the run's own.

        Raises:
            DataError: the run's own mask cannot be read.
        """
        rows = self.store.rows(
            "SELECT version, verdict, mask FROM reviews WHERE run = ? AND image = ? AND "
            "kept_beside = 0 ORDER BY version DESC LIMIT 1",
            str(images.run.path), item.name,
        )  # fmt: skip
        version, verdict = (int(rows[0]["version"]), rows[0]["verdict"]) if rows else (0, "")
        if rows and rows[0]["mask"] is not None:
            return np.asarray(Image.open(io.BytesIO(rows[0]["mask"]))), version, verdict
        return images.weak_mask(item), version, verdict


def _same(
    connection: sqlite3.Connection, review: Review, run: str, item: Item
) -> sqlite3.Row | None:
    """The row of a review that was sent before."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM reviews WHERE client_id = ?", (review.client_id,)
    ).fetchone()
    if row is None:
        return None
    told = (run, item.name, review.verdict, review.base_version)
    mask = review.mask is None or row["mask"] == png_of(review.mask)
    if tuple(row[k] for k in ("run", "image", "verdict", "base_version")) != told or not mask:
        raise UsageError.of(
            "REVIEW-ID", where=f"client_id {review.client_id}", found="another review with this id",
            expected="a new id for each review", fix="load the page anew",
        )  # fmt: skip
    return row


def _latest(connection: sqlite3.Connection, run: str, image: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM reviews WHERE run = ? AND image = ? AND kept_beside = 0 "
        "ORDER BY version DESC LIMIT 1",
        (run, image),
    ).fetchone()
    return row


def _mask_bytes(
    images: RunImages, item: Item, review: Review, now: sqlite3.Row | None
) -> bytes | None:
    """PNG of what a review says the mask is."""
    if review.verdict == "rejected":
        return None
    if review.mask is not None:
        return png_of(review.mask)
    if now is not None and now["mask"] is not None:
        return bytes(now["mask"])
    return png_of(images.weak_mask(item))


def png_of(mask: np.ndarray) -> bytes:
    """(H, W) uint8 as an 8-bit grey PNG; equal masks give equal bytes."""
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _put(path: Path, content: bytes, folder: Path) -> None:
    """Write a file below a folder that is ours."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError.of("REVIEW-NAME", where=path, found="a name that leads out of the run",
                            expected="a name below it", fix="rename the image")  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def _table(images: RunImages, rows: dict[str, sqlite3.Row]) -> bytes:
    lines = [",".join(COLUMNS)]
    for item in images.items:
        row = rows.get(item.name)
        if row is None:
            continue
        mask = row["mask"]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(row["created"]))
        cells = (
            item.name, row["verdict"], f"masks/{item.name}.png" if mask is not None else "",
            hashlib.sha256(mask).hexdigest() if mask is not None else "", row["version"],
            f"{row['seconds']:.1f}", item.part, f"{item.confidence:.4f}", stamp,
        )  # fmt: skip
        lines.append(",".join(csv_cell(str(cell)) for cell in cells))
    return ("\n".join(lines) + "\n").encode()
