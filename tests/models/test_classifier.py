import pytest
import torch
from torch import nn

from fewmask.errors import CheckpointError, ResourceError, UsageError
from fewmask.models.blocks import count_parameters
from fewmask.models.classifier import (
    CLASSIFIER_TARGET_LAYER,
    efficientnet_classifier,
    timm_classifier,
    vgg16_classifier,
)


@pytest.fixture(scope="module")
def vgg16():
    torch.manual_seed(0)
    return vgg16_classifier(2)


class TestVGG16:
    def test_published_counts(self, vgg16):
        assert count_parameters(vgg16) == (135_309_890, 1_049_346)

    def test_exactly_the_new_head_is_trained(self, vgg16):
        trained = {name for name, p in vgg16.named_parameters() if p.requires_grad}
        layer = "network.classifier.6"
        assert trained == {f"{layer}.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}

    def test_every_trained_parameter_gets_a_gradient_at_an_odd_size(self, vgg16):
        vgg16.zero_grad()
        logits = vgg16(torch.rand(2, 3, 45, 61))
        assert logits.shape == (2, 2)
        nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
        for name, parameter in vgg16.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
            assert parameter.grad is None or parameter.grad.abs().sum() > 0, name

    def test_dropout_of_the_frozen_layers_follows_train_and_eval(self, vgg16):
        image = torch.rand(1, 3, 32, 32)
        vgg16.train()
        assert not torch.equal(vgg16(image), vgg16(image))
        vgg16.eval()
        assert torch.equal(vgg16(image), vgg16(image))

    def test_target_layer_is_the_last_convolution(self, vgg16):
        layer = vgg16.get_submodule(CLASSIFIER_TARGET_LAYER["vgg16"])
        assert layer is [m for m in vgg16.modules() if isinstance(m, nn.Conv2d)][-1]

    def test_loads_a_file_of_torchvisions_layout(self, tmp_path, monkeypatch):
        import torchvision

        monkeypatch.setattr(torchvision.models, "vgg16", _tiny_vgg)
        state = _tiny_vgg().state_dict()
        torch.save(state, tmp_path / "vgg16.pth")
        loaded = vgg16_classifier(2, weights=tmp_path / "vgg16.pth").network
        assert torch.equal(loaded.features[0].weight, state["features.0.weight"])
        assert torch.equal(loaded.classifier[3].bias, state["classifier.3.bias"])

        del state["classifier.3.bias"]
        torch.save(state, tmp_path / "vgg16.pth")
        with pytest.raises(CheckpointError, match=r"classifier\.3\.bias"):
            vgg16_classifier(2, weights=tmp_path / "vgg16.pth")

    def test_without_network_the_error_names_the_way_out(self, monkeypatch):
        import torchvision

        def no_network(*_, **__):
            raise OSError("Name or service not known")

        monkeypatch.setattr(torchvision.models, "vgg16", _tiny_vgg)
        monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", no_network)
        with pytest.raises(ResourceError, match=r"--encoder path/to/vgg16\.pth"):
            vgg16_classifier(2, weights="imagenet")


class TestEfficientNet:
    def test_golden_logits(self):
        """Packaged weights, normalisation and mapping, in five numbers.

        Each is the sum of 256 of the 1,280 features of a fixed image of ramps.

        If a change here is meant, put the numbers of the failure in their place.
        """
        network = efficientnet_classifier(5, pretrained=True).eval()
        with torch.no_grad():
            network.network.classifier.weight.copy_(torch.eye(5).repeat_interleave(256, dim=1))
            network.network.classifier.bias.zero_()
            ramp = torch.linspace(0, 1, 64)
            image = torch.stack([ramp.expand(64, 64), ramp.expand(64, 64).T, ramp.outer(ramp)])
            logits = network(image[None])[0]
        golden = torch.tensor(GOLDEN_LOGITS)
        assert torch.allclose(logits, golden, atol=0.05), logits.tolist()

    def test_plain_cam_is_exact_at_the_target_layer(self):
        """Its mean over positions, through the head, is the logit itself."""
        network = efficientnet_classifier(3, pretrained=False).eval()
        seen = []
        layer = network.get_submodule(CLASSIFIER_TARGET_LAYER["tf_efficientnet_lite0"])
        handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
        with torch.no_grad():
            logits = network(torch.rand(2, 3, 64, 96))
            rebuilt = network.network.classifier(seen[0].mean((2, 3)))
        handle.remove()
        assert torch.allclose(logits, rebuilt, atol=1e-6)

    @pytest.mark.parametrize("outputs", [1, 4])
    def test_every_parameter_gets_a_gradient_at_an_odd_size(self, outputs):
        network = efficientnet_classifier(outputs, pretrained=False)
        logits = network(torch.rand(2, 3, 45, 70))
        assert logits.shape == (2, outputs)
        logits.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())

    def test_same_seed_same_network(self):
        torch.manual_seed(3)
        first = efficientnet_classifier(2, pretrained=True).state_dict()
        torch.manual_seed(3)
        second = efficientnet_classifier(2, pretrained=True).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)


class TestTimm:
    def test_weights_file_fills_all_but_the_head(self, tmp_path):
        source = timm_classifier("resnet10t", 1000, None).network
        torch.save(source.state_dict(), tmp_path / "w.pth")
        torch.manual_seed(1)
        loaded = timm_classifier("resnet10t", 2, tmp_path / "w.pth").network
        assert loaded.fc.out_features == 2
        for name, tensor in loaded.state_dict().items():
            if not name.startswith("fc."):
                assert torch.equal(tensor, source.state_dict()[name]), name

    def test_normalises_with_the_networks_own_statistics(self):
        assert timm_classifier("resnet10t", 2, None).mean.flatten().tolist() == pytest.approx(
            [0.485, 0.456, 0.406]
        )
        assert efficientnet_classifier(2, pretrained=False).std.flatten().tolist() == [0.5] * 3

    def test_unknown_name_offers_close_ones(self):
        with pytest.raises(UsageError, match="resnet18"):
            timm_classifier("resnet17", 2, None)


def _tiny_vgg(weights=None):
    """torchvision's VGG16 by its names, a thousand times smaller."""
    network = nn.Module()
    network.features = nn.Sequential(nn.Conv2d(3, 2, 3))
    network.classifier = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4), nn.ReLU(), nn.Dropout(),
        nn.Linear(4, 9),
    )  # fmt: skip
    return network


GOLDEN_LOGITS = [103.6126, 140.0751, 91.2291, 138.2304, 100.9994]
