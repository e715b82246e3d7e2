"""Ranges and augmentation: what an image goes through between the disk and a network.

Every random draw is seeded by the caller's names (see :mod:`fewmask.randomness`), so a sample's
augmentation is a function of (seed, epoch, index) and of nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fewmask import torchvision_compat
from fewmask.randomness import seeded

torchvision_compat.ensure()

from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an (H, W, 3) uint8 image with an antialiased bilinear filter."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an (H, W) uint8 id map without inventing ids (the nearest pixel's centre)."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def to_unit(image: np.ndarray) -> Tensor:
    """(N, H, W, 3) or (H, W, 3) uint8 to (…, 3, H, W) float32 in [0, 1]."""
    tensor = torch.from_numpy(np.array(image))
    return tensor.movedim(-1, -3).to(torch.float32).div_(255)


def to_signed(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1], the range of the translation networks."""
    return image * 2 - 1


def to_bytes(image: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] to (N, H, W, 3) uint8, rounded and clipped."""
    return image.clamp(0, 1).mul(255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


@dataclass(frozen=True)
class Augmentation:
    """How far an image and its mask are changed together; every field at 0 means not at all.

    Attributes:
        flips: Mirror images and quarter turns, each with probability 1/2 (for views from above).
        mirror: Only the left-right mirror image (for views from the ground).
        zoom: Largest relative change of scale; 0.3 draws from 0.7 to 1.3.
        rotation_degrees: Largest rotation; what comes from outside is a reflection, in the mask
            too.
        colour: Strength of the changes of brightness, contrast and saturation, as a fraction.
        resample: Probability of shrinking to 0.3 to 1 of the size and enlarging again, against
            networks that tell classes by sharpness.
        colours: The image's channels before its maps.
    """

    flips: bool = False
    mirror: bool = False
    zoom: float = 0.0
    rotation_degrees: float = 0.0
    colour: float = 0.0
    resample: float = 0.0
    colours: int = 3

    def __call__(
        self, image: Tensor, mask: Tensor | None, *names: int | str
    ) -> tuple[Tensor, Tensor | None]:
        """Augment one image and its mask under ``derive_seed(*names)``.

        Args:
            image: (C, H, W) float32 in [0, 1]. Channels beyond ``colours`` are maps of the image:
                they move with it, and keep their values where it changes colour or is resampled.
            mask: (H, W) uint8 or int64 with 255 = ignore, or None.
            *names: Seed, epoch, index and the like.

        Returns:
            Image in [0, 1] and mask of the same sizes; the mask holds no new value.
        """
        parts = [tv_tensors.Image(image[: self.colours])] if self.colours else []
        parts += [_Map(image[self.colours :])] if len(image) > self.colours else []
        parts += [] if mask is None else [tv_tensors.Mask(mask[None])]
        with seeded(*names):
            moved = [part.as_subclass(Tensor) for part in self._transform()(parts)]
        changed = None if mask is None else moved.pop()[0]
        return torch.cat(moved).clamp(0, 1), changed

    def _transform(self) -> v2.Transform:
        steps: list[v2.Transform] = []
        if self.flips or self.mirror:
            steps.append(v2.RandomHorizontalFlip())
        if self.flips:
            steps.append(v2.RandomVerticalFlip())
            steps.append(_QuarterTurn())
        if self.zoom or self.rotation_degrees:
            steps.append(_Affine(self.zoom, self.rotation_degrees))
        if self.colour:
            steps.append(v2.ColorJitter(self.colour, self.colour, self.colour))
        if self.resample:
            steps.append(v2.RandomApply([_Resample()], p=self.resample))
        return v2.Compose([*steps, v2.Identity()])


class _Map(tv_tensors.Mask):
    """Values by place, in [0, 1]: moved like a mask, but between pixels as an image is."""


class _QuarterTurn(v2.Transform):
    """A quarter turn with probability 1/2: exact for images and masks alike."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, bool]:  # noqa: ARG002
        return {"turn": bool(torch.rand(()) < 0.5)}

    def transform(self, inpt: Tensor, params: dict[str, bool]) -> Tensor:
        if not params["turn"]:
            return inpt
        return tv_tensors.wrap(torch.rot90(inpt.as_subclass(Tensor), 1, (-2, -1)), like=inpt)


class _Affine(v2.Transform):
    """Rotation, zoom and a shift of up to 10 %, image and mask alike, edges reflected.

    (v2.RandomAffine fills with a constant, which at large angles is a third of the image.)
    """

    def __init__(self, zoom: float, rotation_degrees: float) -> None:
        super().__init__()
        self.zoom, self.rotation_degrees = zoom, rotation_degrees

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        turn, scale, right, down = torch.empty(4).uniform_(-1, 1).tolist()
        angle = math.radians(turn * self.rotation_degrees)
        size = 1 / (1 + scale * self.zoom)
        cosine, sine = size * math.cos(angle), size * math.sin(angle)
        rows = [[cosine, -sine, 0.1 * right], [sine, cosine, 0.1 * down]]
        return {"theta": torch.tensor(rows)[None]}

    def transform(self, inpt: Tensor, params: dict[str, Tensor]) -> Tensor:
        ids = isinstance(inpt, tv_tensors.Mask) and not isinstance(inpt, _Map)
        mode = "nearest" if ids else "bilinear"
        pixels = inpt.as_subclass(Tensor)[None].to(torch.float32)
        grid = functional.affine_grid(params["theta"], list(pixels.shape), align_corners=False)
        moved = functional.grid_sample(
            pixels, grid, mode=mode, padding_mode="reflection", align_corners=False
        )
        return tv_tensors.wrap(moved[0].to(inpt.dtype), like=inpt)


class _Resample(v2.Transform):
    """Shrink an image to 0.3 to 1 of its size and enlarge it again: a coarser sensor."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, float]:  # noqa: ARG002
        return {"scale": float(torch.empty(()).uniform_(0.3, 1.0))}

    def transform(self, inpt: Tensor, params: dict[str, float]) -> Tensor:
        if isinstance(inpt, tv_tensors.Mask):
            return inpt
        height, width = inpt.shape[-2:]
        small = [max(1, round(side * params["scale"])) for side in (height, width)]
        shrunk = v2.functional.resize(inpt, small, antialias=True)
        return v2.functional.resize(shrunk, [height, width], antialias=True)
