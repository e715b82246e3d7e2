"""``fewmask select`` and ``translate``: images of one domain or another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fewmask.cli_engine import EngineFlags
from fewmask.errors import shell_command


def select(
    pool: Path,
    /,
    *,
    like: Path | None = None,
    method: Literal["distance", "histogram", "grey"] = "distance",
    keep: int | None = None,
    low: float | None = None,
    high: float | None = None,
    quantiles: tuple[float, float] = (0.05, 0.95),
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    copy: bool = True,
    features: Literal["levels", "last"] = "levels",
    encoder: str = "tf_efficientnet_lite0",
    encoder_weights: str = "packaged",
    device: str = "auto",
) -> None:
    """Choose the images of a pool that are like a target, or sort day from night.

    Args:
        pool: Folder of images; nothing in it is changed.
        like: Folder of images of the target.
        method: distance (in a network's features), histogram (of light, red counting half) or grey
            (mean grey level; night is --high 65, without --like).
        keep: No more than so many, the most fitting.
        low: Lowest score to keep.
        high: Highest score to keep.
        quantiles: Of the target's light or grey levels: the range to keep, if none is given.
        out: New folder for selected.csv and copies of the chosen images; default
            runs/<pool>-selected.
        copy: Copy the chosen images to OUT/images.
        features: What distance compares: channel statistics at five levels (light and content),
            or the last features of a classifier (content).
        encoder: timm's name of the network for distance.
        encoder_weights: packaged, or a file.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from fewmask.cli import NEW_MASKS, tell_next
    from fewmask.selection import select as select_images
    from fewmask.training.run_places import free_path
    from fewmask.training.signals import stop_on_signals

    folder = out or free_path(Path("runs") / f"{pool.resolve().name}-selected")
    with stop_on_signals():
        found = select_images(
            pool, folder, like=like, method=method, keep=keep, low=low, high=high,
            quantiles=quantiles, copy=copy, features=features, encoder=encoder,
            encoder_weights=encoder_weights, device=device,
        )  # fmt: skip
    print(found)
    copies = folder / "images"
    print(f"all scores: {folder / 'selected.csv'}" + (f"; copies: {copies}" if copy else ""))
    where = copies if copy else pool
    tell_next(shell_command("predict", "RUN", where, "-o", free_path(NEW_MASKS)), own="RUN")


def translate(
    run: Path,
    images: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    to: Literal["target", "source"] = "target",
    method: Literal["unit", "fourier", "lab", "histogram", "gamma"] | None = None,
    device: str = "auto",
    where: Annotated[EngineFlags, Parameter(name="*")] = EngineFlags(),  # noqa: B008 - frozen
) -> None:
    """Images in the light of a run's other domain, same names and sizes.

    Args:
        run: A finished run of `fewmask adapt`.
        images: An image, or a folder of images.
        out: New or empty folder.
        to: The domain whose light is wanted.
        method: Default: the first of the run's --render-methods.
        device: auto, cpu, cuda, cuda:1, mps.
        where: The work is done.
    """
    from fewmask.cli import tell_next
    from fewmask.training.run_folder import RunFolder
    from fewmask.training.signals import stop_on_signals
    from fewmask.translate import translate as translate_images

    with stop_on_signals():
        written = translate_images(
            RunFolder.open(run), images, out, to=to, method=method, device=device,
            engine=where.chosen(),
        )  # fmt: skip
    print(f"{len(written)} translated {'image' if len(written) == 1 else 'images'} in {out}")
    other = "source" if to == "target" else "target"
    tell_next(shell_command("translate", run, out, "-o", f"{out}-back", "--to", other))
