"""Class-balanced self-training (Zou et al., CBST, ECCV 2018), without its source term."""

from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch
from stpl.training.base import check_settings
from stpl.training.offline_pseudo_labels import OfflinePseudoLabels, Predictions, confidence_at


class CBST(OfflinePseudoLabels):
    """Cross-entropy with labels of the most confident share of each class over the whole split, in rounds.

    A class c has the threshold k_c: the probability at rank p·n_c among the n_c pixels predicted as c. A pixel's label
    is the class with the largest p_c/k_c, if that is 1 or more. The share p grows from round to round.

    Args:
        share: p of the first round, in (0, 1] (0.2).
        growth: what it grows by each round (0.05).
        largest_share: what it does not exceed (0.5).
    """

    recordable = True

    def __init__(self, *, share: float = 0.2, growth: float = 0.05, largest_share: float = 0.5, **shared: Any) -> None:
        check_settings(0, 1, share=share, growth=growth, largest_share=largest_share)
        super().__init__(**shared)
        self.share, self.growth, self.largest_share = share, growth, largest_share

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the fused prediction with the round's labels."""
        return self.self_training(self.network(batch.target), batch)

    def thresholds(self, histogram: Tensor, before: Tensor | None, round_: int) -> Tensor:
        """k_c of each class; 1 for one that too few pixels are predicted as."""
        share = min(self.largest_share, self.share + round_ * self.growth)
        wanted = (histogram.sum(1) * share).floor()
        found = confidence_at(histogram, wanted)
        return torch.where(wanted >= 1, found, torch.ones_like(found))

    def label(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The class of the largest p_c/k_c where that is 1 or more."""
        best, labels = ((1 - predictions.doubts) / thresholds.clamp(min=1e-12)[..., None, None]).max(1)
        return torch.where(best >= 1, labels, IGNORE)
