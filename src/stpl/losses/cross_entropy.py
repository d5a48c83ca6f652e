"""Cross-entropy that survives frames without a single labelled pixel."""

from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import IGNORE
from stpl.losses.pixel_sets import check_classes


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits `[B,K,H,W]` over pixels whose label int64 `[B,H,W]` is not 255, in float32.

    It is 0 with zero gradients if there is none, where `torch`'s own mean is NaN.

    Raises:
        ValueError: for labels that are no integers, or not on the grid of the logits.

    Examples:
        >>> import torch
        >>> cross_entropy(torch.zeros(1, 2, 1, 2), torch.full((1, 1, 2), 255)).item()
        0.0
    """
    check_classes(labels)
    if logits.ndim != 4 or labels.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(f"logits {list(logits.shape)} and labels {list(labels.shape)} are not on one grid")
    labels = labels.long()
    # Summed here: on CUDA only the unreduced form is deterministic.
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none").sum()
    return total / (labels != IGNORE).sum().clamp(min=1)
