import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from fewmask.models.blocks import count_parameters
from fewmask.models.stylegan2 import Discriminator, Generator, Mapping, minibatch_deviation
from fewmask.models.stylegan2_ops import (
    EqualConv2d,
    EqualLinear,
    downsample,
    low_pass,
    modulated_conv2d,
    upfirdn2d,
    upsample,
)

SMALL = {"base": 256, "most": 12}


def generator(size=16, **changes):
    return Generator(size, z_dim=10, w_dim=14, depth=2, **SMALL | changes)


def naive_upfirdn(image, fir, up, down, pad):
    """Sum by sum: zeros between, zeros around, convolution, every down-th pixel."""
    count, channels, height, width = image.shape
    left, right, above, below = pad
    big = np.zeros((count, channels, height * up + above + below, width * up + left + right))
    inner = np.zeros((count, channels, height * up, width * up))
    inner[:, :, ::up, ::up] = image
    for y in range(big.shape[2]):
        for x in range(big.shape[3]):
            if 0 <= y - above < height * up and 0 <= x - left < width * up:
                big[:, :, y, x] = inner[:, :, y - above, x - left]
    taps = len(fir)
    rows, columns = big.shape[2] - taps + 1, big.shape[3] - taps + 1
    out = np.zeros((count, channels, rows, columns))
    for y in range(rows):
        for x in range(columns):
            for i in range(taps):
                for j in range(taps):
                    weight = fir[taps - 1 - i] * fir[taps - 1 - j]
                    out[:, :, y, x] += weight * big[:, :, y + i, x + j]
    return out[:, :, ::down, ::down]


class TestResampling:
    @pytest.mark.parametrize("up", [1, 2, 3])
    @pytest.mark.parametrize("down", [1, 2])
    @pytest.mark.parametrize("pad", [(0, 0, 0, 0), (2, 1, 0, 3), (-1, 2, 1, -1)])
    def test_against_sums(self, up, down, pad):
        image = torch.randn(2, 3, 5, 6, dtype=torch.float64)
        fir = torch.tensor([0.1, 0.7, -0.4, 0.3], dtype=torch.float64)
        expected = naive_upfirdn(image.numpy(), fir.numpy(), up, down, pad)
        got = upfirdn2d(image, fir, up, down, pad).numpy()
        np.testing.assert_allclose(got, expected, atol=1e-12)

    def test_enlarging_keeps_the_brightness_and_the_place(self):
        big = upsample(torch.full((1, 1, 6, 6), 0.7), low_pass())
        assert big.shape == (1, 1, 12, 12)
        torch.testing.assert_close(big[..., 2:-2, 2:-2], torch.full((1, 1, 8, 8), 0.7))
        ramp = torch.arange(8.0).expand(1, 1, 8, 8)
        inner = upsample(ramp, low_pass())[0, 0, 8, 2:-2]  # pixel centres: (j + ½) / 2 − ½
        torch.testing.assert_close(inner, (torch.arange(2.0, 14.0) + 0.5) / 2 - 0.5)

    def test_halving_keeps_the_brightness_and_the_place(self):
        ramp = torch.arange(12.0).expand(1, 1, 12, 12)
        small = downsample(ramp, low_pass())
        assert small.shape == (1, 1, 6, 6)
        torch.testing.assert_close(small[0, 0, 3, 1:-1], 2 * torch.arange(1.0, 5.0) + 0.5)


