"""Saliency maps: on which pixels of the image the classifier's score depends.

========================  =================================================  =====================
method                    map of each channel, before its scale              source
========================  =================================================  =====================
``plain``                 g = ∂f_c/∂x                                        Simonyan 2014
``deconv``                g, ReLUs pass what is positive of a gradient,      Zeiler & Fergus 2014
                          whatever they were given
``guided``                g, ReLUs pass what is positive of a gradient       Springenberg 2015
                          where they were given something positive
``smoothgrad``            mean of g at x + n, n ~ N(0, σ²), σ a share of     Smilkov 2017
                          the image's range
``integrated_gradients``  (x − x_b) ∘ mean of g on the way from x_b to x     Sundararajan 2017
``guided_grad_cam``       guided ∘ Grad-CAM, enlarged to the image           Selvaraju 2017, 3.2
========================  =================================================  =====================

x is the image, f_c the logit of the class. A pixel's value is the largest absolute value of its
channels. A rule changes how ReLUs pass a gradient back, wherever and however the network calls
them: as a module or a function, several times, in place. ``docs/attribution.md`` says what the
rules mean for activations that are not ReLUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fewmask.attribution.cam import compute_cam
from fewmask.attribution.hooks import eval_mode, find_layer
from fewmask.attribution.maps import (
    class_of_each_image,
    min_max,
    one_for_each,
    require_choice,
    require_count,
    require_finite,
    require_images,
)
from fewmask.attribution.methods import SALIENCY
from fewmask.errors import UsageError

METHODS = SALIENCY
RULES = ("plain", "deconv", "guided")
Rule = Literal["plain", "deconv", "guided"]


def compute_saliency(
    network: nn.Module,
    image: Tensor,
    *,
    class_index: int | Tensor | None = None,
    method: str = "plain",
    target_layer: nn.Module | None = None,
    baseline: Tensor | None = None,
    steps: int = 50,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    batch_size: int = 32,
    normalise: bool = True,
) -> Tensor:
    """Saliency maps of a batch of images; see the module's docstring for the formulas.

    The network runs in evaluation mode and is left as it was found, also on error. Works under
    ``torch.no_grad`` and with every parameter frozen. A map does not depend on the other images.

    Args:
        network: Image (N, 3, H, W) to logits (N, num_outputs), one output or more.
        image: (N, 3, H, W) float, in the range that the network was trained on.
        class_index: Which logit, for all images or one for each (N,), int64; None, as published, is
            each image's highest.
        method: One of ``METHODS``.
        target_layer: Guided Grad-CAM only: the layer of its Grad-CAM; None is the one that is
            pooled, see :func:`fewmask.attribution.hooks.find_layer`.
        baseline: Integrated gradients only: x_b, broadcast to the image; None is zeros.
        steps: Integrated gradients only: points of the Gauss-Legendre rule on the way.
        samples: SmoothGrad only: noisy copies of each image.
        noise: SmoothGrad only: σ as a fraction of max x − min x.
        seed: SmoothGrad only: draws the noise, the same for every image.
        batch_size: Images that pass through the network at one time.
        normalise: Min-max each map to [0, 1], a constant map to zeros; otherwise in [0, inf).

    Returns:
        (N, H, W) float32.

    Raises:
        UsageError: A setting does not fit the network; or a rule finds nothing in it to rule.
        NumericalError: A gradient is not finite.

    Source: the papers in the module's docstring.
    Differs: integrated gradients and guided Grad-CAM leave open how channels become one; here as in
        ``plain``, by the largest absolute value.

    >>> network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    ...                         nn.Flatten(), nn.Linear(1, 1))
    >>> _ = nn.init.ones_(network[0].weight), nn.init.ones_(network[4].weight)
    >>> image = torch.tensor([[-1.0, 1.0], [2.0, -4.0]]).expand(1, 3, 2, 2)
    >>> compute_saliency(network, image)
    tensor([[[0., 1.],
             [1., 0.]]])
    """
    require_choice("method", method, METHODS)
    for name, count in (("steps", steps), ("samples", samples), ("batch_size", batch_size)):
        require_count(name, count)
    require_images(image)
    with torch.inference_mode(False):
        image = image.clone() if image.is_inference() else image.detach()
        index = class_index
        if index is None and method in {"smoothgrad", "integrated_gradients", "guided_grad_cam"}:
            index = predicted_class(network, image, batch_size)
        rule: Rule = "guided" if method == "guided_grad_cam" else "plain"
        if method in RULES:
            rule = method  # type: ignore[assignment]
        copies: Iterator[tuple[Tensor, float]] = iter([(image, 1.0)])
        if method == "smoothgrad":
            copies = _noisy(image, samples, noise, seed)
        elif method == "integrated_gradients":
            start = torch.zeros_like(image) if baseline is None else baseline.to(image)
            copies = _on_the_way(image, start, steps)
        total = torch.zeros_like(image)
        for copy, weight in copies:
            total += weight * input_gradient(
                network, copy, class_index=index, rule=rule, batch_size=batch_size
            )
        if method == "integrated_gradients":
            total *= image - start
        saliency = total.abs().amax(1)
        if method == "guided_grad_cam":
            layer = target_layer or find_layer(network, None, image[:1])
            assert index is not None  # asked for above
            each = one_for_each(index, image)
            maps = [
                compute_cam(network, part, target_layer=layer, class_index=own, normalise=False)
                for part, own in zip(image.split(batch_size), each.split(batch_size), strict=True)
            ]
            saliency *= torch.cat(maps)
        return (min_max(saliency) if normalise else saliency).float()


def input_gradient(
    network: nn.Module,
    image: Tensor,
    *,
    class_index: int | Tensor | None = None,
    rule: Rule = "plain",
    batch_size: int = 32,
) -> Tensor:
    """∂f_c/∂x under one of the three rules.

    Args:
        network: As in :func:`compute_saliency`.
        image: As in :func:`compute_saliency`.
        class_index: As in :func:`compute_saliency`.
        rule: ``plain``, ``deconv`` or ``guided``.
        batch_size: Images that pass through the network at one time.

    Returns:
        (N, 3, H, W), of the image's type.

    Raises:
        UsageError: The logit does not depend on the image, the class is not there, or the rule
            finds no activation.
        NumericalError: The gradient is not finite.
    """
    require_choice("rule", rule, RULES)
    index = None if class_index is None else one_for_each(class_index, image)
    gradients = []
    with torch.inference_mode(False), eval_mode(network):
        network.requires_grad_(False)
        for first in range(0, len(image), batch_size):
            part = slice(first, first + batch_size)
            pixels = image[part].detach().clone().requires_grad_()
            ruled = ReluRule(rule) if rule != "plain" else nullcontext()
            with torch.enable_grad(), ruled:
                logits = network(pixels)
            own = class_of_each_image(None if index is None else index[part], logits, pixels)
            if isinstance(ruled, ReluRule):
                ruled.require_met(network)
            score = logits.gather(1, own[:, None]).sum()
            if not score.requires_grad:
                raise UsageError.of(
                    "SALIENCY-NETWORK",
                    where=type(network).__name__,
                    found="a logit that does not depend on the image, or is detached from it",
                    expected="a network through which a gradient can pass",
                    fix="use method 'score_cam', which needs no gradient",
                )
            gradients.append(torch.autograd.grad(score, pixels)[0])
    return require_finite("the gradient", torch.cat(gradients))


@torch.no_grad()
def predicted_class(network: nn.Module, image: Tensor, batch_size: int = 32) -> Tensor:
    """(N,) int64: the highest logit of each image (N, 3, H, W), in evaluation mode."""
    with eval_mode(network):
        parts = [class_of_each_image(None, network(x), x) for x in image.split(batch_size)]
    return torch.cat(parts)


def _noisy(image: Tensor, samples: int, noise: float, seed: int) -> Iterator[tuple[Tensor, float]]:
    """Copies with noise, and the weight of each."""
    low, high = (f(image, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    draw = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        normal = torch.randn(image.shape[1:], generator=draw).to(image)
        yield image + noise * (high - low) * normal, 1 / samples


def _on_the_way(image: Tensor, start: Tensor, steps: int) -> Iterator[tuple[Tensor, float]]:
    """Points between start and image, and the weight of each, which sum to 1."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        yield start + float(place) * (image - start), float(weight)


