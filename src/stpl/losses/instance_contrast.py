"""Contrast of each pixel with itself as an earlier network saw it (Huang et al., HCL, NeurIPS 2021, HCID)."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from stpl.losses.pixel_contrast import value_with_gradient
from stpl.losses.pixel_sets import check_temperature

PositiveKind = Literal["instance", "class"]
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
    """Weighted InfoNCE between N pixels now and the same N pixels of an earlier network; mean over queries.

    With s_ij = q_i·k_j/τ and the weights r_j: -log(e^{s_ii} r_i / Σ_j e^{s_ij} r_j) (paper). With `labels`, as the
    released code: the sum leaves j = i out, positives are all j ≠ i of the query's class, and their terms are summed
    and divided by N.

    It is 0 where no query has a positive. Memory is linear in N: similarities are formed block by block, and the
    gradient along with them.

    Args:
        queries: unit vectors `[N,D]`.
        keys: unit vectors `[N,D]`; they take no gradient.
        reliability: r > 0, `[N]`; no gradient.
        labels: classes `[N]`, for positives of the same class.
        temperature: τ > 0.

    Raises:
        ValueError: for shapes that do not fit, or another temperature.

    Examples:
        >>> z = torch.eye(2)
        >>> round(instance_contrast(z, z, torch.ones(2), temperature=1.0).item(), 4)  # log(1 + 1/e)
        0.3133
    """
    check_temperature(temperature)
    count = queries.shape[:1]
    if queries.ndim != 2 or keys.shape != queries.shape or reliability.shape != count:
        shapes = ", ".join(str(list(x.shape)) for x in (queries, keys, reliability))
        raise ValueError(f"queries, keys, reliability of shapes {shapes} do not fit: give [N,D], [N,D], [N]")
    if labels is not None and labels.shape != count:
        raise ValueError(f"labels {list(labels.shape)} are not those of {len(queries)} pixels: give [N]")
    compute = partial(_blockwise, keys.detach(), reliability.detach(), labels, temperature)
    return value_with_gradient(compute, queries)


def _blockwise(
    keys: Tensor, reliability: Tensor, labels: Tensor | None, temperature: float, queries: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean loss and its gradient by `queries`."""
    count, total = len(queries), queries.new_zeros(())
    gradient, places = torch.empty_like(queries), torch.arange(len(queries), device=queries.device)
    weights = reliability.log()
    for start in range(0, count, _BLOCK):
        rows = places[start : start + _BLOCK]
        itself = rows[:, None] == places
        scores = queries[start : start + _BLOCK] @ keys.T / temperature
        logits = scores + weights
        if labels is None:
            positive = itself.to(scores.dtype)
        else:
            positive = ((labels[rows][:, None] == labels) & ~itself).to(scores.dtype) / count
            logits = logits.masked_fill(itself, -torch.inf)
        norm = logits.logsumexp(1, keepdim=True)
        share, mass = (logits - norm).exp(), positive.sum(1, keepdim=True)
        total = total + (norm * mass).sum() - (positive * (scores + weights)).sum()
        gradient[start : start + _BLOCK] = (share * mass - positive) @ keys / (temperature * count)
    return total / count, gradient
