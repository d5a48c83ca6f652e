"""Fourier transfer of style: an image with another's amplitudes at low frequencies (Yang and Soatto, CVPR 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Window = Literal["paper", "code"]
"""Which frequencies are low: |ky| ≤ ⌊βH⌋ and |kx| ≤ ⌊βW⌋ (Eq. 1), or both at most ⌊β·min(H, W)⌋ (released code)."""


@torch.no_grad()
def transfer_amplitude(frames: Tensor, reference: Tensor, beta: float, window: Window = "paper") -> Tensor:
    """Frames with the amplitudes of the reference at low frequencies (Eq. 2, 3); no gradient.

    The window is symmetric about frequency 0, so that the result is real. (The released code's torch version takes
    frequencies -b to b-1 and drops an imaginary part of up to 23 grey levels.) Before normalisation: the mean would
    lose its sign in the phase otherwise.

    Args:
        frames: `[B,3,H,W]` in 0..255, uint8 or float.
        reference: `[B,3,H',W']` likewise; brought to H×W if it is of another size.
        beta: β, half the window's width relative to the image's, in [0, 0.5).
        window: its shape.

    Returns:
        float32 `[B,3,H,W]`, which may leave 0..255 a little. Where the window holds no frequency but 0, the frames as
        they are.
    """
    height, width = frames.shape[-2:]
    low = (int(beta * height), int(beta * width)) if window == "paper" else (int(beta * min(height, width)),) * 2
    content = frames.float()
    if low == (0, 0):
        return content
    style = reference.float()
    if style.shape[-2:] != content.shape[-2:]:
        style = F.interpolate(style, size=(height, width), mode="bilinear", align_corners=True)
    with torch.autocast(frames.device.type, enabled=False):
        spectrum, other = torch.fft.rfft2(content), torch.fft.rfft2(style)
        ky = torch.fft.fftfreq(height, 1 / height, device=frames.device).abs() <= low[0]
        kx = torch.fft.rfftfreq(width, 1 / width, device=frames.device) <= low[1]
        amplitude = torch.where(ky[:, None] & kx, other.abs(), spectrum.abs())
        mixed: Tensor = torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=(height, width))
    return mixed
