"""Textures with labels: a small drawing surface in metres, y pointing up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.streets.palette import RGB

EMPTY = 254
"""Label of texture pixels through which one sees what is behind. Never leaves the renderer."""
_TILE = 512


@lru_cache(maxsize=1)
def noise_tile() -> NDArray[np.float32]:
    """Smooth random field `[512,512]` of zero mean and unit deviation that repeats seamlessly; always the same."""
    rng = np.random.default_rng(20230314)
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))
    fy, fx = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    field = np.fft.irfft2(spectrum / radius**0.9, s=(_TILE, _TILE))  # close to 1/f: detail at every distance
    return np.asarray(field / field.std(), dtype=np.float32)


class Canvas:
    """A planar texture: colour uint8 `[h,w,3]` RGB and label uint8 `[h,w]` (`EMPTY` where nothing is).

    Args:
        left, bottom, right, top: extent in metres.
        density: texture pixels per metre, horizontally and vertically.
        fill: colour of the whole canvas; choose the object's own, so that interpolation at its rim stays clean.
        label: label of the whole canvas.
    """

    def __init__(
        self,
        left: float,
        bottom: float,
        right: float,
        top: float,
        density: float | tuple[float, float],
        fill: RGB,
        label: int = EMPTY,
    ) -> None:
        wanted = density if isinstance(density, tuple) else (density, density)
        width, height = max(2, round((right - left) * wanted[0])), max(2, round((top - bottom) * wanted[1]))
        self.left, self.bottom, self.right, self.top = left, bottom, right, top
        self.scale = (width / (right - left), height / (top - bottom))
        self.colour = np.empty((height, width, 3), dtype=np.uint8)
        self.colour[:] = fill
        self.label = np.full((height, width), label, dtype=np.uint8)

    def rect(self, x0: float, y0: float, x1: float, y1: float, rgb: RGB, label: int | None = None) -> None:
        """Fill the rectangle between two corners; the label stays as it is if none is given."""
        columns = slice(*(max(0, round((x - self.left) * self.scale[0])) for x in (min(x0, x1), max(x0, x1))))
        rows = slice(*(max(0, round((self.top - y) * self.scale[1])) for y in (max(y0, y1), min(y0, y1))))
        self.colour[rows, columns] = rgb
        if label is not None:
            self.label[rows, columns] = label

    def poly(self, points: Sequence[tuple[float, float]], rgb: RGB, label: int | None = None) -> None:
        """Fill a polygon given by its corners in metres."""
        corners = np.array(points, dtype=np.float64) - (self.left, self.top)
        corners = corners * (self.scale[0], -self.scale[1]) - 0.5
        fixed = [np.round(corners * 16).astype(np.int32)]
        cv2.fillPoly(self.colour, fixed, rgb, shift=4)
        if label is not None:
            cv2.fillPoly(self.label, fixed, (label,), shift=4)

    def disc(self, x: float, y: float, rx: float, ry: float, rgb: RGB, label: int | None = None) -> None:
        """Fill an ellipse with centre (x, y) and the two radii in metres."""
        angle = np.linspace(0, 2 * np.pi, 21)[:-1]
        self.poly(list(zip(x + rx * np.cos(angle), y + ry * np.sin(angle), strict=True)), rgb, label)

    def bar(
        self, a: tuple[float, float], b: tuple[float, float], width: float, rgb: RGB, label: int | None = None
    ) -> None:
        """Fill a straight bar of `width` metres from a to b."""
        (ax, ay), (bx, by) = a, b
        length = max(float(np.hypot(bx - ax, by - ay)), 1e-6)
        nx, ny = -(by - ay) / length * width / 2, (bx - ax) / length * width / 2
        self.poly([(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)], rgb, label)

    def grain(self, strength: float, rng: np.random.Generator, metres: float = 1.0) -> None:
        """Multiply by noise of relative amplitude `strength`, whose features are about `metres` in size."""
        offset = rng.integers(0, _TILE, 2)
        if strength <= 0:
            return
        height, width = self.label.shape
        step = [8.0 / (metres * scale) for scale in self.scale]  # noise pixels per texture pixel
        x = (np.arange(width) * step[0] + offset[0]).astype(np.int64) % _TILE
        y = (np.arange(height) * step[1] + offset[1]).astype(np.int64) % _TILE
        gain = 1 + strength * noise_tile()[y[:, None], x[None]]
        self.modulate(gain)

    def modulate(self, gain: NDArray[np.float32]) -> None:
        """Multiply all colours by `gain` float32 `[h,w]` and saturate at 0 and 255."""
        self.colour[:] = cv2.multiply(self.colour, cv2.merge([gain, gain, gain]), dtype=cv2.CV_8U)

    def tint(self, factor: float) -> Canvas:
        """Multiply all colours by `factor` (shading) and return self."""
        if factor != 1:
            cv2.convertScaleAbs(self.colour, self.colour, factor, 0)
        return self
