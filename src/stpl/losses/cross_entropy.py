"""Cross-entropy that survives frames without a single labelled pixel."""

import torch
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


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over all pixels of w·CE, of logits `[B,K,H,W]`, labels int64 `[B,H,W]` and weights `[B,H,W]`, in float32.

    Pixels without a label (255) count with 0; DACS and DAFormer divide by all pixels.

    Examples:
        >>> import torch
        >>> labels = torch.tensor([[[0, 255]]])
        >>> round(weighted_cross_entropy(torch.zeros(1, 2, 1, 2), labels, torch.ones(1, 1, 2)).item(), 4)
        0.3466
    """
    each = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    return (weights * each).mean()


def balanced_cross_entropy(logits: Tensor, labels: Tensor, exponent: float) -> Tensor:
    """Cross-entropy in which a pixel weighs n^-exponent, n the pixels of its class in its frame; mean over frames.

    Args:
        logits: `[B,K,h,w]`.
        labels: int64 `[B,h,w]`, 255 = none. A frame without any counts with 0.
        exponent: 0 weighs all pixels alike, 1 all classes of a frame.
    """
    each = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    members = torch.stack([labels == label for label in range(logits.shape[1])], 1)
    counts = members.sum((2, 3)).clamp(min=1)
    weights = (members * counts[:, :, None, None].to(each.dtype) ** -exponent).sum(1)
    return ((weights * each).sum((1, 2)) / weights.sum((1, 2)).clamp(min=torch.finfo(each.dtype).tiny)).mean()
