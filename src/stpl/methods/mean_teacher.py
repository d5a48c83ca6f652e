"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017) without labels: the student learns from its own moving average."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, Batch, Wants
from stpl.nn.accel import Accel
from stpl.nn.teacher import Teacher, TeacherOptions
from stpl.training.supervision import OnlinePseudoLabels


class MeanTeacher(OnlinePseudoLabels):
    """Cross-entropy on augmented clips with the teacher's confident pseudo-labels on the clean ones.

    The teacher is evaluated. Tarvainen and Valpola demand equal probabilities; hard labels of the confident pixels are
    what domain adaptation took up (DACS, DAFormer), and what the rows of self-training here have, too.

    Args:
        teacher: how the teacher follows the student.
    """

    wants = Wants(flows=(BACKWARD,), augmented=True)
    recordable = True

    def __init__(self, *, teacher: TeacherOptions | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.teacher = Teacher(self.network, teacher)

    @property
    def evaluated(self) -> Accel:
        """The teacher."""
        return self.teacher.network

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the student's fused prediction with the teacher's confident pseudo-labels."""
        clip = batch.target
        assert clip.augmented is not None  # wants.augmented
        with torch.no_grad():
            prediction = self.teacher.network(clip)
        logits = self.network(replace(clip, frames=clip.augmented))
        return {"mean_teacher": self.self_training(logits, prediction, clip)}
