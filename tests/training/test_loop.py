"""The loop: steps, saves, stops, bad numbers, records, and samples that need no generator state."""

import hashlib
import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from fewmask.data.loading import TrainingSet, step_loader
from fewmask.data.transforms import Augmentation
from fewmask.errors import Interrupted, NumericalError, ResourceError
from fewmask.training.inference import predict_tags
from fewmask.training.loop import Loop
from fewmask.training.signals import step_first, stop_if_asked, stop_on_signals, stop_requested


class Line:
    """A linear network trained on noise that the loop's seed decides."""

    def __init__(self, stage, total_steps=6, **options):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.network = nn.Linear(3, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1)
        state = {"network": self.network, "optimizer": self.optimizer}
        self.loop = Loop(stage, total_steps, seed=0, state=state, **options)
        self.steps = []

    def train(self, before_update=lambda step: None):
        for step in self.loop:
            loss = self.network(torch.randn(4, 3)).square().mean()
            before_update(step)
            self.loop.update(self.optimizer, loss)
            self.loop.record(loss=loss)
            self.steps.append(step)
        return self

    @property
    def weights(self):
        return [p.tolist() for p in self.network.parameters()]


def saved(line):
    return [path.name for path in line.loop.store.complete()]


class CrashError(Exception):
    """What stands for a crash."""


def crash_at(crash_step):
    def crash(step):
        if step == crash_step:
            raise CrashError

    return crash


def test_it_counts_and_saves_as_told(stage):
    line = Line(stage, 7, save_every_steps=3).train()
    assert line.steps == [0, 1, 2, 3, 4, 5, 6]
    assert saved(line) == ["step-00000006", "step-00000007"]  # the end is always saved


def test_it_saves_after_so_many_seconds(stage, monkeypatch):
    now, steps = [0.0], []
    monkeypatch.setattr("fewmask.training.loop.time.monotonic", lambda: now[0])
    line = Line(stage, 8, save_every_seconds=25)
    monkeypatch.setattr(line.loop.store, "save", lambda step, state, meta: steps.append(step))

    def ten_seconds_pass(step):
        now[0] += 10

    line.train(ten_seconds_pass)
    assert steps == [3, 6, 8]


