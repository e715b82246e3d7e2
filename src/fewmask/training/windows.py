"""A segmenter on scenes larger than memory: overlapping windows, blended, a band of rows at a time.

The network sees a scene at the scale of the images that it was trained on. So there are two grids:
the scene's pixels, (H, W), and the network's cells, (h, w); a pixel lies where its centre falls.
Windows stand on the grid of cells, at multiples of the network's stride, so that they pool the same
cells together. What they give in their middle is what the whole scene at once would, but for what
the network sees beyond their border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 512
"""Cells along a window's side, of a margin of ``MARGIN``."""
MARGIN = 64
"""Cells at a window's border that have no say where there is a neighbour: they know too little of
what lies beyond. A wider margin makes wider windows, as far apart as before."""
BLEND = 64
"""Cells behind the margin in which one window's say goes over to the next's."""
STRIDE = 32
"""Of the encoder: windows that begin at its multiples pool the same cells together."""

STRIP = 1024
"""Rows of pixels that are read at one time."""

ReadPixels = Callable[[slice, slice], np.ndarray]
"""Rows and columns of a scene to (rows, columns, 3) uint8."""
Network = Callable[[Tensor], Tensor]
"""A window (3, n, m) float32 in [0, 1] to class probabilities (K, n, m) float32."""


class Grid(NamedTuple):
    """A scene's pixels and the network's cells.

    Attributes:
        pixels: Height and width of the scene.
        cells: Height and width at which the network sees it.
        margin: Cells at a window's border that have no say; 0: ``MARGIN``.
    """

    pixels: tuple[int, int]
    cells: tuple[int, int]
    margin: int = 0

    @property
    def window(self) -> int:
        """Cells along a window's side."""
        return side_of(self.margin)

    @property
    def windows(self) -> tuple[list[slice], list[slice]]:
        """Windows down and across, see :func:`spans`."""
        return spans(self.cells[0], self.margin), spans(self.cells[1], self.margin)

    @classmethod
    def at_scale(
        cls,
        pixels: tuple[int, int],
        image_px: tuple[int, int],
        working_size: tuple[int, int],
        margin: int = 0,
    ) -> Grid:
        """The grid on which ``image_px`` pixels become the network's working size.

        >>> Grid.at_scale((1000, 500), (200, 200), (128, 128)).cells
        (640, 320)
        """
        height, width = (
            max(1, round(n * cells / side))
            for n, cells, side in zip(pixels, working_size, image_px, strict=True)
        )
        return cls(pixels, (height, width), margin)


def side_of(margin: int) -> int:
    """Cells along the side of a window with this margin; 0: ``MARGIN``."""
    return WINDOW + 2 * (margin - MARGIN) if margin else WINDOW


def spans(cells: int, margin: int = 0) -> list[slice]:
    """Windows along an axis of so many cells, in order; the last one ends with it.

    >>> [(w.start, w.stop) for w in spans(1000)], spans(40)
    ([(0, 512), (320, 832), (480, 1000)], [slice(0, 40, None)])
    """
    side = side_of(margin)
    if cells <= side:
        return [slice(0, cells)]
    last = (cells - side) // STRIDE * STRIDE
    starts = [*range(0, last, WINDOW - 2 * MARGIN - BLEND), last]
    stops = [start + side for start in starts[:-1]] + [cells]
    return [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]


def weights(windows: Sequence[slice], number: int) -> Tensor:
    """Share that a window has in each of its cells; those of all windows add up to 1."""
    own = windows[number]
    share = torch.ones(own.stop - own.start)
    if number > 0:
        share *= _rise(own.start, windows[number - 1].stop, own)
    if number + 1 < len(windows):
        share *= 1 - _rise(windows[number + 1].start, own.stop, own)
    return share


def _rise(start: int, stop: int, over: slice) -> Tensor:
    """0 to 1 in the middle of what two windows share, start to stop, for each cell of ``over``."""
    begin = start + (stop - start - BLEND) // 2
    return ((torch.arange(over.start, over.stop) + 0.5 - begin) / BLEND).clamp(0, 1)


def settled(windows: Sequence[slice], number: int) -> int:
    """The first cell in which windows after this one have a share."""
    if number + 1 == len(windows):
        return windows[number].stop
    following = windows[number + 1].start
    return following + (windows[number].stop - following - BLEND) // 2


def probs_of_bands(
    network: Network, read: ReadPixels, grid: Grid, *, begin: int = 0
) -> Iterator[tuple[int, int, Tensor]]:
    """Class probabilities of a scene, a band of rows of cells at a time.

    Args:
        network: What to apply to a window.
        read: The scene's pixels.
        grid: See :class:`Grid`.
        begin: Number of the first band; those before it are not made.

    Yields:
        Number of the band, its first row of cells, and (K, rows, w) probabilities. Bands follow one
        another without gap.
    """
    rows, _ = grid.windows
    carried: Tensor | None = None  # what windows so far say of the rows that are not settled
    for number in range(max(begin - 1, 0), len(rows)):
        top = settled(rows, number - 1) if number else 0
        end = settled(rows, number)
        band = _band(network, read, grid, rows, number)[:, top - rows[number].start :]
        if carried is not None:
            band[:, : carried.shape[1]] += carried
        carried = band[:, end - top :]
        if number >= begin:
            yield number, top, band[:, : end - top]


