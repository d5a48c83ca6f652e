"""Images in another's style: with its amplitudes at low frequencies or in bands that are picked, or its grey levels.

Low frequencies: Yang and Soatto, FDA, CVPR 2020. Bands are what Huang et al. (RDA, ICCV 2021) attack: square rings
about frequency 0, for each channel.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Window = Literal["paper", "code"]
"""Which frequencies are low: |ky| ≤ ⌊βH⌋ and |kx| ≤ ⌊βW⌋ (Eq. 1), or both at most ⌊β·min(H, W)⌋ (released code)."""

_LEVELS = 256


@torch.no_grad()
def transfer_amplitude(frames: Tensor, reference: Tensor, beta: float, window: Window = "paper") -> Tensor:
    """Frames with the amplitudes of the reference at low frequencies (Eq. 2, 3); no gradient.

    The window is symmetric about frequency 0, so that the result is real. (The released code's torch version takes
    frequencies -b to b-1 and drops an imaginary part of up to 23 grey levels.) Before normalisation: the mean would
    lose its sign in the phase otherwise.

    Args:
        frames: `[B,3,H,W]` in 0..255, uint8 or float.
        reference: `[B,3,H',W']` likewise; brought to H×W if it is of another size.
        beta: β, half the window's width relative to the image's, in [0, 0.5); of no frequency but 0, nothing changes.
        window: its shape.

    Returns:
        float32 `[B,3,H,W]`, which may leave 0..255 a little.
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


class Spectrum(NamedTuple):
    """The half spectrum of real images that `torch.fft.rfft2` gives."""

    amplitude: Tensor  # `[B,3,H,W//2+1]`
    phase: Tensor  # likewise, in radians
    size: tuple[int, int]  # of the images

    @staticmethod
    def of(frames: Tensor) -> "Spectrum":
        """Of frames `[B,3,H,W]` in 0..255, in float32."""
        with torch.autocast(frames.device.type, enabled=False):
            spectrum = torch.fft.rfft2(frames.float())
        return Spectrum(spectrum.abs(), spectrum.angle(), (frames.shape[-2], frames.shape[-1]))

    def image(self, amplitude: Tensor) -> Tensor:
        """The image float32 `[B,3,H,W]` with these phases and other amplitudes; gradients reach those."""
        with torch.autocast(amplitude.device.type, enabled=False):
            mixed: Tensor = torch.fft.irfft2(torch.polar(amplitude, self.phase), s=self.size)
        return mixed


def ring_bands(size: tuple[int, int], count: int, device: torch.device) -> Tensor:
    """Number of the square ring that each frequency of a half spectrum lies in, int64 `[H,W//2+1]`, 0 to count-1.

    Ring n holds |ky| ≤ ⌊H·(n+1)/(2·count)⌋ and |kx| ≤ ⌊W·(n+1)/(2·count)⌋ without the rings before; the last one all
    that is left. (The released code's rings hold frequencies -b to b-1, of which an image with real numbers has none.)
    """
    height, width = size
    ky = torch.fft.fftfreq(height, 1 / height, device=device).abs()
    kx = torch.fft.rfftfreq(width, 1 / width, device=device)
    parts = torch.arange(1, count + 1, device=device)
    rings = [
        torch.searchsorted((side * parts).div(2 * count, rounding_mode="floor").float(), k).clamp(max=count - 1)
        for side, k in ((height, ky), (width, kx))
    ]
    return torch.maximum(rings[0][:, None], rings[1])


def band_means(values: Tensor, bands: Tensor, count: int, width: int) -> Tensor:
    """Sum over each ring of a half spectrum `[B,3,H,W//2+1]`, divided by the number of all frequencies, `[B,3,count]`.

    Frequencies that the half spectrum leaves out count as those that mirror them.
    """
    twice = torch.full((values.shape[-1],), 2.0, dtype=values.dtype, device=values.device)
    twice[:1] = 1
    if width % 2 == 0:
        twice[-1:] = 1
    chosen = (bands.flatten()[:, None] == torch.arange(count, device=values.device)).to(values.dtype)
    total = values.shape[-2] * width
    return (values * twice).flatten(2) @ chosen / total


@torch.no_grad()
def match_histogram(frames: Tensor, reference: Tensor) -> Tensor:
    """Frames whose channels are distributed as those of the reference; no gradient.

    Each level goes to the reference's level of the same quantile, interpolated linearly between levels that occur there
    (Gonzalez and Woods; what TPS takes from scikit-image). Both are uint8 `[B,3,H,W]`, of any size; the result is
    float32 in 0..255, of the size of `frames`.
    """
    count, there = _histogram(frames), _histogram(reference)
    mine, theirs = (x.cumsum(1).double() / x.sum(1, keepdim=True) for x in (count, there))
    upper = torch.searchsorted(theirs, mine).clamp(max=_LEVELS - 1)  # the first level whose quantile is not below
    levels = torch.arange(_LEVELS, device=frames.device).expand_as(there)
    occurring = torch.where(there > 0, levels, -1).cummax(1).values
    below = torch.cat([torch.full_like(occurring[:, :1], -1), occurring[:, :-1]], 1).gather(1, upper)
    lower = below.clamp(min=0)
    start, end = theirs.gather(1, lower), theirs.gather(1, upper)
    part = (mine - start) / (end - start).clamp(min=1e-12)
    table = torch.where(below >= 0, lower + part * (upper - lower), upper.double()).float()
    return table.gather(1, frames.flatten(2).flatten(0, 1).long()).view(frames.shape)


def _histogram(frames: Tensor) -> Tensor:
    """Pixels of each level, int64 `[B·3,256]`."""
    rows = frames.flatten(2).flatten(0, 1).long()
    counts = torch.zeros(len(rows), _LEVELS, dtype=torch.int64, device=frames.device)
    return counts.scatter_add_(1, rows, torch.ones_like(rows))
