"""The form that predicts: the fastest here that gives the same masks, and kept once chosen."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fewmask import predict_folder, runtimes
from fewmask.errors import Interrupted
from fewmask.io.images import write_image
from fewmask.models.segmenter import build_segmenter
from fewmask.predict import predict
from fewmask.runtimes import Choice, choose_form, exported_form, in_form
from fewmask.trained import Trained
from fewmask.training.inference import predict_probs
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import SegmenterPredictor


class Slow(nn.Module):
    """Splits images at a grey level, after a while."""

    def __init__(self, seconds=0.0, level=0.5):
        super().__init__()
        self.seconds, self.level = seconds, nn.Parameter(torch.tensor(level))

    def forward(self, image):
        time.sleep(self.seconds)
        grey = image.mean(1, keepdim=True) - self.level
        return torch.cat([-grey, grey], 1)


def ramp(*_):
    return np.repeat(np.arange(0, 256, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2)


@pytest.mark.parametrize(
    ("forms", "expected", "passed"),
    [
        ({"channels-last": Slow(0.02), "contiguous": Slow(0.01), "bf16": Slow()}, "bf16", ""),
        ({"channels-last": Slow(0.02), "contiguous": Slow(0.01), "bf16": Slow(0, 0.6)},
         "contiguous", "bf16"),
        ({"channels-last": Slow(0.02), "contiguous": Slow(0.02), "bf16": Slow(0.04)},
         "channels-last", ""),
        ({"channels-last": Slow(0.02), "contiguous": Slow(0.02), "bf16": Slow(0, 0.6)},
         "channels-last", "bf16"),
    ],
)  # fmt: skip
def test_the_fastest_form_with_the_same_masks_is_chosen(forms, expected, passed, monkeypatch):
    predictor = SegmenterPredictor(forms["channels-last"], (8, 256), "single")
    monkeypatch.setattr(
        runtimes, "in_form", lambda predictor, form, _: replace(predictor, network=forms[form])
    )
    choice = choose_form(predictor, [ramp()])
    assert choice.form == expected
    assert choice.milliseconds["channels-last"] >= 20
    assert str(choice).startswith(f"runtime: {expected}, ")
    assert (f"--runtime {passed} " in str(choice)) == bool(passed)


@pytest.mark.parametrize("form", ["contiguous", "bf16"])
def test_a_form_is_the_same_network(form):
    torch.manual_seed(0)
    network = build_segmenter(num_classes=2, pretrained=True).eval()
    predictor = SegmenterPredictor(network, (64, 64), "single")
    other = in_form(predictor, form)
    image = torch.rand(1, 3, 64, 64)
    expected, found = (predict_probs(each.network, image) for each in (predictor, other))
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < (1e-6 if form == "contiguous" else 0.02)
    assert (found != expected).any() or form == "contiguous"


def test_only_many_pictures_are_worth_a_measurement_and_only_torch_has_forms():
    trained = Trained(SegmenterPredictor(Slow(), (8, 256)), {})
    few, many = runtimes.WORTH_IMAGES - 1, runtimes.WORTH_IMAGES
    assert trained.measured("auto", few, map(ramp, range(9))) == ("channels-last", None)
    assert trained.measured("bf16", many, map(ramp, range(9))) == ("bf16", None)
    assert trained.measured("auto", many, ()) == ("channels-last", None)
    assert isinstance(trained.measured("auto", many, map(ramp, range(9)))[1], Choice)
    for other in (replace(trained, is_file=True), replace(trained, predictor=object())):
        assert other.measured("auto", many, map(ramp, range(9))) == ("channels-last", None)


@pytest.mark.parametrize(
    ("flags", "word"), [(["--runtime", "onnx"], "RUNTIME-EXPORT"), (["--runtime", "int4"], "int4")]
)
def test_a_form_that_a_run_does_not_have_is_refused_and_nothing_is_written(
    fewmask, tiny_run, small_data, tmp_path, flags, word
):
    done = fewmask("predict", tiny_run.path, small_data, "-o", tmp_path / "out", *flags)
    assert done.code == 2
    assert word in done.err
    assert not (tmp_path / "out").exists()


def test_an_exported_form_of_other_weights_or_a_damaged_one_is_no_candidate(tmp_path, monkeypatch):
    onnx_model = pytest.importorskip("fewmask.onnx_model")
    assert exported_form(tmp_path, "abc") is None
    (tmp_path / runtimes.EXPORTED).write_bytes(b"no model")
    assert exported_form(tmp_path, "abc") is None
    monkeypatch.setattr(onnx_model, "open_onnx", lambda _: (None, {"weights_sha256": "abc"}))
    assert exported_form(tmp_path, "abc") == tmp_path / runtimes.EXPORTED
    assert exported_form(tmp_path, "def") is None


def test_what_was_stopped_keeps_its_form(tiny_run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        write_image(folder / f"{i}.png", np.full((40, 40, 3), 60 * i, np.uint8))
    answers = iter([Choice("bf16", {"channels-last": 2.0, "bf16": 1.0}, {"bf16": 0.0}, 1)])
    monkeypatch.setattr("fewmask.trained.choose_form", lambda *_: next(answers))
    monkeypatch.setattr("fewmask.trained.WORTH_IMAGES", 1)
    run, real, used = RunFolder.open(tiny_run.path), predict_folder.Predicting.compute, []

    def spied(self, image):
        used.append(type(self.predictor.network).__name__)
        if len(used) == 2:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(predict_folder.Predicting, "compute", spied)
    with pytest.raises(Interrupted):
        predict(run, folder, tmp_path / "out")
    noted = json.loads((tmp_path / "out" / predict_folder.UNFINISHED / "state.json").read_text())
    assert noted["form"] == "bf16"
    assert "2.0 times as fast" in capsys.readouterr().err
    predict(run, folder, tmp_path / "out")  # asked again, the answers would be at an end
    assert set(used) == {"InForm"}
    assert len(used) == 2 + 3
