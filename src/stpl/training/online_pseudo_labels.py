"""Methods that learn from the confident part of a prediction made in the step itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Clip
from stpl.errors import ConfigError
from stpl.losses.confidence import Scope, confident_pixels
from stpl.training.base import Method
from stpl.training.supervision import pseudo_label_loss


class OnlinePseudoLabels(Method):
    """Base of methods whose pseudo-labels are the confident pixels of the current prediction.

    Args:
        confident_proportion: k, the share of pixels whose pseudo-label is used, in (0, 1].
        confident_scope: whether pixels compete within the frame ("global") or within their class ("class").
    """

    def __init__(self, *, confident_proportion: float = 0.7, confident_scope: Scope = "global", **shared: Any) -> None:
        if not 0 < confident_proportion <= 1:
            fault, mend = f"{confident_proportion} is outside (0, 1]", "choose a share like 0.7"
            raise ConfigError(fault, where="model.confident_proportion", mend=mend)
        super().__init__(**shared)
        self.confident_proportion, self.confident_scope = confident_proportion, confident_scope

    def pseudo_labels(self, logits: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        """Pseudo-labels of a batch by the prediction `[B,K,h,w]`.

        Returns:
            Classes int64 `[B,h,w]`, and which of the pixels are confident, bool `[B,h,w]`.
        """
        return confident_pixels(logits, self.confident_proportion, self.confident_scope)

    def self_training(self, logits: Tensor, prediction: Tensor, clip: Clip) -> Tensor:
        """Cross-entropy of logits with the confident pseudo-labels of a prediction, both `[B,K,h,w]`."""
        labels, confident = self.pseudo_labels(prediction, clip)
        return pseudo_label_loss(logits, torch.where(confident, labels, IGNORE))
