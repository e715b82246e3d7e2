import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from fewmask.errors import CheckpointError, UsageError
from fewmask.models.blocks import Normalised, Padded, count_parameters
from fewmask.models.fusion import GatedByMaps
from fewmask.models.segmenter import ARCHITECTURES, ClassicUNet, build_segmenter, classic_unet
from fewmask.models.weights import packaged_state_dict


class TestBuildSegmenter:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_logits_have_the_images_odd_size(self, architecture):
        network = build_segmenter(architecture, num_classes=4, pretrained=False).eval()
        with torch.no_grad():
            assert network(torch.rand(1, 3, 45, 70)).shape == (1, 4, 45, 70)

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_parameter_gets_a_gradient(self, architecture):
        network = build_segmenter(architecture, num_classes=3, pretrained=False)
        network(torch.rand(2, 3, 64, 64)).square().mean().backward()
        assert [name for name, p in network.named_parameters() if p.grad is None] == []

    def test_the_whole_encoder_is_pretrained(self):
        packaged = packaged_state_dict()
        encoder = build_segmenter(num_classes=2, pretrained=True).network.network.encoder.model
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, packaged[name]), name

    def test_a_file_of_the_encoder_is_loaded_or_refused(self, tmp_path):
        path = tmp_path / "encoder.pth"
        torch.save(packaged_state_dict(), path)
        network = build_segmenter(num_classes=2, pretrained=False, weights_file=path)
        encoder = network.network.network.encoder.model
        assert torch.equal(encoder.conv_stem.weight, packaged_state_dict()["conv_stem.weight"])
        with pytest.raises(CheckpointError):
            build_segmenter(encoder="resnet10t", num_classes=2, pretrained=False, weights_file=path)

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_one_and_five_channels(self, architecture):
        for channels in (1, 5):
            network = build_segmenter(
                architecture, num_classes=2, in_channels=channels, pretrained=False
            ).eval()
            with torch.no_grad():
                assert network(torch.rand(1, channels, 64, 64)).shape == (1, 2, 64, 64)

    @pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "resnet10t", "vgg11"])
    def test_all_but_the_first_layer_begins_the_same_for_any_number_of_channels(self, encoder):
        states = []
        for channels in (3, 4):
            torch.manual_seed(0)
            net = build_segmenter(encoder=encoder, num_classes=2, in_channels=channels,
                                  pretrained=False)  # fmt: skip
            states.append(net.state_dict())
        differ = [name for name in states[0] if states[0][name].shape != states[1][name].shape]
        assert len([name for name in differ if name.startswith("network")]) == 1
        same = [name for name in states[0] if name not in differ]
        assert all(torch.equal(states[0][name], states[1][name]) for name in same)

    def test_a_pretrained_encoder_begins_blind_to_further_channels(self):
        image = torch.rand(2, 5, 32, 32)
        torch.manual_seed(0)
        plain = build_segmenter(num_classes=2, pretrained=True).eval()
        torch.manual_seed(0)
        more = build_segmenter(num_classes=2, in_channels=5, pretrained=True).eval()
        encoders = (plain.network.network.encoder, more.network.network.encoder)
        with torch.no_grad():
            few, all_ = encoders[0](image[:, :3])[-1], encoders[1](image)[-1]
        assert torch.allclose(few, all_, atol=1e-5)
        more(image).square().mean().backward()
        assert encoders[1].model.conv_stem.weight.grad[:, 3:].abs().sum() > 0

    def test_one_channel_is_seen_as_grey(self):
        grey = torch.rand(2, 1, 32, 32)
        wide, narrow = (
            build_segmenter(num_classes=2, in_channels=channels, pretrained=True).eval()
            .network.network.encoder
            for channels in (3, 1)
        )  # fmt: skip
        with torch.no_grad():
            assert torch.allclose(wide(grey.expand(-1, 3, -1, -1))[-1], narrow(grey)[-1], atol=1e-4)

    def test_decoder_channels_make_it_smaller(self):
        wide = build_segmenter(num_classes=2, pretrained=False)
        slim = build_segmenter(
            num_classes=2, pretrained=False, decoder_channels=(64, 48, 32, 24, 16)
        )
        assert count_parameters(slim)[0] < count_parameters(wide)[0]

    def test_decoder_channels_of_a_pyramid(self):
        network = build_segmenter("fpn", num_classes=2, pretrained=False, decoder_channels=(48, 32))
        decoder = network.network.network.decoder
        assert decoder.p5.out_channels == 48
        assert network.network.network.segmentation_head[0].in_channels == 32

    @pytest.mark.parametrize(
        ("request_", "code"),
        [
            ({"architecture": "unett"}, "ARCHITECTURE"),
            ({"encoder": "resnet17"}, "ENCODER-NAME"),
            ({"encoder": "resnet18", "pretrained": True}, "ENCODER-WEIGHTS"),
            ({"architecture": "fcn", "maps": 1, "fusion": "late"}, "ARCHITECTURE"),
            ({"architecture": "fpn", "decoder_channels": (8,) * 5}, "DECODER-CHANNELS"),
            ({"architecture": "fpn", "decoder_channels": (64, 48)}, "DECODER-CHANNELS"),
            ({"architecture": "unet", "decoder_channels": (8,) * 2}, "DECODER-CHANNELS"),
            ({"architecture": "upernet", "decoder_channels": (8,) * 2}, "DECODER-CHANNELS"),
        ],
    )
    def test_impossible_requests(self, request_, code):
        with pytest.raises(UsageError, match=code):
            build_segmenter(**{"num_classes": 2, "pretrained": False, **request_})

    def test_state_dict_round_trip(self):
        torch.manual_seed(0)
        first = build_segmenter(num_classes=2, pretrained=False).eval()
        torch.manual_seed(1)
        second = build_segmenter(num_classes=2, pretrained=False).eval()
        second.load_state_dict(first.state_dict())
        image = torch.rand(1, 3, 40, 40)
        with torch.no_grad():
            assert torch.equal(first(image), second(image))


