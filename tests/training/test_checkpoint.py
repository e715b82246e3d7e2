"""The writer is killed, starved and its files are bent; what loads is what was saved."""

import errno
import json
import os
import pathlib
import shutil
import signal

import pytest
import torch
from torch import nn

from fewmask.errors import CheckpointError, NumericalError, ResourceError
from fewmask.randomness import generator
from fewmask.training.checkpoint import (
    MANIFEST,
    CheckpointStore,
    load_weights,
    save_weights,
    write_atomically,
)
from fewmask.training.image_pool import ImagePool


class State:
    """A network, its optimiser and an image pool after a number of steps, the same each time."""

    def __init__(self, step):
        with torch.random.fork_rng():
            torch.manual_seed(step)
            self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1 + step)
            self.pool = ImagePool(2)
            if step:
                image = torch.rand(2, 3, 4, 4)
                self.network(image).square().sum().backward()
                self.optimizer.step()
                self.pool.query(image, seed=step)

    @property
    def parts(self):
        return {"network": self.network, "optimizer": self.optimizer, "pool": self.pool}

    def flat(self):
        """Everything in it, as one comparable list."""
        optimizer = self.optimizer.state_dict()
        moments = [v for group in optimizer["state"].values() for v in group.values()]
        tensors = [*self.network.state_dict().values(), *moments, *self.pool.state_dict().values()]
        rates = [group["lr"] for group in optimizer["param_groups"]]
        return [t.tolist() for t in tensors] + rates


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # only a power cut needs it
    return CheckpointStore(tmp_path / "checkpoints")


def save(store, *steps):
    return [store.save(step, State(step).parts, {"n": step}) for step in steps]


def load(store):
    """Step, meta and warnings of what loads, which must be what was saved at that step."""
    state = State(0)
    step, meta, warnings = store.load_latest(state.parts)
    assert state.flat() == State(step).flat()
    return step, meta, warnings


def test_a_checkpoint_comes_back_bit_for_bit_and_two_are_kept(store):
    assert load(store) == (0, {}, [])
    save(store, 1, 2, 3)
    assert load(store) == (3, {"n": 3}, [])
    assert [path.name for path in store.complete()] == ["step-00000002", "step-00000003"]


