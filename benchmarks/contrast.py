"""The contrast, forward and backward, against the ways it could be computed otherwise.

* stpl: Eq. 3 as a step runs it; on a GPU replayed from a recorded graph, and without the graph («launched by Python»).
* matrix products: four plain N×N×D products into memory that is there already. Value and gradients of the dense form
  need that many at least, so this is the floor of any form that keeps the similarities. On a GPU also in the kernels'
  precision, three bfloat16 products each.
* dense: Eq. 3 written with autograd; on a GPU also through `torch.compile`. Left out where it does not fit there.
* pytorch-metric-learning: its SupCon on the same tensors, on the CPU (a development dependency; left out where it is
  missing).
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import cuda
from benchmarks.measure import Action, Figures, in_processes, interleaved, report, run
from stpl.losses.pixel_contrast import contrast_pixels
from stpl.losses.pixel_sets import Pixels

TEMPERATURE = 0.07
LIBRARY = "pytorch-metric-learning"
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]
_DENSE_COPIES = 7  # N×N float32 tensors; at its peak the dense form was seen to hold 5.3 of them


def contrast(
    n: int = 5869, d: int = 128, classes: int = 15, repeats: int = 7, memory: bool = True, device: str = "cpu"
) -> Figures:
    """Time and memory of the contrast against its dense form, its bare matrix products and SupCon of a known library.

    Args:
        n: number of queries and of keys; 5869 is the paper's (65×129 features, k = 0.7).
        d: their dimension.
        classes: number of classes, drawn uniformly.
        repeats: rounds that are measured; all contestants take part in each.
        memory: measure peak memory too; on the CPU each form in a fresh process, beyond its inputs and gradients.
        device: cpu, or cuda: there the dense form compiled and products in the kernels' precision take part, too.
    """
    place = cuda.check_device(device)
    inputs = sample(n, d, classes, device)
    if place.type == "cpu":
        forms = _forms()
        actions: dict[str, Action] = {form: partial(step, _LOSSES[form], inputs) for form in forms}
        actions["matrix products"] = _products(inputs)
        peaks = _extra_mb(forms, n, d, classes) if memory else {}
    else:
        actions, peaks = _on_gpu(inputs)
    timings = interleaved(actions, repeats, warm=1 if place.type == "cpu" else 2)
    title = f"contrast, forward and backward: N={n} D={d} {classes} classes, {cuda.name(place)}"
    measured = report(title, timings, "stpl", peaks)
    error = gradient_error(sample(min(n, 5869), d, classes, device))  # a float64 of N×N fits then
    print(f"\ngradients against float64 dense: {error:.1e} relative")
    return {"n": n, "d": d, "classes": classes, "device": cuda.name(place), **measured, "gradient_error": error}


def sample(n: int, d: int, classes: int, device: str = "cpu") -> Inputs:
    """Unit vectors `[n,d]` twice and labels `[n]`, always the same."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (F.normalize(torch.randn(n, d, generator=generator), dim=1) for _ in range(2))
    labels = torch.randint(0, classes, (n,), generator=generator)
    return queries.to(device), keys.to(device), labels.to(device)


def step(loss: Loss, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One forward and backward pass: the gradients of queries and keys."""
    queries, keys = (vectors.detach().requires_grad_() for vectors in inputs[:2])
    of_queries, of_keys = torch.autograd.grad(loss(queries, keys, inputs[2]), (queries, keys))
    return of_queries, of_keys


def ours(queries: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
    """Eq. 3 and 4 as training computes them."""
    return contrast_pixels(Pixels(queries, labels), Pixels(keys, labels), TEMPERATURE)


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


_LOSSES: dict[str, Loss] = {"stpl": ours, "dense": dense, LIBRARY: library}


def _forms() -> list[str]:
    """Which can be measured here."""
    if find_spec("pytorch_metric_learning") is not None:
        return list(_LOSSES)
    print("pytorch-metric-learning is not installed, its SupCon is left out (pip install pytorch-metric-learning)\n")
    return [form for form in _LOSSES if form != LIBRARY]


def _on_gpu(inputs: Inputs) -> tuple[dict[str, Action], dict[str, float | None]]:
    """What fits the GPU, and peaks of memory."""
    plain = partial(step, ours, inputs)
    actions: dict[str, Action] = {"stpl": cuda.replayed(plain), "stpl, launched by Python": plain}
    memory: dict[str, float | None] = {"stpl": cuda.peak_mb(plain)}
    square = len(inputs[0]) ** 2 * 4e-6  # MB of the similarities
    if square * 2 < cuda.free_mb():
        actions |= {
            "matrix products, float32": _products(inputs),
            "matrix products, bfloat16 pairs": _products_of_pairs(inputs),
        }
    if square * _DENSE_COPIES < cuda.free_mb():
        for name, loss in (("dense", dense), ("dense, compiled", torch.compile(dense, dynamic=False))):
            actions[name] = partial(step, loss, inputs)
            memory[name] = cuda.peak_mb(actions[name])
    return actions, memory


def _products(inputs: Inputs) -> Action:
    """The four products of value and gradients, into one N×N matrix."""
    queries, keys, _ = inputs
    similarities, gradient = queries.new_empty(len(queries), len(keys)), torch.empty_like(queries)

    def products() -> None:
        for _ in range(2):
            torch.mm(queries, keys.T, out=similarities)
        torch.mm(similarities, keys, out=gradient)
        torch.mm(similarities.T, queries, out=gradient)

    return products


def _products_of_pairs(inputs: Inputs) -> Action:
    """Four times three products, of the large halves and of each large with a small one."""
    (q, q_rest), (k, k_rest) = ((x.bfloat16(), (x - x.bfloat16()).bfloat16()) for x in inputs[:2])
    weights = q.new_empty(len(q), len(k))  # stands for both halves of the softmax: the time hangs on its size alone
    gradient = torch.empty_like(q)

    def products() -> None:
        for a, b in ((q, k), (q, k_rest), (q_rest, k)):
            for _ in range(2):
                torch.mm(a, b.T, out=weights)
        for k_half, q_half in ((k, q), (k_rest, q_rest), (k, q)):
            torch.mm(weights, k_half, out=gradient)
            torch.mm(weights.T, q_half, out=gradient)

    return products


def prepare(form: str, n: int, d: int, classes: int) -> Action:
    """The step whose memory is measured, its kernels loaded by a small one before."""
    step(_LOSSES[form], sample(64, d, classes))
    return partial(step, _LOSSES[form], sample(n, d, classes))


def _extra_mb(forms: list[str], n: int, d: int, classes: int) -> dict[str, float | None]:
    """Peak memory of a step beyond its inputs and the two gradients that it returns."""
    cases = {form: {"form": form, "n": n, "d": d, "classes": classes} for form in forms}
    _, peaks = in_processes("benchmarks.contrast:prepare", cases, trim=True)
    return {form: None if peak is None else peak - 2 * n * d * 4e-6 for form, peak in peaks.items()}


def gradient_error(inputs: Inputs) -> float:
    """Largest relative distance of our gradients from the dense form's in float64, each as a whole."""
    queries, keys, labels = inputs
    expected = step(dense, (queries.double(), keys.double(), labels))
    return max(float((f - e).norm() / e.norm()) for f, e in zip(step(ours, inputs), expected, strict=True))


if __name__ == "__main__":
    run(contrast)
