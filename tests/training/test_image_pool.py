import pytest
import torch
from torch._subclasses import FakeTensorMode

from fewmask.errors import CheckpointError
from fewmask.training.image_pool import ImagePool


def images(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def values(batch):
    return batch[:, 0, 0, 0].tolist()


def run(pool, queries, start=0):
    return [values(pool.query(images(2 * q, 2 * q + 1), seed=q)) for q in range(start, queries)]


def test_while_it_fills_every_image_comes_back():
    pool = ImagePool(4)
    assert values(pool.query(images(1, 2, 3), seed=0)) == [1, 2, 3]
    assert len(pool) == 3


def test_images_are_swapped_half_of_the_time_and_uniformly():
    pool = ImagePool(4)
    pool.query(images(0, 1, 2, 3), seed=0)
    swapped = sum(values(pool.query(images(q), seed=q)) != [q] for q in range(4, 2004))
    assert 900 < swapped < 1100
    assert len(pool) == 4

    places = []
    for seed in range(2000):
        pool = ImagePool(4)
        pool.query(images(0, 1, 2, 3), seed=0)
        places += [v for v in values(pool.query(images(9), seed=seed)) if v != 9]
    assert all(200 < places.count(value) < 300 for value in range(4))


def test_a_swapped_image_is_in_the_pool_and_the_old_one_is_gone():
    pool = ImagePool(1)
    pool.query(images(0), seed=0)
    seed = next(s for s in range(50) if values(_copy(pool).query(images(5), seed=s)) == [0])
    pool.query(images(5), seed=seed)
    assert values(pool.state_dict()["images"]) == [5]


def test_capacity_zero_passes_everything_through():
    pool = ImagePool(0)
    assert run(pool, 5) == [[2 * q, 2 * q + 1] for q in range(5)]
    assert len(pool) == 0


def test_results_follow_from_the_seeds_alone():
    first = run(ImagePool(3), 40)
    torch.manual_seed(5)
    assert run(ImagePool(3), 40) == first
    pool = ImagePool(3)
    pool.query(images(0, 1, 2), seed=0)
    answers = {values(_copy(pool).query(images(9), seed=s))[0] for s in range(30)}
    assert answers == {0, 1, 2, 9}


def test_resumed_equals_uninterrupted(tmp_path):
    whole, half = ImagePool(6), ImagePool(6)
    expected = run(whole, 40)
    assert run(half, 20) == expected[:20]
    torch.save(half.state_dict(), tmp_path / "pool.pt")
    resumed = ImagePool(6)
    resumed.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
    assert run(resumed, 40, start=20) == expected[20:]


def test_empty_state_round_trip():
    pool = ImagePool(2)
    pool.query(images(1), seed=0)
    pool.load_state_dict(ImagePool(2).state_dict())
    assert len(pool) == 0


def test_images_are_detached_and_copied():
    batch = images(1.0).clone().requires_grad_()
    pool = ImagePool(2)
    assert not pool.query(batch * 1, seed=0).requires_grad
    with torch.no_grad():
        batch.fill_(7)
    assert values(pool.state_dict()["images"]) == [1]


def test_a_swapped_in_image_is_copied_too():
    pool = ImagePool(1)
    batches = [images(float(q)).clone() for q in range(20)]
    for q, batch in enumerate(batches):
        pool.query(batch, seed=q)
    kept = values(pool.state_dict()["images"])
    for batch in batches:
        batch.fill_(-1)
    assert values(pool.state_dict()["images"]) == kept


def test_images_of_a_gpu_go_into_a_loaded_pool_and_come_back_on_the_gpu():
    with FakeTensorMode():  # tensors that have a device and a shape, and no GPU behind them
        pool = ImagePool(2)
        pool.load_state_dict({"images": torch.zeros(1, 3, 2, 2)})
        for seed in range(6):
            query = torch.zeros(2, 3, 2, 2, device="cuda", requires_grad=True)
            assert pool.query(query, seed=seed).device.type == "cuda"
            assert pool.state_dict()["images"].device.type == "cpu"
        assert len(pool) == 2


@pytest.mark.parametrize(
    "state", [{}, {"pictures": torch.zeros(1)}, {"images": torch.zeros(3, 3, 2, 2)}]
)
def test_a_foreign_or_too_large_state_is_refused(state):
    with pytest.raises(CheckpointError, match="STATE-IMAGE-POOL"):
        ImagePool(2).load_state_dict(state)


def _copy(pool):
    copy = ImagePool(pool.capacity)
    copy.load_state_dict(pool.state_dict())
    return copy
