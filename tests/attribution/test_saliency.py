"""Saliency maps: the three rules by hand, against Captum, and on networks that hooks cannot see."""

import math

import pytest
import torch
from captum import attr
from torch import nn
from torch.nn import functional

from fewmask.attribution.saliency import METHODS, RULES, compute_saliency, input_gradient
from fewmask.errors import NumericalError, UsageError

DOUBLE = torch.float64


class Net(nn.Module):
    """Two convolutions, a linear layer, and rectifiers called as ``rectify`` does."""

    def __init__(self, rectify=None, width=6, outputs=3):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.linear = nn.Linear(width, outputs)
        self.linear.weight.data.abs_()  # so that something positive passes back under every rule
        self.relu_1, self.relu_2 = nn.ReLU(), nn.ReLU()
        self.rectify = rectify

    def forward(self, image):
        relus = (self.rectify,) * 2 if self.rectify else (self.relu_1, self.relu_2)
        x = relus[0](self.first(image) * 1.0)
        x = relus[1](self.second(x) * 1.0)
        return self.linear(x.mean((2, 3)))


def batch(count=4, side=8, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, side, side, generator=generator, dtype=dtype)


def largest(gradient):
    return gradient.abs().amax(1)


def scaled(saliency):
    low, high = saliency.amin((1, 2), keepdim=True), saliency.amax((1, 2), keepdim=True)
    return torch.nan_to_num((saliency - low) / (high - low))


# ------------------------------------------------------------------------------ by hand


def two_layers(weights, activation=None):
    """f = Σ_k w_k ReLU(x_k) over three channels, averaged over the pixels."""
    last = nn.Conv2d(3, 1, 1, bias=False)
    last.weight = nn.Parameter(torch.tensor(weights).view(1, 3, 1, 1))
    identity = nn.Conv2d(3, 3, 1, bias=False)
    identity.weight = nn.Parameter(torch.eye(3).view(3, 3, 1, 1))
    return nn.Sequential(
        identity, activation or nn.ReLU(), last, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("plain", [2.0, 0.0, -4.0]), ("deconv", [2.0, 3.0, 0.0]), ("guided", [2.0, 0.0, 0.0])],
)
def test_the_rules_of_a_two_layer_network_by_hand(rule, expected):
    """At x = (1, -1, 2) with weights (2, 3, -4): where x > 0, where the gradient is, where both."""
    image = torch.tensor([1.0, -1.0, 2.0]).view(1, 3, 1, 1)
    gradient = input_gradient(two_layers([2.0, 3.0, -4.0]), image, rule=rule)
    assert gradient.flatten().tolist() == expected


@pytest.mark.parametrize(("rule", "expected"), [("plain", [6, 4]), ("deconv", [6, 4]),
                                                ("guided", [6, 0])])  # fmt: skip
def test_rules_hold_at_every_layer(rule, expected):
    """f = ReLU(2 ReLU(3 x_1) + 4 x_2) at x = (1, -2): the second path meets no inner rectifier."""

    class Nested(nn.Module):
        def forward(self, image):
            x = image[:, 0, 0]
            inner = torch.relu(3 * x[:, :1])
            outer = 4 * functional.relu(x[:, 1:] if rule != "plain" else x[:, 1:] + 9)
            return functional.relu(2 * inner + outer)

    image = torch.zeros(1, 3, 1, 2)
    image[0, 0, 0] = torch.tensor([1.0, -2.0])
    gradient = input_gradient(Nested(), image, rule=rule)
    assert gradient[0, 0, 0].tolist() == expected


def test_a_pixel_has_the_largest_absolute_value_of_its_channels():
    image = torch.ones(1, 3, 1, 2)
    image[..., 1] = torch.tensor([-1.0, 1.0, -1.0]).view(3, 1)
    found = compute_saliency(two_layers([2.0, 3.0, -4.0]), image, normalise=False)
    assert found.tolist() == [[[2.0, 1.5]]]  # the mean over two pixels halves both
    assert compute_saliency(two_layers([2.0, 3.0, -4.0]), image).tolist() == [[[1.0, 0.0]]]


def test_integrated_gradients_sum_to_the_change_of_the_logit():
    class Cubic(nn.Module):
        def forward(self, image):
            return (image[:, :1] ** 3).sum((2, 3))

    image = batch()
    found = compute_saliency(Cubic(), image, method="integrated_gradients", steps=8,
                             normalise=False)  # fmt: skip
    assert torch.allclose(found, (image[:, 0] ** 3).float(), rtol=1e-6)
    half = compute_saliency(Cubic(), image, method="integrated_gradients", steps=8,
                            normalise=False, baseline=torch.full((1, 3, 1, 1), 0.5))  # fmt: skip
    assert torch.allclose(half, (image[:, 0] ** 3 - 0.125).abs().float(), rtol=1e-5, atol=1e-7)


