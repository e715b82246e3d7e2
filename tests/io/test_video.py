"""Clips in and out: every frame once, upright, at its time; damage is told."""

from fractions import Fraction

import numpy as np
import pytest

from fewmask.errors import DataError, UsageError
from fewmask.io.video import Frame, VideoReader, VideoWriter

av = pytest.importorskip("av")


def picture(i, height=48, width=64):
    """A dark scene with a bright block that moves by a column each frame."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[8:24, 4 * i : 4 * i + 8] = (220, 60, 60)
    return image


def write_clip(path, frames=6, times=None, size=(48, 64), rate=Fraction(10)):
    with VideoWriter(path, rate, Fraction(1, 1000)) as writer:
        for i in range(frames):
            writer.write(Frame(picture(i, *size), times[i] if times else 100 * i))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    clip = write_clip(tmp_path / f"clip{suffix}")
    with VideoReader(clip) as reader:
        frames = list(reader)
    assert len(frames) == reader.decoded == 6
    assert reader.rate == pytest.approx(10, rel=0.01)
    for i, frame in enumerate(frames):
        assert frame.image.shape == (48, 64, 3)
        assert frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - picture(i)).mean() < 6  # the codec is lossy
        assert float(frame.time * reader.time_base) == pytest.approx(0.1 * i, abs=0.002)
    assert [p.name for p in tmp_path.iterdir()] == [clip.name]


def test_uneven_times_are_kept(tmp_path):
    times = [0, 40, 300, 320, 1000, 1500]
    with VideoReader(write_clip(tmp_path / "clip.mp4", times=times)) as reader:
        found = [float(frame.time * reader.time_base) for frame in reader]
    assert found == pytest.approx([t / 1000 for t in times], abs=0.002)


def test_odd_sides_are_made_even_by_one_pixel(tmp_path):
    with VideoReader(write_clip(tmp_path / "clip.mp4", frames=2, size=(47, 63))) as reader:
        assert next(iter(reader)).image.shape == (48, 64, 3)


def test_a_clip_that_was_filmed_on_its_side_comes_out_upright(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", frames=1)
    monkeypatch.setattr(av.VideoFrame, "rotation", 90, raising=False)
    try:
        patched = av.VideoFrame.rotation == 90
    except AttributeError:
        patched = False
    if not patched:
        pytest.skip("PyAV's frames cannot be patched")
    with VideoReader(clip) as reader:
        assert next(iter(reader)).image.shape == (64, 48, 3)


class TestRefusals:
    def test_a_file_that_is_no_clip(self, tmp_path):
        path = tmp_path / "clip.mp4"
        path.write_text("no clip")
        with pytest.raises(DataError, match="VIDEO-UNREADABLE"):
            VideoReader(path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(DataError, match="VIDEO-UNREADABLE"):
            VideoReader(tmp_path / "none.mp4")

    def test_a_suffix_that_names_no_container(self, tmp_path):
        with pytest.raises(UsageError, match="VIDEO-SUFFIX"):
            VideoWriter(tmp_path / "out.gif", Fraction(10), Fraction(1, 10))

    def test_a_truncated_clip(self, tmp_path):
        clip = write_clip(tmp_path / "clip.mp4")
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        with pytest.raises(DataError, match="VIDEO-UNREADABLE"):
            VideoReader(clip)

    def test_nothing_is_left_of_a_clip_that_was_not_finished(self, tmp_path):
        def write():
            with VideoWriter(tmp_path / "out.mp4", Fraction(10), Fraction(1, 10)) as writer:
                writer.write(Frame(picture(0), 0))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write()
        assert not list(tmp_path.iterdir())
