"""Training samples: what a repeat, an epoch and a place in the order change."""

import numpy as np
import pytest
import torch

from fewmask.data.loading import StepOrder, TrainingSet
from fewmask.data.transforms import Augmentation

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
TARGETS = np.zeros((3, 16, 16), np.uint8)


def training_set(rows):
    augmentation = Augmentation(flips=True, mirror=True, zoom=0.3, colour=0.3)
    return TrainingSet(IMAGES, TARGETS, rows, augmentation, seed=0, name="x")


def test_a_row_that_stands_several_times_is_augmented_differently_each_time():
    repeated = training_set([1] * 8)
    images = {repeated[0, position][0].numpy().tobytes() for position in range(8)}
    assert len(images) == 8


def test_a_row_that_stands_once_does_not_depend_on_its_place_or_its_neighbours():
    alone, among = training_set([2]), training_set([0, 0, 1, 2])
    for epoch in (0, 5):
        assert torch.equal(alone[epoch, 0][0], among[epoch, 3][0])
    assert not torch.equal(alone[0, 0][0], alone[1, 0][0])


class TestShares:
    shares = np.array([0.0, 0.1, 0.2, 0.7])

    def order(self, first_step=0, total=3000):
        return StepOrder(4, 2, seed=0, name="x", total_steps=total, first_step=first_step,
                         shares=self.shares)  # fmt: skip

    def test_positions_come_as_often_as_asked_and_never_twice_in_a_batch(self):
        batches = list(self.order())
        assert all(len({p for _, p in batch}) == 2 for batch in batches)
        first = np.bincount([batch[0][1] for batch in batches], minlength=4) / len(batches)
        assert first == pytest.approx(self.shares, abs=0.03)

    def test_a_resumed_training_draws_the_same(self):
        assert list(self.order(first_step=7, total=20)) == list(self.order(total=20))[7:]

    def test_each_step_augments_anew(self):
        assert [batch[0][0] for batch in self.order(total=5)] == [0, 1, 2, 3, 4]

    def test_a_batch_holds_no_more_than_there_is(self):
        order = StepOrder(3, 3, seed=0, name="x", total_steps=1, shares=np.array([0.5, 0.5, 0.0]))
        assert len(next(iter(order))) == 2