def every_call(monkeypatch, act):
    """Have ``act(name)`` called at each step by which a writer changes the disk."""

    def watched(name, original):
        def call(*arguments, **options):
            act(name)
            return original(*arguments, **options)

        return call

    class Watched:
        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

        def write(self, content):
            act("write half")
            self.stream.write(content[: len(content) // 2])
            self.stream.flush()
            act("write")
            return self.stream.write(content[len(content) // 2 :])

    def open_watched(self, mode="r", *arguments, **options):
        stream = opened(self, mode, *arguments, **options)
        return Watched(stream) if "w" in mode else stream

    opened = pathlib.Path.open
    monkeypatch.setattr(pathlib.Path, "open", open_watched)
    for owner, name in (
        (os, "fsync"),
        (os, "rmdir"),
        (os, "unlink"),
        (pathlib.Path, "rename"),
        (pathlib.Path, "replace"),
        (pathlib.Path, "mkdir"),
    ):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))


def counted(limit, act):
    """A function that acts at its ``limit``-th call, and the list of the names seen before."""
    seen = []

    def call(name):
        seen.append(name)
        if len(seen) == limit:
            act()

    return call, seen


def writer_calls(store, monkeypatch):
    call, seen = counted(0, lambda: None)
    with monkeypatch.context() as patch:
        every_call(patch, call)
        save(store, 4)
    return seen


def before_step_3(store):
    shutil.rmtree(store.folder, ignore_errors=True)
    save(store, 1, 2)


def test_killed_at_any_call_of_the_writer_the_old_or_the_new_state_loads(
    store, monkeypatch, in_child
):
    before_step_3(store)
    calls = writer_calls(store, monkeypatch)
    assert {"write half", "write", "fsync", "rename", "replace", "mkdir", "unlink"} <= set(calls)
    outcomes = []
    for k in range(1, len(calls) + 1):
        before_step_3(store)

        def killed(k=k):
            call, _ = counted(k, lambda: os.kill(os.getpid(), signal.SIGKILL))
            every_call(monkeypatch, call)
            save(store, 3)

        assert in_child(killed) == -signal.SIGKILL
        step, _, warnings = load(store)
        assert warnings == []
        assert not list(store.folder.glob(".tmp-*"))
        outcomes.append(step)
        save(store, 4)
        assert load(store)[0] == 4
    assert set(outcomes) == {2, 3}
    assert outcomes == sorted(outcomes)  # once visible, it stays


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_at_any_call_is_a_resource_error_and_costs_nothing(
    store, monkeypatch, number
):
    before_step_3(store)
    calls = writer_calls(store, monkeypatch)
    visible = calls.index("rename") + 1  # from here on the new checkpoint is there
    for k in range(1, visible + 2):
        before_step_3(store)

        def refuse():
            raise OSError(number, os.strerror(number))

        call, seen = counted(k, refuse)
        with monkeypatch.context() as patch:
            every_call(patch, call)
            with pytest.raises(ResourceError) as raised:
                save(store, 3)
        assert raised.value.exit_code == 14
        assert os.strerror(number) in str(raised.value)
        assert not list(store.folder.rglob(".tmp-*")), seen
        step, _, warnings = load(store)
        assert (step, warnings) == (2 if k <= visible else 3, [])


def test_a_flipped_bit_in_any_part_is_noticed_and_the_previous_checkpoint_is_used(store):
    newest = save(store, 1, 2)[-1]
    rng = generator("bit flips")
    parts = sorted(newest.iterdir())
    for _ in range(200):
        path = parts[rng.integers(len(parts))]
        intact = path.read_bytes()
        bent = bytearray(intact)
        bent[rng.integers(len(bent))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bent)
        try:
            step, meta, warnings = load(store)
        except CheckpointError:
            assert path.name == MANIFEST  # the name of a part: refused
        else:
            if step == 2:  # a letter of the manifest's meta: no state
                assert path.name == MANIFEST
                assert json.loads(bent)["parts"] == json.loads(intact)["parts"]
                assert json.loads(bent)["step"] == 2
            else:
                assert (step, meta) == (1, {"n": 1})
                assert len(warnings) == 1
                assert newest.name in warnings[0]
        path.write_bytes(intact)
    assert load(store) == (2, {"n": 2}, [])


def test_a_truncated_missing_or_emptied_file_is_noticed(store):
    newest = save(store, 1, 2)[-1]
    for path in sorted(newest.iterdir()):
        intact = path.read_bytes()
        for length in (0, 1, len(intact) // 2, len(intact) - 1):
            path.write_bytes(intact[:length])
            step, _, warnings = load(store)
            assert (step, len(warnings)) == (1, 1)
        path.unlink()
        assert load(store)[0] == 1
        path.write_bytes(intact)


def test_parts_of_another_checkpoint_are_noticed(store):
    older, newest = save(store, 1, 2)
    for name in ("network.safetensors", "optimizer.pt", "pool.pt"):
        intact = (newest / name).read_bytes()
        shutil.copy(older / name, newest / name)
        step, _, warnings = load(store)
        assert (step, len(warnings)) == (1, 1)
        (newest / name).write_bytes(intact)
    shutil.rmtree(newest)
    shutil.copytree(older, newest)  # a whole checkpoint under a later step's name
    assert load(store)[0] == 1


def test_what_is_loaded_is_the_file_whose_hash_was_compared(store, tmp_path):
    save(store, 1)
    save_weights(tmp_path / "network.safetensors", State(2).network)
    manifest = store.folder / "step-00000001" / MANIFEST
    elsewhere = json.dumps(str(tmp_path / "network.safetensors"))
    manifest.write_text(manifest.read_text().replace('"network.safetensors"', elsewhere))
    loaded = State(0)
    store.load_latest(loaded.parts)
    assert loaded.flat() == State(1).flat()


def test_a_manifest_that_tells_another_step_is_noticed(store):
    path = save(store, 1, 2)[-1] / MANIFEST
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))
    assert load(store)[0] == 1


def test_damage_everywhere_is_an_error_not_a_new_start(store):
    for path in save(store, 1, 2):
        (path / "pool.pt").write_bytes(b"")
    with pytest.raises(CheckpointError) as raised:
        load(store)
    assert raised.value.problems[0].code == "CHECKPOINT-DAMAGED"
    assert "step-00000001" in str(raised.value)
    assert "step-00000002" in str(raised.value)


def test_a_damaged_checkpoint_ahead_does_not_push_out_an_intact_one(store):
    _, _, ahead = save(store, 1, 5, 9)
    (ahead / "pool.pt").write_bytes(b"")
    assert load(store)[0] == 5
    save(store, 6)
    assert [path.name for path in store.complete()] == ["step-00000005", "step-00000006"]


@pytest.mark.parametrize("key", ["network", "optimizer", "pool"])
def test_a_missing_or_unknown_key_is_named(store, key):
    save(store, 1)
    others = {k: v for k, v in State(0).parts.items() if k != key}
    with pytest.raises(CheckpointError, match=f"STATE-KEY.* unknown: {key};"):
        store.load_latest(others)
    CheckpointStore(store.folder).save(2, others, {})
    with pytest.raises(CheckpointError, match=f"STATE-KEY.* missing: {key};"):
        store.load_latest(State(0).parts)


def test_a_state_of_another_shape_is_refused_with_the_name_of_its_part(store):
    save(store, 1)
    other = State(0)
    other.network = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"STATE-MISMATCH.*network\.safetensors"):
        store.load_latest(other.parts)


def test_weights_that_are_not_finite_are_never_saved(store):
    save(store, 1)
    bad = State(2)
    with torch.no_grad():
        bad.network[0].weight[1, 2, 0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"network\.0\.weight"):
        store.save(2, bad.parts, {})
    assert load(store)[0] == 1


def test_foreign_files_survive_and_stale_temporaries_go(store):
    save(store, 1)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "step-mine").mkdir()
    (store.folder / "step-mine" / MANIFEST).write_text("{}")
    stale = store.folder / ".tmp-step-00000009-4711"
    stale.mkdir()
    (stale / "network.safetensors").write_bytes(b"half")
    save(store, 2, 3, 4)
    assert not stale.exists()
    assert (store.folder / "notes.txt").read_text() == "mine"
    assert (store.folder / "step-mine" / MANIFEST).read_text() == "{}"


def test_damaged_weights_are_a_checkpoint_error_that_names_the_file(tmp_path):
    path, network = tmp_path / "net.safetensors", State(1).network
    save_weights(path, network)
    loaded = State(0).network
    load_weights(path, loaded)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters()))  # noqa: B905
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_weights(path, loaded)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def refuse():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for k in range(1, 5):  # two halves of the write, fsync, replace
        with monkeypatch.context() as patch:
            every_call(patch, counted(k, refuse)[0])
            with pytest.raises(ResourceError):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert [found.name for found in tmp_path.iterdir()] == ["file"]
