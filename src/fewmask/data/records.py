"""What a data folder consists of, once it is understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from fewmask.data.label_sets import LabelSet
from fewmask.data.mask_encoding import MaskEncoding

Layout = Literal["folders", "tags.csv", "images", "domains"]


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it.

    Attributes:
        id: Path below the data root without suffix, for example ``positive/df001``; unique.
        image_path: The image.
        mask_path: Its mask, if there is one.
        tags: Names of the classes on it; empty for a negative.
        group: Samples of one group (patient, scene, county) are never split apart.
    """

    id: str
    image_path: Path
    mask_path: Path | None
    tags: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class DataFolder:
    """A user's data.

    Attributes:
        root: The folder; read only.
        samples: Sorted by id.
        class_names: The classes; class id = position + 1, or position where there is no background.
        layout: How the folder is arranged.
        mask_encoding: What the masks' values mean; None without masks.
        has_background: Whether id 0 is what belongs to none of the classes.
        class_colours: Of the classes, such as ``#1f77b4`` or empty; without any, none.
        label_sets: For ``domains``, in place of an encoding: by the first part of the samples' ids.
    """

    root: Path
    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    layout: Layout
    mask_encoding: MaskEncoding | None
    has_background: bool = True
    class_colours: tuple[str, ...] = ()
    label_sets: Mapping[str, LabelSet] = field(default_factory=dict)

    def encoding_of(self, sample: Sample) -> MaskEncoding | LabelSet | None:
        """What the values of a sample's mask mean."""
        return self.label_sets.get(sample.id.split("/")[0], self.mask_encoding)

    @property
    def has_tags(self) -> bool:
        """Whether an image without a tag is known to be empty."""
        return self.layout in {"folders", "tags.csv"}

    @property
    def num_classes(self) -> int:
        """Number of class ids, the background's included."""
        return len(self.class_names) + self.has_background

    def tag_matrix(self) -> np.ndarray:
        """``(N, K)`` bool: which of the K classes is on which of the N samples."""
        rows = [[name in sample.tags for name in self.class_names] for sample in self.samples]
        return np.array(rows, dtype=bool).reshape(len(self.samples), len(self.class_names))
