"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017) without labels: the student learns from its own moving average."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch, Wants
from stpl.losses.confidence import Scope, confident_pixels
from stpl.losses.cross_entropy import cross_entropy
from stpl.nn.accel import Accel
from stpl.nn.teacher import Teacher, TeacherOptions
from stpl.training.base import Method, check_proportion
from stpl.training.ranks import pixel_weight


class MeanTeacher(Method):
    """Cross-entropy on augmented clips with what the teacher is sure of on the clean ones; the teacher is evaluated.

    Tarvainen and Valpola ask for equal probabilities; hard labels of the confident pixels are what domain adaptation
    took up (DACS, DAFormer), and what the rows of self-training here have, too.

    Args:
        teacher: how the teacher follows.
        confident_proportion: k, the share of pixels whose pseudo-label is used, in (0, 1].
        confident_scope: whether pixels compete within the frame ("global") or within their class ("class").
    """

    wants = Wants(flow=True, augmented=True)
    recordable = True

    def __init__(
        self,
        *,
        teacher: TeacherOptions | None = None,
        confident_proportion: float = 0.7,
        confident_scope: Scope = "global",
        **shared: Any,
    ) -> None:
        check_proportion(confident_proportion)
        super().__init__(**shared)
        self.teacher = Teacher(self.network, teacher)
        self.confident_proportion, self.confident_scope = confident_proportion, confident_scope

    @property
    def evaluated(self) -> Accel:
        """The teacher."""
        return self.teacher.network

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the student's fused prediction with the teacher's confident pseudo-labels."""
        clip = batch.target
        assert clip.augmented is not None  # wants.augmented
        with torch.no_grad():
            labels, confident = confident_pixels(
                self.teacher.network(clip), self.confident_proportion, self.confident_scope
            )
        labels = torch.where(confident, labels, IGNORE)
        logits = self.network(replace(clip, frames=clip.augmented))
        return {"mean_teacher": pixel_weight(labels) * cross_entropy(logits, labels)}
