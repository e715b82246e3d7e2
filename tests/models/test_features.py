import pytest
import torch

from fewmask.errors import UsageError
from fewmask.models.features import content_features, level_statistics, pooled_features

LITE0 = "tf_efficientnet_lite0"


class TestContentFeatures:
    def test_maps_at_a_sixteenth_of_the_side(self):
        network = content_features(LITE0, "none")
        assert network(torch.rand(2, 3, 64, 96)).shape == (2, 112, 4, 6)

    def test_vgg16_gives_relu5_3(self):
        with torch.device("meta"):
            network = content_features("vgg16", "none")
            out = network(torch.rand(1, 3, 64, 64))
        assert out.shape == (1, 512, 4, 4)
        convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(convolutions) == 13

    def test_nothing_is_trained_and_gradients_reach_the_image(self):
        network = content_features(LITE0, "none").train()
        before = {k: v.clone() for k, v in network.state_dict().items()}
        image = torch.rand(2, 3, 32, 32, requires_grad=True)
        network(image).square().sum().backward()
        assert image.grad.abs().sum() > 0
        assert not any(p.requires_grad for p in network.parameters())
        after = network.state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items())  # running means too

    def test_packaged_weights_are_loaded(self):
        image = torch.rand(1, 3, 32, 32)
        first, second = (content_features(LITE0, "packaged")(image) for _ in range(2))
        assert torch.equal(first, second)


class TestLevelStatistics:
    def test_means_and_deviations_of_all_levels(self):
        network = level_statistics(LITE0, "packaged")
        image = torch.rand(2, 3, 64, 96)
        found = network(image)
        levels = network.network.network.network((image - 0.5) / 0.5)
        assert [f.shape[-2:] for f in levels] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
        expected = [s for f in levels for s in (f.mean((2, 3)), f.std((2, 3), correction=0))]
        assert torch.allclose(found, torch.cat(expected, dim=1), atol=1e-5)
        assert found.shape == (2, 2 * sum(f.shape[1] for f in levels)) == (2, 1024)


class TestPooledFeatures:
    def test_one_vector_an_image_that_is_the_same_for_the_same_weights(self):
        image = torch.rand(2, 3, 64, 48)
        first, second = (pooled_features(LITE0, "packaged")(image) for _ in range(2))
        assert first.shape == (2, 1280)
        assert torch.equal(first, second)

    def test_weights_of_another_network_are_refused(self):
        with pytest.raises(UsageError, match="ENCODER-WEIGHTS"):
            pooled_features("resnet18", "packaged")


@pytest.mark.parametrize("encoder", ["resnet18", "convnext_atto"])
def test_content_is_taken_at_stride_16_whatever_the_network_calls_it(encoder):
    assert content_features(encoder, "none")(torch.rand(1, 3, 64, 96)).shape[-2:] == (4, 6)


def test_a_network_whose_channels_come_last_is_refused():
    for build in (content_features, level_statistics):
        with pytest.raises(UsageError, match="ENCODER-LEVELS"):
            build("swin_tiny_patch4_window7_224", "none")
