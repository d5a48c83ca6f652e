"""Cars, trucks and buses: side profiles extruded to their width; motorcycles and bicycles with riders: flat figures.

Body coordinates: x to the right of the vehicle, y up, z forward; the origin lies on the ground under its middle.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from stpl.data.streets.canvas import Canvas
from stpl.data.streets.palette import RGB, Palette
from stpl.data.streets.scene import Body, C, Surface, plane, upright

Profile = list[tuple[float, float]]
Rng = np.random.Generator
_DENSITY = 32.0  # texture pixels per metre


def extrude(profile: Profile, half: float, side: Canvas, strip: Callable[[int, Canvas], None], fill: RGB, label: int,
            pal: Palette) -> list[Surface]:  # fmt: skip
    """Surfaces of a body of constant cross-section.

    Args:
        profile: (z, y) corners from the front bumper's bottom over the roof to the rear bumper's bottom.
        half: half the width, metres.
        side: texture of the right side, z running to the right.
        strip: paints segment i of the profile; the canvas spans x in ±half and y from 0 (lower end) upwards.
        fill: colour of the body.
        label: class of the body.
        pal: gives the shading of faces of different orientation.

    Returns:
        The strips, then both sides.
    """
    surfaces = []
    for i, (a, b) in enumerate(pairwise(profile)):
        dz, dy = a[0] - b[0], a[1] - b[1]
        length = float(np.hypot(dz, dy))
        canvas = Canvas(-half, 0, half, length, _DENSITY, fill, label)
        strip(i, canvas)
        canvas.tint(pal.sun(1.12 if abs(dz) > abs(dy) else 0.92))
        down = (0.0, dy / length, dz / length)
        if dy <= 0 and dz > 0:  # the front half: seen from the front, right is the vehicle's left
            surfaces.append(plane(canvas, (half, b[1], b[0]), (-1, 0, 0), down))
        else:
            surfaces.append(plane(canvas, (-half, a[1], a[0]), (1, 0, 0), (-down[0], -down[1], -down[2])))
    side.tint(pal.sun(0.85))
    surfaces.append(plane(side, (half, side.top, side.left), (0, 0, 1), (0, -1, 0)))
    surfaces.append(plane(side, (-half, side.top, side.left), (0, 0, 1), (0, -1, 0), facing=-1))
    return surfaces


def _side(profile: Profile, paint: RGB, label: int, height: float) -> Canvas:
    front, rear = profile[0][0], profile[-1][0]
    side = Canvas(rear, 0, front, height, _DENSITY, paint)
    side.poly(profile, paint, label)
    return side


def _wheels(side: Canvas, pal: Palette, rng: Rng, at: list[float], radius: float, label: int) -> None:
    tyre, rim = pal.pick("tyre", rng), pal.pick("metal", rng)
    for z in at:
        side.disc(z, radius, radius, radius, tyre, label)
        side.disc(z, radius, radius * 0.55, radius * 0.55, rim, label)


def car(pal: Palette, rng: Rng) -> Body:
    """A saloon, hatchback or tall van; about 4.4 m long."""
    label, paint = int(C.CAR), pal.pick("car", rng, 0.12)
    glass, dark = pal.pick("glass", rng), pal.pick("tyre", rng)
    red, white, plate = pal.pick("lamp_red", rng), pal.pick("lamp_white", rng), pal.pick("sign_white", rng)
    height, half = float(rng.uniform(1.45, 1.85)), float(rng.uniform(0.86, 0.95))
    rear = -2.15 if rng.random() < 0.5 else -1.7  # with boot, or hatchback
    belt = 0.62 * height
    profile = [(2.1, 0.3), (2.15, 0.75), (1.15, belt), (0.45, height), (-1.15, height), (rear + 0.25, belt + 0.04),
               (-2.15, belt - 0.02), (-2.15, 0.3)]  # fmt: skip
    side = _side(profile, paint, label, height)
    side.poly([(0.98, belt), (0.42, height - 0.1), (-0.3, height - 0.1), (-0.3, belt)], glass)
    side.poly([(-0.4, belt), (-0.4, height - 0.1), (-1.08, height - 0.1), (rear + 0.45, belt)], glass)
    side.rect(-2.15, 0.28, 2.1, 0.4, dark)
    side.rect(1.95, 0.6, 2.15, 0.74, white)
    side.rect(-2.15, 0.66, -1.95, 0.86, red)
    _wheels(side, pal, rng, [1.35, -1.35], 0.34, label)

    def strip(i: int, canvas: Canvas) -> None:
        """Paint what is on face number i of the body, counted from the front."""
        top = canvas.top
        if i in (2, 4):  # windscreen, rear window
            canvas.rect(-half + 0.1, 0.08, half - 0.1, top - 0.07, glass)
        elif i == 0:
            canvas.rect(-half, 0, half, 0.14, dark)
            canvas.rect(-0.45, 0.18, 0.45, 0.34, dark)
            canvas.rect(-half, 0.26, -0.55, 0.44, white)
            canvas.rect(0.55, 0.26, half, 0.44, white)
        elif i == 6:
            canvas.rect(-half, 0, half, 0.16, dark)
            canvas.rect(-half, 0.32, -0.55, 0.56, red)
            canvas.rect(0.55, 0.32, half, 0.56, red)
            canvas.rect(-0.27, 0.26, 0.27, 0.4, plate)

    return Body(
        extrude(profile, half, side, strip, paint, label, pal) + _under(half, 0.3, label, dark),
        shadow=(half + 0.1, 2.3),
    )


def _under(half: float, height: float, label: int, dark: RGB) -> list[Surface]:
    """Wheels and the dark gap between them, seen from behind or ahead."""
    canvas = Canvas(-half, 0, half, height + 0.03, _DENSITY, dark)
    canvas.rect(-half, 0, -half + 0.26, height + 0.03, dark, label)
    canvas.rect(half - 0.26, 0, half, height + 0.03, dark, label)
    canvas.rect(-half, height * 0.5, half, height + 0.03, dark, label)
    return [upright(canvas, z=-1.35)]


def truck(pal: Palette, rng: Rng) -> Body:
    """A lorry: cab and a box body; 7 to 9 m long."""
    label, cab, box = int(C.TRUCK), pal.pick("cab", rng, 0.1), pal.pick("cargo", rng, 0.1)
    glass, dark = pal.pick("glass", rng), pal.pick("tyre", rng)
    red, white, stripe = pal.pick("lamp_red", rng), pal.pick("lamp_white", rng), pal.pick("cab", rng)
    z, height, half = float(rng.uniform(3.4, 4.4)), float(rng.uniform(3.1, 3.7)), 1.22
    profile = [(z, 0.5), (z, 1.5), (z - 0.25, 2.55), (z - 1.75, 2.6), (z - 1.76, height), (-z, height), (-z, 0.55)]
    side = _side(profile, box, label, height)
    side.poly([(z, 0.5), (z, 1.5), (z - 0.25, 2.55), (z - 1.75, 2.6), (z - 1.75, 0.5)], cab, label)
    side.poly([(z - 0.15, 1.5), (z - 0.4, 2.35), (z - 1.3, 2.35), (z - 1.3, 1.5)], glass)
    side.rect(-z, 0.5, z, 0.9, dark)
    side.rect(-z + 0.4, 1.9, z - 2.3, 2.5, stripe)
    _wheels(side, pal, rng, [z - 1.0, -z + 1.2, -z + 2.3], 0.5, label)

    def strip(i: int, canvas: Canvas) -> None:
        """Paint what is on face number i of the body, counted from the front."""
        if i <= 2:
            canvas.rect(-half, 0, half, canvas.top, cab)
        if i == 1:
            canvas.rect(-half + 0.1, 0.1, half - 0.1, canvas.top - 0.1, glass)
        elif i == 0:
            canvas.rect(-half, 0, half, 0.25, dark)
            canvas.rect(-0.75, 0.4, 0.75, 0.8, dark)
            canvas.rect(-1.15, 0.3, -0.8, 0.55, white)
            canvas.rect(0.8, 0.3, 1.15, 0.55, white)
        elif i == 5:  # rear doors
            canvas.rect(-0.03, 0.4, 0.03, canvas.top, dark)
            canvas.rect(-half, 0, half, 0.35, dark)
            canvas.rect(-1.1, 0.1, -0.7, 0.3, red)
            canvas.rect(0.7, 0.1, 1.1, 0.3, red)
            canvas.rect(-1.0, 1.5, -0.2, 1.9, stripe)
            canvas.rect(0.2, 1.5, 1.0, 1.9, stripe)

    return Body(
        extrude(profile, half, side, strip, box, label, pal) + _under(half, 0.55, label, dark), shadow=(1.4, z + 0.2)
    )


def bus(pal: Palette, rng: Rng) -> Body:
    """A city bus with a band of windows; 9 to 11 m long."""
    label, paint = int(C.BUS), pal.pick("bus", rng, 0.1)
    glass, dark, roof = pal.pick("glass", rng), pal.pick("tyre", rng), pal.pick("trim", rng)
    red, white, text = pal.pick("lamp_red", rng), pal.pick("lamp_white", rng), pal.pick("lamp_white", rng)
    z, height, half = float(rng.uniform(4.4, 5.4)), float(rng.uniform(2.9, 3.2)), 1.25
    profile = [(z, 0.35), (z, 1.1), (z - 0.12, height), (-z, height), (-z, 0.35)]
    side = _side(profile, paint, label, height)
    side.rect(-z, height - 0.22, z, height, roof)
    step = 1.35
    for start in np.arange(-z + 0.3, z - 1.2, step):
        side.rect(start, 1.25, start + step - 0.14, height - 0.4, glass)
    for door in (z - 1.5, -0.6):
        side.rect(door, 0.4, door + 1.1, height - 0.4, dark)
        side.rect(door + 0.08, 0.55, door + 0.5, height - 0.5, glass)
        side.rect(door + 0.6, 0.55, door + 1.02, height - 0.5, glass)
    _wheels(side, pal, rng, [z - 2.3, -z + 2.4], 0.48, label)

    def strip(i: int, canvas: Canvas) -> None:
        """Paint what is on face number i of the body, counted from the front."""
        if i == 1:
            canvas.rect(-half + 0.08, 0.05, half - 0.08, canvas.top - 0.5, glass)
            canvas.rect(-half + 0.2, canvas.top - 0.42, half - 0.2, canvas.top - 0.08, dark)
            canvas.rect(-half + 0.4, canvas.top - 0.34, half - 0.5, canvas.top - 0.16, text)
        elif i == 0:
            canvas.rect(-half, 0, half, 0.2, dark)
            canvas.rect(-1.15, 0.3, -0.75, 0.55, white)
            canvas.rect(0.75, 0.3, 1.15, 0.55, white)
        elif i == 2:
            canvas.rect(-half, 0, half, canvas.top, roof)
        else:
            canvas.rect(-half + 0.12, 1.25, half - 0.12, canvas.top - 0.6, glass)
            canvas.rect(-half + 0.3, canvas.top - 0.45, half - 0.3, canvas.top - 0.12, dark)
            canvas.rect(-half, 0, half, 0.18, dark)
            canvas.rect(-1.2, 0.35, -0.9, 0.95, red)
            canvas.rect(0.9, 0.35, 1.2, 0.95, red)

    return Body(
        extrude(profile, half, side, strip, paint, label, pal) + _under(half, 0.35, label, dark), shadow=(1.4, z + 0.2)
    )
