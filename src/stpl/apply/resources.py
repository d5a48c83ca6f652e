"""What an adaptation takes of memory, estimated before it begins from one small step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stpl import machine
from stpl.apply.option_values import too_large, too_many
from stpl.apply.settings import LOOKED
from stpl.errors import ConfigError
from stpl.nn.outputs import shrunk

_PROBED = (128, 256)  # the largest frame that the small step sees
_COPIES = 5  # weights, gradients, momentum, the teacher, and one in transit to a checkpoint
_SPARE = 0.8  # share of the free memory to use
_PROGRAM = 500 * 2**20  # bytes that the libraries take once they work
_VIEWS = 1.4  # what is kept beside what autograd keeps of one frame: the teacher's maps, frames, gradients of maps
_MAPS = 12  # bytes of a pixel and class in evaluation: logits at the frames' size, and two maps made of them
_CLIP = 28  # bytes of a pixel of a clip in evaluation: two frames and a flow, and copies
_HELD = 40  # bytes of a pixel of the clips that guard and page hold at once: the same, their labels, decoded frames


class Estimate(NamedTuple):
    """What an adaptation takes."""

    batch_size: int  # clips a step
    memory: int  # bytes, beside those that the process has already
    free: int  # bytes that there are
    clip: int = 0  # bytes of `memory` that one clip of a step takes

    def __str__(self) -> str:
        return f"about {self.memory / 2**30:.1f} of {self.free / 2**30:.0f} GiB"


def estimate(network: nn.Module, size: tuple[int, int], batch_size: int) -> Estimate:
    """What an adaptation takes on a GPU if there is one, extrapolated from one frame: all grows with its pixels.

    The network takes frames `[B,3,*size]`, and is left as it is; `batch_size` is that of evaluations too.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _learning(network, device):
        kept, classes = _measured(network, size, device)
    mine = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    pixels = size[0] * size[1]
    clip = max(kept * _VIEWS, pixels * (_MAPS * classes + _CLIP))  # in training, in evaluation
    memory = int(_PROGRAM + mine * _COPIES + clip * batch_size + LOOKED * pixels * _HELD)
    return Estimate(batch_size, memory, free_memory(device), int(clip))


@contextmanager
def _learning(network: nn.Module, device: torch.device) -> Iterator[None]:
    """A network on a device with all its parameters learning: a method decides which do, gradients pass all."""
    was_training, home = network.training, next(network.parameters()).device
    learn = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.eval().to(device)
    try:
        for parameter, _ in learn:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, learns in learn:
            parameter.requires_grad_(learns)
        network.train(was_training).to(home)


def _measured(network: nn.Module, size: tuple[int, int], device: torch.device) -> tuple[float, int]:
    """Of a frame of that size: bytes that autograd keeps, and classes."""
    seen = shrunk(size, _PROBED)
    try:
        kept, classes = _pass(network, torch.zeros(1, 3, *seen, dtype=torch.uint8, device=device))
    except ConfigError:  # perhaps it takes frames of its own size alone
        if seen == size:
            raise
        seen = size
        kept, classes = _pass(network, torch.zeros(1, 3, *size, dtype=torch.uint8, device=device))
    return kept * size[0] * size[1] / (seen[0] * seen[1]), classes


def _pass(network: nn.Module, frames: Tensor) -> tuple[int, int]:
    """A pass and its backward pass: bytes that autograd keeps for it, and the classes."""
    saved: dict[int, int] = {}  # each storage once

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = list(network.parameters())
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(frames).logits
        loss = logits.float().logsumexp(1).mean()
        torch.autograd.grad(loss, weights, allow_unused=True)
        loss.item()  # waits for a GPU
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    return sum(size for place, size in saved.items() if place not in own), int(logits.shape[1])


def fitting(estimates: Iterable[Estimate]) -> Estimate:
    """The first that fits into the free memory, of which those behind it are not made; the last one takes least.

    Raises:
        ConfigError: none does.
    """
    for least in estimates:
        if least.memory <= _SPARE * least.free:
            return least
    usable, alone = int(_SPARE * least.free), least.memory - (least.batch_size - 1) * least.clip
    if alone <= usable:
        fits = 1 + (usable - alone) // least.clip
        raise too_many(least.batch_size, least.memory, least.free, fits)
    shrink = (max(0.0, usable - _PROGRAM) / max(1, alone - _PROGRAM)) ** 0.5
    raise too_large(alone, least.free, shrink, "even with one clip")


def check_prediction(num_classes: int, size: tuple[int, int], batch_size: int = 1) -> None:
    """Raise `ConfigError` if not even logits and maps of frames `[batch_size,3,H,W]` fit into the host's memory."""
    pixels, free = size[0] * size[1], machine.free_memory()
    need = pixels * batch_size * (_MAPS * num_classes + _CLIP)
    if need > _SPARE * free:
        raise too_large(need, free, (_SPARE * free / need) ** 0.5, "to predict")


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take: on a GPU, or of the host within the limits of its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return machine.free_memory()
