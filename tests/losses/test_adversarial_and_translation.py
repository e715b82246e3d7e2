import math

import pytest
import torch

from fewmask.losses import adversarial as adv
from fewmask.losses import translation as tr

REAL = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
FAKE = torch.tensor([[0.5, 0.0]], dtype=torch.float64)


class TestAdversarial:
    def test_least_squares_by_hand(self):
        assert adv.lsgan_generator_loss(FAKE).item() == pytest.approx((0.25 + 1) / 2)
        # real: (1 + 4) / 2, fake: (.25 + 0) / 2
        assert adv.lsgan_discriminator_loss(REAL, FAKE).item() == pytest.approx(0.5 * 2.625)

    def test_generator_and_judge_pull_fakes_apart(self):
        fake = torch.tensor([0.3], requires_grad=True)
        (up,) = torch.autograd.grad(adv.lsgan_generator_loss(fake), fake)
        (down,) = torch.autograd.grad(adv.lsgan_discriminator_loss(REAL.float(), fake), fake)
        assert up < 0 < down

    def test_judge_of_different_numbers_of_real_and_fake_weighs_them_equally(self):
        many = FAKE.repeat(1, 5)
        assert adv.lsgan_discriminator_loss(REAL, many) == adv.lsgan_discriminator_loss(REAL, FAKE)

    def test_cross_entropy_by_hand(self):
        def sigmoid(x):
            return 1 / (1 + math.exp(-x))

        generator = -(math.log(sigmoid(0.5)) + math.log(sigmoid(0.0))) / 2
        judge = -(math.log(sigmoid(2.0)) + math.log(sigmoid(-1.0))) / 2
        judge -= (math.log(1 - sigmoid(0.5)) + math.log(1 - sigmoid(0.0))) / 2
        assert adv.log_generator_loss(FAKE).item() == pytest.approx(generator)
        assert adv.log_discriminator_loss(REAL, FAKE).item() == pytest.approx(judge)

    def test_cross_entropy_of_a_sure_judge_still_teaches_the_generator(self):
        fake = torch.tensor([-50.0], requires_grad=True)
        adv.log_generator_loss(fake).backward()
        assert fake.grad.item() == pytest.approx(-1.0)

    def test_gradcheck(self):
        real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
        assert torch.autograd.gradcheck(adv.lsgan_discriminator_loss, (real, fake))
        assert torch.autograd.gradcheck(adv.lsgan_generator_loss, (fake,))
        assert torch.autograd.gradcheck(adv.log_discriminator_loss, (real, fake))
        assert torch.autograd.gradcheck(adv.log_generator_loss, (fake,))


