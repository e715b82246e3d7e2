"""A finished run on one file that somebody drops: in a process of its own, in a folder of its own.

Nothing of the file's name but its kind is used, and its first bytes must be of that kind.
"""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from fewmask.errors import DataError
from fewmask.web.jobs import Job, Jobs
from fewmask.web.library import not_there
from fewmask.web.store import Store

KINDS: dict[str, tuple[bytes, ...]] = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".nii": (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c"),
    ".nii.gz": (b"\x1f\x8b",),
}
"""What is taken, and how such files begin."""
KEPT = 20


def kind_of(name: str) -> str:
    """The suffix of a name, one of :data:`KINDS`.

    Raises:
        DataError: another one.
    """
    for suffix in sorted(KINDS, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return suffix
    raise refused(name, "a file of another kind")


def refused(name: str, found: str) -> DataError:
    """The error of a file that is not taken."""
    return DataError.of("TRY-KIND", where=name[-80:], found=found, expected=" ".join(KINDS),
                        fix="save it as one of these")  # fmt: skip


def require_kind(head: bytes, suffix: str, name: str) -> None:
    """Refuse a file whose first bytes are not of its kind.

    Raises:
        DataError: they are not.
    """
    if not head.startswith(KINDS[suffix]):
        raise refused(name, f"no {suffix[1:]} file by its first bytes")


@dataclass(frozen=True)
class Try:
    """A file that is being predicted, or has been.

    Attributes:
        id: Its name here.
        job: The process.
        mask: The mask; None until it is there.
        overlay: The picture with the mask over it; None until it is there.
    """

    id: str
    job: Job
    mask: Path | None
    overlay: Path | None


class Tries:
    """Starts and finds them; the newest :data:`KEPT` stay.

    Args:
        store: Its folder holds them.
        jobs: Starts the processes.
    """

    def __init__(self, store: Store, jobs: Jobs) -> None:
        self.folder, self.jobs = store.folder / "tries", jobs

    def new_place(self, suffix: str) -> Path:
        """Where to write a file of that kind; the oldest tries are removed."""
        self.folder.mkdir(exist_ok=True)
        old = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in old[: max(0, len(old) - KEPT + 1)]:
            shutil.rmtree(path, ignore_errors=True)
        place = (
            self.folder / secrets.token_hex(8) / "given"
        )  # predict writes beside it, not into it
        place.mkdir(parents=True)
        return place / f"image{suffix}"

    def discard(self, image: Path) -> None:
        """Remove a file that was not taken after all."""
        shutil.rmtree(image.parent.parent, ignore_errors=True)

    def start(self, run: Path, image: Path) -> str:
        """Predict a file; returns the id."""
        place = image.parent.parent
        self.jobs.start("try", place, ["predict", run, image, "-o", place / "out"])
        return place.name

    def find(self, name: str) -> Try:
        """The try of that id.

        Raises:
            UsageError: none has it.
        """
        place = self.folder / name
        job = self.jobs.latest(place, "try") if re.fullmatch(r"[0-9a-f]{16}", name) else None
        if job is None:
            raise not_there("try", name)
        made = place / "out"
        masks = sorted(p for p in made.glob("masks/image*") if not p.name.endswith(".txt"))
        overlays = sorted(made.glob("overlays/*"))
        done = not job.alive and bool(masks)
        return Try(name, job, masks[0] if done else None, overlays[0] if overlays else None)
