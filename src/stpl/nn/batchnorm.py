"""What adaptation may do to BatchNorm: nothing, renew its statistics, or train it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stpl.errors import check_range

BatchNormPolicy = Literal["frozen", "statistics", "train"]
"""`frozen`: source statistics, affine parameters fixed. `statistics`: batch statistics normalise and move the running
ones, affine parameters fixed (the released code of DA-VSN and TPS). `train`: statistics and affine parameters move."""


@dataclass(frozen=True)
class BatchNormOptions:
    """What training does to the network's BatchNorm layers.

    Attributes:
        policy: "frozen", "statistics" or "train", see `BatchNormPolicy`.
        momentum: share of a batch in the running statistics at each forward pass; 0.1 is the lineage's. Less makes the
            statistics of a short run steadier. `None` makes them the mean over all batches of the run, with nothing
            left of the statistics it started from.
        synchronized: of several processes, whether batch statistics are those of all their batches together
            (SyncBatchNorm, GPUs only). Otherwise each process normalises by its own batch, and only the running
            statistics are averaged over processes.

    Raises:
        ConfigError: for a momentum outside [0, 1], with which variances would fall below 0.
    """

    policy: BatchNormPolicy = "statistics"
    momentum: float | None = 0.1
    synchronized: bool = False

    def __post_init__(self) -> None:
        if self.momentum is not None:
            check_range("batchnorm.momentum", self.momentum, 0, 1)


def apply_batchnorm(module: nn.Module, options: BatchNormOptions) -> None:
    """Set mode, momentum and `requires_grad` of every BatchNorm in `module`; call it after each `module.train()`."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(options.policy != "frozen")
            if options.momentum is None:
                _weigh_equally(layer)
            else:
                layer.momentum = options.momentum
            for parameter in layer.parameters():
                parameter.requires_grad_(options.policy == "train")


def forget_batches(module: nn.Module) -> None:
    """Have every BatchNorm in `module` count its batches from 0, as at the start of a run."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and layer.num_batches_tracked is not None:
            layer.num_batches_tracked.zero_()


def _weigh_equally(layer: _BatchNorm) -> None:
    assert layer.num_batches_tracked is not None
    seen = int(layer.num_batches_tracked)
    known = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, _EqualShares)]
    if known:
        known[0].seen = seen
    else:
        layer.register_forward_pre_hook(_EqualShares(seen))


class _EqualShares:
    """Gives the nth batch of a layer the share 1/n; PyTorch's own way reads n from the device at every forward pass."""

    def __init__(self, seen: int) -> None:
        self.seen = seen

    def __call__(self, layer: nn.Module, inputs: tuple[object, ...]) -> None:
        """Set the momentum of the batch that comes."""
        if layer.training:
            self.seen += 1
            layer.momentum = 1 / self.seen  # type: ignore[assignment]


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Replace the running statistics of `module` by their mean over all processes, where there are several.

    Call it once a step, after the backward pass, which must find the statistics as the forward pass left them. Running
    statistics are linear in those of the batches: the mean is what one process keeps whose batches are as small. Layers
    that do not move their statistics are left out.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training]
    buffers = [b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]
    if buffers:
        together = torch.cat(buffers)
        distributed.all_reduce(together)
        together /= distributed.get_world_size()
        for buffer, mean in zip(buffers, torch.split(together, [len(b) for b in buffers]), strict=True):
            buffer.copy_(mean)
