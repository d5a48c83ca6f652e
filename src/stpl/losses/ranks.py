"""Keys of all ranks: what distributed training lets a query meet beyond its own process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def gather_ranks(local: Tensor) -> Tensor:
    """Concatenate a tensor of all ranks along its first axis; gradients flow back to the rank they came from.

    Each rank's loss differs, so a key receives the sum of all ranks' gradients; averaging them, as DDP does with
    parameters, then gives the gradient of the mean loss.

    Args:
        local: `[n,…]`, of the same shape on every rank; integers are gathered too, without gradient.

    Returns:
        `[ranks·n,…]`, rank 0 first; `local` itself outside distributed training.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather forward; sum over ranks backward."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        """All ranks' tensors, one after the other."""
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(_world())]
        distributed.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """This rank's share of the gradients that all ranks have for it."""
        total = grad.contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(_world())[distributed.get_rank()]


def _world() -> int:
    return int(distributed.get_world_size())
