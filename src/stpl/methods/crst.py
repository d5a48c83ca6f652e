"""CRST: confidence-regularised self-training (Zou et al., ICCV 2019): CBST that does not train for certainty."""

from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch
from stpl.methods.cbst import CBST, relative
from stpl.training.base import check_settings
from stpl.training.offline_pseudo_labels import Predictions
from stpl.training.ranks import pixel_weight
from stpl.training.supervision import mean_where, smoothing_loss


class MRKLD(CBST):
    """CRST with a regularised model: labelled pixels are kept from certainty by the distance to equal probabilities.

    Args:
        smoothing_weight: α of that distance, -mean_k log p_k up to a constant (0.1). The released code multiplies by
            it twice, so that 0.1 is 0.01 there.
    """

    def __init__(self, *, smoothing_weight: float = 0.1, **shared: Any) -> None:
        check_settings(smoothing_weight=smoothing_weight)
        super().__init__(**shared)
        self.smoothing_weight = smoothing_weight

    def labelled(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the round's labels, and the distance of labelled pixels."""
        labels = batch.prepared["labels"]
        smoothing = smoothing_loss(logits.float().log_softmax(1), labels)
        return super().labelled(logits, batch) | {"smoothing": self.smoothing_weight * smoothing}


class LRENT(CBST):
    """CRST with regularised labels: a pixel has a soft label, proportional to (p_c/k_c)^(1/α).

    It has one where α·log Σ_c (p_c/k_c)^(1/α) is above 0, which is where that label is worth more than none.

    Args:
        softness: α, the weight of the labels' entropy (0.25); at 0 the labels would be those of CBST.
    """

    soft = True

    def __init__(self, *, softness: float = 0.25, **shared: Any) -> None:
        check_settings(1e-3, 10, softness=softness)
        super().__init__(**shared)
        self.softness = softness

    def labelled(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the round's soft labels."""
        labels, soft = batch.prepared["labels"], batch.prepared["soft"]
        loss = mean_where(-(soft * logits.float().log_softmax(1)).sum(1), labels != IGNORE)
        return {"self_training": pixel_weight(labels) * loss}

    def label(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The class of the largest p_c/k_c where a soft label is worth more than none."""
        powers = self._powers(predictions, thresholds)
        return torch.where(powers.logsumexp(1) > 0, powers.argmax(1), IGNORE)

    def soften(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The soft labels `[B,K,h,w]`."""
        return self._powers(predictions, thresholds).softmax(1)

    def _powers(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        return relative(predictions, thresholds).clamp(min=1e-30).log() / self.softness
