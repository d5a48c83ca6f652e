"""Pixel-to-pixel contrast with many positives: Eq. 3 and 4 of STPL, and its two relatives.

For a query q with class y let P be the keys of class y, N all other keys, s_k = q·k/τ:

* `negatives` (STPL, Eq. 3, the default):   L_q = -1/|P| Σ_P log( exp s_p / Σ_N exp s_n )
* `supcon` (Khosla et al., NeurIPS 2020):    L_q = -1/|P| Σ_P log( exp s_p / Σ_{P∪N} exp s_k )
* `positive+negatives` (ContrastiveSeg, Wang et al., ICCV 2021):
                                             L_q = -1/|P| Σ_P log( exp s_p / (exp s_p + Σ_N exp s_n) )

The loss is the mean over queries (Eq. 4). A query without positives or without negatives is skipped.

How it is computed. Queries and keys are sorted by class, so the sets P and N are slices and no mask is built. The first
two forms need the positives only through their mean μ, because 1/|P| Σ_P s_p = q·μ/τ. Rows are processed in blocks; a
block's similarities are used for the value *and* for the gradients, then dropped: memory is linear in the number of
pixels, and a backward pass costs nothing more than a multiplication by the incoming gradient. Everything is computed in
float32 or wider, whatever autocast says: exp(1/0.07) does not fit half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Denominator = Literal["negatives", "supcon", "positive+negatives"]
_BLOCK_ROWS = 512  # rows of similarities alive at a time: 12 MB at 5,869 keys in float32


def pixel_contrast(
    queries: Tensor,
    keys: Tensor,
    query_labels: Tensor,
    key_labels: Tensor,
    *,
    temperature: float = 0.07,
    denominator: Denominator = "negatives",
) -> Tensor:
    """Contrast every query pixel with every key pixel (STPL, Eq. 3 and 4).

    Args:
        queries: unit vectors `[N,D]`.
        keys: unit vectors `[M,D]`.
        query_labels: class of each query, integer `[N]`.
        key_labels: class of each key, integer `[M]`.
        temperature: τ > 0.
        denominator: which keys stand under the fraction, see the module's docstring.

    Returns:
        Scalar, float32 (float64 for float64 inputs): the mean over queries that have a positive and a negative; 0,
        with zero gradients, if there is none. With `negatives` the value may be below zero.

    Raises:
        ValueError: for a temperature ≤ 0, an unknown denominator, or shapes that do not fit.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if denominator not in _ROWS:
        raise ValueError(f"unknown denominator '{denominator}', choose one of: {', '.join(_ROWS)}")
    if queries.shape[1:] != keys.shape[1:] or len(queries) != len(query_labels) or len(keys) != len(key_labels):
        shapes = [tuple(t.shape) for t in (queries, keys, query_labels, key_labels)]
        raise ValueError(f"queries, keys, query_labels, key_labels of shapes {shapes} do not fit")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        loss: Tensor = _PixelContrast.apply(  # type: ignore[no-untyped-call]
            queries.to(dtype), keys.to(dtype), query_labels, key_labels, 1.0 / temperature, denominator
        )
    return loss


