"""A control the paper lacks: renew the BatchNorm statistics on the target, and do nothing else.

Every method that trains with live statistics does this on the side, so what it gains beyond this row is its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stpl.data.clip import Clip
from stpl.methods.base import Method


class BatchNormStatistics(Method):
    """Forward passes over both frames with live statistics (AdaBN, Li et al., 2018, with a running average)."""

    recordable = True

    def losses(self, clip: Clip) -> dict[str, Tensor]:
        """Nothing to minimise: the forward pass itself moves the statistics."""
        with torch.no_grad():
            self.network(clip)
        return {}
