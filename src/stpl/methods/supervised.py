"""Training with labels: the source model, and the oracle on the target's labels."""

from typing import Any

from torch import Tensor

from stpl.data.clip import BACKWARD, Batch, Wants
from stpl.training.base import Method, check_settings
from stpl.training.supervision import AUXILIARY_WEIGHT, supervision


class Supervised(Method):
    """Cross-entropy of the fused prediction, as the DA-VSN lineage trains its source models.

    Args:
        auxiliary_weight: of the loss of an auxiliary classifier (`network.architecture.auxiliary`), whose scores are
            fused alike; 0.1 is that of AdaptSegNet, ADVENT, DA-VSN and TPS.
    """

    wants = Wants(flows=(BACKWARD,), labels=(0,))
    trains_classifiers = True
    leaves_idle = False
    recordable = True

    def __init__(self, *, auxiliary_weight: float = AUXILIARY_WEIGHT, **shared: Any) -> None:
        check_settings(auxiliary_weight=auxiliary_weight)
        super().__init__(**shared)
        self.auxiliary_weight = auxiliary_weight

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of each classifier at the label's resolution, weighted."""
        return supervision(self.network, batch.target, self.auxiliary_weight)
