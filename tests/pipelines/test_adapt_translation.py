"""UNIT's objective against a naive one, and what a step of it changes."""

import math

import numpy as np
import pytest
import torch

from fewmask.data.street import STREET_CLASS_NAMES, make_street
from fewmask.models.features import content_features
from fewmask.pipelines import adapt_translation
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.adapt_data import cut_domains, open_domains
from fewmask.pipelines.adapt_translation import (
    crop_side,
    judges_loss,
    load_unit,
    new_unit,
    random_crop,
    train_unit,
    translate_image,
    unit_loss,
    unit_step,
)
from fewmask.training.loop import Loop
from fewmask.training.run_folder import RunFolder
from fewmask.training.workspace import Workspace, prepare

SMALL = AdaptConfig(
    translate_width=4,
    translate_blocks=1,
    translate_discriminator_width=4,
    translate_scales=2,
    translate_learning_rate=1e-3,
)


def networks(dtype=torch.float64):
    torch.manual_seed(0)
    nets = new_unit(SMALL)
    for net in nets:
        net.to(dtype)
    return nets


def images(dtype=torch.float64):
    torch.manual_seed(1)
    return torch.rand(2, 2, 3, 32, 48, dtype=dtype) * 2 - 1


def pool(image):
    """Features that a loop can follow: block means of squares."""
    return torch.nn.functional.avg_pool2d(image**2, 4)


def test_the_published_weights_are_the_defaults():
    config = AdaptConfig()
    weights = {n.removeprefix("translate_lambda_"): v for n, v in config if "lambda" in n}
    assert weights == {"gan": 10, "kl": 0.1, "reconstruction": 100, "cycle_kl": 0.1, "cycle": 100,
                       "perceptual": 1}  # fmt: skip


def test_objective_is_the_sum_of_the_published_terms(monkeypatch):
    nets, (real_a, real_b) = networks(), images()
    drawn = []

    def sample(mean):
        drawn.append(torch.randn_like(mean))
        return mean + drawn[-1]

    monkeypatch.setattr(adapt_translation, "sample", sample)
    loss, terms, fake_a, fake_b = unit_loss(nets, pool, real_a, real_b, SMALL)
    noise_a, noise_b, noise_fake_b, noise_fake_a = drawn

    unit = nets.unit

    def encode(domain, x):
        own = unit.encoder_a if domain == "a" else unit.encoder_b
        return unit.shared_encoder(own(x))

    def decode(domain, z):
        own = unit.decoder_a if domain == "a" else unit.decoder_b
        return own(unit.shared_decoder(z))

    def kl(mean):  # of N(μ, I) from N(0, I), per value
        values = mean.flatten().tolist()
        return sum(v * v / 2 for v in values) / len(values)

    def l1(x, y):
        pairs = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
        return sum(abs(p - q) for p, q in pairs) / x.numel()

    def fools(disc, fake):
        scales = []
        for logits in disc(fake):
            values = [-math.log(1 / (1 + math.exp(-v))) for v in logits.flatten().tolist()]
            scales.append(sum(values) / len(values))
        return sum(scales) / len(scales)

    def style_free(x):
        x = pool((x + 1) / 2)
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
        return (x - mean) / (var + 1e-5).sqrt()

    m_a, m_b = encode("a", real_a), encode("b", real_b)
    to_b, to_a = decode("b", m_a + noise_a), decode("a", m_b + noise_b)
    m_to_b, m_to_a = encode("b", to_b), encode("a", to_a)
    expected = {
        "gan": fools(nets.disc_b, to_b) + fools(nets.disc_a, to_a),
        "kl": kl(m_a) + kl(m_b),
        "reconstruction": l1(decode("a", m_a + noise_a), real_a)
        + l1(decode("b", m_b + noise_b), real_b),
        "cycle_kl": kl(m_a) + kl(m_to_b) + kl(m_b) + kl(m_to_a),
        "cycle": l1(decode("a", m_to_b + noise_fake_b), real_a)
        + l1(decode("b", m_to_a + noise_fake_a), real_b),
        "perceptual": ((style_free(to_b) - style_free(real_a)) ** 2).mean().item()
        + ((style_free(to_a) - style_free(real_b)) ** 2).mean().item(),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-9)
    weights = {"gan": 10, "kl": 0.1, "reconstruction": 100, "cycle_kl": 0.1, "cycle": 100,
               "perceptual": 1}  # fmt: skip
    assert loss.item() == pytest.approx(sum(weights[k] * expected[k] for k in weights), rel=1e-9)
    assert torch.equal(fake_a, to_a.detach())
    assert torch.equal(fake_b, to_b.detach())


