"""What adaptation may do to BatchNorm: nothing, renew its statistics, or train it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNormPolicy = Literal["frozen", "statistics", "train"]
"""`frozen`: source statistics, affine parameters fixed. `statistics`: batch statistics normalise and move the running
ones, affine parameters fixed (the released code of DA-VSN and TPS). `train`: statistics and affine parameters move."""


@dataclass(frozen=True)
class BatchNormOptions:
    """What training does to the network's BatchNorm layers.

    Attributes:
        policy: "frozen", "statistics" or "train", see `BatchNormPolicy`.
        momentum: share of a batch in the running statistics at each forward pass; 0.1 is the lineage's. Less makes the
            statistics of a short run steadier.
        synchronized: of several processes, whether batch statistics are those of all their batches together
            (SyncBatchNorm, GPUs only). Otherwise each process normalises by its own batch, and only the running
            statistics are averaged over processes.
    """

    policy: BatchNormPolicy = "statistics"
    momentum: float = 0.1
    synchronized: bool = False


def apply_batchnorm(module: nn.Module, options: BatchNormOptions) -> None:
    """Set mode, momentum and `requires_grad` of every BatchNorm in `module`; call it after each `module.train()`."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(options.policy != "frozen")
            layer.momentum = options.momentum
            for parameter in layer.parameters():
                parameter.requires_grad_(options.policy == "train")


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
