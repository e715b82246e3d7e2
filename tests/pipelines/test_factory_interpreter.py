import json
from functools import partial

import numpy as np
import pytest
import torch

from fewmask.config import resolve
from fewmask.errors import DataError
from fewmask.pipelines import factory_interpreter
from fewmask.pipelines.factory_config import PRESETS, FactoryConfig
from fewmask.pipelines.factory_interpreter import (
    NativeMaps,
    PixelDraw,
    fit_interpreter,
    interpret,
)
from fewmask.training.loop import Loop
from fewmask.training.run_folder import RunFolder

CPU = torch.device("cpu")
SIZE = (16, 16)


def settings(**changes):
    return resolve(FactoryConfig, PRESETS, "smoke", overrides={"threads": 1} | changes)


def stage_of(path):
    run = RunFolder.create(path, {"pipeline": "factory", "settings": {}})
    run.quiet = True
    return run.stage(5, "interpret", "key")


def world(count=4, seed=0):
    """Masks of three classes, and maps that show them: one at full size, one at half, and noise."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *SIZE), np.uint8)
    for mask in masks:
        y, x = rng.integers(2, 9, 2)
        mask[y : y + 5, x : x + 5] = 1
        mask[: rng.integers(1, 3)] = 2
    features = []
    for mask in torch.from_numpy(masks):
        full = torch.stack([(mask == 1).float(), torch.rand(SIZE)])[None]
        half = torch.nn.functional.avg_pool2d((mask == 2).float()[None, None], 2)
        features.append([half.expand(-1, 3, -1, -1), full])
    return features, masks


class TestNativeMaps:
    def test_maps_come_back_as_they_went(self, tmp_path):
        features, _ = world()
        maps = NativeMaps.write(stage_of(tmp_path / "run"), features, 4)
        assert maps.channels == [3, 2]
        for row, image in enumerate(features):
            for kept, given in zip(maps.of_image(row), image, strict=True):
                assert kept.dtype == torch.float16
                assert torch.equal(kept, given[0].permute(1, 2, 0).half())

    def test_they_lie_on_the_disk(self, tmp_path):
        stage = stage_of(tmp_path / "run")
        maps = NativeMaps.write(stage, world()[0], 4)
        assert all(isinstance(file, np.memmap) for file in maps.files)
        assert sorted(p.name for p in stage.path.glob("*.npy")) == ["map-00.npy", "map-01.npy"]


class TestPixelDraw:
    masks = np.array([[[0, 0, 0, 255], [0, 0, 1, 255]], [[0, 0, 0, 0], [0, 0, 0, 2]]], np.uint8)

    def draw(self, balance, count=9000, num_classes=4):
        draw = PixelDraw(self.masks, num_classes, balance)
        return draw, *draw(np.random.default_rng(0), count)

    @pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
    def test_classes_come_by_their_frequency_to_a_power(self, balance):
        _, _, classes = self.draw(balance)
        expected = np.array([12, 1, 1, 0]) / 14
        expected = np.where(expected > 0, expected**balance, 0)
        got = np.bincount(classes, minlength=4) / len(classes)
        np.testing.assert_allclose(got, expected / expected.sum(), atol=0.02)

    def test_pixels_have_their_class_and_are_sorted_by_image(self):
        _, pixels, classes = self.draw(0.5)
        assert (self.masks[tuple(pixels.T)] == classes).all()
        assert (np.diff(pixels[:, 0]) >= 0).all()
        assert len(np.unique(pixels, axis=0)) == 14  # each labelled one, no other

    def test_correction_undoes_the_draw(self):
        draw, _, classes = self.draw(0.0)
        drawn = torch.from_numpy(np.bincount(classes, minlength=4) / len(classes))[:3]
        corrected = drawn * draw.correction[:3].exp()
        torch.testing.assert_close(
            corrected / corrected.sum(), torch.tensor([12, 1, 1]) / 14.0, atol=0.02, rtol=0,
            check_dtype=False,
        )  # fmt: skip

    def test_no_label_at_all(self):
        with pytest.raises(DataError, match="MASKS-EMPTY"):
            PixelDraw(np.full((2, 4, 4), 255, np.uint8), 3, 1.0)


class TestFit:
    def fitted(self, path, masks=None, **changes):
        torch.manual_seed(0)
        features, truth = world()
        stage = stage_of(path)
        maps = NativeMaps.write(stage, features, 4)
        config = settings(interpret_steps=60, **changes)
        chosen = truth if masks is None else masks(truth)
        return fit_interpreter(stage, maps, chosen, 3, config, CPU), stage

    def accuracy(self, members):
        features, truth = world(seed=7)
        found = [interpret(members, image, SIZE).mask[0].numpy() for image in features]
        return (np.stack(found) == truth).mean()

    def test_it_learns_from_maps_of_several_sizes(self, tmp_path):
        members, _ = self.fitted(tmp_path / "run")
        assert self.accuracy(members) > 0.97

    def test_it_learns_from_scribbles(self, tmp_path):
        def scribbles(truth):
            kept = np.random.default_rng(0).random(truth.shape) < 0.1
            return np.where(kept, truth, 255).astype(np.uint8)

        members, _ = self.fitted(tmp_path / "run", scribbles)
        assert self.accuracy(members) > 0.95

    def test_members_differ(self, tmp_path):
        members, _ = self.fitted(tmp_path / "run")
        assert not torch.equal(members[0].first.weight, members[1].first.weight)

    def test_what_the_draw_did_is_taken_out(self, tmp_path):
        """Without information in the maps, probabilities are the classes' frequencies."""
        features, truth = world()
        blind = [[torch.zeros_like(m) for m in image] for image in features]
        stage = stage_of(tmp_path / "run")
        maps = NativeMaps.write(stage, blind, 4)
        config = settings(interpret_steps=150, interpret_balance=0.0, interpret_members=1)
        (member,) = fit_interpreter(stage, maps, truth, 3, config, CPU)
        probs = member.of_images(blind[0], SIZE).softmax(1)[0, :, 0, 0]
        expected = np.bincount(truth.flat, minlength=3) / truth.size
        np.testing.assert_allclose(probs.numpy(), expected, atol=0.03)

    def test_killed_and_resumed_it_ends_in_the_same_bytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(factory_interpreter, "Loop", partial(Loop, save_every_seconds=0.0))
        _, whole = self.fitted(tmp_path / "whole", interpret_members=2)
        calls = []

        def killed(*args):
            calls.append(1)
            if len(calls) == 80:  # in the second member
                raise RuntimeError("killed")
            return read(*args)

        read = factory_interpreter._read
        monkeypatch.setattr(factory_interpreter, "_read", killed)
        with pytest.raises(RuntimeError, match="killed"):
            self.fitted(tmp_path / "killed", interpret_members=2)
        monkeypatch.setattr(factory_interpreter, "_read", read)
        stage = RunFolder.open(tmp_path / "killed").stage(5, "interpret", "key")
        _, truth = world()
        config = settings(interpret_steps=60, interpret_members=2)
        fit_interpreter(stage, NativeMaps(stage.path), truth, 3, config, CPU)
        name = "interpreter.safetensors"
        assert (stage.path / name).read_bytes() == (whole.path / name).read_bytes()
        records = [json.loads(x) for x in (stage.run.path / "metrics.jsonl").open()]
        assert [r["step"] for r in records if r["loop"] == "classifier-1"] == list(range(60))