class TestModulatedConvolution:
    @staticmethod
    def naive(x, weight, style, demodulate, fir):
        """Equations 1 to 3: weights for each image, on an image that is enlarged beforehand."""
        images = []
        for image, scales in zip(x, style, strict=True):
            own = weight * scales[None, :, None, None]
            if demodulate:
                own = own / torch.sqrt(own.square().sum((1, 2, 3), keepdim=True) + 1e-8)
            image = image[None] if fir is None else upsample(image[None], fir)
            images.append(functional.conv2d(image, own, padding=weight.shape[-1] // 2))
        return torch.cat(images)

    @pytest.mark.parametrize("kernel", [1, 3])
    @pytest.mark.parametrize("demodulate", [True, False])
    @pytest.mark.parametrize("up", [True, False])
    def test_against_the_papers_equations(self, kernel, demodulate, up):
        x = torch.randn(3, 4, 6, 5, dtype=torch.float64)
        weight = torch.randn(7, 4, kernel, kernel, dtype=torch.float64)
        style = torch.randn(3, 4, dtype=torch.float64)
        fir = low_pass().double() if up else None
        got = modulated_conv2d(x, weight, style, demodulate=demodulate, fir=fir)
        expected = self.naive(x, weight, style, demodulate, fir)
        if up:  # beyond the border the one sees zeros, the other the filter's tail
            got, expected = got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1]
        torch.testing.assert_close(got, expected)

    def test_outputs_have_unit_variance_whatever_the_style(self):
        x = torch.randn(2, 64, 32, 32)
        style = torch.stack([torch.full((64,), 0.01), torch.linspace(1, 50, 64)])
        out = modulated_conv2d(x, torch.randn(16, 64, 3, 3), style)
        assert out.std((1, 2, 3)).sub(1).abs().max() < 0.05

    def test_can_be_differentiated_twice(self):
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
        style = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        fir = low_pass().double()
        assert torch.autograd.gradgradcheck(
            lambda *a: modulated_conv2d(*a, fir=fir), (x, weight, style)
        )


class TestEqualisedLayers:
    def test_outputs_have_the_inputs_variance_at_the_start(self):
        linear, conv = EqualLinear(512, 4096), EqualConv2d(64, 64, 3)
        assert linear(torch.randn(8, 512)).std().item() == pytest.approx(1, abs=0.05)
        assert conv(torch.randn(4, 64, 32, 32)).std().item() == pytest.approx(1, abs=0.05)

    def test_rate_scales_what_a_step_changes_and_nothing_else(self):
        slow, x = EqualLinear(30, 5, bias=0.7, rate=0.01), torch.randn(2, 30)
        expected = x @ (slow.weight * 0.01).T / math.sqrt(30) + 0.7
        torch.testing.assert_close(slow(x), expected)
        assert slow.weight.std().item() == pytest.approx(100, rel=0.3)

    @pytest.mark.parametrize("kernel", [1, 3])
    def test_halving_is_filter_then_every_second_output(self, kernel):
        conv, x = EqualConv2d(3, 4, kernel, down=True), torch.randn(2, 3, 8, 12)
        blurred = upfirdn2d(x, low_pass(), pad=(2, 2, 2, 2))  # one more than x on both axes
        weight = conv.weight / math.sqrt(3 * kernel**2)
        inner = blurred if kernel == 3 else blurred[..., 1:-1, 1:-1]
        torch.testing.assert_close(conv(x), functional.conv2d(inner, weight)[..., ::2, ::2])


class TestGenerator:
    def test_published_features_are_14_maps_with_4992_channels(self):
        with torch.device("meta"):
            network = Generator()
            made = network(torch.randn(2, 512), noise="none", features=True)
        assert made.image.shape == (2, 3, 256, 256)
        assert [f.shape[1] for f in made.features] == network.synthesis.feature_channels
        assert len(made.features) == 14
        assert sum(f.shape[1] for f in made.features) == 4992
        assert [f.shape[2] for f in made.features] == [
            size for size in (4, 8, 16, 32, 64, 128, 256) for _ in range(2)
        ]

    def test_published_parameter_count_follows_from_the_layers(self):
        width = [512, 512, 512, 512, 256, 128, 64]
        mapping = 8 * (512 * 512 + 512)

        def style_layer(before, after):  # style, weights, bias, strength of the noise
            return 512 * before + before + 9 * before * after + after + 1

        def to_image(before):
            return 512 * before + before + 3 * before + 3

        synthesis = 512 * 16 + style_layer(512, 512) + to_image(512)
        for before, after in pairwise(width):
            synthesis += style_layer(before, after) + style_layer(after, after) + to_image(after)
        with torch.device("meta"):
            assert count_parameters(Generator()) == (mapping + synthesis,) * 2
        assert mapping + synthesis == 24_767_458

    def test_first_feature_map_is_the_constant_of_all_images(self):
        network = generator()
        made = network(torch.randn(3, 10), features=True)
        for image in made.features[0]:
            assert torch.equal(image, network.synthesis.constant)

    def test_every_parameter_gets_a_gradient(self):
        network = generator()
        network(torch.randn(4, 10)).image.square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_noise(self):
        network, z = generator(), torch.randn(2, 10)
        for layer in network.synthesis.layers:
            layer.noise_strength.data.fill_(0.5)
        none, fixed = network(z, noise="none").image, network(z, noise="fixed").image
        assert torch.equal(none, network(z, noise="none").image)
        assert torch.equal(fixed, network(z, noise="fixed").image)
        assert not torch.allclose(none, fixed)
        drawn = network(z[:1].expand(2, -1)).image
        assert not torch.allclose(drawn[0], drawn[1])

    def test_images_are_made_one_by_one(self):
        """No image of a batch depends on another one."""
        network, z = generator(), torch.randn(3, 10)
        together = network(z, noise="none").image
        alone = torch.cat([network(one[None], noise="none").image for one in z])
        torch.testing.assert_close(together, alone)

    def test_truncation_pulls_to_the_mean_of_w(self):
        network, z = generator(), torch.randn(2, 10)
        network.mapping.average.copy_(torch.randn(14))
        mean = network.synthesis(network.broadcast(network.mapping.average[None]), "none").image
        torch.testing.assert_close(network(z, 0.0, "none").image, mean.expand(2, -1, -1, -1))
        assert not torch.allclose(network(z, 1.0, "none").image, network(z, 0.5, "none").image)

    def test_mean_of_w_follows_slowly(self):
        mapping = Mapping(10, 14, 2)
        mapping.follow(torch.stack([torch.full((14,), 1.0), torch.full((14,), 3.0)]))
        torch.testing.assert_close(mapping.average, torch.full((14,), 0.005 * 2))

    def test_length_of_z_does_not_matter(self):
        mapping, z = Mapping(10, 14, 2), torch.randn(2, 10)
        torch.testing.assert_close(mapping(z), mapping(7 * z))

    def test_mixing_takes_the_other_style_from_its_layer_on(self):
        network = generator()
        assert network.synthesis.num_ws == 6  # 4, 8, 8, 16, 16, and the last image layer
        w, other = torch.zeros(2, 14), torch.ones(2, 14)
        ws = network.mix(w, other, [2, 6])
        assert ws[:, :, 0].tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]


