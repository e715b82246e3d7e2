"""A generated street, by day and by night, for the demo of pipeline ``adapt``: synthetic.

A street runs to a vanishing point between houses, with trees, lamp posts, cars and people; all
sizes follow from the distance. The same scene can be seen by day, under a cloudy or clear sky, or
by night, where the ambient light is faint and blue, lamps and headlights throw pools of light,
windows glow, every lamp has a halo, and the sensor is noisy. The mask is the same by either light.

Every folder has scenes of its own: no place is seen by day and by night, or in training and test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from fewmask.data.sample import load_texture, require_empty
from fewmask.io.images import write_image, write_mask
from fewmask.randomness import generator

Light = Literal["day", "night"]
Array = NDArray[np.float64]
Point = tuple[float, float]

STREET_CLASS_NAMES = ("sky", "building", "road", "pavement", "tree", "car", "person", "pole")
"""Classes of the masks, in the order of their ids from 0."""
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, POLE = range(8)

OVERSAMPLING = 2
ROAD_HALF, PAVEMENT_END = 0.62, 0.98
"""Where road and pavement end, right of the vanishing point, in image widths at the bottom."""
NEAREST, FARTHEST = 1.25, 0.06
"""Scale of things: 1 at the bottom of the image, 0 at the vanishing point."""


def make_street(
    root: Path,
    *,
    seed: int = 0,
    day: int = 120,
    night: int = 60,
    test: int = 40,
    width: int = 192,
    height: int = 128,
) -> Path:
    """Write a labelled day, an unlabelled night, and a labelled night to test on.

    ``day/images``, ``day/masks``, ``night/images``, ``test/images``, ``test/masks``: PNG, masks
    with the ids of :data:`STREET_CLASS_NAMES`. The same arguments give the same bytes.

    Args:
        root: An empty or absent folder.
        seed: Of all scenes; every folder has scenes of its own.
        day: Number of images by day.
        night: Number of unlabelled images by night.
        test: Number of test images by night.
        width: Of an image, in px.
        height: Of an image, in px.

    Raises:
        UsageError: ``root`` holds something.
    """
    require_empty(root)
    folders: tuple[tuple[str, int, Light], ...] = (
        ("day", day, "day"),
        ("night", night, "night"),
        ("test", test, "night"),
    )
    for name, count, light in folders:
        for kind in ("images", "masks")[: 1 if name == "night" else 2]:
            (root / name / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, mask = street_scene((seed, name, i), light, width, height)
            write_image(root / name / "images" / f"{i:04d}.png", image)
            if name != "night":
                write_mask(root / name / "masks" / f"{i:04d}.png", mask)
    return root


def street_scene(
    seed: tuple[int | str, ...], light: Light, width: int = 192, height: int = 128
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One scene.

    Args:
        seed: Names the scene; with the other light it is the same scene.
        light: By day or by night.
        width: In px.
        height: In px.

    Returns:
        Image (H, W, 3) uint8 and ids (H, W) uint8.
    """
    scene = _Scene(generator("street", *seed), width * OVERSAMPLING, height * OVERSAMPLING)
    _build(scene)
    shown = _by_day(scene) if light == "day" else _by_night(scene, generator("lamps", *seed))
    small = Image.fromarray(_to_bytes(shown)).resize((width, height), Image.Resampling.BOX)
    noise = generator("sensor", *seed).standard_normal((height, width, 3))
    level = np.asarray(small) / 255
    grain = 0.008 if light == "day" else 0.012 + 0.03 * np.sqrt(level)
    first = OVERSAMPLING // 2
    mask = np.asarray(scene.mask)[first::OVERSAMPLING, first::OVERSAMPLING]
    return _to_bytes(level + grain * noise), mask


