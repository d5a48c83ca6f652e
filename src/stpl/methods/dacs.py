"""DACS (Tranheden et al., WACV 2021) and MIC (Hoyer et al., CVPR 2023), on the fused prediction of clips."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stpl.data.augment_device import augment
from stpl.data.clip import BACKWARD, Batch, Clip, Wants
from stpl.errors import check_range
from stpl.losses.cross_entropy import weighted_cross_entropy
from stpl.nn.accel import Accel
from stpl.nn.mixing import block_mask, class_mask, paste, resized
from stpl.nn.segmenter import upsample
from stpl.nn.teacher import Teacher, TeacherOptions
from stpl.training.base import Method, check_choice, check_settings
from stpl.training.supervision import LABELLED, beside, supervision

_CLASSES, _VIEW, _BLOCKS, _OWN_BLOCKS = 0, 1, 2, 3  # purposes of the numbers that are drawn
_AVERAGE = TeacherOptions(decay=0.99)

Previous = Literal["same", "own"]
"""Which blocks of the previous frame are hidden: those of the current one, or others."""


@dataclass(frozen=True)
class Judged:
    """What the teacher says of target clips.

    Attributes:
        labels: its likeliest class of every pixel, int64 `[B,H,W]` at the frames' size.
        weights: what they weigh, float32 `[B,H,W]`: the share of each clip's pixels that it is sure of.
    """

    labels: Tensor
    weights: Tensor


class DACS(Method):
    """Supervision on the source, and on target clips with half of a source clip's classes pasted into them.

    What is pasted has the source's labels; the rest has the teacher's, weighted by the share of pixels whose confidence
    reaches a threshold. The mixed clips are jittered and blurred. The teacher is the moving average of the network.

    Args:
        threshold: τ of the share of sure pixels (0.968).
        mixed_weight: of the loss of mixed clips (1).
        top: share of the rows at the top whose teacher's labels weigh nothing (0; DAFormer: 15 of 512 rows, 0.03).
        bottom: the same at the bottom, where the own car is seen (0; DAFormer: 120 of 512 rows, 0.234).
        teacher: its moving average (decay 0.99, as DACS; DAFormer has 0.999).
    """

    source_wants: Wants | None = LABELLED
    trains_classifiers = True
    wants = Wants(flows=(BACKWARD,))

    def __init__(
        self,
        *,
        threshold: float = 0.968,
        mixed_weight: float = 1.0,
        top: float = 0.0,
        bottom: float = 0.0,
        teacher: TeacherOptions = _AVERAGE,
        **shared: Any,
    ) -> None:
        check_settings(0, 1, threshold=threshold, top=top, bottom=bottom)
        check_settings(mixed_weight=mixed_weight)
        super().__init__(**shared)
        self.threshold, self.mixed_weight, self.margins = threshold, mixed_weight, (top, bottom)
        self.teacher = Teacher(self.network, teacher)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The source's supervision, and the mixed clips'."""
        judged = self.judged(batch.target)
        return {} if batch.source is None else self.mixing(batch.target, batch.source, judged)

    def mixing(self, target: Clip, source: Clip, judged: Judged) -> dict[str, Tensor]:
        """The terms that learn from the source."""
        labelled = replace(target, labels={0: judged.labels})
        other = resized(source.map(lambda x: beside(x, len(target.frames))), target.size)
        numbers = [generator.random(self.network.num_classes) for generator in self._generators(target, _CLASSES)]
        mask = class_mask(other.labels[0], self.to_device(torch.from_numpy(np.stack(numbers))))
        mixed = self.strong(paste(labelled, other, mask))
        logits = upsample(self.network(mixed), target.size)
        weights = judged.weights.masked_fill(mask, 1.0)
        found = self.mixed_weight * weighted_cross_entropy(logits, mixed.labels[0], weights)
        return supervision(self.network, source) | {"mixed": found}

    @torch.no_grad()
    def judged(self, clip: Clip) -> Judged:
        """The teacher's labels of clips as they are, and their weights."""
        confidence, labels = upsample(self.teacher.network(clip).float(), clip.size).softmax(1).max(1)
        share = (confidence >= self.threshold).float().mean((1, 2), keepdim=True)
        weights = share.expand(confidence.shape).clone()
        top, bottom = (round(part * clip.size[0]) for part in self.margins)
        weights[:, :top] = 0
        weights[:, clip.size[0] - bottom :] = 0
        return Judged(labels, weights)

    def strong(self, clip: Clip) -> Clip:
        """Clips with the cross-frame augmentation: jitter and blur."""
        seeds = [int(generator.integers(2**31)) for generator in self._generators(clip, _VIEW)]
        with torch.autocast(clip.frames.device.type, enabled=False):
            frames = [augment(self.augmentation, *of) for of in zip(clip.frames, seeds, strict=True)]
        return replace(clip, frames=torch.stack(frames))

    def _generators(self, clip: Clip, purpose: int) -> list[np.random.Generator]:
        return [self.generator(place, purpose) for place in range(len(clip.frames))]


