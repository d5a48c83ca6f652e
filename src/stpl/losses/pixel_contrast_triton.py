"""The contrast on CUDA as three Triton kernels: similarities live in registers, nothing of size N×M is ever stored.

`_rows` walks over all keys for a block of queries, as FlashAttention does with keys in the place of values (Dao et
al., NeurIPS 2022): a running maximum and sum give log Σ exp, and the weighted sum of keys is the queries' gradient.
`_pulls` adds what `positive+negatives` needs; `_columns` walks over all queries for a block of keys. No atomics: the
result is the same in every run. What concerns the positives alone goes through class sums, as in
`stpl.losses.pixel_contrast_masked`.

Shape legend: TILE queries meet TILE keys at a time, DIM = D rounded up to a power of two.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stpl.data.clip import IGNORE
from stpl.losses.pixel_contrast_masked import Positives

_IGNORE = tl.constexpr(IGNORE)
_FAR = tl.constexpr(-1e30)  # stands for -∞, without which 0·∞ could arise


def contrast(
    queries: Tensor, keys: Tensor, query_labels: Tensor, key_labels: Tensor, scale: float, denominator: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients of float32 tensors; see `stpl.losses.pixel_contrast_sorted.contrast`."""
    queries, keys = (queries * scale).contiguous(), keys.contiguous()
    side = Positives.of(queries, keys, query_labels, key_labels)
    kernels = _Kernels(queries, keys, query_labels, key_labels, denominator)
    log_sum, grad_queries = kernels.rows()
    if denominator == "positive+negatives":
        total, pull, pulled = kernels.pulls(log_sum, side.used / side.number)
        grad_queries = grad_queries * pull - pulled
        grad_keys = kernels.columns(log_sum, pull, side.used / side.number)
    else:
        total = (log_sum - (queries * side.mean).sum(1, keepdim=True)) * side.used
        grad_queries = (grad_queries - side.mean) * side.used
        grad_keys = kernels.columns(log_sum, side.used, torch.zeros_like(side.used))
        grad_keys -= side.pull_on_keys(queries, query_labels, key_labels)
    return total.sum() / side.queries, grad_queries * (scale / side.queries), grad_keys / side.queries


