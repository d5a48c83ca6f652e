"""`python -m benchmarks.step --device=cuda`: one training step of STPL on a GPU against the same step written plainly.

* stpl: the method as it runs: recorded once and replayed, in the GPU's precision.
* stpl, asked for by Python: the same without the recording.
* stpl, float32: recorded, in float32.
* plain: float32, tensors in the default memory format, one forward for each view, the contrast in its dense form.

All evaluate the same four views of the same clip, then take a step of SGD.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import cuda
from benchmarks.measure import Action, Figures, interleaved, table, times_table
from benchmarks.step import Plain, draw_clip
from stpl.data.clip import Batch, Clip
from stpl.methods import STPL
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.training import OptimizerOptions


def step(height: int, width: int, network: DeepLabV2, repeats: int, device: str) -> Figures:
    """See `benchmarks.step.step`; prints tables and writes the figures."""
    place = cuda.check_device(device)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)  # as every run does
    clip = draw_clip(height, width).to(place)
    rate = cuda.bfloat16_rate()
    forms: dict[str, tuple[type[STPL], bool, bool]] = {  # method, recorded, bfloat16
        "stpl": (STPL, True, True),
        "stpl, asked for by Python": (STPL, False, True),
        "stpl, float32": (STPL, True, False),
        "plain": (Plain, False, False),
    }
    actions: dict[str, Action] = {}
    memory: dict[str, float | None] = {}
    for name, (kind, recorded, half) in forms.items():
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        actions[name] = _prepare(kind, network, clip, recorded=recorded, half=half)
        actions[name]()
        memory[name] = (torch.cuda.memory_reserved() - before) / 1e6  # a recording's memory is reserved, not allocated
    timings = interleaved(actions, repeats, warm=2, clock=cuda.seconds)
    title = f"one STPL step at {height}×{width}, ResNet-{network.depth}, {torch.cuda.get_device_name(place)}"
    print(times_table(title, timings, "stpl", memory))
    eager = actions["stpl, asked for by Python"]
    parts, work = cuda.largest_parts(eager), cuda.operations(eager)
    share = work / timings["stpl"].median / rate
    pace = 1 / timings["stpl"].median
    print(f"\n{pace:.1f} steps a second; {work / 1e12:.2f} TFLOP a step, {share:.0%} of what a large bfloat16", end="")
    print(f" product reaches here ({rate / 1e12:.0f} TFLOP/s)")
    print("\n" + table("where the GPU's time goes", ["", "share"], [[n, f"{s:.0%}"] for n, s in parts.items()]))
    return {
        "height": height,
        "width": width,
        "network": network.to_dict()["init_args"],
        "device": torch.cuda.get_device_name(place),
        "seconds": {name: timing.median for name, timing in timings.items()},
        "spread": {name: timing.spread for name, timing in timings.items()},
        "peak_mb": memory,
        "steps_per_second": pace,
        "operations": work,
        "bfloat16_rate": rate,
        "share_of_rate": share,
        "parts": parts,
    }


def _prepare(kind: Callable[..., STPL], network: DeepLabV2, clip: Clip, *, recorded: bool, half: bool) -> Action:
    torch.manual_seed(0)
    method = kind(network=NetworkOptions(network), optimizer=OptimizerOptions()).train().to(clip.frames.device)
    if recorded:
        method.record_step()
    optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9, weight_decay=5e-4)
    return partial(_run, method, optimizer, clip, half)


def _run(method: STPL, optimizer: torch.optim.Optimizer, clip: Clip, half: bool) -> Tensor:
    optimizer.zero_grad()
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        output = method.training_step(Batch(clip), 0)
    assert output is not None
    output["loss"].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return output["loss"].detach()
