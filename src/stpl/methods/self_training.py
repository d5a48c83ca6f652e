"""Vanilla self-training: cross-entropy with the network's own confident predictions (paper §4.3, Table 3)."""

from torch import Tensor

from stpl.data.clip import Batch
from stpl.training.supervision import OnlinePseudoLabels


class SelfTraining(OnlinePseudoLabels):
    """Cross-entropy of the fused prediction with its own confident pseudo-labels, at feature resolution."""

    recordable = True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the fused prediction with its own confident pseudo-labels."""
        logits = self.network(batch.target)
        return {"self_training": self.self_training(logits, logits, batch.target)}
