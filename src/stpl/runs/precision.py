"""The precision that a run chooses by itself: what the hardware is fast in, if it computes this network right."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from stpl.nn.accel import Accel
from stpl.nn.generators import generators_kept

_LEAST, _MOST = 2**12, 2**24  # bytes of the blocks that are filled with NaN: what layers allocate
_POISONED = 2**22  # bytes of all blocks of one size, or one block


def hardware_precision(accelerator: str) -> str:
    """`bf16-mixed` where the accelerator ("cpu" or a GPU's) has units for bfloat16, `32-true` elsewhere."""
    if accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    units: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 does not say
    return "bf16-mixed" if units.get("avx512_bf16") or units.get("amx_bf16") else "32-true"


def has_grouped_convolutions(network: nn.Module) -> bool:
    """Whether a network has convolutions whose kernels are known to fail in bfloat16 on some CPUs."""
    return any(getattr(layer, "groups", 1) > 1 for layer in nn.Module.modules(network))


def computes_right(network: Accel, frames: Tensor, context: Callable[[], AbstractContextManager[object]]) -> bool:
    """Whether a step of a network gives the same finite numbers twice, to the bit, whatever lay in memory before.

    In bfloat16 some kernels of the CPU read memory that nobody wrote (torch 2.13 with oneDNN: the gradient of grouped,
    dilated convolutions in `channels_last`). Whether they do depends on the layer and on the grid, so this asks the
    network itself, at the frames' true size: two passes with their backward passes, less than a step of most methods.
    Statistics and generators of random numbers are left as they were. The `frames` are uint8 `[B,3,H,W]`, of the run;
    the passes are made in `context`: autocast.
    """
    kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with generators_kept():
            first, second = (_step(network, frames, context) for _ in range(2))
    except Exception:  # what the network refuses here it refuses in the run too, which reports it
        return True
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
    return all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(first, second, strict=True))


def _step(network: Accel, frames: Tensor, context: Callable[[], AbstractContextManager[object]]) -> list[Tensor]:
    """What a network makes of frames, and the gradients; memory that is allocated meanwhile holds NaN at first."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    _poison()
    # Of an input that takes a gradient, too: PyTorch's group norm crashes on CPUs where its parameters alone take one.
    given = frames.float().requires_grad_()
    learn = [given, *(parameter for parameter in network.parameters() if parameter.requires_grad)]
    with torch.enable_grad():
        with context():
            found = network.segment(given)
        loss = found.logits.float().square().mean() + found.features.float().square().mean()
        gradients = torch.autograd.grad(loss, learn, allow_unused=True)
    return [found.logits.detach(), found.features.detach(), *(one for one in gradients if one is not None)]


def _poison() -> None:
    """Leave the allocator with freed memory that holds NaN, in blocks of all sizes: large ones first, to fill it."""
    blocks, size = [], float(_MOST)
    while size >= _LEAST:
        blocks += [torch.full((int(size) // 4,), float("nan")) for _ in range(max(1, min(64, int(_POISONED / size))))]
        size /= 1.25
    del blocks
