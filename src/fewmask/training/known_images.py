"""The images that a run knows, to tell those that it has learned from others, wherever it lies."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.content import digest_of
from fewmask.data.copies import Album, fingerprint
from fewmask.data.records import Sample
from fewmask.data.transforms import resize_image
from fewmask.errors import CheckpointError, LeakError, shell_command
from fewmask.io.images import read_image
from fewmask.training.checkpoint import write_atomically
from fewmask.training.run_folder import RunFolder

FILE = "known_images.npz"
"""In ``RUN/weights``, so that a run that was moved without its stages still refuses a leak."""
LEARNED = ("train", "val")
COLUMNS = ("id", "part", "sha256")
DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, csv.Error, zipfile.BadZipFile)


class KnownImages:
    """The images of a run's data, with their parts of a fold, the first if not said otherwise.

    Args:
        records: ``id``, ``part`` (train, val, test, unused) and ``sha256`` (of the pixels) of each
            image.
        size: Height and width in px at which fingerprints were taken.
        fingerprints: (n, 16, 16) float32, of the n images of the training and validation parts.
    """

    def __init__(
        self, records: Sequence[dict[str, str]], size: tuple[int, int], fingerprints: np.ndarray
    ) -> None:
        self.records, self.size, self.fingerprints = records, size, fingerprints
        self._record_of = {record["sha256"]: record for record in records}
        self._learned = [record for record in records if record["part"] in LEARNED]
        if len(self._learned) != len(fingerprints):
            raise ValueError(f"{len(fingerprints)} fingerprints of {len(self._learned)} images")
        self._album = Album(list(fingerprints)) if self._learned else None

    @classmethod
    def of(cls, run: RunFolder) -> KnownImages:
        """Those of a finished run: from ``weights/``, or from its stages where the file lacks.

        Raises:
            LeakError: neither is there, so that a leak could not be seen.
            CheckpointError: what is there is damaged.
        """
        return cls._of(run, run.path / "weights" / FILE)

    @classmethod
    def of_weights(cls, run: RunFolder, weights: Path) -> KnownImages:
        """Those that a file of weights in a run was trained on.

        A copy of another run's weights has that run's list beside it; what lies in a fold was
        trained on that fold's images.

        Raises:
            LeakError: see :meth:`of`.
            CheckpointError: see :meth:`of`.
        """
        beside = weights.resolve().with_name(FILE)
        if beside.is_file():
            return cls._of(run, beside)
        within = weights.resolve().relative_to(run.path.resolve()).parts[0]
        if within.startswith("fold-"):
            return cls._of(run, run.path / within, fold=within)
        return cls.of(run)

    @classmethod
    def lent_to(cls, run: RunFolder) -> list[KnownImages]:
        """Those of other runs whose weights a run has a copy of: a classifier, a UNIT.

        Raises:
            CheckpointError: see :meth:`of`.
        """
        return [cls._of(run, path) for path in sorted(run.path.glob(f"[0-9]*-*/{FILE}"))]

    @classmethod
    def _of(cls, run: RunFolder, path: Path, fold: str = "fold-0") -> KnownImages:
        try:
            known = cls._read(path) if path.is_file() else cls.of_stages(run, fold)
        except DAMAGE as error:
            raise CheckpointError.of(
                "KNOWN-IMAGES-DAMAGED",
                where=path if path.is_file() else run.path,
                found=_in_words(error),
                expected="the list of images that the run has written",
                fix=f"restore it, or `{shell_command('resume', run.path)}` where the run's data is",
            ) from None
        if known is None:
            raise LeakError.of(
                "LEAK-UNKNOWN",
                where=path,
                found="no such file, and no stages `prepare` and `split` in its place",
                expected="the images that the run has learned from, to refuse to measure on them",
                fix="copy weights/ whole from the run's first place, or "
                f"`{shell_command('resume', run.path)}` where the run's data is",
            )
        return known

    @classmethod
    def of_stages(cls, run: RunFolder, fold: str = "fold-0") -> KnownImages | None:
        """From the stages ``prepare`` and ``split``; None if they are not there.

        Args:
            run: The run.
            fold: Folder of the fold, where there are several.
        """
        places = ("*-split/split.csv", f"{fold}/*-split/split.csv")
        tables = [path for place in places for path in run.path.glob(place)]
        arrays = list(run.path.glob("*-prepare/images.npy"))
        if not tables or not arrays:
            return None
        with tables[0].open(encoding="utf-8", newline="") as stream:
            records = [{name: line[name] for name in COLUMNS} for line in csv.DictReader(stream)]
        images = np.load(arrays[0], mmap_mode="r")
        rows = [row for row, record in enumerate(records) if record["part"] in LEARNED]
        prints = [fingerprint(images[row]) for row in rows]
        return cls(records, images.shape[1:3], np.array(prints, np.float32))

    @classmethod
    def _read(cls, path: Path) -> KnownImages:
        with np.load(path, allow_pickle=False) as file:
            columns = [file[name].tolist() for name in COLUMNS]
            records = [dict(zip(COLUMNS, line, strict=True)) for line in zip(*columns, strict=True)]
            height, width = np.broadcast_to(file["side"], 2).tolist()  # one side: a square
            return cls(records, (height, width), file["fingerprints"])

    def save(self, folder: Path) -> None:
        """Write ``known_images.npz``: names, digests and fingerprints, no image.

        A fingerprint is what is left of an image in 16 x 16 numbers: its coarse grey shapes.
        """
        arrays: dict[str, Any] = {n: np.array([r[n] for r in self.records], str) for n in COLUMNS}
        content = io.BytesIO()
        np.savez(content, **arrays, side=np.array(self.size), fingerprints=self.fingerprints)
        write_atomically(folder / FILE, content.getbuffer())

    def are_these(self, digests: Sequence[str]) -> bool:
        """Whether images with these digests of pixels are all those of the run, and no others."""
        return set(digests) == set(self._record_of)

    def part_of(self, digest: str) -> str:
        """Part of the image with these pixels, by their digest; empty if the run has none such."""
        record = self._record_of.get(digest)
        return record["part"] if record else ""

    def learned(self, image: np.ndarray) -> str:
        """What of the training or validation part an image is, in words; empty if it is not."""
        record = self._record_of.get(digest_of(image))
        if record:
            part = record["part"]
            return f"an image of the run's {part} part" if part in LEARNED else ""
        if self._album is not None:
            small = resize_image(image, *self.size)
            for row in self._album.copies_of(fingerprint(small)):
                record = self._learned[row]
                return f"a copy of {record['id']} of the run's {record['part']} part, changed"
        return ""


def run_of(weights: Path) -> RunFolder | None:
    """The run in which a file of weights lies; None if it lies in none."""
    folders = [path for path in weights.resolve().parents if (path / "run.yaml").is_file()]
    return RunFolder.open(folders[0]) if folders else None


def refuse_weights_that_saw(weights: Path, samples: Iterable[Sample], fix: str) -> bool:
    """Refuse weights of another run that has learned one of these images.

    Args:
        weights: A file, in a run or anywhere else.
        samples: What is to be measured on.
        fix: What to do about it.

    Returns:
        Whether it is known what they have seen: they lie in a run.

    Raises:
        LeakError: an image is one of that run's training images, or a copy; or the run no longer
            knows its images.
        CheckpointError: the run's list of them is damaged.
    """
    run = run_of(weights)
    if run is None:
        return False
    refuse_learned([KnownImages.of_weights(run, weights)], samples, str(weights), fix)
    return True


def refuse_learned(
    known: Sequence[KnownImages], samples: Iterable[Sample], weights: str, fix: str
) -> None:
    """Refuse images, to be measured on, that some weights have learned; ``weights`` names them.

    Raises:
        LeakError: an image is one of those learned from, or a copy.
    """
    for sample in samples:
        image = read_image(sample.image_path)
        if what := next(filter(None, (each.learned(image) for each in known)), ""):
            raise LeakError.of(
                "LEAK",
                where=sample.image_path,
                found=f"{what}, where {weights} was trained",
                expected="weights that have not seen the test images",
                fix=fix,
            )


def _in_words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"nothing called {error}"
    return (str(error).splitlines() or [type(error).__name__])[0]
