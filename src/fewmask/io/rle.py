"""Masks as run lengths: COCO's, and those of Label Studio's brush.

====================  ==========================================================================
form                  what it is
====================  ==========================================================================
COCO, uncompressed    ``{"size": [H, W], "counts": [zeros, ones, zeros, ...]}``, column by column
COCO, compressed      the same with ``counts`` as text: five bits a character, and from the third
                      count on the difference to the one before the last
COCO, polygons        lists of x, y, x, y, ... in px; what they cover is as pycocotools has it
Label Studio's brush  a list of bytes: red, green, blue, opacity of each pixel, row by row, packed
                      into runs; see :func:`decode_brush`
====================  ==========================================================================

Every count is checked against the size of the image before anything is allocated. Needs the extra
``coco`` (pycocotools) for COCO's forms.

Source: https://github.com/cocodataset/cocoapi (``maskApi``),
https://cocodataset.org/#format-data; https://github.com/thi-ng/umbrella (``rle-pack``), which
Label Studio packs with.

============  ==================================================================================
code          meaning
============  ==================================================================================
POLYGON       fewer than three points, an odd number of coordinates, or such as no image has
RLE           run lengths that are damaged, or of an image of another size
============  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from fewmask.errors import DataError, ResourceError
from fewmask.io.decoding import MAX_PIXELS

CocoRle = dict[str, Any]
"""``size`` (height and width) and ``counts`` (compressed, bytes), as pycocotools takes them."""

_CHARACTERS_PER_COUNT = 7
_BYTES_PER_PIXEL = 4
_RUN_BITS = (3, 4, 8, 16)
"""Bits of a run's length, by its two-bit index; as Label Studio writes them itself."""


def coco_rle(segmentation: object, height: int, width: int, where: object) -> CocoRle:
    """The ``segmentation`` of a COCO annotation, checked, as compressed run lengths.

    Args:
        segmentation: Polygons, or run lengths, compressed or not.
        height: Of the image, in px.
        width: Of the image, in px.
        where: Named in the error.

    Raises:
        DataError: ``POLYGON`` or ``RLE``.
        ResourceError: pycocotools is not installed.
    """
    if isinstance(segmentation, Mapping):
        return _checked_runs(segmentation, height, width, where)
    if not isinstance(segmentation, list) or not segmentation:
        _refuse_polygon(where, f"{type(segmentation).__name__} as segmentation")
    for polygon in segmentation:
        _require_polygon(polygon, height, width, where)
    coco = _pycocotools()
    return coco.merge(coco.frPyObjects(segmentation, height, width))


def coco_mask(rle: CocoRle) -> np.ndarray:
    """(H, W) bool of what :func:`coco_rle` has checked."""
    return _pycocotools().decode(rle).astype(bool)


def encode_coco(mask: np.ndarray) -> CocoRle:
    """Compressed run lengths, ready for JSON, of a mask (H, W) of 0 and 1 or bool.

    >>> encode_coco(np.array([[0, 1], [0, 1]]))
    {'size': [2, 2], 'counts': '22'}

    Raises:
        ResourceError: pycocotools is not installed.
    """
    rle = _pycocotools().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def encode_coco_crop(crop: np.ndarray, top: int, left: int, height: int, width: int) -> CocoRle:
    """As :func:`encode_coco`, of a mask that is empty outside of a crop; only that is looked at.

    >>> encode_coco_crop(np.array([[1], [1]]), 0, 1, 2, 2)
    {'size': [2, 2], 'counts': '22'}

    Args:
        crop: (h, w) bool, or 0 and 1; not empty.
        top: Row of its first row.
        left: Column of its first column.
        height: Of the whole mask.
        width: Of the whole mask.

    Raises:
        ResourceError: pycocotools is not installed.
    """
    columns, rows = np.nonzero(np.asarray(crop).T)
    places = (columns + left) * height + rows + top
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.append(breaks, places.size - 1)] + 1
    borders = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(borders, prepend=0).tolist()
    if rest := height * width - int(borders[-1]):
        counts.append(rest)
    rle = _pycocotools().frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def overlapping(rles: Sequence[CocoRle]) -> np.ndarray:
    """(n, n) bool: which of n shapes on one image have pixels in common."""
    shapes = list(rles)
    return np.asarray(_pycocotools().iou(shapes, shapes, [0] * len(shapes))) > 0


