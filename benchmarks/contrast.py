"""The contrast, forward and backward, against the ways it could be computed otherwise.

On a GPU see `benchmarks.contrast_cuda`. On the CPU:

* matrix products: four plain N×N×D products into memory that is there already. Value and gradients of the dense form
  need that many at least, so this is the floor of any form that keeps the similarities.
* dense: Eq. 3 written with autograd.
* pytorch-metric-learning: its SupCon on the same tensors (a development dependency; left out where it is missing).
* split products: the three products of one pass, as sums of bfloat16 products with float32's accuracy, against the
  same three in float32. It tells whether a split-precision engine would pay on this CPU; above 0.67× it could not
  bring the contrast the 1.5× that would justify one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Action, Figures, interleaved, peak_mb, run, times_table
from stpl.losses.pixel_contrast import pixel_contrast

TEMPERATURE = 0.07
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def contrast(
    n: int = 5869,
    d: int = 128,
    classes: int = 15,
    repeats: int = 7,
    memory: bool = True,
    device: str = "cpu",
) -> Figures:
    """Time and memory of the contrast against its dense form, its bare matrix products and SupCon of a known library.

    Args:
        n: number of queries and of keys; 5869 is the paper's (65×129 features, k = 0.7).
        d: their dimension.
        classes: number of classes, drawn uniformly.
        repeats: rounds that are measured; all contestants take part in each.
        memory: measure peak memory too; on the CPU each form in a fresh process.
        device: cpu, or cuda: there the dense form compiled and products in the kernels' precision take part, too.
    """
    if device != "cpu":
        from benchmarks.contrast_cuda import contrast as on_a_gpu

        return on_a_gpu(n, d, classes, repeats, device)
    inputs = sample(n, d, classes)
    losses = _losses()
    actions = {name: partial(step, loss, *inputs) for name, loss in losses.items()}
    timings = interleaved({**actions, "matrix products": _products(*inputs[:2])}, repeats)
    plain, split = interleaved(_one_pass(*inputs[:2]), repeats).values()
    extra = {name: _extra_mb(name, n, d, classes) for name in losses} if memory else {}
    error = gradient_error(*inputs)
    title = f"contrast, forward and backward: N={n} D={d} {classes} classes, {torch.get_num_threads()} threads"
    print(times_table(title, timings, "stpl", extra))
    print(f"\ngradients against float64 dense: {error:.1e} relative")
    print(f"one pass's products split into bfloat16: {split.median / plain.median:.2f}× the time of float32's")
    return {
        "n": n,
        "d": d,
        "classes": classes,
        "threads": torch.get_num_threads(),
        "seconds": timings["stpl"].median,
        "seconds_matmul": timings["matrix products"].median,
        "seconds_dense": timings["dense"].median,
        "seconds_library": timings[LIBRARY].median if LIBRARY in timings else None,
        "extra_mb": extra.get("stpl"),
        "extra_mb_dense": extra.get("dense"),
        "extra_mb_library": extra.get(LIBRARY),
        "split_products": split.median / plain.median,
        "gradient_error": error,
        "spread": {name: timing.spread for name, timing in timings.items()},
    }


def sample(n: int, d: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors `[n,d]` twice and labels `[n]`, always the same."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (F.normalize(torch.randn(n, d, generator=generator), dim=1) for _ in range(2))
    return queries, keys, torch.randint(0, classes, (n,), generator=generator)


def step(loss: Loss, queries: Tensor, keys: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One forward and backward pass: the gradients."""
    queries, keys = queries.detach().requires_grad_(), keys.detach().requires_grad_()
    loss(queries, keys, labels).backward()  # type: ignore[no-untyped-call]
    assert queries.grad is not None
    assert keys.grad is not None
    return queries.grad, keys.grad


