"""Training samples: what a repeat, an epoch and a place in the order change."""

import numpy as np
import torch

from fewmask.data.loading import TrainingSet
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
