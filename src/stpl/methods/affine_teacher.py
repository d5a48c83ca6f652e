"""Affine teacher: the default of `stpl adapt`. A mean teacher whose student can change very little."""

from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch, Clip
from stpl.losses.cross_entropy import balanced_cross_entropy
from stpl.losses.entropy import probabilities
from stpl.methods.mean_teacher import MeanTeacher
from stpl.methods.tent import only_normalization_learns
from stpl.nn.accel import clip_flow
from stpl.nn.segmenter import grid_of
from stpl.nn.teacher import START, Teacher, restore
from stpl.nn.warp import warp
from stpl.training.base import check_choice, check_settings
from stpl.training.supervision import pseudo_label_loss

Learns = Literal["normalization", "all"]
Trust = Literal["teacher", "average", "agreement", "confidence", "time"]
"""Which pseudo-labels are used. `teacher`: the teacher's, of the pixels that it is surest of. `average`: likewise, by
the mean of its probabilities and those of the start, whose statistics are the batch's. `agreement`: of these pixels of
the teacher's, those that the start gives the same class. `confidence`: the teacher's of the pixels that the start is
surest of. `time`: of the teacher's, those that it gives the same class in the frame before, along the flow."""

_RESTORED = 0  # purpose of the numbers that are drawn


class AffineTeacher(MeanTeacher):
    """Mean teacher of single frames, in which normalisation layers alone learn (as in TENT, Wang et al., ICLR 2021).

    Their affine parameters are too few to forget what the source taught, which is what self-training on errors comes to
    where everything learns; of a network that has none, all parameters learn. Frames are segmented one by one; the
    score fusion of ACCEL stays as it is. What else was tried stands in `docs/methods/affine_teacher.md`.

    Args:
        learns: the affine parameters of normalisation layers, or all parameters.
        trust: which pseudo-labels are used, see `Trust`.
        balance: β; pixels of a class that has n of a frame's pseudo-labels weigh n^-β, in [0, 1]. At 1 all classes
            weigh the same.
        restoration: probability with which a weight returns to its value at the start, each step, as in CoTTA.
    """

    def __init__(
        self,
        *,
        learns: Learns = "normalization",
        trust: Trust = "teacher",
        balance: float = 0.0,
        restoration: float = 0.0,
        **shared: Any,
    ) -> None:
        check_choice(Learns, learns=learns)
        check_choice(Trust, trust=trust)
        check_settings(0, 1, balance=balance, restoration=restoration)
        self.learns: Learns = learns
        super().__init__(**shared)
        self.restoration = restoration
        self.start = Teacher(self.network, START) if restoration or trust not in ("teacher", "time") else None
        self._choose = getattr(self, f"_by_{trust}")
        self._loss = partial(balanced_cross_entropy, exponent=balance) if balance else pseudo_label_loss

    def train(self, mode: bool = True) -> Self:
        """Set the mode, then what learns."""
        super().train(mode)
        if mode and self.learns == "normalization":
            only_normalization_learns(self.network)
        return self

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Restore weights after the teacher has followed."""
        super().on_train_batch_start(batch, batch_idx)
        if self.restoration and self.start is not None:
            seed = int(self.generator(None, _RESTORED).integers(2**63))
            restore(self.network, self.start.network, self.restoration, seed)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the student with the teacher's confident pseudo-labels."""
        clip = batch.target
        assert clip.augmented is not None  # wanted
        with torch.no_grad():
            prediction = self.teacher.network.segment(clip.frame()).logits
            labels, chosen = self._choose(prediction, clip)
        # Of an input that takes a gradient: PyTorch's group norm crashes on CPUs where its parameters alone take one.
        logits = self.network.segment(clip.augmented[:, -1].float().requires_grad_()).logits
        return {"affine_teacher": self._loss(logits, torch.where(chosen, labels, IGNORE))}

    def _by_teacher(self, prediction: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        """Labels int64 `[B,h,w]` by the teacher's logits of the current frame, and where they are used, bool."""
        return self.pseudo_labels(prediction, clip)

    def _by_average(self, prediction: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        return self.pseudo_labels((probabilities(prediction) + probabilities(self._of_start(clip))).log(), clip)

    def _by_agreement(self, prediction: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        labels, confident = self.pseudo_labels(prediction, clip)
        return labels, confident & (self._of_start(clip).argmax(1) == labels)

    def _by_confidence(self, prediction: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        return prediction.argmax(1), self.pseudo_labels(self._of_start(clip), clip)[1]

    def _by_time(self, prediction: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        labels, confident = self.pseudo_labels(prediction, clip)
        before = self.teacher.network.segment(clip.frame(-1)).logits
        classes = torch.arange(before.shape[1], device=before.device)[:, None, None]
        said = warp((before.argmax(1, keepdim=True) == classes).to(before.dtype), clip_flow(clip, grid_of(before)))
        return labels, confident & (said.gather(1, labels[:, None])[:, 0] > 0.5)

    def _of_start(self, clip: Clip) -> Tensor:
        """Logits of the start for the current frame."""
        assert self.start is not None
        return self.start.network.segment(clip.frame()).logits
