"""Find a layer, listen to it, and leave the network as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from fewmask.errors import UsageError


def find_layer(network: nn.Module, name: str | None) -> nn.Module:
    """The layer with this dotted name, or the last convolution.

    Args:
        network: Any network.
        name: As in ``network.named_modules()``, for example ``features.28``; None for the last
            ``nn.Conv2d`` in the order in which the layers were registered.

    Raises:
        UsageError: If there is no such layer; close names are listed.

    >>> find_layer(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), None)
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    layers = {key: layer for key, layer in network.named_modules() if key}
    if name is None:
        convolutions = [layer for layer in layers.values() if isinstance(layer, nn.Conv2d)]
        if convolutions:
            return convolutions[-1]
        raise UsageError.of(
            "CAM-LAYER",
            where="target_layer",
            found=f"{type(network).__name__} without any nn.Conv2d",
            expected="a network with a convolution",
            fix="name the layer whose output has the shape (N, C, h, w)",
        )
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
