"""What a drive consists of: textured planes on rigid bodies, and the camera's path.

World: X right, Y up, Z forward along the street, metres; one step of time is one frame. All surfaces are planes, so the
motion of every pixel between two frames is a homography known in closed form: that is where the exact flow comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from stpl.data.streets.canvas import Canvas

Vector = tuple[float, float, float]
Float64 = NDArray[np.float64]


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


def upright(canvas: Canvas, x: float = 0.0, z: float = 0.0, y: float = 0.0, facing: int = 0) -> Surface:
    """A surface across the street: its texture's x runs along X, its y along Y."""
    return plane(canvas, (x + canvas.left, y + canvas.top, z), (1, 0, 0), (0, -1, 0), facing)


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
    position: tuple[float, float] = (0.0, 0.0)
    heading: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)
    layer: int = 5
    shadow: tuple[float, float] | None = None
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
    bodies: list[Body] = field(default_factory=list)