def _band(
    network: Network, read: ReadPixels, grid: Grid, rows: Sequence[slice], number: int
) -> Tensor:
    """Shares of a row of windows in the probabilities of its cells, (K, window's rows, w)."""
    _, columns = grid.windows
    down, band = weights(rows, number)[:, None], torch.empty(0)
    for column, across in enumerate(columns):
        found = _applied(network, _cells(read, grid, rows[number], across), len(rows), len(columns))
        if column == 0:
            band = found.new_zeros(*found.shape[:2], grid.cells[1])
        band[:, :, across] += found * down * weights(columns, column)
    return band


def _applied(network: Network, image: Tensor, rows: int, columns: int) -> Tensor:
    """The network on a window, filled up to the stride behind its end where it has neighbours.

    A network that fills up an image by itself does so on both sides, which would shift its grid.
    """
    height, width = image.shape[1:]
    more = [-width % STRIDE * (columns > 1), -height % STRIDE * (rows > 1)]
    if any(more):
        image = functional.pad(image[None], (0, more[0], 0, more[1]), mode="reflect")[0]
    return network(image)[:, :height, :width]


def _cells(read: ReadPixels, grid: Grid, rows: slice, columns: slice) -> Tensor:
    """A window's image at the network's scale, as if the whole scene had been resized."""
    (high, down), (wide, across) = (
        _mixture(span, pixels, cells)
        for span, pixels, cells in zip((rows, columns), grid.pixels, grid.cells, strict=True)
    )
    found = torch.zeros(3, rows.stop - rows.start, columns.stop - columns.start)
    for top in range(high.start, high.stop, STRIP):
        strip = slice(top, min(top + STRIP, high.stop))
        shares = down[:, strip.start - high.start : strip.stop - high.start]
        image = torch.from_numpy(read(strip, wide))
        for channel in range(3):
            found[channel] += shares @ (image[..., channel].float() @ across.T)
    return found / 255


def _mixture(span: slice, pixels: int, cells: int) -> tuple[slice, Tensor]:
    """The pixels that cells are made of, and their shares (cells, pixels): linear, antialiased.

    As Pillow's filter, but for its rounding to whole numbers: that of a window and that of the
    whole would fall differently.
    """
    scale = pixels / cells
    reach = max(scale, 1.0)
    centre = (torch.arange(span.start, span.stop, dtype=torch.float64) + 0.5) * scale
    first, last = max(int(centre[0] - reach), 0), min(int(centre[-1] + reach) + 1, pixels)
    place = torch.arange(first, last) + 0.5
    shares = (1 - (place - centre[:, None]).abs() / reach).clamp(min=0)
    return slice(first, last), (shares / shares.sum(1, keepdim=True)).float()


def enlarged(probs: Tensor, first: int, grid: Grid, rows: slice, columns: slice) -> Tensor:
    """Probabilities at a scene's pixels, by bilinear interpolation between cells.

    Args:
        probs: (K, n, w), n rows of cells, all that these rows of pixels lie between.
        first: The first of these rows of cells.
        grid: See :class:`Grid`.
        rows: Of pixels.
        columns: Of pixels.

    Returns:
        (K, rows, columns).
    """
    above, below, down = _between(rows, grid.pixels[0], grid.cells[0])
    left, right, across = _between(columns, grid.pixels[1], grid.cells[1])
    wide = torch.lerp(probs[:, :, left], probs[:, :, right], across)
    return torch.lerp(wide[:, above - first], wide[:, below - first], down[:, None])


def ready(last: int, grid: Grid) -> int:
    """Rows of pixels, from the top, that lie between rows of cells before ``last``."""
    pixels, cells = grid.pixels[0], grid.cells[0]
    if last >= cells:
        return pixels
    return max(0, min(pixels, int((last - 0.5) * pixels / cells - 0.5)))


def needed(row: int, grid: Grid) -> int:
    """The first row of cells that a row of pixels lies between."""
    return int(_between(slice(row, row + 1), grid.pixels[0], grid.cells[0])[0])


def _between(span: slice, pixels: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel the cell before it, the cell after it, and how far it is on the way."""
    centre = torch.arange(span.start, span.stop, dtype=torch.float64) + 0.5
    place = (centre * cells / pixels - 0.5).clamp(0, cells - 1)
    before = place.floor()
    return before.long(), place.ceil().long(), (place - before).float()
