"""One batch on several processes: the same numbers as on one, but for the order of sums.

Each process loads its own images of a batch and passes them through the network. The logits of all
are put together, so that every process computes the loss of the whole batch, whatever loss that is,
and sends back the gradient of its own logits. The sum of what arrives at the weights is the
gradient that one process would have.

Two kinds of layers look beyond an image. Batch normalisation takes mean and variance over the
images of all processes. Dropout draws for the whole batch, from the same seed everywhere, and each
process keeps its own part. Both are done by overriding torch's functions while the network is
called, so that no layer is replaced. What else draws at random in a forward pass (stochastic
depth; no network of ours has it) would draw the same for each process's images.

Source: batch normalisation over devices, Peng et al. 2018 (MegDet), section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fewmask.training.distributed import add_up, processes, rank

Item = TypeVar("Item")
DROPOUTS = {functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d}


def share(items: Sequence[Item], number: int, count: int) -> Sequence[Item]:
    """What falls to one of ``count`` processes: consecutive, and as even as can be.

    >>> [share("abcdefg", number, 3) for number in range(3)]
    ['ab', 'cd', 'efg']
    """
    return items[len(items) * number // count : len(items) * (number + 1) // count]


class Team:
    """The processes that share the batches of a training.

    Of one process it does nothing: each method gives back what it gets. It is so too where a part
    has fewer images than there are processes: then each process trains on all of them.

    Args:
        parts: Sizes of the parts in which a batch goes through the network, one after the other;
            each is shared out.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        self.parts = parts
        alone = min(parts) < processes()
        self.number, self.count = (0, 1) if alone else (rank(), processes())

    def own(self, batch: Sequence[Item]) -> list[Item]:
        """This process's items of a batch."""
        ends = [sum(self.parts[: n + 1]) for n in range(len(self.parts))]
        parts = [batch[end - size : end] for end, size in zip(ends, self.parts, strict=True)]
        return [item for part in parts for item in share(part, self.number, self.count)]

    def split(self, own: Tensor) -> list[Tensor]:
        """This process's part of a batch, as :meth:`own` orders it, by the parts of the batch."""
        sizes = [len(share(range(size), self.number, self.count)) for size in self.parts]
        return list(own.split(sizes))

    def whole(self, own: Tensor) -> Tensor:
        """The whole batch of every process's part."""
        if self.count == 1:
            return own
        parts = zip(self.split(own), self.parts, strict=True)
        return torch.cat([self.gather(part, size) for part, size in parts])

    def gather(self, own: Tensor, size: int) -> Tensor:
        """All ``size`` rows of a part, from this process's; its gradient is that of its own rows.

        One sum of zero-padded tensors: not all backends gather rows of different number.
        """
        if self.count == 1:
            return own
        mine = share(range(size), self.number, self.count)
        around = (mine[0], size - 1 - mine[-1])
        padded = functional.pad(own, (0, 0) * (own.dim() - 1) + around)
        return _Sum.apply(padded, False)

    def logits(self, network: Callable[[Tensor], Tensor], own: Tensor, size: int) -> Tensor:
        """The logits of all ``size`` images of a part, from this process's images."""
        if self.count == 1:
            return network(own)
        with _WholeBatch(self, size, len(own)):
            logits = network(own)
        return self.gather(logits, size)

    def network(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """A network that takes a whole batch, the same in every process, and shares it out."""
        if self.count == 1:
            return network

        def shared(image: Tensor) -> Tensor:
            if len(image) < self.count:  # each for itself, with its part of the same gradient
                logits, part = network(image), 1 / self.count
                return part * logits + (1 - part) * logits.detach()
            mine = share(range(len(image)), self.number, self.count)
            return self.logits(network, image[mine[0] : mine[-1] + 1], len(image))

        return shared

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum of every process's gradients in their place, by one exchange."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        flat = add_up(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(summed.view(gradient.shape))


class _Sum(torch.autograd.Function):
    """The sum of every process's tensor.

    With ``apart``, each process goes on from the sum to an output of its own, so the gradient is
    the sum of theirs. Without, all go on alike to one and the same loss, so each has it already.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, apart: bool) -> Tensor:
        ctx.apart = apart
        return add_up(tensor.contiguous().clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (add_up(gradient.contiguous().clone()) if ctx.apart else gradient), None


class _WholeBatch(TorchFunctionMode):
    """Within the block, layers that look beyond an image look at the images of all processes.

    Args:
        team: The processes.
        size: Images of the whole part.
        own: Those of this process.
    """

    def __init__(self, team: Team, size: int, own: int) -> None:
        super().__init__()
        self.team, self.size, self.own = team, size, own

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        if func in DROPOUTS:
            return self._dropout(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Torch's ``batch_norm`` with mean and variance over all processes."""
        if not training:
            return functional.batch_norm(
                x, running_mean, running_var, weight, bias, training, momentum, eps
            )
        variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        pixels = torch.full_like(mean, x.numel() / x.shape[1])
        after = self.team.count - 1 - self.team.number
        mine = torch.stack([pixels, mean, variance])[None]  # (1, 3, C)
        n, means, variances = _Sum.apply(
            functional.pad(mine, (0, 0, 0, 0, self.team.number, after)), True
        ).unbind(1)  # each (processes, C)
        total = n.sum(0)
        mean = (n * means).sum(0) / total
        variance = (n * (variances + (means - mean) ** 2)).sum(0) / total
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean, momentum)
                running_var.lerp_(variance * total / (total - 1), momentum)
        scale = torch.rsqrt(variance + eps)
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(shape), x, scale.view(shape))

    def _dropout(
        self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """This process's part of what ``func`` drops of the whole batch."""
        if not training or p == 0:
            return func(x, p, training, inplace)
        rows = len(x) // self.own  # of each image
        whole = x.new_ones((self.size * rows, *x.shape[1:]))
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        images = share(range(self.size), self.team.number, self.team.count)
        kept = func(whole, p, training)
        return x * kept[images[0] * rows : (images[-1] + 1) * rows]
