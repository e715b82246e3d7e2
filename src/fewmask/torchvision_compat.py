"""Lets torchvision be imported beside a CPU-only torch.

PyPI's torchvision is built against CUDA torch. Beside a CPU build its compiled operators do not
load, and ``import torchvision`` (hence timm and segmentation_models_pytorch) dies with ``operator
torchvision::nms does not exist``, because it describes two operators that nobody declared.
Declaring them is enough: nothing in fewmask calls either.
"""

from __future__ import annotations

import functools
import importlib
import logging

import torch

log = logging.getLogger(__name__)

MISSING_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def ensure() -> None:
    """Import torchvision, declaring its two missing operators first if that is what it dies of.

    Call it before the first import of torchvision, timm or segmentation_models_pytorch. It acts
    at most once per process, and not at all where torchvision imports by itself. Any other failure
    of that import is passed on untouched.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        for name, schema in MISSING_SCHEMAS.items():
            torch.library.define(name, schema)
        importlib.import_module("torchvision")
        log.info("torchvision's compiled operators do not fit this torch; declared nms and qnms")
