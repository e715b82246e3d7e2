"""All methods behind one function; maps that are made once; segmenters as classifiers."""

import numpy as np
import pytest
import torch
from torch import nn

from fewmask.attribution.cam import compute_cam
from fewmask.attribution.explain import Explainer, RegionLogits, default_layer, explain
from fewmask.attribution.hooks import layers_with_maps
from fewmask.attribution.methods import METHODS
from fewmask.attribution.saliency import compute_saliency
from fewmask.errors import UsageError
from fewmask.models.segmenter import build_segmenter


def classifier(outputs=3, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs),
    )  # fmt: skip
    net[-1].weight.data.abs_()
    return net.eval()


def batch(count=5, side=16):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_map_of_its_own_function_in_batches(method):
    net, image, index = classifier(), batch(), torch.tensor([0, 1, 2, 1, 0])
    given = {"class_index": index, "method": method}
    if method in ("plain", "deconv", "guided", "smoothgrad", "integrated_gradients"):
        expected = compute_saliency(net, image, **given)
    elif method == "guided_grad_cam":
        expected = compute_saliency(net, image, target_layer=net[3], **given)
    else:
        expected = compute_cam(net, image, target_layer=net[3], **given)
    found = explain(net, image, batch_size=2, **given)
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.shape == (5, 16, 16)
    assert found.amax() == 1


def test_options_go_to_the_method():
    net, image = classifier(), batch(2)
    few = explain(net, image, method="smoothgrad", samples=1)
    assert not torch.allclose(few, explain(net, image, method="smoothgrad", samples=9), atol=1e-3)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="'score_cam'"):
        explain(classifier(), batch(1), method="score_came")


# ------------------------------------------------------------------------------ segmenters


class Fixed(nn.Module):
    """A segmenter whose logits are the image's channels."""

    def forward(self, image):
        return image * 1.0


def test_a_class_of_a_segmenter_has_the_mean_logit_of_its_own_region():
    image = torch.zeros(1, 3, 1, 4)
    image[0, 0] = torch.tensor([5.0, 3.0, 0.0, 0.0])  # predicted in the first two
    image[0, 1] = torch.tensor([0.0, 0.0, 4.0, 8.0])  # in the others
    image[0, 2] = torch.tensor([1.0, 0.0, 1.0, 2.0])  # nowhere: the mean over the image
    assert RegionLogits(Fixed())(image).tolist() == [[4.0, 6.0, 1.0]]


def test_the_gradient_of_a_region_is_even_within_it_and_nothing_outside():
    image = torch.zeros(1, 3, 1, 4)
    image[0, 0, 0, :2] = 3
    image[0, 1, 0, 2:] = 3
    found = compute_saliency(RegionLogits(Fixed()), image, class_index=1, normalise=False)
    assert found.tolist() == [[[0.0, 0.0, 0.5, 0.5]]]


@pytest.mark.parametrize("method", METHODS)
def test_segmenters_can_be_explained_by_all_but_the_plain_cam(method):
    torch.manual_seed(0)
    deep = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(),
        nn.Upsample(scale_factor=4), nn.Conv2d(8, 3, 1),
    )  # fmt: skip
    net, image = RegionLogits(deep), batch(2)
    assert default_layer(net, image[:1]) is deep[3]  # the last of the coarsest maps
    if method == "cam":
        with pytest.raises(UsageError, match="CAM-HEAD"):
            explain(net, image, method=method)
    else:
        assert explain(net, image, method=method, class_index=1).shape == (2, 16, 16)


def test_a_method_that_changes_the_image_still_asks_about_the_same_pixels():
    image = torch.zeros(1, 3, 1, 4)
    image[0, 0] = torch.tensor([5.0, 3.0, 0.0, 0.0])
    image[0, 1] = torch.tensor([0.0, 0.0, 4.0, 8.0])
    fixed = RegionLogits(Fixed()).on_regions_of(image)
    assert fixed(image).tolist() == RegionLogits(Fixed())(image).tolist()
    dark = image * torch.tensor([1.0, 0.0, 1.0])[:, None, None]  # class 1 is predicted nowhere now
    assert fixed(dark).tolist() == [[4.0, 0.0, 0.0]]
    dimmed = image * torch.tensor([1.0, 1.0, 0.25, 0.0])
    assert fixed(torch.cat([dark, dimmed])).tolist()[1] == [4.0, 0.5, 0.0]
    # integrated gradients on the way from 0, where class 0 is predicted everywhere
    found = explain(
        RegionLogits(Fixed()), image, method="integrated_gradients", class_index=1, normalise=False
    )
    assert found.flatten().tolist() == pytest.approx([0, 0, 2.0, 4.0])


@pytest.mark.parametrize("architecture", ["unet", "fpn", "deeplabv3", "fcn", "upernet"])
def test_the_layer_of_a_segmenter_is_its_encoders_last(architecture):
    net = build_segmenter(architecture, num_classes=2, pretrained=False).eval()
    layer = default_layer(RegionLogits(net), batch(1, 64))
    name = next(name for name, each in net.named_modules() if each is layer)
    encoder = name[: name.rindex("encoder.") + len("encoder.")]
    ran = layers_with_maps(net, batch(1, 64))
    assert name == [each for each in ran if each.startswith(encoder)][-1]


