import json
import math
from functools import partial

import numpy as np
import pytest
import torch

from fewmask.config import resolve
from fewmask.data.folder import DataFolder
from fewmask.errors import NumericalError
from fewmask.io.images import read_image
from fewmask.pipelines import factory_generator
from fewmask.pipelines.factory_config import PRESETS, FactoryConfig
from fewmask.pipelines.factory_generator import (
    GanTraining,
    PathLength,
    all_grey,
    load_generator,
    train_generator,
)
from fewmask.pipelines.factory_watch import Watch, contact_sheet, generated_images, latent_codes
from fewmask.training.loop import Loop
from fewmask.training.run_folder import RunFolder
from fewmask.training.workspace import Workspace

CPU = torch.device("cpu")


def settings(**changes):
    """Every term in a few steps: p rises at once, both regularisers come more than once."""
    small = {
        "generate_kimg": 0.024, "generate_r1_interval": 2, "generate_path_length_interval": 3,
        "generate_ada_kimg": 0.02, "generate_ada_target": -1.0, "encoder_weights": "none",
        "encoder": "mobilenetv3_small_050", "threads": 1, "device": "cpu",
    }  # fmt: skip
    return resolve(FactoryConfig, PRESETS, "smoke", overrides=small | changes)


def run_folder(path):
    run = RunFolder.create(path, {"pipeline": "factory", "settings": {}})
    run.quiet = True
    return run


def loop_of(path, steps=1):
    stage = run_folder(path).stage(1, "generate", "key")
    return Loop(stage, steps, seed=0, state={}, resumable=False)


def work_of(path, config):
    """A workspace of 12 small images, ten of them to train on."""
    work = Workspace(run_folder(path), config, DataFolder(path, (), ("a",), "images", None), CPU)
    work.stages["generate"] = work.run.stage(3, "generate", "key")
    rng = np.random.default_rng(0)
    work.images = rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    work.rows = lambda *_: list(range(10))
    return work


class TestStep:
    def one_step(self, tmp_path, number=0, **changes):
        torch.manual_seed(0)
        training = GanTraining(settings(**changes), CPU)
        before = [{k: v.clone() for k, v in net.state_dict().items()} for net in training.gan]
        values = training.step(number, torch.rand(4, 3, 16, 16) * 2 - 1, loop_of(tmp_path / "run"))
        return training, before, values

    def test_both_networks_learn_and_the_average_follows(self, tmp_path):
        training, before, values = self.one_step(tmp_path)
        assert set(values) == {
            "generator", "path_length", "judge", "r1", "p", "overfitting",
        }  # fmt: skip
        for network, old in zip(training.gan, before, strict=True):
            for name, parameter in network.named_parameters():
                assert not torch.equal(parameter, old[name]), name

    def test_regularisers_have_their_own_steps(self, tmp_path):
        *_, values = self.one_step(tmp_path, number=1)
        assert not {"path_length", "r1"} & set(values)

    def test_without_weight_there_is_no_regulariser(self, tmp_path):
        *_, values = self.one_step(tmp_path, generate_r1_gamma=0.0, generate_path_length_weight=0.0)
        assert not {"path_length", "r1"} & set(values)

    def test_the_judge_learns_after_the_generator_has(self, tmp_path):
        training, *_ = self.one_step(tmp_path)
        assert all(p.requires_grad for net in training.gan[:2] for p in net.parameters())

    def test_optimisers_make_up_for_the_regularisers_steps(self):
        """Rate and betas to the power of k / (k + 1), as an interval of k asks."""
        training = GanTraining(settings(), CPU)
        for optimizer, share in (
            (training.optimizer_judge, 2 / 3),
            (training.optimizer_generator, 3 / 4),
        ):
            (group,) = optimizer.param_groups
            assert group["lr"] == pytest.approx(0.0025 * share)
            assert group["betas"] == pytest.approx((0.0, 0.99**share))

    def test_average_after_its_half_life(self):
        training = GanTraining(settings(generate_ema_kimg=0.008), CPU)
        weight, mean = training.gan.generator.synthesis.constant, training.gan.average
        weight.data.fill_(1.0)
        mean.synthesis.constant.data.fill_(0.0)
        training.gan.generator.mapping.average.fill_(7.0)
        training.follow(0, 4)
        training.follow(1, 4)  # eight images
        assert mean.synthesis.constant.mean().item() == pytest.approx(0.5)
        assert mean.mapping.average.mean().item() == 7  # buffers are copied

    def test_average_is_quick_at_first_where_asked(self):
        training = GanTraining(settings(generate_ema_rampup=0.5), CPU)
        training.gan.generator.synthesis.constant.data.fill_(1.0)
        training.gan.average.synthesis.constant.data.fill_(0.0)
        training.follow(0, 4)  # the half-life is half of the four images so far
        constant = training.gan.average.synthesis.constant
        assert constant.mean().item() == pytest.approx(1 - 0.5**2)

    @pytest.mark.parametrize(("probability", "mixed"), [(0.0, 0), (1.0, 40)])
    def test_styles_of_two_codes(self, probability, mixed):
        torch.manual_seed(0)
        training = GanTraining(settings(generate_mixing_probability=probability), CPU)
        ws = training.styles(40)
        assert ws.shape == (40, training.gan.generator.synthesis.num_ws, 16)
        assert int((ws[:, 0] != ws[:, -1]).any(1).sum()) == mixed

    def test_path_length_is_held_to_its_running_mean(self):
        state = PathLength(decay=0.5)
        assert state.penalty(torch.tensor([1.0, 3.0])).item() == pytest.approx((0 + 4) / 2)
        assert state.mean == 1
        assert state.penalty(torch.tensor([5.0])).item() == pytest.approx(4)
        assert state.mean == 3


