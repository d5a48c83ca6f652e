"""The source model as it is: the row every adaptation is compared with."""

from torch import Tensor

from stpl.data.clip import Batch
from stpl.training.base import Method


class SourceOnly(Method):
    """No adaptation; run it with `trainer.max_steps: 0`, which evaluates and records."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing to minimise."""
        return {}
