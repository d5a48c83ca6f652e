"""Pixel-to-pixel contrast with many positives: Eq. 3 and 4 of STPL, and its two relatives.

For a query q with class y let P be the keys of class y, N all other keys, s_k = q·k/τ:

* `negatives` (STPL, Eq. 3, the default):   L_q = -1/|P| Σ_P log( exp s_p / Σ_N exp s_n )
* `supcon` (Khosla et al., NeurIPS 2020):    L_q = -1/|P| Σ_P log( exp s_p / Σ_{P∪N} exp s_k )
* `positive+negatives` (ContrastiveSeg, Wang et al., ICCV 2021):
                                             L_q = -1/|P| Σ_P log( exp s_p / (exp s_p + Σ_N exp s_n) )

The loss is the mean over queries (Eq. 4). A query without positives or without negatives is skipped.

How it is computed. The first two forms need the positives only through their mean μ, because 1/|P| Σ_P s_p = q·μ/τ, and
the negatives' sum is formed from the negatives alone, never as a difference. Rows are processed in blocks; a block's
similarities are used for the value *and* for the gradients, then dropped: memory is linear in the number of pixels,
three matrix products serve both passes, and the backward pass only multiplies by the incoming gradient. Everything is
computed in float32 or wider, also under autocast: exp(1/0.07) does not fit half precision.

Three engines do the same mathematics, chosen by device: `sorted` (CPU: classes are slices, which reads their bounds),
`triton` (GPUs with matrix units for bfloat16), `masked` (everything else); each is a module `pixel_contrast_…`. Only
the first reads values back to Python, where that costs nothing.
"""

import os
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stpl.data.clip import IGNORE
from stpl.losses.pixel_sets import Pixels, check_classes, check_temperature

Denominator = Literal["negatives", "supcon", "positive+negatives"]
EngineName = Literal["auto", "sorted", "masked", "triton"]
Engine = Callable[[Pixels, Pixels, float, str], tuple[Tensor, Tensor, Tensor]]
"""`(queries, keys, 1/τ, denominator) → (loss, its gradient by queries, by keys)`."""

_UNIT = 0.02  # how far a length may be from 1: three times the rounding of bfloat16


def pixel_contrast(
    queries: Tensor,
    keys: Tensor,
    query_labels: Tensor,
    key_labels: Tensor,
    *,
    temperature: float = 0.07,
    denominator: Denominator = "negatives",
    engine: EngineName = "auto",
) -> Tensor:
    """Contrast every query pixel with every key pixel (STPL, Eq. 3 and 4).

    Vectors and labels are looked at, for which the host waits for a GPU; `contrast_pixels` does the same without. For
    maps `[B,D,h,w]` see `stpl.losses.dense_pixel_contrast`.

    Args:
        queries: unit vectors `[N,D]`. Zeros, which `F.normalize` leaves as they are, and NaN pass.
        keys: unit vectors `[M,D]`.
        query_labels: class of each query, integer `[N]`, 0…254; a pixel of label 255 takes no part.
        key_labels: class of each key, integer `[M]`, likewise.
        temperature: τ > 0.
        denominator: which keys stand under the fraction, see the module's docstring.
        engine: what computes it; "auto" chooses by the device.

    Returns:
        Scalar, float32 (float64 for float64 inputs): the mean over queries that have a positive and a negative; 0,
        with zero gradients, if there is none. With `negatives` the value may be below zero.

    Raises:
        ValueError: for a temperature ≤ 0, an unknown denominator or engine, an engine that these tensors or this
            machine do not allow, shapes that do not fit, vectors that are no unit vectors, or other labels.

    Examples:
        Two pairs of equal vectors, at right angles: log 2 - 1 for each.

        >>> z, y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, 1, 1])
        >>> round(pixel_contrast(z, z, y, y, temperature=1.0).item(), 4)
        -0.3069
    """
    sides = Pixels(queries, query_labels), Pixels(keys, key_labels)
    _check_shapes(*sides)
    for name, pixels in zip(("queries", "keys"), sides, strict=True):
        _check_values(name, pixels)
    return contrast_pixels(*sides, temperature, denominator, engine)


