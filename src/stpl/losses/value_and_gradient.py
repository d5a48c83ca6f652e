"""Losses whose gradient is computed along with their value, block by block, where autograd would keep every block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def value_with_gradient(compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Tensor:
    """The scalar that `compute` returns first, with the gradients by `inputs` that it returns after it."""
    apply: Callable[..., Tensor] = _Computed.apply
    return apply(compute, *inputs)


class _Computed(torch.autograd.Function):
    """Keeps the gradients for an incoming gradient of 1 until that comes."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Tensor:
        """The value."""
        value, *gradients = compute(*inputs)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the incoming one, a scalar."""
        return None, *(grad * gradient for gradient in ctx.saved_tensors)
