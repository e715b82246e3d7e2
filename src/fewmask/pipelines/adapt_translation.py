"""Part of pipeline ``adapt``: UNIT, which gives source images the light of the target domain.

Domain a is the source (day, with masks), domain b the target (night, without).

Source: Liu, Breuel & Kautz 2017 (UNIT, arXiv 1703.00848), equations 3 to 9; the perceptual loss and
the weights are those of the adapt pipeline's source, section 3.2. Written from the papers.
Differs: Reconstructions and divergences are means over values instead of sums, so that the weights
do not depend on the image's size; the generators' adversarial loss is the form that does not
saturate; the judges look at several sizes (their loss is the mean over these), as in the authors'
later code; initial weights are CycleGAN's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.data.loading import TrainingSet, step_loader, steps_per_epoch
from fewmask.data.transforms import Augmentation, to_bytes, to_signed, to_unit
from fewmask.losses.adversarial import log_discriminator_loss, log_generator_loss
from fewmask.losses.translation import (
    cycle_loss,
    latent_kl_loss,
    perceptual_loss,
    reconstruction_loss,
)
from fewmask.models.features import content_features
from fewmask.models.unit import MultiScaleDiscriminator, Unit, sample
from fewmask.pipelines.adapt_config import JUDGE_LAYERS, AdaptConfig
from fewmask.pipelines.adapt_data import domain_rows
from fewmask.randomness import seed_all
from fewmask.training.checkpoint import load_weights, save_weights
from fewmask.training.known_images import KnownImages, run_of
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import Workspace

Features = Callable[[Tensor], Tensor]
"""Image (N, 3, H, W) in [0, 1] to features; :func:`fewmask.models.features.content_features`."""


class UnitNetworks(NamedTuple):
    """Both auto-encoders and both judges; ``disc_b`` judges domain b."""

    unit: Unit
    disc_a: nn.Module
    disc_b: nn.Module


def new_unit(config: AdaptConfig) -> UnitNetworks:
    """The networks with fresh weights."""
    width, scales = config.translate_discriminator_width, config.translate_scales
    return UnitNetworks(
        Unit(config.translate_width, config.translate_blocks, config.translate_decoder_norm),
        MultiScaleDiscriminator(width, JUDGE_LAYERS, scales),
        MultiScaleDiscriminator(width, JUDGE_LAYERS, scales),
    )


def unit_loss(
    nets: UnitNetworks, features: Features | None, real_a: Tensor, real_b: Tensor,
    config: AdaptConfig,
) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:  # fmt: skip
    """The auto-encoders' objective on one batch, and the two images that the judges see next.

    Args:
        nets: The networks.
        features: Of the perceptual loss; None leaves it out.
        real_a: (N, 3, H, W) float32 in [-1, 1], sides multiples of 4.
        real_b: The same, of the other domain.
        config: The weights of the terms.

    Returns:
        The loss, its terms before their weights by name, ``fake_a`` and ``fake_b`` (detached).

    Source: eq. 3; the terms are eq. 4 to 9 of both domains, added.
    """
    a, b = nets.unit.a, nets.unit.b
    mean_a, mean_b = a.encode(real_a), b.encode(real_b)
    latent_a, latent_b = sample(mean_a), sample(mean_b)
    rec_a, rec_b = a.decode(latent_a), b.decode(latent_b)
    fake_b, fake_a = b.decode(latent_a), a.decode(latent_b)
    mean_fake_b, mean_fake_a = b.encode(fake_b), a.encode(fake_a)
    cycle_a, cycle_b = a.decode(sample(mean_fake_b)), b.decode(sample(mean_fake_a))

    gan = _over_scales(log_generator_loss, nets.disc_b(fake_b)) + _over_scales(
        log_generator_loss, nets.disc_a(fake_a)
    )
    kl = latent_kl_loss(mean_a) + latent_kl_loss(mean_b)
    reconstruction = reconstruction_loss(rec_a, real_a) + reconstruction_loss(rec_b, real_b)
    cycle_kl = kl + latent_kl_loss(mean_fake_b) + latent_kl_loss(mean_fake_a)
    cycle = cycle_loss(cycle_a, real_a) + cycle_loss(cycle_b, real_b)
    perceptual = real_a.new_zeros(())
    if features is not None and config.translate_lambda_perceptual:
        for real, fake in ((real_a, fake_b), (real_b, fake_a)):
            perceptual = perceptual + perceptual_loss(
                features((fake + 1) / 2),
                features((real + 1) / 2).detach(),
                normalise=config.translate_perceptual_norm,
            )
    loss = (
        config.translate_lambda_gan * gan
        + config.translate_lambda_kl * kl
        + config.translate_lambda_reconstruction * reconstruction
        + config.translate_lambda_cycle_kl * cycle_kl
        + config.translate_lambda_cycle * cycle
        + config.translate_lambda_perceptual * perceptual
    )
    terms = {
        "gan": gan,
        "kl": kl,
        "reconstruction": reconstruction,
        "cycle_kl": cycle_kl,
        "cycle": cycle,
        "perceptual": perceptual,
    }
    return loss, terms, fake_a.detach(), fake_b.detach()


def judges_loss(disc: nn.Module, real: Tensor, fake: Tensor, config: AdaptConfig) -> Tensor:
    """What a judge minimises: eq. 6 or 7, negated, with its weight; the mean over its scales."""
    pairs = zip(disc(real), disc(fake), strict=True)
    losses = [log_discriminator_loss(of_real, of_fake) for of_real, of_fake in pairs]
    return config.translate_lambda_gan * torch.stack(losses).mean()


def unit_step(
    nets: UnitNetworks,
    features: Features | None,
    optimizers: Mapping[str, torch.optim.Optimizer],
    real_a: Tensor,
    real_b: Tensor,
    config: AdaptConfig,
    loop: Loop,
) -> dict[str, float]:
    """One step of the auto-encoders, then one of both judges.

    Args:
        nets: The networks.
        features: Of the perceptual loss; None leaves it out.
        optimizers: ``optimizer_unit`` and ``optimizer_judges``.
        real_a: (N, 3, H, W) float32 in [-1, 1].
        real_b: The same, of the other domain.
        config: Weights of the terms.
        loop: Checks that losses and gradients are finite.

    Returns:
        The terms of the auto-encoders' loss before their weights, and ``judges``, by name.
    """
    for disc in (nets.disc_a, nets.disc_b):
        disc.requires_grad_(False)
    loss, terms, fake_a, fake_b = unit_loss(nets, features, real_a, real_b, config)
    loop.update(optimizers["optimizer_unit"], loss)
    for disc in (nets.disc_a, nets.disc_b):
        disc.requires_grad_(True)
    judges = judges_loss(nets.disc_a, real_a, fake_a, config) + judges_loss(
        nets.disc_b, real_b, fake_b, config
    )
    loop.update(optimizers["optimizer_judges"], judges)
    return {name: float(term.detach()) for name, term in (*terms.items(), ("judges", judges))}


def train_unit(work: Workspace, stage: Stage) -> None:
    """UNIT between the source's and the target's training images; no mask is looked at.

    With ``translate_weights`` another run's UNIT is taken as it is.
    """
    config: AdaptConfig = work.config
    if config.translate_weights != "none":
        unit = new_unit(config).unit
        path = Path(config.translate_weights)
        load_weights(path, unit)
        save_weights(stage.path / "unit.safetensors", unit)
        if lender := run_of(path):
            KnownImages.of_weights(lender, path).save(stage.path)
        return
    rows = {"a": domain_rows(work, "source", "train"), "b": domain_rows(work, "target", "train")}
    features = None
    if config.translate_lambda_perceptual:
        network = content_features(
            config.translate_perceptual_network, config.translate_perceptual_weights
        )
        features = network.to(work.device)
    seed_all(config.seed, stage.label, "weights")
    nets = new_unit(config)
    for net in nets:
        net.to(work.device)
    adam: dict[str, Any] = {"lr": config.translate_learning_rate, "betas": (0.5, 0.999)}
    judges = [*nets.disc_a.parameters(), *nets.disc_b.parameters()]
    optimizers = {
        "optimizer_unit": torch.optim.Adam(nets.unit.parameters(), **adam),
        "optimizer_judges": torch.optim.Adam(judges, **adam),
    }
    batch = config.translate_batch_size
    loop = Loop(
        stage,
        config.translate_steps,
        seed=config.seed,
        state={**nets._asdict(), **optimizers},
        save_every_steps=steps_per_epoch(max(map(len, rows.values())), batch),
    )
    batches: dict[str, Any] = {}
    no_targets = np.zeros((len(work.images), 0), bool)
    for step in loop:
        for domain in () if batches else rows:
            dataset = TrainingSet(
                work.images,
                no_targets,
                rows[domain],
                Augmentation(flips=config.seen_from_above, mirror=True),
                seed=config.seed,
                name=f"{stage.label}/{domain}",
            )
            batches[domain] = step_loader(
                dataset,
                batch,
                total_steps=config.translate_steps,
                first_step=step,
                workers=config.workers,
            )
        real = {domain: next(batches[domain])[0].to(work.device) for domain in rows}
        count = min(map(len, real.values()))
        side = crop_side(config, step)
        real_a, real_b = (to_signed(random_crop(real[domain][:count], side)) for domain in rows)
        losses = unit_step(nets, features, optimizers, real_a, real_b, config, loop)
        loop.record(**losses)
    save_weights(stage.path / "unit.safetensors", nets.unit)


def crop_side(config: AdaptConfig, step: int) -> int:
    """Side in px of the crops of a step: each of ``translate_crop_px`` in its part of the steps."""
    sides = config.translate_crop_px
    return sides[step * len(sides) // config.translate_steps]


def random_crop(image: Tensor, side_px: int) -> Tensor:
    """The same random place of every image of a batch, sides at most ``side_px``, multiples of 4.

    Args:
        image: (N, C, H, W).
        side_px: Of the crop; a shorter side of the image is cut to a multiple of 4.
    """
    sides = [min(side_px, side) // 4 * 4 for side in image.shape[-2:]]
    top, left = (
        int(torch.randint(whole - side + 1, ()))
        for whole, side in zip(image.shape[-2:], sides, strict=True)
    )
    return image[..., top : top + sides[0], left : left + sides[1]]


def load_unit(work: Workspace) -> Unit:
    """The trained auto-encoders, in eval mode."""
    unit = new_unit(work.config).unit
    load_weights(work.stages["translate"].path / "unit.safetensors", unit)
    return unit.to(work.device).eval()


@torch.no_grad()
def translate_image(unit: Unit, image: np.ndarray, to: Literal["a", "b"]) -> np.ndarray:
    """Translate one image, (H, W, 3) uint8 to the same, into domain ``to``."""
    real = to_signed(to_unit(image)[None]).to(next(unit.parameters()).device)
    return to_bytes((unit(real, to) + 1) / 2)[0]


def _over_scales(loss: Callable[[Tensor], Tensor], logits: list[Tensor]) -> Tensor:
    return torch.stack([loss(of_scale) for of_scale in logits]).mean()