class TestClassicUNet:
    @pytest.mark.parametrize(("channels", "classes", "width"), [(3, 2, 64), (1, 5, 8)])
    def test_count_follows_figure_1(self, channels, classes, width):
        """From the figure: 3x3 pairs down and up, 2x2 up-convolutions, a 1x1 head; all biased."""
        w = [width * 2**i for i in range(5)]

        def conv(a, b, k):
            return a * b * k * k + b

        expected = conv(channels, w[0], 3) + conv(w[0], w[0], 3) + conv(w[0], classes, 1)
        for a, b in pairwise(w):
            expected += conv(a, b, 3) + conv(b, b, 3)  # down
            expected += conv(b, a, 2) + conv(b, a, 3) + conv(a, a, 3)  # up
        with torch.device("meta"):
            assert count_parameters(classic_unet(channels, classes, width))[0] == expected

    def test_but_for_its_first_layer_it_begins_alike_for_any_channels(self):
        states = []
        for channels in (3, 1, 5):
            torch.manual_seed(0)
            states.append(classic_unet(channels, 2, width=4).state_dict())
        for state in states[1:]:
            differ = {name for name in state if not torch.equal(state[name], states[0][name])}
            assert differ == {"mean", "std", "network.network.down.0.0.weight"}
        assert torch.equal(classic_unet(3, 2, width=4).mean, states[0]["mean"])

    def test_odd_sizes_and_gradients(self):
        network = classic_unet(3, 2, width=4)
        logits = network(torch.rand(2, 3, 17, 35))
        assert logits.shape == (2, 2, 17, 35)
        logits.square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())

    def test_skips_join_levels_of_equal_width(self):
        network = ClassicUNet(1, 2, width=2)
        assert [up.out_channels for up in network.up] == [16, 8, 4, 2]
        assert [merge[0].in_channels for merge in network.merge] == [32, 16, 8, 4]


class TestPaddedAndNormalised:
    @pytest.mark.parametrize("size", [(1, 1), (2, 31), (32, 32), (33, 64), (5, 100)])
    def test_identity_survives_padding(self, size):
        image = torch.rand(2, 3, *size)
        assert torch.equal(Padded(nn.Identity(), 32)(image), image)

    def test_the_network_sees_multiples_and_a_reflection(self):
        seen = []
        padded = Padded(nn.Identity(), 4)
        padded.network.register_forward_hook(lambda m, args, out: seen.append(args[0]))
        padded(torch.tensor([[[[1.0, 2.0, 3.0]]]]).expand(1, 1, 4, 3))
        assert seen[0].shape == (1, 1, 4, 4)
        assert seen[0][0, 0, 0].tolist() == [1, 2, 3, 2]

    def test_normalisation_by_hand_and_in_the_state(self):
        network = Normalised(nn.Identity(), mean=(0.5, 0.25), std=(0.5, 2.0))
        image = torch.tensor([1.0, 0.75]).view(1, 2, 1, 1)
        assert network(image).flatten().tolist() == [1.0, 0.25]
        assert set(network.state_dict()) == {"mean", "std"}


