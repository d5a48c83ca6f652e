"""What an adaptation takes of memory and time, estimated before it begins from one small step."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stpl.errors import ConfigError

_PROBED = (128, 256)  # the largest frame that the small step sees
_COPIES = 5  # weights, gradients, momentum, the teacher, and one in transit to a checkpoint
_SPARE = 0.8  # share of the free memory to use


@dataclass(frozen=True)
class Estimate:
    """What a step takes.

    Attributes:
        batch_size: clips a step.
        memory: bytes.
        seconds: of one step.
        free: bytes that there are.
    """

    batch_size: int
    memory: int
    seconds: float
    free: int

    def __str__(self) -> str:
        return f"about {self.memory / 2**30:.1f} of {self.free / 2**30:.0f} GiB, {self.seconds:.2g} s a step"


def estimate(
    network: nn.Module, size: tuple[int, int], batch_size: int, device: torch.device | None = None
) -> Estimate:
    """What a training step takes, extrapolated from one frame: both grow with the number of pixels.

    Args:
        network: takes frames `[B,3,H,W]`, and is left as it is.
        size: height and width of frames in training.
        batch_size: clips a step.
        device: where it runs; a GPU if there is one.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    probed, scale = _probed(size)
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        """Count what autograd keeps, each storage once."""
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training, weights = network.training, list(network.parameters())
    learn = [p.requires_grad for p in weights]
    home = next(network.parameters()).device
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    network.eval().to(device)
    for parameter in weights:
        parameter.requires_grad_(True)  # a method decides what learns, and gradients may have to pass through the rest
    start = time.monotonic()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(torch.zeros(1, 3, *probed, dtype=torch.uint8, device=device)).logits
        if weights:
            torch.autograd.grad(logits.float().logsumexp(1).mean(), weights, allow_unused=True)
    seconds = (time.monotonic() - start) * scale * batch_size * _PASSES
    network.train(was_training).to(home)
    for parameter, learns in zip(weights, learn, strict=True):
        parameter.requires_grad_(learns)
    kept = sum(size for place, size in saved.items() if place not in own)
    mine = sum(p.numel() * p.element_size() for p in network.parameters())
    memory = int(kept * scale * batch_size * _VIEWS + mine * _COPIES)
    return Estimate(batch_size, memory, seconds, free_memory(device))


_PASSES = 2.0  # passes of a step in units of one with its backward pass: the student's, and two of the teacher without
_VIEWS = 1.4  # what is kept beside what autograd keeps of one frame: the teacher's maps, frames, gradients of maps


def _probed(size: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """A size of at most `_PROBED`'s pixels and the same shape, and how many times as many pixels `size` has."""
    shrink = min(1.0, (_PROBED[0] * _PROBED[1] / (size[0] * size[1])) ** 0.5)
    probed = tuple(min(side, max(32, 32 * round(side * shrink / 32))) for side in size)
    return (probed[0], probed[1]), size[0] * size[1] / (probed[0] * probed[1])


def fitting(estimates: Sequence[Estimate]) -> Estimate:
    """The first that fits into the free memory.

    Raises:
        ConfigError: none does.
    """
    for one in estimates:
        if one.memory <= _SPARE * one.free:
            return one
    least = estimates[-1]
    shrink = (_SPARE * least.free / least.memory) ** 0.5
    raise ConfigError(
        f"a step needs {least.memory / 2**30:.1f} GiB even with one clip, {least.free / 2**30:.1f} are free",
        where="--size",
        mend=f"give a size of {100 * shrink:.0f} % of its height and width, or a machine with more memory",
    )


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take: on a GPU, or of the host within the limits of its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            folder = Path("/sys/fs/cgroup")
            free = min(free, int((folder / limit).read_text()) - int((folder / used).read_text()))
    return free
