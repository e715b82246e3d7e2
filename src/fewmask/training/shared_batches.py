"""One batch on several processes: the same numbers as on one, but for the order of sums.

Each process loads its own images of a batch and passes them through the network. The logits of all
are put together, so that every process computes the loss of the whole batch, whatever loss that is,
and sends back the gradient of its own logits. The sum of what arrives at the weights is the
gradient that one process would have.

Some layers look beyond an image. Batch normalisation takes mean and variance over the images of all
processes, StyleGAN2's discriminator its deviation. What is drawn at random, as dropout does, is
drawn for the whole batch, from the same seed everywhere, and each process keeps its own part. All
this is done by overriding functions while the network is called, so that no layer is replaced.
Stochastic depth, which no network of ours has, would draw the same for each process's images.

Source: batch normalisation over devices, Peng et al. 2018 (MegDet), section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fewmask.models.stylegan2 import minibatch_deviation
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
            each is shared out. Without any there is no batch.
        least: The fewest images that are ever to be shared out; default those of a part.
    """

    def __init__(self, parts: Sequence[int] = (), least: int | None = None) -> None:
        self.parts = parts
        fewest = min(parts, default=0) if least is None else least
        alone = fewest < processes()
        self.number, self.count = (0, 1) if alone else (rank(), processes())

    def mine(self, size: int) -> slice:
        """Which of ``size`` rows are this process's."""
        rows = share(range(size), self.number, self.count)
        return slice(rows[0], rows[-1] + 1)

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
        return self._gather(own, size, apart=False)

    def _gather(self, own: Tensor, size: int, *, apart: bool) -> Tensor:
        mine = self.mine(size)
        around = (mine.start, size - mine.stop)
        return _Sum.apply(functional.pad(own, (0, 0) * (own.dim() - 1) + around), apart)

    def logits(self, network: Callable[[Tensor], Tensor], own: Tensor, size: int) -> Tensor:
        """The logits of all ``size`` images of a part, from this process's images."""
        if self.count == 1:
            return network(own)
        with self.together(size):
            logits = network(own)
        return self.gather(logits, size)

    def together(self, size: int) -> AbstractContextManager[Any]:
        """Within the block networks treat this process's images as part of so many."""
        return nullcontext() if self.count == 1 else _WholeBatch(self, size)

    def network(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """A network that takes a whole batch, the same in every process, and shares it out."""
        if self.count == 1:
            return network

        def shared(image: Tensor) -> Tensor:
            if len(image) < self.count:  # each for itself, with its part of the same gradient
                logits, part = network(image), 1 / self.count
                return part * logits + (1 - part) * logits.detach()
            return self.logits(network, image[self.mine(len(image))], len(image))

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
        return (_Sum.apply(gradient, True) if ctx.apart else gradient), None


class _WholeBatch(TorchFunctionMode):
    """Within the block, layers that look beyond an image look at the images of all processes.

    Args:
        team: The processes.
        size: Images of the whole part.
    """

    def __init__(self, team: Team, size: int) -> None:
        super().__init__()
        self.team, self.size = team, size
        self.mine = team.mine(size)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        if func in DROPOUTS:
            return self._dropout(func, *args, **(kwargs or {}))
        if func is torch.randn:
            rows, *others = args
            return self._own_rows(func(self._all_rows(rows), *others, **(kwargs or {})))
        if func is torch.randn_like:
            return self._own_rows(func(self._like_whole(*args), **(kwargs or {})))
        if func is minibatch_deviation:
            x, *others = args
            x = self.team._gather(x, self.size, apart=True)
            return func(x, *others, **(kwargs or {}))[self.mine]
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
        return x * self._own_rows(func(self._like_whole(x).fill_(1), p, training))

    def _like_whole(self, x: Tensor) -> Tensor:
        """An empty tensor as ``x`` is, for all images; each may have several rows."""
        whole = x.new_empty((self._all_rows(len(x)), *x.shape[1:]))
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        return whole

    def _all_rows(self, own: int) -> int:
        return own * self.size // (self.mine.stop - self.mine.start)

    def _own_rows(self, whole: Tensor) -> Tensor:
        each = len(whole) // self.size
        return whole[self.mine.start * each : self.mine.stop * each]
