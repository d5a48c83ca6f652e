"""What `test_pixel_contrast.py` asks of the CUDA kernels, in a process of its own.

Triton interprets them only if TRITON_INTERPRET is set before it is imported. Called as
`contrast_kernels.py interpret|compile`; prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stpl.data.clip import IGNORE
from stpl.losses import pixel_contrast_sorted
from stpl.losses.pixel_sets import Pixels


def sample(n: int, m: int, dtype: torch.dtype, dim: int = 24) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit vectors and labels of five classes: one has no keys, some pixels are ignored."""
    generator = torch.Generator().manual_seed(n)
    queries, keys = (normalize(torch.randn(k, dim, generator=generator, dtype=dtype), dim=1) for k in (n, m))
    query_labels, key_labels = (torch.randint(0, 6, (k,), generator=generator) for k in (n, m))
    key_labels[key_labels == 4] = 3
    return queries, keys, query_labels.where(query_labels < 5, IGNORE), key_labels.where(key_labels < 5, IGNORE)


def interpret() -> dict[str, float]:
    """Largest relative distance from the CPU's engine, of value and gradients, for each form and some sizes."""
    os.environ["TRITON_INTERPRET"] = "1"
    from stpl.losses import pixel_contrast_triton

    _teach_bfloat16()

    errors = {}
    for n, m, dim in ((137, 101, 24), (20, 70, 130), (1, 1, 8)):
        for form in ("negatives", "supcon", "positive+negatives"):
            queries, keys, query_labels, key_labels = sample(n, m, torch.float32, dim)
            inputs = (Pixels(queries, query_labels), Pixels(keys, key_labels), 1 / 0.07, form)
            expected, found = (engine.contrast(*inputs) for engine in (pixel_contrast_sorted, pixel_contrast_triton))
            distances = [(f - e).norm() / e.norm().clamp(min=1e-6) for f, e in zip(found, expected, strict=True)]
            errors[f"{form} {n}x{m}x{dim}"] = float(max(distances))
    return errors


def _teach_bfloat16() -> None:
    """Triton's interpreter keeps bfloat16 as integers, converts it everywhere but in products, and multiplies those."""
    from triton.language import bfloat16, float32
    from triton.runtime import interpreter

    def widened(x: Any) -> Any:
        if x.dtype.scalar != bfloat16:
            return x
        values = interpreter._convert_float(x.data, bfloat16, float32, None).view("float32")
        return interpreter.TensorHandle(values, float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return narrow(self, widened(a), widened(b), *rest)

    narrow = interpreter.InterpreterBuilder.create_dot
    interpreter.InterpreterBuilder.create_dot = create_dot


def compile_kernels() -> dict[str, float]:
    """Share of the shared memory of a GPU that each kernel takes: an RTX 3090 (99 KB) and an H100 (227 KB)."""
    os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"  # otherwise Triton 3.9 warns that 3.10 will change the default
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from stpl.losses import pixel_contrast_triton as engine

    inputs = dict.fromkeys(("q_high", "q_low", "k_high", "k_low"), "*bf16")
    inputs |= {"query_labels": "*i32", "key_labels": "*i32", "n": "i32", "m": "i32"}
    kernels = {
        engine._rows: ("log_sums", "weighted"),
        engine._pulls: ("log_sums", "shares", "totals", "pulls", "pulled"),
        engine._columns: ("log_sums", "pushes", "pulls", "gradient"),
    }
    shared = {}
    for capability, kilobytes, dims in ((86, 99, (128, 512)), (90, 227, (128,))):
        for dim in dims:
            for kernel, outputs in kernels.items():
                options = engine.launch_options(dim, supcon=False, small=capability == 86)
                launch = {name: options.pop(name) for name in ("num_warps", "num_stages")}
                if kernel is engine._columns:
                    options["PULLS"] = True
                types = inputs | dict.fromkeys(outputs, "*fp32") | dict.fromkeys(options, "constexpr")
                source = ASTSource(kernel, types, constexprs=options)
                built = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=launch)
                shared[f"{kernel.__name__} {dim} sm_{capability}"] = built.metadata.shared / 1024 / kilobytes
    return shared


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(interpret() if sys.argv[1] == "interpret" else compile_kernels()))
