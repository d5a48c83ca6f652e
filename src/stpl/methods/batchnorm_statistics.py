"""Controls the paper lacks: renew the BatchNorm statistics on the target, and do nothing else."""

from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import Batch, Wants
from stpl.training.base import Method


class BatchNormStatistics(Method):
    """Forward passes over both frames with live statistics (AdaBN, Li et al., 2018, with a running average).

    Every method that trains with them does this on the side; what it gains beyond this is its own.

    Args:
        augmented: pass the augmented frames through the network too, as methods with augmented views do.
    """

    recordable = True

    def __init__(self, *, augmented: bool = False, **shared: Any) -> None:
        super().__init__(**shared)
        self.wants = Wants(augmented=augmented)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing to minimise: the forward passes themselves move the statistics."""
        with torch.no_grad():
            for frames in (batch.target.frames, batch.target.augmented):
                if frames is not None:
                    self.network.encode(frames[:, -2])
                    self.network.encode(frames[:, -1])
        return {}