def decode_brush(data: object, height: int, width: int, where: object) -> np.ndarray:
    """What is painted with Label Studio's brush: pixels that are not wholly transparent.

    The bits, most significant first: 32 of the number of bytes, 5 of the word size less one, four
    times 4 of the run sizes less one; then runs: 1 bit says whether a single value is repeated, 2
    which of the run sizes the length has, then the length less one, then the value, or one for each
    place.

    >>> decode_brush(encode_brush(np.array([[0, 1, 1]])), 1, 3, "task").tolist()
    [[False, True, True]]

    Args:
        data: List of bytes, 0..255.
        height: Of the image, in px.
        width: Of the image, in px.
        where: Named in the error.

    Returns:
        (H, W) bool.

    Raises:
        DataError: ``RLE``.
    """
    packed = _as_bytes(data, where)
    bits = _Bits(packed, where)
    needed = height * width * _BYTES_PER_PIXEL
    if (count := bits.read(32)) != needed or height * width > MAX_PIXELS:
        _refuse_runs(where, f"{count:,} bytes", f"{needed:,}, four for each of {height}x{width} px")
    if (word := bits.read(5) + 1) != 8:
        _refuse_runs(where, f"words of {word} bits", "words of 8 bits")
    sizes = [bits.read(4) + 1 for _ in range(4)]
    out = np.empty(needed, np.uint8)
    at = 0
    while at < needed:
        repeated = bits.read(1)
        length = bits.read(sizes[bits.read(2)]) + 1
        if length > needed - at:
            _refuse_runs(where, f"runs of more than {needed:,} bytes", f"{needed:,} bytes")
        out[at : at + length] = bits.read(8) if repeated else bits.read_bytes(length)
        at += length
    return out[_BYTES_PER_PIXEL - 1 :: _BYTES_PER_PIXEL].reshape(height, width) > 0


