"""The source model as it is: the row every adaptation is compared with."""

from __future__ import annotations

from torch import Tensor

from stpl.data.clip import Clip
from stpl.methods.base import Method


class SourceOnly(Method):
    """No adaptation; run it with `trainer.max_steps: 0`, which evaluates and records."""

    def losses(self, clip: Clip) -> dict[str, Tensor]:
        """Nothing to minimise."""
        return {}
