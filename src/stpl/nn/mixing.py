"""Pasting one clip into another, mirroring and resizing clips: frames, flow and label together."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import IGNORE, Clip
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


def class_mask(labels: Tensor, drawn: Tensor) -> Tensor:
    """Bool `[B,H,W]`, true on ⌈n/2⌉ of the n classes that each label `[B,H,W]` shows, and never on 255.

    They are those with the smallest of the numbers `drawn` in [0, 1) `[B,K]`. ClassMix (Olsson et al., WACV 2021) as
    DACS uses it, on labels of the source.
    """
    shown = torch.stack([(labels == k).flatten(1).any(1) for k in range(drawn.shape[1])], 1)
    order = torch.where(shown, drawn, 2.0).argsort(1).argsort(1)
    chosen = shown & (order < (shown.sum(1, keepdim=True) + 1) // 2)
    known = labels != IGNORE
    return chosen.gather(1, labels.where(known, 0).flatten(1)).view_as(labels) & known


def block_mask(size: tuple[int, int], block: int, share: float, generators: Sequence[np.random.Generator]) -> Tensor:
    """Bool `[B,H,W]`, true in the blocks of a grid that are hidden, each with the probability `share` (MIC, Eq. 5).

    Blocks have `block` pixels a side, those at the right and lower edge what is left.
    """
    height, width = size
    grid = (-(-height // block), -(-width // block))
    hidden = torch.from_numpy(np.stack([generator.random(grid) < share for generator in generators]))
    rows, columns = (torch.arange(side) // block for side in size)
    return hidden[:, rows[:, None], columns]


def paste(base: Clip, patch: Clip, mask: Tensor) -> Clip:
    """The clips `base` with `patch` where `mask` `[B,H,W]` is true, in both frames, flow and label.

    All of one size (see `resized`); fields that either lacks are left out.
    """
    frames = torch.where(mask[:, None, None], patch.frames, base.frames)
    flows = {
        pair: torch.where(mask[:, None], patch.flows[pair], base.flows[pair])
        for pair in base.flows
        if pair in patch.flows
    }
    labels = {at: torch.where(mask, patch.labels[at], label) for at, label in base.labels.items() if at in patch.labels}
    return Clip(frames, flows, labels, key=base.key)


def resized(clip: Clip, size: tuple[int, int]) -> Clip:
    """Clips at another size: frames bilinear, flow with its vectors scaled along, labels by the nearest pixel."""
    if clip.size == size:
        return clip
    frames = F.interpolate(clip.frames.flatten(0, 1).float(), size=size, mode="bilinear", align_corners=True)
    if not clip.frames.is_floating_point():
        frames = frames.round().to(clip.frames.dtype)
    frames = frames.view(*clip.frames.shape[:3], *size)
    flows = {pair: resize_flow(flow, size) for pair, flow in clip.flows.items()}
    labels = {
        offset: F.interpolate(label[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
        for offset, label in clip.labels.items()
    }
    return replace(clip, frames=frames, flows=flows, labels=labels)


def rescaled(clip: Clip, scale: float) -> Clip:
    """`resized` to `scale` times its size, with sides rounded to multiples of 8."""
    height, width = (max(8, 8 * round(scale * side / 8)) for side in clip.frames.shape[-2:])
    return resized(clip, (height, width))


def mirrored(clip: Clip, chosen: Sequence[bool]) -> Clip:
    """Frames and flow of clips, the chosen ones mirrored left-right; dx changes its sign."""
    turned = {pair: flow.flip(-1) for pair, flow in clip.flows.items()}
    turned = {pair: torch.cat([-flow[:, :1], flow[:, 1:]], 1) for pair, flow in turned.items()}
    flows = {pair: pick(chosen, turned[pair], flow) for pair, flow in clip.flows.items()}
    return Clip(pick(chosen, clip.frames.flip(-1), clip.frames), flows)


def pick(chosen: Sequence[bool], changed: Tensor, plain: Tensor) -> Tensor:
    """For each item of a batch that of `changed` where it is chosen, that of `plain` elsewhere."""
    return torch.stack([changed[place] if yes else plain[place] for place, yes in enumerate(chosen)])
