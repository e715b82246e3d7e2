"""Several processes train as one does with the same batches, up to the order of sums."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import traceback

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file as np_load_file
from torch import distributed as dist
from torch import nn
from torch.nn import functional

from fewmask.cli_pipelines import VERBS
from fewmask.config import resolve
from fewmask.data.folder import DataFolder
from fewmask.data.loading import TrainingSet
from fewmask.data.transforms import Augmentation
from fewmask.errors import Interrupted, ResourceError
from fewmask.losses.adversarial import squared_slopes
from fewmask.losses.segmentation import cross_entropy
from fewmask.models.stylegan2 import Discriminator
from fewmask.pipelines import factory_generator
from fewmask.pipelines.factory_config import PRESETS as FACTORY_PRESETS
from fewmask.pipelines.factory_config import FactoryConfig
from fewmask.pipelines.factory_watch import Watch
from fewmask.training import shared_batches
from fewmask.training.checkpoint import CheckpointStore
from fewmask.training.distributed import anywhere
from fewmask.training.fit import FitSettings, fit
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import segmentation_loss
from fewmask.training.shared_batches import Team
from fewmask.training.signals import stop_on_signals
from fewmask.training.workspace import Workspace

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node")
CPU = torch.device("cpu")
RUN = {"pipeline": "train", "settings": {}, "data": "-"}


def several(count, work, folder):
    """What ``work(rank)`` gives in each of ``count`` processes that know one another."""

    def child(rank):
        dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=count)
        try:
            results.put((rank, work(rank)))
        except BaseException:
            results.put((rank, traceback.format_exc()))
            raise

    folder.mkdir(exist_ok=True)
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    children = [fork.Process(target=child, args=(rank,)) for rank in range(count)]
    for each in children:
        each.start()
    found = dict(results.get() for _ in children)
    for each in children:
        each.join()
        assert each.exitcode == 0, "\n".join(map(str, found.values()))
    return [found[rank] for rank in range(count)]


class Net(nn.Module):
    """A segmenter in float64, so that a difference of meaning stands out from those of rounding."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [
                nn.Conv2d(3, 6, 3, padding=1, bias=False),  # its gradient would be rounding
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Conv2d(6, 6, 3, padding=1, stride=2, bias=False),
                nn.BatchNorm2d(6),
                nn.Dropout2d(0.2),
                nn.ReLU(),
                nn.Conv2d(6, 3, 1),
                nn.Upsample(scale_factor=2),
            ]
            self.layers = nn.Sequential(*layers).double()

    def forward(self, image):
        return self.layers(image.double())


def data():
    """Masks of three classes; of some images nearly all is 255, of one everything."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    masks = rng.integers(0, 3, (16, 8, 8)).astype(np.uint8)
    for n in range(0, 16, 3):
        masks[n].flat[n * 4 :] = 255
    return TrainingSet(images, masks, range(16), Augmentation(mirror=True), seed=0, name="fit")


def teach(step, image, target, network, average):
    """A lesson on as many images as the step's number says, from one to eight."""
    shown = image.flip(0).repeat(8, 1, 1, 1)[: step % 8 + 1]
    return 0.5 * cross_entropy(network(shown), average(shown).argmax(1))


def mean_weight(network):
    return float(sum(p.detach().sum() for p in network.parameters()))


def train(folder, *, loss="ce_dice", stop_after=None, **settings):
    """Losses, final weights, and how it ended."""
    if not folder.exists():
        RunFolder.create(folder, RUN)
    run = RunFolder.open(folder)
    run.quiet = True
    stage, steps = run.stage(1, "train", "key"), iter(range(100))

    def loss_function(logits, target):
        if next(steps) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return segmentation_loss(loss)(logits, target)

    options = {name: settings.pop(name) for name in ("teach", "score") if name in settings}
    plan = {"epochs": 3, "batch_size": 4, "learning_rate": 0.05, **settings}
    network = Net()
    try:
        with stop_on_signals():
            fit(stage, network, data(), loss_function, FitSettings(**plan), seed=0, device=CPU,
                **options)  # fmt: skip
    except Interrupted as error:
        return str(error)
    losses = [(r["loss"], r.get("taught", 0.0)) for r in stage.metrics()]
    return np.array(losses), {k: v.numpy().copy() for k, v in network.state_dict().items()}


def same(found, expected, tolerance):
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=tolerance, atol=tolerance)


