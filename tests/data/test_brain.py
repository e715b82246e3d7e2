import csv
import importlib.util

import numpy as np
import pytest

from fewmask.data.brain import GAP, make_brain
from fewmask.errors import ResourceError
from fewmask.io.images import read_image, read_mask


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    pytest.importorskip("nilearn")
    return make_brain(tmp_path_factory.mktemp("brain") / "data", image_size=64)


def numbers(split_file, part):
    lines = csv.DictReader(split_file.open())
    return sorted(int(line["id"][-3:]) for line in lines if line["part"] == part)


def test_no_test_slice_is_near_a_training_slice(brain):
    train, test = (numbers(brain[1], part) for part in ("train", "test"))
    assert len(train) > 80
    assert len(test) > 20
    assert min(abs(a - b) for a in train for b in test) == GAP + 1


def test_masks_lie_on_their_slices(brain):
    """White matter is brighter than grey matter, which is brighter than what is around."""
    data, _ = brain
    means = []
    for path in sorted((data / "images").iterdir()):
        image, mask = read_image(path), read_mask(data / "masks" / path.name)
        assert image.shape == (64, 64, 3)
        assert set(np.unique(mask)) <= {0, 1, 2}
        if min((mask == k).sum() for k in range(3)) > 100:
            means.append([image[mask == k].mean() for k in range(3)])
    assert len(means) > 60
    other, grey, white = np.mean(means, 0)
    assert other < grey < white


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ResourceError, match=r"fewmask\[demo\]"):
        make_brain(tmp_path / "data")
    assert not (tmp_path / "data").exists()
