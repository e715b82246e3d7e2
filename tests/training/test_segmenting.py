"""The segmenter's encoder: which weights it can start from, under which names."""

import pytest
import torch

from fewmask import torchvision_compat
from fewmask.config import Settings
from fewmask.errors import UsageError
from fewmask.models.classifier import timm_classifier
from fewmask.training.segmenting import (
    new_segmenter,
    rotation_degrees,
    segmentation_loss,
    start_from_tags,
)

torchvision_compat.ensure()


def encoder_of(segmenter):
    return segmenter.network.network.encoder.model


@pytest.mark.parametrize("name", ["convnext_atto", "densenet121", "mobilenetv3_small_050"])
def test_every_tensor_of_the_encoder_comes_from_the_tag_classifier(name):
    classifier = timm_classifier(name, 2, None)
    segmenter = new_segmenter(Settings(encoder=name, encoder_weights="none"), 2)
    start_from_tags(segmenter, classifier.state_dict())
    trained = {key.replace("_", "."): value for key, value in classifier.state_dict().items()}
    for key, tensor in encoder_of(segmenter).state_dict().items():
        assert torch.equal(tensor, trained["network." + key.replace("_", ".")]), key


def test_vgg16_of_torchvision_fits_the_encoder_from_tags_and_from_a_file(tmp_path):
    from torchvision.models import vgg16

    features = {f"features.{key}": value for key, value in vgg16().features.state_dict().items()}
    torch.save(features, tmp_path / "vgg16.pth")
    config = Settings(encoder="vgg16", encoder_weights=str(tmp_path / "vgg16.pth"))
    from_file = new_segmenter(config, 2)
    from_tags = new_segmenter(config.replaced(encoder_weights="none"), 2)
    start_from_tags(from_tags, {f"network.{key}": value for key, value in features.items()})
    for segmenter in (from_file, from_tags):
        for key, tensor in encoder_of(segmenter).state_dict().items():
            assert torch.equal(tensor, features[key.replace("_", ".")]), key


def test_another_classifier_is_refused_and_changes_nothing():
    segmenter = new_segmenter(Settings(encoder="resnet10t", encoder_weights="none"), 2)
    before = {key: value.clone() for key, value in encoder_of(segmenter).state_dict().items()}
    with pytest.raises(UsageError, match="SEGMENT-START"):
        start_from_tags(segmenter, timm_classifier("resnet18", 2, None).state_dict())
    after = encoder_of(segmenter).state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("encoder", "weights"),
    [
        ("resnet18", "packaged"),
        ("resnet18", "imagenet"),
        ("vgg16", "packaged"),
        ("tf_efficientnet_lite0", "imagenet"),
    ],
)
def test_weights_that_the_encoder_does_not_have_are_refused(encoder, weights):
    config = Settings(encoder=encoder, encoder_weights=weights)
    with pytest.raises(UsageError, match="ENCODER-WEIGHTS"):
        new_segmenter(config, 2)
    new_segmenter(config, 2, pretrained=False)


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "segformer", "upernet"])
def test_decoder_width_is_passed_over_where_there_is_none(architecture):
    config = Settings(segment_architecture=architecture, encoder_weights="none")
    assert config.segment_decoder_width
    new_segmenter(config, 2)


@pytest.mark.parametrize(
    ("asked", "from_above", "turned"),
    [(180, True, 180), (180, False, 10), (0, False, 0), (4, False, 4)],
)
def test_images_with_an_up_are_turned_a_little_or_as_little_as_asked(asked, from_above, turned):
    config = Settings(segment_rotation_degrees=asked, seen_from_above=from_above)
    assert rotation_degrees(config) == turned


def test_dice_leaves_class_0_out_only_where_it_is_the_background():
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0] = 3.0
    target = torch.tensor([[[0, 0, 0, 1]]])
    counted = segmentation_loss("ce_dice", has_background=False)(logits, target)
    left_out = segmentation_loss("ce_dice", has_background=True)(logits, target)
    assert counted < left_out  # class 0 is right, class 1 missed
