"""Cross-entropy that survives frames without a single labelled pixel."""

from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits `[B,K,H,W]` over pixels whose label int64 `[B,H,W]` is not 255, in float32.

    It is 0 with zero gradients if there is none, where `torch`'s own mean is NaN.
    """
    # Summed here: on CUDA only the unreduced form is deterministic.
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none").sum()
    return total / (labels != IGNORE).sum().clamp(min=1)
