import math

import pytest
import torch
from torch import nn

from fewmask.models.blocks import count_parameters
from fewmask.models.unit import MultiScaleDiscriminator, Unit, sample


def image(height=16, width=24, batch=2):
    return torch.rand(batch, 3, height, width) * 2 - 1


def conv(before, after, kernel):
    return before * after * kernel * kernel + after


class TestSharing:
    def test_the_latent_layers_are_the_same_objects_in_both_domains(self):
        unit = Unit(4, 1)
        assert unit.a.shared_encoder is unit.b.shared_encoder
        assert unit.a.shared_decoder is unit.b.shared_decoder
        shared = {id(p) for p in unit.a.shared_encoder.parameters()}
        shared |= {id(p) for p in unit.a.shared_decoder.parameters()}
        assert len(shared) == 8  # two convolutions each, with weight and bias
        assert shared <= {id(p) for p in unit.parameters()}

    def test_the_other_layers_are_not(self):
        unit = Unit(4, 1)
        own = [{id(p) for p in net.parameters()} for net in
               (unit.encoder_a, unit.encoder_b, unit.decoder_a, unit.decoder_b)]  # fmt: skip
        assert sum(map(len, own)) == len(set().union(*own))

    def test_each_domain_teaches_the_shared_layers(self):
        unit = Unit(4, 1)
        for vae in (unit.a, unit.b):
            unit.zero_grad()
            vae.decode(vae.encode(image())).square().mean().backward()
            for part in (unit.shared_encoder, unit.shared_decoder):
                assert all(p.grad.abs().sum() > 0 for p in part.parameters() if p.ndim > 1)

    def test_shared_layers_are_stored_once(self):
        names = Unit(4, 1).state_dict()
        assert len({tensor.data_ptr() for tensor in names.values()}) == len(names)


class TestShapesAndCounts:
    def test_latent_is_a_quarter_of_the_side(self):
        unit = Unit(4, 1)
        latent = unit.a.encode(image())
        assert latent.shape == (2, 16, 4, 6)
        assert unit.b.decode(latent).shape == (2, 3, 16, 24)

    @pytest.mark.parametrize("size", [(8, 8), (9, 13), (30, 17)])
    @pytest.mark.parametrize("to", ["a", "b"])
    def test_any_size_is_translated_to_itself(self, size, to):
        real = image(*size)
        fake = Unit(4, 1)(real, to)
        assert fake.shape == real.shape
        assert fake.abs().max() <= 1

    def test_direction(self):
        unit = Unit(4, 1)
        real = image()
        assert torch.equal(unit(real, "b"), unit.b.decode(unit.a.encode(real)))
        assert torch.equal(unit(real, "a"), unit.a.decode(unit.b.encode(real)))

    def test_published_count_follows_from_the_table(self):
        residual = 2 * conv(256, 256, 3)
        encoder = conv(3, 64, 7) + conv(64, 128, 3) + conv(128, 256, 3) + 3 * residual
        decoder = 3 * residual + conv(256, 128, 3) + conv(128, 64, 3) + conv(64, 3, 1)
        norms = 2 * 128 + 2 * 64
        expected = 2 * encoder + 2 * (decoder + norms) + 2 * residual
        with torch.device("meta"):
            assert count_parameters(Unit()) == (expected, expected)

    def test_published_judge(self):
        one = conv(3, 64, 4) + conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 512, 4)
        with torch.device("meta"):
            assert count_parameters(MultiScaleDiscriminator())[0] == 3 * (one + conv(512, 1, 1))


class TestDecoderNorm:
    def test_layer_norm_is_over_channels_and_pixels_of_each_image(self):
        unit = Unit(4, 1)
        (norm, _) = [m for m in unit.decoder_a if isinstance(m, nn.GroupNorm)]
        features = torch.rand(2, 8, 3, 5) * 4 + 1
        flat = features.flatten(1)
        expected = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True, correction=0)
        assert torch.allclose(norm(features).flatten(1), expected, atol=1e-4)

    def test_instance_norm_is_the_switch(self):
        kinds = {type(m) for m in Unit(4, 1, "instance").decoder_b}
        assert nn.GroupNorm not in kinds
        assert nn.InstanceNorm2d in kinds


class TestJudge:
    def test_one_map_of_logits_a_scale(self):
        shapes = [tuple(x.shape) for x in MultiScaleDiscriminator(4)(image(64, 128))]
        assert shapes == [(2, 1, 4, 8), (2, 1, 2, 4), (2, 1, 1, 2)]

    def test_each_scale_sees_the_image_halved(self):
        judge = MultiScaleDiscriminator(4, layers=2, scales=2)
        real = image(16, 16)
        assert torch.equal(judge(real)[1], judge.judges[1](judge.halve(real)))
        flat = torch.full((1, 3, 8, 8), 0.3)
        assert torch.allclose(judge.halve(flat), torch.full((1, 3, 4, 4), 0.3))  # no dark border

    def test_every_parameter_gets_a_gradient(self):
        judge = MultiScaleDiscriminator(4)
        sum(x.square().mean() for x in judge(image(64, 64))).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.parameters())


def test_every_parameter_gets_a_gradient():
    unit = Unit(4, 2)
    loss = torch.zeros(())
    for source, target in ((unit.a, unit.b), (unit.b, unit.a)):
        mean = source.encode(image())
        loss = loss + target.decode(sample(mean)).square().mean() + mean.square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unit.parameters())
    weights = [p for p in unit.parameters() if p.ndim > 1]
    assert all(p.grad.abs().sum() > 0 for p in weights)


def test_latent_codes_are_drawn_around_the_mean_with_variance_one():
    mean = torch.tensor([-2.0, 5.0]).repeat(50_000, 1)
    drawn = sample(mean)
    assert torch.allclose(drawn.mean(0), mean[0], atol=4 / math.sqrt(50_000))
    assert torch.allclose(drawn.var(0), torch.ones(2), atol=0.03)