def test_smoothgrad_is_the_mean_gradient_under_noise_of_that_share_of_the_range():
    class Square(nn.Module):
        def forward(self, image):
            return (image**2).sum((1, 2, 3))[:, None]

    image = batch(count=2)
    found = compute_saliency(Square(), image, method="smoothgrad", samples=3, noise=0.5, seed=7,
                             normalise=False)  # fmt: skip
    draw = torch.Generator().manual_seed(7)
    noise = torch.stack([torch.randn(image.shape[1:], generator=draw) for _ in range(3)]).mean(0)
    reach = (image.amax((1, 2, 3)) - image.amin((1, 2, 3))).view(-1, 1, 1, 1)
    assert torch.allclose(found, largest(2 * (image + 0.5 * reach * noise)).float(), rtol=1e-5)


def test_guided_grad_cam_is_their_product():
    from fewmask.attribution.cam import compute_cam

    net, image = Net().double(), batch()
    cam = compute_cam(net, image, target_layer=net.relu_2, class_index=1, normalise=False)
    guided = largest(input_gradient(net, image, class_index=1, rule="guided"))
    found = compute_saliency(net, image, class_index=1, method="guided_grad_cam",
                             target_layer=net.relu_2, normalise=False)  # fmt: skip
    assert torch.allclose(found, (guided * cam).float())
    assert found.any()


# ------------------------------------------------------------------------------ against Captum


CAPTUM = {
    "plain": lambda net, x, c: attr.Saliency(net).attribute(x, c, abs=False),
    "deconv": lambda net, x, c: attr.Deconvolution(net).attribute(x, c),
    "guided": lambda net, x, c: attr.GuidedBackprop(net).attribute(x, c),
    "integrated_gradients": lambda net, x, c: attr.IntegratedGradients(net).attribute(
        x, target=c, n_steps=50, method="gausslegendre"
    ),
    "guided_grad_cam": lambda net, x, c: (
        attr.GuidedBackprop(net).attribute(x, c)
        * attr.LayerGradCam(net, net.relu_2).attribute(x, c, relu_attributions=True)
    ),
}


@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor")
@pytest.mark.parametrize("method", CAPTUM)
def test_maps_are_captums(method):
    net, image = Net().double().eval(), batch()
    target = torch.tensor([0, 1, 2, 1])
    expected = scaled(largest(CAPTUM[method](net, image.clone().requires_grad_(), target).detach()))
    layer = net.relu_2 if method == "guided_grad_cam" else None
    found = compute_saliency(net, image, class_index=target, method=method, target_layer=layer)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert found.std() > 0.01


# ------------------------------------------------------------------ however ReLUs are called


