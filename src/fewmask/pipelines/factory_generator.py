"""Part of pipeline ``factory``: StyleGAN2 with adaptive augmentation, trained on images alone.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (objective,
regularisers, moving average) and "Training Generative Adversarial Networks with Limited Data"
(augmentation, settings of few images). Written from the papers.
Differs: Everything is in single precision.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.data.loading import TrainingSet, images_per_step, step_loader
from fewmask.data.transforms import Augmentation, to_signed
from fewmask.io.images import write_image
from fewmask.losses.adversarial import (
    log_discriminator_loss,
    log_generator_loss,
    path_lengths,
    squared_slopes,
)
from fewmask.models.stylegan2 import Discriminator, Generator
from fewmask.pipelines.factory_augmentation import AdaptiveProbability, augment
from fewmask.pipelines.factory_config import FactoryConfig
from fewmask.pipelines.factory_watch import Watch, contact_sheet, generated_images
from fewmask.randomness import generator as random_generator
from fewmask.randomness import seed_all
from fewmask.training.checkpoint import load_weights, save_weights, tensor_shapes
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.shared_batches import Team
from fewmask.training.signals import step_first
from fewmask.training.workspace import Workspace

GENERATOR = "generator.safetensors"
SHEET = 8
"""Rows and columns of a sheet of samples."""


class Gan(NamedTuple):
    """The networks of the training; ``average`` is the generator that is handed out."""

    generator: Generator
    discriminator: Discriminator
    average: Generator


class PathLength:
    """The running mean of path lengths, to which each image's is held.

    Args:
        decay: Of the mean, per observation.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self.mean, self.decay = 0.0, decay

    def penalty(self, lengths: Tensor) -> Tensor:
        """Mean squared distance of lengths (N,) from the running mean, which moves first."""
        self.mean += (1 - self.decay) * (float(lengths.detach().mean()) - self.mean)
        return (lengths - self.mean).square().mean()

    def state_dict(self) -> dict[str, float]:
        """The mean."""
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put it back."""
        self.mean = state["mean"]


def new_gan(config: FactoryConfig, *, grey: bool = False) -> Gan:
    """The networks with fresh weights; the average begins as the generator.

    Args:
        config: Their sizes.
        grey: The generator makes grey images only.
    """
    size, base, most = config.image_size, config.generate_channel_base, config.generate_channel_max
    generator = Generator(
        size,
        config.generate_z_dim,
        config.generate_w_dim,
        config.generate_mapping_depth,
        1 if grey else 3,
        base=base,
        most=most,
    )
    judge = Discriminator(size, base=base, most=most, group=config.generate_deviation_group)
    return Gan(generator, judge, copy.deepcopy(generator).eval())


class GanTraining:
    """One training: networks, optimisers, and all that a step changes and a later step reads.

    Args:
        config: Settings of the pipeline.
        device: Where to train.
        grey: All images are grey, and the generator makes no others.
    """

    def __init__(self, config: FactoryConfig, device: torch.device, *, grey: bool = False) -> None:
        self.config, self.device = config, device
        self.gan = new_gan(config, grey=grey)
        for network in self.gan:
            network.to(device)
        self.ada = AdaptiveProbability(config.generate_ada_target, config.generate_ada_kimg)
        self.path_length = PathLength()
        self.optimizer_generator = _adam(
            self.gan.generator, config, config.generate_path_length_interval
        )
        self.optimizer_judge = _adam(self.gan.discriminator, config, config.generate_r1_interval)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            **self.gan._asdict(),
            "optimizer_generator": self.optimizer_generator,
            "optimizer_judge": self.optimizer_judge,
            "ada": self.ada,
            "path_length": self.path_length,
        }

    def step(
        self, step: int, real: Tensor, loop: Loop, batch: int | None = None
    ) -> dict[str, float]:
        """One step of the generator, then one of the discriminator; regularised now and then.

        Args:
            step: Its number.
            real: (N, 3, S, S) float32 in [-1, 1].
            loop: Checks that losses and gradients are finite; its team shares the batch.
            batch: Images of the whole batch, of which ``real`` are this process's; default N.

        Returns:
            Losses before their weights, p and r_t, by name.
        """
        config, gan, team, count = self.config, self.gan, loop.team, batch or len(real)
        values: dict[str, float] = {}

        gan.discriminator.requires_grad_(False)
        loss = log_generator_loss(self.judge(self.fake(count, team), count, team))
        loop.update(self.optimizer_generator, loss)
        values["generator"] = loss.item()
        if config.generate_path_length_weight and step % config.generate_path_length_interval == 0:
            half = max(1, count // 2)
            ws = self.styles(half)[team.mine(half)]
            with team.together(half):
                moved = gan.generator.synthesis(ws).image
                direction = torch.randn_like(moved)
            lengths = team.gather(path_lengths(moved, ws, direction), half)
            loss = self.path_length.penalty(lengths)
            factor = config.generate_path_length_weight * config.generate_path_length_interval
            loop.update(self.optimizer_generator, factor * loss)
            values["path_length"] = lengths.mean().item()
        gan.discriminator.requires_grad_(True)

        with torch.no_grad():
            fake = self.fake(count, team)
        logits_real = self.judge(real, count, team)
        loss = log_discriminator_loss(logits_real, self.judge(fake, count, team))
        loop.update(self.optimizer_judge, loss)
        values["judge"] = loss.item()
        self.ada.observe(logits_real)
        if config.generate_r1_gamma and step % config.generate_r1_interval == 0:
            watched = real.detach().requires_grad_()
            slopes = squared_slopes(self.judge(watched, count, team), watched)
            penalty = team.gather(slopes, count).mean()  # R1
            factor = config.generate_r1_gamma / 2 * config.generate_r1_interval
            loop.update(self.optimizer_judge, factor * penalty)
            values["r1"] = penalty.item()

        self.follow(step, count)
        return {**values, "p": self.ada.p, "overfitting": self.ada.overfitting}

    def fake(self, count: int, team: Team) -> Tensor:
        """This process's part of ``count`` generated images."""
        ws = self.styles(count)[team.mine(count)]
        with team.together(count):
            return self.gan.generator.synthesis(ws).image

    def judge(self, image: Tensor, count: int, team: Team) -> Tensor:
        """Logits (count,) of images (N, 3, S, S) in [-1, 1], augmented with probability p.

        Of all ``count`` images, of which ``image`` is this process's part.
        """
        shown = augment(image, self.ada.p, count, team.mine(count))
        return team.logits(self.gan.discriminator, shown, count)

    def styles(self, count: int) -> Tensor:
        """Styles (count, num_ws, w_dim) of new latent codes, some of them mixed of two codes."""
        generator = self.gan.generator
        z = torch.randn(2, count, generator.z_dim, device=self.device)
        w = generator.mapping(z[0])
        generator.mapping.follow(w)
        last = generator.synthesis.num_ws
        mixed = torch.rand(count) < self.config.generate_mixing_probability
        first = torch.where(mixed, torch.randint(1, last, (count,)), last)
        return generator.mix(w, generator.mapping(z[1]), first)

    @torch.no_grad()
    def follow(self, step: int, count: int) -> None:
        """Move the average towards the generator."""
        half_life = self.config.generate_ema_kimg * 1000
        if self.config.generate_ema_rampup:
            half_life = min(half_life, (step + 1) * count * self.config.generate_ema_rampup)
        decay = 0.5 ** (count / max(half_life, 1e-8))
        own, average = self.gan.generator, self.gan.average
        for weight, mean in zip(own.parameters(), average.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)
        for buffer, copied in zip(own.buffers(), average.buffers(), strict=True):
            copied.copy_(buffer)


