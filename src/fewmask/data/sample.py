"""Demo data made at run time: aerial tiles of hillsides, with scars, houses and ponds.

Synthetic, so no benchmark: it shows that a run works, and its truth is exact. Every tile is
composed of textures that ship inside scikit-image (grass, gravel, brick); nothing is downloaded.
A scar is brown gravel on grass, elongated downhill and soft at its edge. Tiles with and without
scars also show dry grass as brown, woods as coarse and houses as bright as a scar, so that neither
colour, texture nor brightness alone finds them.

Training and test tiles share no source pixel: the first take the left half of each texture, the
others the right half.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from fewmask.errors import UsageError
from fewmask.io.images import write_image, write_mask
from fewmask.randomness import generator

Split = Literal["train", "test"]
Array = NDArray[np.float64]

SAMPLE_CLASS_NAMES = ("house", "pond", "scar")
"""Classes of the multi-class sample; their ids in its masks are 1, 2 and 3."""

HOUSE, POND, SCAR = 1, 2, 3

# Colours, RGB in [0, 1]; a tile mixes its own between each pair.
MEADOW = ((0.40, 0.47, 0.25), (0.46, 0.46, 0.28))
FOREST = ((0.20, 0.29, 0.15), (0.27, 0.34, 0.19))
DRY = ((0.55, 0.46, 0.315), (0.50, 0.46, 0.325))
EARTH = ((0.60, 0.46, 0.34), (0.55, 0.50, 0.39))
ROOF = ((0.66, 0.36, 0.27), (0.50, 0.47, 0.46))
WATER = ((0.15, 0.24, 0.27), (0.22, 0.31, 0.26))


def make_sample(
    root: Path,
    *,
    seed: int = 0,
    images_per_class: int = 40,
    image_size: int = 96,
    split: Split = "train",
) -> Path:
    """Write tiles with a scar to ``positive/``, without one to ``negative/``, truth to ``masks/``.

    A mask (uint8, 1 = scar) exists for each positive tile; it is 1 where the scar is more than
    half opaque and no house stands on it: on 4 to 20 % of the tile. The same arguments give the
    same bytes.

    Args:
        root: Folder to write to; it must be empty or absent.
        seed: Decides every draw.
        images_per_class: Number of positive tiles, and of negative ones.
        image_size: Side of a tile, in pixels.
        split: Which half of the textures to use.

    Returns:
        ``root``.

    Raises:
        UsageError: ``root`` is not empty.
    """
    require_empty(root)
    positive, negative, masks = (_made(root / name) for name in ("positive", "negative", "masks"))
    for index in range(images_per_class):
        for folder, scar in ((positive, True), (negative, False)):
            draw = _Draw((seed, split, folder.name, index), image_size, split)
            image, mask = _make_tile(draw, scar=scar, pond=False, houses=draw.integer(0, 3))
            name = f"{folder.name[0]}{index:03}.png"
            write_image(folder / name, image)
            if scar:
                write_mask(masks / name, (mask == SCAR).astype(np.uint8))
    return root


def make_multiclass_sample(
    root: Path,
    *,
    seed: int = 0,
    images: int = 80,
    image_size: int = 96,
    split: Split = "train",
) -> Path:
    """Write tiles with houses, ponds and scars to ``images/``, with ``tags.csv`` and ``masks/``.

    ``tags.csv`` has the column ``file`` and a 0/1 column per class of
    :data:`SAMPLE_CLASS_NAMES`; every tile has a mask (uint8) of ids 0 to 3. The eight combinations
    of tags take turns. The same arguments give the same bytes.

    Args:
        root: Folder to write to; it must be empty or absent.
        seed: Decides every draw.
        images: Number of tiles.
        image_size: Side of a tile, in pixels.
        split: Which half of the textures to use.

    Returns:
        ``root``.

    Raises:
        UsageError: ``root`` is not empty.
    """
    require_empty(root)
    images_folder, masks = _made(root / "images"), _made(root / "masks")
    rows: list[list[object]] = [["file", *SAMPLE_CLASS_NAMES]]
    for index in range(images):
        house, pond, scar = (index >> bit & 1 for bit in range(3))
        draw = _Draw((seed, split, "multiclass", index), image_size, split)
        houses = house * draw.integer(2, 4)
        image, mask = _make_tile(draw, scar=bool(scar), pond=bool(pond), houses=houses)
        name = f"tile{index:03}.png"
        write_image(images_folder / name, image)
        write_mask(masks / name, mask)
        rows.append([name, house, pond, scar])
    with (root / "tags.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return root


class _Draw:
    """One tile's random draws, at its size; lengths are in px of a tile of 96, scaled to it."""

    def __init__(self, seed: tuple[int | str, ...], size: int, split: Split) -> None:
        self.rng = generator("sample", *seed)
        self.size = size
        self.unit = size / 96
        self.split = split
        self.y, self.x = (np.mgrid[:size, :size] + 0.5) / self.unit  # (size, size), 0 … 96

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def colour(self, ends: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
        tint = np.array(ends[0]) + self.uniform(0, 1) * np.subtract(ends[1], ends[0])
        return np.asarray(tint * self.uniform(0.9, 1.1))

    def noise(self, wavelength: float) -> Array:
        """A smooth random field of mean 0 and standard deviation 1."""
        white = self.rng.standard_normal((self.size, self.size))
        field = gaussian_filter(white, wavelength * self.unit / 4, mode="reflect")
        return np.asarray((field - field.mean()) / field.std())

    def texture(self, name: str, zoom: tuple[float, float]) -> Array:
        """A patch of a texture's half: turned, zoomed, mirrored beyond the half's borders."""
        step = self.uniform(*zoom)
        half = texture_half(name, self.split, blur=round(0.4 * step / self.unit, 1))
        down, right = self._turned(self.uniform(0, 2 * np.pi), 48, 48)
        centre_y, centre_x = self.rng.uniform(0.3, 0.7, 2) * half.shape
        return np.asarray(
            map_coordinates(
                half, [centre_y + step * down, centre_x + step * right], order=1, mode="mirror"
            )
        )

    def blob(self, area: float, *, angle: float, ratio: float, rough: float, soft: float) -> Array:
        """Opacity of an elongated shape with a wavy outline, over 0.5 on ``area`` of the tile."""
        radius = 96 * np.sqrt(area / (np.pi * ratio))
        along, across = self._turned(angle, *self.rng.uniform(20, 76, 2))
        across = across - self.uniform(-0.25, 0.25) * along**2 / (radius * ratio)  # bend
        across = across / (1 + 0.35 * np.tanh(along / (radius * ratio)))  # crown and toe
        distance = np.hypot(along / ratio, across) + rough * radius * self.noise(20)
        edge = np.quantile(distance, area)
        return np.asarray(1 / (1 + np.exp(np.clip((distance - edge) / soft, -50, 50))))

    def _turned(self, angle: float, y: float, x: float) -> tuple[Array, Array]:
        """Coordinates along and across ``angle``, from the point (y, x)."""
        dy, dx = self.y - y, self.x - x
        sin, cos = np.sin(angle), np.cos(angle)
        return dy * cos + dx * sin, dx * cos - dy * sin


def _make_tile(
    draw: _Draw, *, scar: bool, pond: bool, houses: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A tile (size, size, 3) uint8 and its class ids (size, size) uint8."""
    downhill = draw.uniform(0, 2 * np.pi)
    image = _hillside(draw)
    mask = np.zeros(image.shape[:2], np.uint8)

    if scar:
        area, ratio = draw.uniform(0.075, 0.19), draw.uniform(2, 3)
        opacity = draw.blob(area, angle=downhill, ratio=ratio, rough=0.22, soft=0.8)
        gravel = draw.texture("gravel", zoom=(2.4, 3.4))
        image = _over(image, _tinted(gravel, draw.colour(EARTH), contrast=0.22), opacity)
        mask[opacity > 0.5] = SCAR

    image *= _relief(draw, downhill)[..., None]

    if pond:
        for _ in range(20):  # until it leaves most of the scar in sight
            area, angle = draw.uniform(0.05, 0.11), draw.uniform(0, np.pi)
            opacity = draw.blob(area, angle=angle, ratio=1.3, rough=0.15, soft=0.5)
            if (mask[opacity > 0.5] == SCAR).sum() <= 0.3 * (mask == SCAR).sum():
                break
        water = _tinted(draw.noise(40), draw.colour(WATER), contrast=0.06)
        image = _over(image, water, opacity)
        mask[opacity > 0.5] = POND

    for _ in range(houses):
        image = _put_house(draw, image, mask)

    image = gaussian_filter(image, (0.45 * draw.unit, 0.45 * draw.unit, 0))
    image = image * draw.uniform(0.9, 1.12) + 0.008 * draw.rng.standard_normal(image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask


def _hillside(draw: _Draw) -> Array:
    """Meadow with woods, whose crowns are dark green gravel, and a patch of dry grass."""
    ground = _tinted(draw.texture("grass", (1.8, 2.8)), draw.colour(MEADOW), contrast=0.18)
    woods = _tinted(draw.texture("gravel", (3.0, 3.6)), draw.colour(FOREST), contrast=0.3)
    dry = _tinted(draw.texture("grass", (1.8, 2.8)), draw.colour(DRY), contrast=0.18)
    woods_opacity = 1 / (1 + np.exp(-6 * (draw.noise(60) - draw.uniform(0.2, 1.5))))
    dry_opacity = draw.blob(
        draw.uniform(0.06, 0.22),
        angle=draw.uniform(0, np.pi),
        ratio=draw.uniform(1, 2.5),
        rough=0.4,
        soft=2.0,
    )
    return _over(_over(ground, woods, woods_opacity), dry, dry_opacity)


def _relief(draw: _Draw, downhill: float) -> Array:
    """Brightness of the slope: it changes evenly downhill, and gently with its undulations."""
    along = (draw.y - 48) * np.cos(downhill) + (draw.x - 48) * np.sin(downhill)
    return np.asarray(1 + draw.uniform(0.05, 0.2) * along / 48 + 0.05 * draw.noise(50))


def _put_house(draw: _Draw, image: Array, mask: NDArray[np.uint8]) -> Array:
    """Image with one more house, beside scar and pond rather than on them; ``mask`` is updated."""
    place = (8.0, 8.0)
    for _ in range(20):
        place = (draw.uniform(8, 88), draw.uniform(8, 88))
        if mask[int(place[0] * draw.unit), int(place[1] * draw.unit)] == 0:
            break
    along, across = draw._turned(draw.uniform(0, np.pi), *place)
    length, depth = draw.uniform(5, 8), draw.uniform(3.5, 5)
    house = np.maximum(np.abs(along) / length, np.abs(across) / depth) < 1
    shadow = np.roll(house, (round(1.6 * draw.unit), round(1.6 * draw.unit)), (0, 1)) & ~house
    roof = _tinted(draw.texture("brick", (2.2, 3.0)), draw.colour(ROOF), contrast=0.12)
    roof *= np.where(across < 0, 1.1, 0.85)[..., None]  # two slopes
    mask[house] = HOUSE
    return _over(image * np.where(shadow, 0.55, 1.0)[..., None], roof, house.astype(float))


def _tinted(luminance: Array, colour: Array, contrast: float) -> Array:
    return np.asarray(colour * (1 + contrast * luminance[..., None]))  # (size, size, 3)


def _over(below: Array, above: Array, opacity: Array) -> Array:
    return below + opacity[..., None] * (above - below)


@cache
def texture_half(name: str, split: Split, blur: float = 0.0) -> Array:
    """The half of a texture that ``split`` may use, of mean 0 and standard deviation 1.

    Args:
        name: ``grass``, ``gravel`` or ``brick``, packaged with scikit-image.
        split: ``train`` has the left half, ``test`` the right one.
        blur: Standard deviation in px of a blur within the half, for sampling it coarsely.
    """
    whole = load_texture(name)
    middle = whole.shape[1] // 2
    half = gaussian_filter(whole[:, :middle] if split == "train" else whole[:, middle:], blur)
    return np.asarray((half - half.mean()) / half.std())


@cache
def load_texture(name: str) -> Array:
    """A packaged texture, (512, 512) in 0 … 255, read from the installed file itself."""
    path = Path(skimage.data.__file__).with_name(f"{name}.png")
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image.convert("L"), dtype=np.float64)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def require_empty(root: Path) -> None:
    """Refuse a place for sample data that holds something.

    Raises:
        UsageError: it does.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError.of(
            "SAMPLE-EXISTS",
            where=root,
            found="something is there already",
            expected="an empty or absent folder",
            fix="choose another folder, or remove it first",
        )
