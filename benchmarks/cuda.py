"""Measuring on a GPU: actions replayed as graphs, memory, and the rate of its matrix units."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Action
from stpl.errors import ConfigError
from stpl.training.cuda_graph import Capture


def check_device(device: str) -> torch.device:
    """The device by its name; raises `ConfigError` if it is not here."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        what = f"'{device}' cannot be used: {str(error).splitlines()[0]}"
        raise ConfigError(what, where="--device", mend="choose cpu or cuda") from error
    return found


def name(device: torch.device) -> str:
    """The GPU's, or how many threads the CPU has."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"


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
    product = Timer("torch.mm(a, b, out=out)", globals={"torch": torch, "a": a, "b": b, "out": torch.empty_like(a)})
    return 2 * size**3 / product.timeit(13).median


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
    return {operator.removeprefix("aten::"): time / max(whole, 1e-9) for operator, time in largest}


def operations(action: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products of an action (Triton's kernels not counted)."""
    counter = FlopCounterMode(display=False)
    with counter:
        action()
    return int(counter.get_total_flops())