class TestDiscriminator:
    def test_published_parameter_count_follows_from_the_layers(self):
        width = [64, 128, 256, 512, 512, 512, 512]
        count = 3 * 64 + 64
        for before, after in pairwise(width):
            count += 9 * before * before + before + 9 * before * after + after + before * after
        count += 9 * 513 * 512 + 512 + 512 * 16 * 512 + 512 + 512 + 1
        with torch.device("meta"):
            assert count_parameters(Discriminator()) == (count, count)
        assert count == 24_001_089

    def test_one_logit_an_image_and_a_gradient_for_every_parameter(self):
        network = Discriminator(16, **SMALL, group=2)
        logits = network(torch.randn(4, 3, 16, 16))
        assert logits.shape == (4,)
        logits.square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_deviation_of_a_group_by_hand(self):
        x = torch.tensor([0.0, 1.0, 4.0, 1.0])[:, None, None, None].expand(4, 2, 3, 3)
        got = minibatch_deviation(x, 2)  # groups: images 0 and 2, images 1 and 3
        assert got.shape == (4, 1, 3, 3)
        torch.testing.assert_close(got[:, 0, 0, 0], torch.tensor([2.0, 1e-4, 2.0, 1e-4]))

    @pytest.mark.parametrize(("count", "group"), [(1, 8), (5, 4), (6, 4), (12, 8)])
    def test_any_batch_is_judged(self, count, group):
        assert Discriminator(8, **SMALL, group=group)(torch.randn(count, 3, 8, 8)).shape == (count,)