def contrast_pixels(
    queries: Pixels,
    keys: Pixels,
    temperature: float = 0.07,
    denominator: Denominator = "negatives",
    engine: EngineName = "auto",
) -> Tensor:
    """`pixel_contrast` for a training step: no value is looked at, so on a GPU the host does not wait.

    Raises:
        ValueError: as there, but for vectors that are no unit vectors and labels that are no class, which give a
            number without a meaning.
    """
    check_temperature(temperature)
    if denominator not in get_args(Denominator):
        raise ValueError(f"unknown denominator '{denominator}', choose one of: {', '.join(get_args(Denominator))}")
    _check_shapes(queries, keys)
    dtype = torch.promote_types(queries.vectors.dtype, torch.float32)
    contrast = choose_engine(queries.vectors.to(dtype), engine)

    def compute(query_vectors: Tensor, key_vectors: Tensor) -> tuple[Tensor, ...]:
        """The loss and its gradients."""
        sides = Pixels(query_vectors, queries.labels.long()), Pixels(key_vectors, keys.labels.long())
        return contrast(*sides, 1.0 / temperature, denominator)

    with torch.autocast(queries.vectors.device.type, enabled=False):
        return value_with_gradient(compute, queries.vectors.to(dtype), keys.vectors.to(dtype))


def _check_shapes(queries: Pixels, keys: Pixels) -> None:
    """Raise `ValueError` for what are no vectors `[N,D]` and `[M,D]` with integer labels `[N]` and `[M]`."""
    tensors = (queries.vectors, keys.vectors, queries.labels, keys.labels)
    query, key, of_query, of_key = (tuple(tensor.shape) for tensor in tensors)
    if len(query) != 2 or len(key) != 2 or query[1] != key[1] or (of_query, of_key) != (query[:1], key[:1]):
        mend = "give [N,D], [M,D], [N], [M], and maps [B,D,h,w] to stpl.losses.dense_pixel_contrast"
        shapes = ", ".join(map(str, (query, key, of_query, of_key)))
        raise ValueError(f"queries, keys, query_labels, key_labels of shapes {shapes} do not fit: {mend}")
    check_classes(queries.labels)
    check_classes(keys.labels)


def _check_values(name: str, pixels: Pixels) -> None:
    """Raise `ValueError` for vectors of another length than 1 (or 0) and for labels outside 0…255."""
    lengths = torch.linalg.vector_norm(pixels.vectors.detach().float(), dim=1)
    known = (pixels.labels >= 0) & (pixels.labels <= IGNORE)
    unit = ((lengths - 1).abs() < _UNIT) | (lengths == 0) | lengths.isnan() | (pixels.labels == IGNORE)
    if bool((known & unit).all()):
        return
    if not bool(known.all()):
        label = int(pixels.labels[~known][0])
        raise ValueError(f"a label of the {name} is {label}: give classes 0…254, and 255 for pixels without one")
    length = float(lengths[~unit][0])
    raise ValueError(f"a vector of the {name} has the length {length:.4g}: give unit vectors, F.normalize(…, dim=1)")


def value_with_gradient(compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Tensor:
    """The scalar that `compute` returns first, with the gradients by `inputs` that it returns after it.

    For losses that are computed block by block, where autograd would keep every block.
    """
    apply: Callable[..., Tensor] = _Computed.apply
    return apply(compute, *inputs)


class _Computed(torch.autograd.Function):
    """Keeps the gradients for an incoming gradient of 1 until that comes."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Tensor:
        value, *gradients = compute(*inputs)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(grad * gradient for gradient in ctx.saved_tensors)


def choose_engine(queries: Tensor, name: EngineName = "auto") -> Engine:
    """The engine called `name`, or the best one for `queries` `[N,D]`; raises `ValueError` for one that cannot run."""
    if name not in get_args(EngineName):
        raise ValueError(f"unknown engine '{name}', choose one of: {', '.join(get_args(EngineName))}")
    if name == "triton" and (obstacle := _obstacle(queries) or _missing()):
        raise ValueError(f"the engine 'triton' cannot run: {obstacle}")
    if name == "auto":
        name = _best(queries)
    engine: Engine = import_module(f"stpl.losses.pixel_contrast_{name}").contrast
    return engine


def _best(queries: Tensor) -> EngineName:
    if queries.device.type == "cpu":
        return "sorted"
    if _obstacle(queries):
        return "masked"
    if missing := _missing():
        _warn_once(f"{missing}; the contrast runs without its own kernels, several times slower")
        return "masked"
    return "triton"


def _obstacle(queries: Tensor) -> str | None:
    """Why the kernels do not take these vectors, if they do not."""
    if queries.device.type != "cuda":
        return f"it is for GPUs, the vectors are on the {queries.device.type}"
    if queries.dtype != torch.float32 or queries.shape[1] > 512:  # longer ones do not fit into shared memory
        return f"it takes float32 vectors of up to 512 components, not {queries.dtype} of {queries.shape[1]}"
    if torch.version.cuda and torch.cuda.get_device_capability(queries.device) < (8, 0):
        return "this GPU has no matrix units for bfloat16"
    return None


@cache
def _missing() -> str | None:
    """What this machine lacks to compile the kernels."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        return f"Triton needs a C compiler, and there is none ({', '.join(compilers)})"
    return None


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