def encode_brush(mask: np.ndarray) -> list[int]:
    """The inverse of :func:`decode_brush`: painted pixels are white and opaque.

    Args:
        mask: (H, W) bool, or 0 and 1.

    Returns:
        Bytes, 0..255.
    """
    flat = np.asarray(mask, bool).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])[: flat.size]
    lengths = np.diff(np.append(starts, flat.size)) * _BYTES_PER_PIXEL
    values = np.where(flat[starts], 255, 0)
    longest = 2 ** _RUN_BITS[-1]
    pieces = -(-lengths // longest)
    values = np.repeat(values, pieces)
    rest = np.full(values.size, longest)
    rest[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest

    head = _bits_of(np.array([flat.size * _BYTES_PER_PIXEL]), 32), _bits_of(np.array([7]), 5)
    sizes = _bits_of(np.array(_RUN_BITS) - 1, 4)
    which = np.searchsorted(2 ** np.array(_RUN_BITS), rest)
    columns = [
        np.ones((rest.size, 1), np.uint8),
        _bits_of(which, 2),
        _bits_of(rest - 1, 16),
        _bits_of(values, 8),
    ]
    runs = np.concatenate(columns, axis=1)
    written = np.ones(runs.shape, bool)
    written[:, 3:19] = np.arange(16) >= 16 - np.array(_RUN_BITS)[which][:, None]
    everything = [part.ravel() for part in (*head, sizes)] + [runs[written]]
    return np.packbits(np.concatenate(everything)).tolist()


class _Bits:
    """Reads a few bits at a time, most significant first."""

    def __init__(self, data: bytes, where: object) -> None:
        self._data, self._where, self._at = data, where, 0

    def read(self, bits: int) -> int:
        """The next bits, at most 32, as a number."""
        first, skipped = divmod(self._advance(bits), 8)
        chunk = self._data[first : first + 5].ljust(5, b"\0")
        return int.from_bytes(chunk, "big") >> (40 - skipped - bits) & ((1 << bits) - 1)

    def read_bytes(self, number: int) -> np.ndarray:
        """The next bytes, uint8."""
        first, skipped = divmod(self._advance(8 * number), 8)
        raw = np.frombuffer(self._data[first : first + number + 1].ljust(number + 1, b"\0"), "u1")
        pairs = raw[:-1].astype(np.uint16) << 8 | raw[1:]
        return (pairs >> (8 - skipped) & 255).astype(np.uint8)

    def _advance(self, bits: int) -> int:
        start = self._at
        self._at += bits
        if self._at > 8 * len(self._data):
            _refuse_runs(self._where, "data that end too early", "runs up to the last pixel")
        return start


def _bits_of(numbers: np.ndarray, bits: int) -> np.ndarray:
    """(n,) whole numbers to (n, bits) uint8 of 0 and 1, most significant first."""
    return (numbers[:, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)


def _as_bytes(data: object, where: object) -> bytes:
    if not isinstance(data, list) or not all(type(v) is int and 0 <= v <= 255 for v in data):
        _refuse_runs(where, "something else than bytes", "a list of whole numbers 0..255")
    return bytes(data)


def _checked_runs(
    segmentation: Mapping[str, Any], height: int, width: int, where: object
) -> CocoRle:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        _refuse_runs(where, f"a size of {size!s:.40}", f"[{height}, {width}], as the image")
    if isinstance(counts, str):
        runs = _unpacked(counts, where)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        runs = counts
    else:
        _refuse_runs(where, f"{type(counts).__name__} as counts", "text, or whole numbers")
    pixels = height * width
    if not all(0 <= count <= pixels for count in runs) or sum(runs) != pixels:
        _refuse_runs(where, "counts that do not add up to the image", f"a sum of {pixels:,}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode("ascii")}
    return _pycocotools().frPyObjects({"size": size, "counts": runs}, height, width)


def _unpacked(text: str, where: object) -> list[int]:
    """The counts in compressed text."""
    counts: list[int] = []
    number = places = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or places == _CHARACTERS_PER_COUNT:
            _refuse_runs(where, f"{character!r} among the counts", "compressed counts")
        number |= (code & 31) << 5 * places
        places += 1
        if code & 32:
            continue
        if code & 16:
            number -= 1 << 5 * places
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = places = 0
    if places:
        _refuse_runs(where, "counts that end within a number", "compressed counts")
    return counts


def _require_polygon(polygon: object, height: int, width: int, where: object) -> None:
    """Refuse what pycocotools would read as a box, or spend the machine's memory on."""
    if not isinstance(polygon, list) or not all(type(value) in {int, float} for value in polygon):
        _refuse_polygon(where, "something else than numbers")
    if len(polygon) % 2 or len(polygon) < 6:
        _refuse_polygon(where, f"{len(polygon)} coordinates")
    xs, ys = polygon[::2], polygon[1::2]
    for values, side in ((xs, width), (ys, height)):
        for value in values:
            if not -side <= value <= 2 * side:
                _refuse_polygon(where, f"{value!s:.20} as a coordinate, image {height}x{width}")
    steps = pairwise([*zip(xs, ys, strict=True), (xs[0], ys[0])])
    around = sum(max(abs(x - left), abs(y - above)) for (left, above), (x, y) in steps)
    if around > 4 * (height * width + height + width):
        _refuse_polygon(where, f"a line of {around:,.0f} px around an area")


def _refuse_polygon(where: object, found: str) -> NoReturn:
    raise DataError.of(
        "POLYGON",
        where=where,
        found=found,
        expected="x, y, x, y, ... in px of three points or more, on the image",
        fix="mend or remove this annotation in the tool that wrote it",
    )


def _refuse_runs(where: object, found: str, expected: str) -> NoReturn:
    fix = "export the annotations again, or remove this one"
    raise DataError.of("RLE", where=where, found=found, expected=expected, fix=fix)


def _pycocotools() -> ModuleType:
    try:
        import pycocotools.mask
    except ImportError:
        raise ResourceError.of(
            "COCO-PACKAGE",
            where="pycocotools",
            found="not installed",
            expected="pycocotools, which reads and writes the masks of COCO files",
            fix='pip install "fewmask[coco]"',
        ) from None
    return pycocotools.mask
