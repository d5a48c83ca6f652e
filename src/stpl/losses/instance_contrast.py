"""Contrast of each pixel with itself as an earlier network saw it (Huang et al., HCL, NeurIPS 2021, HCID)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Positives = Literal["instance", "class"]
"""`instance`: the pixel's own place (paper). `class`: every other pixel of its class (released code)."""

_BLOCK = 1024


def instance_contrast(
    queries: Tensor,
    keys: Tensor,
    reliability: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 0.07,
) -> Tensor:
    """Weighted InfoNCE between N pixels now and the same N pixels as seen before; mean over queries.

    With s_ij = q_i·k_j/τ and the weights r_j: -log(e^{s_ii} r_i / Σ_j e^{s_ij} r_j) (paper). With `labels`, as the
    released code: the sum leaves j = i out, positives are all j ≠ i of the query's class, and their terms are summed
    and divided by N.

    Memory is linear in N: similarities are formed block by block, and the gradient along with them.

    Args:
        queries: unit vectors `[N,D]`.
        keys: unit vectors `[N,D]`; they take no gradient.
        reliability: r > 0, `[N]`; no gradient.
        labels: classes `[N]`, for positives of the same class.
        temperature: τ.

    Returns:
        A scalar; 0 where no query has a positive.
    """
    classes = torch.arange(len(queries), device=queries.device) if labels is None else labels
    value: Tensor = _Contrast.apply(  # type: ignore[no-untyped-call]
        queries, keys.detach(), reliability.detach(), classes, labels is None, temperature
    )
    return value


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, reliability: Tensor, classes: Tensor, own: bool, temperature: float
    ) -> Tensor:
        """The mean loss; the gradient of the queries is kept for the backward pass."""
        count, total = len(queries), queries.new_zeros(())
        gradient, places = torch.empty_like(queries), torch.arange(len(queries), device=queries.device)
        weights = reliability.log()
        for start in range(0, count, _BLOCK):
            rows = places[start : start + _BLOCK]
            itself = rows[:, None] == places
            scores = queries[start : start + _BLOCK] @ keys.T / temperature
            logits = scores + weights
            if own:
                positive = itself.to(scores.dtype)
            else:
                positive = ((classes[rows][:, None] == classes) & ~itself).to(scores.dtype) / count
                logits = logits.masked_fill(itself, -torch.inf)
            norm = logits.logsumexp(1, keepdim=True)
            share, mass = (logits - norm).exp(), positive.sum(1, keepdim=True)
            total = total + (norm * mass).sum() - (positive * (scores + weights)).sum()
            gradient[start : start + _BLOCK] = (share * mass - positive) @ keys / (temperature * count)
        ctx.save_for_backward(gradient)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of the queries alone."""
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None, None, None
