"""What a drive consists of: textures with labels, on planes, on rigid bodies, and the camera's path.

World: X right, Y up, Z forward along the street, metres; one step of time is one frame. All surfaces are planes, so the
motion of every pixel between two frames is a homography known in closed form: that is where the exact flow comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.streets.palette import RGB, Palette

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top; of a rectangle in any order."""
Vector = tuple[float, float, float]
Float64 = NDArray[np.float64]
EMPTY = 254
"""Label of texture pixels through which one sees what is behind. Never leaves the renderer."""
_TILE = 512


class C(IntEnum):
    """Train ids of the 15 classes, those of `stpl.data.label_space.VIPER_15`, and the two values beside them.

    A rider counts as PERSON, as Cityscapes' riders do in that space. POLE is 255 (ignore), as there.
    """

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    FENCE = 3
    LIGHT = 4
    SIGN = 5
    VEGETATION = 6
    TERRAIN = 7
    SKY = 8
    PERSON = 9
    CAR = 10
    TRUCK = 11
    BUS = 12
    MOTORCYCLE = 13
    BICYCLE = 14
    POLE = 255


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
        extent: left, bottom, right, top.
        density: texture pixels per metre, horizontally and vertically.
        fill: colour of the whole canvas; choose the object's own, so that interpolation at its rim stays clean.
        label: label of the whole canvas.
    """

    def __init__(self, extent: Box, density: float | tuple[float, float], fill: RGB, label: int = EMPTY) -> None:
        self.left, self.bottom, self.right, self.top = left, bottom, right, top = extent
        wanted = density if isinstance(density, tuple) else (density, density)
        width, height = max(2, round((right - left) * wanted[0])), max(2, round((top - bottom) * wanted[1]))
        self.scale = (width / (right - left), height / (top - bottom))
        self.colour = np.empty((height, width, 3), dtype=np.uint8)
        self.colour[:] = fill
        self.label = np.full((height, width), label, dtype=np.uint8)

    def rect(self, box: Box, rgb: RGB, label: int | None = None) -> None:
        """Fill a rectangle; the label stays as it is if none is given."""
        x0, y0, x1, y1 = box
        columns = slice(*(max(0, round((x - self.left) * self.scale[0])) for x in (min(x0, x1), max(x0, x1))))
        rows = slice(*(max(0, round((self.top - y) * self.scale[1])) for y in (max(y0, y1), min(y0, y1))))
        self.colour[rows, columns] = rgb
        if label is not None:
            self.label[rows, columns] = label

    def poly(self, points: Sequence[Point], rgb: RGB, label: int | None = None) -> None:
        """Fill a polygon given by its corners in metres."""
        corners = np.array(points, dtype=np.float64) - (self.left, self.top)
        corners = corners * (self.scale[0], -self.scale[1]) - 0.5
        fixed = [np.round(corners * 16).astype(np.int32)]
        cv2.fillPoly(self.colour, fixed, rgb, shift=4)
        if label is not None:
            cv2.fillPoly(self.label, fixed, (label,), shift=4)

    def disc(self, centre: Point, radii: float | Point, rgb: RGB, label: int | None = None) -> None:
        """Fill a circle or an ellipse."""
        angle = np.linspace(0, 2 * np.pi, 21)[:-1]
        rx, ry = radii if isinstance(radii, tuple) else (radii, radii)
        x, y = centre[0] + rx * np.cos(angle), centre[1] + ry * np.sin(angle)
        self.poly(list(zip(x, y, strict=True)), rgb, label)

    def bar(self, a: Point, b: Point, width: float, rgb: RGB, label: int | None = None) -> None:
        """Fill a straight bar of `width` metres from a to b."""
        (ax, ay), (bx, by) = a, b
        length = max(float(np.hypot(bx - ax, by - ay)), 1e-6)
        nx, ny = -(by - ay) / length * width / 2, (bx - ax) / length * width / 2
        self.poly([(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)], rgb, label)

    def grain(self, pal: Palette, material: str, metres: float) -> None:
        """Multiply by noise as strong as the texture of `material`, whose features are about `metres` in size."""
        strength, offset = pal.grain(material), pal.rng.integers(0, _TILE, 2)
        if strength <= 0:
            return
        height, width = self.label.shape
        step = [8.0 / (metres * scale) for scale in self.scale]  # noise pixels per texture pixel
        x = (np.arange(width) * step[0] + offset[0]).astype(np.int64) % _TILE
        y = (np.arange(height) * step[1] + offset[1]).astype(np.int64) % _TILE
        self.modulate(1 + strength * noise_tile()[y[:, None], x[None]])

    def mirror(self) -> None:
        """Swap left and right, about x = 0."""
        self.left, self.right = -self.right, -self.left
        self.colour, self.label = self.colour[:, ::-1].copy(), self.label[:, ::-1].copy()

    def modulate(self, gain: NDArray[np.float32]) -> None:
        """Multiply all colours by `gain` float32 `[h,w]` and saturate at 0 and 255."""
        self.colour[:] = cv2.multiply(self.colour, cv2.merge([gain, gain, gain]), dtype=cv2.CV_8U)

    def tint(self, factor: float) -> Canvas:
        """Multiply all colours by `factor` (shading) and return self."""
        if factor != 1:
            cv2.convertScaleAbs(self.colour, self.colour, factor, 0)
        return self


@dataclass(frozen=True, eq=False)
class Surface:
    """A textured plane.

    Attributes:
        canvas: its texture and labels.
        frame: float64 `[3,3]`; columns are the step per texture pixel to the right, the step per pixel down, and the
            centre of the first pixel, in the body's coordinates.
        facing: +1 if the texture is seen unmirrored from outside, -1 if mirrored, 0 if both sides are visible.
    """

    canvas: Canvas
    frame: Float64
    facing: int = 1


def plane(canvas: Canvas, corner: Vector, right: Vector, down: Vector, facing: int = 1) -> Surface:
    """The surface whose texture has its top left corner at `corner` and runs along the unit vectors given."""
    u = np.array(right, dtype=np.float64) / canvas.scale[0]
    v = np.array(down, dtype=np.float64) / canvas.scale[1]
    return Surface(canvas, np.stack([u, v, np.array(corner) + (u + v) / 2], axis=1), facing)


def upright(canvas: Canvas, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Surface:
    """A surface across the street, seen from both sides: its texture's x runs along X, its y along Y."""
    return plane(canvas, (x + canvas.left, y + canvas.top, z), (1, 0, 0), (0, -1, 0), facing=0)


