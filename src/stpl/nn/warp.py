"""Warping by backward flow.

Flow lives on the grid of the later frame and points into the earlier one (see `stpl.data.clip.Clip.flow`), so warping
is a bilinear look-up and leaves no holes. Look-ups outside the image take the border's value, as Resample2d of
FlowNet 2.0 does, which TPS uses.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(features: Tensor, backward_flow: Tensor) -> Tensor:
    """Bring features of the earlier frame onto the grid of the later frame: out(x, y) = features(x+dx, y+dy).

    Args:
        features: `[B,C,H,W]` of the earlier frame; float.
        backward_flow: `[B,2,H,W]` in units of this grid, channel 0 = dx, channel 1 = dy.

    Returns:
        Warped features `[B,C,H,W]`, dtype of `features`; the look-up itself is done in float32 or wider.

    Raises:
        ValueError: if the grids differ.
    """
    if features.shape[-2:] != backward_flow.shape[-2:] or len(features) != len(backward_flow):
        raise ValueError(f"features {tuple(features.shape)} and flow {tuple(backward_flow.shape)} differ in grid")
    dtype = torch.promote_types(features.dtype, torch.float32)
    height, width = features.shape[-2:]
    ys = torch.arange(height, device=features.device, dtype=dtype)
    xs = torch.arange(width, device=features.device, dtype=dtype)
    flow = backward_flow.to(dtype)
    # grid_sample wants coordinates in [-1, 1] with corner pixels' centres at ±1.
    grid_x = (xs.view(1, 1, -1) + flow[:, 0]) * (2 / max(width - 1, 1)) - 1
    grid_y = (ys.view(1, -1, 1) + flow[:, 1]) * (2 / max(height - 1, 1)) - 1
    with torch.autocast(features.device.type, enabled=False):
        warped = F.grid_sample(
            features.to(dtype),
            torch.stack([grid_x, grid_y], dim=-1),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
    return warped.to(features.dtype)


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample flow `[B,2,H,W]` to `[B,2,*size]` and scale each component by its own axis.

    Corners are aligned, as for features and logits here, so a pixel step along x shrinks by (w-1)/(W-1). (The released
    code of the DA-VSN lineage multiplies both components by the height ratio h/H.)
    """
    height, width = flow.shape[-2:]
    if (height, width) == size:
        return flow
    resized = F.interpolate(flow, size=size, mode="bilinear", align_corners=True)
    # Plain factors: a tensor of them would be copied to the device, which waits for it.
    dx, dy = resized[:, 0] * ((size[1] - 1) / (width - 1)), resized[:, 1] * ((size[0] - 1) / (height - 1))
    return torch.stack([dx, dy], dim=1)