ONE = nn.ReLU()
IN_PLACE = nn.ReLU(inplace=True)
CALLS = {
    "one module for all": lambda x: ONE(x),
    "in place": lambda x: IN_PLACE(x),
    "function": functional.relu,
    "function, in place": lambda x: functional.relu(x, inplace=True),
    "torch": torch.relu,
    "torch, in place": torch.relu_,
    "method": lambda x: x.relu(),
    "method, in place": lambda x: x.relu_(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_holds_however_a_relu_is_called(rule, call):
    image = batch()
    expected = input_gradient(Net().double(), image, class_index=0, rule=rule)
    found = input_gradient(Net(CALLS[call]).double(), image, class_index=0, rule=rule)
    assert torch.allclose(found, expected, atol=1e-12)
    assert found.any()


SMOOTH = {
    "relu6": nn.ReLU6(), "silu": nn.SiLU(), "hardswish": nn.Hardswish(), "gelu": nn.GELU(),
    "gelu, tanh": nn.GELU(approximate="tanh"), "mish": nn.Mish(), "elu": nn.ELU(),
    "leaky": nn.LeakyReLU(0.2), "silu, in place": nn.SiLU(inplace=True),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_what_the_rules_mean_for_other_rectifiers(name):
    """deconv: what is positive of a gradient; guided: that times the slope, where x > 0."""
    activation = SMOOTH[name]
    values = torch.linspace(-8, 8, 18, dtype=DOUBLE).view(1, 3, 1, 6)
    weights = torch.tensor([2.0, -3.0, 1.5], dtype=DOUBLE)
    net = two_layers(weights.tolist(), activation).double()
    x = values.clone().requires_grad_()
    slope = torch.autograd.grad(activation(x * 1.0).sum(), x)[0]
    passed = (weights.clamp(min=0) / 6).view(1, 3, 1, 1).expand_as(values)
    deconv = input_gradient(net, values, class_index=0, rule="deconv")
    assert torch.allclose(deconv, passed)
    guided = input_gradient(net, values, class_index=0, rule="guided")
    assert torch.allclose(guided, passed * slope * (values > 0))


def test_a_tanh_is_ruled_by_nothing():
    net, image = Net(torch.tanh).double(), batch()
    with pytest.raises(UsageError, match="SALIENCY-RULE"):
        compute_saliency(net, image, method="guided")
    assert compute_saliency(net, image, method="plain").any()


def test_a_real_network_whose_rectifiers_work_in_place():
    from fewmask import torchvision_compat

    torchvision_compat.ensure()
    import timm

    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", num_classes=5)
    image = batch(2, side=64, dtype=torch.float32)
    maps = {method: compute_saliency(net, image, method=method) for method in RULES}
    for first, second in (("plain", "deconv"), ("plain", "guided"), ("deconv", "guided")):
        assert not torch.allclose(maps[first], maps[second], atol=0.05)


# ------------------------------------------------------------------------------ contracts


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_in_0_to_1_and_an_images_does_not_depend_on_the_others(method):
    net, image = Net(), batch(5, dtype=torch.float32)
    together = compute_saliency(net, image, method=method, batch_size=2, samples=3, steps=4)
    assert together.shape == (5, 8, 8)
    assert together.dtype == torch.float32
    assert together.amin((1, 2)).tolist() == [0] * 5
    assert together.amax((1, 2)).tolist() == pytest.approx([1] * 5)
    alone = compute_saliency(net, image[3:4], method=method, samples=3, steps=4)
    assert torch.allclose(alone[0], together[3], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_class_the_map_is_that_of_the_highest_logit(method):
    net, image = Net(), batch(dtype=torch.float32)
    predicted = net(image).argmax(1)
    arguments = {"method": method, "samples": 2, "steps": 3}
    own = compute_saliency(net, image, **arguments)
    named = compute_saliency(net, image, class_index=predicted, **arguments)
    assert torch.equal(own, named)
    other = compute_saliency(net, image, class_index=(predicted + 1) % 3, **arguments)
    assert not torch.allclose(own, other, atol=1e-3)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_was_found_also_on_error(method, broken):
    net, image = Net(), batch(2, dtype=torch.float32)
    net.train()
    net.second.eval()
    net.first.weight.requires_grad_(False)
    net.linear.weight.grad = torch.ones_like(net.linear.weight)
    if broken:
        net.linear.weight.data.fill_(math.nan)
        with pytest.raises(NumericalError):
            compute_saliency(net, image, method=method, class_index=0)
    else:
        with torch.no_grad():
            compute_saliency(net, image, method=method)
    assert (net.training, net.second.training, net.first.training) == (True, False, True)
    assert not net.first.weight.requires_grad
    assert net.second.weight.requires_grad
    assert net.linear.weight.grad.eq(1).all()
    assert net.second.weight.grad is None
    assert not net.relu_2._forward_hooks
    assert (
        functional.relu(torch.tensor([-1.0], requires_grad=True)).grad_fn.name() != "_RuledBackward"
    )


def test_an_image_of_inference_mode_will_do():
    net = Net()
    with torch.inference_mode():
        image = batch(2, dtype=torch.float32)
        assert compute_saliency(net, image, method="guided").any()


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"method": "guidde"}, "CAM-SETTING"),
        ({"steps": 0}, "CAM-SETTING"),
        ({"samples": 0}, "CAM-SETTING"),
        ({"batch_size": 0}, "CAM-SETTING"),
        ({"class_index": 3}, "CAM-CLASS"),
        ({"class_index": torch.tensor([0, 1])}, "CAM-CLASS"),
    ],
)
def test_settings_that_cannot_be(settings, code):
    with pytest.raises(UsageError, match=code):
        compute_saliency(Net(), batch(3, dtype=torch.float32), **settings)


def test_a_network_that_lets_no_gradient_through():
    class Detached(Net):
        def forward(self, image):
            return super().forward(image.detach())

    with pytest.raises(UsageError, match="SALIENCY-NETWORK"):
        compute_saliency(Detached(), batch(dtype=torch.float32))


def test_no_batch_of_images():
    with pytest.raises(UsageError, match="CAM-IMAGE"):
        compute_saliency(Net(), torch.zeros(3, 8, 8))