@dataclass(frozen=True)
class Masking:
    """How much of the target is hidden.

    Attributes:
        block: side of a block in pixels (64, of frames or crops of 1024 rows; 32 of half the size).
        share: of the blocks that are hidden.
        previous: which blocks of the previous frame are.

    Raises:
        ConfigError: for a block below 1 pixel, a share outside [0, 1], or another choice.
    """

    block: int = 64
    share: float = 0.7
    previous: Previous = "same"

    def __post_init__(self) -> None:
        check_range("model.masking.block", self.block, 1)
        check_range("model.masking.share", self.share, 0, 1)
        check_choice(Previous, previous=self.previous)


class MIC(DACS):
    """DACS, and masked image consistency: the network learns the teacher's labels of target clips with hidden blocks.

    Without source data it is the masked consistency alone.

    Args:
        source_free: the masked consistency alone.
        masked_weight: λ_M (1).
        masking: what is hidden; the value there is the network's mean colour.
    """

    def __init__(
        self,
        *,
        source_free: bool = False,
        masked_weight: float = 1.0,
        masking: Masking | None = None,
        **shared: Any,
    ) -> None:
        check_settings(masked_weight=masked_weight)
        super().__init__(**shared)
        self.masked_weight, self.masking = masked_weight, masking or Masking()
        if source_free:
            self.source_wants = None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of DACS unless the source is left out, and the masked consistency."""
        target, judged = batch.target, self.judged(batch.target)
        found = {} if batch.source is None else self.mixing(target, batch.source, judged)
        hidden = self.masked(self.strong(target))
        logits = upsample(self.network(hidden), target.size)
        return found | {"masked": self.masked_weight * weighted_cross_entropy(logits, judged.labels, judged.weights)}

    def masked(self, clip: Clip) -> Clip:
        """Clips float32 in which the hidden blocks have the mean colour."""
        purposes = {"same": (_BLOCKS, _BLOCKS), "own": (_OWN_BLOCKS, _BLOCKS)}[self.masking.previous]
        masks = self.to_device(torch.stack([self._blocks(clip, purpose) for purpose in purposes], 1))
        colour = mean_colour(self.network)
        hidden = [clip.frames[:, :, i].float().masked_fill(masks, level) for i, level in enumerate(colour)]
        return replace(clip, frames=torch.stack(hidden, 2))

    def _blocks(self, clip: Clip, purpose: int) -> Tensor:
        return block_mask(clip.size, self.masking.block, self.masking.share, self._generators(clip, purpose))


def mean_colour(network: Accel) -> tuple[float, float, float]:
    """The colour RGB in 0..255 that the network's normalisation makes 0."""
    first, second, third = network.normalization.mean
    return (first, second, third) if network.normalization.channels == "rgb" else (third, second, first)
