"""The projection head H (paper §3.2, «similar to SimCLR»)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ProjectionHead(nn.Module):
    """Two layers over each pixel's channels with a ReLU between them, then L2 normalisation; dropped after training.

    The paper gives no sizes; these are SupCon's (hidden = input, 128 out). Normalisation is required by the contrast:
    Eq. 3 has no positives in its denominator and is unbounded below without it.

    Args:
        channels: input channels.
        out_dim: size of the embedding.
        hidden: hidden channels; input channels if not given.
    """

    def __init__(self, channels: int, out_dim: int = 128, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_dim))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map features of pixels `[...,C]` to unit vectors `[...,out_dim]`, normalised in float32."""
        # As a matrix: a linear layer of more dimensions returns a view, whose change in place copies it whole.
        embedding = self.layers(pixels.flatten(0, -2)).unflatten(0, pixels.shape[:-1])
        with torch.autocast(pixels.device.type, enabled=False):
            return F.normalize(embedding.float(), dim=-1)
