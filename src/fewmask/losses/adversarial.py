"""Adversarial losses on a judge's logits, high for real; every loss is the mean over its logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def lsgan_generator_loss(logits_fake: Tensor) -> Tensor:
    """Least squares, generator: mean (D(fake) − 1)².

    Args:
        logits_fake: Any shape, float; the judge on generated images, with their graph.

    Source: Mao et al. 2017, eq. 9 with a = 0, b = c = 1; without the ½, as in CycleGAN, sec. 4.

    >>> import torch
    >>> lsgan_generator_loss(torch.tensor([0.0, 3.0])).item()
    2.5
    """
    return (logits_fake - 1).square().mean()


def lsgan_discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Least squares, judge: ½ · (mean (D(real) − 1)² + mean D(fake)²).

    Args:
        logits_real: Any shape, float; the judge on real images.
        logits_fake: Any shape, float; the judge on detached generated images.

    Source: Mao et al. 2017, eq. 9; the ½ slows the judge down (CycleGAN, appendix 7.1).

    >>> import torch
    >>> lsgan_discriminator_loss(torch.tensor([3.0]), torch.tensor([1.0])).item()
    2.5
    """
    return 0.5 * ((logits_real - 1).square().mean() + logits_fake.square().mean())


def log_generator_loss(logits_fake: Tensor) -> Tensor:
    """Cross-entropy, generator: mean −log σ(D(fake)).

    Args:
        logits_fake: Any shape, float; the judge on generated images, with their graph.

    Source: Goodfellow et al. 2014, section 3: the form whose gradient does not vanish while the
        judge is sure, instead of log(1 − σ(D(fake))) of their eq. 1.

    >>> import torch
    >>> round(log_generator_loss(torch.tensor([0.0])).item(), 4)
    0.6931
    """
    return functional.softplus(-logits_fake).mean()


def log_discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Cross-entropy, judge: −(mean log σ(D(real)) + mean log(1 − σ(D(fake)))).

    Args:
        logits_real: Any shape, float; the judge on real images.
        logits_fake: Any shape, float; the judge on detached generated images.

    Source: Goodfellow et al. 2014, eq. 1, negated; UNIT (Liu et al. 2017), eq. 6 and 7.

    >>> import torch
    >>> round(log_discriminator_loss(torch.tensor([0.0]), torch.tensor([0.0])).item(), 4)
    1.3863
    """
    return functional.softplus(-logits_real).mean() + functional.softplus(logits_fake).mean()


def r1_penalty(logits_real: Tensor, real: Tensor) -> Tensor:
    """R1: the mean over real images of ‖∇_x D(x)‖², to be weighed with γ / 2.

    Args:
        logits_real: (N,) float, the judge on real images, one logit each.
        real: (N, C, H, W) float, those images, with ``requires_grad``.

    Source: Mescheder et al. 2018, eq. 9, without its γ / 2.

    >>> x = torch.ones(2, 1, 1, 3, requires_grad=True)
    >>> r1_penalty((2 * x).sum((1, 2, 3)), x).item()  # |(2, 2, 2)|²
    12.0
    """
    return squared_slopes(logits_real, real).mean()


def squared_slopes(logits_real: Tensor, real: Tensor) -> Tensor:
    """Of each image, ‖∇_x D(x)‖² (N,), of which :func:`r1_penalty` is the mean."""
    (gradient,) = torch.autograd.grad(logits_real.sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def path_lengths(image: Tensor, ws: Tensor, direction: Tensor) -> Tensor:
    """How far each image moves with its styles: ‖J_wᵀ y‖, the mean square over style layers.

    Args:
        image: (N, C, H, W) float, generated from ``ws``, with its graph.
        ws: (N, L, D) float, the styles.
        direction: (N, C, H, W) float, y, drawn from N(0, I).

    Returns:
        (N,) float, with a graph; independent of the image's size.

    Source: Karras et al. 2020 (StyleGAN2), eq. 4 and appendix B, "path length regularization".
    """
    scaled = direction / math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad((image * scaled).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()
