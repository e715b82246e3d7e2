"""Segmentation masks and a trained segmenter from images with few or no masks.

>>> import fewmask
>>> run = fewmask.tags("tiles/", preset="fast", class_name="landslide")    # doctest: +SKIP
>>> run.metrics["iou.pooled.landslide"]                                    # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewmask.api import Run, adapt, factory, resume_run, saliency, tags, train
    from fewmask.checking import check, mend
    from fewmask.errors import FewmaskError
    from fewmask.explaining import explain
    from fewmask.selection import select

__version__ = "0.1.0"
__all__ = [
    "FewmaskError",
    "Run",
    "__version__",
    "adapt",
    "check",
    "explain",
    "factory",
    "mend",
    "resume_run",
    "saliency",
    "select",
    "tags",
    "train",
]

_HOME = {
    "FewmaskError": "fewmask.errors",
    "Run": "fewmask.api",
    "adapt": "fewmask.api",
    "check": "fewmask.checking",
    "explain": "fewmask.explaining",
    "factory": "fewmask.api",
    "mend": "fewmask.checking",
    "resume_run": "fewmask.api",
    "saliency": "fewmask.api",
    "select": "fewmask.selection",
    "tags": "fewmask.api",
    "train": "fewmask.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import fewmask`` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'fewmask' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
