"""Part of pipeline ``factory``: augmentation between generator and discriminator.

It is applied as often as the discriminator's overfitting asks.

Each change happens to an image with probability p, to real and generated images alike; while p is
below about 0.8 the generator does not learn to make the changes. Every step can be differentiated
twice with respect to the image, as R1 needs.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (ADA),
section 3 and appendix B: pixel blitting, geometry and colour, the set "bgc" of the paper's
conclusion. Written from the paper.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fewmask.models.stylegan2_ops import upfirdn2d, upsample

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""Low-pass filter of the symlet with 6 vanishing moments (Daubechies 1992), norm 1."""
SUPPORT_PX = len(SYM6) // 4
"""How far the filter reaches, in px of the image."""
MARGIN_PX = 4 * SUPPORT_PX
"""Of mirrored px around an image, so that its border is filtered as its inside is; the last
few are not, for want of what is beyond."""
LAG_PX = (sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6) - (len(SYM6) - 1) / 2) / 2
"""How far the filter displaces an image, which its mirror image undoes later."""
SCALE = 0.2 * math.log(2)
"""Deviation of the logarithm of both scalings."""
SHIFT = 0.125
"""Of the side: range of whole shifts, deviation of fractional ones."""
BRIGHTNESS = 0.2
CONTRAST = 0.5 * math.log(2)
SATURATION = math.log(2)


def augment(image: Tensor, p: float, batch: int | None = None, own: slice = slice(None)) -> Tensor:
    """Change the place and the colour of each image at random; draws from torch's generator.

    Args:
        image: (N, 3, H, W) float, in [-1, 1].
        p: Probability of each change, in [0, 1]; at 0 the images are returned as they are.
        batch: Number of images for which is drawn; default N.
        own: Which of these the N are.

    Returns:
        (N, 3, H, W) float; colours may leave [-1, 1].
    """
    if p <= 0:
        return image
    count, _, height, width = image.shape
    place = draw_place(batch or count, p, height, width)[own].to(image)
    return recolour(move(image, place), draw_colour(batch or count, p)[own].to(image))


def draw_place(count: int, p: float, height: int, width: int) -> Tensor:
    """Where the pixels of each image go: matrices (N, 3, 3) of px from the centre, x to the right.

    Source: Karras et al. 2020, figure 11, pixel blitting and general geometry.
    """
    some_turn = 1 - math.sqrt(1 - p)  # of two turns, so that either happens with p
    at_random = 2 * math.pi * (torch.rand(2, count) - 0.5)
    mirror = _with(p, 1 - 2 * torch.randint(2, (count,)), 1)
    quarters = _with(p, math.pi / 2 * torch.randint(4, (count,)), 0)
    sides = torch.tensor([width, height])
    whole = _with(p, (SHIFT * (2 * torch.rand(2, count) - 1) * sides[:, None]).round(), 0)
    size = _with(p, (SCALE * torch.randn(count)).exp(), 1)
    before = _with(some_turn, at_random[0], 0)
    stretch = _with(p, (SCALE * torch.randn(count)).exp(), 1)
    after = _with(some_turn, at_random[1], 0)
    part = _with(p, SHIFT * torch.randn(2, count) * sides[:, None], 0)
    blitting = shifted(*whole) @ turned(quarters) @ scaled(mirror, torch.ones(count))
    geometry = turned(after) @ scaled(stretch, 1 / stretch) @ turned(before) @ scaled(size, size)
    return shifted(*part) @ geometry @ blitting


def draw_colour(count: int, p: float) -> Tensor:
    """What becomes of the colours of each image: matrices (N, 4, 4) of (r, g, b, 1).

    Source: Karras et al. 2020, figure 11, colour transformations.
    """
    grey = torch.full((3,), 1 / math.sqrt(3))
    of_grey, of_colour = torch.outer(grey, grey), torch.eye(3) - torch.outer(grey, grey)
    cross = torch.linalg.cross(grey.expand(3, 3), torch.eye(3)).T
    brightness = _with(p, BRIGHTNESS * torch.randn(count), 0)
    contrast = _with(p, (CONTRAST * torch.randn(count)).exp(), 1)
    flip = _with(p, 1 - 2 * torch.randint(2, (count,)), 1)
    hue = _with(p, 2 * math.pi * (torch.rand(count) - 0.5), 0)
    saturation = _with(p, (SATURATION * torch.randn(count)).exp(), 1)

    def per_image(x: Tensor) -> Tensor:
        return x[:, None, None]

    turn = per_image(hue.cos()) * of_colour + per_image(hue.sin()) * cross
    linear = per_image(saturation) * turn + per_image(flip) * of_grey
    matrix = torch.eye(4).repeat(count, 1, 1)
    matrix[:, :3, :3] = per_image(contrast) * linear
    matrix[:, :3, 3] = (flip * contrast * brightness)[:, None]
    return matrix


