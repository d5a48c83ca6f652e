"""The contrast on a CPU: pixels sorted by class, so that positives and negatives are slices and no mask is built.

The sorted keys are laid out twice, one after the other: all keys but those of one class are then a single slice, from
the end of that class to its next beginning, and each product is one call without a copy. Similarities are kept in
units of log 2, because `exp2` is four times as fast as `exp` in torch's CPU kernels.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import IGNORE
from stpl.losses.pixel_sets import Pixels

_BLOCK_ELEMENTS = 2**20  # similarities alive at a time: 4 MB, which stay in the cache between the passes over them
_LN2 = math.log(2)


def contrast(queries: Pixels, keys: Pixels, scale: float, denominator: str) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, its gradient by N queries `[N,D]` and by M keys `[M,D]`; see `stpl.losses.pixel_contrast`.

    Pixels are float32 or wider, both of one dtype; `scale` is 1/τ.
    """
    query_order, key_order = _order(queries.labels), _order(keys.labels)
    keys_by_class = keys.vectors[key_order]
    sides = _Sides(queries.vectors[query_order] * (scale / _LN2), torch.cat([keys_by_class, keys_by_class]))
    total, used, count = queries.vectors.new_zeros(()), 0, len(key_order)
    rows_of = _one_positive if denominator == "positive+negatives" else _fraction
    for of_class, positives in _classes(queries.labels[query_order], keys.labels[key_order]):
        start = positives.start if denominator == "supcon" else positives.stop
        others = slice(start, positives.start + count)
        for rows in _blocks(of_class, others.stop - others.start):
            total += rows_of(sides, rows, positives, others)
        used += of_class.stop - of_class.start
    by_class = sides.grad_keys[:count] + sides.grad_keys[count:]
    factor = 1 / max(used, 1)
    return (
        total * (_LN2 * factor),
        torch.zeros_like(queries.vectors).index_copy_(0, query_order, sides.grad_queries.mul_(scale * factor)),
        torch.zeros_like(keys.vectors).index_copy_(0, key_order, by_class.mul_(_LN2 * factor)),
    )


class _Sides:
    """Sorted queries in units of log 2, sorted keys twice, and what their gradients are so far (up to a factor)."""

    def __init__(self, queries: Tensor, keys: Tensor) -> None:
        self.queries, self.keys = queries, keys
        self.grad_queries, self.grad_keys = torch.zeros_like(queries), torch.zeros_like(keys)


def _order(labels: Tensor) -> Tensor:
    """Indices of the pixels that take part, class by class."""
    order = labels.argsort(stable=True)
    return order[labels[order] != IGNORE]


def _classes(query_labels: Tensor, key_labels: Tensor) -> Iterator[tuple[slice, slice]]:
    """Ranges of queries and keys, in the sorted labels, of each class that has queries, positives and negatives."""
    classes = torch.unique_consecutive(query_labels)
    sides = (False, True)
    bounds = [torch.searchsorted(x, classes, right=side) for x in (query_labels, key_labels) for side in sides]
    for query_start, query_stop, key_start, key_stop in torch.stack(bounds, dim=1).tolist():
        if 0 < key_stop - key_start < len(key_labels):
            yield slice(query_start, query_stop), slice(key_start, key_stop)


def _blocks(queries: slice, width: int) -> Iterator[slice]:
    """Ranges of queries whose similarities with `width` keys fit the buffer; of nearly equal length."""
    count = queries.stop - queries.start
    blocks = math.ceil(count * width / _BLOCK_ELEMENTS)
    step = math.ceil(count / blocks)
    for start in range(queries.start, queries.stop, step):
        yield slice(start, min(start + step, queries.stop))


def _softmax(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """2^(s - log_sum) `[R,M]` not yet divided by its row sums, those sums `[R,1]`, and log2 Σ 2^s `[R,1]`."""
    similarities = queries @ keys.T
    top = similarities.amax(1, keepdim=True)
    powers = torch.exp2_(similarities.sub_(top))
    sums = powers.sum(1, keepdim=True)
    return powers, sums, top + sums.log2()


def _fraction(sides: _Sides, rows: slice, positives: slice, others: slice) -> Tensor:
    """Sum of L_q over rows of one class, in units of log 2; the denominator sums over the keys `others`."""
    queries, keys = sides.queries[rows], sides.keys[others]
    mean = sides.keys[positives].mean(0)
    powers, sums, log_sum = _softmax(queries, keys)
    torch.sub((powers @ keys).div_(sums), mean, out=sides.grad_queries[rows])
    sides.grad_keys[others].addmm_(powers.T, queries / sums)
    sides.grad_keys[positives] -= queries.sum(0) / (positives.stop - positives.start)
    return log_sum.sum() - (queries @ mean).sum()


def _one_positive(sides: _Sides, rows: slice, positives: slice, others: slice) -> Tensor:
    """As `_fraction` for a denominator that holds one positive at a time: L_q = 1/|P| Σ_P softplus(log Σ_N - s_p)."""
    queries, keys = sides.queries[rows], sides.keys[others]
    powers, sums, log_sum = _softmax(queries, keys)
    margin = (log_sum - queries @ sides.keys[positives].T) * _LN2
    pull = margin.sigmoid() / margin.shape[1]
    share = pull.sum(1, keepdim=True) / sums
    torch.sub((powers @ keys).mul_(share), pull @ sides.keys[positives], out=sides.grad_queries[rows])
    sides.grad_keys[others].addmm_(powers.T, queries * share)
    sides.grad_keys[positives] -= pull.T @ queries
    return F.softplus(margin).mean(1).sum() / _LN2
