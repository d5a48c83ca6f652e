"""What adaptation may do to BatchNorm: nothing, renew its statistics, or train it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
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
    """

    policy: BatchNormPolicy = "statistics"
    momentum: float = 0.1


def apply_batchnorm(module: nn.Module, options: BatchNormOptions) -> None:
    """Set mode, momentum and `requires_grad` of every BatchNorm in `module`; call it after each `module.train()`."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(options.policy != "frozen")
            layer.momentum = options.momentum
            for parameter in layer.parameters():
                parameter.requires_grad_(options.policy == "train")
