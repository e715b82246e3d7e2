"""Losses that keep a translated image close to its original, and its attention small and whole."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def cycle_loss(rec: Tensor, real: Tensor) -> Tensor:
    """Mean |rec − real| over all values: an image translated there and back must return.

    Args:
        rec: (N, 3, H, W) float in [-1, 1], the image after both translations.
        real: The original, same shape and range.

    Source: Zhu et al. 2017, eq. 2.
    """
    return (rec - real).abs().mean()


def identity_loss(idt: Tensor, real: Tensor) -> Tensor:
    """Mean |idt − real| over all values: an image that is in the target domain already must stay.

    Args:
        idt: (N, 3, H, W) float in [-1, 1], ``gen_ab(real_b)`` or ``gen_ba(real_a)``.
        real: The image it was made from, same shape and range.

    Source: Zhu et al. 2017, section 5.2.
    """
    return (idt - real).abs().mean()


def reconstruction_loss(rec: Tensor, real: Tensor) -> Tensor:
    """Mean |rec − real| over all values: an image encoded and decoded in its own domain must stay.

    Minus the log-likelihood of a Laplace distribution around ``rec``, up to scale and constant.

    Args:
        rec: (N, 3, H, W) float in [-1, 1].
        real: The image it was made from, same shape and range.

    Source: UNIT (Liu et al. 2017), the second terms of eq. 4, 5, 8 and 9.
    """
    return (rec - real).abs().mean()


def latent_kl_loss(latent_mean: Tensor) -> Tensor:
    """KL(N(μ, I) ‖ N(0, I)) for each latent value, their mean: ½ · mean μ².

    Args:
        latent_mean: Any shape, float: an encoder's μ.

    Source: UNIT (Liu et al. 2017), the first terms of eq. 4, 5, 8 and 9.
    Differs: The mean over the latent values instead of their sum, as the reconstruction is a mean
        over pixels; so the weights do not depend on the image's size.

    >>> import torch
    >>> latent_kl_loss(torch.tensor([1.0, 3.0])).item()
    2.5
    """
    return 0.5 * latent_mean.square().mean()


def perceptual_loss(features: Tensor, other: Tensor, *, normalise: bool = True) -> Tensor:
    """Mean squared difference of two images' features.

    Args:
        features: (N, C, H, W) float, of a network that is not trained.
        other: Of the other image, same shape.
        normalise: Take mean and deviation out of each channel of each image first, so that only
            where things are counts, and not how bright or coloured the whole image is.

    Source: Johnson et al. 2016, eq. 2; normalised as in Huang et al. 2018 (MUNIT), section 5.1.
    """
    if normalise:
        features, other = functional.instance_norm(features), functional.instance_norm(other)
    return (features - other).square().mean()


def attention_area_loss(attention: Tensor, target_area: float = 0.0) -> Tensor:
    """|mean attention − target_area|: a prior on the area that a translation may change.

    The mean is over the whole batch, not per image, since objects differ in size. With
    ``target_area`` 0 it is plain sparsity, which shrinks the attention without end; aim it at an
    area instead when it is trained for long.

    Args:
        attention: (N, 1, H, W) float in [0, 1].
        target_area: Wanted fraction of the pixels, in [0, 1].

    >>> import torch
    >>> attention_area_loss(torch.tensor([0.0, 0.5]), target_area=0.125).item()
    0.125
    """
    return (attention.mean() - target_area).abs()


def total_variation(attention: Tensor) -> Tensor:
    """Mean |vertical difference| + mean |horizontal difference| of neighbouring pixels.

    Each mean is over the pairs of neighbours in its direction; a side of one pixel has none and
    adds nothing.

    Args:
        attention: (N, C, H, W) float.

    Source: Rudin, Osher & Fatemi 1992, in its anisotropic form.

    >>> import torch
    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])).item()
    1.0
    """
    vertical = attention.diff(dim=-2).abs()
    horizontal = attention.diff(dim=-1).abs()
    return vertical.sum() / max(vertical.numel(), 1) + horizontal.sum() / max(horizontal.numel(), 1)
