"""Who and what uses the street: people, two-wheelers with their riders, cars, trucks and buses.

Vehicles are side profiles extruded to their width; all else is a flat figure, seen from the side or from ahead. Body
coordinates: x to the right, y up, z forward; the origin lies on the ground under the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from stpl.data.streets.palette import RGB, Palette
from stpl.data.streets.scene import Body, C, Canvas, Point, Surface, along, plane, upright

_FIGURE, _VEHICLE = 44.0, 32.0  # texture pixels per metre
_P = int(C.PERSON)


def person(pal: Palette) -> Body:
    """A pedestrian of 1.5 to 1.9 m in mid-stride."""
    coat, legs = pal.pick("coat", 0.15), pal.pick("trousers", 0.15)
    skin, hair, bag = pal.pick("skin"), pal.pick("hair"), pal.pick("door")
    stride, long_coat, with_bag = pal.rng.uniform(0.1, 0.3), pal.rng.random() < 0.35, pal.rng.random() < 0.4
    k = pal.rng.uniform(0.88, 1.06)
    c = Canvas((-0.5 * k, 0, 0.5 * k, 1.8 * k), _FIGURE / k, coat)
    for side in (-1, 1):
        c.bar((0.07 * side, 0.92 * k), ((0.07 + stride * 0.7) * side, 0.04), 0.19 * k, legs, _P)
        c.bar((0.2 * side * k, 1.42 * k), ((0.26 + stride * 0.5) * side * k, 0.85 * k), 0.13 * k, coat, _P)
        c.disc(((0.26 + stride * 0.5) * side * k, 0.82 * k), 0.06, skin, _P)
    hem = 0.55 if long_coat else 0.85
    c.poly([(-0.24 * k, 1.48 * k), (0.24 * k, 1.48 * k), (0.25 * k, hem * k), (-0.25 * k, hem * k)], coat, _P)
    if with_bag:
        c.rect((0.16, 0.75 * k, 0.42, 1.05 * k), bag, _P)
    _head(c, (0, 1.64 * k), k, skin, hair)
    return Body([upright(c)], shadow=(0.4, 0.3))


def _head(c: Canvas, middle: Point, k: float, skin: RGB, hair: RGB) -> None:
    x, y = middle
    c.rect((x - 0.06, y - 0.2 * k, x + 0.06, y), skin, _P)
    c.disc(middle, (0.125 * k, 0.155 * k), skin, _P)
    c.disc((x, y + 0.07 * k), (0.135 * k, 0.1 * k), hair, _P)


def two_wheeler(pal: Palette, motor: bool, sideways: bool, ridden: bool = True) -> Body:
    """A motorcycle (`motor`) or bicycle, seen from the side or from ahead/behind, with or without its rider."""
    canvas = (_side_view if sideways else _end_view)(pal, motor, ridden)
    if sideways and pal.rng.random() < 0.5:
        canvas.mirror()
    return Body([upright(canvas)], shadow=(0.9, 0.3) if sideways else (0.35, 0.9))


def _side_view(pal: Palette, motor: bool, ridden: bool) -> Canvas:
    label = int(C.MOTORCYCLE if motor else C.BICYCLE)
    paint = pal.pick("motorcycle" if motor else "bicycle", 0.12)
    tyre, spokes, metal = pal.pick("tyre"), pal.pick("spokes"), pal.pick("metal")
    c = Canvas((-1.1, 0, 1.1, 1.85), _FIGURE, tyre)
    for z in (-0.68, 0.68):
        c.disc((z, 0.36), 0.36, tyre, label)
        rim = 0.2 if motor else 0.28
        c.disc((z, 0.36), rim, spokes, label)
    width = 0.13 if motor else 0.09
    frame = [((-0.68, 0.36), (-0.05, 0.38)), ((-0.05, 0.38), (-0.25, 0.95)), ((-0.25, 0.85), (0.5, 0.9)),
             ((-0.05, 0.38), (0.5, 0.85)), ((0.68, 0.36), (0.48, 1.08)), ((-0.68, 0.36), (-0.25, 0.85))]  # fmt: skip
    for a, b in frame:
        c.bar(a, b, width, paint, label)
    if motor:
        c.poly([(-0.9, 0.78), (-0.3, 0.92), (0.45, 1.02), (0.62, 0.7), (0.25, 0.3), (-0.45, 0.3)], paint, label)
        c.poly([(-0.3, 0.25), (0.3, 0.25), (0.25, 0.55), (-0.25, 0.55)], metal, label)
        c.poly([(0.4, 0.95), (0.62, 1.25), (0.7, 1.2), (0.66, 0.85)], spokes, label)
        c.rect((-0.85, 0.86, -0.1, 0.96), tyre, label)
        c.bar((-0.9, 0.3), (-0.1, 0.28), 0.12, metal, label)
    else:
        c.rect((-0.4, 0.93, -0.12, 1.02), tyre, label)
    c.bar((0.36, 1.1), (0.56, 1.12), 0.09, tyre, label)
    _side_rider(c, pal, motor, ridden)
    return c


def _side_rider(c: Canvas, pal: Palette, motor: bool, ridden: bool) -> None:
    coat, legs = pal.pick("coat", 0.15), pal.pick("trousers", 0.15)
    skin, hair, helmet = pal.pick("skin"), pal.pick("hair"), pal.pick("sign_red")
    if not ridden:
        return
    c.bar((-0.25, 0.98), (0.15, 0.72), 0.17, legs, _P)
    c.bar((0.15, 0.72), (-0.02, 0.32), 0.14, legs, _P)
    c.bar((-0.24, 0.95), (0.08, 1.45), 0.3, coat, _P)
    c.bar((0.08, 1.4), (0.42, 1.12), 0.11, coat, _P)
    _head(c, (0.16, 1.62), 1.0, skin, helmet if motor else hair)
    if motor:
        c.disc((0.16, 1.64), (0.17, 0.18), helmet, _P)


def _end_view(pal: Palette, motor: bool, ridden: bool) -> Canvas:
    label = int(C.MOTORCYCLE if motor else C.BICYCLE)
    paint = pal.pick("motorcycle" if motor else "bicycle", 0.12)
    tyre, lamp = pal.pick("tyre"), pal.pick("lamp_red")
    coat, legs = pal.pick("coat", 0.15), pal.pick("trousers", 0.15)
    skin, hair, helmet = pal.pick("skin"), pal.pick("hair"), pal.pick("sign_red")
    c = Canvas((-0.5, 0, 0.5, 1.85), _FIGURE, tyre)
    if ridden:
        for side in (-1, 1):
            c.bar((0.12 * side, 1.0), (0.2 * side, 0.4), 0.16, legs, _P)
    wheel = 0.13 if motor else 0.08
    c.rect((-wheel, 0, wheel, 0.7), tyre, label)
    c.rect((-wheel - 0.04, 0.45, wheel + 0.04, 0.95), paint, label)
    if motor:
        c.poly([(-0.24, 0.45), (0.24, 0.45), (0.2, 0.98), (-0.2, 0.98)], paint, label)
        c.rect((-wheel, 0, wheel, 0.5), tyre, label)
    c.rect((-0.08, 0.68, 0.08, 0.8), lamp, label)
    c.bar((-0.4, 1.08), (0.4, 1.08), 0.09, tyre, label)
    if ridden:
        c.poly([(-0.24, 1.46), (0.24, 1.46), (0.2, 0.92), (-0.2, 0.92)], coat, _P)
        for side in (-1, 1):
            c.bar((0.22 * side, 1.4), (0.36 * side, 1.1), 0.11, coat, _P)
        _head(c, (0, 1.64), 1.0, skin, hair)
        if motor:
            c.disc((0, 1.65), (0.16, 0.18), helmet, _P)
    return c


class _Hull:
    """The body of a vehicle: a side profile, extruded to its width.

    Args:
        pal: the domain's palette, which gives the shading of faces of different orientation too.
        label: class of the body.
        paint: colour of the body.
        half: half the width, metres.
        profile: (z, y) corners from the front bumper's bottom over the roof to the rear bumper's bottom.

    Attributes:
        side: texture of the right side, z running to the right.
    """

    def __init__(self, pal: Palette, label: int, paint: RGB, half: float, profile: list[Point]) -> None:
        self.pal, self.label, self.paint, self.half, self.profile = pal, label, paint, half, profile
        self.side = Canvas((profile[-1][0], 0, profile[0][0], max(y for _, y in profile)), _VEHICLE, paint)
        self.side.poly(profile, paint, label)

    def wheels(self, at: list[float], radius: float) -> None:
        """Paint wheels on the sides, `at` metres before the middle."""
        tyre, rim = self.pal.pick("tyre"), self.pal.pick("metal")
        for z in at:
            self.side.disc((z, radius), radius, tyre, self.label)
            self.side.disc((z, radius), radius * 0.55, rim, self.label)

    def surfaces(self, strip: Callable[[int, Canvas], None], dark: RGB) -> list[Surface]:
        """The faces from front to rear, both sides, and what is beneath.

        Args:
            strip: paints face i, counted from the front; its canvas spans x in ±half and y from 0 (lower end) upwards.
            dark: colour of the wheels and the gap between them.
        """
        surfaces, half = [], self.half
        for i, (a, b) in enumerate(pairwise(self.profile)):
            dz, dy = a[0] - b[0], a[1] - b[1]
            length = float(np.hypot(dz, dy))
            canvas = Canvas((-half, 0, half, length), _VEHICLE, self.paint, self.label)
            strip(i, canvas)
            canvas.tint(self.pal.sun(1.12 if abs(dz) > abs(dy) else 0.92))
            down = (0.0, dy / length, dz / length)
            if dy <= 0 and dz > 0:  # the front half: seen from the front, right is the vehicle's left
                surfaces.append(plane(canvas, (half, b[1], b[0]), (-1, 0, 0), down))
            else:
                surfaces.append(plane(canvas, (-half, a[1], a[0]), (1, 0, 0), (-down[0], -down[1], -down[2])))
        self.side.tint(self.pal.sun(0.85))
        return [*surfaces, along(self.side, half, facing=1), along(self.side, -half, facing=-1), self._under(dark)]

    def _under(self, dark: RGB) -> Surface:
        """Wheels and the gap between them, seen from behind or ahead."""
        half, gap = self.half, self.profile[-1][1]
        canvas = Canvas((-half, 0, half, gap + 0.03), _VEHICLE, dark)
        canvas.rect((-half, 0, -half + 0.26, gap + 0.03), dark, self.label)
        canvas.rect((half - 0.26, 0, half, gap + 0.03), dark, self.label)
        canvas.rect((-half, gap * 0.5, half, gap + 0.03), dark, self.label)
        return upright(canvas, z=-1.35)


def car(pal: Palette) -> Body:
    """A saloon, hatchback or tall van; about 4.4 m long."""
    label, paint = int(C.CAR), pal.pick("car", 0.12)
    glass, dark = pal.pick("glass"), pal.pick("tyre")
    red, white, plate = pal.pick("lamp_red"), pal.pick("lamp_white"), pal.pick("sign_white")
    height, half = pal.rng.uniform(1.45, 1.85), pal.rng.uniform(0.86, 0.95)
    rear = -2.15 if pal.rng.random() < 0.5 else -1.7  # with boot, or hatchback
    belt = 0.62 * height
    profile = [(2.1, 0.3), (2.15, 0.75), (1.15, belt), (0.45, height), (-1.15, height), (rear + 0.25, belt + 0.04),
               (-2.15, belt - 0.02), (-2.15, 0.3)]  # fmt: skip
    hull = _Hull(pal, label, paint, half, profile)
    side = hull.side
    side.poly([(0.98, belt), (0.42, height - 0.1), (-0.3, height - 0.1), (-0.3, belt)], glass)
    side.poly([(-0.4, belt), (-0.4, height - 0.1), (-1.08, height - 0.1), (rear + 0.45, belt)], glass)
    side.rect((-2.15, 0.28, 2.1, 0.4), dark)
    side.rect((1.95, 0.6, 2.15, 0.74), white)
    side.rect((-2.15, 0.66, -1.95, 0.86), red)
    hull.wheels([1.35, -1.35], 0.34)

    def strip(i: int, canvas: Canvas) -> None:
        top = canvas.top
        if i in (2, 4):  # windscreen, rear window
            canvas.rect((-half + 0.1, 0.08, half - 0.1, top - 0.07), glass)
        elif i == 0:
            canvas.rect((-half, 0, half, 0.14), dark)
            canvas.rect((-0.45, 0.18, 0.45, 0.34), dark)
            canvas.rect((-half, 0.26, -0.55, 0.44), white)
            canvas.rect((0.55, 0.26, half, 0.44), white)
        elif i == 6:
            canvas.rect((-half, 0, half, 0.16), dark)
            canvas.rect((-half, 0.32, -0.55, 0.56), red)
            canvas.rect((0.55, 0.32, half, 0.56), red)
            canvas.rect((-0.27, 0.26, 0.27, 0.4), plate)

    return Body(hull.surfaces(strip, dark), shadow=(half + 0.1, 2.3))


def truck(pal: Palette) -> Body:
    """A lorry: cab and a box body; 7 to 9 m long."""
    label, cab, box = int(C.TRUCK), pal.pick("cab", 0.1), pal.pick("cargo", 0.1)
    glass, dark = pal.pick("glass"), pal.pick("tyre")
    red, white, stripe = pal.pick("lamp_red"), pal.pick("lamp_white"), pal.pick("cab")
    z, height, half = pal.rng.uniform(3.4, 4.4), pal.rng.uniform(3.1, 3.7), 1.22
    profile = [(z, 0.5), (z, 1.5), (z - 0.25, 2.55), (z - 1.75, 2.6), (z - 1.76, height), (-z, height), (-z, 0.55)]
    hull = _Hull(pal, label, box, half, profile)
    side = hull.side
    side.poly([(z, 0.5), (z, 1.5), (z - 0.25, 2.55), (z - 1.75, 2.6), (z - 1.75, 0.5)], cab, label)
    side.poly([(z - 0.15, 1.5), (z - 0.4, 2.35), (z - 1.3, 2.35), (z - 1.3, 1.5)], glass)
    side.rect((-z, 0.5, z, 0.9), dark)
    side.rect((-z + 0.4, 1.9, z - 2.3, 2.5), stripe)
    hull.wheels([z - 1.0, -z + 1.2, -z + 2.3], 0.5)

    def strip(i: int, canvas: Canvas) -> None:
        if i <= 2:
            canvas.rect((-half, 0, half, canvas.top), cab)
        if i == 1:
            canvas.rect((-half + 0.1, 0.1, half - 0.1, canvas.top - 0.1), glass)
        elif i == 0:
            canvas.rect((-half, 0, half, 0.25), dark)
            canvas.rect((-0.75, 0.4, 0.75, 0.8), dark)
            canvas.rect((-1.15, 0.3, -0.8, 0.55), white)
            canvas.rect((0.8, 0.3, 1.15, 0.55), white)
        elif i == 5:  # rear doors
            canvas.rect((-0.03, 0.4, 0.03, canvas.top), dark)
            canvas.rect((-half, 0, half, 0.35), dark)
            canvas.rect((-1.1, 0.1, -0.7, 0.3), red)
            canvas.rect((0.7, 0.1, 1.1, 0.3), red)
            canvas.rect((-1.0, 1.5, -0.2, 1.9), stripe)
            canvas.rect((0.2, 1.5, 1.0, 1.9), stripe)

    return Body(hull.surfaces(strip, dark), shadow=(1.4, z + 0.2))


def bus(pal: Palette) -> Body:
    """A city bus with a band of windows; 9 to 11 m long."""
    label, paint = int(C.BUS), pal.pick("bus", 0.1)
    glass, dark, roof = pal.pick("glass"), pal.pick("tyre"), pal.pick("trim")
    red, white, text = pal.pick("lamp_red"), pal.pick("lamp_white"), pal.pick("lamp_white")
    z, height, half = pal.rng.uniform(4.4, 5.4), pal.rng.uniform(2.9, 3.2), 1.25
    profile = [(z, 0.35), (z, 1.1), (z - 0.12, height), (-z, height), (-z, 0.35)]
    hull = _Hull(pal, label, paint, half, profile)
    side = hull.side
    side.rect((-z, height - 0.22, z, height), roof)
    step = 1.35
    for start in np.arange(-z + 0.3, z - 1.2, step):
        side.rect((start, 1.25, start + step - 0.14, height - 0.4), glass)
    for door in (z - 1.5, -0.6):
        side.rect((door, 0.4, door + 1.1, height - 0.4), dark)
        side.rect((door + 0.08, 0.55, door + 0.5, height - 0.5), glass)
        side.rect((door + 0.6, 0.55, door + 1.02, height - 0.5), glass)
    hull.wheels([z - 2.3, -z + 2.4], 0.48)

    def strip(i: int, canvas: Canvas) -> None:
        if i == 1:
            canvas.rect((-half + 0.08, 0.05, half - 0.08, canvas.top - 0.5), glass)
            canvas.rect((-half + 0.2, canvas.top - 0.42, half - 0.2, canvas.top - 0.08), dark)
            canvas.rect((-half + 0.4, canvas.top - 0.34, half - 0.5, canvas.top - 0.16), text)
        elif i == 0:
            canvas.rect((-half, 0, half, 0.2), dark)
            canvas.rect((-1.15, 0.3, -0.75, 0.55), white)
            canvas.rect((0.75, 0.3, 1.15, 0.55), white)
        elif i == 2:
            canvas.rect((-half, 0, half, canvas.top), roof)
        else:
            canvas.rect((-half + 0.12, 1.25, half - 0.12, canvas.top - 0.6), glass)
            canvas.rect((-half + 0.3, canvas.top - 0.45, half - 0.3, canvas.top - 0.12), dark)
            canvas.rect((-half, 0, half, 0.18), dark)
            canvas.rect((-1.2, 0.35, -0.9, 0.95), red)
            canvas.rect((0.9, 0.35, 1.2, 0.95), red)

    return Body(hull.surfaces(strip, dark), shadow=(1.4, z + 0.2))
