"""Second part of pipeline ``tags``: the CycleGAN that removes the object, and that adds it.

Domain a holds the images with a tag, domain b those without. ``gen_ab`` removes the object,
``gen_ba`` puts one in; ``disc_a`` judges images of a, ``disc_b`` of b.

Source: Zhu et al. 2017 (CycleGAN, arXiv 1703.10593); sections 3.2.1 and 3.3 of the first landslide
study. Written from the papers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewmask.data.loading import TrainingSet, step_loader, steps_per_epoch
from fewmask.data.transforms import Augmentation, to_bytes, to_signed, to_unit
from fewmask.errors import DataError, NumericalError
from fewmask.io.images import write_image
from fewmask.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from fewmask.losses.translation import (
    attention_area_loss,
    cycle_loss,
    identity_loss,
    total_variation,
)
from fewmask.models.cyclegan import AttentionGenerator, Discriminator, Generator, translate
from fewmask.pipelines.tags_config import TagsConfig
from fewmask.randomness import derive_seed, generator, seed_all
from fewmask.training.checkpoint import load_weights, save_weights
from fewmask.training.image_pool import ImagePool
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.workspace import Workspace


class Translators(NamedTuple):
    """The four networks of a CycleGAN; ``disc_b`` judges domain b (images without the object)."""

    gen_ab: nn.Module
    gen_ba: nn.Module
    disc_a: nn.Module
    disc_b: nn.Module


def generator_loss(
    nets: Translators, real_a: Tensor, real_b: Tensor, config: TagsConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The generators' objective on one batch, and the two images that the judges see next.

    Args:
        nets: The four networks.
        real_a: (N, 3, H, W) float32 in [-1, 1], images with the object.
        real_b: The same, without the object.
        config: The weights of the terms.

    Source: Zhu et al. 2017, eq. 3 and section 5.2; the last two terms are ours.
    """
    fake_b, attention_a = translate(nets.gen_ab, real_a)
    fake_a, attention_b = translate(nets.gen_ba, real_b)
    rec_a, _ = translate(nets.gen_ba, fake_b)
    rec_b, _ = translate(nets.gen_ab, fake_a)
    adversarial = lsgan_generator_loss(nets.disc_b(fake_b)) + lsgan_generator_loss(
        nets.disc_a(fake_a)
    )
    cycle = cycle_loss(rec_a, real_a) + cycle_loss(rec_b, real_b)
    identity = real_a.new_zeros(())
    if config.translate_lambda_identity:
        idt_a, _ = translate(nets.gen_ba, real_a)
        idt_b, _ = translate(nets.gen_ab, real_b)
        identity = identity_loss(idt_a, real_a) + identity_loss(idt_b, real_b)
    area = variation = real_a.new_zeros(())
    if attention_a is not None and attention_b is not None:
        area = attention_area_loss(attention_a, config.translate_area) + attention_area_loss(
            attention_b, config.translate_area
        )
        variation = total_variation(attention_a) + total_variation(attention_b)
    loss = (
        adversarial
        + config.translate_lambda_cycle * cycle
        + config.translate_lambda_identity * identity
        + config.translate_lambda_area * area
        + config.translate_lambda_variation * variation
    )
    return loss, fake_a.detach(), fake_b.detach()