class TestTranslation:
    @pytest.mark.parametrize("loss", [tr.cycle_loss, tr.identity_loss, tr.reconstruction_loss])
    def test_mean_absolute_difference(self, loss):
        assert loss(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 1.0])).item() == 1.25

    def test_latent_kl_is_that_of_torch_s_normal_distributions(self):
        mean = torch.randn(2, 3, 4, 5, dtype=torch.float64)
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mean, 1.0), normal(torch.zeros(()), 1.0))
        assert tr.latent_kl_loss(mean).item() == pytest.approx(kl.mean().item(), rel=1e-12)

    def test_perceptual_loss_equals_the_loop(self):
        x, y = torch.randn(2, 2, 3, 2, 4, dtype=torch.float64)
        plain = [(p - q) ** 2 for p, q in zip(x.flatten().tolist(), y.flatten().tolist())]  # noqa: B905
        assert tr.perceptual_loss(x, y, normalise=False).item() == pytest.approx(sum(plain) / 48)
        terms = []
        for n in range(2):
            for c in range(3):
                both = []
                for features in (x, y):
                    values = features[n, c].flatten().tolist()
                    mean = sum(values) / 8
                    variance = sum((v - mean) ** 2 for v in values) / 8
                    both.append([(v - mean) / math.sqrt(variance + 1e-5) for v in values])
                terms += [(p - q) ** 2 for p, q in zip(*both, strict=True)]
        assert tr.perceptual_loss(x, y).item() == pytest.approx(sum(terms) / len(terms))

    def test_perceptual_loss_does_not_mind_brightness_and_contrast_of_a_channel(self):
        x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
        dark = x * torch.tensor([0.2, 0.5, 3.0]).view(3, 1, 1) - 0.4
        assert tr.perceptual_loss(x, dark).item() < 0.01
        assert tr.perceptual_loss(x, dark, normalise=False).item() > 0.1

    def test_sparsity_is_the_mean(self):
        attention = torch.tensor([[[[0.0, 0.5], [0.5, 1.0]]]])
        assert tr.attention_area_loss(attention).item() == 0.5

    @pytest.mark.parametrize(("target", "sign"), [(0.2, 1), (0.8, -1)])
    def test_area_is_approached_from_both_sides(self, target, sign):
        attention = torch.full((2, 1, 2, 2), 0.5, requires_grad=True)
        loss = tr.attention_area_loss(attention, target)
        loss.backward()
        assert loss.item() == pytest.approx(0.3)
        assert torch.allclose(attention.grad, torch.full_like(attention, sign / 8))

    def test_area_is_of_the_batch_not_of_each_image(self):
        attention = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
        assert tr.attention_area_loss(attention, 0.5).item() == 0

    def test_total_variation_equals_the_loop(self):
        m = torch.rand(2, 1, 3, 5, dtype=torch.float64)
        a = m.numpy()[:, 0]
        vertical = [abs(a[n, y + 1, x] - a[n, y, x])
                    for n in range(2) for y in range(2) for x in range(5)]  # fmt: skip
        horizontal = [abs(a[n, y, x + 1] - a[n, y, x])
                      for n in range(2) for y in range(3) for x in range(4)]  # fmt: skip
        expected = sum(vertical) / len(vertical) + sum(horizontal) / len(horizontal)
        assert tr.total_variation(m).item() == pytest.approx(expected, rel=1e-12)

    def test_total_variation_of_flat_and_of_one_pixel_wide_maps(self):
        assert tr.total_variation(torch.full((1, 1, 3, 3), 0.7)).item() == 0
        assert tr.total_variation(torch.tensor([[[[0.0], [1.0]]]])).item() == 1

    def test_gradcheck(self):
        torch.manual_seed(0)
        m = torch.rand(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
        other = torch.rand(1, 1, 3, 3, dtype=torch.float64)
        assert torch.autograd.gradcheck(tr.total_variation, (m,))
        assert torch.autograd.gradcheck(lambda x: tr.cycle_loss(x, other), (m,))
        assert torch.autograd.gradcheck(lambda x: tr.attention_area_loss(x, 0.9), (m,))


class TestStyleGan2Regularisers:
    @staticmethod
    def judge(image):
        weight = torch.linspace(-1, 1, image[0].numel(), dtype=torch.float64).reshape(
            image[0].shape
        )
        return (image * weight).sum((1, 2, 3)).tanh() + image.square().sum((1, 2, 3))

    @staticmethod
    def draw(ws):
        """An image (N, 2, 4, 3) of styles (N, 3, 5), not linear in them."""
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(15, 24, dtype=torch.float64, generator=generator)
        return (ws.flatten(1) @ weight).sin().reshape(-1, 2, 4, 3)

    def test_r1_against_finite_differences(self):
        real = torch.rand(3, 2, 4, 3, dtype=torch.float64)
        step, total = 1e-6, 0.0
        for index in range(real[0].numel()):
            shift = torch.zeros_like(real[0]).flatten()
            shift[index] = step
            shift = shift.reshape(real[0].shape)
            slope = (self.judge(real + shift) - self.judge(real - shift)) / (2 * step)
            total += slope.square().sum().item()
        real.requires_grad_()
        got = adv.r1_penalty(self.judge(real), real)
        assert got.item() == pytest.approx(total / 3, rel=1e-7)

    def test_r1_teaches_the_judge(self):
        weight = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        real = torch.ones(2, 1, 1, 1, dtype=torch.float64, requires_grad=True)
        adv.r1_penalty((weight * real).sum((1, 2, 3)), real).backward()
        assert weight.grad.item() == pytest.approx(2 * 3.0)  # d w² / d w

    def test_path_lengths_against_the_whole_jacobian(self):
        ws = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
        direction = torch.randn(2, 2, 4, 3, dtype=torch.float64)
        got = adv.path_lengths(self.draw(ws), ws, direction)
        for n in range(2):
            jacobian = torch.autograd.functional.jacobian(
                lambda w: self.draw(w[None])[0].flatten(), ws[n].detach()
            )  # (24, 3, 5)
            moved = torch.einsum("pld,p->ld", jacobian, direction[n].flatten()) / math.sqrt(12)
            expected = math.sqrt(moved.square().sum(1).mean())
            assert got[n].item() == pytest.approx(expected, rel=1e-9)

    def test_path_lengths_can_be_differentiated(self):
        ws = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
        direction = torch.randn(2, 2, 4, 3, dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda w: adv.path_lengths(self.draw(w), w, direction), (ws,)
        )