def test_perceptual_loss_can_be_left_out():
    nets, real = networks(), images()
    _, terms, *_ = unit_loss(nets, None, *real, SMALL)
    assert terms["perceptual"] == 0
    off = SMALL.replaced(translate_lambda_perceptual=0.0)
    _, terms, *_ = unit_loss(nets, pool, *real, off)
    assert terms["perceptual"] == 0


def test_every_parameter_of_the_auto_encoders_gets_a_gradient():
    nets, real = networks(), images()
    unit_loss(nets, pool, *real, SMALL)[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in nets.unit.parameters())
    assert all(p.grad.abs().sum() > 0 for p in nets.unit.parameters() if p.ndim > 1)


def test_a_judge_tells_real_from_fake_at_every_scale():
    nets, (real, fake) = networks(), images()
    scales = []
    for of_real, of_fake in zip(nets.disc_b(real), nets.disc_b(fake), strict=True):
        p_real, p_fake = of_real.sigmoid(), of_fake.sigmoid()
        scales.append(-(p_real.log().mean() + (1 - p_fake).log().mean()))
    expected = 10 * sum(scales) / len(scales)
    torch.testing.assert_close(judges_loss(nets.disc_b, real, fake, SMALL), expected)


def ramps():
    """A domain of dark and one of light ramps."""
    ramp = torch.linspace(-0.8, 0.2, 48).expand(2, 3, 32, 48)
    return ramp, ramp.flip(-1) + 0.6


def trained(folder, steps, features):
    nets = networks(torch.float32)
    judges = [*nets.disc_a.parameters(), *nets.disc_b.parameters()]
    adam = {"lr": SMALL.translate_learning_rate, "betas": (0.5, 0.999)}
    optimizers = {
        "optimizer_unit": torch.optim.Adam(nets.unit.parameters(), **adam),
        "optimizer_judges": torch.optim.Adam(judges, **adam),
    }
    run = RunFolder.create(folder / "run", {"pipeline": "none", "settings": {}})
    run.quiet = True
    loop = Loop(run.stage(1, "train", "key"), steps, seed=3, state={}, resumable=False)
    before = [p.detach().clone() for net in nets for p in net.parameters()]
    records = [unit_step(nets, features, optimizers, *ramps(), SMALL, loop)
               for _ in loop]  # fmt: skip
    after = [p.detach() for net in nets for p in net.parameters()]
    return nets, records, [not torch.equal(x, y) for x, y in zip(before, after, strict=True)]


def test_a_step_changes_both_auto_encoders_and_both_judges(tmp_path):
    nets, records, changed = trained(tmp_path, 1, pool)
    names = [f"{field}.{name}" for field, net in zip(nets._fields, nets, strict=True)
             for name, p in net.named_parameters()]  # fmt: skip
    # A bias before an instance normalisation is taken out by it again: it has no effect.
    still = [n for n, c in zip(names, changed, strict=True) if not c and n.endswith("weight")]
    assert not still
    assert set(records[0]) == {"gan", "kl", "reconstruction", "cycle_kl", "cycle", "perceptual",
                               "judges"}  # fmt: skip


def test_training_learns_to_reconstruct(tmp_path):
    _, records, _ = trained(tmp_path, 60, None)
    first, last = records[0], records[-1]
    assert last["reconstruction"] < 0.6 * first["reconstruction"]
    assert last["cycle"] < 0.8 * first["cycle"]


