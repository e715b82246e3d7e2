"""Class activation maps: which pixels made the classifier say so.

================  =====================================================  =====================
method            map, before up-sampling to the image's size            source
================  =====================================================  =====================
``cam``           ReLU(Σ_k W[c, k] A_k), W the last linear layer         Zhou 2016, eq. 2
``grad_cam``      ReLU(Σ_k mean_ij(g_k) A_k), g = ∂f_c/∂A                Selvaraju 2017, eq. 1-2
``grad_cam_pp``   ReLU(Σ_k (Σ_ij α_k ReLU(g_k)) A_k),                    Chattopadhay 2018,
                  α_k = g_k² / (2 g_k² + g_k³ Σ_ab A_k)                  section 3, eq. 19
``layer_cam``     ReLU(Σ_k ReLU(g_k) A_k), pixel by pixel                Jiang 2021
``score_cam``     ReLU(Σ_k (f_c(X ∘ H_k) − f_c(X_b)) A_k),               Wang 2020, section 3
                  H_k = s(Up(A_k)), s = min-max per map
================  =====================================================  =====================

A is the output of the target layer (N, C, h, w), f_c the logit of the class, Up bilinear with half-
pixel centres. ``docs/attribution.md`` says where two well-known packages differ from this, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from fewmask.attribution.hooks import (
    Capture,
    capture,
    eval_mode,
    find_layer,
    layers_with_maps,
)
from fewmask.attribution.maps import (
    class_of_each_image,
    min_max,
    require_choice,
    require_count,
    require_finite,
    require_images,
)
from fewmask.attribution.methods import CAMS
from fewmask.attribution.score_cam import MaskScores, channel_masks, resize, score_weights
from fewmask.errors import UsageError

__all__ = (
    "METHODS",
    "WEIGHTINGS",
    "Capture",
    "capture",
    "compute_cam",
    "eval_mode",
    "find_layer",
    "multi_scale_cam",
    "require_pooled",
)

METHODS = CAMS
WEIGHTINGS = ("cic", "softmax", "class_softmax")
VIEWS = {
    "single": ((0, False),),
    "mirror": ((0, False), (0, True)),
    "dihedral": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}
"""Quarter turns and mirroring of each view of :func:`multi_scale_cam`."""
_GRADIENT_METHODS = frozenset({"grad_cam", "grad_cam_pp", "layer_cam"})


def compute_cam(
    network: nn.Module,
    image: Tensor,
    *,
    target_layer: nn.Module,
    class_index: int | Tensor | None,
    method: str = "grad_cam",
    weighting: str = "cic",
    baseline: Tensor | None = None,
    mask_batch_size: int = 64,
    max_masks: int | None = None,
    normalise: bool = True,
) -> Tensor:
    """Class activation maps of a batch of images; see the module's docstring for the formulas.

    The network runs in evaluation mode and is left as it was found: training flags, hooks and
    gradients, also on error. Works under ``torch.no_grad`` and with every parameter frozen.

    Args:
        network: Image (N, 3, H, W) to logits (N, num_outputs), one output or more.
        image: (N, 3, H, W) float, in the range that the network was trained on.
        target_layer: A layer of the network, see :func:`find_layer`. For ``cam`` it must be the
            one that is average-pooled into the last ``nn.Linear``. Grad-CAM++ was derived for
            non-negative activations: give it the layer behind the ReLU.
        class_index: Which logit, for all images or one for each (N,), int64; None is each image's
            highest.
        method: One of ``METHODS``.
        weighting: Score-CAM only: ``cic``, the increase of the logit over the baseline; ``softmax``
            of the masked images' logits over the channels; ``class_softmax`` over the classes.
        baseline: Score-CAM only: X_b, broadcast to the image; None is zeros.
        mask_batch_size: Score-CAM only: masked images that exist at one time, over all images.
        max_masks: Score-CAM only: score this many k-means centroids of each image's masks in the
            place of all; a channel then has the weight of its centroid. None scores all.
        normalise: Min-max each map to [0, 1], a constant map to zeros; otherwise the map after
            its ReLU, in [0, inf).

    Returns:
        (N, H, W) float32, at the size of the image.

    Raises:
        UsageError: If a setting, the layer or ``class_index`` does not fit the network; if the
            layer's output is a single pixel.
        NumericalError: If the activation, the weights or the map are not finite.

    Source: the papers in the module's docstring.
    Differs: Grad-CAM++ leaves out exp(f_c), one positive factor per image, which min-max cancels.
        Score-CAM's masks that are constant, up to rounding, carry no weight; ``max_masks`` is ours.

    >>> network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1),
    ...                         nn.Flatten(), nn.Linear(1, 1))
    >>> _ = nn.init.ones_(network[0].weight), nn.init.ones_(network[3].weight)
    >>> image = torch.tensor([[0.0, 1.0], [2.0, 4.0]]).expand(1, 3, 2, 2)
    >>> compute_cam(network, image, target_layer=network[0], class_index=0)
    tensor([[[0.0000, 0.2500],
             [0.5000, 1.0000]]])
    """
    require_choice("method", method, METHODS)
    require_choice("weighting", weighting, WEIGHTINGS)
    require_count("mask_batch_size", mask_batch_size)
    require_count("max_masks", 1 if max_masks is None else max_masks)
    require_images(image)
    needs_gradient = method in _GRADIENT_METHODS
    with torch.inference_mode(False), eval_mode(network):
        image = image.clone() if image.is_inference() else image.detach()
        with capture(target_layer, gradients=needs_gradient) as record:
            with torch.set_grad_enabled(needs_gradient):
                logits = network(image)
            index = class_of_each_image(class_index, logits, image)
            gradient = _gradient_of(logits, index, record) if needs_gradient else None
        activation = require_finite("the target layer's output", _activation_of(record))
        _require_pixels(activation, network, image)
        with torch.no_grad():
            if method == "score_cam":
                masks = channel_masks(activation, image.shape[-2:], mask_batch_size, max_masks)
                as_prob = weighting == "class_softmax"
                scores = MaskScores(network, image, index, mask_batch_size, as_prob)
                weights = score_weights(scores, masks, baseline, weighting=weighting)
            elif gradient is None:
                weights = _linear_weights(network, activation, logits, index)
            else:
                weights = _gradient_weights(method, activation, gradient)
            cam = relu((weights * activation).sum(1, keepdim=True))  # (N, 1, h, w)
            cam = require_finite("the map", resize(cam, image.shape[-2:])[:, 0])
            return (min_max(cam) if normalise else cam).float()


@torch.no_grad()
def require_pooled(network: nn.Module, image: Tensor, target_layer: nn.Module) -> None:
    """Refuse a layer at which ``cam`` is not the evidence: its mean must be what gives the logits.

    Args:
        network: As in :func:`compute_cam`.
        image: (N, 3, H, W), not constant.
        target_layer: As in :func:`compute_cam`.

    Raises:
        UsageError: If anything but average pooling stands between it and the last ``nn.Linear``.
    """
    with eval_mode(network), capture(target_layer) as record:
        logits = network(image)
    activation = _activation_of(record)
    index = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    _linear_weights(network, activation, logits, index)
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    seen = linear(activation.mean((2, 3)))
    if not torch.allclose(seen, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        found = "more than average pooling between the layer and the last nn.Linear"
        raise _no_linear_head(found, tuple(linear.weight.shape))


def multi_scale_cam(
    network: nn.Module,
    image: Tensor,
    *,
    target_layer: nn.Module,
    class_index: int | Tensor,
    method: str,
    scales: Sequence[float] = (0.75, 1.0, 1.5),
    views: Literal["single", "mirror", "dihedral"] = "mirror",
    **kwargs: Any,
) -> Tensor:
    """The mean of the maps of an image at several sizes, mirrored and turned.

    Each view's map (after its ReLU) is resized to the image's size, turned back and averaged; the
    mean is divided by its maximum (not min-max: a view without any evidence must not stretch the
    rest).

    Args:
        network: As in :func:`compute_cam`.
        image: As in :func:`compute_cam`.
        target_layer: As in :func:`compute_cam`.
        class_index: As in :func:`compute_cam`.
        method: As in :func:`compute_cam`.
        scales: Factors of the image's height and width, each above 0. Images are resized
            bilinearly, with an anti-aliasing filter where they shrink.
        views: ``single``; ``mirror`` also sees each size mirrored left to right; ``dihedral`` also
            all quarter turns, eight views in all, for images seen from above.
        **kwargs: For :func:`compute_cam`; a ``baseline`` is resized and turned with the image.

    Returns:
        (N, H, W) float32 in [0, 1].

    Raises:
        UsageError: If there is no scale, or one that leaves no pixel; and as :func:`compute_cam`.
    """
    baseline = kwargs.pop("baseline", None)
    height, width = image.shape[-2:]
    sizes = [(round(height * scale), round(width * scale)) for scale in scales]
    if not sizes or min(map(min, sizes)) < 1:
        raise UsageError.of(
            "CAM-SCALES",
            where="scales",
            found=list(scales),
            expected="one or more factors that leave at least one pixel",
            fix="for example (0.75, 1.0, 1.5)",
        )

    def view(pixels: Tensor, size: tuple[int, int], turns: int, mirrored: bool) -> Tensor:
        resized = resize(pixels, size, antialias=True)
        return torch.rot90(resized.flip(-1) if mirrored else resized, turns, (-2, -1))

    require_choice("views", views, tuple(VIEWS))
    total = torch.zeros(len(image), height, width, device=image.device)
    for size in sizes:
        for turns, mirrored in VIEWS[views]:
            cam = compute_cam(
                network,
                view(image, size, turns, mirrored),
                target_layer=target_layer,
                class_index=class_index,
                method=method,
                baseline=None
                if baseline is None
                else view(baseline.expand_as(image), size, turns, mirrored),
                normalise=False,
                **kwargs,
            )
            cam = torch.rot90(cam, -turns, (-2, -1))
            total += resize((cam.flip(-1) if mirrored else cam)[:, None], (height, width))[:, 0]
    peak = total.amax((1, 2), keepdim=True)
    return total / torch.where(peak > 0, peak, 1)


# ------------------------------------------------------------------ weights of the channels


def _gradient_weights(method: str, activation: Tensor, gradient: Tensor) -> Tensor:
    """(N, C, 1, 1), or (N, C, h, w) for LayerCAM, which weighs every pixel."""
    if method == "grad_cam":
        return gradient.mean((2, 3), keepdim=True)
    positive = relu(gradient)
    if method == "layer_cam":
        return positive
    # α = g² / (2 g² + g³ ΣA) = 1 / (2 + g ΣA), without a power that underflows; α = 0 at g = 0.
    denominator = 2 + gradient * activation.sum((2, 3), keepdim=True)
    alpha = torch.where(denominator == 0, 0, 1 / denominator)
    return (alpha * positive).sum((2, 3), keepdim=True)


def _linear_weights(
    network: nn.Module, activation: Tensor, logits: Tensor, index: Tensor
) -> Tensor:
    """(N, C, 1, 1): the row of the last linear layer for each image's class."""
    linears = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    expected = (logits.shape[1], activation.shape[1])
    if not linears or tuple(linears[-1].weight.shape) != expected:
        found = f"last nn.Linear {tuple(linears[-1].weight.shape)}" if linears else "no linear"
        raise _no_linear_head(found, expected)
    return linears[-1].weight[index, :, None, None].to(activation.dtype)