def test_oblong_images_have_the_same_layer():
    net, image = classifier(), torch.rand(1, 3, 12, 20)
    assert default_layer(net, image) is net[3]
    found = compute_saliency(net, image, method="guided_grad_cam")
    assert torch.equal(found, compute_saliency(net, image, method="guided_grad_cam",
                                               target_layer=net[3]))  # fmt: skip


def test_a_segmenter_of_one_oblong_size_is_asked_at_that():
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Conv2d(3, 4, 4, 4)  # one layer alone
            self.place, self.head = nn.Parameter(torch.ones(1, 4, 6, 8)), nn.Conv2d(4, 2, 1)

        def forward(self, image):
            return nn.functional.interpolate(self.head(self.encoder(image) * self.place), (24, 32))

    net, image = RegionLogits(Placed()), torch.rand(1, 3, 24, 32)
    assert default_layer(net, image) is net.segmenter.encoder
    assert explain(net, image, method="grad_cam").shape == (1, 24, 32)


def test_of_an_encoder_without_maps_all_others_are_looked_at():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.encoder = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 2)

        def forward(self, image):
            tokens = self.encoder(self.stem(image).flatten(2).transpose(1, 2))  # (N, 36, 2)
            maps = tokens.transpose(1, 2).unflatten(2, (6, 6))
            return nn.functional.interpolate(maps, scale_factor=4)

    net = RegionLogits(Tokens())
    assert default_layer(net, torch.rand(1, 3, 24, 24)) is net.segmenter.stem


def test_each_image_has_its_own_baseline_and_each_region_its_own_place_in_the_cache(tmp_path):
    image = torch.zeros(2, 3, 1, 4)
    image[0, 0], image[1, 1] = 3.0, 5.0
    net, baseline = RegionLogits(Fixed()), image / 2
    both = explain(net, image, method="integrated_gradients", baseline=baseline, normalise=False)
    for i in range(2):
        one = explain(net, image[i : i + 1], method="integrated_gradients", normalise=False,
                      baseline=baseline[i : i + 1])  # fmt: skip
        assert torch.equal(both[i], one[0])
    assert both.amax((1, 2)).tolist() == pytest.approx([1.5 / 4, 2.5 / 4])
    with pytest.raises(UsageError, match="CAM-IMAGE"):
        explain(net, image[:0], method="integrated_gradients")
    left, right = torch.zeros(1, 3, 1, 4), torch.zeros(1, 3, 1, 4)
    left[0, 0, 0, :2], left[0, 1, 0, 2:] = 1.0, 1.0
    right[0, 1, 0, :2], right[0, 0, 0, 2:] = 1.0, 1.0
    maps = [next(Explainer(net.on_regions_of(each), "plain", cache=tmp_path).maps([image[0]], [0]))
            for each in (left, right)]  # fmt: skip
    assert not np.array_equal(*maps)


# ------------------------------------------------------------------------------ made once


class Counting(nn.Module):
    """Counts the images that it has seen."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = classifier(), 0

    def forward(self, image):
        self.seen += len(image)
        return self.inner(image)


def test_maps_are_made_once_by_content(tmp_path):
    net, images = Counting(), list(batch())
    explainer = Explainer(net, "guided", batch_size=2, cache=tmp_path)
    first = list(explainer.maps(images))
    assert net.seen == 5
    assert all(each.dtype == np.uint8 and each.shape == (16, 16) for each in first)
    again = list(Explainer(net, "guided", batch_size=2, cache=tmp_path).maps(images))
    assert net.seen == 5
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    changed = [*images[:4], images[4] + 0.01]
    third = list(explainer.maps(changed))
    assert net.seen == 6
    assert not np.array_equal(third[4], first[4])


@pytest.mark.parametrize("other", ["network", "method", "option", "class", "layer"])
def test_another_question_is_not_answered_from_the_cache(tmp_path, other):
    image, changes = list(batch(1)), {}
    net, method, classes = classifier(), "grad_cam", [0]
    (before,) = Explainer(net, method, "1", cache=tmp_path).maps(image, classes)
    layer = "1"
    if other == "network":
        net = classifier(seed=1)
    elif other == "method":
        method = "layer_cam"
    elif other == "option":
        method, changes = "smoothgrad", {"samples": 2}
        (before,) = Explainer(net, method, "1", cache=tmp_path).maps(image, classes)
    elif other == "class":
        classes = [1]
    else:
        layer = "3"
    (after,) = Explainer(net, method, layer, changes, cache=tmp_path).maps(image, classes)
    assert not np.array_equal(before, after)


def test_a_damaged_file_of_the_cache_is_made_anew(tmp_path):
    explainer, images = Explainer(classifier(), "plain", cache=tmp_path), list(batch(2))
    first = list(explainer.maps(images))
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:40])
    again = list(explainer.maps(images))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert [np.load(path).shape for path in tmp_path.rglob("*.npy")] == [(16, 16)] * 2


def test_no_more_than_a_batch_is_taken_at_a_time():
    taken = []

    def images():
        for each in batch(6):
            taken.append(each)
            yield each

    maps = Explainer(classifier(), "plain", batch_size=2).maps(images())
    next(maps)
    assert len(taken) == 2
    assert len(list(maps)) == 5


def test_classes_may_be_given_for_some_images():
    net, images = classifier(), list(batch(2))
    predicted = int(net(images[1][None]).argmax())
    mixed = list(Explainer(net, "guided").maps(images, [2, None]))
    named = list(Explainer(net, "guided").maps(images, [2, predicted]))
    assert all(np.array_equal(a, b) for a, b in zip(mixed, named, strict=True))
