"""Class activation maps: hand-computed numbers, a naive oracle, contracts and two packages."""

import math
from functools import cache
from importlib.metadata import version

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fewmask.attribution.cam import (
    METHODS,
    WEIGHTINGS,
    capture,
    compute_cam,
    eval_mode,
    find_layer,
    multi_scale_cam,
)
from fewmask.attribution.score_cam import channel_masks
from fewmask.errors import NumericalError, UsageError

VARIANTS = [*((method, "cic") for method in METHODS), ("score_cam", "softmax")]


def small_network(
    *, stride: int = 2, inplace: bool = False, outputs: int = 3, gain: float = 1.0
) -> nn.Sequential:
    """Layer 3 is the one that is pooled; stride 1 keeps the image's size."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride, 1),
        nn.ReLU(inplace),
        nn.Conv2d(6, 8, 3, 1, 1),
        nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, outputs),
    )
    network[-1].weight.data *= gain
    return network.eval()


def images(count: int = 2, height: int = 24, width: int = 20) -> Tensor:
    return torch.randn(
        count, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float32
    )


def min_max(cam: Tensor) -> Tensor:
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
    return (cam - low) / (high - low)


def up(cam: Tensor, image: Tensor) -> Tensor:
    return interpolate(cam[:, None], size=image.shape[-2:], mode="bilinear", align_corners=False)[
        :, 0
    ]


# ------------------------------------------------------------------------- numbers by hand


@pytest.fixture
def hand() -> tuple[nn.Sequential, Tensor]:
    """A_1 = red, A_2 = green; f = 2 mean(A_1) - mean(A_2) + 0.7; so g_1 = 1/2, g_2 = -1/4."""
    network = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1)
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3)[:2, :, None, None])
        network[3].weight.copy_(torch.tensor([[2.0, -1.0]]))
        network[3].bias.fill_(0.7)
    red, green = [[1.0, 1.0], [2.0, 4.0]], [[4.0, 0.0], [0.0, 0.0]]
    return network, torch.tensor([[red, green, [[9.0, 8.0], [7.0, 6.0]]]])


SOFTMAX_1 = 1 / (1 + math.exp(-(7 / 3 + 0.5)))  # of the scores 7/3 and -1/2


@pytest.mark.parametrize(
    ("method", "weighting", "expected"),
    [
        ("cam", "cic", [[0, 2], [4, 8]]),  # 2 A_1 - A_2, its -2 cut off
        ("grad_cam", "cic", [[0, 0.5], [1, 2]]),  # A_1 / 2 - A_2 / 4
        # ΣA_1 = 8: α = 1 / (2 + 8/2) = 1/6 at 4 pixels: the weight is 4 · 1/6 · 1/2 = 1/3
        ("grad_cam_pp", "cic", [[1 / 3, 1 / 3], [2 / 3, 4 / 3]]),
        ("layer_cam", "cic", [[0.5, 0.5], [1, 2]]),  # a negative gradient has no say
        # H_1 = [0 0; 1/3 1] leaves red 2/3 + 4: α_1 = 2 · (14/3) / 4 = 7/3.
        # H_2 = [1 0; 0 0] leaves red 1, green 4: α_2 = (2 · 1 - 4) / 4 = -1/2.
        ("score_cam", "cic", [[7 / 3 - 2, 7 / 3], [14 / 3, 28 / 3]]),
        (
            "score_cam",
            "softmax",
            [[SOFTMAX_1 + 4 * (1 - SOFTMAX_1), SOFTMAX_1], [2 * SOFTMAX_1, 4 * SOFTMAX_1]],
        ),
    ],
)
def test_map_equals_the_numbers_computed_by_hand(hand, method, weighting, expected):
    network, image = hand
    settings = {"target_layer": network[0], "class_index": 0, "method": method}
    raw = compute_cam(network, image, weighting=weighting, normalise=False, **settings)
    torch.testing.assert_close(raw, torch.tensor([expected], dtype=torch.float32))
    scaled = compute_cam(network, image, weighting=weighting, **settings)
    torch.testing.assert_close(scaled, min_max(raw))


def test_class_softmax_weighs_a_channel_by_the_class_s_probability(hand):
    """A second output that is 0.7 for all images: behind H_1 and H_2 it is the bias that counts."""
    network, image = hand
    both = nn.Linear(2, 2)
    with torch.no_grad():
        both.weight.copy_(torch.tensor([[2.0, -1.0], [0.0, 0.0]]))
        both.bias.fill_(0.7)
    network[3] = both
    raw = compute_cam(
        network, image, target_layer=network[0], class_index=0, method="score_cam",
        weighting="class_softmax", normalise=False,
    )  # fmt: skip
    one, two = (1 / (1 + math.exp(-rise)) for rise in (7 / 3, -1 / 2))  # of the logits, as above
    expected = torch.tensor([[[one + 4 * two, one], [2 * one, 4 * one]]])
    torch.testing.assert_close(raw, expected)


def test_class_softmax_of_a_single_output_is_refused(hand):
    network, image = hand
    settings = {"target_layer": network[0], "class_index": 0, "method": "score_cam"}
    with pytest.raises(UsageError, match="always 1"):
        compute_cam(network, image, weighting="class_softmax", **settings)


def test_baseline_is_subtracted_from_every_score(hand):
    network, image = hand
    baseline = torch.tensor([1.0, 0.0, 0.0])[:, None, None]  # f rises by 2: α = 1/3 and -5/2
    raw = compute_cam(
        network, image, target_layer=network[0], class_index=0, method="score_cam",
        baseline=baseline, normalise=False,
    )  # fmt: skip
    torch.testing.assert_close(raw, torch.tensor([[[0, 1 / 3], [2 / 3, 4 / 3]]]))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_constant_channel_carries_no_weight_in_score_cam(weighting):
    network = small_network()
    settings = {"class_index": 1, "method": "score_cam", "weighting": weighting}
    with torch.no_grad():  # channel 0 is 0.3 everywhere; the head would use it strongly
        network[2].weight[0] = 0
        network[2].bias[0] = 0.3
    before = compute_cam(network, images(), target_layer=network[3], normalise=False, **settings)
    with capture(network[3]) as record:
        network(images())
    masks = channel_masks(record.activation, (24, 20), 4)
    assert not masks.live[:, 0].any()
    with torch.no_grad():  # without a weight, the channel's value cannot show in the map
        network[2].bias[0] = 0.9
        network[6].bias -= 0.6 * network[6].weight[:, 0]
    after = compute_cam(network, images(), target_layer=network[3], normalise=False, **settings)
    torch.testing.assert_close(before, after)


def test_score_cam_of_constant_channels_alone_is_zero():
    network = small_network()
    nn.init.zeros_(network[2].weight)
    for weighting in WEIGHTINGS:
        cam = compute_cam(
            network, images(), target_layer=network[3], class_index=0, method="score_cam",
            weighting=weighting,
        )  # fmt: skip
        assert torch.equal(cam, torch.zeros(2, 24, 20))


def test_constant_map_normalises_to_zeros():
    network = small_network()
    nn.init.zeros_(network[2].weight)
    nn.init.ones_(network[2].bias)
    nn.init.ones_(network[6].weight)
    settings = {"target_layer": network[3], "class_index": 0}
    assert compute_cam(network, images(), normalise=False, **settings).min() > 0
    assert torch.equal(compute_cam(network, images(), **settings), torch.zeros(2, 24, 20))


# ---------------------------------------------------------------------------- naive oracle


def naive_score_cam(network: nn.Module, image: Tensor, class_index: int, weighting: str) -> Tensor:
    """One image, one channel at a time, in float64, as the paper writes it."""
    network, image = network.double(), image.double()
    by_class = weighting == "class_softmax"
    result = []
    for one in image:
        activation = network[:4](one[None])
        scores, maps = [], []
        for channel in activation[0]:
            mask = up(channel[None], image)[0]
            if mask.max() - mask.min() > 1e-9:
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                logits = network((one * mask)[None])[0]
                scores.append((logits.softmax(0) if by_class else logits)[class_index])
                maps.append(channel)
        alpha = torch.stack(scores)
        if weighting == "softmax":
            alpha = alpha.exp() / alpha.exp().sum()
        elif weighting == "cic":
            alpha = alpha - network(torch.zeros_like(one)[None])[0, class_index]
        total = sum(a * m for a, m in zip(alpha, maps, strict=True))
        result.append(up(total.clamp(min=0)[None], image)[0])
    return torch.stack(result)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_score_cam_equals_a_naive_loop_in_float64(weighting):
    settings = {"class_index": 1, "method": "score_cam", "weighting": weighting}
    network = small_network(gain=10)
    ours = compute_cam(network, images(), target_layer=network[3], normalise=False, **settings)
    with torch.no_grad():
        oracle = naive_score_cam(small_network(gain=10), images(), 1, weighting)
    torch.testing.assert_close(ours.double(), oracle, rtol=1e-4, atol=1e-5)


def test_grad_cam_pp_equals_the_paper_s_powers_in_float64():
    network, image = small_network().double(), images().double()
    with capture(network[3], gradients=True) as record:
        torch.autograd.grad(network(image)[:, 1].sum(), record.activation)
    A, g = record.activation.detach(), record.gradient
    denominator = 2 * g**2 + g**3 * A.sum((2, 3), keepdim=True)
    alpha = torch.where(g != 0, g**2 / denominator, 0)
    weights = (alpha * g.clamp(min=0)).sum((2, 3), keepdim=True)
    ours = compute_cam(
        network, image, target_layer=network[3], class_index=1, method="grad_cam_pp",
        normalise=False,
    )  # fmt: skip
    oracle = up((weights * A).sum(1).clamp(min=0), image)
    torch.testing.assert_close(ours.double(), oracle, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------ invariants


@pytest.mark.parametrize(("method", "weighting"), VARIANTS)
def test_batch_equals_one_image_at_a_time(method, weighting):
    network, image = small_network(gain=10), images(3)
    index = torch.tensor([2, 0, 1])
    settings = {"target_layer": network[3], "method": method, "weighting": weighting}
    batch = compute_cam(network, image, class_index=index, **settings)
    assert batch.shape == (3, 24, 20)
    assert batch.dtype == torch.float32
    for number in range(3):
        alone = compute_cam(
            network, image[number : number + 1], class_index=int(index[number]), **settings
        )
        torch.testing.assert_close(batch[number], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "weighting"), VARIANTS)
def test_map_survives_a_change_of_units_between_layer_and_head(method, weighting):
    """ReLU conv times a and head divided by a is the same function, so it has the same map."""
    maps = []
    for a in (1.0, 1e-4, 1e4):
        network = small_network()
        with torch.no_grad():
            network[2].weight *= a
            network[2].bias *= a
            network[6].weight /= a
        settings = {"target_layer": network[3], "class_index": 1, "method": method}
        maps.append(compute_cam(network, images(), weighting=weighting, **settings))
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(maps[2], maps[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["cam", "grad_cam", "layer_cam", "score_cam"])
def test_map_does_not_depend_on_the_scale_of_the_logits(method):
    maps = []
    for gain in (1e-3, 1.0, 1e3):
        network = small_network(gain=gain)
        nn.init.zeros_(network[6].bias)
        settings = {"target_layer": network[3], "class_index": 1, "method": method}
        maps.append(compute_cam(network, images(), **settings))
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(maps[2], maps[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("max_masks", [None, 3])
def test_mask_batch_size_does_not_change_the_map_and_is_kept(max_masks):
    network, sizes = small_network(), []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    settings = {"target_layer": network[3], "class_index": 1, "method": "score_cam"}
    maps = []
    for batch_size in (1, 5, 64):
        maps.append(
            compute_cam(
                network, images(2), mask_batch_size=batch_size, max_masks=max_masks, **settings
            )
        )
        assert max(sizes[1:]) <= batch_size  # the first call is the plain forward pass
        sizes.clear()
    torch.testing.assert_close(maps[0], maps[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[1], maps[2], rtol=1e-4, atol=1e-5)


def test_twin_channels_share_a_centroid_and_change_nothing():
    network = small_network()
    with torch.no_grad():  # channel 4 + k shows what k shows, at 3 times the strength
        network[2].weight[4:] = 3 * network[2].weight[:4]
        network[2].bias[4:] = 3 * network[2].bias[:4]
    calls = []
    network.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    settings = {"target_layer": network[3], "class_index": 1, "method": "score_cam"}
    exact = compute_cam(network, images(1), **settings)
    all_masks = sum(calls)
    calls.clear()
    clustered = compute_cam(network, images(1), max_masks=4, **settings)
    assert sum(calls) == all_masks - 4
    torch.testing.assert_close(clustered, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_multi_scale_map_of_the_mirrored_image_is_the_mirrored_map(method):
    network, image = small_network(), images()
    settings = {"target_layer": network[3], "class_index": 1, "method": method}
    if method == "score_cam":
        settings["baseline"] = image[:, :, :1, :1] * 0.1
    cam = multi_scale_cam(network, image, **settings)
    assert cam.shape == (2, 24, 20)
    assert cam.amin() >= 0  # divided by its maximum, not min-maxed
    torch.testing.assert_close(cam.amax((1, 2)), torch.ones(2))
    mirrored = multi_scale_cam(network, image.flip(-1), **settings)
    torch.testing.assert_close(mirrored.flip(-1), cam, rtol=1e-3, atol=1e-4)
    one_sided = multi_scale_cam(network, image, views="single", **settings)
    assert (one_sided - cam).abs().max() > 1e-2


def test_one_scale_without_flip_is_the_plain_map():
    network = small_network()
    settings = {"target_layer": network[3], "class_index": 1, "method": "grad_cam"}
    single = multi_scale_cam(network, images(), scales=(1.0,), views="single", **settings)
    torch.testing.assert_close(single, compute_cam(network, images(), **settings))


# ------------------------------------------------------------------------------- contracts


def traces(network: nn.Module) -> list[object]:
    """All that a call must leave as it was."""
    return [
        *((m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in network.modules()),
        *((p.requires_grad, p.grad is None) for p in network.parameters()),
        *(buffer.clone().tolist() for buffer in network.buffers()),
    ]


def training_network() -> nn.Sequential:
    network = small_network()
    network[1] = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout())
    network.train()
    network[1][0].eval()  # a frozen batch norm in a training network
    network[0].weight.requires_grad_(False)
    return network


@pytest.mark.parametrize("method", METHODS)
def test_network_is_left_as_it_was_found(method):
    network = training_network()
    network[2].weight.grad = torch.full_like(network[2].weight, 7.0)
    before = traces(network)
    compute_cam(network, images(), target_layer=network[3], class_index=0, method=method)
    assert traces(network) == before
    assert torch.equal(network[2].weight.grad, torch.full_like(network[2].weight, 7.0))


@pytest.mark.parametrize("method", METHODS)
def test_network_is_left_as_it_was_found_after_an_error(method):
    network = training_network()
    before = traces(network)
    with pytest.raises(UsageError, match="CAM-CLASS"):
        compute_cam(network, images(), target_layer=network[3], class_index=3, method=method)
    assert traces(network) == before
    with pytest.raises(RuntimeError):
        compute_cam(network, images()[:, :2], target_layer=network[3], class_index=0, method=method)
    assert traces(network) == before
    settings = {"target_layer": network[3], "class_index": 0, "method": method}
    handle = network[4].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compute_cam(network, images(), **settings)
    handle.remove()
    assert traces(network) == before


def test_eval_mode_undoes_what_the_block_does_to_parameters():
    network = training_network()
    network[6].bias.grad = torch.ones(3)
    before = traces(network)

    def meddle() -> None:
        with eval_mode(network):
            assert not any(module.training for module in network.modules())
            network(images()).sum().backward()
            network.requires_grad_(False)
            raise KeyError

    with pytest.raises(KeyError):
        meddle()
    assert traces(network) == before
    assert torch.equal(network[6].bias.grad, torch.ones(3))


@pytest.mark.parametrize("method", METHODS)
def test_frozen_network_and_disabled_gradients_give_the_same_map(method):
    network = small_network()
    settings = {"target_layer": network[3], "class_index": 1, "method": method}
    expected = compute_cam(network, images(), **settings)
    with torch.no_grad():
        assert torch.equal(compute_cam(network, images(), **settings), expected)
    with torch.inference_mode():
        assert torch.equal(compute_cam(network, images(), **settings), expected)
    network.requires_grad_(False)
    assert torch.equal(compute_cam(network, images(), **settings), expected)


@pytest.mark.parametrize(("method", "weighting"), VARIANTS)
def test_in_place_relu_behind_the_layer_changes_nothing(method, weighting):
    maps = []
    for inplace in (False, True):
        network = small_network(inplace=inplace)
        settings = {"target_layer": network[2], "class_index": 1, "method": method}
        maps.append(compute_cam(network, images(), weighting=weighting, **settings))
    assert torch.equal(maps[0], maps[1])


@pytest.mark.parametrize(("method", "weighting"), VARIANTS)
def test_single_output_head_gives_the_map_of_that_row(method, weighting):
    full, single = small_network(gain=10), small_network(outputs=1)
    single.load_state_dict(full.state_dict() | {
        "6.weight": full[6].weight[1:2], "6.bias": full[6].bias[1:2],
    })  # fmt: skip
    settings = {"method": method, "weighting": weighting}
    expected = compute_cam(full, images(), target_layer=full[3], class_index=1, **settings)
    cam = compute_cam(single, images(), target_layer=single[3], class_index=0, **settings)
    torch.testing.assert_close(cam, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="from 0 to 0"):
        compute_cam(single, images(), target_layer=single[3], class_index=1, **settings)


def test_find_layer_takes_dotted_names_and_suggests_close_ones():
    network = nn.Sequential()
    network.features = small_network()[:4]
    assert find_layer(network, "features.2") is network.features[2]
    with pytest.raises(UsageError, match=r"features\.2"):
        find_layer(network, "feature.2")
    with pytest.raises(UsageError, match=r"\(N, C, h, w\)"):
        find_layer(nn.Linear(1, 1), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gradcam"}, "grad_cam"),
        ({"weighting": "soft"}, "softmax"),
        ({"mask_batch_size": 0}, "mask_batch_size"),
        ({"max_masks": 0}, "max_masks"),
        ({"class_index": -1}, "from 0 to 2"),
        ({"class_index": torch.tensor([0, 1, 2])}, "or 2"),
        ({"class_index": torch.tensor(0.5)}, "integer"),
        ({"target_layer": nn.Conv2d(3, 3, 1)}, "did not run"),
        ({"target_layer": "head"}, "shape"),
        ({"target_layer": "early", "method": "cam"}, r"\(3, 6\)"),
    ],
)
def test_wrong_settings_are_usage_errors_that_name_what_is_expected(change, message):
    network = small_network()
    layers = {"head": network[6], "early": network[1]}
    settings = {"target_layer": network[3], "class_index": 0} | change
    if isinstance(settings["target_layer"], str):
        settings["target_layer"] = layers[settings["target_layer"]]
    with pytest.raises(UsageError, match=message):
        compute_cam(network, images(), **settings)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8)])
def test_image_that_is_no_batch_is_refused(shape):
    network = small_network()
    with pytest.raises(UsageError, match="CAM-IMAGE"):
        compute_cam(network, torch.zeros(shape), target_layer=network[3], class_index=0)


@pytest.mark.parametrize("scales", [(), (0.01,), (1.0, -1.0)])
def test_scales_that_leave_no_pixel_are_refused(scales):
    network = small_network()
    with pytest.raises(UsageError, match="CAM-SCALES"):
        multi_scale_cam(
            network, images(), target_layer=network[3], class_index=0, method="cam", scales=scales
        )


@pytest.mark.parametrize("method", METHODS)
def test_not_a_number_is_an_error_and_not_an_empty_map(method):
    network = small_network()
    image = images()
    image[0, 0, 3, 3] = torch.nan
    with pytest.raises(NumericalError, match="CAM-NOT-FINITE"):
        compute_cam(network, image, target_layer=network[3], class_index=0, method=method)


# ---------------------------------------------------------------------------- two packages
#
# Score-CAM is compared at stride 1, where nothing is up-sampled: grad-cam up-samples masks with
# align_corners=True, torchcam scales them before up-sampling, the paper after.


def grad_cam_package(network: nn.Module, image: Tensor, layer: nn.Module, method: str) -> Tensor:
    from fewmask import torchvision_compat

    torchvision_compat.ensure()
    package = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    name = {
        "grad_cam": "GradCAM",
        "grad_cam_pp": "GradCAMPlusPlus",
        "layer_cam": "LayerCAM",
        "score_cam": "ScoreCAM",
    }[method]
    with getattr(package, name)(network, [layer]) as extractor:
        cam = extractor(image, [targets.ClassifierOutputTarget(1)] * len(image))
    return torch.from_numpy(cam)


def torchcam_package(network: nn.Module, image: Tensor, layer: nn.Module, method: str) -> Tensor:
    """At the layer's size and before min-max."""
    methods = pytest.importorskip("torchcam.methods")
    name = {
        "cam": "CAM",
        "grad_cam": "GradCAM",
        "grad_cam_pp": "GradCAMpp",
        "layer_cam": "LayerCAM",
        "score_cam": "ScoreCAM",
    }[method]
    with getattr(methods, name)(network, layer) as extractor:
        scores = network(image)
        return extractor(class_idx=1, scores=scores, normalized=False)[0].detach()


