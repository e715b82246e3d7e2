"""Adversarial losses on a judge's logits, high for real; every loss is the mean over its logits."""

from __future__ import annotations

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
