"""Training with labels: the source model, and the oracle on the target's labels."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from stpl.data.clip import Batch, Wants
from stpl.errors import check_range
from stpl.losses.segmentation import cross_entropy
from stpl.methods.base import Method
from stpl.methods.optimization import OptimizerOptions
from stpl.methods.ranks import pixel_weight
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.network import NetworkOptions
from stpl.nn.segmenter import upsample


class Supervised(Method):
    """Cross-entropy of the fused prediction, as the DA-VSN lineage trains its source models.

    A network with an auxiliary classifier (`network.auxiliary`) trains it along, fused by the same score fusion.

    Args:
        network: see `Method`.
        optimizer: see `Method`.
        checkpoint: see `Method`; a converted backbone will do.
        batchnorm: see `Method`.
        auxiliary_weight: of the auxiliary classifier's loss; 0.1 is that of AdaptSegNet, ADVENT, DA-VSN and TPS.
    """

    wants = Wants(flow=True, label=True)
    trains_classifiers = True
    leaves_idle = False
    recordable = True

    def __init__(
        self,
        network: NetworkOptions,
        optimizer: OptimizerOptions,
        checkpoint: Path | None = None,
        batchnorm: BatchNormOptions | None = None,
        auxiliary_weight: float = 0.1,
    ) -> None:
        check_range("model.auxiliary_weight", auxiliary_weight)
        super().__init__(network, optimizer, checkpoint, batchnorm)
        self.loss_weights = {"cross_entropy": 1.0, "auxiliary": auxiliary_weight}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of each classifier at the label's resolution, weighted."""
        clip, label = batch.target, batch.target.label
        assert label is not None  # wants.label
        known = pixel_weight(label)
        scores = self.network.fused_scores(clip)
        return {
            name: known * weight * cross_entropy(upsample(logits, (label.shape[-2], label.shape[-1])), label)
            for (name, weight), logits in zip(self.loss_weights.items(), scores, strict=False)
        }
