"""`python -m benchmarks.contrast --device=cuda`: the contrast, forward and backward, on a GPU.

* stpl: Eq. 3 as a step runs it, replayed from a recorded graph; «asked for by Python» is the same without the graph.
* products: four N×N×D products into memory that is there already, which any form must do that keeps the similarities,
  in float32 and in the kernels' precision (three bfloat16 products each).
* dense: Eq. 3 written with autograd; compiled: the same through `torch.compile`. Left out where they do not fit.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.contrast import dense, gradient_error, ours, sample, step
from benchmarks.cuda import check_device, free_mb, on, peak_mb, replayed, seconds
from benchmarks.measure import Action, Figures, interleaved, times_table

_DENSE_COPIES = 7  # N×N float32 tensors; at its peak the dense form was seen to hold 5.3 of them


def contrast(n: int, d: int, classes: int, repeats: int, device: str) -> Figures:
    """See `benchmarks.contrast.contrast`; prints a table and writes the figures."""
    place = check_device(device)
    queries, keys, labels = on(place, *sample(n, d, classes))
    plain = partial(step, ours, queries, keys, labels)
    actions: dict[str, Action] = {"stpl": replayed(plain), "stpl, asked for by Python": plain}
    memory: dict[str, float | None] = {"stpl": peak_mb(plain)}
    if n * n * 4e-6 * 2 < free_mb():
        actions |= _products(queries, keys)
    if n * n * 4e-6 * _DENSE_COPIES < free_mb():
        compiled = torch.compile(dense, dynamic=False)
        for name, loss in (("dense", dense), ("dense, compiled", compiled)):
            actions[name] = partial(step, loss, queries, keys, labels)
            memory[name] = peak_mb(actions[name])
    timings = interleaved(actions, repeats, warm=2, clock=seconds)
    name = torch.cuda.get_device_name(queries.device)
    title = f"contrast, forward and backward: N={n} D={d} {classes} classes, {name}"
    print(times_table(title, timings, "stpl", memory))
    error = gradient_error(*on(place, *sample(min(n, 5869), d, classes)))  # a float64 of N×N fits then
    print(f"\ngradients against float64 dense: {error:.1e} relative")
    return {
        "n": n,
        "d": d,
        "classes": classes,
        "device": name,
        "seconds": {name: timing.median for name, timing in timings.items()},
        "spread": {name: timing.spread for name, timing in timings.items()},
        "peak_mb": memory,
        "gradient_error": error,
    }


def _products(queries: Tensor, keys: Tensor) -> dict[str, Action]:
    """The four products of value and gradients, into one N×N matrix."""
    similarities, gradient = queries.new_empty(len(queries), len(keys)), torch.empty_like(queries)
    halves = [(x.bfloat16(), (x - x.bfloat16()).bfloat16()) for x in (queries, keys)]
    weights = similarities.bfloat16()  # stands for both halves of the softmax: what a product takes hangs on its size
    small = gradient.bfloat16()

    def in_float32() -> None:
        """Four products."""
        for _ in range(2):
            torch.mm(queries, keys.T, out=similarities)
        torch.mm(similarities, keys, out=gradient)
        torch.mm(similarities.T, queries, out=gradient)

    def in_halves() -> None:
        """Four times three products, of the large halves and of each large with a small one."""
        (q, q_rest), (k, k_rest) = halves
        for a, b in ((q, k), (q, k_rest), (q_rest, k)):
            for _ in range(2):
                torch.mm(a, b.T, out=weights)
        for k_half, q_half in ((k, q), (k_rest, q_rest), (k, q)):
            torch.mm(weights, k_half, out=small)
            torch.mm(weights.T, q_half, out=small)

    return {"products, float32": in_float32, "products, bfloat16 pairs": in_halves}
