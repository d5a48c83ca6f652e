"""The cross-frame augmentation on the training device: the draws of `stpl.data.augment`, its arithmetic in torch.

A GPU does in half a millisecond what a core needs 50 for, so that few loader processes feed it. The draws are made by
the very transforms that the loader's processes would use, on a frame of four pixels; the pixels are computed as OpenCV
does with 8 bits, so both give the same frames but for single grey levels.

Shape legend: T frames of a clip, H×W pixels. Frames are float32 `[T,3,H,W]` holding whole numbers in 0..255.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import Clip


class Draw(NamedTuple):
    """What happens to some frames: the σ of the blur in pixels, and the colour operations in their order."""

    sigma: float | None
    jitter: tuple[tuple[str, float], ...]


_OPERATIONS = ("brightness", "contrast", "saturation", "hue")  # as `ColorJitter` numbers them


def draw(augmentation: CrossFrameAugmentation, height: int, seed: int) -> Draw:
    """The draw that `augmentation` makes with this seed for frames of this height."""
    blur, jitter = augmentation.transforms(height, seed)
    for transform in (*blur.transforms, jitter):
        transform.params = {}  # of the call before
    nothing = np.zeros((1, 2, 2, 3), np.uint8)
    blur(images=nothing)
    jitter(images=nothing)
    chosen = [place for place, transform in enumerate(blur.transforms) if transform.params]
    sigma = height * augmentation.blur_sigmas[chosen[0]] if chosen else None
    names = [_OPERATIONS[place] for place in jitter.params.get("order", ())]
    return Draw(sigma, tuple((name, float(jitter.params[name])) for name in names))


def with_view(augmentation: CrossFrameAugmentation, clip: Clip, seeds: Sequence[int]) -> Clip:
    """Batched clips with their augmented view, which the seed of each decides; waits for nothing."""
    pairs = torch.stack([clip.frame(-1), clip.frame()], 1)
    with torch.autocast(pairs.device.type, enabled=False):
        views = [augment(augmentation, frames, seed) for frames, seed in zip(pairs, seeds, strict=True)]
    return replace(clip, augmented=torch.stack(views))


def augment(augmentation: CrossFrameAugmentation, frames: Tensor, seed: int) -> Tensor:
    """`augmentation(frames, seed)` of one clip uint8 `[T,3,H,W]` RGB on its device; waits for nothing."""
    parts = []
    for first, last, part_seed in augmentation.stretches(len(frames), seed):
        sigma, jitter = draw(augmentation, frames.shape[-2], part_seed)
        part = frames[first:last].float()
        if sigma is not None:
            part = _blur(part, sigma)
        for name, strength in jitter:
            part = _COLOURS[name](part, strength)
        parts.append(part)
    return torch.cat(parts).byte()


def _blur(frames: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, borders mirrored, cut off at 3.5 σ as Pillow does."""
    radius = int(3.5 * sigma)
    kernel = torch.arange(-radius, radius + 1, device=frames.device, dtype=frames.dtype).div(sigma).square()
    kernel = kernel.mul(-0.5).exp()
    kernel = kernel / kernel.sum()
    planes = frames.flatten(0, 1)[:, None]
    planes = F.conv2d(F.pad(planes, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))
    planes = F.conv2d(F.pad(planes, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return planes.view_as(frames).round_()


def _brightness(frames: Tensor, factor: float) -> Tensor:
    return (frames * factor).clamp_(0, 255).floor_()


def _contrast(frames: Tensor, factor: float) -> Tensor:
    """About the mean grey of each frame."""
    mean = _grey(frames).mean((1, 2, 3), keepdim=True)
    return (frames * factor + mean * (1 - factor)).clamp_(0, 255).floor_()


def _saturation(frames: Tensor, factor: float) -> Tensor:
    return (frames * factor + _grey(frames) * (1 - factor)).round_().clamp_(0, 255)


def _grey(frames: Tensor) -> Tensor:
    """`[T,1,H,W]`, by OpenCV's whole-numbered weights."""
    red, green, blue = frames.unbind(1)
    return ((red * 4899 + green * 9617 + blue * 1868 + 8192) / 16384).floor_()[:, None]


def _hue(frames: Tensor, turns: float) -> Tensor:
    """Turn the colour circle; hue in steps of 2°, saturation of 1/255, as OpenCV keeps them in 8 bits."""
    if turns == 0:
        return frames
    red, green, blue = frames.unbind(1)
    value, lowest = frames.amax(1), frames.amin(1)
    span = value - lowest
    saturation = _divided(span, 255, value) / 255
    sector = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * span, red - green + 4 * span)
    )
    hue = _divided(sector, 30, span)
    hue = (hue.where(hue >= 0, hue + 180) + 180 * turns).remainder_(180).floor_() / 30
    whole = hue.floor()
    part = hue - whole
    dark, falling, rising = (value * (1 - saturation * x) for x in (1, part, 1 - part))
    sides = {0: (value, rising, dark), 1: (falling, value, dark), 2: (dark, value, rising)}
    sides |= {3: (dark, falling, value), 4: (rising, dark, value), 5: (value, dark, falling)}
    turned = torch.stack(sides[5], 1)
    for number in range(5):
        turned = torch.where((whole == number)[:, None], torch.stack(sides[number], 1), turned)
    return turned.clamp_(0, 255).floor_()


def _divided(numerator: Tensor, scale: int, denominator: Tensor) -> Tensor:
    """`scale·numerator / denominator` with whole numbers, as OpenCV rounds it by a table of reciprocals of 12 bits."""
    reciprocal = ((scale << 12) / denominator.clamp(min=1)).round_().int()
    return ((numerator.int() * reciprocal + (1 << 11)) >> 12).float()


_COLOURS = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}