class _Kernels:
    """The kernels on one pair of inputs."""

    def __init__(self, queries: Tensor, keys: Tensor, query_labels: Tensor, key_labels: Tensor, form: str) -> None:
        self.queries, self.keys = queries, keys
        self.inputs = (queries, keys, query_labels.int(), key_labels.int(), len(queries), len(keys), queries.shape[1])
        dim = max(16, triton.next_power_of_2(queries.shape[1]))
        self.tile = 32 if dim <= 128 else 16  # what ptxas compiles for sm_80 without spilling registers
        self.options: dict[str, Any] = {
            "SUPCON": form == "supcon",
            "DIM": dim,
            "TILE": self.tile,
            # Three products in TF32 give float32's accuracy on tensor cores; AMD's have no such mode.
            "PRECISION": "ieee" if torch.version.hip else "tf32x3",
            "num_warps": 8,
            "num_stages": 2,
        }

    def _grid(self, vectors: Tensor) -> tuple[int]:
        return (max(1, triton.cdiv(len(vectors), self.tile)),)  # an empty grid cannot be launched

    def rows(self) -> tuple[Tensor, Tensor]:
        """Log Σ exp `[N,1]` over the keys under the fraction, and the softmax-weighted sum of those keys `[N,D]`."""
        log_sum, weighted = self.queries.new_empty(len(self.queries), 1), torch.empty_like(self.queries)
        _rows[self._grid(self.queries)](*self.inputs, log_sum, weighted, **self.options)
        return log_sum, weighted

    def pulls(self, log_sum: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Per query, over its positives, times `share` `[N,1]`: Σ softplus, Σ sigmoid `[N,1]`, Σ sigmoid·k `[N,D]`."""
        total, pull, pulled = torch.empty_like(log_sum), torch.empty_like(log_sum), torch.empty_like(self.queries)
        _pulls[self._grid(self.queries)](*self.inputs, log_sum, share, total, pull, pulled, **self.options)
        return total, pull, pulled

    def columns(self, log_sum: Tensor, push: Tensor, pull: Tensor) -> Tensor:
        """Gradient `[M,D]` on the keys: Σ_q push·softmax·q, minus Σ_q pull·sigmoid·q over queries of its class."""
        gradient = torch.empty_like(self.keys)
        _columns[self._grid(self.keys)](
            *self.inputs, log_sum, push.contiguous(), pull.contiguous(), gradient, **self.options
        )
        return gradient


@triton.jit  # type: ignore[untyped-decorator]
def _load(vectors, labels, index, number, dim_in, DIM: tl.constexpr) -> tuple[Any, Any]:  # type: ignore[no-untyped-def]
    """Vectors `[index,DIM]` and labels `[index]`; beyond the end zeros and `IGNORE`."""
    dims = tl.arange(0, DIM)
    inside = (index[:, None] < number) & (dims[None, :] < dim_in)
    tile = tl.load(vectors + index[:, None] * dim_in + dims[None, :], mask=inside, other=0.0)
    return tile, tl.load(labels + index, mask=index < number, other=_IGNORE)


@triton.jit  # type: ignore[untyped-decorator]
def _store(vectors, tile, index, number, dim_in, DIM: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    """Write the tile's rows to vectors `[index,DIM]` but for those beyond the end."""
    dims = tl.arange(0, DIM)
    inside = (index[:, None] < number) & (dims[None, :] < dim_in)
    tl.store(vectors + index[:, None] * dim_in + dims[None, :], tile, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _rows(  # type: ignore[no-untyped-def]
    queries, keys, query_labels, key_labels, n, m, d, log_sums, weighted,
    SUPCON: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """`_Kernels.rows` for one tile of queries; the sum grows tile by tile, scaled by its largest term so far."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    q, y = _load(queries, query_labels, rows, n, d, DIM)
    top = tl.full((TILE,), _FAR, tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    sums = tl.zeros((TILE, DIM), tl.float32)
    for start in range(0, m, TILE):
        k, z = _load(keys, key_labels, start + tl.arange(0, TILE), m, d, DIM)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        counted = (z[None, :] != _IGNORE) & (SUPCON | (z[None, :] != y[:, None]))
        new = tl.maximum(top, tl.max(tl.where(counted, s, _FAR), 1))
        p = tl.where(counted, tl.exp(s - new[:, None]), 0.0)
        shrink = tl.exp(top - new)
        total = total * shrink + tl.sum(p, 1)
        sums = sums * shrink[:, None] + tl.dot(p, k, input_precision=PRECISION)
        top = new
    total = tl.where(total > 0, total, 1.0)  # a query without such keys; it is not used
    tl.store(log_sums + rows, top + tl.log(total), mask=rows < n)
    _store(weighted, sums / total[:, None], rows, n, d, DIM)


@triton.jit  # type: ignore[untyped-decorator]
def _pulls(  # type: ignore[no-untyped-def]
    queries, keys, query_labels, key_labels, n, m, d, log_sums, shares, totals, pulls, pulled,
    SUPCON: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """`_Kernels.pulls` for one tile of queries, over the keys of their classes."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    q, y = _load(queries, query_labels, rows, n, d, DIM)
    log_sum = tl.load(log_sums + rows, mask=rows < n, other=0.0)
    share = tl.load(shares + rows, mask=rows < n, other=0.0)
    total = tl.zeros((TILE,), tl.float32)
    pull = tl.zeros((TILE,), tl.float32)
    sums = tl.zeros((TILE, DIM), tl.float32)
    for start in range(0, m, TILE):
        k, z = _load(keys, key_labels, start + tl.arange(0, TILE), m, d, DIM)
        margin = log_sum[:, None] - tl.dot(q, tl.trans(k), input_precision=PRECISION)
        own = (z[None, :] == y[:, None]) & (share[:, None] > 0)
        softplus = tl.maximum(margin, 0.0) + tl.log(1 + tl.exp(-tl.abs(margin)))
        p = tl.where(own, tl.sigmoid(margin) * share[:, None], 0.0)
        total += tl.sum(tl.where(own, softplus * share[:, None], 0.0), 1)
        pull += tl.sum(p, 1)
        sums += tl.dot(p, k, input_precision=PRECISION)
    tl.store(totals + rows, total, mask=rows < n)
    tl.store(pulls + rows, pull, mask=rows < n)
    _store(pulled, sums, rows, n, d, DIM)


@triton.jit  # type: ignore[untyped-decorator]
def _columns(  # type: ignore[no-untyped-def]
    queries, keys, query_labels, key_labels, n, m, d, log_sums, pushes, pulls, gradient,
    SUPCON: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """`_Kernels.columns` for one tile of keys, over all queries."""
    cols = tl.program_id(0) * TILE + tl.arange(0, TILE)
    k, z = _load(keys, key_labels, cols, m, d, DIM)
    sums = tl.zeros((TILE, DIM), tl.float32)
    for start in range(0, n, TILE):
        rows = start + tl.arange(0, TILE)
        q, y = _load(queries, query_labels, rows, n, d, DIM)
        log_sum = tl.load(log_sums + rows, mask=rows < n, other=0.0)[None, :]
        push = tl.load(pushes + rows, mask=rows < n, other=0.0)[None, :]
        pull = tl.load(pulls + rows, mask=rows < n, other=0.0)[None, :]
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        own = z[:, None] == y[None, :]
        counted = (z[:, None] != _IGNORE) & (SUPCON | (z[:, None] != y[None, :]))
        p = tl.where(counted & (push > 0), tl.exp(s - log_sum) * push, 0.0)
        p -= tl.where(own & (pull > 0), tl.sigmoid(log_sum - s) * pull, 0.0)
        sums += tl.dot(p, q, input_precision=PRECISION)
    _store(gradient, sums, cols, m, d, DIM)
