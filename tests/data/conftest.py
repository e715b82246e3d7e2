"""Small data folders, generated."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def save(tmp_path):
    """``save("positive/a.png")`` writes a new random image; with pixels, these."""
    draw = np.random.default_rng(0)

    def save_file(name, pixels=None, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = draw.integers(0, 256, (8, 6, 3), dtype=np.uint8)
        Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
        return path

    return save_file


@pytest.fixture
def mask_of():
    """``mask_of(0, 255)`` is an 8 x 6 mask that holds these values."""

    def build(*values):
        return np.resize(np.array(values, np.uint8), (8, 6))

    return build


@pytest.fixture
def good(save, mask_of, tmp_path):
    """Six positives with 0/255 masks and six negatives."""
    for number in range(6):
        save(f"positive/df{number}.png")
        save(f"negative/hz{number}.png")
        save(f"masks/df{number}.png", mask_of(0, 255))
    return tmp_path