@cache
def vgg11() -> nn.Module:
    from fewmask import torchvision_compat

    torchvision_compat.ensure()
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    return models.vgg11(weights=None, num_classes=4).eval()


def case(name: str, method: str) -> tuple[nn.Module, Tensor, nn.Module]:
    if name == "vgg11":
        network = vgg11()
        return network, images(1, 64, 64), network.features[19]
    network = small_network(stride=1 if method == "score_cam" else 2, gain=10)
    return network, images(), network[3]


AGREE = [
    ("small", "grad_cam"),
    ("small", "layer_cam"),
    ("small", "score_cam"),
    ("vgg11", "grad_cam"),
    ("vgg11", "layer_cam"),
]


@pytest.mark.parametrize(("name", "method"), AGREE)
def test_map_agrees_with_grad_cam_package(name, method):
    network, image, layer = case(name, method)
    theirs = grad_cam_package(network, image, layer, method)
    ours = compute_cam(
        network, image, target_layer=layer, class_index=1, method=method, weighting="softmax"
    )
    torch.testing.assert_close(ours, min_max(theirs), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "method"), [("small", "cam"), *AGREE])
def test_map_agrees_with_torchcam(name, method):
    """Its plain CAM keeps negative values (as the paper does); ours cuts them like the others."""
    network, image, layer = case(name, method)
    theirs = up(torchcam_package(network, image, layer, method).clamp(min=0), image)
    ours = compute_cam(
        network, image, target_layer=layer, class_index=1, method=method, weighting="softmax"
    )
    torch.testing.assert_close(ours, min_max(theirs), rtol=0, atol=1e-4)