TERMS = ("generator", "path_length", "judge", "r1", "overfitting")
PLANS = {
    "plain": (2, {}),
    "uneven": (3, {"batch_size": 7, "optimizer": "sgd", "max_gradient_norm": 0.5}),
    "in parts": (2, {"batch_size": 8, "micro_batch_size": 3, "loss": "focal"}),
    "taught": (2, {"batch_size": 5, "ema_decay": 0.9, "teach": teach}),
    "the best": (2, {"keep": "best", "score": mean_weight, "loss": "gce"}),
    "too few to share": (3, {"batch_size": 2}),
}


@pytest.mark.parametrize("plan", PLANS)
def test_losses_and_weights_are_those_of_one_process(plan, tmp_path):
    count, settings = PLANS[plan]
    expected = train(tmp_path / "one", **settings)
    found = several(count, lambda rank: train(tmp_path / str(rank), **settings), tmp_path)
    assert len(expected[0]) >= 6
    same(found[0], expected, 1e-9)
    for other in found[1:]:
        same(other, found[0], 0)


@pytest.mark.parametrize("layers", ["_batch_norm", "_dropout"])
def test_layers_that_look_at_their_own_images_only_would_be_seen(layers, tmp_path, monkeypatch):
    """The tolerance above is no blanket."""

    def as_always(self, *arguments, **options):
        function, *rest = arguments if layers == "_dropout" else (functional.batch_norm, *arguments)
        return function(*rest, **options)

    expected = train(tmp_path / "one")
    monkeypatch.setattr(shared_batches._WholeBatch, layers, as_always)
    found = several(2, lambda rank: train(tmp_path / str(rank)), tmp_path)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        same(found[0], expected, 1e-3)


def test_a_signal_to_one_stops_all_after_the_same_step_and_one_goes_on(tmp_path):
    expected = train(tmp_path / "one")
    stopped = several(
        2, lambda rank: train(tmp_path / str(rank), stop_after=5 if rank else None), tmp_path
    )
    assert stopped[0] == stopped[1].replace(str(tmp_path / "1"), str(tmp_path / "0"))
    assert "after step 6 of 12" in stopped[0]
    kept = [CheckpointStore(tmp_path / f"{n}/checkpoints/1-train/steps").complete() for n in (0, 1)]
    assert [path.name for path in kept[0]] == ["step-00000004", "step-00000006"]
    assert kept[1] == []
    same(train(tmp_path / "0"), expected, 1e-9)
    assert "saved with 2 processes, now 1" in (tmp_path / "0" / "log.txt").read_text()


def test_a_process_that_has_gone_is_told_and_not_waited_for(tmp_path):
    def work(rank):
        if rank:
            return None
        with pytest.raises(ResourceError, match="PROCESS-LOST process 0 of 2"):
            anywhere(False)
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                anywhere(False)
        return "told"

    assert several(2, work, tmp_path)[0] == "told"


GAN = {"generate_kimg": 0.02, "generate_r1_interval": 2, "generate_path_length_interval": 3,
       "generate_watches": 1,
       "generate_watch_images": 6, "encoder_weights": "none", "encoder": "mobilenetv3_small_050",
       "threads": 1, "device": "cpu"}  # fmt: skip
"""Every term in a few steps."""


@pytest.mark.parametrize(("count", "batch"), [(2, 6), (3, 5)])
def test_a_generator_and_its_judge_learn_as_in_one_process(count, batch, tmp_path, monkeypatch):
    """Also where half a batch, of which path lengths are taken, is too few to share out."""
    config = resolve(
        FactoryConfig, FACTORY_PRESETS, "smoke", overrides={**GAN, "generate_batch_size": batch}
    )
    signed = factory_generator.to_signed
    monkeypatch.setattr(factory_generator, "to_signed", lambda image: signed(image).double())
    monkeypatch.setattr(Watch, "look", lambda *_: None)
    augment = factory_generator.augment
    monkeypatch.setattr(factory_generator, "augment", lambda x, p, *own: augment(x, 0.7, *own))
    sheet = np.zeros((64, 16, 16, 3), np.uint8)
    monkeypatch.setattr(factory_generator, "generated_images", lambda *_: sheet)

    def learn(folder):
        torch.set_default_dtype(torch.float64)
        run = RunFolder.create(folder, RUN)
        run.quiet = True
        work = Workspace(run, config, DataFolder(folder, (), ("a",), "images", None), CPU)
        work.images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
        work.rows = lambda *_: list(range(10))
        stage = work.stages["generate"] = run.stage(3, "generate", "key")
        factory_generator.train_generator(work, stage)
        records = [[r.get(name, 0.0) for name in TERMS] for r in stage.metrics()]
        return np.array(records), dict(np_load_file(stage.path / factory_generator.GENERATOR))

    (expected,) = several(1, lambda _: learn(tmp_path / "one"), tmp_path / "alone")
    found = several(count, lambda rank: learn(tmp_path / str(rank)), tmp_path / "together")
    assert expected[0].any(0).all()
    same(found[0], expected, 1e-7)
    for other in found[1:]:
        same(other, found[0], 0)


