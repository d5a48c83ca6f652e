"""Warping by backward flow, which lives on the grid of the later frame and points into the earlier one."""

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(features: Tensor, backward_flow: Tensor) -> Tensor:
    """Bring features of the earlier frame onto the grid of the later frame: out(x, y) = features(x+dx, y+dy).

    The look-up is bilinear and leaves no holes; outside the image it takes the border's value, as Resample2d of
    FlowNet 2.0 does, which TPS uses.

    The four corners of a look-up are rows of a table, one row for each pixel, and a weighted sum of rows is what
    `embedding_bag` does; for wide features in `channels_last` that is several times faster than `grid_sample`.

    Args:
        features: `[B,C,H,W]` of the earlier frame; float. The result has their shape and dtype, in `channels_last`; the
            look-up itself is done in float32 or wider.
        backward_flow: `[B,2,H,W]` in units of this grid, channel 0 = dx, channel 1 = dy. A pixel whose flow is NaN
            becomes NaN.

    Raises:
        ValueError: if the grids differ, or features are integers, which would be cut off.

    Examples:
        >>> row, one_to_the_right = torch.tensor([[[[10.0, 20.0, 30.0]]]]), torch.tensor([[[[1.0] * 3], [[0.0] * 3]]])
        >>> warp(row, one_to_the_right).tolist()
        [[[[20.0, 30.0, 30.0]]]]
    """
    if features.ndim != 4 or backward_flow.shape != (len(features), 2, *features.shape[2:]):
        shapes = f"features {tuple(features.shape)} and flow {tuple(backward_flow.shape)} differ in grid"
        raise ValueError(f"{shapes}: give features [B,C,H,W] and flow [B,2,H,W]; `resize_flow` brings a flow there")
    if not features.is_floating_point():
        raise ValueError(f"features are {features.dtype}: give frames as floats, and labels to stpl.metrics.propagate")
    dtype = torch.promote_types(features.dtype, torch.float32)
    height, width = features.shape[-2:]
    places, weights = _corners(backward_flow.to(dtype))
    pixels = features.to(dtype).permute(0, 2, 3, 1).flatten(0, 2)
    with torch.autocast(features.device.type, enabled=False):
        warped = F.embedding_bag(places, pixels, mode="sum", per_sample_weights=weights)
    return warped.to(features.dtype).view(len(features), height, width, -1).permute(0, 3, 1, 2)


def inside(backward_flow: Tensor) -> Tensor:
    """Whether the look-up of each pixel of flow `[B,2,H,W]` lies within the earlier frame, bool `[B,H,W]`.

    Examples:
        >>> inside(torch.tensor([[[[1.0] * 3], [[0.0] * 3]]])).tolist()
        [[[True, True, False]]]
    """
    height, width = backward_flow.shape[-2:]
    x = torch.arange(width, device=backward_flow.device) + backward_flow[:, 0]
    y = torch.arange(height, device=backward_flow.device)[:, None] + backward_flow[:, 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _corners(flow: Tensor) -> tuple[Tensor, Tensor]:
    """For flow `[B,2,H,W]`, the four pixels of each look-up in the flat batch and their weights, `[B·H·W,4]`."""
    batch, _, height, width = flow.shape
    ys = torch.arange(height, device=flow.device, dtype=flow.dtype)
    xs = torch.arange(width, device=flow.device, dtype=flow.dtype)
    x = (xs + flow[:, 0]).clamp(0, width - 1)
    y = (ys[:, None] + flow[:, 1]).clamp(0, height - 1)
    # Places of NaN are any that exist; its weights are NaN.
    left, top = x.detach().floor().nan_to_num(), y.detach().floor().nan_to_num()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    a, b = x - left, y - top
    first = torch.arange(0, flow[:, 0].numel(), height * width, device=flow.device).view(batch, 1, 1)
    places = [first + (row * width + column).long() for row in (top, bottom) for column in (left, right)]
    weights = [row * column for row in (1 - b, b) for column in (1 - a, a)]
    return torch.stack(places, dim=-1).flatten(0, 2), torch.stack(weights, dim=-1).flatten(0, 2)


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample flow `[B,2,H,W]` to `[B,2,*size]` and scale each component by its own axis.

    Corners are aligned, as for features and logits here, so a pixel step along x shrinks by (w-1)/(W-1). (The released
    code of the DA-VSN lineage multiplies both components by the height ratio h/H.)

    Raises:
        ValueError: if it is no such flow, or a side of either grid is a single pixel, which has no unit.

    Examples:
        >>> small = resize_flow(torch.full((1, 2, 9, 9), 8.0), (9, 5))  # half as wide: dx is half as many pixels
        >>> small[0, :, 0, 0].tolist()
        [4.0, 8.0]
    """
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"this is no flow [B,2,H,W]: {list(flow.shape)}")
    height, width = flow.shape[-2:]
    if (height, width) == tuple(size):
        return flow
    if min(height, width, *size) < 2:
        raise ValueError(
            f"flow cannot be resized from {height}×{width} to {size[0]}×{size[1]}: give sides of 2 or more"
        )
    resized = F.interpolate(flow, size=size, mode="bilinear", align_corners=True)
    # Plain factors: a tensor of them would be copied to the device, which waits for it.
    dx, dy = resized[:, 0] * ((size[1] - 1) / (width - 1)), resized[:, 1] * ((size[0] - 1) / (height - 1))
    return torch.stack([dx, dy], dim=1)
