"""Training samples in an order that is a function of (seed, epoch), with or without workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fewmask.data.transforms import Augmentation, to_unit
from fewmask.randomness import derive_seed, generator


class Sparse:
    """Rows of a large array of which only some are in memory, under their own numbers.

    Args:
        array: (M, ...) the rows that are there.
        rows: Their M numbers, each once.
        length: Of the large array.

    >>> some = Sparse(np.array([[5], [6]]), [7, 2], length=9)
    >>> len(some), some.ndim, some[2].tolist()
    (9, 2, [6])
    """

    def __init__(self, array: np.ndarray, rows: Sequence[int], length: int) -> None:
        self.array, self.ndim, self._length = array, array.ndim, length
        self._place_of = {row: place for place, row in enumerate(rows)}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> np.ndarray:
        return self.array[self._place_of[row]]


class Stacked:
    """Several arrays as one, along the first axis; none is copied, so they may be memory-mapped.

    Args:
        *arrays: One or more, equal in all axes but the first.

    >>> both = Stacked(np.array([[1], [2]]), np.array([[3]]))
    >>> len(both), both.ndim, both[2].tolist()
    (3, 2, [3])
    """

    def __init__(self, *arrays: np.ndarray | Sparse) -> None:
        self.arrays = arrays
        self.ndim = arrays[0].ndim
        self._ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        which = int(np.searchsorted(self._ends, row, side="right"))
        array = self.arrays[which]
        return array[row - self._ends[which] + len(array)]


Rows = np.ndarray | Sparse | Stacked


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Images and their targets, augmented; indexed by (epoch, position).

    Args:
        images: (N, H, W, 3) uint8, in memory or memory-mapped.
        targets: (N, H, W) uint8 masks with 255 = ignore, or (N, K) tags.
        rows: Rows of both arrays that belong to the set. One that stands several times is
            augmented differently each time.
        augmentation: Applied to image and mask together.
        seed: The run's seed.
        name: What is trained, so that two trainings of a run draw differently.
    """

    def __init__(
        self,
        images: Rows,
        targets: Rows,
        rows: Sequence[int],
        augmentation: Augmentation,
        *,
        seed: int,
        name: str,
    ) -> None:
        self.images, self.targets, self.rows = images, targets, list(rows)
        self.augmentation, self.seed, self.name = augmentation, seed, name
        seen: Counter[int] = Counter()
        self.repeats = []  # of each position: how often its row stood before
        for row in self.rows:
            self.repeats.append(seen[row])
            seen[row] += 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) float32 in [0, 1] and its int64 mask (H, W) or float32 tags (K,)."""
        epoch, position = key
        row = self.rows[position]
        names: list[str | int] = [self.seed, self.name, "augment", epoch, row]
        if self.repeats[position]:
            names.append(self.repeats[position])
        image = to_unit(self.images[row])
        if self.targets.ndim == 2:
            image, _ = self.augmentation(image, None, *names)
            return image, torch.from_numpy(self.targets[row].astype(np.float32))
        mask = torch.from_numpy(np.array(self.targets[row]))
        image, changed = self.augmentation(image, mask, *names)
        return image, mask.long() if changed is None else changed.long()


Own = Callable[[list[tuple[int, int]]], list[tuple[int, int]]]
"""What one of several processes loads of a batch."""


class StepOrder(Sampler[list[tuple[int, int]]]):
    """The batch of every step from ``first_step`` on, as (epoch, position) pairs.

    Each epoch is a permutation drawn from (seed, name, epoch). The last, incomplete batch of an
    epoch is left out unless it is the only one. With ``shares`` there are no epochs: each batch is
    drawn anew from (seed, name, step), no position twice in it, and the step stands for the epoch.
    ``own`` leaves of each batch what one of several processes is to load.

    >>> order = StepOrder(5, 2, seed=0, name="x", total_steps=4)
    >>> batches = list(order)
    >>> [len(batch) for batch in batches], [batch[0][0] for batch in batches]
    ([2, 2, 2, 2], [0, 0, 1, 1])
    >>> list(StepOrder(5, 2, seed=0, name="x", total_steps=4, first_step=3)) == batches[3:]
    True
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        name: str,
        total_steps: int,
        first_step: int = 0,
        shares: np.ndarray | None = None,
        own: Own = list,
    ) -> None:
        self.shares, self.own = shares, own
        self.size, self.batch_size = size, batch_size
        self.seed, self.name = seed, name
        self.total_steps, self.first_step = total_steps, first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return map(self.own, self._whole_batches())

    def _whole_batches(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = steps_per_epoch(self.size, self.batch_size)
        for step in range(self.first_step, self.total_steps):
            if self.shares is not None:
                count = images_per_step(self.size, self.batch_size, self.shares)
                draw = generator(self.seed, self.name, "draw", step)
                drawn = draw.choice(self.size, count, replace=False, p=self.shares)
                yield [(step, int(position)) for position in drawn]
                continue
            epoch, place = divmod(step, per_epoch)
            order = generator(self.seed, self.name, "order", epoch).permutation(self.size)
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield [(epoch, int(position)) for position in chosen]

    def __len__(self) -> int:
        return self.total_steps - self.first_step


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Whole batches in an epoch, at least one."""
    return max(1, size // batch_size)


def images_per_step(size: int, batch_size: int, shares: np.ndarray | None = None) -> int:
    """Images in a batch; the same in every step of a training."""
    return min(batch_size, size if shares is None else int(np.count_nonzero(shares)))


def step_loader(
    dataset: TrainingSet,
    batch_size: int,
    *,
    total_steps: int,
    first_step: int = 0,
    workers: int = 0,
    shares: np.ndarray | None = None,
    own: Own = list,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all steps from ``first_step`` on; the same for any number of workers.

    Args:
        dataset: Images and targets.
        batch_size: Images a step.
        total_steps: Length of the training.
        first_step: Where to begin.
        workers: Loader processes.
        shares: (len(dataset),) float that sums to 1: how likely each position is to be drawn first.
            Within a batch no position comes twice, which evens the shares out a little where few
            have most of them. None takes each position once an epoch.
        own: What this process loads of a batch; default all of it.

    Nothing is drawn from torch's global generator: the step in which a loader starts draws as it
    would without.
    """
    order = StepOrder(
        len(dataset),
        batch_size,
        seed=dataset.seed,
        name=dataset.name,
        total_steps=total_steps,
        first_step=first_step,
        shares=shares,
        own=own,
    )
    draws = torch.Generator().manual_seed(derive_seed(dataset.seed, dataset.name, "loader"))
    return iter(DataLoader(dataset, batch_sampler=order, num_workers=workers, generator=draws))