# ------------------------------------------------------------------------------ the rules


class ReluRule(TorchFunctionMode):
    """While it is active, rectifiers pass gradients back by a rule; what they return stays.

    Rectifiers are ReLU, ReLU6 and the smooth ones (SiLU, Hardswish, GELU, Mish, ELU and its kin,
    leaky ReLU). *deconv* passes the positive part of a gradient, whatever the rectifier was given;
    *guided* passes the positive part times the rectifier's own slope, where it was given something
    positive.

    Attributes:
        met: How many calls were ruled.

    Source: Springenberg et al. 2015, figure 1.
    Differs: the paper knows ReLU alone, for which both are as published.
    """

    def __init__(self, rule: Literal["deconv", "guided"]) -> None:
        super().__init__()
        self.rule, self.met = rule, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in the place of every function of it."""
        call = _rectifier(func, args, kwargs or {})
        if call is None:
            return func(*args, **(kwargs or {}))
        self.met += 1
        x, apply, inplace = call
        return _Ruled.apply(x, apply, inplace, self.rule == "guided")

    def require_met(self, network: nn.Module) -> None:
        """Refuse a network without any call to rule: its map would be the plain one."""
        if not self.met:
            raise UsageError.of(
                "SALIENCY-RULE",
                where=type(network).__name__,
                found="no ReLU, ReLU6, SiLU, Hardswish, GELU, Mish, ELU or leaky ReLU that is seen "
                "when it runs (compiled or scripted code hides them)",
                expected=f"one at least, for {self.rule!r} to mean something",
                fix="use the network as it was before compiling, or method 'plain'",
            )


class _Ruled(torch.autograd.Function):
    """A rectifier forward, a rule backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, apply: Callable[[Tensor], Tensor], inplace: bool, guided: bool
    ) -> Tensor:
        ctx.rectify = apply
        if guided:
            ctx.save_for_backward(x.clone() if inplace else x)
        result = apply(x)
        if not inplace:
            return result
        ctx.mark_dirty(x)
        return x.copy_(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradient.clamp(min=0)
        if ctx.saved_tensors:
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                own = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(ctx.rectify(own), own, gradient)
            gradient = gradient.masked_fill(x <= 0, 0)
        return gradient, None, None, None


_FUNCTIONS = {
    getattr(functional, name): signature(getattr(functional, name))
    for name in ("relu", "relu6", "hardtanh", "silu", "hardswish", "mish", "elu", "selu", "celu",
                 "leaky_relu")
}  # fmt: skip
"""Of ``torch.nn.functional``, which take ``inplace``."""
_BUILT_IN = {
    torch.relu: False, Tensor.relu: False, functional.gelu: False, functional.relu_: True,
    torch.relu_: True, Tensor.relu_: True,
}  # fmt: skip
"""Others, and whether they work in place."""


def _rectifier(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Callable[[Tensor], Tensor], bool] | None:
    """(input, the function of it alone and out of place, whether in place), if it is one."""
    if func in _BUILT_IN:
        first, *rest = args or (kwargs["input"],)
        more = {key: value for key, value in kwargs.items() if key != "input"}
        if _BUILT_IN[func]:
            return first, torch.relu, True
        return first, lambda x: func(x, *rest, **more), False
    if func not in _FUNCTIONS:
        return None
    given = _FUNCTIONS[func].bind(*args, **kwargs).arguments
    inplace, x = given.pop("inplace", False), given.pop("input")
    if func is functional.hardtanh and given.get("min_val", -1.0) != 0:
        return None  # no rectifier
    return x, lambda x: func(x, **given), inplace
