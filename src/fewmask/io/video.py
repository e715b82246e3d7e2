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


class Frame(NamedTuple):
    """One picture of a clip.

    Attributes:
        image: (H, W, 3) uint8, upright.
        time: When it is shown, in the clip's time base.
    """

    image: np.ndarray
    time: int


class VideoReader:
    """The frames of a clip, decoded as they are asked for; a context manager.

    Args:
        path: The clip.

    Attributes:
        count: Number of frames as far as the file says, else 0.
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
            self._stream = self._container.streams.video[0]
        except (
            OSError,
            ValueError,
            IndexError,
        ) as error:  # PyAV's errors are OSErrors, ValueErrors
            raise _unreadable(path, error) from None
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.rate = Fraction(rate)
        self.time_base = Fraction(self._stream.time_base or 1 / self.rate)
        self.count = int(self._stream.frames or 0)
        self._seconds = self._expected_seconds()

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
        """Frame by frame.

        Raises:
            DataError: the clip breaks off, or is a tenth shorter than it says; after how many
                frames.
        """
        first = ticks = 0
        try:
            for frame in self._container.decode(self._stream):
                image = frame.to_ndarray(format="rgb24")
                turns = round((frame.rotation or 0) / 90) % 4
                ticks = frame.pts
                if ticks is None:
                    ticks = round(self.decoded / (self.rate * self.time_base))
                first = first if self.decoded else ticks
                yield Frame(np.ascontiguousarray(np.rot90(image, turns)), ticks)
                self.decoded += 1
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error, self.decoded) from None
        shown = float((ticks - first) * self.time_base + 1 / self.rate) if self.decoded else 0.0
        if self.decoded == 0 or shown < 0.9 * self._seconds - 2 / self.rate:
            found = f"{shown:.1f} s of {self._seconds:.1f} s"
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
        ResourceError: PyAV is not installed, or lacks an encoder.
        UsageError: the suffix names no container.
    """

    def __init__(self, path: Path, rate: Fraction, time_base: Fraction) -> None:
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UsageError.of(
                "VIDEO-SUFFIX",
                where=path,
                found=f"suffix {path.suffix!r}",
                expected="a clip: " + " ".join(sorted(VIDEO_SUFFIXES)),
                fix=f"-o {path.with_suffix('.mp4').name}",
            )
        self.path, self.rate, self.time_base = path, rate, time_base
        self._temporary = path.with_name(f".tmp-{path.name}{path.suffix}")
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
        if self._stream is not None and error is None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()
        if self._stream is not None and error is None:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink(missing_ok=True)

    def write(self, frame: Frame) -> None:
        """Add a frame; all have the size of the first, odd sides are made even by one pixel."""
        av = _pyav()
        height, width = frame.image.shape[:2]
        image = np.pad(frame.image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._new_stream(image.shape[1], image.shape[0])
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.pts, picture.time_base = frame.time, self.time_base
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

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


def _unreadable(path: Path, error: object, decoded: int | None = None) -> DataError:
    words = getattr(error, "strerror", None) or str(error)
    return DataError.of(
        "VIDEO-UNREADABLE",
        where=path,
        found=words + (f", after {decoded} frames" if decoded is not None else ""),
        expected="a whole clip that FFmpeg can decode",
        fix="play it to see whether it is damaged, or convert it: ffmpeg -i OLD NEW.mp4",
    )
