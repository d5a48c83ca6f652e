"""CoTTA: continual test-time adaptation (Wang et al., CVPR 2022)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import Batch, Clip, Wants
from stpl.losses.entropy import probabilities
from stpl.nn.accel import Accel
from stpl.nn.batchnorm import statistics_kept
from stpl.nn.mixing import rescaled
from stpl.nn.segmenter import grid_of, on_grid
from stpl.nn.teacher import START, Teacher, TeacherOptions, restore
from stpl.training.base import Method, check_settings
from stpl.training.supervision import pseudo_label_loss

_RESTORED = 0  # purpose of the numbers that are drawn
_TEACHER = TeacherOptions(decay=0.999, warmup=False)


class CoTTA(Method):
    """Cross-entropy with a weight-averaged teacher's labels, while weights are restored at random.

    The label of a pixel on which the start is unsure is the teacher's by the mean over scales and mirror images. Frames
    are segmented one by one, all parameters of the image network learn, and the teacher is evaluated.

    Args:
        teacher: how it follows the student: α 0.999, from the first step.
        scales: of the frames that the teacher's mean is over, beside 1; each is seen mirrored, too.
        threshold: confidence of the start above which the teacher's own prediction is the label, in [0, 1] (0.69: 0.05
            below the 5 % quantile of the authors' source model on its source images).
        restoration: probability with which a weight returns to its value at the start, each step (0.01).
    """

    wants = Wants()
    recordable = True

    def __init__(
        self,
        *,
        teacher: TeacherOptions = _TEACHER,
        scales: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5, 1.75, 2.0),
        threshold: float = 0.69,
        restoration: float = 0.01,
        **shared: Any,
    ) -> None:
        for scale in scales:
            check_settings(0.1, 10, scales=scale)
        check_settings(0, 1, threshold=threshold, restoration=restoration)
        super().__init__(**shared)
        self.teacher, self.start = Teacher(self.network, teacher), Teacher(self.network, START)
        self.scales, self.threshold, self.restoration = scales, threshold, restoration

    @property
    def evaluated(self) -> Accel:
        """The teacher."""
        return self.teacher.network

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Restore weights after the teacher has followed."""
        super().on_train_batch_start(batch, batch_idx)
        seed = int(self.generator(None, _RESTORED).integers(2**63))
        restore(self.network, self.start.network, self.restoration, seed)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the student with the teacher's labels, on all pixels."""
        frames = batch.target.frame()
        return {"cotta": pseudo_label_loss(self.network.segment(frames).logits, self.labels(frames))}

    @torch.no_grad()
    def labels(self, frames: Tensor) -> Tensor:
        """The labels int64 `[B,h,w]` of frames `[B,3,H,W]`, on the grid of the logits."""
        teacher = self.teacher.network
        plain = probabilities(teacher.segment(frames).logits)
        sure = probabilities(self.start.network.segment(frames).logits).amax(1) > self.threshold
        with statistics_kept(teacher):
            averaged = plain + _of_views(teacher, frames, self.scales, grid_of(plain))
        return torch.where(sure, plain.argmax(1), averaged.argmax(1))


def _of_views(network: Accel, frames: Tensor, scales: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Sum of the probabilities, on a grid of `size`, of frames at the scales, and of these and the frames mirrored."""
    others = [rescaled(Clip(frames[:, None]), scale).frame() for scale in scales]
    straight = [on_grid(probabilities(network.segment(view).logits), size) for view in others]
    views = [view.flip(-1) for view in (frames, *others)]
    mirrored = [on_grid(probabilities(network.segment(view).logits).flip(-1), size) for view in views]
    return torch.stack(straight + mirrored).sum(0)
