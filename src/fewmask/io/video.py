"""Video in and out, one frame in memory at a time; needs the extra ``video`` (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from fewmask.errors import DataError, ResourceError, UsageError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})
OUTPUT_SUFFIXES = VIDEO_SUFFIXES - {".avi"}
"""Containers that keep the times of frames; AVI does not."""


class Frame(NamedTuple):
    """One picture of a clip.

    Attributes:
        image: (H, W, 3) uint8, upright.
        time: When it is shown, in the clip's time base; 0 or more, and rising.
    """

    image: np.ndarray
    time: int


class VideoReader:
    """The frames of a clip, decoded as they are asked for; a context manager.

    Args:
        path: The clip.

    Attributes:
        count: Number of frames as far as the file says, else 0.
        expected: The same, else about so many by its length; 0 if the file says neither.
        rate: Mean frames a second.
        time_base: Seconds of one tick of :attr:`Frame.time`.

    Raises:
        ResourceError: PyAV is not installed.
        DataError: no clip, or one that cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        av = _pyav()
        self.path = path
        self.decoded = 0
        try:
            self._container = av.open(str(path))
        except (OSError, ValueError) as error:  # PyAV's errors are OSErrors or ValueErrors
            raise _unreadable(path, error) from None
        if not self._container.streams.video:
            self._container.close()
            raise _unreadable(path, "no pictures, sound only")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.rate = Fraction(rate)
        self.time_base = Fraction(self._stream.time_base or 1 / self.rate)
        self.count = int(self._stream.frames or 0)
        self._seconds = self._expected_seconds()
        self.expected = self.count or round(self._seconds * self.rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """Frame by frame; times count from the first frame.

        Raises:
            DataError: the clip breaks off, or is a tenth shorter than it says; after how many
                frames.
        """
        step = max(1, round(1 / (self.rate * self.time_base)))
        first, end, time = 0, 0, -step
        frames = self._container.decode(self._stream)
        while True:
            try:
                frame = next(frames, None)
            except (OSError, ValueError) as error:
                raise _unreadable(self.path, error, self.decoded) from None
            if frame is None:
                break
            if self.decoded == 0:
                first = frame.pts or 0
            rising = frame.pts is not None and frame.pts - first > time
            time = frame.pts - first if rising else time + step
            end = time + max(frame.duration or 0, step)
            self.decoded += 1
            turns = round((frame.rotation or 0) / 90) % 4
            image = np.rot90(frame.to_ndarray(format="rgb24"), turns)
            yield Frame(np.ascontiguousarray(image), time)
        self._refuse_short(float(end * self.time_base))

    def _refuse_short(self, seconds: float) -> None:
        """Refuse a clip that holds a tenth less than it says: fewer frames, or less time."""
        if self.count:
            whole, found = (
                self.decoded >= 0.9 * self.count,
                f"{self.decoded} of {self.count} frames",
            )
        else:
            whole = seconds >= 0.9 * self._seconds - 2 / self.rate
            found = f"{seconds:.1f} s of {self._seconds:.1f} s"
        if not self.decoded or not whole:
            raise _unreadable(self.path, found, self.decoded)

    def _expected_seconds(self) -> float:
        """How long the clip says it is; 0 if it does not, or may speak of its sound."""
        if self._stream.duration:
            return float(self._stream.duration * self.time_base)
        if self._container.duration and len(self._container.streams) == 1:
            return float(self._container.duration) / 1e6  # FFmpeg's AV_TIME_BASE
        return 0.0


class VideoWriter:
    """An H.264 clip (yuv420p, MP4 or what the suffix says), written frame by frame.

    Written under a temporary name beside ``path``, and renamed when it is closed without an error.

    Args:
        path: Of the clip; its suffix names the container.
        rate: Frames a second.
        time_base: Of the frames' times.

    Raises:
        ResourceError: PyAV is not installed, lacks an encoder, or cannot write.
        UsageError: the suffix names no container that keeps the frames' times.
    """

    def __init__(self, path: Path, rate: Fraction, time_base: Fraction) -> None:
        require_output(path)
        self.path, self.rate, self.time_base = path, rate, time_base
        self._temporary = path.with_name(f".tmp-{path.name}")
        self._container = _pyav().open(str(self._temporary), "w")
        self._stream: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if self._stream is not None and error is None:
                self._mux(None)
            self._container.close()
            if self._stream is not None and error is None:
                self._temporary.replace(self.path)
        except OSError as failure:
            raise _unwritable(self.path, failure) from None
        finally:
            self._container.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, frame: Frame) -> None:
        """Add a frame; its time is later than the last one's.

        All are scaled to the size of the first, whose odd sides are made even by one pixel.
        """
        av = _pyav()
        height, width = frame.image.shape[:2]
        image = np.pad(frame.image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._new_stream(image.shape[1], image.shape[0])
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.pts, picture.time_base = frame.time, self.time_base
        self._mux(picture)

    def _mux(self, picture: Any) -> None:
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except (OSError, ValueError) as error:
            raise _unwritable(self.path, error) from None

    def _new_stream(self, width: int, height: int) -> Any:
        codec = "libvpx-vp9" if self.path.suffix.lower() == ".webm" else "libx264"
        try:
            stream = self._container.add_stream(codec, rate=self.rate)
        except ValueError as error:
            raise ResourceError.of(
                "VIDEO-ENCODER",
                where="PyAV",
                found=str(error),
                expected=f"the encoder {codec}",
                fix='pip install --force-reinstall "fewmask[video]"',
            ) from None
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = self.time_base
        return stream


def require_output(path: Path) -> None:
    """Refuse a name under which no clip can be written.

    Raises:
        UsageError: with the suffixes that can.
    """
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise UsageError.of(
            "VIDEO-SUFFIX",
            where=path,
            found=f"suffix {path.suffix!r}",
            expected="a clip: " + " ".join(sorted(OUTPUT_SUFFIXES)),
            fix=f"-o {path.with_suffix('.mp4').name}",
        )


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError:
        raise ResourceError.of(
            "VIDEO-PACKAGE",
            where="av",
            found="not installed",
            expected="PyAV, which reads and writes clips",
            fix='pip install "fewmask[video]"',
        ) from None
    return av


def _unwritable(path: Path, error: Exception) -> ResourceError:
    return ResourceError.of(
        "VIDEO-WRITE",
        where=path,
        found=getattr(error, "strerror", None) or str(error),
        expected="a place to write a clip to",
        fix="see whether the disk is full, or choose another -o",
    )


def _unreadable(path: Path, error: object, decoded: int | None = None) -> DataError:
    words = getattr(error, "strerror", None) or str(error)
    return DataError.of(
        "VIDEO-UNREADABLE",
        where=path,
        found=words + (f", after {decoded} frames" if decoded is not None else ""),
        expected="a whole clip that FFmpeg can decode",
        fix="play it to see whether it is damaged, or convert it: ffmpeg -i OLD NEW.mp4",
    )
