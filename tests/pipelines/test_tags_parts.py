"""Parts of pipeline `tags`: the objective against a naive one, the label-free cut, the losses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fewmask.models.cyclegan import translate
from fewmask.pipelines.tags_config import PRESETS, TagsConfig
from fewmask.pipelines.tags_erasure import (
    CUTS,
    LARGEST_CUT,
    Erasure,
    balanced_cut,
    crossing,
    cut_record,
    drawn_rows,
    erase,
    filled,
    most_convincing,
)
from fewmask.pipelines.tags_evidence import tag_loss
from fewmask.pipelines.tags_translation import (
    Translators,
    discriminator_loss,
    generator_loss,
    new_translators,
    translation_step,
)
from fewmask.training.image_pool import ImagePool
from fewmask.training.loop import Loop
from fewmask.training.run_folder import RunFolder


def small_networks(kind: str) -> tuple[Translators, TagsConfig]:
    torch.manual_seed(0)
    config = TagsConfig(
        translate_kind=kind,
        translate_width=4,
        translate_blocks=1,
        translate_discriminator_width=4,
        translate_lambda_area=0.7,
        translate_area=0.2,
        translate_lambda_variation=0.3,
    )
    return Translators(*(net.double() for net in new_translators(config))), config


@pytest.mark.parametrize("kind", ["cyclegan", "attention"])
def test_generator_objective_is_the_sum_of_the_published_terms(kind):
    nets, config = small_networks(kind)
    real_a = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    real_b = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    loss, fake_a, fake_b = generator_loss(nets, real_a, real_b, config)

    def g(network, image):
        return translate(network, image)

    naive_b, mask_a = g(nets.gen_ab, real_a)
    naive_a, mask_b = g(nets.gen_ba, real_b)
    expected = ((nets.disc_b(naive_b) - 1) ** 2).mean() + ((nets.disc_a(naive_a) - 1) ** 2).mean()
    expected += 10 * (g(nets.gen_ba, naive_b)[0] - real_a).abs().mean()
    expected += 10 * (g(nets.gen_ab, naive_a)[0] - real_b).abs().mean()
    expected += 5 * (g(nets.gen_ba, real_a)[0] - real_a).abs().mean()
    expected += 5 * (g(nets.gen_ab, real_b)[0] - real_b).abs().mean()
    for mask in (mask_a, mask_b) if kind == "attention" else ():
        expected += 0.7 * (mask.mean() - 0.2).abs()
        down = (mask[..., 1:, :] - mask[..., :-1, :]).abs().mean()
        right = (mask[..., 1:] - mask[..., :-1]).abs().mean()
        expected += 0.3 * (down + right)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(fake_a, naive_a.detach())
    assert torch.equal(fake_b, naive_b.detach())
    loss.backward()
    for name in ("gen_ab", "gen_ba"):
        assert all(p.grad is not None for p in getattr(nets, name).parameters()), name


def trained(kind: str, micro_batch: int, folder: Path) -> tuple[list[float], list[torch.Tensor]]:
    """Losses and weights after six steps on four images, with pools that are full after one."""
    nets, config = small_networks(kind)
    config = config.replaced(translate_micro_batch_size=micro_batch, translate_lambda_area=0.0)
    optimizers = {
        "generators": torch.optim.Adam([*nets.gen_ab.parameters(), *nets.gen_ba.parameters()]),
        "discriminators": torch.optim.Adam([*nets.disc_a.parameters(), *nets.disc_b.parameters()]),
    }
    pools = {"pool_a": ImagePool(3), "pool_b": ImagePool(3)}
    run = RunFolder.create(folder / f"run-{micro_batch}", {"pipeline": "none", "settings": {}})
    run.quiet = True
    loop = Loop(run.stage(1, "train", "key"), 6, seed=3, state={}, resumable=False)
    losses = []
    for step in loop:
        draws = torch.Generator().manual_seed(step)
        real = torch.rand(2, 4, 3, 32, 32, dtype=torch.float64, generator=draws) * 2 - 1
        losses += translation_step(nets, optimizers, pools, *real, config, loop).values()
    return losses, [value for net in nets for value in net.state_dict().values()]


@pytest.mark.parametrize("kind", ["cyclegan", "attention"])
def test_gradients_of_parts_add_up_to_those_of_the_batch(kind, tmp_path):
    losses, weights = trained(kind, 0, tmp_path)
    for micro_batch in (1, 3):
        parts_losses, parts_weights = trained(kind, micro_batch, tmp_path)
        assert parts_losses == pytest.approx(losses, rel=1e-9)
        torch.testing.assert_close(parts_weights, weights, rtol=1e-7, atol=1e-8)


def test_judge_of_b_learns_from_images_of_b():
    nets, _ = small_networks("cyclegan")
    real, fake = torch.rand(2, 2, 3, 32, 32, dtype=torch.float64)
    expected = 0.5 * (((nets.disc_b(real) - 1) ** 2).mean() + (nets.disc_b(fake) ** 2).mean())
    torch.testing.assert_close(discriminator_loss(nets.disc_b, real, fake), expected)


def test_softmax_tag_loss_reads_no_tag_as_class_zero():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
    tags = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    expected = -(logits.log_softmax(1)[0, 0] + logits.log_softmax(1)[1, 2]) / 2
    torch.testing.assert_close(tag_loss("cross_entropy")(logits, tags), expected)


def test_cut_is_where_object_and_rest_convince_equally():
    assert crossing((0.3, 0.5, 0.7), (0.4, 0.1, -0.3)) == pytest.approx(0.55)


def test_filled_hole_takes_the_colour_around_it_and_nothing_else_changes():
    image = np.full((20, 20, 3), (10, 200, 30), np.uint8)
    image[8:12, 8:12] = 255
    hole = np.zeros((20, 20), bool)
    hole[8:12, 8:12] = True
    assert np.abs(filled(image, hole).astype(int) - (10, 200, 30)).max() <= 1
    image[0, 0] = 77
    assert filled(image, hole)[0, 0].tolist() == [77, 77, 77]


def bright_object():
    """A dark image with a bright square, a classifier that sees brightness, three score maps."""
    image = np.full((40, 40, 3), 20, np.uint8)
    image[10:20, 10:20] = 220
    column, row = np.meshgrid(np.arange(40), np.arange(40))

    def hill(x, y):
        return (1 - np.hypot(row - y, column - x) / 40).clip(0, 1).astype(np.float32)

    def tag_prob(pixels):
        bright = (pixels.mean(1) > 0.6).flatten(1).sum(1)
        return (bright / 100).clamp(max=1).numpy()

    return image, tag_prob, hill(14.5, 14.5), hill(20.5, 14.5), hill(30.5, 30.5)


def test_erasing_shows_the_object_alone_and_the_image_without_it():
    image, tag_prob, there, _, elsewhere = bright_object()
    found = erase(image, there, tag_prob, "none")
    assert found.area.tolist() == [(there > cut).mean() for cut in CUTS]
    assert found.alone[CUTS.index(0.7)] == 1  # the hill above .7 holds the whole square
    assert found.without[CUTS.index(0.7)] == 0
    wrong = erase(image, elsewhere, tag_prob, "none")
    assert wrong.alone[-1] == 0
    assert wrong.without[-1] == 1


def test_the_map_that_sits_on_the_object_is_the_more_convincing_one():
    image, tag_prob, there, beside, elsewhere = bright_object()
    maps = {3: elsewhere, 1: beside, 2: there}
    curves = {name: [erase(image, score, tag_prob, "none")] for name, score in maps.items()}
    assert most_convincing(curves) == 2
    del curves[2]
    assert most_convincing(curves) == 1
    assert most_convincing({8: curves[1], 9: curves[1]}) == 8  # of equals the first


def test_maps_are_compared_at_equal_area_not_at_equal_cut():
    lead = np.linspace(0.9, 0.3, len(CUTS))
    zeros = np.zeros(len(CUTS))
    large = Erasure(np.linspace(0.9, 0.3, len(CUTS)), lead, zeros)
    small = Erasure(large.area / 2, lead, zeros)  # as convincing with half the area
    assert most_convincing({1: [large], 2: [small]}) == 2


def test_a_coarse_map_does_not_win_by_masks_that_are_large():
    fine = Erasure(np.linspace(0.19, 0.07, len(CUTS)), np.full(len(CUTS), 0.7), np.zeros(len(CUTS)))
    coarse = Erasure(np.linspace(0.6, 0.3, len(CUTS)), np.full(len(CUTS), 0.8), np.zeros(len(CUTS)))
    assert most_convincing({1: [coarse], 2: [fine]}) == 2


def test_where_the_object_alone_leads_at_every_cut_the_cut_is_the_largest_allowed():
    falling = np.linspace(0.9, 0.1, len(CUTS))
    area, zeros = np.linspace(0.5, 0.1, len(CUTS)), np.zeros(len(CUTS))
    assert balanced_cut(Erasure(area, falling, zeros)) == LARGEST_CUT
    crossed = Erasure(area, falling, falling[::-1])  # equal in the middle
    assert balanced_cut(crossed) == pytest.approx(CUTS[len(CUTS) // 2])


def test_the_record_of_the_cut_says_where_the_largest_one_allowed_decided():
    zeros, falling = np.zeros(len(CUTS)), np.linspace(0.9, 0.1, len(CUTS))
    leads = Erasure(zeros, falling, zeros)
    crossed = Erasure(zeros, falling, falling[::-1])
    at_the_cap = Erasure(zeros, np.where(np.array(CUTS) < LARGEST_CUT, 1.0, 0.5), zeros + 0.5)
    found = {"texture": leads, "thing": crossed, "edge": at_the_cap}
    record = cut_record(found)
    assert record["capped"] == {"texture": True, "thing": False, "edge": False}
    assert balanced_cut(at_the_cap) == LARGEST_CUT
    assert record["cuts"] == CUTS
    assert record["curves"]["texture"]["alone"] == [round(value, 4) for value in falling]


def test_images_are_drawn_for_each_class_from_those_that_have_it():
    tags = np.zeros((90, 2), bool)
    tags[:60, 0] = True
    tags[50:60, 1] = True
    drawn = drawn_rows(tags, range(5, 90), 48, 0, "x")
    assert [len(rows) for rows in drawn] == [24, 10]
    assert all(tags[row, k] and row >= 5 for k, rows in enumerate(drawn) for row in rows)
    assert drawn == drawn_rows(tags, range(5, 90), 48, 0, "x")
    assert drawn != drawn_rows(tags, range(5, 90), 48, 1, "x")


def test_paper_preset_is_the_paper():
    paper = TagsConfig(**PRESETS["paper"])
    published = {
        "image_size": 512,
        "folds": 10,
        "encoder": "vgg16",
        "classify_optimizer": "sgd",
        "classify_learning_rate": 1e-3,
        "classify_batch_size": 32,
        "classify_epochs": 100,
        "classify_validate_every_epochs": 10,
        "translate_image_size": 512,
        "translate_width": 64,
        "translate_blocks": 10,
        "translate_batch_size": 6,
        "translate_epochs": 550,
        "translate_learning_rate": 2e-4,
        "augment_images": 400,
        "cam_method": "score_cam",
        "cam_weighting": "cic",
        "cam_threshold": 0.4,
        "difference_threshold": 0.08,
        "difference_scale": "absolute",
        "pseudo_fusion": "intersection",
        "segment_rounds": 0,
    }
    assert {name: getattr(paper, name) for name in published} == published
