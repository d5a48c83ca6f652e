"""TENT: test-time adaptation by entropy minimisation (Wang et al., ICLR 2021)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from stpl.data.clip import Batch
from stpl.losses.entropy import entropy_map
from stpl.nn.accel import Accel
from stpl.training.base import Method


class TENT(Method):
    """Mean entropy of the fused prediction, which the affine parameters of normalisation layers alone lower.

    BatchNorm normalises by the batch, as everywhere here; of a network without affine parameters, all parameters learn.
    """

    recordable = True

    def train(self, mode: bool = True) -> Self:
        """Set the mode, then what learns."""
        super().train(mode)
        if mode:
            only_normalization_learns(self.network)
        return self

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Entropy of the fused prediction, in [0, 1], mean over all pixels."""
        # Of an input that takes a gradient: PyTorch's group norm crashes on CPUs where its parameters alone take one.
        clip = replace(batch.target, frames=batch.target.frames.float().requires_grad_())
        return {"entropy": entropy_map(self.network(clip)).mean()}


def only_normalization_learns(network: Accel) -> None:
    """Freeze all but the affine parameters of normalisation layers; nothing, if there are none."""
    affine = {id(parameter) for parameter in normalization_parameters(network)}
    for parameter in network.parameters() if affine else ():
        parameter.requires_grad_(id(parameter) in affine)


def normalization_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The affine parameters of all normalisation layers of a network."""
    for layer in nn.Module.modules(module):  # not `module.modules()`: some networks call a part of theirs `modules`
        if isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | _InstanceNorm):
            yield from layer.parameters(recurse=False)
