"""The contrast on any device, without reading a value back to Python: the sets are masks made block by block.

Also what the Triton engine shares with it: the positives' part, through class sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import IGNORE

_BLOCK_ELEMENTS = 2**22  # similarities alive at a time: 16 MB in float32


def contrast(
    queries: Tensor, keys: Tensor, query_labels: Tensor, key_labels: Tensor, scale: float, denominator: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients; see `stpl.losses.pixel_contrast_sorted.contrast` for arguments and result."""
    queries = queries * scale
    side = Positives.of(queries, keys, query_labels, key_labels)
    rows_of = _one_positive if denominator == "positive+negatives" else _fraction
    total = queries.new_zeros(())
    grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
    step = max(1, _BLOCK_ELEMENTS // max(1, len(keys)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        same = query_labels[rows, None] == key_labels
        counted = (key_labels != IGNORE).expand_as(same)
        others = counted if denominator == "supcon" else counted & ~same
        total += rows_of(queries[rows], keys, same & counted, others, side.rows(rows), grad_queries[rows], grad_keys)
    if denominator != "positive+negatives":
        grad_keys -= side.pull_on_keys(queries, query_labels, key_labels)
    return total / side.queries, grad_queries * (scale / side.queries), grad_keys / side.queries


class Positives(NamedTuple):
    """What each query has as positives; no mask of N×M and no read-back is needed for it.

    Attributes:
        mean: mean μ of its positives `[N,D]`; 0 where there are none.
        number: |P| `[N,1]`, at least 1.
        used: 1 for queries with a positive and a negative, else 0 `[N,1]`.
        queries: number of used queries, at least 1, a scalar tensor.
    """

    mean: Tensor
    number: Tensor
    used: Tensor
    queries: Tensor

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, query_labels: Tensor, key_labels: Tensor) -> Positives:
        """From `[N,D]`, `[M,D]` and labels `[N]`, `[M]`, through sums over each class of keys."""
        members = _members(key_labels, keys.dtype)
        numbers = members.sum(0)[query_labels.long(), None]
        mean = (members.T @ keys)[query_labels.long()] / numbers.clamp(min=1)
        used = ((numbers > 0) & (numbers < members.sum())).to(queries.dtype)
        return cls(mean, numbers.clamp(min=1), used, used.sum().clamp(min=1))

    def rows(self, rows: slice) -> Positives:
        """The same for a range of queries."""
        return Positives(self.mean[rows], self.number[rows], self.used[rows], self.queries)

    def pull_on_keys(self, queries: Tensor, query_labels: Tensor, key_labels: Tensor) -> Tensor:
        """Σ q/|P| over the used queries of each key's class `[M,D]`; 0 for keys that take no part."""
        pulls = _members(query_labels, queries.dtype).T @ (queries * (self.used / self.number))
        return pulls[key_labels.long()]


def _members(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """One-hot labels `[N,256]`; the column of `IGNORE` is empty. `F.one_hot` would read the labels' range back."""
    classes = torch.arange(IGNORE + 1, device=labels.device)
    return ((labels[:, None] == classes) & (classes != IGNORE)).to(dtype)


def _softmax(similarities: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the keys `others` (0 elsewhere) and log Σ exp `[R,1]`; finite for a row without any."""
    similarities = similarities.masked_fill(~others, float("-inf"))
    top = similarities.amax(1, keepdim=True).clamp(min=torch.finfo(similarities.dtype).min)
    powers = similarities.sub_(top).exp_()
    sums = powers.sum(1, keepdim=True).clamp(min=torch.finfo(similarities.dtype).tiny)
    return powers.div_(sums), top + sums.log()


def _fraction(
    queries: Tensor,
    keys: Tensor,
    same: Tensor,
    others: Tensor,
    side: Positives,
    grad_queries: Tensor,
    grad_keys: Tensor,
) -> Tensor:
    """Sum of L_q over a block; writes `grad_queries` and adds the denominator's part to `grad_keys`."""
    weights, log_sum = _softmax(queries @ keys.T, others)
    torch.mul(weights @ keys - side.mean, side.used, out=grad_queries)
    grad_keys.addmm_(weights.T, queries * side.used)
    return ((log_sum - (queries * side.mean).sum(1, keepdim=True)) * side.used).sum()


def _one_positive(
    queries: Tensor,
    keys: Tensor,
    same: Tensor,
    others: Tensor,
    side: Positives,
    grad_queries: Tensor,
    grad_keys: Tensor,
) -> Tensor:
    """As `_fraction` for a denominator that holds one positive at a time; adds the positives' part too."""
    similarities = queries @ keys.T
    weights, log_sum = _softmax(similarities, others)
    margin = log_sum - similarities
    share = same * (side.used / side.number)
    pull = margin.sigmoid() * share
    push = weights.mul_(pull.sum(1, keepdim=True)).sub_(pull)
    torch.mm(push, keys, out=grad_queries)
    grad_keys.addmm_(push.T, queries)
    return (F.softplus(margin) * share).sum()
