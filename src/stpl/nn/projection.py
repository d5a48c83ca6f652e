"""The projection head H (paper §3.2, «similar to SimCLR»)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ProjectionHead(nn.Module):
    """Two 1×1 convolutions with a ReLU between them, then L2 normalisation; dropped after training.

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
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, out_dim, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features `[B,C,h,w]` to unit vectors `[B,out_dim,h,w]`, normalised in float32."""
        embedding = self.layers(features)
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(embedding.float(), dim=1)