class TestTraining:
    def trained(self, path):
        work = work_of(path, settings())
        train_generator(work, work.stages["generate"])
        return work

    def test_what_it_leaves(self, tmp_path):
        work = self.trained(tmp_path / "run")
        folder = work.stages["generate"].path
        quality = json.loads((folder / "quality.json").read_text())
        assert quality["kimg"] == 0.024
        assert quality["p"] > 0
        assert quality["kid_low"] < quality["kid"] < quality["kid_high"]
        sheets = sorted((work.run.path / "samples").glob("*.png"))
        assert len(sheets) == 2
        assert read_image(sheets[-1]).shape == (128, 128, 3)
        records = [json.loads(x) for x in (work.run.path / "metrics.jsonl").open()]
        assert [r["step"] for r in records if "kid" in r] == [2, 5]
        assert [r["step"] for r in records if "r1" in r] == [0, 2, 4]
        assert [r["step"] for r in records if "path_length" in r] == [0, 3]

    def test_killed_after_any_step_and_resumed_it_ends_in_the_same_bytes(
        self, tmp_path, monkeypatch
    ):
        """p, the running mean of path lengths and the average are part of what is saved."""
        often = partial(Loop, save_every_seconds=0.0)
        monkeypatch.setattr(factory_generator, "Loop", often)
        whole = self.trained(tmp_path / "whole").stages["generate"].path
        step = GanTraining.step
        for stop in (1, 4, 5):

            def killed(self, number, *args, stop=stop):
                if number == stop:
                    raise RuntimeError("killed")
                return step(self, number, *args)

            work = work_of(tmp_path / f"killed-{stop}", settings())
            monkeypatch.setattr(GanTraining, "step", killed)
            with pytest.raises(RuntimeError, match="killed"):
                train_generator(work, work.stages["generate"])
            monkeypatch.setattr(GanTraining, "step", step)
            train_generator(work, work.stages["generate"])
            for name in ("generator.safetensors", "quality.json"):
                resumed = (work.stages["generate"].path / name).read_bytes()
                assert resumed == (whole / name).read_bytes(), (stop, name)

    def test_the_generator_is_loaded_as_it_was_saved(self, tmp_path):
        work = self.trained(tmp_path / "run")
        images = generated_images(
            load_generator(
                work.stages["generate"].path / "generator.safetensors", work.config, CPU
            ),
            0,
            range(5),
        )
        assert images.shape == (5, 16, 16, 3)
        again = generated_images(
            load_generator(
                work.stages["generate"].path / "generator.safetensors", work.config, CPU
            ),
            0,
            [3],
        )
        assert np.abs(images[3].astype(int) - again[0]).max() <= 1  # alone or among others


