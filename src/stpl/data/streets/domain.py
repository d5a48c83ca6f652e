"""From the clean picture of a scene to what the foreign camera delivers: haze, light, lens, sensor, compression.

The other half of the shift, the colours of things, is in `palette`. What is drawn once per drive (haze, exposure, white
balance, tone, vignette) is what statistics can follow; what is drawn anew in every frame (focus, motion blur, noise,
flicker, lost blocks) is what makes two frames carry more information than one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.streets.palette import Palette
from stpl.errors import ConfigError

Image = NDArray[np.float32]
Rng = np.random.Generator
_FLAT_LEVEL = np.float32(0.45)  # grey that a flat tone curve leaves alone
_REFERENCE_WIDTH = 192  # lengths in pixels are meant at this width and grow with the picture


@dataclass(frozen=True)
class DomainShift:
    """Strengths of everything that separates a camera from the studio, at severity 1. All are ≥ 0; 0 switches it off.

    Attributes:
        palette: how far the colours of things move to the foreign ones, 0..1.
        grain: the same for the strength of surface textures, 0..1.
        overcast: share of the sun's shading of faces that is lost, 0..1.
        haze: largest extinction per metre (drives draw 30–100 % of it).
        dark: under-exposure that all drives share, stops.
        exposure: largest over- or under-exposure of a drive, stops.
        white_balance: largest relative gain of red against blue.
        gamma: largest change of log2 gamma.
        desaturation: largest share of colour lost.
        flatness: share of contrast that the camera's flat tone curve takes from every picture, 0..1.
        vignette: largest darkening of the corners.
        defocus: largest standard deviation of a frame's blur, pixels at width 192.
        motion: longest motion blur of a frame, pixels at width 192.
        flicker: standard deviation of a frame's exposure, stops.
        shot_noise: standard deviation of a frame's photon noise at white, 0..1 units.
        read_noise: standard deviation of a frame's read noise, 0..1 units.
        lost_blocks: largest share of a frame's 8×8 blocks that arrive with their mean colour only.
        compression: largest loss of JPEG quality, 0..1.
    """

    palette: float = 0.0
    grain: float = 0.0
    overcast: float = 0.0
    haze: float = 0.0
    dark: float = 0.0
    exposure: float = 0.0
    white_balance: float = 0.0
    gamma: float = 0.0
    desaturation: float = 0.0
    flatness: float = 0.0
    vignette: float = 0.0
    defocus: float = 0.0
    motion: float = 0.0
    flicker: float = 0.0
    shot_noise: float = 0.0
    read_noise: float = 0.0
    lost_blocks: float = 0.0
    compression: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 <= value < float("inf") or (item.name in _SHARES and value > 1):
                bound = "between 0 and 1" if item.name in _SHARES else "a number ≥ 0"
                raise ConfigError(f"shift.{item.name} is {value}", mend=f"choose {bound}")

    def scaled(self, severity: float) -> DomainShift:
        """All strengths times `severity` in 0..1; at 0 the camera delivers the clean studio picture."""
        return replace(self, **{item.name: severity * getattr(self, item.name) for item in fields(self)})

    def make_palette(self, rng: Rng) -> Palette:
        """The colours that go with these strengths, for the drive of a random stream."""
        return Palette(rng, self.palette, self.grain, self.overcast)


_SHARES = {"palette", "grain", "overcast", "desaturation", "flatness", "vignette", "lost_blocks",
           "compression"}  # fmt: skip
CLEAN = DomainShift()
"""No shift at all: the studio."""

ShiftName = Literal["camera", "dusk", "fog", "palette"]

SHIFTS: dict[ShiftName, DomainShift] = {
    "camera": DomainShift(
        palette=0.85, grain=0.08, overcast=0.12, haze=0.005, exposure=0.18, white_balance=0.08, gamma=0.13,
        desaturation=0.13, flatness=0.04, vignette=0.13, defocus=0.35, motion=1.3, flicker=0.04, shot_noise=0.02,
        read_noise=0.01, lost_blocks=0.025, compression=0.2,
    ),
    "dusk": DomainShift(
        palette=0.2, grain=0.3, overcast=0.9, haze=0.004, dark=0.9, exposure=0.3, white_balance=0.35, gamma=0.2,
        desaturation=0.4, flatness=0.0, vignette=0.35, defocus=0.6, motion=5.0, flicker=0.1, shot_noise=0.06,
        read_noise=0.025, lost_blocks=0.03, compression=0.4,
    ),
    "fog": DomainShift(
        palette=0.2, grain=0.3, overcast=0.8, haze=0.04, exposure=0.25, white_balance=0.08, gamma=0.15,
        desaturation=0.5, flatness=0.25, vignette=0.2, defocus=0.9, motion=2.0, flicker=0.06, shot_noise=0.03,
        read_noise=0.015, lost_blocks=0.03, compression=0.4,
    ),
    "palette": DomainShift(
        palette=0.68, grain=0.08, overcast=0.12, haze=0.0104, exposure=0.352, white_balance=0.152, gamma=0.264,
        desaturation=0.264, flatness=0.08, vignette=0.264, defocus=0.704, motion=2.64, flicker=0.08, shot_noise=0.0424,
        read_noise=0.0208, lost_blocks=0.0528, compression=0.424,
    ),
}  # fmt: skip
"""The shifts that have a name.