def move(image: Tensor, place: Tensor) -> Tensor:
    """Move pixels; beyond the border the image is mirrored.

    The image is sampled at twice its size between a filter and its mirror image, so that nothing
    is blurred and little aliases.

    Args:
        image: (N, C, H, W) float, sides of 7 px or more.
        place: (N, 3, 3) float, of px from the centre, invertible.

    Source: Karras et al. 2020, appendix B.1.
    Differs: The filter's lag, 0.2 px, does not take part in the movement. What comes from further
        outside is mirrored after the enlargement instead of before, which is much less work.
    """
    height, width = image.shape[-2:]
    back = torch.linalg.inv(place)
    exact: dict[str, Any] = {"dtype": image.dtype, "device": image.device}
    fir = torch.tensor(SYM6, **exact) / math.sqrt(2)
    margin = min(MARGIN_PX, height - 1, width - 1)
    fine = upsample(functional.pad(image, (margin,) * 4, mode="reflect"), fir)
    # The grid's coordinates run from -1 to 1 over the image; a result is a little larger.
    to_grid = torch.tensor([2 / width, 2 / height, 1], **exact)
    reach = [side / 2 + SUPPORT_PX for side in (width, height)]
    lag = shifted(torch.tensor([LAG_PX]), torch.tensor([LAG_PX])).to(**exact)
    back = lag @ back @ lag.inverse()
    matrix = to_grid[:, None] * back * torch.tensor([*reach, 1], **exact)
    shape = [len(image), image.shape[1], *(2 * (side + 2 * SUPPORT_PX) for side in (height, width))]
    grid = functional.affine_grid(matrix[:, :2], shape, align_corners=False)
    sides = torch.tensor([width, height], **exact)
    inside = folded(grid, sides, margin - SUPPORT_PX) * sides / (sides + 2 * margin)
    moved = functional.grid_sample(fine, inside, align_corners=False)
    crop = (len(SYM6) - 1) // 2 - 2 * SUPPORT_PX
    return upfirdn2d(moved, fir.flip(0), down=2, pad=(crop, crop, crop, crop))


def folded(grid: Tensor, sides: Tensor, margin_px: int) -> Tensor:
    """Coordinates beyond a margin around the image are mirrored into it.

    Args:
        grid: (..., 2) float, -1 to 1 over the image.
        sides: (2,) width and height of the image in px; the centres of the outermost are mirrors.
        margin_px: Width of the margin.

    >>> folded(torch.tensor([[0.5, 1.05], [-1.5, 2.5]]), torch.tensor([100.0, 100.0]), 6)
    tensor([[ 0.5000,  1.0500],
            [-0.4800, -0.5200]])
    """
    mirror = 1 - 1 / sides
    mirrored = mirror - ((grid + mirror) % (4 * mirror) - 2 * mirror).abs()
    return torch.where(grid.abs() <= 1 + 2 * margin_px / sides, grid, mirrored)


def recolour(image: Tensor, colour: Tensor) -> Tensor:
    """Colours (N, 3, H, W) through matrices (N, 4, 4) of (r, g, b, 1)."""
    flat = colour[:, :3, :3] @ image.flatten(2) + colour[:, :3, 3:]
    return flat.reshape(image.shape)


def shifted(x: Tensor, y: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that move by x to the right and y down, (N,) px each."""
    matrix = torch.eye(3).repeat(len(x), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def scaled(x: Tensor, y: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that enlarge by the factors x and y, (N,) each."""
    return torch.diag_embed(torch.stack([x.float(), y.float(), torch.ones(len(x))], 1))


def turned(angle: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that turn clockwise by angles (N,) in radians."""
    matrix = torch.eye(3).repeat(len(angle), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0] = angle.sin()
    matrix[:, 0, 1] = -angle.sin()
    return matrix


def _with(p: float, drawn: Tensor, otherwise: float) -> Tensor:
    """Per image (the last axis) what was drawn with probability p, else what changes nothing."""
    happens = torch.rand(drawn.shape[-1]) < p
    return torch.where(happens, drawn.float(), torch.tensor(float(otherwise)))


class AdaptiveProbability:
    """p, raised while the discriminator is surer of its training images than ``target``.

    Args:
        target: Of r_t = E[sign D(real)], in [-1, 1]; published: 0.6.
        kimg: Thousands of real images in which p can rise from 0 to 1; published: 500.
        interval: Batches between two adjustments; published: 4.
    """

    def __init__(self, target: float = 0.6, kimg: float = 500.0, interval: int = 4) -> None:
        self.target, self.kimg, self.interval = target, kimg, interval
        self.p, self.overfitting = 0.0, 0.0
        self._signs, self._seen, self._batches = 0.0, 0, 0

    def observe(self, logits_real: Tensor) -> None:
        """Note the logits (N,) of a batch of real images; at each ``interval``-th p is adjusted."""
        self._signs += float(logits_real.detach().sign().sum())
        self._seen += len(logits_real)
        self._batches += 1
        if self._batches < self.interval:
            return
        self.overfitting = self._signs / self._seen
        step = self._seen / (1000 * self.kimg)
        direction = (self.overfitting > self.target) - (self.overfitting < self.target)
        self.p = min(max(self.p + direction * step, 0.0), 1.0)
        self._signs, self._seen, self._batches = 0.0, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """What a later adjustment depends on."""
        return {
            "p": self.p, "overfitting": self.overfitting,
            "signs": self._signs, "seen": self._seen, "batches": self._batches,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        self.p, self.overfitting = state["p"], state["overfitting"]
        self._signs, self._seen = state["signs"], state["seen"]
        self._batches = state["batches"]
