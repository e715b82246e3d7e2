"""Training curves and strips of test images, drawn without a display.

matplotlib is imported on first use, so that importing this module stays cheap.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE: NDArray[np.uint8] = np.array(
    [
        (86, 180, 233),  # sky blue
        (230, 159, 0),  # orange
        (204, 121, 167),  # reddish purple
        (0, 158, 115),  # bluish green
        (240, 228, 66),  # yellow
        (0, 114, 178),  # blue
        (213, 94, 0),  # vermilion
        (150, 110, 200),  # violet
        (120, 90, 60),  # brown
        (180, 215, 100),  # lime
        (20, 200, 200),  # turquoise
        (255, 150, 150),  # pink
        (40, 95, 40),  # dark green
        (150, 150, 150),  # grey
        (110, 20, 60),  # wine
        (250, 205, 160),  # peach
        (30, 50, 110),  # navy
        (215, 60, 140),  # magenta
        (95, 145, 130),  # sage
    ],
    dtype=np.uint8,
)
"""Colours of classes 1, 2, … (RGB); the first 7 are told apart also without full colour vision, and
after 19 they are used again.

Source: the first 7: Okabe & Ito 2008, *Color Universal Design*, set in an order that suits
photographs.
"""

IGNORE_GREY = 128
HATCH_PERIOD_PX = 6
PANEL_PX = 240
TITLE_PX = 26
GAP_PX = 10

_INK = "#5b6169"  # replaced by currentColor in SVG, so that curves follow the page's colours
_EITHER = "#7b818a"  # readable on a light and on a dark page
_LINE = "#2f86c4"
_DARK_MODE = (
    "<style>svg{color:#5b6169}@media(prefers-color-scheme:dark){svg{color:#a6acb5}}</style>"
)


def class_colour(class_id: int) -> tuple[int, int, int]:
    """RGB of a foreground class, 1..K.

    >>> class_colour(1) == class_colour(20)
    True
    """
    red, green, blue = PALETTE[(class_id - 1) % len(PALETTE)]
    return int(red), int(green), int(blue)


COLOURS: NDArray[np.uint8] = np.array([class_colour(i) for i in range(256)], np.uint8)
"""Of each id, (256, 3); of 0 and 255 not used."""


def colours_like(given: Sequence[str]) -> NDArray[np.uint8]:
    """:data:`COLOURS` with those that a data set has given its classes.

    >>> colours_like(["#1f77b4", ""])[1:3].tolist() == [[31, 119, 180], list(class_colour(2))]
    True

    Args:
        given: Of each class, such as ``#1f77b4``; empty where it has none.

    Returns:
        (256, 3) uint8 by id as drawn, 1 for the first class.
    """
    colours = COLOURS.copy()
    for number, text in enumerate(given, 1):
        if text:
            colours[number] = tuple(bytes.fromhex(text.removeprefix("#")))
    return colours


def drawn_ids(mask: NDArray, has_background: bool) -> NDArray:
    """Ids as :func:`overlay` draws them: where id 0 is a class too, each is one higher.

    >>> drawn_ids(np.array([0, 1, 255]), has_background=False).tolist()
    [1, 2, 255]
    """
    if has_background:
        return mask
    return np.where(mask == IGNORE_INDEX, IGNORE_INDEX, mask.astype(np.int64) + 1)


def overlay(
    image: NDArray[np.uint8],
    mask: NDArray,
    alpha: float = 0.45,
    colours: NDArray[np.uint8] = COLOURS,
) -> NDArray[np.uint8]:
    """Draw class ids over an image: tinted areas with a line of full colour, 1 px, just inside.

    Background stays as it is; ignored pixels get a grey diagonal hatch.

    Args:
        image: uint8 (H, W, 3).
        mask: Class ids (H, W), integer or bool; 255 is ignored.
        alpha: Share of the class colour in the tint, 0..1.
        colours: Of each id, uint8 (256, 3).

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        DataError: ``IMAGE-SHAPE`` if the image is not uint8 (H, W, 3) or the mask not (H, W).

    >>> grey = np.full((5, 5, 3), 100, np.uint8)
    >>> mask = np.pad(np.ones((3, 3), np.uint8), 1)
    >>> drawn = overlay(grey, mask, alpha=0.5)
    >>> drawn[0, 0].tolist(), drawn[1, 1].tolist(), drawn[2, 2].tolist()
    ([100, 100, 100], [86, 180, 233], [93, 140, 166])
    """
    ids = np.asarray(mask).astype(np.uint8)
    _check_image(image, ids.shape)
    shades = np.rint((1.0 - alpha) * np.arange(256) + alpha * colours[..., None])
    shades[[0, IGNORE_INDEX]] = np.arange(256)  # these have no colour
    drawn = shades.astype(np.uint8)[ids[..., None], np.arange(3), image]
    lines = _borders(ids) & (ids > 0) & (ids != IGNORE_INDEX)
    drawn[lines] = colours[ids[lines]]
    rows, columns = np.ogrid[: ids.shape[0], : ids.shape[1]]
    hatch = (ids == IGNORE_INDEX) & ((rows + columns) % HATCH_PERIOD_PX < 2)
    drawn[hatch] = IGNORE_GREY
    return drawn


def heat_overlay(
    image: NDArray[np.uint8], score: NDArray, alpha: float = 0.55
) -> NDArray[np.uint8]:
    """Draw a map over an image: dark violet for 0, through red, to yellow for 1.

    Args:
        image: uint8 (H, W, 3).
        score: Float (H, W) in [0, 1].
        alpha: Share of the map's colours, 0..1.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        DataError: ``IMAGE-SHAPE`` if the image is not uint8 (H, W, 3) or the map not (H, W).

    >>> heat_overlay(np.full((1, 2, 3), 100, np.uint8), np.array([[0.0, 1.0]]), alpha=0.5).tolist()
    [[[50, 50, 52], [176, 176, 146]]]
    """
    _check_image(image, score.shape)
    mixed = (1.0 - alpha) * image + alpha * _magma(score)
    return np.rint(mixed).astype(np.uint8)


def strip_png(panels: Sequence[tuple[str, NDArray]], height_px: int = PANEL_PX) -> bytes:
    """A row of panels with titles, each of one height, on a transparent ground.

    What an array is decides how it is drawn: uint8 (H, W, 3) as a picture; integer or bool (H, W)
    as class ids :func:`overlay`-ed on the latest picture before it (on black without one);
    float (H, W) in [0, 1] as a map in the colours of *magma*, whose brightness rises evenly.

    Args:
        panels: Titles and arrays.
        height_px: Of each panel.

    Returns:
        A PNG file, ``height_px + TITLE_PX`` pixels high.

    Raises:
        DataError: ``IMAGE-SHAPE`` for an array that is none of these, or for no panel at all.
    """
    if not panels:
        raise _bad_image("no panels")
    pictures = _pictures(panels)
    widths = [round(height_px * p.shape[1] / p.shape[0]) for p in pictures]
    total = (sum(widths) + GAP_PX * (len(widths) - 1), height_px + TITLE_PX)
    with _style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(total[0] / 100, total[1] / 100), dpi=100, facecolor="none")
        FigureCanvasAgg(figure)
        left = 0
        for (title, _), picture, width in zip(panels, pictures, widths, strict=True):
            box = (left / total[0], 0.0, width / total[0], height_px / total[1])
            axes = figure.add_axes(box)
            axes.set_axis_off()
            enlarged = picture.shape[0] < height_px
            axes.imshow(
                picture, interpolation="nearest" if enlarged else "antialiased", aspect="auto"
            )
            axes.set_title(title, fontsize=11, loc="left", pad=6, color=_EITHER)
            left += width + GAP_PX
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def curves_figure(records: Sequence[Mapping[str, Any]], stage: str) -> str:
    """Small multiples of all numbers that a stage wrote down while training.

    One panel per number (per loop, if the stage had several): the values as a thin line, their
    moving mean as a thick one. Text takes the page's colour, in light and in dark mode.

    Args:
        records: Lines of ``metrics.jsonl``: ``{"stage", "loop", "step", number, …}``.
        stage: Records of other stages are left out.

    Returns:
        An SVG document; equal records give equal text.
    """
    series = _series(records, stage)
    columns = min(3, max(1, len(series)))
    rows = max(1, -(-len(series) // columns))
    with _style():
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3.35 * columns, 2.0 * rows), facecolor="none", layout="tight")
        FigureCanvasSVG(figure)
        for i, (name, (steps, values)) in enumerate(series.items()):
            axes = figure.add_subplot(rows, columns, i + 1)
            _draw_curve(axes, name, steps, values)
        if not series:
            figure.text(0.5, 0.5, "no numbers were recorded", ha="center")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue().replace(_INK, "currentColor")
    svg = svg[svg.index("<svg") :]
    head = svg.index(">") + 1
    return svg[:head] + _DARK_MODE + svg[head:]


@contextmanager
def _style() -> Iterator[None]:
    """Plain, light axes; text is never read as a formula; the same input gives the same bytes."""
    import matplotlib as mpl

    settings: dict[str, Any] = {
        "axes.edgecolor": _INK,
        "axes.facecolor": "none",
        "axes.labelcolor": _INK,
        "axes.linewidth": 0.6,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": _INK,
        "font.size": 8,
        "svg.fonttype": "none",
        "svg.hashsalt": "fewmask",
        "text.color": _INK,
        "text.parse_math": False,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own style file must not change the report
        mpl.rcParams.update(settings)  # type: ignore[arg-type]
        yield


def _draw_curve(axes: Axes, name: str, steps: list[float], values: list[float]) -> None:
    """One panel; the moving mean spans a twentieth of the points."""
    window = max(1, len(values) // 20)
    width, alpha = (0.8, 0.35) if window > 1 else (1.4, 1.0)
    marker = "o" if len(values) == 1 else None
    axes.plot(steps, values, color=_LINE, linewidth=width, alpha=alpha, marker=marker, markersize=3)
    if window > 1:
        mean = np.convolve(values, np.full(window, 1.0 / window), mode="valid")
        axes.plot(steps[window - 1 :], mean, color=_LINE, linewidth=1.6)
    axes.set_title(name, fontsize=8.5, loc="left")
    axes.locator_params(axis="both", nbins=4)
    axes.tick_params(length=2.5, width=0.6, labelsize=7.5)
    axes.set_xlabel("step", fontsize=7.5, loc="right", labelpad=1)
    axes.grid(visible=True, axis="y", color=_INK, alpha=0.18, linewidth=0.5)
    axes.margins(x=0.02)


def _series(
    records: Sequence[Mapping[str, Any]], stage: str
) -> dict[str, tuple[list[float], list[float]]]:
    """(steps, values) of each number of the stage, in order of appearance."""
    own = [record for record in records if record.get("stage") == stage and "step" in record]
    several = len({record.get("loop") for record in own}) > 1
    series: dict[str, tuple[list[float], list[float]]] = {}
    for record in own:
        prefix = f"{record.get('loop')}: " if several else ""
        for key, value in record.items():
            if key in ("stage", "loop", "step") or isinstance(value, bool | str | None):
                continue
            steps, values = series.setdefault(prefix + key, ([], []))
            steps.append(float(record["step"]))
            values.append(float(value))
    return series


def _pictures(panels: Sequence[tuple[str, NDArray]]) -> list[NDArray[np.uint8]]:
    """Each panel's array as uint8 (H, W, 3)."""
    pictures: list[NDArray[np.uint8]] = []
    ground: NDArray[np.uint8] | None = None
    for title, array in panels:
        if array.ndim == 3:
            _check_image(array, array.shape[:2])
            ground = array
            pictures.append(array)
        elif array.ndim != 2:
            raise _bad_image(f"shape {array.shape} in panel {title!r}")
        elif array.dtype.kind == "f":
            pictures.append(_magma(array))
        else:
            black = np.zeros((*array.shape, 3), np.uint8)
            pictures.append(overlay(black if ground is None else ground, array))
    return pictures


def _magma(score: NDArray) -> NDArray[np.uint8]:
    import matplotlib as mpl

    coloured: NDArray[np.uint8] = mpl.colormaps["magma"](np.clip(score, 0.0, 1.0), bytes=True)
    return coloured[..., :3]


def _borders(ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of which one of four neighbours has another id; the image's border is no edge."""
    borders = np.zeros(ids.shape, np.bool_)
    below, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    borders[1:] |= below
    borders[:-1] |= below
    borders[:, 1:] |= right
    borders[:, :-1] |= right
    return borders


def _check_image(image: NDArray, shape: tuple[int, ...]) -> None:
    if image.dtype != np.uint8 or image.shape != (*shape, 3) or len(shape) != 2:
        raise _bad_image(f"{image.dtype} {image.shape} with a mask {shape}")


def _bad_image(found: str) -> DataError:
    return DataError.of(
        "IMAGE-SHAPE",
        where="figure",
        found=found,
        expected="uint8 (H, W, 3) pictures; (H, W) ids, bool, or float maps of the same size",
        fix="convert the array before drawing it",
    )
