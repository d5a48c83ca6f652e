"""The contrast on CUDA as three Triton kernels: similarities live in registers, nothing of size N×M is ever stored.

`_rows` walks over all keys for a block of queries, as FlashAttention does with keys in the place of values (Dao et
al., NeurIPS 2022): a running maximum and sum give log Σ exp, and the weighted sum of keys is the queries' gradient.
`_pulls` adds what `positive+negatives` needs; `_columns` walks over all queries for a block of keys. No atomics: the
result is the same in every run. What concerns the positives alone goes through class sums, as in
`stpl.losses.pixel_sets`.

Precision. Every number is kept as the sum of two bfloat16 numbers, 16 bits of mantissa, and a product is three products
of such halves on the tensor cores, summed in float32 (the fourth, of the small halves, is below the rest's rounding).
Similarities are exact to about 1e-5, gradients to 2e-5 of their size; products of float32 itself have no such units.
Similarities are in units of log 2, because the hardware's exponential is 2^x.

Shape legend: TILE queries meet STEP keys at a time (in `_columns`: keys, queries), DIM = D rounded up to a power of 2.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stpl.data.clip import IGNORE
from stpl.losses.pixel_sets import Pixels, Positives

_IGNORE = tl.constexpr(IGNORE)
_FAR = tl.constexpr(-1e30)  # stands for -∞, without which 0·∞ could arise
_LN2 = math.log(2)
_LARGE = (9, 10)  # major compute capabilities of H100, H200, B200; on an A100 their tiles spill registers


def contrast(queries: Pixels, keys: Pixels, scale: float, denominator: str) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients of float32 tensors; see `stpl.losses.pixel_contrast_sorted.contrast`."""
    queries = queries._replace(vectors=queries.vectors * (scale / _LN2))
    side, kernels = Positives.of(queries, keys), _Kernels(queries, keys, denominator)
    log_sum, grad_queries = kernels.rows()
    if denominator == "positive+negatives":
        share = side.used / side.number
        total, pull, pulled = kernels.pulls(log_sum, share)
        grad_queries = grad_queries * pull - pulled
        grad_keys = kernels.columns(log_sum, pull, share)
    else:
        total = (log_sum - (queries.vectors * side.mean).sum(1, keepdim=True)) * side.used
        grad_queries = (grad_queries - side.mean) * side.used
        grad_keys = kernels.columns(log_sum, side.used, None)
        grad_keys -= side.pull_on_keys(queries, keys)
    return (
        total.sum() * (_LN2 / side.queries),
        grad_queries * (scale / side.queries),
        grad_keys * (_LN2 / side.queries),
    )


