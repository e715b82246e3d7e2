"""What all maps have in common: images, the class that is asked for, the scale from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from fewmask.attribution.hooks import describe, eval_mode
from fewmask.errors import NumericalError, UsageError


def class_of_each_image(class_index: int | Tensor | None, logits: Any, image: Tensor) -> Tensor:
    """The class whose score is explained, for each image.

    Args:
        class_index: One for all, or one for each (N,) int64; None is the highest logit's.
        logits: What the network returned: (N, num_outputs), one output or more.
        image: (N, 3, H, W), that it was asked about.

    Returns:
        (N,) int64 on the logits' device.

    Raises:
        UsageError: The network does not return logits, or does not have such a class.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(image):
        raise UsageError.of(
            "CAM-LOGITS",
            where="network",
            found=f"output {describe(logits)}",
            expected=f"logits of the shape ({len(image)}, num_outputs)",
            fix="wrap the network so that it returns its logits alone",
        )
    if class_index is None:
        return logits.argmax(1)
    index = one_for_each(class_index, image).to(logits.device)
    if not bool(((index >= 0) & (index < logits.shape[1])).all()):
        raise _no_class(index, f"integers from 0 to {logits.shape[1] - 1}")
    return index


def one_for_each(class_index: int | Tensor, image: Tensor) -> Tensor:
    """(N,) int64 of one class for all images, or of one for each.

    Raises:
        UsageError: Not an integer, or not as many as there are images.
    """
    index = torch.as_tensor(class_index)
    if index.is_floating_point() or (index.ndim and index.shape != (len(image),)):
        raise _no_class(index, f"one integer, or {len(image)}")
    return index.long().expand(len(image))


def class_called(asked: str, names: Sequence[str], where: str) -> int:
    """The number of a class that is asked for by its name, or by its number.

    Raises:
        UsageError: There is no such class; the nearest names are given.

    >>> class_called("dog", ["cat", "dog"], "--class"), class_called("0", ["cat", "dog"], "--class")
    (1, 0)
    """
    if asked in names:
        return list(names).index(asked)
    if asked.isdecimal() and int(asked) < len(names):
        return int(asked)
    close = get_close_matches(asked, names, n=3, cutoff=0.4)
    raise UsageError.of(
        "CLASS-UNKNOWN",
        where=where,
        found=repr(asked),
        expected=f"a class's name, or its number from 0 to {len(names) - 1}",
        fix="use " + " or ".join(map(repr, close or names[:2])),
    )


def _no_class(index: Tensor, expected: str) -> UsageError:
    return UsageError.of(
        "CAM-CLASS",
        where="class_index",
        found=index.tolist(),
        expected=expected,
        fix="count the classes as the classifier's outputs are counted",
    )


def min_max(cam: Tensor) -> Tensor:
    """(N, H, W) to [0, 1], image by image; a map that is constant up to rounding gives zeros."""
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
    varies = high - low > 8 * torch.finfo(cam.dtype).eps * high
    return torch.where(varies, (cam - low) / torch.where(varies, high - low, 1), 0)


def require_finite(what: str, values: Tensor) -> Tensor:
    """The values as they are.

    Raises:
        NumericalError: One is NaN or infinite.
    """
    if not bool(values.isfinite().all()):
        raise NumericalError.of(
            "CAM-NOT-FINITE",
            where=what,
            found="NaN or infinity",
            expected="finite numbers",
            fix="check the image's values and the classifier's weights; try float32",
        )
    return values


def require_images(image: Tensor) -> None:
    """Refuse what is no batch of images.

    Raises:
        UsageError: It is not (N, 3, H, W) with N of 1 or more.
    """
    if image.ndim != 4 or not len(image):
        raise UsageError.of(
            "CAM-IMAGE",
            where="image",
            found=f"the shape {tuple(image.shape)}",
            expected="(N, 3, H, W) with N of 1 or more",
            fix="stack the images into one batch",
        )


def require_size(
    network: nn.Module, size: tuple[int, int], where: str, fix: str, device: torch.device | None
) -> None:
    """Run a network once on a black image of a height and width in px.

    Raises:
        UsageError: It fails: some take one size only, or none so small.
    """
    try:
        with torch.no_grad(), eval_mode(network):
            network(torch.zeros(1, 3, *size, device=device))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError.of(
            "IMAGE-SIZE",
            where=where,
            found=f"{size[0]} x {size[1]} px, at which the network fails: {reason}",
            expected="a height and a width that the network takes",
            fix=fix,
        ) from None


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of the choices, by a UsageError that names the nearest."""
    if value not in choices:
        raise UsageError.of(
            "CAM-SETTING",
            where=name,
            found=repr(value),
            expected=f"one of {', '.join(choices)}",
            fix=f"use {(get_close_matches(value, choices, n=1) or choices)[0]!r}",
        )


def require_count(name: str, value: int) -> None:
    """Refuse a number below 1, by a UsageError."""
    if value < 1:
        raise UsageError.of(
            "CAM-SETTING", where=name, found=value, expected="1 or more", fix="use the default"
        )