@dataclass
class _Scene:
    """What is where: drawn from far to near, as ids, albedo and lamps.

    Attributes:
        rng: Draws the scene, the same by day and by night.
        width: In px, oversampled.
        height: In px, oversampled.
        lamps: (x, y, radius, colour) of what shines by night.
        pools: (x, y, radius along x and y, strength) of the light that lamps throw on the ground.
    """

    rng: np.random.Generator
    width: int
    height: int
    lamps: list[tuple[float, float, float, tuple[float, float, float]]] = field(
        default_factory=list
    )
    pools: list[tuple[float, float, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mask = Image.new("L", (self.width, self.height), SKY)
        self.albedo = Image.new("RGB", (self.width, self.height))
        self.glow = Image.new("RGB", (self.width, self.height))  # lit windows
        self._on_mask, self._on_albedo = ImageDraw.Draw(self.mask), ImageDraw.Draw(self.albedo)
        self._on_glow = ImageDraw.Draw(self.glow)
        self.vanish_x = self.uniform(0.38, 0.62) * self.width
        self.vanish_y = self.uniform(0.38, 0.50) * self.height

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def place(self, side: float, scale: float, up: float = 0.0) -> Point:
        """Pixel of a point ``side`` widths right of the middle and ``up`` heights above ground."""
        x = self.vanish_x + side * scale * self.width
        y = self.vanish_y + scale * (self.height - self.vanish_y) - up * scale * self.height
        return x, y

    def polygon(self, points: list[Point], label: int, colour: Array) -> None:
        self._on_mask.polygon(points, fill=label)
        self._on_albedo.polygon(points, fill=_rgb(colour))
        self._on_glow.polygon(points, fill=(0, 0, 0))

    def ellipse(self, x: float, y: float, rx: float, ry: float, label: int, colour: Array) -> None:
        box = (x - rx, y - ry, x + rx, y + ry)
        self._on_mask.ellipse(box, fill=label)
        self._on_albedo.ellipse(box, fill=_rgb(colour))
        self._on_glow.ellipse(box, fill=(0, 0, 0))

    def window(self, points: list[Point], colour: Array, glow: Array) -> None:
        self._on_albedo.polygon(points, fill=_rgb(colour))
        self._on_glow.polygon(points, fill=_rgb(glow))


def _build(scene: _Scene) -> None:
    """Everything, from far to near."""
    _sky(scene)
    for side in (-1.0, 1.0):
        _houses(scene, side)
    _ground(scene)
    things: list[tuple[float, str, float]] = []
    for side in (-1.0, 1.0):
        things += [(s, "lamp", side) for s in _spread(scene, 0.14, 0.95, 3)]
        things += [
            (scene.uniform(0.12, 0.8), "tree", side) for _ in range(scene.rng.integers(0, 4))
        ]
        things += [
            (scene.uniform(0.15, 0.85), "person", side) for _ in range(scene.rng.integers(0, 4))
        ]
        things += [(scene.uniform(0.12, 0.8), "car", side) for _ in range(scene.rng.integers(0, 3))]
    draw = {"lamp": _lamp, "tree": _tree, "person": _person, "car": _car}
    for scale, kind, side in sorted(things):
        draw[kind](scene, side, scale)


def _spread(scene: _Scene, low: float, high: float, count: int) -> list[float]:
    """Scales of things that stand at even distances: 1 / scale is even."""
    shift = scene.uniform(0, 1)
    steps = (np.arange(count) + shift) / count
    return [float(1 / (1 / high + t * (1 / low - 1 / high))) for t in steps]


def _sky(scene: _Scene) -> None:
    top = np.array([0.42, 0.58, 0.80]) * scene.uniform(0.8, 1.1)
    grey = scene.uniform(0.0, 1.0)  # overcast
    top = (1 - grey) * top + grey * 0.72
    rows = np.linspace(0, 1, scene.height)[:, None, None]
    sky = top * (1 - rows) + (0.5 * top + 0.45) * rows
    clouds = gaussian_filter(
        scene.rng.standard_normal((scene.height, scene.width)), scene.width / 14
    )
    sky = sky + 0.08 * (clouds / clouds.std())[..., None]
    scene.albedo.paste(Image.fromarray(_to_bytes(sky)))


def _houses(scene: _Scene, side: float) -> None:
    """A row of facades between the pavement and the sky, some with gaps."""
    edges = [NEAREST]
    while edges[-1] > FARTHEST:
        edges.append(edges[-1] * scene.uniform(0.5, 0.78))
    for near, far in reversed(list(pairwise(edges))):
        if scene.uniform(0, 1) < 0.12:
            continue
        tall = scene.uniform(0.55, 1.25)
        out = side * (PAVEMENT_END + scene.uniform(0, 0.06))
        colour = _mixed(scene, (0.72, 0.62, 0.52), (0.52, 0.50, 0.50), (0.62, 0.38, 0.30))
        wall = [scene.place(out, near), scene.place(out, far), scene.place(out, far, tall),
                scene.place(out, near, tall)]  # fmt: skip
        scene.polygon(wall, BUILDING, colour)
        columns, rows = int(scene.rng.integers(3, 7)), int(scene.rng.integers(2, 6))
        for i in range(columns):
            for j in range(rows):
                u = [(i + e) / columns for e in (0.25, 0.75)]
                v = [tall * (j + e) / rows for e in (0.3, 0.75)]
                scales = [1 / (1 / near + t * (1 / far - 1 / near)) for t in u]
                pane = [scene.place(out, s, up) for s, up in
                        ((scales[0], v[0]), (scales[1], v[0]), (scales[1], v[1]),
                         (scales[0], v[1]))]  # fmt: skip
                lit = scene.uniform(0, 1) < 0.35
                glow = np.array([1.0, 0.78, 0.45]) * (scene.uniform(0.3, 0.9) if lit else 0.02)
                scene.window(pane, 0.35 * colour + 0.08, glow)


def _ground(scene: _Scene) -> None:
    grey = scene.uniform(0.28, 0.42)
    for half, label, colour in (
        (3.0, PAVEMENT, np.full(3, grey + scene.uniform(0.12, 0.25)) * (1.02, 1.0, 0.95)),
        (ROAD_HALF, ROAD, np.full(3, grey)),
    ):
        tip = (scene.vanish_x, scene.vanish_y)
        scene.polygon([scene.place(-half, NEAREST), tip, scene.place(half, NEAREST)], label, colour)
    for near in _spread(scene, 0.1, NEAREST, 6):  # broken line in the middle
        far = near / (1 + 0.25 * near)
        line = [scene.place(x, s) for x, s in
                ((-0.012, near), (0.012, near), (0.012, far), (-0.012, far))]  # fmt: skip
        scene.polygon(line, ROAD, np.full(3, 0.8))


def _lamp(scene: _Scene, side: float, scale: float) -> None:
    """A lamp post on the pavement; by night its lamp shines on the ground below."""
    out = side * (ROAD_HALF + 0.05)
    x, foot = scene.place(out, scale)
    _, top = scene.place(out, scale, 1.05)
    thick = max(1.0, 0.012 * scale * scene.width)
    colour = np.full(3, 0.25)
    scene.polygon([(x - thick, foot), (x + thick, foot), (x + thick, top), (x - thick, top)], POLE,
                  colour)  # fmt: skip
    arm = x - side * 0.08 * scale * scene.width
    scene.polygon([(x, top), (arm, top - thick), (arm, top + thick), (x, top + 2 * thick)], POLE,
                  colour)  # fmt: skip
    warm = (1.0, scene.uniform(0.62, 0.9), scene.uniform(0.3, 0.7))
    scene.lamps.append((arm, top + thick, 0.018 * scale * scene.width, warm))
    scene.pools.append((arm, foot, 0.30 * scale * scene.width, 0.10 * scale * scene.height, 0.55))


def _tree(scene: _Scene, side: float, scale: float) -> None:
    out = side * scene.uniform(ROAD_HALF + 0.12, PAVEMENT_END + 0.2)
    x, foot = scene.place(out, scale)
    _, crown = scene.place(out, scale, scene.uniform(0.45, 0.75))
    thick = 0.02 * scale * scene.width
    trunk = [(x - thick, foot), (x + thick, foot), (x + thick, crown), (x - thick, crown)]
    scene.polygon(trunk, TREE, np.array([0.30, 0.23, 0.16]))
    green = _mixed(scene, (0.18, 0.34, 0.14), (0.32, 0.40, 0.16), (0.42, 0.34, 0.14))
    for _ in range(12):
        dx, dy = scene.rng.normal(0, 0.075, 2) * scale * scene.width
        r = scene.uniform(0.05, 0.1) * scale * scene.width
        scene.ellipse(x + dx, crown + dy, r, r, TREE, green * scene.uniform(0.75, 1.15))


def _person(scene: _Scene, side: float, scale: float) -> None:
    out = side * scene.uniform(ROAD_HALF + 0.06, PAVEMENT_END - 0.04)
    if scene.uniform(0, 1) < 0.2:  # crosses the road
        out = scene.uniform(-0.5, 0.5)
    x, foot = scene.place(out, scale)
    tall = scene.uniform(0.27, 0.34) * scale * scene.height
    cloth, legs = scene.rng.uniform(0.1, 0.75, 3), scene.rng.uniform(0.08, 0.4, 3)
    for dx in (-0.055, 0.055):
        scene.polygon([(x + dx * tall - 0.05 * tall, foot), (x + dx * tall + 0.05 * tall, foot),
                       (x + 0.06 * tall, foot - 0.5 * tall), (x - 0.06 * tall, foot - 0.5 * tall)],
                      PERSON, legs)  # fmt: skip
    scene.ellipse(x, foot - 0.63 * tall, 0.13 * tall, 0.24 * tall, PERSON, cloth)
    skin = np.array([0.72, 0.55, 0.45]) * scene.uniform(0.5, 1.1)
    scene.ellipse(x, foot - 0.92 * tall, 0.075 * tall, 0.09 * tall, PERSON, skin)


def _car(scene: _Scene, side: float, scale: float) -> None:
    """Seen from behind on the right, from the front on the left."""
    x, foot = scene.place(side * scene.uniform(0.18, 0.44), scale)
    wide, tall = 0.15 * scale * scene.width, 0.21 * scale * scene.height
    paint = _mixed(scene, (0.75, 0.10, 0.10), (0.85, 0.85, 0.85), (0.12, 0.18, 0.35))
    dark = np.full(3, 0.07)
    for dx in (-0.8, 0.8):
        scene.ellipse(x + dx * wide, foot - 0.1 * tall, 0.16 * wide, 0.16 * tall, CAR, dark)
    body = [(x - wide, foot - 0.12 * tall), (x + wide, foot - 0.12 * tall),
            (x + wide, foot - 0.6 * tall), (x - wide, foot - 0.6 * tall)]  # fmt: skip
    scene.polygon(body, CAR, paint)
    cabin = [(x - 0.85 * wide, foot - 0.58 * tall), (x + 0.85 * wide, foot - 0.58 * tall),
             (x + 0.62 * wide, foot - tall), (x - 0.62 * wide, foot - tall)]  # fmt: skip
    scene.polygon(cabin, CAR, 0.9 * paint)
    glass = [(x - 0.7 * wide, foot - 0.62 * tall), (x + 0.7 * wide, foot - 0.62 * tall),
             (x + 0.5 * wide, foot - 0.9 * tall), (x - 0.5 * wide, foot - 0.9 * tall)]  # fmt: skip
    scene.polygon(glass, CAR, np.array([0.16, 0.19, 0.22]))
    coming = side < 0
    colour = (1.0, 0.96, 0.85) if coming else (0.9, 0.05, 0.03)
    for dx in (-0.78, 0.78):
        radius = 0.12 * wide if coming else 0.09 * wide
        scene.lamps.append((x + dx * wide, foot - 0.42 * tall, radius, colour))
    if coming:
        scene.pools.append((x, foot + 0.3 * tall, 2.2 * wide, 0.8 * tall, 0.7))


def _texture(scene: _Scene) -> Array:
    """A little roughness everywhere, from a packaged texture, (H, W, 1) around 1."""
    rough = gaussian_filter(load_texture("gravel"), 2, mode="wrap")[::4, ::4]
    y, x = (int(scene.rng.integers(0, side // 4)) for side in rough.shape)
    repeats = (scene.height // rough.shape[0] + 2, scene.width // rough.shape[1] + 2)
    patch = np.tile(rough, repeats)[y : y + scene.height, x : x + scene.width]
    return 1 + 0.06 * ((patch - rough.mean()) / rough.std())[..., None]


def _by_day(scene: _Scene) -> Array:
    albedo = np.asarray(scene.albedo) / 255
    sky = (np.asarray(scene.mask) == SKY)[..., None]
    sun = np.array([1.0, scene.uniform(0.93, 1.0), scene.uniform(0.82, 1.0)]) * scene.uniform(
        0.85, 1.2
    )
    slope = 1 + scene.uniform(-0.25, 0.25) * (np.linspace(-1, 1, scene.width)[None, :, None])
    lit = albedo * sun * slope * np.where(sky, 1.0, _texture(scene))
    return np.where(sky, np.minimum(albedo * 1.15, 1.0), lit)


def _by_night(scene: _Scene, rng: np.random.Generator) -> Array:
    albedo = np.asarray(scene.albedo) / 255
    sky = (np.asarray(scene.mask) == SKY)[..., None]
    ambient = np.array([0.75, 0.85, 1.25]) * float(rng.uniform(0.10, 0.20))
    y, x = np.mgrid[: scene.height, : scene.width]
    light = np.broadcast_to(ambient, albedo.shape).copy()
    for cx, cy, rx, ry, strength in scene.pools:
        pool = np.exp(-(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2))
        light += strength * pool[..., None] * np.array([1.0, 0.8, 0.55])
    shown = albedo * light * _texture(scene)
    murk = np.array([0.9, 0.75, 0.65]) * float(rng.uniform(0.04, 0.10))  # the town's own sky
    rising = (y / max(scene.vanish_y, 1)).clip(0, 1)[..., None]
    shown = np.where(sky, murk * (0.3 + 0.7 * rising), shown)
    shine = np.asarray(scene.glow) / 255 * np.where(sky, 0, 1)
    for cx, cy, radius, colour in scene.lamps:
        disc = (x - cx) ** 2 + (y - cy) ** 2 <= max(radius, 1.0) ** 2
        shine = np.where(disc[..., None], 1.6 * np.array(colour), shine)
    glare = sum(
        weight * gaussian_filter(shine, (sigma * scene.width, sigma * scene.width, 0))
        for weight, sigma in ((0.8, 0.006), (0.7, 0.02), (0.8, 0.07))
    )
    exposure = float(rng.uniform(0.9, 1.4))
    return exposure * (shown + shine + glare)


def _mixed(scene: _Scene, *colours: tuple[float, float, float]) -> Array:
    weights = scene.rng.dirichlet(np.full(len(colours), 0.5))
    return np.asarray(weights @ np.array(colours)) * scene.uniform(0.8, 1.15)


def _rgb(colour: Array) -> tuple[int, int, int]:
    red, green, blue = _to_bytes(np.asarray(colour, np.float64)).tolist()
    return red, green, blue


def _to_bytes(values: Array) -> NDArray[np.uint8]:
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
