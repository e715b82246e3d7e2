import math

import pytest
import torch
from torch.nn import functional

from fewmask.models.blocks import count_parameters
from fewmask.models.pixel_classifier import PixelClassifier, disagreement, features_at, label

CHANNELS = [7, 7, 5, 3]


def features(count=2):
    sizes = [(2, 3), (2, 3), (4, 6), (8, 12)]
    return [torch.randn(count, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


def trained(num_classes=4):
    """With statistics that differ from those of a new network."""
    network = PixelClassifier(CHANNELS, num_classes, widths=(16, 8))
    network.train()
    for _ in range(3):
        network(torch.randn(50, sum(CHANNELS)) * 2 + 1)
    return network.eval()


def naive(network, maps, size):
    """The published form: enlarge, concatenate, one vector a pixel."""
    big = [functional.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
    vectors = torch.cat(big, 1).permute(0, 2, 3, 1)  # (N, H, W, C)
    logits = network(vectors.reshape(-1, vectors.shape[-1]))
    return logits.reshape(*vectors.shape[:3], -1).permute(0, 3, 1, 2)


class TestPixelClassifier:
    def test_published_count_follows_from_the_widths(self):
        network = PixelClassifier([512] * 8 + [256] * 2 + [128] * 2 + [64] * 2, 6)
        linear = 4992 * 256 + 256 + 256 * 128 + 128 + 128 * 6 + 6
        assert count_parameters(network) == (linear + 2 * 256 + 2 * 128,) * 2

    @pytest.mark.parametrize("size", [(8, 12), (16, 20), (64, 96)])
    def test_the_first_layer_at_the_maps_own_sizes_changes_nothing(self, size):
        network, maps = trained(), features()
        torch.testing.assert_close(
            network.of_images(maps, size), naive(network, maps, size), atol=1e-5, rtol=1e-5
        )

    def test_published_sizes(self):
        sizes = [size for size in (4, 8, 16, 32, 64) for _ in range(2)]
        maps = [torch.randn(1, 64, size, size) for size in sizes]
        network = PixelClassifier([64] * 10, 3).eval()
        expected = naive(network, maps, (64, 64))
        got = network.of_images(maps, (64, 64))
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()

    @pytest.mark.parametrize("size", [(8, 12), (16, 20), (5, 7)])
    def test_pixels_read_what_enlarged_maps_would_hold(self, size):
        maps = features(1)
        place = torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1]))
        got = features_at([m[0].permute(1, 2, 0) for m in maps], place, size)
        big = [functional.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
        expected = torch.cat(big, 1)[0].flatten(1).T
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)

    def test_half_precision_maps_are_read_in_full_precision(self):
        maps, place = [m[0].permute(1, 2, 0).half() for m in features(1)], torch.tensor([[3, 5]])
        got = features_at(maps, place, (8, 12))
        assert got.dtype == torch.float32
        assert torch.equal(got, features_at([m.float() for m in maps], place, (8, 12)))

    def test_every_parameter_gets_a_gradient(self):
        network = PixelClassifier(CHANNELS, 4, widths=(16, 8))
        logits = network(torch.randn(32, sum(CHANNELS)))
        functional.cross_entropy(logits, torch.arange(32) % 4).backward()
        assert all(p.grad is not None for p in network.parameters())
        assert all(network.first.weight.grad.abs().sum(0) > 0)


class TestVotes:
    def test_labels_are_votes_and_disagreement_of_all_members(self):
        classifiers, maps = [trained() for _ in range(5)], features()
        found = label(classifiers, maps, (8, 12))
        probs = torch.stack([naive(c, maps, (8, 12)).softmax(1) for c in classifiers])
        torch.testing.assert_close(found.disagreement, disagreement(probs), atol=1e-5, rtol=1e-4)
        votes = probs.argmax(2)  # (5, N, H, W)
        for n in range(2):
            for y in range(8):
                for x in range(12):
                    counts = votes[:, n, y, x].bincount(minlength=4)
                    assert found.mask[n, y, x] == counts.argmax()
        assert len(votes[:, 0].unique(dim=0)) > 1

    def test_disagreement_by_hand(self):
        sure = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # (E, K): agree
        split = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # opposite
        unsure = torch.tensor([[0.5, 0.5], [0.5, 0.5]])  # unsure, but of one mind
        probs = torch.stack([sure, split, unsure], -1)[:, None, :, None]  # (2, 1, 2, 1, 3)
        got = disagreement(probs)
        torch.testing.assert_close(got, torch.tensor([[[0.0, math.log(2), 0.0]]]))

    def test_disagreement_against_the_mean_divergence_from_the_mean(self):
        """JSD is also the mean Kullback-Leibler divergence of each from their mean."""
        probs = torch.randn(5, 2, 3, 4, 4, dtype=torch.float64).softmax(2)
        mean = probs.mean(0)
        expected = (probs * (probs / mean).log()).sum(2).mean(0)
        torch.testing.assert_close(disagreement(probs), expected)