class _PixelContrast(torch.autograd.Function):
    """Value and gradients in one pass; the gradients wait for the incoming one in O((N+M)·D) memory."""

    @staticmethod
    def forward(
        ctx: Any,  # torch passes its own context object
        queries: Tensor,
        keys: Tensor,
        query_labels: Tensor,
        key_labels: Tensor,
        scale: float,
        denominator: Denominator,
    ) -> Tensor:
        """The loss; keeps the gradients of `queries` `[N,D]` and `keys` `[M,D]` for an incoming gradient of 1."""
        query_order, key_order = query_labels.argsort(stable=True), key_labels.argsort(stable=True)
        queries, keys = queries[query_order] * scale, keys[key_order]
        total, used = queries.new_zeros(()), 0
        grad_queries, grad_keys = torch.zeros_like(queries), torch.zeros_like(keys)
        for group in _groups(query_labels[query_order], key_labels[key_order]):
            positives = slice(group.key_start, group.key_stop)
            negatives = torch.cat([keys[: group.key_start], keys[group.key_stop :]])
            grad_positives, grad_negatives = torch.zeros_like(keys[positives]), torch.zeros_like(negatives)
            for start in range(group.query_start, group.query_stop, _BLOCK_ROWS):
                rows = slice(start, min(start + _BLOCK_ROWS, group.query_stop))
                total += _ROWS[denominator](
                    queries[rows], keys[positives], negatives, grad_queries[rows], grad_positives, grad_negatives
                )
            grad_keys[positives] += grad_positives
            grad_keys[: group.key_start] += grad_negatives[: group.key_start]
            grad_keys[group.key_stop :] += grad_negatives[group.key_start :]
            used += group.query_stop - group.query_start
        count = max(used, 1)
        ctx.save_for_backward(
            torch.empty_like(grad_queries).index_copy_(0, query_order, grad_queries * (scale / count)),
            torch.empty_like(grad_keys).index_copy_(0, key_order, grad_keys / count),
        )
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Those gradients times the incoming one, a scalar."""
        grad_queries, grad_keys = ctx.saved_tensors
        return grad * grad_queries, grad * grad_keys, None, None, None, None


class _Group(NamedTuple):
    """One class: its queries and its keys as ranges of the sorted order."""

    query_start: int
    query_stop: int
    key_start: int
    key_stop: int


def _groups(query_labels: Tensor, key_labels: Tensor) -> Iterator[_Group]:
    """Classes that have queries, positives and negatives, as ranges of the sorted labels (one read-back)."""
    classes = torch.unique_consecutive(query_labels)
    sides = (False, True)
    bounds = [torch.searchsorted(x, classes, right=side) for x in (query_labels, key_labels) for side in sides]
    for row in torch.stack(bounds, dim=1).tolist():
        group = _Group(*row)
        if 0 < group.key_stop - group.key_start < len(key_labels):
            yield group


def _fraction(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    grad_queries: Tensor,
    grad_positives: Tensor,
    grad_negatives: Tensor,
    *,
    with_positives: bool,
) -> Tensor:
    """Sum of L_q over a block of one class, gradients added in place; the denominator sums exp over N, or over P∪N."""
    mean = positives.mean(0)
    similarities = queries @ negatives.T
    if with_positives:
        similarities = torch.cat([queries @ positives.T, similarities], dim=1)
    log_sum = similarities.logsumexp(1, keepdim=True)
    weights = similarities.sub_(log_sum).exp_()
    grad_positives -= queries.sum(0) / len(positives)
    if with_positives:
        grad_queries += weights[:, : len(positives)] @ positives
        grad_positives += weights[:, : len(positives)].T @ queries
        weights = weights[:, len(positives) :]
    grad_queries += weights @ negatives - mean
    grad_negatives += weights.T @ queries
    return log_sum.sum() - (queries @ mean).sum()


def _negatives(*block: Tensor) -> Tensor:
    return _fraction(*block, with_positives=False)


def _supcon(*block: Tensor) -> Tensor:
    return _fraction(*block, with_positives=True)


def _positive_and_negatives(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    grad_queries: Tensor,
    grad_positives: Tensor,
    grad_negatives: Tensor,
) -> Tensor:
    """As `_fraction` for a denominator that holds one positive at a time: L_q = 1/|P| Σ_P softplus(log Σ_N - s_p)."""
    similarities = queries @ negatives.T
    log_sum = similarities.logsumexp(1, keepdim=True)
    margin = log_sum - queries @ positives.T
    pull = margin.sigmoid() / len(positives)
    push = similarities.sub_(log_sum).exp_() * pull.sum(1, keepdim=True)
    grad_queries += push @ negatives - pull @ positives
    grad_negatives += push.T @ queries
    grad_positives -= pull.T @ queries
    return F.softplus(margin).mean(1).sum()


_ROWS: dict[str, Callable[..., Tensor]] = {
    "negatives": _negatives,
    "supcon": _supcon,
    "positive+negatives": _positive_and_negatives,
}
