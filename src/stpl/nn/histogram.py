"""Histogram matching: an image with the distribution of grey levels of another, channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor

_LEVELS = 256


@torch.no_grad()
def match_histogram(frames: Tensor, reference: Tensor) -> Tensor:
    """Frames whose channels are distributed as those of the reference; no gradient.

    Each level goes to the reference's level of the same quantile, interpolated linearly between levels that occur there
    (Gonzalez and Woods; what TPS takes from scikit-image). Both are uint8 `[B,3,H,W]`, of any size; the result is
    float32 in 0..255, of the size of `frames`.
    """
    count, there = _histogram(frames), _histogram(reference)
    mine, theirs = (x.cumsum(1).double() / x.sum(1, keepdim=True) for x in (count, there))
    upper = torch.searchsorted(theirs, mine).clamp(max=_LEVELS - 1)  # the first level whose quantile is not below
    levels = torch.arange(_LEVELS, device=frames.device).expand_as(there)
    occurring = torch.where(there > 0, levels, -1).cummax(1).values
    below = torch.cat([torch.full_like(occurring[:, :1], -1), occurring[:, :-1]], 1).gather(1, upper)
    lower = below.clamp(min=0)
    start, end = theirs.gather(1, lower), theirs.gather(1, upper)
    part = (mine - start) / (end - start).clamp(min=1e-12)
    table = torch.where(below >= 0, lower + part * (upper - lower), upper.double()).float()
    return table.gather(1, frames.flatten(2).flatten(0, 1).long()).view(frames.shape)


def _histogram(frames: Tensor) -> Tensor:
    """Pixels of each level, int64 `[B·3,256]`."""
    rows = frames.flatten(2).flatten(0, 1).long()
    counts = torch.zeros(len(rows), _LEVELS, dtype=torch.int64, device=frames.device)
    return counts.scatter_add_(1, rows, torch.ones_like(rows))