def _halves(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors `[N,D]` as the sum of two of bfloat16, high and low."""
    high = vectors.to(torch.bfloat16, memory_format=torch.contiguous_format)
    return high, (vectors - high).to(torch.bfloat16, memory_format=torch.contiguous_format)


class _Kernels:
    """The kernels on one pair of inputs."""

    def __init__(self, queries: Pixels, keys: Pixels, denominator: str) -> None:
        self.queries, self.keys = queries.vectors, keys.vectors
        labels, sizes = (queries.labels.int(), keys.labels.int()), (len(self.queries), len(self.keys))
        self.inputs = (*_halves(self.queries), *_halves(self.keys), *labels, *sizes)
        device = self.queries.device
        small = self.queries.is_cuda and torch.cuda.get_device_capability(device)[0] not in _LARGE
        self.options = launch_options(self.queries.shape[1], supcon=denominator == "supcon", small=small)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Log Σ exp `[N,1]` over the keys under the fraction, and the softmax-weighted sum of those keys `[N,D]`."""
        log_sum, weighted = self._column(), torch.empty_like(self.queries, memory_format=torch.contiguous_format)
        _rows[self._grid(self.queries)](*self.inputs, log_sum, weighted, **self.options)
        return log_sum, weighted

    def pulls(self, log_sum: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Per query, over its positives, times `share` `[N,1]`: Σ softplus, Σ sigmoid `[N,1]`, Σ sigmoid·k `[N,D]`."""
        total, pull = self._column(), self._column()
        pulled = torch.empty_like(self.queries, memory_format=torch.contiguous_format)
        _pulls[self._grid(self.queries)](*self.inputs, log_sum, share, total, pull, pulled, **self.options)
        return total, pull, pulled

    def columns(self, log_sum: Tensor, push: Tensor, pull: Tensor | None) -> Tensor:
        """Gradient `[M,D]` on the keys: Σ_q push·softmax·q, minus Σ_q pull·sigmoid·q over queries of its class."""
        gradient = torch.empty_like(self.keys, memory_format=torch.contiguous_format)
        weights = (push, push if pull is None else pull)
        options = self.options | {"PULLS": pull is not None}
        _columns[self._grid(self.keys)](*self.inputs, log_sum, *weights, gradient, **options)
        return gradient

    def _column(self) -> Tensor:
        return self.queries.new_empty(len(self.queries), 1)

    def _grid(self, vectors: Tensor) -> tuple[int]:
        return (max(1, triton.cdiv(len(vectors), self.options["TILE"])),)  # an empty grid cannot be launched


def launch_options(dim: int, *, supcon: bool, small: bool) -> dict[str, Any]:
    """Constants and launch settings of the kernels for vectors of `dim` components.

    They are fixed and not tuned on the spot: sums depend on the tiles, and a run that is resumed must find the same.
    With `supcon`, positives stand under the fraction too; `small` GPUs have 99 KB of shared memory, and no products of
    whole groups of warps.
    """
    wide = max(16, triton.next_power_of_2(dim))
    tile, step = (64, 32 if small else 64) if wide <= 128 else (32, 32) if wide <= 256 else (16, 16)
    constants = {"SUPCON": supcon, "D": dim, "DIM": wide, "TILE": tile, "STEP": step}
    return {**constants, "num_warps": 4, "num_stages": 2}


@triton.jit
def _load(high, low, labels, index, number, D: tl.constexpr, DIM: tl.constexpr) -> tuple[Any, Any, Any]:
    """Both halves of vectors `[index,DIM]` and labels `[index]`; beyond the end zeros and `IGNORE`."""
    dims = tl.arange(0, DIM)
    inside = index[:, None] < number
    if D < DIM:
        inside = inside & (dims[None, :] < D)
    place = index[:, None] * D + dims[None, :]
    return (
        tl.load(high + place, mask=inside, other=0.0),
        tl.load(low + place, mask=inside, other=0.0),
        tl.load(labels + index, mask=index < number, other=_IGNORE),
    )


@triton.jit
def _store(vectors, tile, index, number, D: tl.constexpr, DIM: tl.constexpr) -> None:
    """Write the tile's rows to vectors `[index,D]` but for those beyond the end."""
    dims = tl.arange(0, DIM)
    inside = (index[:, None] < number) & (dims[None, :] < D)
    tl.store(vectors + index[:, None] * D + dims[None, :], tile, mask=inside)


@triton.jit
def _similar(high, low, other_high, other_low) -> Any:
    """Products of the rows of two tiles `[TILE,STEP]`, in float32; the smallest terms first."""
    products = tl.dot(low, tl.trans(other_high))
    products = tl.dot(high, tl.trans(other_low), products)
    return tl.dot(high, tl.trans(other_high), products)


@triton.jit
def _weighted(weights, high, low, sums) -> Any:
    """`sums` `[TILE,DIM]` plus the rows of a tile `[STEP,DIM]` weighted by `[TILE,STEP]`."""
    rounded = weights.to(tl.bfloat16)
    rest = (weights - rounded.to(tl.float32)).to(tl.bfloat16)
    sums = tl.dot(rest, high, sums)
    sums = tl.dot(rounded, low, sums)
    return tl.dot(rounded, high, sums)


@triton.jit
def _rows(
    q_high, q_low, k_high, k_low, query_labels, key_labels, n, m, log_sums, weighted,
    SUPCON: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr,
) -> None:  # fmt: skip
    """`_Kernels.rows` for one tile of queries; the sum grows tile by tile, scaled by its largest term so far."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    high, low, y = _load(q_high, q_low, query_labels, rows, n, D, DIM)
    top = tl.full((TILE,), _FAR, tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    sums = tl.zeros((TILE, DIM), tl.float32)
    for start in range(0, m, STEP):
        k, k_rest, z = _load(k_high, k_low, key_labels, start + tl.arange(0, STEP), m, D, DIM)
        counted = (z[None, :] != _IGNORE) & (SUPCON | (z[None, :] != y[:, None]))
        s = tl.where(counted, _similar(high, low, k, k_rest), _FAR)
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.where(counted, tl.exp2(s - new[:, None]), 0.0)
        shrink = tl.exp2(top - new)
        total = total * shrink + tl.sum(p, 1)
        sums = _weighted(p, k, k_rest, sums * shrink[:, None])
        top = new
    total = tl.where(total > 0, total, 1.0)  # a query without such keys; it is not used
    tl.store(log_sums + rows, top + tl.log2(total), mask=rows < n)
    _store(weighted, sums / total[:, None], rows, n, D, DIM)


@triton.jit
def _pulls(
    q_high, q_low, k_high, k_low, query_labels, key_labels, n, m, log_sums, shares, totals, pulls, pulled,
    SUPCON: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr,
) -> None:  # fmt: skip
    """`_Kernels.pulls` for one tile of queries, over the keys of their classes."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    high, low, y = _load(q_high, q_low, query_labels, rows, n, D, DIM)
    log_sum = tl.load(log_sums + rows, mask=rows < n, other=0.0)
    share = tl.load(shares + rows, mask=rows < n, other=0.0)
    total = tl.zeros((TILE,), tl.float32)
    pull = tl.zeros((TILE,), tl.float32)
    sums = tl.zeros((TILE, DIM), tl.float32)
    for start in range(0, m, STEP):
        k, k_rest, z = _load(k_high, k_low, key_labels, start + tl.arange(0, STEP), m, D, DIM)
        margin = log_sum[:, None] - _similar(high, low, k, k_rest)
        own = (z[None, :] == y[:, None]) & (share[:, None] > 0)
        softplus = tl.maximum(margin, 0.0) + tl.log2(1 + tl.exp2(-tl.abs(margin)))
        p = tl.where(own, share[:, None] / (1 + tl.exp2(-margin)), 0.0)
        total += tl.sum(tl.where(own, softplus * share[:, None], 0.0), 1)
        pull += tl.sum(p, 1)
        sums = _weighted(p, k, k_rest, sums)
    tl.store(totals + rows, total, mask=rows < n)
    tl.store(pulls + rows, pull, mask=rows < n)
    _store(pulled, sums, rows, n, D, DIM)


@triton.jit
def _columns(
    q_high, q_low, k_high, k_low, query_labels, key_labels, n, m, log_sums, pushes, pulls, gradient,
    SUPCON: tl.constexpr, PULLS: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr,
    STEP: tl.constexpr,
) -> None:  # fmt: skip
    """`_Kernels.columns` for one tile of keys, over all queries."""
    columns = tl.program_id(0) * TILE + tl.arange(0, TILE)
    high, low, z = _load(k_high, k_low, key_labels, columns, m, D, DIM)
    sums = tl.zeros((TILE, DIM), tl.float32)
    for start in range(0, n, STEP):
        rows = start + tl.arange(0, STEP)
        q, q_rest, y = _load(q_high, q_low, query_labels, rows, n, D, DIM)
        log_sum = tl.load(log_sums + rows, mask=rows < n, other=0.0)[None, :]
        push = tl.load(pushes + rows, mask=rows < n, other=0.0)[None, :]
        s = _similar(high, low, q, q_rest)
        counted = (z[:, None] != _IGNORE) & (SUPCON | (z[:, None] != y[None, :]))
        p = tl.where(counted & (push > 0), tl.exp2(s - log_sum) * push, 0.0)
        if PULLS:
            pull = tl.load(pulls + rows, mask=rows < n, other=0.0)[None, :]
            own = (z[:, None] == y[None, :]) & (pull > 0)
            p -= tl.where(own, pull / (1 + tl.exp2(s - log_sum)), 0.0)
        sums = _weighted(p, q, q_rest, sums)
    _store(gradient, sums, columns, m, D, DIM)
