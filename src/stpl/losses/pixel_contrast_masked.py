"""The contrast on any device, without reading a value back to Python: the sets are masks made block by block."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import IGNORE
from stpl.losses.pixel_sets import Pixels, Positives

_BLOCK_ELEMENTS = 2**22  # similarities alive at a time: 16 MB in float32


def contrast(queries: Pixels, keys: Pixels, scale: float, denominator: str) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients; see `stpl.losses.pixel_contrast_sorted.contrast` for arguments and result."""
    queries = queries._replace(vectors=queries.vectors * scale)
    side = Positives.of(queries, keys)
    grad_queries, grad_keys = torch.empty_like(queries.vectors), torch.zeros_like(keys.vectors)
    rows_of = _one_positive if denominator == "positive+negatives" else _fraction
    total = queries.vectors.new_zeros(())
    step = max(1, _BLOCK_ELEMENTS // max(1, len(keys.vectors)))
    for start in range(0, len(queries.vectors), step):
        rows = slice(start, start + step)
        same = queries.labels[rows, None] == keys.labels
        counted = (keys.labels != IGNORE).expand_as(same)
        others = counted if denominator == "supcon" else counted & ~same
        block = _Block(queries.vectors[rows], same & counted, others, side.rows(rows))
        total += rows_of(block, keys.vectors, grad_queries[rows], grad_keys)
    if denominator != "positive+negatives":
        grad_keys -= side.pull_on_keys(queries, keys)
    return total / side.queries, grad_queries * (scale / side.queries), grad_keys / side.queries


class _Block(NamedTuple):
    """Some queries `[R,D]`; which keys have their class, which stand under the fraction `[R,M]`; their positives."""

    queries: Tensor
    same: Tensor
    others: Tensor
    side: Positives


def _softmax(similarities: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the keys `others` (0 elsewhere) and log Σ exp `[R,1]`; finite for a row without any."""
    similarities = similarities.masked_fill(~others, float("-inf"))
    top = similarities.amax(1, keepdim=True).clamp(min=torch.finfo(similarities.dtype).min)
    powers = similarities.sub_(top).exp_()
    sums = powers.sum(1, keepdim=True).clamp(min=torch.finfo(similarities.dtype).tiny)
    return powers.div_(sums), top + sums.log()


def _fraction(block: _Block, keys: Tensor, grad_queries: Tensor, grad_keys: Tensor) -> Tensor:
    """Sum of L_q over a block; writes `grad_queries` and adds the denominator's part to `grad_keys`."""
    queries, _, others, side = block
    weights, log_sum = _softmax(queries @ keys.T, others)
    torch.mul(weights @ keys - side.mean, side.used, out=grad_queries)
    grad_keys.addmm_(weights.T, queries * side.used)
    return ((log_sum - (queries * side.mean).sum(1, keepdim=True)) * side.used).sum()


def _one_positive(block: _Block, keys: Tensor, grad_queries: Tensor, grad_keys: Tensor) -> Tensor:
    """As `_fraction` for a denominator that holds one positive at a time; adds the positives' part too."""
    queries, same, others, side = block
    similarities = queries @ keys.T
    weights, log_sum = _softmax(similarities, others)
    margin = log_sum - similarities
    share = same * (side.used / side.number)
    pull = margin.sigmoid() * share
    push = weights.mul_(pull.sum(1, keepdim=True)).sub_(pull)
    torch.mm(push, keys, out=grad_queries)
    grad_keys.addmm_(push.T, queries)
    return (F.softplus(margin) * share).sum()
