"""Losses on the entropy of predictions, which is relative to that of ignorance."""

import math

from torch import Tensor
from torch.nn import functional as F


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes of logits `[B,K,h,w]`, in float32 or wider."""
    return _wide(logits).softmax(1)


def _wide(logits: Tensor) -> Tensor:
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ValueError(f"logits are [B,K,h,w] of two classes or more, got {list(logits.shape)}")
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def weighted_entropy(logits: Tensor) -> Tensor:
    """Weighted self-information -p·log p / log K of each class (Vu et al., ADVENT, CVPR 2019, Eq. 7), `[B,K,h,w]`.

    Its sum over classes lies in [0, 1]. By `log_softmax` in float32 or wider, so that no constant keeps the logarithm
    from 0.
    """
    log_p = F.log_softmax(_wide(logits), dim=1)
    return -log_p.exp() * log_p / math.log(logits.shape[1])


def entropy_map(logits: Tensor) -> Tensor:
    """Entropy of each pixel of logits `[B,K,h,w]`, `[B,h,w]` in [0, 1].

    Examples:
        >>> import torch
        >>> unsure, sure = entropy_map(torch.tensor([[0.0, 9.0], [0.0, 0.0]]).view(1, 2, 1, 2)).flatten().tolist()
        >>> unsure, round(sure, 4)
        (1.0, 0.0018)
    """
    return weighted_entropy(logits).sum(1)


def robust_entropy(logits: Tensor, eta: float = 2.0) -> Tensor:
    """Mean of ρ(H) = (H² + 0.001²)^η over all pixels (Yang and Soatto, FDA, CVPR 2020, Eq. 5).

    Pixels that are nearly sure get next to no gradient. H is the pixel's entropy in [0, 1], as in the released code,
    where the paper sums over classes what is not normalised.
    """
    penalty: Tensor = (entropy_map(logits).square() + 1e-6) ** eta
    return penalty.mean()


def certain_consistency(logits: Tensor, previous: Tensor, inside: Tensor) -> Tensor:
    """Draw a frame's prediction to the propagated one of the frame before, where that one is surer.

    Guan et al., DA-VSN, ICCV 2021: mean over pixels and classes of w·|p_t - p̂_{t-1}|, with w = 1 where p̂ is known and
    its entropy is the lower one. It lies in [0, 2/K].

    Args:
        logits: of the frame, `[B,K,h,w]`.
        previous: probabilities of the frame before on the same grid, `[B,K,h,w]`; they take no gradient.
        inside: bool `[B,h,w]`, where the frame before shows the pixel at all.
    """
    previous = previous.detach()
    surer = entropy_map(previous.clamp(min=1e-30).log()) < entropy_map(logits.detach())  # log p are logits of p
    return ((surer & inside)[:, None] * (probabilities(logits) - previous).abs()).mean()
