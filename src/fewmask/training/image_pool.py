"""CycleGAN's history of generated images, from which the judges are fed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewmask.errors import CheckpointError
from fewmask.randomness import generator


class ImagePool:
    """The last images that a generator made, in part; it keeps a judge from forgetting.

    While the pool fills, every image is kept and returned. Then, with probability ½, an image is
    swapped for a random one of the pool, and otherwise returned without being kept.

    Args:
        capacity: Number of images kept, on the CPU; 0 returns every image as it is.

    Source: Zhu et al. 2017, section 4 (Shrivastava et al. 2017, section 2.3).
    """

    def __init__(self, capacity: int = 50) -> None:
        self.capacity = capacity
        self._images: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._images)

    def query(self, images: Tensor, seed: int) -> Tensor:
        """Exchange a batch with the pool, image by image.

        Args:
            images: (N, C, H, W); generated images. They are detached.
            seed: Decides every draw of this query, so that no generator's state need be saved.

        Returns:
            (N, C, H, W) detached, on the images' device; for each image itself or an older one.
        """
        rng = generator("image_pool", seed)
        images = images.detach()
        if self.capacity == 0:
            return images
        return torch.stack([self._exchange(image, *rng.random(2)) for image in images])

    def _exchange(self, image: Tensor, swap: float, place: float) -> Tensor:
        if len(self._images) < self.capacity:
            self._images.append(image.to("cpu", copy=True))
            return image
        if swap < 0.5:
            return image
        index = int(place * self.capacity)
        stored, self._images[index] = self._images[index], image.to("cpu", copy=True)
        return stored.to(image.device)

    def state_dict(self) -> dict[str, Tensor]:
        """The pool's images as one tensor on the CPU, (n, C, H, W); n = 0 when it is empty."""
        return {"images": torch.stack(self._images) if self._images else torch.empty(0)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state_dict` gave.

        Raises:
            CheckpointError: It is not a pool's state, or holds more images than the capacity.
        """
        images = state.get("images")
        if set(state) != {"images"} or images is None or len(images) > self.capacity:
            found = ", ".join(f"{name} {tuple(value.shape)}" for name, value in state.items())
            raise CheckpointError.of(
                "STATE-IMAGE-POOL",
                where="image_pool",
                found=found or "nothing",
                expected=f"'images' with at most {self.capacity} of them",
                fix="resume from another checkpoint of the same run",
            )
        self._images = list(images.to("cpu", copy=True))
