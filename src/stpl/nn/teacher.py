"""A teacher: the exponential moving average of a network (Tarvainen and Valpola, Mean Teacher, NeurIPS 2017)."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from stpl.errors import check_range
from stpl.nn.accel import Accel
from stpl.nn.batchnorm import BatchNormOptions, apply_batchnorm, batchnorm_layers, statistics_of
from stpl.nn.foreign import copied

Statistics = Literal["own", "average", "student", "start"]
"""What a teacher normalises by. `own`: its batches, which move its running statistics (DACS, DAFormer). `average`: the
moving average of the student's running statistics. `student`: the student's of the moment (HCL). `start`: those it
began with."""


@dataclass(frozen=True)
class TeacherOptions:
    """How a teacher follows its student.

    Attributes:
        decay: α of θ' ← αθ' + (1-α)θ, in [0, 1].
        warmup: take min(1 - 1/(step+1), α) instead, so that the first steps' teacher is the mean of all students so
            far (Mean Teacher, DACS and DAFormer). At step 0 it is the student itself.
        period: steps between two updates; with decay 0, the teacher is the network of up to `period` steps ago (HCL).
        statistics: what it normalises by, see `Statistics`.

    Raises:
        ConfigError: for a decay outside [0, 1] or a period below 1.
    """

    decay: float = 0.999
    warmup: bool = True
    period: int = 1
    statistics: Statistics = "own"

    def __post_init__(self) -> None:
        check_range("teacher.decay", self.decay, 0, 1)
        check_range("teacher.period", self.period, 1)


START = TeacherOptions(decay=1.0, warmup=False)
"""Of a teacher that stays what the student was at the start."""


class Teacher(nn.Module):
    """A copy of a network that follows it, takes no gradient and drops nothing out.

    A method that holds one as a sub-module need do nothing more: it follows at the beginning of every step, from the
    weights that are there then, so that a resumed run goes on to the same bits and all processes have the same one.
    """

    def __init__(self, student: Accel, options: TeacherOptions | None = None) -> None:
        super().__init__()
        self.options = options or TeacherOptions()
        self.network = copied(student).requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: Accel, step: int) -> None:
        """Move towards the student as it is at the beginning of `step` (from 0); in place, with no copy of weights."""
        if step % self.options.period:
            return
        decay = self.options.decay
        if self.options.warmup:
            decay = min(1 - 1 / (step + 1), decay)
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(student.parameters())
        if self.options.statistics in ("average", "student"):
            kept, new = (statistics_of(batchnorm_layers(network)) for network in (self.network, student))
            if self.options.statistics == "student":
                torch._foreach_copy_(kept, new)
            else:
                mine, theirs = mine + kept, theirs + new
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def apply_batchnorm(self, options: BatchNormOptions) -> None:
        """Normalise by own batches if that is chosen, with the student's momentum; call it after each `train()`."""
        if self.options.statistics == "own" and options.policy != "frozen":
            apply_batchnorm(self.network, options)
            self.network.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the student does; `apply_batchnorm` says what BatchNorm does."""
        return super().train(False)


@torch.no_grad()
def restore(network: Accel, start: Accel, probability: float, seed: int) -> None:
    """Give each weight that learns, with a probability, the value it has in `start`: CoTTA's stochastic restoration."""
    learning = [pair for pair in zip(network.parameters(), start.parameters(), strict=True) if pair[0].requires_grad]
    generator = torch.Generator(learning[0][0].device).manual_seed(seed)
    for now, then in learning:
        drawn = torch.rand(now.shape, generator=generator, device=now.device)
        now.copy_(torch.where(drawn < probability, then, now))