`camera`, the default, was chosen by controls alone (docs/streets.md): the source model as it is, renewed statistics
with and without augmented frames, and the oracle. The others are there to see whether what holds before one camera
holds before another; nothing was chosen by what any method does on them. `palette` moves the colours of things so far
that statistics follow only a part of it.
"""


def photograph(
    frames: NDArray[np.uint8], depth: NDArray[np.float32], shift: DomainShift, rng: Rng
) -> NDArray[np.uint8]:
    """Clean frames uint8 `[T,H,W,3]` RGB as the foreign camera delivers them; themselves if nothing is to be done.

    Args:
        frames: clean.
        depth: float32 `[T,H,W]`, metres.
        shift: strengths, already scaled by the severity.
        rng: the drive's own stream for imaging.
    """
    if shift == CLEAN:
        return frames
    drive = _Conditions(shift, rng, frames.shape[1:3])
    return np.stack([_one_frame(image, z, shift, drive, rng) for image, z in zip(frames, depth, strict=True)])


class _Conditions:
    """What stays the same over a drive."""

    def __init__(self, shift: DomainShift, rng: Rng, size: tuple[int, ...]) -> None:
        self.extinction = shift.haze * rng.uniform(0.3, 1.0)
        self.airlight = np.array([0.76, 0.76, 0.77], np.float32) + rng.uniform(-0.06, 0.06, 3).astype(np.float32)
        self.exposure = shift.exposure * rng.uniform(-1, 1) - shift.dark
        warm = shift.white_balance * rng.uniform(-1, 1)
        green = shift.white_balance * rng.uniform(-0.15, 0.15)
        self.balance = np.array([1 + warm / 2, 1 + green, 1 - warm / 2], np.float32)
        self.gamma = 2.0 ** (shift.gamma * rng.uniform(-1, 1))
        self.saturation = 1 - shift.desaturation * rng.uniform(0.3, 1.0)
        y, x = np.ogrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
        corner = shift.vignette * rng.uniform(0.4, 1.0)
        self.falloff = (1 - corner * ((x * x + y * y) / 2) ** 1.2).astype(np.float32)[..., None]
        self.unit = size[1] / _REFERENCE_WIDTH

    def veil(self, depth: Image) -> Image:
        """Share of airlight `[H,W,1]`; the sky is no hazier than the end of the street."""
        return 1 - np.exp(-np.float32(self.extinction) * np.minimum(depth, np.float32(80)))[..., None]


def _one_frame(
    frame: NDArray[np.uint8], depth: Image, shift: DomainShift, drive: _Conditions, rng: Rng
) -> NDArray[np.uint8]:
    image: Image = frame.astype(np.float32) / np.float32(255)
    image += (drive.airlight - image) * drive.veil(depth)
    image = _lens(image, shift, drive.unit, rng)
    gain = 2.0 ** (drive.exposure + shift.flicker * rng.standard_normal())
    image *= drive.falloff * drive.balance * np.float32(gain)
    image = _sensor(image, shift, rng)
    image = np.clip(image, 0, 1) ** np.float32(drive.gamma)
    image -= (image - image.mean(axis=2, keepdims=True)) * np.float32(1 - drive.saturation)
    image += (_FLAT_LEVEL - image) * np.float32(shift.flatness)
    return _transmit(np.clip(np.rint(image * 255), 0, 255).astype(np.uint8), shift, rng)


def _lens(image: Image, shift: DomainShift, unit: float, rng: Rng) -> Image:
    """Defocus and motion blur; how much differs from frame to frame."""
    sigma, length = shift.defocus * unit * rng.random(), shift.motion * unit * rng.random() ** 1.5
    angle = rng.normal(0, 0.5)  # mostly sideways
    if sigma > 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.float32)
    if length < 0.5:
        return image
    half = int(np.ceil(length / 2))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.float32)


def _sensor(image: Image, shift: DomainShift, rng: Rng) -> Image:
    """Photon noise (variance grows with light) and read noise."""
    noise: Image = rng.standard_normal(image.shape, dtype=np.float32)
    gain = np.float32(rng.uniform(0.5, 1.0))  # the camera's automatic gain
    variance: Image = np.clip(image, 0, 1) * np.float32(shift.shot_noise**2) + np.float32(shift.read_noise**2)
    return image + noise * np.sqrt(variance) * gain


def _transmit(image: NDArray[np.uint8], shift: DomainShift, rng: Rng) -> NDArray[np.uint8]:
    """Lossy video: some blocks arrive coarsely, all are compressed."""
    height, width = image.shape[:2]
    grid = (-(-height // 8), -(-width // 8))
    lost = rng.random(grid) < shift.lost_blocks * rng.random()
    if lost.any():
        coarse = cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA)
        mean = cv2.resize(coarse, (grid[1] * 8, grid[0] * 8), interpolation=cv2.INTER_NEAREST)[:height, :width]
        image = np.where(lost.repeat(8, 0).repeat(8, 1)[:height, :width, None], mean, image)
    quality = round(100 * (1 - shift.compression * rng.uniform(0.5, 1.0)))
    if quality >= 99:
        return image
    _, data = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, max(quality, 5)))
    received = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert received is not None
    return np.asarray(received[..., ::-1], dtype=np.uint8)
