"""A folder of pictures: each mask once, the same bytes however it is shared, stopped or killed."""

import numpy as np
import pytest

from fewmask import predict_folder
from fewmask.errors import DataError, Interrupted, UsageError
from fewmask.io.images import write_image
from fewmask.predict import predict
from fewmask.training.run_folder import RunFolder


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for i in range(12):
        path = folder / ("a" if i % 2 else "b") / f"p{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, rng.integers(0, 256, (40 + i, 50, 3)).astype(np.uint8))
    return folder


@pytest.fixture
def run(tiny_run):
    return RunFolder.open(tiny_run.path)


def contents(out):
    return {path.relative_to(out).as_posix(): path.read_bytes()
            for path in out.rglob("*") if path.is_file()}  # fmt: skip


def test_what_was_stopped_goes_on_to_the_same_bytes(run, pictures, tmp_path, monkeypatch):
    predict(run, pictures, tmp_path / "whole")
    real, count = predict_folder.Predicting.compute, 0

    def stopped(self, image):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(predict_folder.Predicting, "compute", stopped)
    with pytest.raises(Interrupted, match="the same command goes on"):
        predict(run, pictures, tmp_path / "out")
    done = list((tmp_path / "out/masks").rglob("*.png"))
    assert len(done) == 4
    times = {path: path.stat().st_mtime_ns for path in done}
    predict(run, pictures, tmp_path / "out")
    assert count == 5 + 8
    assert {path: path.stat().st_mtime_ns for path in done} == times
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_was_begun_of_other_pictures_is_left_alone(run, pictures, tmp_path, monkeypatch):
    def stopped(self, image):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict_folder.Predicting, "compute", stopped)
        with pytest.raises(Interrupted):
            predict(run, pictures, tmp_path / "out")
    with pytest.raises(UsageError, match="RUN-EXISTS"):
        predict(run, pictures / "a", tmp_path / "out")
    assert (tmp_path / "out" / predict_folder.UNFINISHED).is_dir()


def test_a_damaged_picture_is_told_and_the_others_are_done(run, pictures, tmp_path):
    (pictures / "a/p01.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="PREDICT-PARTIAL"):
        predict(run, pictures, tmp_path / "out")
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 11