class TestWatch:
    class Painter(torch.nn.Module):
        """A generator of one colour an image, ``spread`` apart."""

        z_dim = 4

        def __init__(self, spread):
            super().__init__()
            self.spread, self.weight = spread, torch.nn.Parameter(torch.zeros(()))

        def forward(self, z, *_):
            colour = (z[:, :3] * self.spread).tanh()[:, :, None, None]
            image = colour.expand(-1, -1, 16, 16)
            return type("Synthesised", (), {"image": image})

    def watch(self):
        real = np.random.default_rng(0).integers(0, 256, (20, 1, 1, 3), dtype=np.uint8)
        real = np.broadcast_to(real, (20, 16, 16, 3))
        torch.manual_seed(0)
        return Watch(real, 0, "mobilenetv3_small_050", "none", CPU)

    def test_a_generator_that_stops_varying_is_stopped(self):
        watch = self.watch()
        _, variety = watch.look(self.Painter(1.0), 20, "here")
        assert variety > 0.3
        with pytest.raises(NumericalError, match="COLLAPSE"):
            watch.look(self.Painter(0.001), 20, "here")

    def test_one_that_has_not_begun_to_vary_is_not(self):
        _, variety = self.watch().look(self.Painter(0.001), 20, "here")
        assert variety < 0.01

    def test_what_it_has_seen_is_part_of_its_state(self):
        first, second = self.watch(), self.watch()
        first.look(self.Painter(1.0), 20, "here")
        second.load_state_dict(first.state_dict())
        with pytest.raises(NumericalError, match="COLLAPSE"):
            second.look(self.Painter(0.001), 20, "here")

    def test_halves_of_the_real_images_are_near(self):
        watch = self.watch()
        far, _ = watch.look(self.Painter(0.001), 20, "here")
        assert watch.floor.low <= 0 <= watch.floor.high
        assert far.value > 0
        assert far.value > 2 * abs(watch.floor.value)

    def test_codes_depend_on_seed_and_number_alone(self):
        together = latent_codes(3, range(5), 8)
        assert torch.equal(together[4], latent_codes(3, [4], 8)[0])
        assert not torch.equal(together, latent_codes(4, range(5), 8))
        many = latent_codes(0, range(2000), 8)
        assert math.isclose(many.std(), 1, abs_tol=0.03)

    def test_contact_sheet(self):
        images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
        sheet = contact_sheet(images, 2)
        assert sheet[::2, ::2, 0].tolist() == [[0, 1], [2, 255]]


class TestGrey:
    def test_grey_images_teach_a_grey_generator(self, tmp_path):
        config = settings()
        work = work_of(tmp_path / "run", config)
        work.images = np.repeat(work.images[..., :1], 3, 3)
        stage = work.stages["generate"]
        train_generator(work, stage)
        network = load_generator(stage.path / "generator.safetensors", config, CPU)
        assert network.synthesis.to_image[0].bias.shape == (1,)
        images = generated_images(network, 0, range(4))
        assert images.shape == (4, 16, 16, 3)
        assert (images == images[..., :1]).all()
        assert images.std() > 0

    def test_one_coloured_pixel_is_enough_for_colours(self):
        images = np.zeros((3, 8, 8, 3), np.uint8)
        assert all_grey(images, range(3))
        images[1, 2, 3] = (1, 0, 0)
        assert not all_grey(images, range(3))
        assert all_grey(images, [0, 2])
