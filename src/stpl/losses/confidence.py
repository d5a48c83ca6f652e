"""Pseudo-labels and which of them to trust (paper §3.2, «confident proportion k»)."""

from typing import Literal

import torch
from torch import Tensor

Scope = Literal["global", "class"]


def confident_pixels(logits: Tensor, proportion: float, scope: Scope = "global") -> tuple[Tensor, Tensor]:
    """Pseudo-labels int64 `[B,h,w]` of logits `[B,K,h,w]`, and where they are kept, bool `[B,h,w]`; no gradient.

    Confidence is the largest softmax probability, and `proportion` is k in (0, 1]. `global` keeps the ⌊k·h·w⌉ most
    confident pixels of every frame, as the paper's `topk(ŷ; k)` reads; `class` keeps that share of the pixels predicted
    as each class of every frame (at least one), as CBST does, so that rare classes are not crowded out.

    Raises:
        ValueError: for another proportion or scope, or logits of another shape.

    Examples:
        >>> logits = torch.tensor([[4.0, 0.0, 1.0], [0.0, 3.0, 0.0]]).view(1, 2, 1, 3)
        >>> labels, kept = confident_pixels(logits, 2 / 3)
        >>> labels.tolist(), kept.tolist()
        ([[[0, 1, 0]]], [[[True, True, False]]])
    """
    if logits.ndim != 4:
        raise ValueError(f"logits are [B,K,h,w], got {list(logits.shape)}")
    if not 0 < proportion <= 1:
        raise ValueError(f"the confident proportion must lie in (0, 1], got {proportion}")
    if scope not in ("global", "class"):
        raise ValueError(f"scope must be 'global' or 'class', got '{scope}'")
    confidence, labels = logits.detach().float().softmax(1).max(1)
    flat = confidence.flatten(1)
    if scope == "global":
        kept = flat.topk(max(1, round(proportion * flat.shape[1])), dim=1).indices
        mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, kept, True)
    else:
        mask = _top_of_each_class(flat, labels.flatten(1), proportion, logits.shape[1])
    return labels, mask.view_as(labels)


def _top_of_each_class(confidence: Tensor, labels: Tensor, proportion: float, num_classes: int) -> Tensor:
    """Bool `[B,n]`: a pixel stays if its rank within its class is under the class's quota."""
    # Compared and not scattered: CUDA's scatter_add adds in any order, which deterministic mode refuses.
    classes = torch.arange(num_classes, device=labels.device)
    counts = (labels[:, None] == classes[:, None]).sum(2)
    # Probabilities lie in [0, 1], so sorting by label - confidence groups by class, most confident first.
    order = (labels.double() * 2 - confidence.double()).argsort(dim=1, stable=True)
    first = counts.cumsum(1) - counts
    sorted_labels = labels.gather(1, order)
    rank = torch.arange(labels.shape[1], device=labels.device) - first.gather(1, sorted_labels)
    quota = (counts * proportion).round().clamp(min=1).long()
    kept = rank < quota.gather(1, sorted_labels)
    return torch.zeros_like(kept).scatter_(1, order, kept)
