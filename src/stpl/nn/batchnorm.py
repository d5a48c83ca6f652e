"""What adaptation may do to BatchNorm: nothing, renew its statistics, or train it."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNormPolicy = Literal["frozen", "statistics", "train"]
"""`frozen`: source statistics, affine parameters fixed. `statistics`: batch statistics normalise and move the running
ones, affine parameters fixed (the released code of DA-VSN and TPS). `train`: statistics and affine parameters move."""


def apply_batchnorm_policy(module: nn.Module, policy: BatchNormPolicy) -> None:
    """Set mode and `requires_grad` of every BatchNorm in `module`; call it again after each `module.train()`."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(policy != "frozen")
            for parameter in layer.parameters():
                parameter.requires_grad_(policy == "train")
