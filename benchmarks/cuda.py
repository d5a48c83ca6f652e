"""Measuring on a GPU: times by events, actions replayed as graphs, memory, and the rate of its matrix units.

The host asks for work and goes on, so its clock tells nothing; events are stamped by the GPU itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Action
from stpl.errors import ConfigError
from stpl.training.cuda_graph import Capture


def check_device(device: str) -> torch.device:
    """The device by its name; raises `ConfigError` if it is not here."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"'{device}' cannot be used: {reason}", where="--device", mend="choose cpu or cuda"
        ) from error
    return found


def seconds(action: Action) -> float:
    """Seconds from the start of an action on the GPU to its end."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    action()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def replayed(action: Action) -> Action:
    """The same action as a recorded graph: what it takes the GPU, without waiting for Python."""
    capture = Capture()
    capture.warm_up(action, 3)
    return capture(action)[0]


def peak_mb(action: Action) -> float:
    """Peak memory of an action beyond what lives before it, in MB (10⁶ bytes), once it has run before."""
    action()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    action()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def free_mb() -> float:
    """Memory of the GPU that this process could still get, in MB."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / 1e6


def bfloat16_rate(size: int = 8192) -> float:
    """Operations a second of a large bfloat16 product of random numbers: what the matrix units reach here."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        """One product."""
        torch.mm(a, b, out=out)

    times = sorted(seconds(product) for _ in range(13))
    return 2 * size**3 / times[len(times) // 2]


def largest_parts(action: Callable[[], object], count: int = 5) -> dict[str, float]:
    """The operators in which the GPU spends most of an action, each with its share of the whole."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        action()
        torch.cuda.synchronize()
    # Operators and kernels are listed both; kernels alone add up to the whole.
    events = found.key_averages()
    whole = sum(event.self_device_time_total for event in events if event.device_type.name == "CUDA")
    rows = [(e.key, e.self_device_time_total) for e in events if e.device_type.name == "CPU" and "::" in e.key]
    largest = sorted(rows, key=lambda row: -row[1])[:count]
    return {name.removeprefix("aten::"): time / max(whole, 1e-9) for name, time in largest}


def operations(action: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products of an action (Triton's kernels not counted)."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        action()
    return int(counter.get_total_flops())


def on(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on the device."""
    return tuple(tensor.to(device) for tensor in tensors)
