"""CBST: class-balanced self-training (Zou et al., ECCV 2018), with and without its source term."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch
from stpl.errors import check_range
from stpl.training.base import check_settings
from stpl.training.offline_pseudo_labels import OfflinePseudoLabels, Predictions, confidence_at
from stpl.training.supervision import LABELLED, supervision


@dataclass(frozen=True)
class Portion:
    """Portion of the source's clips that a round trains on beside the target's.

    Attributes:
        first: that of the first round.
        growth: what it grows by each round.
        largest: what it does not exceed.

    Raises:
        ConfigError: for a value outside [0, 1].
    """

    first: float = 0.03
    growth: float = 0.0025
    largest: float = 0.06

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_range(f"model.source_portion.{name}", value, 0, 1)

    def of(self, round_: int) -> float:
        """That of a round, from 0."""
        return min(self.largest, self.first + round_ * self.growth)


class CBST(OfflinePseudoLabels):
    """Cross-entropy with labels of the most confident share of each class over the whole split, in rounds.

    A class c has the threshold k_c: the probability at rank p·n_c among the n_c pixels predicted as c. A pixel's label
    is the class with the largest p_c/k_c, if that is 1 or more. The share p grows from round to round, and so does the
    portion of the source that is trained on beside the target.

    Args:
        share: p of the first round, in (0, 1] (0.2).
        growth: what it grows by each round (0.05).
        largest_share: what it does not exceed (0.5).
        source_free: train on the target alone.
        source_portion: of the source's clips. A step sees a source clip beside each target clip, and weighs the two as
            that portion of the source's clips to all of the target's.
    """

    recordable = True

    def __init__(
        self,
        *,
        share: float = 0.2,
        growth: float = 0.05,
        largest_share: float = 0.5,
        source_free: bool = False,
        source_portion: Portion | None = None,
        **shared: Any,
    ) -> None:
        check_settings(0, 1, share=share, growth=growth, largest_share=largest_share)
        super().__init__(**shared)
        self.share, self.growth, self.largest_share = share, growth, largest_share
        self.source_portion = source_portion or Portion()
        if not source_free:
            self.source_wants = LABELLED

    def prepare(self, batch: Batch) -> Batch:
        """Add the round's labels of the target's clips, and the weight of the source's."""
        batch = super().prepare(batch)
        if self.source_wants is None:
            return batch
        ours, theirs = (len(self._data.reader("train", domain)) for domain in ("target", "source"))
        portion = theirs * self.source_portion.of(self._round or 0)
        weight = torch.full((), portion / (portion + ours))
        return replace(batch, prepared={**batch.prepared, "source_weight": self.to_device(weight)})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of the fused prediction with the round's labels, and supervision on the source."""
        found = self.labelled(self.network(batch.target), batch)
        if batch.source is None:
            return found
        weight = batch.prepared["source_weight"]
        theirs = supervision(self.network, batch.source)
        return {n: (1 - weight) * loss for n, loss in found.items()} | {n: weight * loss for n, loss in theirs.items()}

    def labelled(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The losses of logits `[B,K,h,w]` of the target."""
        return self.self_training(logits, batch)

    def thresholds(self, histogram: Tensor, before: Tensor | None, round_: int) -> Tensor:
        """k_c of each class; 1 for one that too few pixels are predicted as."""
        share = min(self.largest_share, self.share + round_ * self.growth)
        wanted = (histogram.sum(1) * share).floor()
        found = confidence_at(histogram, wanted)
        return torch.where(wanted >= 1, found, torch.ones_like(found))

    def label(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The class of the largest p_c/k_c where that is 1 or more."""
        best, labels = relative(predictions, thresholds).max(1)
        return torch.where(best >= 1, labels, IGNORE)


def relative(predictions: Predictions, thresholds: Tensor) -> Tensor:
    """p_c/k_c of every class, `[B,K,h,w]`."""
    return (1 - predictions.doubts) / thresholds.clamp(min=1e-12)[..., None, None]
