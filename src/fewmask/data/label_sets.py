"""What the numbers in labelled street scenes mean: CamVid's, Cityscapes', or ids as they are.

Unlike in the folders of :mod:`fewmask.data.folder`, id 0 is a class like any other here, and pixels
that belong to none are ignored (255).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fewmask.conventions import IGNORE_INDEX


@dataclass(frozen=True)
class LabelSet:
    """Names of classes, and how masks store them.

    Attributes:
        names: Of the class ids 0, 1, ...
        id_of: Stored value to class id.
        ignored: Stored values that mean "do not judge this pixel", beside 255.
    """

    names: tuple[str, ...]
    id_of: Mapping[int, int]
    ignored: frozenset[int] = frozenset()

    @cached_property
    def lookup(self) -> np.ndarray:
        """(256,) uint8: stored value to class id, or 255."""
        table = np.full(256, IGNORE_INDEX, np.uint8)
        for stored, number in self.id_of.items():
            table[stored] = number
        return table

    def strangers(self, values: Sequence[int]) -> list[int]:
        """The stored values that are neither a class nor ignored."""
        return sorted(set(values) - set(self.id_of) - self.ignored - {IGNORE_INDEX})

    def decode(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) integer stored values to (H, W) uint8 ids; what is no class is 255."""
        return self.lookup[np.where((mask >= 0) & (mask < len(self.lookup)), mask, IGNORE_INDEX)]


def plain_ids(names: Sequence[str], ignored: Sequence[int] = ()) -> LabelSet:
    """Masks that store the class ids themselves.

    >>> labels = plain_ids(("sky", "road"), ignored=(2,))
    >>> labels.decode(np.array([[0, 1, 2, 255]])).tolist()
    [[0, 1, 255, 255]]
    """
    return LabelSet(tuple(names), {i: i for i in range(len(names))}, frozenset(ignored))


def label_set_as_dict(labels: LabelSet) -> dict[str, Any]:
    """For JSON.

    >>> read_label_set(label_set_as_dict(CITYSCAPES)) == CITYSCAPES
    True
    """
    return {
        "names": list(labels.names),
        "id_of": [[stored, number] for stored, number in labels.id_of.items()],
        "ignored": sorted(labels.ignored),
    }


def read_label_set(record: Mapping[str, Any]) -> LabelSet:
    """From :func:`label_set_as_dict`."""
    return LabelSet(tuple(record["names"]), dict(record["id_of"]), frozenset(record["ignored"]))


CAMVID = plain_ids(
    (
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
        "Pedestrian", "Bicyclist",
    ),
    ignored=(11,),
)  # fmt: skip
"""The 11 classes of CamVid as SegNet has them; 11 is Unlabelled.

Source: Brostow et al. 2009; Badrinarayanan et al. 2017.
"""

CITYSCAPES_TRAIN_IDS = plain_ids(
    (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    )
)  # fmt: skip
"""The 19 classes that Cityscapes is evaluated on, as ``labelTrainIds`` stores them.

Source: Cordts et al. 2016.
"""

CITYSCAPES = LabelSet(
    CITYSCAPES_TRAIN_IDS.names,
    {
        stored: number
        for number, stored in enumerate(
            (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
        )
    },
    frozenset({0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30}),
)
"""The same classes as ``labelIds`` stores them; the others of its 34 are ignored."""