def test_crashed_at_any_step_it_ends_with_the_same_weights_and_records(run, records_of):
    whole = Line(run.stage(1, "train", "key"), save_every_steps=2).train()
    expected = records_of(run.path)
    assert [r["step"] for r in expected] == [0, 1, 2, 3, 4, 5]
    for crash_step in range(6):
        stage = run.stage(1, "train", f"key {crash_step}")
        crashed = Line(stage, save_every_steps=2)
        with pytest.raises(CrashError):
            crashed.train(crash_at(crash_step))
        resumed = Line(stage, save_every_steps=2).train()
        assert resumed.steps == list(range(crash_step // 2 * 2, 6))
        assert resumed.weights == whole.weights
        assert records_of(run.path) == expected


def test_randomness_of_a_step_does_not_depend_on_what_was_drawn_before(stage, run):
    whole = Line(stage).train()
    other = Line(run.stage(1, "train", "other key"))
    assert other.train(lambda step: torch.randn(step + 1)).weights == whole.weights


def test_a_finished_loop_does_nothing_but_restore(stage):
    whole = Line(stage).train()
    again = Line(stage).train()
    assert again.steps == []
    assert again.weights == whole.weights


def test_a_loop_that_is_not_resumable_begins_anew_and_keeps_nothing(stage, records_of):
    for _ in range(2):
        line = Line(stage, resumable=False).train()
        assert line.steps == [0, 1, 2, 3, 4, 5]
        assert not stage.checkpoints.exists()
    assert [r["step"] for r in records_of(stage.run.path)] == [0, 1, 2, 3, 4, 5]


def test_two_loops_of_a_stage_keep_apart(stage, records_of):
    first, second = (Line(stage, name=name).train() for name in ("one", "two"))
    assert first.weights != second.weights
    assert Line(stage, name="one").train().weights == first.weights
    assert [r["loop"] for r in records_of(stage.run.path)] == ["one"] * 6 + ["two"] * 6


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_names_it_and_keeps_the_last_state(stage, value):
    line = Line(stage, save_every_steps=1)
    before = {}

    def spoil(step):
        if step == 3:
            before["weights"] = line.weights
            line.loop.require_finite(other=0.0, loss=torch.tensor(value))

    with pytest.raises(NumericalError) as raised:
        line.train(spoil)
    assert raised.value.exit_code == 13
    assert "1-train step 3: loss" in str(raised.value)
    assert "step-00000003" in raised.value.problems[0].fix
    assert saved(line)[-1] == "step-00000003"
    assert line.weights == before["weights"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("max_norm", [math.inf, 5.0])
def test_a_gradient_that_is_not_finite_is_named_and_the_weights_stay(stage, value, max_norm):
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loop = Loop(stage, 3, seed=0, state={"net": network, "optimizer": optimizer})
    before = [p.tolist() for p in network.parameters()]
    network[1].weight.register_hook(lambda gradient: torch.full_like(gradient, value))
    loss = network(torch.ones(1, 3)).sum()
    with pytest.raises(NumericalError, match=r"gradient of net\.1\.weight"):
        loop.update(optimizer, loss, max_norm=max_norm)
    assert [p.tolist() for p in network.parameters()] == before


def test_finite_gradients_whose_norm_overflows_are_an_error_too(stage):
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loop = Loop(stage, 3, seed=0, state={"net": network})
    network.weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    loss = network(torch.ones(1, 3)).sum()
    with pytest.raises(NumericalError, match="norm of all gradients"):
        loop.update(optimizer, loss)


def test_gradients_are_scaled_down_to_the_largest_norm_and_no_further(stage):
    loop = Loop(stage, 1, seed=0, state={})
    for gradient, scaled in (([3.0, 4.0], [0.6, 0.8]), ([0.3, 0.4], [0.3, 0.4])):
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor(gradient)
        loop.step_optimizer(torch.optim.SGD([weight], lr=1.0), max_norm=1.0)
        assert torch.allclose(weight, -torch.tensor(scaled), atol=1e-5)


def test_a_record_that_is_not_finite_is_refused(stage):
    loop = Loop(stage, 1, seed=0, state={})
    with pytest.raises(NumericalError, match="score"):
        loop.record(loss=1.0, score=math.nan)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(stage, run, number):
    whole = Line(run.stage(1, "train", "other key")).train()
    stage = run.stage(1, "train", "key")
    line = Line(stage)

    def send(step):
        if step == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as raised, stop_on_signals():
        line.train(send)
    assert raised.value.exit_code == 75
    assert f"fewmask resume {run.path}" in str(raised.value)
    assert line.steps == [0, 1, 2]
    assert saved(line) == ["step-00000003"]
    assert not stop_requested()
    resumed = Line(stage).train()
    assert resumed.steps == [3, 4, 5]
    assert resumed.weights == whole.weights


def test_the_second_ctrl_c_stops_at_once_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_work_without_a_state_stops_where_it_looks_unless_a_step_must_end_first():
    stop_if_asked()
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with step_first():
            stop_if_asked()
        with pytest.raises(KeyboardInterrupt):
            stop_if_asked()
    stop_if_asked()


def test_tags_of_many_images_are_predicted_until_a_signal_comes():
    class Classifier(nn.Module):
        seen = 0

        def forward(self, image):
            self.seen += len(image)
            if self.seen == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return image.mean((2, 3))

    network, images = Classifier(), np.zeros((10, 4, 4, 3), np.uint8)
    options = {"exclusive": False, "device": torch.device("cpu"), "batch_size": 2}
    with stop_on_signals(), pytest.raises(KeyboardInterrupt):
        predict_tags(network, images, range(10), **options)
    assert network.seen == 4


def test_a_record_cut_short_by_a_kill_is_forgotten(stage, records_of):
    Line(stage, save_every_steps=2).train()
    expected = records_of(stage.run.path)
    path = stage.run.path / "metrics.jsonl"
    with path.open("a") as stream:
        stream.write('{"stage": "1-train", "loop": "steps", "st')
    Line(stage).train()
    assert records_of(stage.run.path) == expected


def test_records_of_other_stages_stay_when_a_stage_is_made_again(run, records_of):
    Line(run.stage(1, "first", "key"), 2).train()
    Line(run.stage(2, "second", "key"), 2).train()
    Line(run.stage(1, "first", "new key"), 3).train()
    found = [(r["stage"], r["step"]) for r in records_of(run.path)]
    assert sorted(found) == [("1-first", n) for n in range(3)] + [("2-second", 0), ("2-second", 1)]


def test_another_number_of_threads_is_said_in_the_log(stage, monkeypatch):
    with pytest.raises(CrashError):
        Line(stage, save_every_steps=1).train(crash_at(2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    Line(stage).train()
    assert "NOT-BIT-EXACT: saved with 1 threads, now 3" in (stage.run.path / "log.txt").read_text()


def test_a_damaged_checkpoint_is_passed_over_with_a_line_in_the_log(stage):
    whole = Line(stage, save_every_steps=2).train()
    newest = whole.loop.store.complete()[-1] / "network.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed = Line(stage).train()
    assert resumed.steps == [4, 5]
    assert resumed.weights == whole.weights
    assert "passed over a damaged checkpoint" in (stage.run.path / "log.txt").read_text()


def test_results_are_flushed_before_a_checkpoint_says_they_are_there(stage):
    events = []
    line = Line(stage, 2, before_save=lambda: events.append(len(saved(line))))
    line.train()
    assert events == [0]


def test_a_disk_that_is_full_when_results_are_flushed_is_a_resource_error(stage):
    def refuse():
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="No space left"):
        Line(stage, 2, before_save=refuse).train()


def hash_of_epoch(epoch, *, workers, first_step=0):
    rng = np.random.default_rng(0)
    dataset = TrainingSet(
        rng.integers(0, 256, (10, 16, 16, 3), dtype=np.uint8),
        rng.integers(0, 2, (10, 16, 16), dtype=np.uint8),
        range(10),
        Augmentation(flips=True, mirror=True, zoom=0.2, rotation_degrees=90, colour=0.2),
        seed=0,
        name="test",
    )
    steps = range(epoch * 5, epoch * 5 + 5)
    batches = step_loader(dataset, 2, total_steps=10, first_step=first_step, workers=workers)
    digest = hashlib.sha256()
    for step, (image, target) in enumerate(batches, start=first_step):
        if step in steps:
            digest.update(image.numpy().tobytes() + target.numpy().tobytes())
    return digest.hexdigest()


def test_samples_do_not_depend_on_loader_workers_or_the_first_step_but_on_the_epoch():
    first, second = (hash_of_epoch(epoch, workers=0) for epoch in (0, 1))
    assert first != second
    for workers in (1, 2):
        assert hash_of_epoch(0, workers=workers) == first
    assert hash_of_epoch(1, workers=2, first_step=5) == second
    assert hash_of_epoch(1, workers=0, first_step=3) == second


def test_records_are_one_json_object_a_line(stage):
    Line(stage, 2).train()
    lines = (stage.run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).keys() for line in lines] == [{"stage", "loop", "step", "loss"}] * 2
