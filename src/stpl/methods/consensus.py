"""Consensus: what `stpl adapt` runs unless told otherwise. Agreement, a counterweight to it, few parameters that learn.

A moving average of the network (Tarvainen and Valpola, Mean Teacher, NeurIPS 2017) looks at clean frames, and the
network learns to say the same of augmented ones. What agreement alone would come to, few classes for all, a second term
forbids: the mean prediction is to have a high entropy (Krause et al., NeurIPS 2010; SHOT, Liang et al., ICML 2020).
Only the affine parameters of normalisation layers learn (as in TENT, Wang et al., ICLR 2021), too few of them to forget
what the source taught. What each part is worth stands in `docs/methods/consensus.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from stpl.data.clip import IGNORE, Batch, Clip, Wants
from stpl.errors import ConfigError, check_range
from stpl.losses.confidence import confident_pixels
from stpl.losses.ranks import gather_ranks
from stpl.losses.segmentation import cross_entropy
from stpl.methods.base import Method, check_proportion
from stpl.methods.optimization import OptimizerOptions
from stpl.methods.ranks import pixel_weight
from stpl.metrics.temporal import photometric_occlusion
from stpl.nn.accel import Accel, clip_flow
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.network import NetworkOptions
from stpl.nn.teacher import Teacher, TeacherOptions
from stpl.nn.warp import inside, warp

Vote = Literal["current", "previous", "augmented"]
Target = Literal["labels", "probabilities"]
Learning = Literal["normalization", "all"]


class Consensus(Method):
    """Cross-entropy of augmented frames with what the teacher says of clean ones, and diverse predictions.

    Args:
        network: see `Method`.
        optimizer: see `Method`.
        checkpoint: see `Method`.
        batchnorm: see `Method`.
        teacher: how the teacher, which is evaluated, follows.
        votes: whose probabilities are averaged: the teacher's for the `current` frame, for the `previous` one along the
            flow, where it shows the same, and for the `augmented` one.
        target: `labels`: the likeliest classes of the surest pixels of each class; `probabilities`: those of all
            pixels.
        confident_proportion: k, the share of each class's pixels whose label is used, in (0, 1].
        diversity: weight of the negative entropy of the mean prediction.
        learns: `normalization`: the affine parameters of normalisation layers, or all parameters of a network that has
            none; `all`: all parameters.
    """

    wants = Wants(flow=True, augmented=True)
    recordable = True

    def __init__(
        self,
        network: NetworkOptions,
        optimizer: OptimizerOptions,
        checkpoint: Path | None = None,
        batchnorm: BatchNormOptions | None = None,
        teacher: TeacherOptions | None = None,
        votes: tuple[Vote, ...] = ("current",),
        target: Target = "labels",
        confident_proportion: float = 0.7,
        diversity: float = 1.0,
        learns: Learning = "normalization",
    ) -> None:
        check_range("model.diversity", diversity)
        check_proportion(confident_proportion)
        if not votes:
            raise ConfigError("nobody votes", where="model.votes", mend="name views, such as [current]")
        self.learns = learns
        super().__init__(network, optimizer, checkpoint, batchnorm)
        self.teacher = Teacher(self.network, teacher)
        self.votes, self.confident_proportion, self.diversity = tuple(votes), confident_proportion, diversity
        self._agreement = {"labels": self._with_labels, "probabilities": _with_probabilities}[target]

    @property
    def evaluated(self) -> Accel:
        """The teacher."""
        return self.teacher.network

    def train(self, mode: bool = True) -> Self:
        """Set the mode, then what learns."""
        super().train(mode)
        affine = {id(parameter) for parameter in normalization_parameters(self.network)}
        if mode and affine and self.learns == "normalization":
            for parameter in self.network.parameters():
                parameter.requires_grad_(id(parameter) in affine)
        return self

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Agreement with the votes, and diversity over the frames of all processes."""
        clip = batch.target
        assert clip.augmented is not None  # wanted
        # With an input that takes a gradient: PyTorch's group norm crashes on CPUs where its parameters alone take one.
        logits = self.network.segment(clip.augmented[:, -1].float().requires_grad_()).logits
        probability = (logits if logits.dtype.itemsize >= 4 else logits.float()).softmax(1)
        mean = gather_ranks(probability.mean((0, 2, 3))[None]).mean(0)
        return {
            "agreement": self._agreement(logits, self.voted(clip)),
            "diversity": self.diversity * torch.special.xlogy(mean, mean).sum(),
        }

    @torch.no_grad()
    def voted(self, clip: Clip) -> Tensor:
        """Mean of the votes, probabilities `[B,K,h,w]` of the current frame."""
        votes = [self._vote(vote, clip) for vote in self.votes]
        return sum_of([p * shown for p, shown in votes]) / sum_of([shown for _, shown in votes]).clamp(min=1e-6)

    def _vote(self, vote: Vote, clip: Clip) -> tuple[Tensor, Tensor]:
        """Probabilities `[B,K,h,w]` on the current frame's grid, and where they count, `[B,1,h,w]`."""
        assert clip.augmented is not None  # wanted
        frames = {"current": clip.frames[:, -1], "previous": clip.frames[:, -2], "augmented": clip.augmented[:, -1]}
        probability = self.teacher.network.segment(frames[vote]).logits.float().softmax(1)
        if vote != "previous":
            return probability, torch.ones_like(probability[:, :1])
        assert clip.flow is not None  # wanted
        flow, size = clip.flow[:, -1], (probability.shape[-2], probability.shape[-1])
        hidden = photometric_occlusion(clip.frames[:, -1], warp(clip.frames[:, -2].float(), flow)) | ~inside(flow)
        shown = interpolate((~hidden)[:, None].float(), size, mode="area").floor()
        return warp(probability, clip_flow(clip, size)), shown

    def _with_labels(self, logits: Tensor, voted: Tensor) -> Tensor:
        """Cross-entropy with the voted classes, of the surest pixels of each class of every frame."""
        scores = voted.clamp(min=torch.finfo(torch.float32).tiny).log()
        labels, confident = confident_pixels(scores, self.confident_proportion, "class")
        labels = torch.where(confident, labels, IGNORE)
        return pixel_weight(labels) * cross_entropy(logits, labels)


def _with_probabilities(logits: Tensor, voted: Tensor) -> Tensor:
    """Cross-entropy with the voted probabilities, of all pixels."""
    wide = logits if logits.dtype.itemsize >= 4 else logits.float()
    return -(voted * wide.log_softmax(1)).sum(1).mean()


def sum_of(parts: list[Tensor]) -> Tensor:
    """Sum of tensors of one shape."""
    return torch.stack(parts).sum(0)


def normalization_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The affine parameters of all normalisation layers of a network."""
    for layer in nn.Module.modules(module):
        if isinstance(
            layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | nn.modules.instancenorm._InstanceNorm
        ):
            yield from layer.parameters(recurse=False)
