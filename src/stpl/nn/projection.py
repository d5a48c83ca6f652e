"""The projection head H (paper §3.2, «similar to SimCLR»)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadName = Literal["mlp", "linear", "none"]
"""`mlp`: two layers with a ReLU between them. `linear`: one. `none`: the features themselves are contrasted."""


class ProjectionHead(nn.Module):
    """Layers over each pixel's channels, then L2 normalisation; dropped after training.

    The paper gives no sizes; those of the mlp are SupCon's (hidden = input, 128 out). Normalisation is required by the
    contrast: Eq. 3 has no positives in its denominator and is unbounded below without it. Without layers, `out_dim` is
    `channels`; without `hidden`, the mlp has as many hidden channels.
    """

    def __init__(self, channels: int, out_dim: int = 128, hidden: int | None = None, kind: HeadName = "mlp") -> None:
        super().__init__()
        self.out_dim = channels if kind == "none" else out_dim
        if kind == "mlp":
            hidden = hidden or channels
            layers = [nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_dim)]
        else:
            layers = [nn.Linear(channels, out_dim)] if kind == "linear" else []
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map features of pixels `[...,C]` to unit vectors `[...,out_dim]`, normalised in float32."""
        # As a matrix: a linear layer of more dimensions returns a view, whose change in place copies it whole.
        embedding = self.layers(pixels.flatten(0, -2)).unflatten(0, pixels.shape[:-1])
        with torch.autocast(pixels.device.type, enabled=False):
            return F.normalize(embedding.float(), dim=-1)