def train_generator(work: Workspace, stage: Stage) -> None:
    """Train on the images of the training part; no mask is looked at.

    Writes ``generator.safetensors`` (the averaged one), ``quality.json`` (its distance from the
    real images, and theirs from one another) and, now and then, a sheet of samples.
    """
    config: FactoryConfig = work.config
    rows = work.rows("train")
    seed_all(config.seed, stage.label, "weights")
    training = GanTraining(config, work.device, grey=all_grey(work.images, rows))
    batch = config.generate_batch_size
    total = math.ceil(config.generate_kimg * 1000 / batch)
    drawn = random_generator(config.seed, stage.label, "watched").permutation(rows)
    watch = Watch(
        work.images[np.sort(drawn[: config.generate_watch_images])],
        config.seed,
        config.encoder,
        config.encoder_weights,
        work.device,
    )
    count = images_per_step(len(rows), batch)
    team = Team([count], least=max(1, count // 2))  # path lengths are those of half a batch
    loop = Loop(stage, total, seed=config.seed, state={**training.state, "watch": watch}, team=team)
    looks = config.generate_watches
    batches = None
    for step in loop:
        if batches is None:  # the loop knows only now where it goes on
            batches = _real_images(work, stage, rows, total, step, team)
        real = to_signed(next(batches)[0].to(work.device))
        values = training.step(step, real, loop, count)
        if (step + 1) * looks // total > step * looks // total:
            kimg = (step + 1) * batch / 1000
            where = f"{stage.label} after {kimg:g} kimg"
            with step_first():
                watch.look(training.gan.average, config.generate_watch_images, where)
            values |= watch.last
            sheet = generated_images(training.gan.average, config.seed, range(SHEET * SHEET))
            folder = work.run.path / "samples" / work.folder
            folder.mkdir(parents=True, exist_ok=True)
            name = f"generated-{(step + 1) * batch:09d}.png"
            write_image(folder / name, contact_sheet(sheet, SHEET))
        loop.record(**values)
    save_weights(stage.path / GENERATOR, training.gan.average)
    stage.write_json(
        "quality.json",
        {
            **watch.last,
            "kid_of_real_halves": watch.floor._asdict(),
            "images": len(watch.real),
            "p": training.ada.p,
            "kimg": total * batch / 1000,
        },
    )


def _real_images(
    work: Workspace, stage: Stage, rows: Sequence[int], total: int, first: int, team: Team
) -> Iterator[tuple[Tensor, Tensor]]:
    config: FactoryConfig = work.config
    dataset = TrainingSet(
        work.images,
        np.zeros((len(work.images), 0), bool),
        rows,
        Augmentation(flips=config.seen_from_above, mirror=config.generate_mirror),
        seed=config.seed,
        name=stage.label,
    )
    return step_loader(
        dataset,
        config.generate_batch_size,
        total_steps=total,
        first_step=first,
        workers=config.workers,
        own=team.own,
    )


def all_grey(images: np.ndarray, rows: Sequence[int]) -> bool:
    """Whether the three channels of all these images (N, H, W, 3) are the same."""
    return all((images[row] == images[row][..., :1]).all() for row in rows)


def load_generator(weights: Path, config: FactoryConfig, device: torch.device) -> Generator:
    """A trained generator, in eval mode.

    Args:
        weights: The file.
        config: Its sizes.
        device: Where to put it.
    """
    colours = tensor_shapes(weights).get("synthesis.to_image.0.bias", (3,))
    network = new_gan(config, grey=colours == (1,)).average
    load_weights(weights, network)
    return network.to(device).eval()


def _adam(network: nn.Module, config: FactoryConfig, interval: int) -> torch.optim.Adam:
    """Adam for a loss whose regulariser has a step of its own each ``interval`` steps.

    Source: Karras et al. 2020 (StyleGAN2), appendix B, "lazy regularization".
    """
    share = interval / (interval + 1)
    betas = (0.0, 0.99**share)
    rate = config.generate_learning_rate * share
    return torch.optim.Adam(network.parameters(), rate, betas, eps=1e-8)
