"""Communication of the processes of a distributed run. Outside such a run there is one process, the first."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from stpl.data.clip import IGNORE

T = TypeVar("T")


def to_first(item: T) -> list[T]:
    """Every process's `item`, by rank, in the first process; its own alone in the others."""
    if not _several():
        return [item]
    parts: list[T | None] | None = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
    distributed.gather_object(item, parts)
    return [item] if parts is None else cast(list[T], parts)


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, which alone calls it."""
    if not _several():
        return make()
    made = [make() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(made)
    return cast(T, made[0])


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if _several():
        distributed.barrier()


def is_first() -> bool:
    """Whether this is the first process."""
    return not _several() or distributed.get_rank() == 0


def pixel_weight(labels: Tensor) -> Tensor | float:
    """Number of known pixels in labels `[B,H,W]`, 255 = unknown, relative to its mean over all processes.

    A mean over known pixels times this weighs the pixels of all processes alike. Every process must call it.
    """
    if not _several():
        return 1.0
    here = (labels != IGNORE).sum().float()
    everywhere = here.clone()
    distributed.all_reduce(everywhere)
    return here * distributed.get_world_size() / everywhere.clamp(min=1)


def gather_ranks(local: Tensor) -> Tensor:
    """Tensors `[n,…]` of all ranks, of one shape, as one `[ranks·n,…]`; gradients flow back to where they came from.

    Each rank's loss differs, so a key receives the sum of all ranks' gradients; averaging them, as DDP does with
    parameters, then gives the gradient of the mean loss.
    """
    if not _several():
        return local
    gather: Callable[[Tensor], Tensor] = _Gather.apply
    return gather(local)


class _Gather(torch.autograd.Function):
    """All-gather forward; sum over ranks backward."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        """All ranks' tensors, one after the other."""
        local = local.contiguous()
        parts = [torch.empty_like(local) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, local)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """This rank's share of the gradients that all ranks have for it."""
        total = grad.contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