def test_the_perceptual_loss_s_own_network_is_not_trained(tmp_path):
    features = content_features("tf_efficientnet_lite0", "none")
    before = {k: v.clone() for k, v in features.state_dict().items()}
    _, records, _ = trained(tmp_path, 2, features)
    assert records[-1]["perceptual"] > 0
    assert all(torch.equal(v, before[k]) for k, v in features.state_dict().items())


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    root = tmp_path_factory.mktemp("street")
    return make_street(root, day=6, night=4, test=2, width=48, height=36)


@pytest.mark.parametrize(
    ("sides", "expected"), [((64,), [64] * 5), ((32, 64), [32, 32, 32, 64, 64])]
)
def test_crops_become_larger_part_by_part(sides, expected):
    config = SMALL.replaced(translate_crop_px=sides, translate_steps=5)
    assert [crop_side(config, step) for step in range(5)] == expected


class TestTraining:
    """The stage itself, on a generated street."""

    def work(self, street, folder, **settings):
        """A workspace whose images are prepared and cut."""
        config = SMALL.replaced(
            target=street / "night", test=street / "test", class_names=STREET_CLASS_NAMES,
            image_size=36, image_width=48, translate_crop_px=(32,), translate_batch_size=2,
            translate_steps=3, translate_lambda_perceptual=0.0, **settings,
        )  # fmt: skip
        run = RunFolder.create(folder, {"pipeline": "adapt", "settings": {}})
        run.quiet = True
        data = open_domains(street / "day", config)
        work = Workspace(run, config, data, torch.device("cpu"))
        work.stages["prepare"] = run.stage(1, "prepare", "key")
        prepare(work, work.stages["prepare"])
        split = cut_domains(data, config, 0)
        work.stages["split"] = run.stage(2, "split", "key")
        work.stages["split"].write_json("split.json", vars(split))
        work.stages["translate"] = run.stage(3, "translate", "key")
        return work

    def trained(self, street, folder):
        work = self.work(street, folder)
        train_unit(work, work.stages["translate"])
        return work

    def test_the_same_seed_gives_the_same_weights(self, street, tmp_path):
        first, second = (load_unit(self.trained(street, tmp_path / name)) for name in "ab")
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name

    def test_killed_after_any_step_and_resumed_it_ends_in_the_same_weights(
        self, street, tmp_path, monkeypatch
    ):
        whole = load_unit(self.trained(street, tmp_path / "whole")).state_dict()
        step = adapt_translation.unit_step
        for stop in (1, 2):
            calls = []

            def killed(*args, calls=calls, stop=stop):
                if len(calls) == stop:
                    raise RuntimeError("killed")
                calls.append(1)
                return step(*args)

            work = self.work(street, tmp_path / f"killed-{stop}")
            monkeypatch.setattr(adapt_translation, "unit_step", killed)
            with pytest.raises(RuntimeError, match="killed"):
                train_unit(work, work.stages["translate"])
            monkeypatch.setattr(adapt_translation, "unit_step", step)
            train_unit(work, work.stages["translate"])
            resumed = load_unit(work).state_dict()
            assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())

    def test_an_image_is_translated_at_its_own_size(self, street, tmp_path):
        unit = load_unit(self.trained(street, tmp_path / "run"))
        image = np.random.default_rng(0).integers(0, 256, (35, 50, 3), dtype=np.uint8)
        there, back = translate_image(unit, image, "b"), translate_image(unit, image, "a")
        assert there.shape == back.shape == image.shape
        assert there.dtype == np.uint8
        assert not np.array_equal(there, back)


def test_a_crop_is_a_part_of_the_image_with_sides_that_are_multiples_of_four():
    torch.manual_seed(0)
    image = torch.arange(2 * 37 * 50).view(2, 1, 37, 50)
    places = set()
    for _ in range(20):
        crop = random_crop(image, 40)
        assert crop.shape == (2, 1, 36, 40)
        top, left = divmod(int(crop[0, 0, 0, 0]), 50)
        assert torch.equal(crop, image[..., top : top + 36, left : left + 40])
        places.add((top, left))
    assert len(places) > 5