def along(canvas: Canvas, x: float = 0.0, facing: int = 0) -> Surface:
    """An upright surface along the street: its texture's x runs along Z."""
    return plane(canvas, (x, canvas.top, canvas.left), (0, 0, 1), (0, -1, 0), facing)


@dataclass(eq=False)
class Body:
    """Surfaces that move together.

    Attributes:
        surfaces: in painting order.
        position: X and Z of the body's origin at frame 0.
        heading: rotation about Y, radians; 0 looks along +Z, positive turns towards +X.
        velocity: metres per frame in X and Z.
        layer: bodies of a lower layer are painted first; within a layer, far ones first.
        shadow: half-lengths along the body's x and z axes of the shadow on the ground.
        infinite: the body is at infinity and only turns with the camera (the sky).
    """

    surfaces: list[Surface]
    position: Point = (0.0, 0.0)
    heading: float = 0.0
    velocity: Point = (0.0, 0.0)
    layer: int = 5
    shadow: Point | None = None
    infinite: bool = False


@dataclass(frozen=True, eq=False)
class Path:
    """The camera of a drive, per frame; the focal length counts in image widths.

    Attributes:
        position: float64 `[T,3]`, world metres.
        yaw: float64 `[T]`, radians, positive to the right.
        focal: focal length / image width.
        horizon: row of the horizon / image height.
    """

    position: Float64
    yaw: Float64
    focal: float
    horizon: float


@dataclass(eq=False)
class Scene:
    """One drive's world: bodies, the sky first, and the camera's path through them."""

    path: Path
    bodies: list[Body]

    def put(self, body: Body, position: Point, velocity: Point = (0.0, 0.0), heading: float = 0.0) -> None:
        """Add a body; see `Body`."""
        body.position, body.velocity, body.heading = position, velocity, heading
        self.bodies.append(body)
