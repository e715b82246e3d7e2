import pytest
import torch
from torch import nn

from fewmask.models.blocks import ResidualBlock, count_parameters
from fewmask.models.cyclegan import (
    AttentionGenerator,
    Discriminator,
    Generator,
    Translation,
    translate,
)
from fewmask.models.published import published_networks


def image(height, width, batch=1):
    return torch.rand(batch, 3, height, width) * 2 - 1


class TestPublishedTables:
    def test_counts(self):
        assert {n.name: (n.parameters, n.trainable) for n in published_networks()} == {
            "VGG16 classifier": (135_309_890, 1_049_346),
            "CycleGAN generator": (12_542_979, 12_542_979),
            "CycleGAN discriminator": (662_977, 662_977),
            "supervised U-Net": (31_031_810, 31_031_810),
            "UNIT, both auto-encoders": (18_018_054, 18_018_054),
            "UNIT discriminator, three sizes": (8_271_171, 8_271_171),
            "Panoptic FPN, ResNet-101, 19 classes": (45_110_483, 45_110_483),
            "StyleGAN2 generator, 256 px": (24_767_458, 24_767_458),
            "StyleGAN2 discriminator, 256 px": (24_001_089, 24_001_089),
        }

    def test_every_count_in_print_is_met(self):
        assert all(n.published in (None, n.parameters) for n in published_networks())

    def test_generator_layer_by_layer(self):
        with torch.device("meta"):
            sizes = [count_parameters(m)[0] for m in Generator().modules() if _is_conv(m)]
        residual = [590_080] * 20
        assert sizes == [1_792, 73_856, 295_168, *residual, 295_040, 73_792, 1_731]

    def test_discriminator_layer_by_layer(self):
        with torch.device("meta"):
            sizes = [count_parameters(m)[0] for m in Discriminator().modules() if _is_conv(m)]
        assert sizes == [3_136, 131_200, 524_544, 4_097]

    def test_shapes_at_512_px(self):
        with torch.device("meta"):
            big = torch.empty(1, 3, 512, 512)
            assert Discriminator()(big).shape == (1, 1, 63, 63)
            assert Generator()(big).shape == big.shape

    def test_first_and_last_layer_of_the_judge_are_not_normalised(self):
        kinds = [type(m).__name__ for m in Discriminator(2).layers]
        assert kinds == [
            "Conv2d", "LeakyReLU",
            "Conv2d", "InstanceNorm2d", "LeakyReLU",
            "Conv2d", "InstanceNorm2d", "LeakyReLU",
            "Conv2d",
        ]  # fmt: skip


class TestGenerators:
    @pytest.mark.parametrize("kind", [Generator, AttentionGenerator])
    @pytest.mark.parametrize("size", [(5, 5), (16, 16), (33, 47)])
    def test_any_size_in_range(self, kind, size):
        out, attention = translate(kind(4, 2), image(*size, batch=2))
        assert out.shape == (2, 3, *size)
        assert out.abs().max() <= 1
        if kind is AttentionGenerator:
            assert attention.shape == (2, 1, *size)
            assert 0 <= attention.min() <= attention.max() <= 1
        else:
            assert attention is None

    @pytest.mark.parametrize("network", [Generator(4, 2), AttentionGenerator(4, 2)])
    def test_every_parameter_gets_a_gradient(self, network):
        out, _ = translate(network, image(16, 20))
        (out - 0.3).square().mean().backward()
        assert all(p.grad is not None for p in network.parameters())
        weights = [p for name, p in network.named_parameters() if name.endswith("weight")]
        assert all(p.grad.abs().sum() > 0 for p in weights)

    def test_attention_mixes_input_and_content(self):
        """Head set by hand: content is tanh(0) = 0, so the output is (1 - m) x."""
        network = AttentionGenerator(2, 1)
        head = network.layers.network[-1]
        nn.init.zeros_(head.weight)
        with torch.no_grad():
            head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -1.0986123]))  # sigmoid = 0.25
        real = image(8, 8)
        out, attention = translate(network, real)
        assert torch.allclose(attention, torch.full((1, 1, 8, 8), 0.25))
        assert torch.allclose(out, 0.75 * real, atol=1e-6)

    def test_translation_is_a_pair(self):
        assert Translation._fields == ("image", "attention")

    def test_residual_block_adds_its_input(self):
        block = ResidualBlock(2)
        features = torch.rand(1, 2, 4, 4)
        assert torch.allclose(block(features) - features, block.body(features), atol=1e-6)

    def test_initial_weights_are_cyclegans(self):
        network = Generator(32, 2)
        weights = torch.cat([m.weight.detach().flatten() for m in network.modules() if _is_conv(m)])
        assert weights.mean().abs() < 2e-4
        assert weights.std() == pytest.approx(0.02, rel=0.01)
        assert all((m.bias == 0).all() for m in network.modules() if _is_conv(m))

    def test_state_dict_round_trip(self):
        first, second = AttentionGenerator(4, 1), AttentionGenerator(4, 1)
        real = image(12, 12)
        assert not torch.equal(first(real).image, second(real).image)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(real).image, second(real).image)


class TestDiscriminator:
    @pytest.mark.parametrize(("height", "width"), [(24, 24), (33, 47), (64, 96)])
    def test_one_logit_per_patch(self, height, width):
        shape = Discriminator(4)(image(height, width)).shape
        assert shape == (1, 1, height // 8 - 1, width // 8 - 1)

    def test_every_weight_gets_a_gradient(self):
        network = Discriminator(4)
        network(image(32, 32)).square().mean().backward()
        assert all(p.grad is not None for p in network.parameters())
        weights = [p for name, p in network.named_parameters() if name.endswith("weight")]
        assert all(p.grad.abs().sum() > 0 for p in weights)


def _is_conv(module):
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
