"""The shared training: the same with or without a kill, in parts or whole, with any workers."""

import math
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from fewmask.data.loading import TrainingSet, step_loader
from fewmask.data.transforms import Augmentation
from fewmask.errors import CheckpointError, Interrupted, NumericalError
from fewmask.training.checkpoint import CheckpointStore, load_weights, save_weights
from fewmask.training.fit import Best, FitSettings, _optimizer, _schedule, fit, warm_ema
from fewmask.training.loop import Loop
from fewmask.training.signals import stop_if_asked, stop_on_signals

CPU = torch.device("cpu")
EPOCHS, PER_EPOCH = 3, 4
SETTINGS = {"epochs": EPOCHS, "batch_size": 4, "learning_rate": 0.05, "weight_decay": 0.01}


class Net(nn.Module):
    """A classifier with batch norm or, for exact accumulation, without; dropout draws."""

    def __init__(self, norm, dropout=0.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
            self.dropout = nn.Dropout(dropout)
            self.head = nn.Linear(4, 2)

    def forward(self, image):
        return self.head(self.dropout(self.norm(self.encoder(image)).relu().mean((2, 3))))


def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    tags = rng.integers(0, 2, (16, 2)).astype(bool)
    return TrainingSet(images, tags, range(16), Augmentation(mirror=True), seed=0, name="fit")


def train(
    stage, *, norm=True, dropout=0.0, score=None, workers=0, teach=None, shares=None, **settings
):
    return fit(
        stage,
        Net(norm, dropout),
        data(),
        functional.binary_cross_entropy_with_logits,
        FitSettings(**{**SETTINGS, **settings}),
        seed=0,
        device=CPU,
        score=score,
        workers=workers,
        teach=teach,
        shares=shares,
    )


def weights(network):
    return {name: value.tolist() for name, value in network.state_dict().items()}


class CrashError(Exception):
    """What stands for a kill."""


def crash_after(monkeypatch, step):
    """Have every loop save after each step, and die behind the save of one."""

    def save_and_die(self):
        save(self)
        if self.step == step:
            raise CrashError

    save = Loop.save
    monkeypatch.setitem(Loop.__init__.__kwdefaults__, "save_every_seconds", 0.0)
    monkeypatch.setattr(Loop, "save", save_and_die)


def crashed(run, monkeypatch, step, **options):
    """A stage whose training died after a step."""
    stage = run.stage(1, "train", f"crashed after {step}")
    with monkeypatch.context() as patch:
        crash_after(patch, step)
        with pytest.raises(CrashError):
            train(stage, **options)
    return stage


def falling(values, seen):
    """A validation score that falls; ``seen`` gets the weights that were judged."""
    scores = iter(values)
    return lambda network: seen.append(weights(network)) or next(scores)


PLANS = {
    "sgd": {"optimizer": "sgd"},
    "adam": {"optimizer": "adam", "schedule": "constant"},
    "ema": {"ema_decay": 0.5},
    "clipped in parts": {"max_gradient_norm": 0.1, "micro_batch_size": 3},
    "dropout": {"dropout": 0.5},
}


@pytest.mark.parametrize("plan", PLANS)
def test_crashed_after_any_step_it_ends_with_the_same_weights(run, monkeypatch, plan):
    whole = weights(train(run.stage(1, "train", "whole"), **PLANS[plan]))
    for step in (1, 3, 4, 7, EPOCHS * PER_EPOCH):
        stage = crashed(run, monkeypatch, step, **PLANS[plan])
        assert weights(train(stage, **PLANS[plan])) == whole


@pytest.mark.parametrize("key", ["network", "optimizer", "ema"])
def test_every_key_of_the_state_changes_the_final_weights(run, monkeypatch, key):
    whole = weights(train(run.stage(1, "train", "whole"), ema_decay=0.9))
    stage = crashed(run, monkeypatch, 6, ema_decay=0.9)
    restore = CheckpointStore._restore

    def without(self, path, manifest, state):
        parts = {k: v for k, v in manifest["parts"].items() if k != key}
        others = {k: v for k, v in state.items() if k != key}
        restore(self, path, {**manifest, "parts": parts}, others)

    monkeypatch.setattr(CheckpointStore, "_restore", without)
    assert weights(train(stage, ema_decay=0.9)) != whole


def test_the_best_weights_survive_a_crash_after_they_were_found(run, monkeypatch):
    seen, plan = [], {"keep": "best"}
    whole = train(run.stage(1, "train", "whole"), score=falling([3.0, 2.0, 1.0], seen), **plan)
    assert weights(whole) == seen[0]
    assert seen[0] != seen[1] != seen[2]
    stage = crashed(run, monkeypatch, PER_EPOCH + 1, score=falling([3.0], []), **plan)
    resumed = train(stage, score=falling([2.0, 1.0], []), **plan)
    assert weights(resumed) == seen[0]


def test_the_state_of_other_settings_is_refused(run, monkeypatch):
    stage = crashed(run, monkeypatch, 5)
    with pytest.raises(CheckpointError, match=r"STATE-KEY.* missing: ema;"):
        train(stage, ema_decay=0.9)
    with pytest.raises(CheckpointError, match=r"STATE-MISMATCH.*network"):
        train(stage, norm=False)


def test_the_result_does_not_depend_on_loader_workers(run):
    results = [
        weights(train(run.stage(1, "train", f"{n}"), workers=n, dropout=0.5)) for n in (0, 1, 2)
    ]
    assert results[0] == results[1] == results[2]


def test_gradients_accumulated_over_parts_are_those_of_the_whole_batch(run):
    whole, parts, uneven = (
        train(run.stage(1, "train", f"{n}"), norm=False, optimizer="sgd", micro_batch_size=n)
        for n in (0, 2, 3)
    )
    for other in (parts, uneven):
        for a, b in zip(whole.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_it_trains_as_a_loop_written_out_by_hand(run):
    network = Net(norm=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    averages = [p.detach().clone() for p in network.parameters()]
    steps = 2 * PER_EPOCH
    for step, (image, tags) in enumerate(step_loader(data(), 4, total_steps=steps)):
        loss = functional.binary_cross_entropy_with_logits(network(image), tags)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, value in zip(averages, network.parameters(), strict=True):
                decay = min(0.8, (1 + step) / (10 + step))
                average.copy_(value if step == 0 else decay * average + (1 - decay) * value)
    fitted = train(
        run.stage(1, "train", "key"),
        norm=False,
        epochs=2,
        learning_rate=0.1,
        weight_decay=0.0,
        optimizer="sgd",
        schedule="constant",
        ema_decay=0.8,
    )
    for expected, found in zip(averages, fitted.parameters(), strict=True):
        assert torch.allclose(expected, found, atol=1e-6)


def test_a_fitted_network_predicts_to_the_last_bit_what_its_weights_do_when_loaded(run, tmp_path):
    fitted, loaded = train(run.stage(1, "train", "key")), Net(norm=True).eval()
    save_weights(tmp_path / "net.safetensors", fitted)
    load_weights(tmp_path / "net.safetensors", loaded)
    layouts = [[p.stride() for p in network.parameters()] for network in (fitted, loaded)]
    assert layouts[0] == layouts[1]  # other kernels, other last digits
    image = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(fitted(image), loaded(image))


def test_a_signal_in_the_middle_of_a_validation_costs_no_step(run):
    stage = run.stage(1, "train", "key")

    def score(_):
        os.kill(os.getpid(), signal.SIGTERM)
        stop_if_asked()
        return 0.5

    with pytest.raises(Interrupted), stop_on_signals():
        train(stage, score=score)
    kept = [path.name for path in CheckpointStore(stage.checkpoints / "steps").complete()]
    assert kept == [f"step-{PER_EPOCH:08d}"]


def test_a_record_for_each_step_and_a_score_for_each_validation(run, records_of):
    train(run.stage(1, "train", "key"), epochs=4, validate_every_epochs=2, score=lambda _: 0.25)
    records = records_of(run.path)
    assert [r["step"] for r in records] == list(range(16))
    assert [r["step"] for r in records if "score" in r] == [7, 15]
    assert all(r["loss"] > 0 for r in records)


def test_the_network_is_judged_in_eval_mode_trained_in_train_mode_and_returned_in_eval_mode(run):
    modes = []
    network = train(
        run.stage(1, "train", "key"), score=lambda judged: modes.append(judged.training) or 0.5
    )
    assert modes == [False] * EPOCHS
    assert not network.training
    assert network.norm.num_batches_tracked == EPOCHS * PER_EPOCH


@pytest.mark.parametrize("step", [0, 5])
def test_a_loss_of_nan_is_told_with_its_step_and_the_last_state_kept(run, monkeypatch, step):
    calls = iter(range(100))

    def loss(logits, tags):
        value = functional.binary_cross_entropy_with_logits(logits, tags)
        return value * math.nan if next(calls) == step else value

    stage = run.stage(1, "train", "key")
    with pytest.raises(NumericalError, match=f"step {step}: loss") as raised:
        fit(stage, Net(True), data(), loss, FitSettings(**SETTINGS), seed=0, device=CPU)
    assert raised.value.exit_code == 13
    kept = [path.name for path in CheckpointStore(stage.checkpoints / "steps").complete()]
    assert kept == ([] if step == 0 else ["step-00000004"])


def test_best_keeps_a_copy_of_the_highest_and_the_first_of_equals():
    best, network = Best(), nn.Linear(1, 1, bias=False)
    for step, (score, weight) in enumerate([(0.1, 1.0), (0.7, 2.0), (0.7, 3.0), (0.2, 4.0)]):
        nn.init.constant_(network.weight, weight)
        best.offer(score, step, network)
    assert (best.score, best.step, best.weights["weight"].item()) == (0.7, 1, 2.0)
    again = Best()
    again.load_state_dict(best.state_dict())
    assert again.state_dict() == best.state_dict()


def test_encoder_parameters_learn_at_their_own_rate_and_frozen_ones_not_at_all():
    network = Net(norm=True)
    network.head.bias.requires_grad_(False)
    settings = FitSettings(**{**SETTINGS, "learning_rate": 1.0, "encoder_rate": 0.25})
    quick, slow = _optimizer(settings, network).param_groups
    assert (quick["highest"], slow["highest"]) == (1.0, 0.25)
    assert {id(p) for p in slow["params"]} == {id(p) for p in network.encoder.parameters()}
    assert not any(p is network.head.bias for p in quick["params"])


def test_the_schedule_rises_once_and_falls_to_zero():
    rates = [_schedule("cosine", step, 200) for step in range(200)]
    top = rates.index(max(rates))
    assert (top, max(rates)) == (9, 1.0)
    assert rates[:10] == [(n + 1) / 10 for n in range(10)]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert {_schedule("constant", step, 200) for step in range(200)} == {1.0}


def test_the_average_of_a_short_training_has_forgotten_the_untrained_weights():
    network = nn.Linear(1, 1, bias=False)
    average = AveragedModel(network, multi_avg_fn=warm_ema(0.99))
    expected = 100.0
    for n, value in enumerate([100.0, *(float(k % 2) for k in range(30))]):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        decay = min(0.99, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value if n else value
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-4)
    assert average.module.weight.item() < 1  # a plain average would still be at 74


ONE_STEP = {"epochs": 0, "min_steps": 1, "norm": False}


def test_an_average_that_begins_at_the_start_keeps_it_by_its_decay(run):
    """One step at decay 0.9: nine tenths of the start, one tenth of what the step has made."""
    before = Net(False).head.weight.detach()
    last = train(run.stage(1, "train", "last"), **ONE_STEP).head.weight.detach()
    average = train(
        run.stage(2, "train", "average"), ema_decay=0.9, ema_from_start=True, **ONE_STEP
    ).head.weight.detach()
    assert not torch.equal(last, before)
    torch.testing.assert_close(average, 0.9 * before + 0.1 * last)


def test_a_further_loss_adds_its_gradient_and_sees_batch_and_average(run):
    """The same loss again is twice the gradient, which plain descent shows."""
    before, seen = Net(False).head.weight.detach(), []

    def teach(step, image, target, network, average):
        seen.append((step, image.shape, average is network, average.training))
        return functional.binary_cross_entropy_with_logits(network(image), target)

    settings = {**ONE_STEP, "optimizer": "sgd", "schedule": "constant", "weight_decay": 0.0,
                "ema_decay": 1e-12}  # fmt: skip
    once = train(run.stage(1, "train", "once"), **settings).head.weight.detach() - before
    twice = train(run.stage(2, "train", "twice"), teach=teach, **settings)
    torch.testing.assert_close(twice.head.weight.detach() - before, 2 * once)
    assert seen == [(0, (4, 3, 8, 8), False, True)]


def test_shares_decide_what_is_drawn(run):
    """Trained on one image alone, the others have no say."""
    shares = np.zeros(16)
    shares[3] = 1
    one = weights(train(run.stage(1, "train", "one"), shares=shares, **ONE_STEP))
    shares = np.roll(shares, 1)
    assert weights(train(run.stage(2, "train", "other"), shares=shares, **ONE_STEP)) != one
