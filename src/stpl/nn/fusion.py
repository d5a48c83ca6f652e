"""What STPL puts on features: the fusion operations f (paper §3.1, Table 4) and the projection head H (§3.2).

Every fusion maps previous features, warped, and current ones, both `[B,C,h,w]`, to `[B,out_dim,h,w]`.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpl.nn.pixels import pool, reweigh

FusionName = Literal["add", "conv", "concat", "stam"]

HeadName = Literal["mlp", "linear", "none"]
"""`mlp`: two layers with a ReLU between them. `linear`: one. `none`: the features themselves are contrasted."""


class Fusion(nn.Module):
    """Base of the fusion operations, which take the previous frame's features and the current ones.

    Args:
        channels: channels C of one frame.

    Attributes:
        out_dim: channels of the fused feature, `frames` times C.
    """

    frames: ClassVar[int]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_dim = self.frames * channels


class Add(Fusion):
    """Element-wise addition; `out_dim` = C."""

    frames = 1

    def forward(self, previous_warped: Tensor, current: Tensor) -> Tensor:
        """Sum of both."""
        return previous_warped + current


class Concat(Fusion):
    """Concatenation along channels; `out_dim` = 2C.

    Examples:
        >>> Concat(8)(torch.zeros(1, 8, 4, 4), torch.ones(1, 8, 4, 4)).shape
        torch.Size([1, 16, 4, 4])
    """

    frames = 2

    def forward(self, previous_warped: Tensor, current: Tensor) -> Tensor:
        """Both, previous first."""
        return torch.cat([previous_warped, current], dim=1)


class Conv1x1(Fusion):
    """1×1 convolution of the concatenation; `out_dim` = C.

    It starts as the mean of both frames, [½I|½I]; the paper does not state an initialisation, and this one keeps the
    encoder's features recognisable from the first step.
    """

    frames = 1

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv = nn.Conv2d(2 * channels, channels, 1)
        half = 0.5 * torch.eye(channels)
        mean = torch.cat([half, half], dim=1)[:, :, None, None]
        self.conv.load_state_dict({"weight": mean, "bias": torch.zeros(channels)})

    def forward(self, previous_warped: Tensor, current: Tensor) -> Tensor:
        """A learned mixture of both."""
        mixture: Tensor = self.conv(torch.cat([previous_warped, current], dim=1))
        return mixture


class STAM(Fusion):
    """Spatio-temporal attention module; `out_dim` = 2C.

    The paper says only that it infers attention "along the spatial and temporal dimensions separately", after CBAM
    (Woo et al., ECCV 2018). Here a temporal gate weights every channel of either frame (CBAM's channel gate over the 2C
    stacked channels, r = 16), then a spatial gate weights every pixel (CBAM's 7×7 gate); the output is the re-weighted
    stack.
    """

    frames = 2

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        hidden = max(1, self.out_dim // 16)
        self.temporal = nn.Sequential(
            nn.Linear(self.out_dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, self.out_dim)
        )
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01))

    def forward(self, previous_warped: Tensor, current: Tensor) -> Tensor:
        """Both, previous first, weighted by the temporal and then by the spatial gate; in `channels_last`."""
        stack = torch.cat([previous_warped, current], dim=1).permute(0, 2, 3, 1).contiguous()
        stack, mean, peak = pool(stack, "pixels")
        stack = reweigh(stack, (self.temporal(mean) + self.temporal(peak)).sigmoid())
        stack, mean, peak = pool(stack, "channels")
        stack = reweigh(stack, self.spatial(torch.stack([peak, mean], dim=1))[:, 0].sigmoid())
        return stack.permute(0, 3, 1, 2)


FUSIONS: dict[str, type[Fusion]] = {"add": Add, "conv": Conv1x1, "concat": Concat, "stam": STAM}
"""Fusion operations by name."""


class ProjectionHead(nn.Module):
    """Layers over each pixel's channels («similar to SimCLR»), then L2 normalisation; dropped after training.

    The paper gives no sizes; those of the mlp are SupCon's (hidden = input, 128 out). Normalisation is required by the
    contrast: Eq. 3 has no positives in its denominator and is unbounded below without it. Without layers, `out_dim` is
    `channels`.

    Examples:
        >>> vectors = ProjectionHead(channels=16, out_dim=8)(torch.rand(2, 5, 16))
        >>> vectors.shape, bool(vectors.norm(dim=-1).sub(1).abs().max() < 1e-6)
        (torch.Size([2, 5, 8]), True)
    """

    def __init__(self, channels: int, out_dim: int = 128, kind: HeadName = "mlp") -> None:
        super().__init__()
        self.out_dim = channels if kind == "none" else out_dim
        if kind == "mlp":
            layers = [nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, out_dim)]
        else:
            layers = [nn.Linear(channels, out_dim)] if kind == "linear" else []
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map features of pixels `[...,C]` to unit vectors `[...,out_dim]`, normalised in float32."""
        # As a matrix: a linear layer of more dimensions returns a view, whose change in place copies it whole.
        embedding = self.layers(pixels.flatten(0, -2)).unflatten(0, pixels.shape[:-1])
        with torch.autocast(pixels.device.type, enabled=False):
            return F.normalize(embedding.float(), dim=-1)