def ours(queries: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
    """Eq. 3 and 4 by `stpl.losses.pixel_contrast`."""
    return pixel_contrast(queries, keys, labels, labels, temperature=TEMPERATURE)


def dense(queries: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
    """Eq. 3 and 4 written with autograd, all similarities at once; queries without positives or negatives skipped."""
    similarities = queries @ keys.T / TEMPERATURE
    same = labels[:, None] == labels
    number = same.sum(1)
    used = (number > 0) & (number < len(labels))
    logarithms = similarities - similarities.masked_fill(same, float("-inf")).logsumexp(1, keepdim=True)
    rows = -(logarithms * same).sum(1) / number.clamp(min=1)
    return rows[used].mean() if used.any() else (queries * 0).sum()


def library(queries: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
    """SupCon of pytorch-metric-learning: queries against keys as reference embeddings."""
    from pytorch_metric_learning.losses import SupConLoss

    # A copy of the labels: were they the same object, it would take queries and keys for the same pixels.
    loss: Tensor = SupConLoss(temperature=TEMPERATURE)(queries, labels, ref_emb=keys, ref_labels=labels.clone())
    return loss


LIBRARY = "pytorch-metric-learning"
_LOSSES: dict[str, Loss] = {"stpl": ours, "dense": dense, LIBRARY: library}


def _losses() -> dict[str, Loss]:
    """What can be measured here."""
    if find_spec("pytorch_metric_learning") is not None:
        return _LOSSES
    print("pytorch-metric-learning is not installed, its SupCon is left out (pip install pytorch-metric-learning)\n")
    return {name: loss for name, loss in _LOSSES.items() if name != LIBRARY}


def _products(queries: Tensor, keys: Tensor) -> Action:
    """Four N×N×D products into memory that is there already."""
    similarities, gradient = queries.new_empty(len(queries), len(keys)), torch.empty_like(queries)

    def products() -> None:
        """The four products, forward's and backward's."""
        for _ in range(2):
            torch.mm(queries, keys.T, out=similarities)
        torch.mm(similarities, keys, out=gradient)
        torch.mm(similarities.T, queries, out=gradient)

    return products


def _one_pass(queries: Tensor, keys: Tensor) -> dict[str, Action]:
    """Its three products for a block of queries, in float32 and as bfloat16 products that add up to float32's accuracy.

    A float32 number is the sum of two bfloat16 numbers up to 2^-17; the product of the two small parts is left out.
    oneDNN takes float32 tensors that hold bfloat16 numbers and sums in float32.
    """
    queries = queries[:256]
    weights = queries.new_empty(len(queries), len(keys)).uniform_()
    high, low = torch.empty_like(weights), torch.empty_like(weights)
    left, right = _halves(queries), _halves(keys)

    def plain() -> None:
        """The three products in float32."""
        torch.mm(queries, keys.T)
        torch.mm(weights, keys)
        torch.mm(weights.T, queries)

    def split() -> None:
        """The same three from bfloat16 halves."""
        matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
        torch.mm(torch.cat([left[0], left[0], left[1]], 1), torch.cat([right[0], right[1], right[0]], 1).T)
        high.copy_(weights.bfloat16())
        torch.sub(weights, high, out=low)
        for rows, columns in ((high, low), (high.T, low.T)):
            halves = right if rows is high else left
            torch.mm(rows, torch.cat(halves, 1))
            torch.mm(columns, halves[0])
        matmul.fp32_precision = before

    return {"float32": plain, "split": split}


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of bfloat16 numbers, kept in float32, that add up to `x`."""
    high = x.bfloat16().float()
    return high, (x - high).bfloat16().float()


def prepare(form: str, n: int, d: int, classes: int) -> Action:
    """The step whose memory is measured, its kernels loaded by a small one before."""
    step(_LOSSES[form], *sample(64, d, classes))
    return partial(step, _LOSSES[form], *sample(n, d, classes))


def _extra_mb(form: str, n: int, d: int, classes: int) -> float | None:
    """Peak memory of a step beyond its inputs and the two gradients that it returns."""
    peak = peak_mb("benchmarks.contrast:prepare", form=form, n=n, d=d, classes=classes)
    return None if peak is None else peak - 2 * n * d * 4e-6


def gradient_error(queries: Tensor, keys: Tensor, labels: Tensor) -> float:
    """Largest relative distance of our gradients from the dense form's in float64, each as a whole."""
    found = step(ours, queries, keys, labels)
    expected = step(dense, queries.double(), keys.double(), labels)
    return max(float((f - e).norm() / e.norm()) for f, e in zip(found, expected, strict=True))


if __name__ == "__main__":
    run(contrast)
