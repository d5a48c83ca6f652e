"""Pasting one clip into another, mirroring and resizing clips: frames, flow and label together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import Clip
from stpl.nn.warp import resize_flow

Box = tuple[int, int, int, int]
"""Top, bottom, left, right in pixels, the second and fourth outside."""


def cutmix_box(size: tuple[int, int], generator: np.random.Generator) -> Box:
    """A box whose share of the image is uniform in [0, 1] before it is cut off at the border (Yun et al., ICCV 2019).

    λ is drawn from Beta(1, 1), the box has the sides √(1-λ)·H and √(1-λ)·W, and its centre lies anywhere.
    """
    height, width = size
    side = float(np.sqrt(1 - generator.beta(1, 1)))
    tall, wide = int(height * side), int(width * side)
    y, x = int(generator.integers(height)), int(generator.integers(width))
    top, bottom = max(0, y - tall // 2), min(height, y + tall // 2)
    left, right = max(0, x - wide // 2), min(width, x + wide // 2)
    return top, bottom, left, right


def box_mask(boxes: Sequence[Box], size: tuple[int, int], device: torch.device) -> Tensor:
    """Bool `[B,H,W]`, true inside the box of each clip."""
    mask = torch.zeros(len(boxes), *size, dtype=torch.bool, device=device)
    for place, (top, bottom, left, right) in enumerate(boxes):
        mask[place, top:bottom, left:right] = True
    return mask


def paste(base: Clip, patch: Clip, mask: Tensor) -> Clip:
    """The clips `base` with `patch` where `mask` `[B,H,W]` is true, in both frames, flow and label.

    All of one size (see `resized`); fields that either lacks are left out.
    """
    frames = torch.where(mask[:, None, None], patch.frames, base.frames)
    flow = label = None
    if base.flow is not None and patch.flow is not None:
        flow = torch.where(mask[:, None, None], patch.flow, base.flow)
    if base.label is not None and patch.label is not None:
        label = torch.where(mask, patch.label, base.label)
    return Clip(frames, flow=flow, label=label, key=base.key)


def resized(clip: Clip, size: tuple[int, int]) -> Clip:
    """Clips at another size: frames bilinear, flow with its vectors scaled along, labels by the nearest pixel."""
    if (clip.frames.shape[-2], clip.frames.shape[-1]) == size:
        return clip
    frames = F.interpolate(clip.frames.flatten(0, 1).float(), size=size, mode="bilinear", align_corners=True)
    if not clip.frames.is_floating_point():
        frames = frames.round().to(clip.frames.dtype)
    frames = frames.view(*clip.frames.shape[:3], *size)
    flow, label = clip.flow, clip.label
    if flow is not None:
        flow = resize_flow(flow.flatten(0, 1), size).view(*flow.shape[:3], *size)
    if label is not None:
        label = F.interpolate(label[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
    return replace(clip, frames=frames, flow=flow, label=label)


def rescaled(clip: Clip, scale: float) -> Clip:
    """`resized` to `scale` times its size, with sides rounded to multiples of 8."""
    height, width = (max(8, 8 * round(scale * side / 8)) for side in clip.frames.shape[-2:])
    return resized(clip, (height, width))


def mirrored(clip: Clip, chosen: Sequence[bool]) -> Clip:
    """Frames and flow of clips, the chosen ones mirrored left-right; dx changes its sign."""
    assert clip.flow is not None
    turned = clip.flow.flip(-1)
    turned = torch.cat([-turned[:, :, :1], turned[:, :, 1:]], 2)
    return Clip(pick(chosen, clip.frames.flip(-1), clip.frames), pick(chosen, turned, clip.flow))


def pick(chosen: Sequence[bool], changed: Tensor, plain: Tensor) -> Tensor:
    """For each item of a batch that of `changed` where it is chosen, that of `plain` elsewhere."""
    return torch.stack([changed[place] if yes else plain[place] for place, yes in enumerate(chosen)])
