"""Diagnostics, not methods: what a loss would be worth if its pseudo-labels were right.

They read the target's labels, which nobody who adapts has, for the very pixels that the method would use.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Clip
from stpl.methods.self_training import SelfTraining
from stpl.methods.stpl import STPL
from stpl.nn.segmenter import grid_of
from stpl.training.evaluation import nearest
from stpl.training.supervision import OnlinePseudoLabels


class _TrueLabels(OnlinePseudoLabels):
    """Gives the confident pixels of the method that is mixed in their true classes."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.wants = replace(self.wants, labels=(0,))

    def pseudo_labels(self, logits: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        """The true classes of the confident pixels; those of unknown class do not take part."""
        labels, confident = super().pseudo_labels(logits, clip)
        truth = nearest(clip.labels[0], grid_of(labels))
        known = truth != IGNORE
        return torch.where(known, truth, labels), confident & known


class TrueLabelSTPL(_TrueLabels, STPL):
    """`STPL` whose confident pixels have their true classes."""


class TrueLabelSelfTraining(_TrueLabels, SelfTraining):
    """`SelfTraining` whose confident pixels have their true classes."""
