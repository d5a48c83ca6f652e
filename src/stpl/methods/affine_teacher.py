"""Affine teacher: the default of `stpl adapt`. A mean teacher whose student can change very little."""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from stpl.data.clip import Batch
from stpl.methods.mean_teacher import MeanTeacher


class AffineTeacher(MeanTeacher):
    """Mean teacher of single frames, in which normalisation layers alone learn (as in TENT, Wang et al., ICLR 2021).

    Their affine parameters are too few to forget what the source taught, which is what self-training on errors comes to
    where everything learns; of a network that has none, all parameters learn. Frames are segmented one by one; the
    score fusion of ACCEL stays as it is. What else was tried stands in `docs/methods/affine_teacher.md`.
    """

    def train(self, mode: bool = True) -> Self:
        """Set the mode, then what learns."""
        super().train(mode)
        affine = {id(parameter) for parameter in normalization_parameters(self.network)}
        if mode and affine:
            for parameter in self.network.parameters():
                parameter.requires_grad_(id(parameter) in affine)
        return self

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the student with the teacher's confident pseudo-labels."""
        clip = batch.target
        assert clip.augmented is not None  # wanted
        with torch.no_grad():
            prediction = self.teacher.network.segment(clip.frame()).logits
        # Of an input that takes a gradient: PyTorch's group norm crashes on CPUs where its parameters alone take one.
        logits = self.network.segment(clip.augmented[:, -1].float().requires_grad_()).logits
        return {"affine_teacher": self.self_training(logits, prediction, clip)}


def normalization_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The affine parameters of all normalisation layers of a network."""
    for layer in nn.Module.modules(module):  # not `module.modules()`: some networks call a part of theirs `modules`
        if isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | _InstanceNorm):
            yield from layer.parameters(recurse=False)
