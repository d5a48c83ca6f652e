"""Vanilla self-training: cross-entropy with the network's own confident predictions (paper §4.3, Table 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch, Clip
from stpl.losses.confidence import Scope, confident_pixels
from stpl.losses.cross_entropy import cross_entropy
from stpl.training.base import Method, check_proportion
from stpl.training.ranks import pixel_weight


class SelfTraining(Method):
    """Pseudo-labels from the current network, cross-entropy on the most confident pixels, at feature resolution.

    Args:
        confident_proportion: k, the share of pixels whose pseudo-label is used, in (0, 1].
        confident_scope: whether pixels compete within the frame ("global") or within their class ("class").
    """

    recordable = True

    def __init__(self, *, confident_proportion: float = 0.7, confident_scope: Scope = "global", **shared: Any) -> None:
        check_proportion(confident_proportion)
        super().__init__(**shared)
        self.confident_proportion, self.confident_scope = confident_proportion, confident_scope

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the fused prediction with its own confident pseudo-labels."""
        logits = self.network(batch.target)
        labels, confident = self.pseudo_labels(logits, batch.target)
        labels = torch.where(confident, labels, IGNORE)
        return {"self_training": pixel_weight(labels) * cross_entropy(logits, labels)}

    def pseudo_labels(self, logits: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        """What the fused prediction `[B,K,h,w]` of a batch says of its pixels.

        Returns:
            Classes int64 `[B,h,w]`, and which of the pixels take part, bool `[B,h,w]`.
        """
        return confident_pixels(logits, self.confident_proportion, self.confident_scope)