def discriminator_loss(disc: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """What a judge minimises: real patches to 1, pictures from the image pool to 0."""
    return lsgan_discriminator_loss(disc(real), disc(fake))


def translation_step(
    nets: Translators,
    optimizers: Mapping[str, torch.optim.Optimizer],
    pools: Mapping[str, ImagePool],
    real_a: Tensor,
    real_b: Tensor,
    config: TagsConfig,
    loop: Loop,
) -> dict[str, float]:
    """One step of both generators, then one of both discriminators.

    The batch passes in parts of ``translate_micro_batch_size``; gradients add up to those of the
    whole batch, since no layer mixes images and the image pools are asked once, for all of it. Of
    the generators' terms only the attention's area is not a mean over images: it is taken over
    each part.

    Returns:
        The two losses, by name.
    """
    size = config.translate_micro_batch_size or len(real_a)
    parts = list(zip(real_a.split(size), real_b.split(size), strict=True))
    for disc in (nets.disc_a, nets.disc_b):
        disc.requires_grad_(False)
    optimizers["generators"].zero_grad(set_to_none=True)
    fakes, generators = [], 0.0
    for part_a, part_b in parts:
        loss, fake_a, fake_b = generator_loss(nets, part_a, part_b, config)
        share = len(part_a) / len(real_a)
        loop.require_finite(generators=loss)
        (loss * share).backward()
        generators += float(loss.detach()) * share
        fakes.append((fake_a, fake_b))
    loop.step_optimizer(optimizers["generators"])
    _require_variety(fakes, loop)

    for disc in (nets.disc_a, nets.disc_b):
        disc.requires_grad_(True)
    optimizers["discriminators"].zero_grad(set_to_none=True)
    judges = 0.0
    fakes_a, fakes_b = (torch.cat(images) for images in zip(*fakes, strict=True))
    old_a = pools["pool_a"].query(fakes_a, derive_seed(loop.seed, "a", loop.step, 0)).split(size)
    old_b = pools["pool_b"].query(fakes_b, derive_seed(loop.seed, "b", loop.step, 0)).split(size)
    for (part_a, part_b), part_old_a, part_old_b in zip(parts, old_a, old_b, strict=True):
        loss = discriminator_loss(nets.disc_a, part_a, part_old_a) + discriminator_loss(
            nets.disc_b, part_b, part_old_b
        )
        share = len(part_a) / len(real_a)
        loop.require_finite(discriminators=loss)
        (loss * share).backward()
        judges += float(loss.detach()) * share
    loop.step_optimizer(optimizers["discriminators"])
    return {"generators": generators, "discriminators": judges}


def _require_variety(fakes: Sequence[tuple[Tensor, Tensor]], loop: Loop) -> None:
    """Stop when a generator paints every pixel of every image alike."""
    for name, images in zip("ab", zip(*fakes, strict=True), strict=True):
        if loop.step > 20 and torch.cat(images).std() < 1e-3:
            raise NumericalError.of(
                "COLLAPSE",
                where=f"{loop.stage.label} step {loop.step}: fake_{name}",
                found="one colour everywhere",
                expected="images",
                fix="lower translate_learning_rate or raise translate_lambda_cycle",
            )


def new_translators(config: TagsConfig) -> Translators:
    """The four networks with fresh weights."""
    kind = Generator if config.translate_kind == "cyclegan" else AttentionGenerator
    gen_ab, gen_ba = (kind(config.translate_width, config.translate_blocks) for _ in range(2))
    disc_a, disc_b = (Discriminator(config.translate_discriminator_width) for _ in range(2))
    return Translators(gen_ab, gen_ba, disc_a, disc_b)


def require_both_domains(tagged: int, untagged: int) -> None:
    """Refuse a training part without images of both kinds.

    Raises:
        DataError: one of the numbers is 0.
    """
    if not tagged or not untagged:
        raise DataError.of(
            "NO-NEGATIVES",
            where="training part",
            found=f"{tagged} images with a tag, {untagged} without",
            expected="both: a translation needs images without the object",
            fix="add images without any tag, or leave out translation: --stages classify evidence "
            "pseudo_masks segment controls",
        )


def train_translation(work: Workspace, stage: Stage) -> None:
    """CycleGAN between the images with a tag (a) and those without (b)."""
    config: TagsConfig = work.config
    rows = {"a": work.rows("train", tagged=True), "b": work.rows("train", tagged=False)}
    require_both_domains(len(rows["a"]), len(rows["b"]))
    seed_all(config.seed, stage.label, "weights")
    nets = Translators(*(net.to(work.device) for net in new_translators(config)))
    adam: dict[str, Any] = {"lr": config.translate_learning_rate, "betas": (0.5, 0.999)}
    optimizers = {
        "generators": torch.optim.Adam(
            [*nets.gen_ab.parameters(), *nets.gen_ba.parameters()], **adam
        ),
        "discriminators": torch.optim.Adam(
            [*nets.disc_a.parameters(), *nets.disc_b.parameters()], **adam
        ),
    }
    pools = {"pool_a": ImagePool(config.translate_pool), "pool_b": ImagePool(config.translate_pool)}
    batch = config.translate_batch_size
    per_epoch = steps_per_epoch(max(map(len, rows.values())), batch)
    total_steps = config.translate_steps or config.translate_epochs * per_epoch
    state = {**nets._asdict(), **optimizers, **pools}
    loop = Loop(stage, total_steps, seed=config.seed, state=state, save_every_steps=per_epoch)
    batches: dict[str, Any] = {}
    for step in loop:
        for domain in () if batches else rows:
            dataset = TrainingSet(
                work.images,
                work.tags,
                rows[domain],
                Augmentation(flips=config.seen_from_above, mirror=True),
                seed=config.seed,
                name=f"{stage.label}/{domain}",
            )
            batches[domain] = step_loader(
                dataset, batch, total_steps=total_steps, first_step=step, workers=config.workers
            )
        real = {domain: next(batches[domain])[0].to(work.device) for domain in rows}
        count = min(map(len, real.values()))
        real_a, real_b = (
            to_signed(shrink(real[domain][:count], config.translate_image_size)) for domain in rows
        )
        loop.record(**translation_step(nets, optimizers, pools, real_a, real_b, config, loop))
    save_weights(stage.path / "gen_ab.safetensors", nets.gen_ab)
    save_weights(stage.path / "gen_ba.safetensors", nets.gen_ba)


def shrink(image: Tensor, size: int) -> Tensor:
    """(N, C, H, W) to (N, C, size, size), antialiased."""
    if image.shape[-1] == size and image.shape[-2] == size:
        return image
    return functional.interpolate(image, (size, size), mode="bilinear", antialias=True)


def load_generator(work: Workspace, name: str) -> nn.Module:
    """``gen_ab`` or ``gen_ba`` of this fold, in eval mode."""
    network = getattr(new_translators(work.config), name)
    load_weights(work.stages["translate"].path / f"{name}.safetensors", network)
    return network.to(work.device).eval()


def augment(work: Workspace, stage: Stage) -> None:
    """Positives made from training negatives with gen_ba; the parent of each is written down."""
    config: TagsConfig = work.config
    negatives = work.rows("train", tagged=False)
    order = generator(config.seed, stage.label).permutation(len(negatives))
    chosen = [negatives[i] for i in order[: config.augment_images]]
    rejected = _rejected(config.augment_reject_file)
    gen_ba = load_generator(work, "gen_ba") if chosen else nn.Identity()
    folder = stage.path / "generated"
    folder.mkdir(exist_ok=True)
    loop = Loop(stage, len(chosen), seed=config.seed, state={}, unit="image")
    for i in loop:
        image = to_unit(work.images[chosen[i]])[None].to(work.device)
        with torch.no_grad():
            fake, _ = translate(gen_ba, to_signed(shrink(image, config.translate_image_size)))
        write_image(folder / f"{i:05d}.png", to_bytes((fake + 1) / 2)[0])
    records = [
        {
            "id": f"generated/{i:05d}",
            "parents": [work.data.samples[row].id],
            "kept": f"{i:05d}" not in rejected,
        }
        for i, row in enumerate(chosen)
    ]
    stage.write_json("generated.json", records)


def _rejected(path: Path | None) -> set[str]:
    if path is None:
        return set()
    try:
        return {Path(line.strip()).stem for line in path.read_text().splitlines() if line.strip()}
    except OSError as error:
        raise DataError.of(
            "REJECT-FILE",
            where=path,
            found=error.strerror or error,
            expected="a text file with one id a line",
            fix="correct augment_reject_file",
        ) from None
