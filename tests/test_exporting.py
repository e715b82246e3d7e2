"""`fewmask export`: what other programs compute is what torch computes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fewmask import exporting, onnx_model
from fewmask.errors import CheckpointError, UsageError
from fewmask.models.blocks import Normalised, Padded
from fewmask.onnx_graph import deepness_facts
from fewmask.onnx_model import OnnxNetwork, export_onnx, largest_difference, open_onnx
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import SegmenterPredictor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

CARD = {"class_names": ["lake", "roof"], "class_colours": ["#1f77b4", ""], "background": True,
        "sha256": "abc", "metrics": {}}  # fmt: skip


class Tiny(nn.Module):
    """A network of stride 2, exported within seconds; padded to 32 as segmenters are."""

    def __init__(self, classes=3):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.Conv2d(8, classes, 3, padding=1)

    def forward(self, image):
        small = torch.relu(self.down(image))
        return self.up(nn.functional.interpolate(small, scale_factor=2.0, mode="nearest"))


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    network = Normalised(Padded(Tiny(), 32)).eval()
    for layer in (network.network.network.down, network.network.network.up):
        nn.init.normal_(layer.weight, std=0.3)
    return SegmenterPredictor(network, (64, 96), "single", "none")


@pytest.fixture(scope="module")
def exported(predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    export_onnx(predictor, CARD, path)
    return path


def pictures(count=4, size=(70, 101)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(count)]


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (33, 47), (70, 101), (95, 200)])
def test_any_size_gives_the_probabilities_of_torch(predictor, exported, size):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(exported)
    with torch.no_grad():
        expected = predictor.network(image).softmax(1).numpy()
    found = session.run(["probs"], {"image": image.numpy()})[0]
    assert found.shape == (2, 3, *size)
    assert np.abs(found - expected).max() < 1e-5
    assert np.ptp(expected) > 0.5


def test_the_file_predicts_as_the_network_does(predictor, exported):
    other, card = open_onnx(exported)
    assert card["class_names"] == ["lake", "roof"]
    assert card["weights_sha256"] == "abc"
    assert isinstance(other.network, OnnxNetwork)
    for image in pictures():
        assert (other.mask(image) == predictor.mask(image)).mean() > 0.999
    assert largest_difference(predictor, other, pictures()) < 1e-5


def test_the_difference_is_one_of_probabilities(predictor):
    network = Normalised(Padded(Tiny(), 32)).eval()
    nn.init.zeros_(network.network.network.up.weight)
    nn.init.zeros_(network.network.network.up.bias)
    flat = SegmenterPredictor(network, predictor.working_size, "single", "none")
    worst = largest_difference(predictor, flat, pictures(1))
    with torch.no_grad():
        probs = torch.from_numpy(predictor.probs(pictures(1, (64, 96))[0]))
    assert 0.1 < worst <= 2 / 3
    assert probs.max() - 1 / 3 > 0.1


def test_half_precision_keeps_float32_outside_and_is_smaller(predictor, exported, tmp_path):
    export_onnx(predictor, CARD, tmp_path / "h.onnx", precision="fp16")
    other, card = open_onnx(tmp_path / "h.onnx")
    assert card["precision"] == "fp16"
    assert other.network.session.get_inputs()[0].type == "tensor(float)"
    assert 0 < largest_difference(predictor, other, pictures()) < 0.02
    weights = {
        each.name: each.data_type for each in onnx.load(tmp_path / "h.onnx").graph.initializer
    }
    assert onnx.TensorProto.FLOAT16 in weights.values()


def test_eight_bits_need_images_and_stay_close(predictor, tmp_path):
    with pytest.raises(UsageError, match="EXPORT-CALIBRATE"):
        export_onnx(predictor, CARD, tmp_path / "i.onnx", precision="int8")
    export_onnx(predictor, CARD, tmp_path / "i.onnx", precision="int8", calibrate=pictures())
    other, _ = open_onnx(tmp_path / "i.onnx")
    assert 0 < largest_difference(predictor, other, pictures()) < 0.2
    kinds = {each.data_type for each in onnx.load(tmp_path / "i.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


def test_for_qgis_tiles_have_one_size_and_the_facts_are_there(predictor, tmp_path):
    export_onnx(predictor, CARD, tmp_path / "q.onnx", tile_px=64, ground_cm=80)
    session = onnxruntime.InferenceSession(tmp_path / "q.onnx")
    assert session.get_inputs()[0].shape == [1, 3, 64, 64]
    assert session.get_outputs()[0].shape == [1, 3, 64, 64]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == {"0": "background", "1": "lake", "2": "roof"}
    assert json.loads(facts["resolution"]) == 80
    assert json.loads(facts["tiles_size"]) == 64
    assert json.loads(facts["model_type"]) == "Segmentor"


def test_ground_that_is_not_known_is_left_out():
    assert "resolution" not in deepness_facts(["a"], 512, 0)


@pytest.mark.parametrize("name", ["m.pt", "there.onnx"])
def test_a_name_that_is_taken_or_wrong_is_refused(predictor, tmp_path, name):
    (tmp_path / "there.onnx").write_text("mine")
    with pytest.raises(UsageError, match="EXPORT-FILE"):
        export_onnx(predictor, CARD, tmp_path / name)
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_a_network_of_another_make_is_refused(tmp_path):
    other = SegmenterPredictor(Tiny().eval(), (64, 96), "single", "none")
    with pytest.raises(UsageError, match="EXPORT-KIND"):
        export_onnx(other, CARD, tmp_path / "m.onnx")


def test_damaged_and_foreign_files_are_refused(exported, tmp_path):
    data = exported.read_bytes()
    (tmp_path / "torn.onnx").write_bytes(data[: len(data) // 2])
    foreign = onnx.load(exported)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    for name in ("torn", "foreign"):
        with pytest.raises(CheckpointError, match="MODEL-DAMAGED"):
            open_onnx(tmp_path / f"{name}.onnx")


@pytest.fixture
def quick(predictor, monkeypatch):
    """Runs are exported as if the small network were theirs."""
    small = SegmenterPredictor(
        Normalised(Padded(Tiny(classes=2), 32)).eval(), predictor.working_size, "mirror", "none"
    )
    monkeypatch.setattr(exporting, "predictor_of_run", lambda run, device: small)


def test_the_command_writes_a_file_that_predicts(fewmask, tiny_run, quick, tmp_path, monkeypatch):
    out = tmp_path / "m.onnx"
    result = fewmask("export", tiny_run.path, "--to", "onnx", "-o", out)
    assert result.code == 0, result.err
    assert "differ from torch by at most" in result.out
    assert "mIoU" in result.out
    assert f"fewmask predict {out}" in result.out
    again = fewmask("predict", out, tiny_run.data, "-o", tmp_path / "masks")
    assert again.code == 0, again.err
    masks = sorted((tmp_path / "masks/masks").rglob("*.png"))
    images = sorted(tiny_run.data.glob("*tive/*.png"))
    assert len(masks) == len(images)
    other, _ = open_onnx(out)
    assert (np.asarray(Image.open(masks[0])) == other.mask(np.asarray(Image.open(images[0])))).all()


def test_several_precisions_are_a_file_each(tiny_run, quick, tmp_path):
    found = exporting.export_to_onnx(
        RunFolder.open(tiny_run.path), tmp_path / "m.onnx", precisions=("fp32", "fp16"),
        measure=False,
    )  # fmt: skip
    assert [each.path.name for each in found] == ["m-fp32.onnx", "m-fp16.onnx"]
    assert found[0].difference < 1e-5 < found[1].difference
    assert found[0].miou is None


def test_weights_with_a_card_predict_alone(fewmask, tiny_run, tmp_path):
    out = tmp_path / "model"
    result = fewmask("export", tiny_run.path, "--to", "safetensors", "-o", out)
    assert result.code == 0, result.err
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "run.yaml", "weights"]
    card = (out / "README.md").read_text()
    assert "positive" in card
    assert "iou.pooled.positive" in card
    for run, name in ((tiny_run.path, "a"), (out, "b")):
        result = fewmask("predict", run, tiny_run.data / "positive", "-o", tmp_path / name)
        assert result.code == 0, result.err
    for path in (tmp_path / "a/masks").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "b/masks" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--ground-cm", "5"], "EXPORT-FLAG"), (["-o", "m.pt"], "EXPORT-FILE")],
)
def test_flags_that_make_no_sense_are_refused(fewmask, tiny_run, quick, flags, code):
    result = fewmask("export", tiny_run.path, "--to", "onnx", "--no-measure", *flags)
    assert result.code == 2
    assert code in result.err


def test_a_missing_package_is_told(predictor, tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *rest):
        if name == "onnxscript":
            raise ModuleNotFoundError("no", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(onnx_model.ResourceError, match=r"fewmask\[export\]"):
        export_onnx(predictor, CARD, tmp_path / "m.onnx")


@pytest.mark.slow
def test_a_runs_own_network_is_the_same_in_onnx_runtime(fewmask, tiny_run, tmp_path):
    result = fewmask("export", tiny_run.path, "--to", "onnx", "-o", tmp_path / "m.onnx")
    assert result.code == 0, result.err
    assert "do not trust" not in result.out