def test_the_gradient_of_r1_is_that_of_the_whole_batch(tmp_path):
    """It goes twice through what the judge sees of other processes' images."""

    def slopes(_):
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        judge, team = Discriminator(16, base=64, most=16, group=3), Team([6])
        real = torch.rand(6, 3, 16, 16)
        own = real[team.mine(6)].requires_grad_()
        found = team.gather(squared_slopes(team.logits(judge, own, 6), own), 6)
        found.mean().backward()
        team.add_gradients(judge.parameters())
        gradients = {n: p.grad.numpy() for n, p in judge.named_parameters() if p.grad is not None}
        return found.detach().numpy(), gradients

    (expected,) = several(1, slopes, tmp_path / "alone")
    same(several(2, slopes, tmp_path / "together")[0], expected, 1e-12)


SHORT = ("--preset=smoke", "--image-size=32", "--threads=1", "--predict-views=single",
         "--predict-refine=none", "--segment-epochs")  # fmt: skip


def command(*arguments, processes=0):
    """Start a command of fewmask, by ``torchrun`` with so many processes if any."""
    launcher = [*TORCHRUN, processes, "--standalone"] if processes else []
    words = [sys.executable, *launcher, "-m", "fewmask", *arguments]
    return subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process):
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def losses_of(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = ("loss", "judge")  # the latter of a generator's training
    return {(r["stage"], r["loop"], r["step"]): r[n] for r in records for n in losses if n in r}


def names(run):
    return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())


def test_torchrun_makes_one_run_like_that_of_one_process(fewmask, small_data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert fewmask("train", small_data, "-o", one, *SHORT, 1).code == 0
    said = finished(command("train", small_data, "-o", two, *SHORT, 1, processes=2))
    assert said.count("> segmenter on all true masks") == 1
    assert names(two) == names(one)
    log = (two / "log.txt").read_text()
    assert "1 thread in each of 2 processes" in log
    stages = ["1-prepare", "2-split", "3-segment", "4-evaluate", "5-export"]
    assert re.findall(r" (\S+): \d+ s\n", log) == stages
    assert re.findall(r" (\S+): made by one process", log) == [*stages[:2], *stages[3:]]
    found, expected = losses_of(two), losses_of(one)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-4)
    assert json.loads((two / "status.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_a_run_that_torchrun_was_told_to_stop_goes_on_in_one_process(fewmask, small_data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert fewmask("train", small_data, "-o", one, *SHORT, 20).code == 0
    process = command("train", small_data, "-o", two, *SHORT, 20, processes=2)
    while not (two / "checkpoints/3-segment/segmenter").is_dir():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0, said
    assert f"fewmask resume {two}" in said
    assert json.loads((two / "status.json").read_text())["state"] == "interrupted"
    done = len(losses_of(two))
    assert 0 < done < len(losses_of(one))
    assert fewmask("resume", two).code == 0
    found, expected = losses_of(two), losses_of(one)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["tags", "adapt", "saliency", "factory"])
def test_every_stage_of_a_pipeline_is_made_once_and_alike(
    pipeline, smoke, street, settings, street_settings, saliency_settings, tmp_path
):
    data, config = {
        "tags": (smoke, settings),
        "adapt": (street / "day", street_settings),
        "saliency": (smoke, saliency_settings),
        "factory": (smoke, resolve(FactoryConfig, FACTORY_PRESETS, "smoke", overrides=GAN)),
    }[pipeline]
    one, two, file = tmp_path / "one", tmp_path / "two", tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    words = [*VERBS.get(pipeline, [pipeline]), data]
    for out, count in ((one, 0), (two, 2)):
        finished(command(*words, "-o", out, "--config", file, "--preset=smoke", processes=count))
    assert names(two) == names(one)
    found, expected = losses_of(two), losses_of(one)
    assert list(found) == list(expected)
    first = {key: loss for key, loss in expected.items() if key[2] < 4}
    assert {key: found[key] for key in first} == pytest.approx(first, rel=1e-2)