def with_a_map(fusion, **arguments):
    return build_segmenter(
        num_classes=2, in_channels=4, pretrained=False, maps=1, fusion=fusion, **arguments
    )


class TestFusion:
    """Maps that enter elsewhere than as channels of zero."""

    @pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "fcn"])
    @pytest.mark.parametrize("fusion", ["gates", "late"])
    def test_the_network_begins_as_it_would_without_maps(self, architecture, fusion):
        image = torch.rand(2, 5, 64, 64)
        torch.manual_seed(0)
        plain = build_segmenter(architecture, num_classes=3, pretrained=False)
        torch.manual_seed(0)
        joined = build_segmenter(
            architecture, num_classes=3, in_channels=5, pretrained=False, maps=2, fusion=fusion
        )
        with torch.no_grad():
            assert torch.equal(plain.eval()(image[:, :3]), joined.eval()(image))

    def test_a_channel_may_begin_as_the_mean_of_the_colours(self):
        net = with_a_map("mean_channel")
        first = net.network.network.encoder.model.conv_stem.weight
        assert torch.equal(first[:, 3], first[:, :3].mean(1))

    def test_maps_that_join_late_change_the_logits_and_nothing_before_them(self):
        net = with_a_map("late").eval()
        image = torch.rand(2, 4, 64, 64)
        other = torch.cat([image[:, :3], 1 - image[:, 3:]], dim=1)
        with torch.no_grad():
            before = net(image)
            torch.nn.init.normal_(net.network.network.join[-1].weight)
            assert not torch.equal(net(image), net(other))
            torch.nn.init.zeros_(net.network.network.join[-1].weight)
            assert torch.equal(net(other), before)

    def test_every_parameter_gets_a_gradient_once_late_maps_have_a_weight(self):
        net = with_a_map("late")
        torch.nn.init.normal_(net.network.network.join[-1].weight)
        net(torch.rand(2, 4, 64, 64)).square().mean().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []
        assert all(p.grad.ne(0).any() for p in net.network.network.join.parameters())

    def test_open_gates_let_maps_weigh_each_level(self):
        image = torch.rand(2, 4, 64, 64)
        net = with_a_map("gates").eval()
        other = torch.cat([image[:, :3], 1 - image[:, 3:]], dim=1)
        for level in range(5):
            gates = net.network.network
            gates.strength.data.zero_()[level] = 1.0
            with torch.no_grad():
                assert not torch.equal(net(image), net(other)), level

    def test_every_parameter_gets_a_gradient_once_the_gates_are_open(self):
        net = with_a_map("gates")
        net.network.network.strength.data.fill_(0.1)
        net(torch.rand(2, 4, 64, 64)).square().mean().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []
        assert net.network.network.strength.grad.ne(0).all()

    def test_an_encoder_without_a_finest_level_has_no_gate_there(self):
        net = with_a_map("gates", encoder="convnext_atto")
        assert list(net.network.network.gates) == ["1", "2", "3", "4"]
        assert net(torch.rand(1, 4, 64, 64)).shape == (1, 2, 64, 64)

    def test_a_gate_by_hand(self):
        """One feature of 2, a map of 1, h the identity: 2 (1 + 3 (2 σ(1) - 1))."""

        class One(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = torch.nn.Identity()
                self.encoder.out_channels = [3, 1]
                self.encoder.forward = lambda image: [image, torch.full((1, 1, 2, 2), 2.0)]
                self.decoder = lambda features: features[-1]
                self.segmentation_head = torch.nn.Identity()

        net = GatedByMaps(One(), maps=1)
        net.gates["0"] = torch.nn.Identity()
        net.strength.data.fill_(3.0)
        expected = 2 * (1 + 3 * (2 / (1 + math.exp(-1)) - 1))
        found = net(torch.ones(1, 4, 4, 4))
        assert found.flatten().tolist() == pytest.approx([expected] * 4)
