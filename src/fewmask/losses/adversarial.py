"""Adversarial losses on a judge's logits, high for real; every loss is the mean over its logits."""

from __future__ import annotations

from torch import Tensor


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
