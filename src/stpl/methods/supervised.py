"""Training with labels: the source model, and the oracle on the target's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from stpl.data.clip import Clip, Wants
from stpl.losses.segmentation import cross_entropy
from stpl.methods.base import Method, OptimizerOptions
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.network import NetworkOptions
from stpl.nn.segmenter import upsample


class Supervised(Method):
    """Cross-entropy of the fused prediction, as the DA-VSN lineage trains its source models.

    Args:
        network: see `Method`.
        optimizer: see `Method`.
        checkpoint: see `Method`.
        batchnorm: see `Method`.
        head_factor: the classifier and the score fusion learn at `head_factor·lr`; the lineage uses 10 with SGD.
    """

    wants = Wants(flow=True, label=True)

    def __init__(
        self,
        network: NetworkOptions,
        optimizer: OptimizerOptions,
        checkpoint: Path | None = None,
        batchnorm: BatchNormOptions | None = None,
        head_factor: float = 1.0,
    ) -> None:
        super().__init__(network, optimizer, checkpoint, batchnorm)
        self.head_factor = head_factor

    def losses(self, clip: Clip) -> dict[str, Tensor]:
        """Cross-entropy at the label's resolution."""
        assert clip.label is not None  # wants.label
        logits = upsample(self.network(clip), (clip.label.shape[-2], clip.label.shape[-1]))
        return {"cross_entropy": cross_entropy(logits, clip.label)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The backbone at lr, the heads at `head_factor`·lr."""
        lr = self.optimizer_options.lr
        backbone = [(name, p) for name, p in self.network.named_parameters() if ".backbone." in name]
        heads = [p for name, p in self.network.named_parameters() if ".backbone." not in name]
        return [
            {"params": [p for _, p in backbone], "lr": lr},
            {"params": heads, "lr": lr * self.head_factor},
        ]
