"""Clips in and out: every frame once, upright, at its time; damage is told."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from fewmask.errors import DataError, ResourceError, UsageError
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


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])  # with a number of frames, and without
def test_how_many_frames_to_expect(tmp_path, suffix):
    with VideoReader(write_clip(tmp_path / f"clip{suffix}", frames=12)) as reader:
        assert reader.expected == pytest.approx(12, abs=1)


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
    monkeypatch.setattr(av.VideoFrame, "rotation", 90)  # to be turned counter-clockwise
    with VideoReader(clip) as reader:
        image = next(iter(reader)).image.astype(int)
    upright, upside_down = np.rot90(picture(0), 1), np.rot90(picture(0), -1)
    assert image.shape == upright.shape
    assert np.abs(image - upright).mean() < 6 < np.abs(image - upside_down).mean()


def test_a_long_last_frame_is_no_break(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", times=[0, 40, 80, 120, 160, 9000])
    with VideoReader(clip) as reader:
        assert len(list(reader)) == 6


def write_raw(path, times, codec="mpeg4"):
    """A clip by PyAV alone, without what VideoWriter sees to."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i, pts in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "libx264"), ("clip.avi", "mpeg4")])
def test_times_rise_whatever_the_container_says_and_can_be_written(tmp_path, name, codec):
    clip = write_raw(tmp_path / name, range(8), codec)
    with VideoReader(clip) as reader:
        frames = list(reader)
        with VideoWriter(tmp_path / "out.mp4", reader.rate, reader.time_base) as writer:
            for frame in frames:
                writer.write(frame)
    times = [frame.time for frame in frames]
    assert times[0] == 0
    assert all(b > a for a, b in pairwise(times))
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert len(list(reader)) == len(frames) == 8


class TestRefusals:
    def test_a_file_that_is_no_clip(self, tmp_path):
        path = tmp_path / "clip.mp4"
        path.write_text("no clip")
        with pytest.raises(DataError, match="VIDEO-UNREADABLE"):
            VideoReader(path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(DataError, match="VIDEO-UNREADABLE"):
            VideoReader(tmp_path / "none.mp4")

    @pytest.mark.parametrize("name", ["out.gif", "out.avi", "out"])
    def test_a_suffix_that_cannot_hold_the_frames_times(self, tmp_path, name):
        with pytest.raises(UsageError, match="VIDEO-SUFFIX"):
            VideoWriter(tmp_path / name, Fraction(10), Fraction(1, 10))

    def test_sound_without_pictures(self, tmp_path):
        path = tmp_path / "sound.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
        with pytest.raises(DataError, match="no pictures"):
            VideoReader(path)

    def test_what_the_encoder_refuses_is_an_error_of_ours_and_leaves_nothing(self, tmp_path):
        def write():
            with VideoWriter(tmp_path / "out.mp4", Fraction(10), Fraction(1, 10)) as writer:
                for time in (5, 5, 3, 3):  # falling times
                    writer.write(Frame(picture(0), time))

        with pytest.raises(ResourceError, match="VIDEO-WRITE"):
            write()
        assert not list(tmp_path.iterdir())

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
