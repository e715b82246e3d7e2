"""Find a layer, listen to it, and leave the network as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from fewmask.errors import UsageError


def find_layer(
    network: nn.Module, name: str | None, image: Tensor | None = None, *, coarsest: bool = False
) -> nn.Module:
    """The layer with this dotted name, or the one whose output is pooled to a vector.

    Args:
        network: Any network.
        name: As in ``network.named_modules()``, for example ``features.28``; None runs the network
            and takes the last layer, pooling apart, whose output is still a map. Activation,
            normalisation and residual additions are behind it, however they were registered.
        image: (N, 3, H, W) to run the network on, by default black, of 224 px. Where a pooled
            layer is looked for, it runs on a black square as large as the longer side.
        coarsest: Take the last of the layers with the smallest maps instead, where nothing is
            pooled: of a segmenter the deepest one of the part called ``encoder``, if there is one.

    Raises:
        UsageError: If there is no such layer; close names are listed.

    >>> find_layer(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), None)
    ReLU()
    """
    layers = {key: layer for key, layer in network.named_modules() if key}
    if name is None:
        return layers[(_coarsest_layer if coarsest else _pooled_layer)(network, image)]
    if name in layers:
        return layers[name]
    close = get_close_matches(name, layers, n=5, cutoff=0.4)
    raise UsageError.of(
        "CAM-LAYER",
        where="target_layer",
        found=repr(name),
        expected=f"the name of a layer of {type(network).__name__}",
        fix=f"use one of {', '.join(close or list(layers)[-5:])}",
    )


def layers_with_maps(network: nn.Module, image: Tensor) -> list[str]:
    """Names of the layers whose output is (N, C, h, w) with h · w > 1, the last to run last."""
    return [name for name, shape in _shapes(network, image) if _is_map(shape)]


def _coarsest_layer(network: nn.Module, image: Tensor | None) -> str:
    shapes = _shapes(network, _black(network) if image is None else image)
    maps = [(shape[2] * shape[3], name) for name, shape in reversed(shapes) if _is_map(shape)]
    names = (name for name, _ in network.named_modules())
    encoder = next((name for name in names if f".{name}".endswith(".encoder")), "")
    maps = [found for found in maps if f"{found[1]}.".startswith(f"{encoder}.")] or maps
    if not maps:
        raise UsageError.of(
            "CAM-LAYER",
            where="target_layer",
            found=f"{type(network).__name__}, no layer of which returns maps",
            expected="a network with outputs of the shape (N, C, h, w)",
            fix="use a method that needs no layer, such as 'guided'",
        )
    return min(maps, key=lambda found: found[0])[1]


def _black(network: nn.Module) -> Tensor:
    example = next(network.parameters(), torch.zeros(0))
    return torch.zeros(1, 3, 224, 224, device=example.device, dtype=example.dtype)


def _pooled_layer(network: nn.Module, image: Tensor | None) -> str:
    if image is None:
        image = _black(network)
    image = image.new_zeros((1, image.shape[1], *2 * (max(image.shape[2:]),)))
    pooling = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
    layers = dict(network.named_modules())
    found = f"{type(network).__name__}, which pools no output of the shape (N, C, h, w)"
    try:
        shapes = _shapes(network, image)
    except (RuntimeError, AssertionError, ValueError) as error:  # other channels, another size
        found = f"{type(network).__name__}, which fails on {tuple(image.shape)}: {error}"
        shapes = []
    for name, shape in reversed(shapes):
        is_vector = len(shape) == 2 or shape[2:] == (1, 1)
        if not is_vector and not isinstance(layers[name], pooling):
            if _is_map(shape) and shape[-2] == shape[-1]:  # as square as the image: no tokens
                return name
            break
    raise UsageError.of(
        "CAM-LAYER",
        where="target_layer",
        found=found,
        expected="a network that pools maps to a vector, or the name of a layer",
        fix="name the layer whose output has the shape (N, C, h, w)",
    )


def _shapes(network: nn.Module, image: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Shape of what each layer returns for an image, if one tensor; the last to finish last."""
    found: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.append((name, tuple(output.shape)))

        return keep

    handles = [
        layer.register_forward_hook(note(key)) for key, layer in network.named_modules() if key
    ]
    try:
        with torch.no_grad(), eval_mode(network):
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1


@dataclass(slots=True, eq=False)
class Capture:
    """What passed through a layer; both are None until it has.

    Attributes:
        activation: (N, C, h, w), the layer's output of its last call, safe from in-place changes.
        gradient: (N, C, h, w), of whatever was differentiated with respect to ``activation``.
    """

    activation: Tensor | None = None
    gradient: Tensor | None = None


@contextmanager
def capture(layer: nn.Module, *, gradients: bool = False) -> Iterator[Capture]:
    """Record a layer's output, and the gradient that comes back to it, while the block runs.

    The output is copied, because VGG and others overwrite it by an in-place ReLU. With
    ``gradients`` the graph starts anew at the layer: its parameters, and those before it, get no
    gradient, and all may be frozen. Differentiate by ``torch.autograd.grad(score,
    record.activation)``, which leaves every parameter's ``.grad`` alone.

    Args:
        layer: A layer whose output is one tensor (N, C, h, w).
        gradients: Also record the gradient.

    Yields:
        The record. The hook is gone when the block ends, also by an error.

    Raises:
        UsageError: When the layer runs, if its output is not of that kind.
    """
    record = Capture()

    def keep_gradient(gradient: Tensor) -> None:
        record.gradient = gradient.detach()

    def keep_activation(_layer: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise UsageError.of(
                "CAM-LAYER",
                where="target_layer",
                found=f"{type(layer).__name__} with output {describe(output)}",
                expected="a layer whose output has the shape (N, C, h, w)",
                fix="name a convolution, or the activation behind it",
            )
        record.activation = output.detach().clone()
        if not gradients:
            return None
        record.activation.requires_grad_()
        record.activation.register_hook(keep_gradient)
        return record.activation.clone()

    handle = layer.register_forward_hook(keep_activation)
    try:
        yield record
    finally:
        handle.remove()


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Run a block with the network in evaluation mode and leave no trace in it, also on error.

    Every module gets its own training flag back, every parameter its ``requires_grad`` and its
    ``.grad``, whatever the block did to them. Inside the block every ``.grad`` starts as None.
    """
    flags = [(module, module.training) for module in network.modules()]
    parameters = [(each, each.requires_grad, each.grad) for each in network.parameters()]
    try:
        for parameter, _, _ in parameters:
            parameter.grad = None
        network.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


def describe(output: Any) -> str:
    """What a network or layer returned, for a message."""
    if isinstance(output, Tensor):
        return f"of the shape {tuple(output.shape)}"
    return f"of the type {type(output).__name__}"
