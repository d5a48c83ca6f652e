"""Diagnostics, not methods: what a loss would be worth if its pseudo-labels were right.

They read the target's labels, which nobody who adapts has. They take the very pixels that the method would take, and
give them their true class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Clip
from stpl.methods.self_training import SelfTraining
from stpl.methods.stpl import STPL
from stpl.training.evaluation import nearest


class TrueLabelSTPL(STPL):
    """`STPL` whose confident pixels have their true classes; takes the same arguments."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.wants = replace(self.wants, label=True)

    def pseudo_labels(self, logits: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        """The true classes of the pixels that the prediction is sure of."""
        return _true(*super().pseudo_labels(logits, clip), clip)


class TrueLabelSelfTraining(SelfTraining):
    """`SelfTraining` whose confident pixels have their true classes; takes the same arguments."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.wants = replace(self.wants, label=True)

    def pseudo_labels(self, logits: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        """The true classes of the pixels that the prediction is sure of."""
        return _true(*super().pseudo_labels(logits, clip), clip)


def _true(labels: Tensor, confident: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    """True classes in place of `labels` `[B,h,w]`; pixels whose class nobody knows do not take part."""
    assert clip.label is not None  # wants.label
    truth = nearest(clip.label, (labels.shape[-2], labels.shape[-1]))
    known = truth != IGNORE
    return torch.where(known, truth, labels), confident & known
