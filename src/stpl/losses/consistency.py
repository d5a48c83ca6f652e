"""Consistency of predictions over time."""

from __future__ import annotations

from torch import Tensor

from stpl.losses.entropy import entropy_map, probabilities, weighted_entropy


def certain_consistency(logits: Tensor, previous: Tensor, inside: Tensor) -> Tensor:
    """Draw a frame's prediction to the propagated one of the frame before, where that one is surer.

    Guan et al., DA-VSN, ICCV 2021: mean over pixels and classes of w·|p_t - p̂_{t-1}|, with w = 1 where p̂ is known and
    its entropy is the lower one.

    Args:
        logits: of the frame, `[B,K,h,w]`.
        previous: probabilities of the frame before on the same grid, `[B,K,h,w]`; they take no gradient.
        inside: bool `[B,h,w]`, where the frame before shows the pixel at all.

    Returns:
        A scalar in [0, 2/K].
    """
    previous = previous.detach()
    surer = entropy_of(previous) < entropy_map(logits.detach())
    return ((surer & inside)[:, None] * (probabilities(logits) - previous).abs()).mean()


def entropy_of(probability: Tensor) -> Tensor:
    """Entropy `[B,h,w]` in [0, 1] of probabilities `[B,K,h,w]`."""
    # log p are logits of p
    return weighted_entropy(probability.clamp(min=1e-30).log()).sum(1)
