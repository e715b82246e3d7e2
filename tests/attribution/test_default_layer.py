"""The layer at which maps are taken by default: the one that is pooled, on any classifier."""

import pytest
import torch
from torch import nn

from fewmask.attribution.cam import compute_cam, find_layer, require_pooled
from fewmask.errors import UsageError
from fewmask.models.classifier import CLASSIFIER_TARGET_LAYER, timm_classifier, vgg16_classifier

NETWORKS = {
    "tf_efficientnet_lite0": "network.bn2",
    "resnet18": "network.layer4",
    "mobilenetv3_large_100": "network.blocks",
    "convnext_atto": "network.norm_pre",
    "vgg16": "network.features",
}


@pytest.fixture(scope="module", params=NETWORKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    torch.manual_seed(0)
    return vgg16_classifier(2) if name == "vgg16" else timm_classifier(name, 2, None)


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_default_layer_is_the_one_that_is_pooled(name, network):
    assert find_layer(network, None) is network.get_submodule(NETWORKS[name])
    assert hooks(network) == 0
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam"])
def test_map_at_the_default_layer_varies_and_leaves_no_hook(name, network, image, method):
    layer = find_layer(network, CLASSIFIER_TARGET_LAYER.get(name))
    raw = compute_cam(
        network, image, target_layer=layer, class_index=0, method=method, normalise=False
    )
    other = compute_cam(
        network, image, target_layer=layer, class_index=1, method=method, normalise=False
    )
    assert torch.maximum(raw, other).std((1, 2)).min() > 0
    assert hooks(network) == 0


def test_plain_cam_is_taken_only_where_its_mean_is_the_logit(name, network, image):
    layer = find_layer(network, None)
    if name in {"tf_efficientnet_lite0", "resnet18"}:
        require_pooled(network, image, layer)
        linear = network.network.get_classifier()
        raw = compute_cam(
            network, image, target_layer=layer, class_index=1, method="cam", normalise=False
        )
        assert raw.max() > 0 or linear.weight[1].max() <= 0
    else:  # a layer with weights or a normalisation stands between pooling and linear layer
        with pytest.raises(UsageError, match="CAM-HEAD"):
            require_pooled(network, image, layer)


def test_layer_before_the_activation_is_not_what_is_pooled(image):
    network = timm_classifier("resnet18", 2, None)
    with pytest.raises(UsageError, match="CAM-HEAD"):
        require_pooled(network, image, find_layer(network, "network.layer4.1.conv2"))


@pytest.mark.parametrize(
    ("encoder", "layer", "side"),
    [("mobilenetv3_large_100", "network.conv_head", 96), ("resnet18", "network.layer4", 32)],
)
def test_layer_of_a_single_pixel_is_refused_with_layers_that_have_more(encoder, layer, side):
    network = timm_classifier(encoder, 2, None)
    image = torch.rand(1, 3, side, side)
    settings = {"class_index": 0, "method": "grad_cam"}
    with pytest.raises(UsageError, match="single pixel") as caught:
        compute_cam(network, image, target_layer=find_layer(network, layer), **settings)
    named = caught.value.problems[0].fix.split("one of ")[1].split(", ")
    assert named
    for usable in named:
        compute_cam(network, image, target_layer=find_layer(network, usable), **settings)


@pytest.mark.parametrize("encoder", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_network_without_maps_needs_a_layer_by_name(encoder):
    with pytest.raises(UsageError, match="name the layer"):
        find_layer(timm_classifier(encoder, 2, None), None)


def test_network_that_cannot_run_is_refused_and_keeps_no_hook():
    network = nn.Sequential(nn.Conv2d(5, 2, 3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(UsageError, match="fails on"):
        find_layer(network, None)
    assert hooks(network) == 0
    assert find_layer(network, None, torch.zeros(1, 5, 8, 8)) is network[0]
