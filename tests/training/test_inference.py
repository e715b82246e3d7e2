"""Averaging over views: an exact symmetry of the group for any network."""

import pytest
import torch
from torch import nn

from fewmask.training.inference import predict_probs

GROUPS = {
    "mirror": [lambda x: x.flip(-1)],
    "dihedral": [
        lambda x: x.flip(-1),
        lambda x: x.flip(-2),
        lambda x: x.rot90(1, (-2, -1)),
        lambda x: x.rot90(3, (-2, -1)),
        lambda x: x.transpose(-2, -1),
    ],
}


@pytest.mark.parametrize("views", GROUPS)
def test_turning_the_image_turns_the_averaged_prediction(views):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Tanh(), nn.Conv2d(4, 2, 3, padding=1))
    image = torch.rand(2, 3, 12, 12)
    plain = predict_probs(network, image, views=views)
    assert not torch.allclose(plain, predict_probs(network, image, views="single"), atol=1e-3)
    for turn in GROUPS[views]:
        turned = predict_probs(network, turn(image), views=views)
        torch.testing.assert_close(turned, turn(plain), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.sum(1), torch.ones(2, 12, 12))
