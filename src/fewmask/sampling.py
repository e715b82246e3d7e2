"""``fewmask factory sample``: synthetic images with masks, as a data set of their own.

A pair is a function of seed and number. Which are left out is decided when all are there: those on
which the interpreter's ensemble disagrees most.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewmask.engine import Done, Engine, each_done
from fewmask.errors import UsageError
from fewmask.factory_runs import interpreter_run
from fewmask.io.images import write_image, write_mask
from fewmask.pipelines.factory_interpreter import INTERPRETER
from fewmask.pipelines.factory_sampling import Gate, Labelled, batches, generator_of, to_generate
from fewmask.pipelines.factory_watch import latent_codes
from fewmask.pipelines.finished import restore_workspace
from fewmask.pipelines.running import data_folders_of
from fewmask.training.checkpoint import remove_temporaries, sha256_file, write_atomically
from fewmask.training.device import choose_device
from fewmask.training.export import write_manifest
from fewmask.training.known_images import KnownImages
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import refuse_inside


class Made(NamedTuple):
    """A data set that was written.

    Attributes:
        pairs: Images with masks.
        unsure: Left out: the ensemble disagreed on them most.
        copies: Left out: copies of images that the generator was trained on.
    """

    pairs: int
    unsure: int
    copies: int

    def __str__(self) -> str:
        return (
            f"{self.pairs} synthetic images with masks; left out: {self.unsure} on which the "
            f"classifiers disagree most, {self.copies} copies of training images"
        )


def sample(
    run: RunFolder,
    out: Path,
    count: int = 1500,
    *,
    truncation_psi: float = 0.7,
    drop: float = 0.1,
    seed: int | None = None,
    device: str = "auto",
    engine: Engine = Engine(),  # noqa: B008 - frozen
) -> Made:
    """Write synthetic images with masks: ``OUT/images``, ``OUT/masks``, ``OUT/manifest.csv``.

    Args:
        run: A finished run of ``fewmask factory label``, or the generator's with one such in it.
        out: New or empty folder; appears whole or not at all.
        count: Pairs to write.
        truncation_psi: 1: as varied as the generator can; 0: all the same.
        drop: Share of images that is left out: those on which the ensemble disagrees most.
            Published: 0.1.
        seed: Of the codes; default the run's.
        device: See ``--device``.
        engine: Where images are generated and labelled, a batch at a time.

    Raises:
        UsageError: there is no interpreter or no generator, or ``out`` holds something.
        CheckpointError: weights are damaged.
        ResourceError: see :mod:`fewmask.engine`.
    """
    if count < 1 or not 0 <= drop < 1 or not 0 <= truncation_psi <= 1:
        raise UsageError.of(
            "SAMPLE",
            where="-n, --drop, --truncation-psi",
            found=f"{count}, {drop}, {truncation_psi}",
            expected="1 or more; 0 to less than 1; 0 to 1",
            fix="correct the number",
        )
    run = interpreter_run(run)
    RunFolder.require_free(out)
    for folder in data_folders_of(run):
        refuse_inside(out, folder)
    work, _ = restore_workspace(run, choose_device(device))
    weights = generator_of(work)
    seed = work.config.seed if seed is None else seed
    making = out.with_name(f".making-{out.name}")
    opener = partial(Sampling, run.path.resolve(), making.resolve(), seed, truncation_psi, device)
    sampling = opener()
    shutil.rmtree(making, ignore_errors=True)
    for name in ("images", "masks"):
        (making / name).mkdir(parents=True)
    pieces = [(batch.start, batch.stop) for batch in batches(to_generate(count, drop))]
    gate = Gate()
    for done in each_done(engine, pieces, sampling, opener, title="sample", unit="batch"):
        for number, disagreement, copy in done.result:
            gate.admits(number, disagreement, copy=copy)
    remove_temporaries(making)
    surest = gate.surest(count)
    for number in gate.doubts.keys() - surest:
        for name in ("images", "masks"):
            (making / name / _file(number)).unlink()
    kept = sorted(surest)
    made = Made(len(kept), len(gate.doubts) - len(kept), len(gate.copies))
    lineage = {
        "synthetic": True,
        "seed": seed,
        "truncation_psi": truncation_psi,
        "generator_sha256": sha256_file(weights),
        "interpreter_sha256": sha256_file(run.path / "weights" / INTERPRETER),
    }
    write_manifest(
        making / "manifest.csv",
        [
            {
                "image": f"images/{_file(number)}",
                "mask": f"masks/{_file(number)}",
                "number": number,
                "disagreement": f"{gate.doubts[number]:.6f}",
                **lineage,
            }
            for number in kept
        ],
    )
    np.save(making / "z.npy", latent_codes(seed, kept, work.config.generate_z_dim).numpy())
    facts = {**lineage, **made._asdict(), "class_names": list(work.class_names)}
    write_atomically(making / "dataset.json", json.dumps(facts, indent=1).encode())
    if out.exists():
        out.rmdir()
    making.replace(out)
    return made


class Sampling:
    """Writes a batch of pairs after the other, without copies of training images.

    Args:
        run: Of an interpreter.
        out: Folder with ``images`` and ``masks``.
        seed: As in :func:`sample`, like the others.
    """

    def __init__(self, run: Path, out: Path, seed: int, truncation_psi: float, device: str) -> None:
        work, _ = restore_workspace(RunFolder.open(run), choose_device(device))
        weights = generator_of(work)
        self.labelled = Labelled(work, weights, seed, truncation_psi)
        self.known = KnownImages.of(RunFolder.open(weights.parents[1]))
        self.out = out

    def __call__(self, numbers: Sequence[int]) -> Done:
        """First and last (excluded) number to number, disagreement, whether a copy, of each."""
        told = []
        for pair in self.labelled.pairs(range(*numbers)):
            copy = bool(self.known.learned(pair.image))
            if not copy:
                write_image(self.out / "images" / _file(pair.number), pair.image)
                write_mask(self.out / "masks" / _file(pair.number), pair.mask)
            told.append((pair.number, pair.disagreement, copy))
        return Done(told)


def _file(number: int) -> str:
    return f"{number:06d}.png"
