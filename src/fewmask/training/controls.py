"""The same segmenter trained on true masks: on a few, for comparison, and on all of them."""

from __future__ import annotations

from collections.abc import Sequence

from fewmask.data.folder import DataFolder
from fewmask.errors import DataError
from fewmask.randomness import generator
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import fit_segmenter, true_targets
from fewmask.training.workspace import Workspace

BOTH = ("train", "val")
"""Parts to train on where nothing is chosen by the validation part."""


def no_masks(data: DataFolder) -> DataError:
    """The refusal of a training part without any mask."""
    return DataError.of(
        "NO-MASKS",
        where=data.root,
        found="no mask in the training part",
        expected="masks/ with the stems of the images",
        fix="add masks, or `fewmask tags` if there are image-level tags only",
    )


def known_empty_rows(work: Workspace, parts: Sequence[str] = BOTH) -> list[int]:
    """Training rows without any tag: they are all background, and their masks cost nothing.

    In a folder without tags there are none: nobody has said what is on an image.
    """
    return work.rows(*parts, tagged=False) if work.data.has_tags else []


def masked_rows(work: Workspace, parts: Sequence[str] = BOTH) -> list[int]:
    """The other training rows, as far as they have a true mask: each counts as one mask used."""
    empty = set(known_empty_rows(work, parts))
    return [
        row
        for row in work.rows(*parts)
        if row not in empty and work.data.samples[row].mask_path is not None
    ]


def few_masked_rows(work: Workspace, count: int, parts: Sequence[str] = BOTH) -> list[int]:
    """``count`` of :func:`masked_rows`, drawn by the run's seed."""
    masked = masked_rows(work, parts)
    order = generator(work.config.seed, "few masks", work.fold).permutation(len(masked))
    return sorted(masked[i] for i in order[:count])


def balanced_rows(work: Workspace, masked: Sequence[int], parts: Sequence[str] = BOTH) -> list[int]:
    """Masked rows, repeated until they stand for all that have a tag, and the empty ones.

    A training on few masks then sees as many negatives, and takes as many steps, as one on all
    images. Each repeat is augmented by itself.
    """
    empty = known_empty_rows(work, parts)
    repeats = max(1, round((len(work.rows(*parts)) - len(empty)) / max(1, len(masked))))
    return [*list(masked) * repeats, *empty]


def controls(work: Workspace, stage: Stage) -> None:
    """Train on each of ``controls_masks`` numbers of masks, and with ``controls_full`` on all."""
    masked = masked_rows(work)
    chosen = {
        f"masks-{count}": few_masked_rows(work, count)
        for count in work.config.controls_masks
        if count < len(masked)
    }
    if work.config.controls_full and masked:
        chosen["masks-all"] = masked
    for name, some in chosen.items():
        rows = balanced_rows(work, some)
        fit_segmenter(work, stage, true_targets(work, rows), rows, name)
    stage.write_json("controls.json", {name: len(some) for name, some in chosen.items()})