def _no_linear_head(found: str, expected: tuple[int, ...]) -> UsageError:
    return UsageError.of(
        "CAM-HEAD",
        where="method 'cam'",
        found=found,
        expected=f"average pooling, then nn.Linear {expected} as (outputs, channels)",
        fix="use the layer that is pooled, or method 'grad_cam', which needs no such head",
    )


# -------------------------------------------------------------------------- small pieces


def _gradient_of(logits: Tensor, index: Tensor, record: Capture) -> Tensor:
    """(N, C, h, w): of each image's own logit; images do not mix in evaluation mode."""
    activation = _activation_of(record)
    score = logits.gather(1, index[:, None]).sum()
    if score.requires_grad:
        torch.autograd.grad(score, activation, allow_unused=True)
    if record.gradient is None:
        raise UsageError.of(
            "CAM-LAYER",
            where="target_layer",
            found="a layer on which the logit does not depend, or a network that detaches it",
            expected="a layer between the image and the logit",
            fix="choose another layer, or method 'score_cam', which needs no gradient",
        )
    return record.gradient.to(activation.dtype)


def _activation_of(record: Capture) -> Tensor:
    if record.activation is None:
        raise UsageError.of(
            "CAM-LAYER",
            where="target_layer",
            found="a layer that did not run",
            expected="a layer that the network uses",
            fix="take it from this network, by find_layer",
        )
    return record.activation


def _require_pixels(activation: Tensor, network: nn.Module, image: Tensor) -> None:
    if activation[0, 0].numel() > 1 or image[0, 0].numel() == 1:
        return
    height, width = image.shape[-2:]
    usable = layers_with_maps(network, image[:1])[-4:]
    raise UsageError.of(
        "CAM-LAYER",
        where="target_layer",
        found=f"a single pixel as the layer's output, for an image of {height} x {width} px",
        expected="a layer whose output has a height and a width",
        fix="use a larger image" + (f", or one of {', '.join(usable)}" if usable else ""),
    )
