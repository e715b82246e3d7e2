"""Apply a finished run to a clip: the same clip with the masks laid over it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from fewmask.errors import DataError, Problem
from fewmask.io.video import VIDEO_SUFFIXES, VideoReader, VideoWriter, require_output
from fewmask.report.figures import colours_like, drawn_ids, overlay
from fewmask.runtimes import Runtime
from fewmask.trained import open_trained
from fewmask.training.progress import watched
from fewmask.training.run_folder import RunFolder
from fewmask.training.run_places import refuse_inside


@dataclass(frozen=True)
class VideoResult:
    """How a clip went through.

    Attributes:
        frames: Number of frames.
        seconds: Wall time for all of it: decoding, masks, drawing, encoding.
        mask_seconds: The part of it that went into the masks.
        clip_rate: Frames a second of the clip itself.
    """

    frames: int
    seconds: float
    mask_seconds: float
    clip_rate: float

    def __str__(self) -> str:
        whole, masks = self.frames / self.seconds, self.frames / self.mask_seconds
        return (
            f"{self.frames} frames in {self.seconds:.1f} s: {whole:.1f} frames a second "
            f"(masks alone {masks:.1f}); the clip has {self.clip_rate:.4g} a second"
        )


def is_video(path: Path) -> bool:
    """Whether a file is a clip, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def predict_video(
    run: RunFolder | Path,
    clip: Path,
    out: Path,
    *,
    device: str = "auto",
    runtime: Runtime = "auto",
) -> VideoResult:
    """Write ``out``, the clip with masks laid over it; frames pass through one at a time.

    The times of the frames are kept; sound is not.

    Args:
        run: A finished run, or a file of ``fewmask export``.
        clip: A video.
        out: A new video; not inside the run's data. See :data:`fewmask.io.video.OUTPUT_SUFFIXES`.
        device: See ``--device``.
        runtime: The form in which the network computes, see :mod:`fewmask.runtimes`; ``auto`` is as
            it was trained.

    Raises:
        DataError: the clip cannot be read; where it breaks off, the frames before are written.
        UsageError: ``out`` exists, or is no video by its suffix.
        ResourceError: the extra ``video`` is not installed.
    """
    require_output(out)
    RunFolder.require_free(out)
    trained = open_trained(run, device)
    trained = trained.in_form(trained.measured(runtime, 0, ())[0])
    predictor, card = trained.predictor, trained.card
    for folder in trained.data_folders:
        refuse_inside(out, folder)
    background, colours = card.get("background", True), colours_like(card.get("class_colours", ()))
    started, in_masks, frames = time.monotonic(), 0.0, 0
    broken: DataError | None = None
    with VideoReader(clip) as reader:
        out.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(out, reader.rate, reader.time_base) as writer:
            shown = iter(watched(reader, reader.expected, "predict", "frame"))
            while True:
                try:
                    frame = next(shown)
                except StopIteration:
                    break
                except DataError as error:
                    if not frames:
                        raise
                    broken = error
                    break
                before = time.monotonic()
                mask = predictor.mask_of_probs(frame.image, predictor.probs(frame.image))
                in_masks += time.monotonic() - before
                drawn = overlay(frame.image, drawn_ids(mask, background), colours=colours)
                writer.write(frame._replace(image=drawn))
                frames += 1
        rate = float(reader.rate)
    if broken:
        raise DataError(
            *broken.problems,
            Problem(
                "PREDICT-PARTIAL",
                str(clip),
                f"a clip that breaks off; its first {frames} frames are in {out}",
                "a whole clip",
                "mend it, then predict into another -o",
            ),
        )
    return VideoResult(frames, time.monotonic() - started, in_masks, rate)
