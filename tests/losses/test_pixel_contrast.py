"""The contrast four ways: closed form, naive double loop, gradcheck, invariances."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import contrast_kernels
from benchmarks import contrast as bench
from stpl.data.clip import IGNORE
from stpl.losses import pixel_contrast_masked, pixel_contrast_sorted
from stpl.losses.pixel_contrast import Denominator, pixel_contrast
from stpl.losses.pixel_sets import Pixels

module = import_module("stpl.losses.pixel_contrast")  # the room has the function under this name
FORMS: tuple[Denominator, ...] = ("negatives", "supcon", "positive+negatives")
LN2 = math.log(2)


def double_loop(
    queries: Tensor, keys: Tensor, query_labels: Tensor, key_labels: Tensor, temperature: float, denominator: str
) -> float:
    """Eq. 3 and 4 as printed, one pair at a time, in Python floats."""
    rows = []
    for q, y in zip(queries.tolist(), query_labels.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(q, k, strict=True)) / temperature for k in keys.tolist()]
        positives = [s for s, c in zip(scores, key_labels.tolist(), strict=True) if c == y]
        negatives = [s for s, c in zip(scores, key_labels.tolist(), strict=True) if c != y]
        if not positives or not negatives:
            continue
        other = math.fsum(math.exp(s) for s in (scores if denominator == "supcon" else negatives))
        own = denominator == "positive+negatives"
        terms = [math.log(math.exp(s) / (other + (math.exp(s) if own else 0.0))) for s in positives]
        rows.append(-math.fsum(terms) / len(positives))
    return sum(rows) / len(rows)


def sample(n: int, m: int, dim: int = 8, classes: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n * 1000 + m)
    queries, keys = (normalize(torch.randn(k, dim, generator=generator, dtype=dtype), dim=1) for k in (n, m))
    labels = [torch.randint(0, classes, (k,), generator=generator) for k in (n, m)]
    return queries, keys, *labels


@pytest.mark.parametrize("denominator", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_equals_the_double_loop(denominator: Denominator, dtype: torch.dtype, tolerance: float) -> None:
    queries, keys, query_labels, key_labels = sample(61, 47)
    expected = double_loop(queries, keys, query_labels, key_labels, 0.07, denominator)
    found = pixel_contrast(queries.to(dtype), keys.to(dtype), query_labels, key_labels, denominator=denominator)
    assert found.item() == pytest.approx(expected, rel=tolerance)
    assert found.dtype == dtype


@pytest.mark.parametrize("denominator", FORMS)
def test_blocks_do_not_show(denominator: Denominator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three rows, or of one where even that is too many, give what one block gives."""
    queries, keys, query_labels, key_labels = sample(61, 47)
    for engine in (pixel_contrast_sorted, pixel_contrast_masked):
        whole = engine.contrast(Pixels(queries, query_labels), Pixels(keys, key_labels), 1 / 0.07, denominator)
        for elements in (3 * 47, 1):
            monkeypatch.setattr(engine, "_BLOCK_ELEMENTS", elements)
            parts = engine.contrast(Pixels(queries, query_labels), Pixels(keys, key_labels), 1 / 0.07, denominator)
            for found, expected in zip(parts, whole, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("denominator", FORMS)
def test_gradcheck(denominator: Denominator) -> None:
    queries, keys, query_labels, key_labels = sample(9, 7, dim=4, classes=3)

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return pixel_contrast(q, k, query_labels, key_labels, temperature=0.5, denominator=denominator)

    assert torch.autograd.gradcheck(loss, (queries.requires_grad_(), keys.requires_grad_()))


@pytest.mark.parametrize(
    ("denominator", "temperature", "expected"),
    [
        ("negatives", 1.0, LN2 - 1),
        ("negatives", 0.5, LN2 - 2),
        ("negatives", 0.07, -13.592567),
        ("supcon", 1.0, math.log(2 + 2 / math.e)),
        ("positive+negatives", 1.0, math.log(1 + 2 / math.e)),
    ],
)
def test_hand_computed(denominator: Denominator, temperature: float, expected: float) -> None:
    """Two orthogonal pairs: s = 1/τ within a class, 0 across; |P| = |N| = 2 (a query's own copy is a positive)."""
    z = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    found = pixel_contrast(z, z, y, y, temperature=temperature, denominator=denominator)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_equal_features_give_the_logarithm_of_the_number_of_negatives() -> None:
    z, y = torch.tensor([[1.0, 0]] * 4, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    assert pixel_contrast(z, z, y, y, temperature=1.0).item() == pytest.approx(LN2)


def test_queries_without_positives_or_negatives_are_skipped() -> None:
    queries, keys, _, _ = sample(4, 3)
    query_labels, key_labels = torch.tensor([0, 0, 7, 1]), torch.tensor([0, 1, 1])
    found = pixel_contrast(queries, keys, query_labels, key_labels)
    kept = torch.tensor([True, True, False, True])
    assert found.item() == pytest.approx(pixel_contrast(queries[kept], keys, query_labels[kept], key_labels).item())


@pytest.mark.parametrize("key_class", [0, 1])
def test_no_usable_query_gives_zero_and_zero_gradients(key_class: int) -> None:
    queries, keys, _, _ = sample(4, 3)
    queries.requires_grad_()
    loss = pixel_contrast(queries, keys, torch.zeros(4).long(), torch.full((3,), key_class))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert queries.grad is not None
    assert not queries.grad.any()


def test_empty_sets_give_zero() -> None:
    nothing, labels = torch.zeros(0, 8), torch.zeros(0).long()
    assert pixel_contrast(nothing, nothing, labels, labels).item() == 0


@pytest.mark.parametrize("denominator", FORMS)
def test_order_and_rotation_do_not_matter(denominator: Denominator) -> None:
    queries, keys, query_labels, key_labels = sample(31, 29)
    whole = pixel_contrast(queries, keys, query_labels, key_labels, denominator=denominator).item()
    order = torch.randperm(31, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    shuffled = pixel_contrast(queries[order], keys, query_labels[order], key_labels, denominator=denominator)
    rotated = pixel_contrast(queries @ rotation, keys @ rotation, query_labels, key_labels, denominator=denominator)
    assert shuffled.item() == pytest.approx(whole, rel=1e-12)
    assert rotated.item() == pytest.approx(whole, rel=1e-9)


def test_float32_whatever_autocast_says() -> None:
    queries, keys, query_labels, key_labels = sample(31, 29, dtype=torch.float32)
    plain = pixel_contrast(queries, keys, query_labels, key_labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert pixel_contrast(queries, keys, query_labels, key_labels).item() == plain.item()


def test_keeps_nothing_quadratic_for_backward() -> None:
    queries, keys, query_labels, key_labels = sample(400, 300, dtype=torch.float32)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pixel_contrast(queries.requires_grad_(), keys.requires_grad_(), query_labels, key_labels)
    assert max(kept) <= 400 * 8


def test_bad_arguments_are_named() -> None:
    queries, keys, query_labels, key_labels = sample(4, 3)
    with pytest.raises(ValueError, match="temperature must be positive"):
        pixel_contrast(queries, keys, query_labels, key_labels, temperature=0)
    with pytest.raises(ValueError, match="unknown denominator"):
        pixel_contrast(queries, keys, query_labels, key_labels, denominator="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="do not fit"):
        pixel_contrast(queries, keys, query_labels[:2], key_labels)


@pytest.mark.parametrize("denominator", FORMS)
def test_ignored_pixels_take_no_part(denominator: Denominator) -> None:
    """Neither as queries nor as keys, and no gradient reaches them."""
    queries, keys, query_labels, key_labels = contrast_kernels.sample(61, 47, torch.float64)
    used_q, used_k = query_labels != IGNORE, key_labels != IGNORE
    assert 0 < used_k.sum() < 47
    queries.requires_grad_()
    keys.requires_grad_()
    found = pixel_contrast(queries, keys, query_labels, key_labels, denominator=denominator)
    found.backward()  # type: ignore[no-untyped-call]
    kept = queries[used_q], keys[used_k], query_labels[used_q], key_labels[used_k]
    assert found.item() == pytest.approx(pixel_contrast(*kept, denominator=denominator).item(), rel=1e-12)
    assert queries.grad is not None
    assert keys.grad is not None
    assert not queries.grad[~used_q].any()
    assert not keys.grad[~used_k].any()


@pytest.mark.parametrize("denominator", FORMS)
@pytest.mark.parametrize("sizes", [(61, 47), (5, 90), (1, 1)])
def test_engines_agree(denominator: Denominator, sizes: tuple[int, int]) -> None:
    """Value and gradients of the CPU's engine and of the one for any device, with ignored pixels and lonely classes."""
    queries, keys, query_labels, key_labels = contrast_kernels.sample(*sizes, torch.float64)
    inputs = (Pixels(queries, query_labels), Pixels(keys, key_labels), 1 / 0.07, denominator)
    found, expected = (engine.contrast(*inputs) for engine in (pixel_contrast_sorted, pixel_contrast_masked))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_gradients_equal_the_dense_form_in_float64() -> None:
    """At float32, as a whole, within 1e-5; the dense form is Eq. 3 by autograd."""
    assert bench.gradient_error(bench.sample(700, 128, 15)) < 1e-5


def test_a_sharp_temperature_stays_finite() -> None:
    """Where exp(s/τ) alone would overflow float32."""
    queries, keys, query_labels, key_labels = sample(61, 47, dtype=torch.float32)
    exact = pixel_contrast(queries.double(), keys.double(), query_labels, key_labels, temperature=0.002)
    for engine in (pixel_contrast_sorted, pixel_contrast_masked):
        found = engine.contrast(Pixels(queries, query_labels), Pixels(keys, key_labels), 1 / 0.002, "negatives")
        assert found[0].item() == pytest.approx(exact.item(), rel=1e-4)
        assert all(x.isfinite().all() for x in found)


@pytest.mark.skipif(find_spec("pytorch_metric_learning") is None, reason="pytorch-metric-learning is not installed")
def test_supcon_is_that_of_a_known_library() -> None:
    """Gradients against pytorch-metric-learning, which normalises its inputs itself."""
    queries, keys, labels = bench.sample(90, 16, 4)
    inputs = queries.double(), keys.double(), labels

    def supcon(q: Tensor, k: Tensor, y: Tensor) -> Tensor:
        return pixel_contrast(normalize(q, dim=1), normalize(k, dim=1), y, y, denominator="supcon")

    found = bench.step(supcon, inputs)
    for a, b in zip(found, bench.step(bench.library, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.long
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("mode", ["interpret", "compile"])
def test_the_kernels_of_cuda_without_a_gpu(mode: str) -> None:
    """Interpreted, they equal the CPU's engine; they compile, and fit the shared memory of any GPU from sm_80 on.

    Products of bfloat16 pairs have 16 bits, and the interpreter cuts bits off where the GPU rounds.
    """
    script = Path(contrast_kernels.__file__)
    done = subprocess.run([sys.executable, str(script), mode], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) >= 6
    assert max(found.values()) < (2e-5 if mode == "interpret" else 1)


def test_an_engine_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name; by itself it takes the next best where the kernels cannot be compiled, and says so."""
    queries = torch.zeros(1, 8)
    assert module.choose_engine(queries) is pixel_contrast_sorted.contrast
    assert module.choose_engine(queries, "masked") is pixel_contrast_masked.contrast
    with pytest.raises(ValueError, match="it is for GPUs, the vectors are on the cpu"):
        module.choose_engine(queries, "triton")
    with pytest.raises(ValueError, match="unknown engine 'cuda', choose one of: auto, sorted"):
        module.choose_engine(queries, "cuda")
    monkeypatch.setattr(module, "_obstacle", lambda queries: None)  # as if on a GPU
    monkeypatch.setenv("CC", "no-such-compiler")
    module._missing.cache_clear()
    with pytest.raises(ValueError, match=r"cannot run: Triton needs a C compiler|Triton is not installed"):
        module.choose_engine(queries, "triton")
    with pytest.warns(UserWarning, match="runs without its own kernels"):
        assert module.choose_engine(torch.zeros(1, 8, device="meta")) is pixel_contrast_masked.contrast
    module._missing.cache_clear()