def test_grad_cam_pp_agrees_with_grad_cam_package_where_its_epsilon_is_small():
    """It adds 1e-6 to a denominator of the order g²: right for large gradients only."""
    errors = []
    for gain in (1.0, 1000.0):
        network = small_network(gain=gain)
        theirs = min_max(grad_cam_package(network, images(), network[3], "grad_cam_pp"))
        ours = compute_cam(
            network, images(), target_layer=network[3], class_index=1, method="grad_cam_pp"
        )
        errors.append(float((ours - theirs).abs().max()))
    assert errors[0] > 0.05
    assert errors[1] < 1e-4


def test_grad_cam_pp_of_torchcam_has_lost_its_denominator():
    """``alpha[mask].div_()`` divides a copy, so α stays g² and the weight is Σ ReLU(g)³."""
    pytest.importorskip("torchcam")
    if version("torchcam") != "0.5.0":
        pytest.skip("described for torchcam 0.5.0")
    network = small_network(gain=10)
    theirs = torchcam_package(network, images(), network[3], "grad_cam_pp")
    with capture(network[3], gradients=True) as record:
        torch.autograd.grad(network(images())[:, 1].sum(), record.activation)
    weights = record.gradient.clamp(min=0).pow(3).sum((2, 3), keepdim=True)
    torch.testing.assert_close(theirs, (weights * record.activation).sum(1).clamp(min=0))
