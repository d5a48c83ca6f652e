"""What methods share: optimiser, schedule, evaluation, checkpoints, pseudo-labels of a whole split.

Begin with `base`: a method defines its losses, everything else is written there.
"""

from stpl.training.base import Method
from stpl.training.optimization import OptimizerOptions

__all__ = ["Method", "OptimizerOptions"]
