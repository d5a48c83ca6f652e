"""Entropy of predictions, relative to that of ignorance."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes of logits `[B,K,h,w]`, in float32 or wider."""
    return _wide(logits).softmax(1)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def weighted_entropy(logits: Tensor) -> Tensor:
    """Weighted self-information -p·log p / log K of each class (Vu et al., ADVENT, CVPR 2019, Eq. 7), `[B,K,h,w]`.

    Its sum over classes lies in [0, 1]. By `log_softmax` in float32 or wider, so that no constant keeps the logarithm
    from 0.
    """
    log_p = F.log_softmax(_wide(logits), dim=1)
    return -log_p.exp() * log_p / math.log(logits.shape[1])


def entropy_map(logits: Tensor) -> Tensor:
    """Entropy of each pixel `[B,h,w]`, in [0, 1]."""
    return weighted_entropy(logits).sum(1)


def robust_entropy(logits: Tensor, eta: float = 2.0) -> Tensor:
    """Mean of ρ(H) = (H² + 0.001²)^η over all pixels (Yang and Soatto, FDA, CVPR 2020, Eq. 5).

    Pixels that are nearly sure get next to no gradient. H is the pixel's entropy in [0, 1], as in the released code,
    where the paper sums over classes what is not normalised.

    Args:
        logits: `[B,K,h,w]`.
        eta: η.
    """
    penalty: Tensor = (entropy_map(logits).square() + 1e-6) ** eta
    return penalty.mean()
