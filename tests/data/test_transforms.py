"""Augmentation: image, maps and mask move together; only the image changes colour."""

import numpy as np
import pytest
import torch

from fewmask.data.transforms import Augmentation

MOVES = {
    "flips": Augmentation(flips=True),
    "mirror": Augmentation(mirror=True),
    "affine": Augmentation(zoom=0.3, rotation_degrees=30),
    "all": Augmentation(flips=True, mirror=True, zoom=0.3, rotation_degrees=180, colour=0.4,
                        resample=1.0),
}  # fmt: skip


def picture(channels=3, side=24):
    return torch.rand(channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["flips", "mirror", "affine"])
def test_maps_move_with_the_image(kind):
    """Maps that are copies of the image's channels stay so, between pixels too."""
    image = picture()
    both = torch.cat([image, image[:2]])
    for draw in range(8):
        moved, _ = MOVES[kind](both, None, 0, draw)
        assert torch.equal(moved[3:], moved[:2])
        assert torch.equal(moved[:3], MOVES[kind](image, None, 0, draw)[0])


def test_a_map_moves_with_the_mask_and_keeps_its_values():
    """A map that is the mask: after any change it is that of the changed mask, but at edges."""
    mask = torch.zeros(24, 24, dtype=torch.uint8)
    mask[4:12, 6:20] = 1
    image = torch.cat([picture(), mask[None].float()])
    for draw in range(8):
        moved, changed = MOVES["all"](image, mask, 0, draw)
        assert (moved[3].round() == changed).float().mean() > 0.97
        assert changed.dtype == torch.uint8


def test_colour_and_resampling_leave_maps_alone():
    image = picture(5)
    changing = Augmentation(colour=0.4, resample=1.0)
    moved, _ = changing(image, None, 0, 1)
    assert torch.equal(moved[3:], image[3:])
    assert not torch.allclose(moved[:3], image[:3], atol=0.01)
    assert torch.equal(moved[:3], changing(image[:3], None, 0, 1)[0])


def test_maps_alone_keep_their_values():
    image = picture(2)
    moved, _ = Augmentation(colour=0.4, resample=1.0, colours=0)(image, None, 0, 1)
    assert torch.equal(moved, image)


def test_ids_are_never_mixed():
    mask = torch.from_numpy(np.random.default_rng(0).choice([3, 7, 255], (24, 24))).byte()
    for draw in range(8):
        _, changed = MOVES["all"](picture(4), mask, 0, draw)
        assert set(changed.unique().tolist()) <= {3, 7, 255}
