"""Does pipeline ``tags`` see the object, or only that images with it are sharper or blurrier?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewmask.metrics.sharpness import auc, mean_rank_correlation, sharpness
from fewmask.training.workspace import Workspace


def checks(works: Sequence[Workspace]) -> dict[str, Any]:
    """Sharpness against tags and against the CAM, over the test images of all folds.

    Images are taken at the working size, as the classifier sees them. No mask is needed.

    Returns:
        ``sharpness.auc.<class>``: probability that an image with the tag is sharper than one
        without it. ``sharpness.cam_correlation.<class>``: rank correlation of CAM and local
        sharpness, mean over the test images that have the tag and a CAM;
        ``sharpness.cam_images.<class>`` is their number. Empty without evidence.
    """
    if any("evidence" not in work.stages for work in works):
        return {}
    tested = [(work, row) for work in works for row in work.rows("test")]
    values = [sharpness(np.asarray(work.images[row])) for work, row in tested]
    cams = {
        work.folder: np.load(work.stages["evidence"].path / "cams.npy", mmap_mode="r")
        for work in works
    }
    found: dict[str, Any] = {}
    for k, name in enumerate(works[0].class_names):
        tagged = [bool(work.tags[row, k]) for work, row in tested]
        chosen = [pair for pair, has_tag in zip(tested, tagged, strict=True) if has_tag]
        correlation, count = mean_rank_correlation(
            [cams[work.folder][row, k].astype(np.float32) for work, row in chosen],
            [np.asarray(work.images[row]) for work, row in chosen],
        )
        found |= {
            f"sharpness.auc.{name}": auc(values, tagged),
            f"sharpness.cam_correlation.{name}": correlation,
            f"sharpness.cam_images.{name}": count,
        }
    return found
