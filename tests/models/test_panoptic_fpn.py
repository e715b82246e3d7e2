"""The semantic branch of Panoptic FPN, layer by layer, against the library's FPN.

What is checked: laterals and top-down sums, each level brought to 1/4 by (3x3 convolution, group
normalisation, ReLU, x2 bilinear), their sum, 1x1 convolution, x4 bilinear.

What differs from Kirillov et al. 2019: the library has no 3x3 convolution after each top-down sum,
drops channels (0.2) before the head while training, and aligns corners where it enlarges.
"""

import pytest
import torch
from torch.nn.functional import conv2d, group_norm, interpolate

from fewmask.models.blocks import count_parameters
from fewmask.models.segmenter import build_segmenter


def panoptic_fpn(encoder, classes):
    return build_segmenter("fpn", encoder, num_classes=classes, pretrained=False)


def by_the_book(network, image):
    """Kirillov et al. 2019, section 3, with the library's weights and nothing else of it."""
    fpn = network.network.network  # behind normalisation and padding
    image = (image - network.mean) / network.std
    c2, c3, c4, c5 = fpn.encoder(image)[-4:]
    weights = {name: p for name, p in fpn.named_parameters() if not name.startswith("encoder")}

    def lateral(name, x):
        return conv2d(x, weights[f"decoder.{name}.weight"], weights[f"decoder.{name}.bias"])

    p5 = lateral("p5", c5)
    p4 = lateral("p4.skip_conv", c4) + interpolate(p5, scale_factor=2, mode="nearest")
    p3 = lateral("p3.skip_conv", c3) + interpolate(p4, scale_factor=2, mode="nearest")
    p2 = lateral("p2.skip_conv", c2) + interpolate(p3, scale_factor=2, mode="nearest")
    total = torch.zeros(())
    for branch, (level, doublings) in enumerate(((p5, 3), (p4, 2), (p3, 1), (p2, 0))):
        x = level
        for block in range(max(doublings, 1)):
            name = f"decoder.seg_blocks.{branch}.block.{block}.block"
            x = conv2d(x, weights[f"{name}.0.weight"], padding=1)
            x = group_norm(x, 32, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"]).relu()
            if doublings:
                x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        assert x.shape[-2:] == c2.shape[-2:]  # a quarter of the image
        total = total + x
    head = conv2d(total, weights["segmentation_head.0.weight"], weights["segmentation_head.0.bias"])
    return interpolate(head, scale_factor=4, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("encoder", ["resnet18", "tf_efficientnet_lite0"])
def test_every_layer_is_the_published_one(encoder):
    network = panoptic_fpn(encoder, 5).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network(image), by_the_book(network, image))


def test_count_of_the_published_size():
    backbone = 44_549_160 - (2048 * 1000 + 1000)  # ResNet-101 without its classifier
    laterals = sum(channels * 256 + 256 for channels in (256, 512, 1024, 2048))
    first, next_ = 9 * 256 * 128 + 2 * 128, 9 * 128 * 128 + 2 * 128
    branches = (first + 2 * next_) + (first + next_) + first + first
    head = 128 * 19 + 19
    with torch.device("meta"):
        network = panoptic_fpn("resnet101", 19)
    assert count_parameters(network)[0] == backbone + laterals + branches + head
