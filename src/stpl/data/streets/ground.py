"""The street seen from above: road, kerbs, pavements, verges, lane markings and crossings, on one texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stpl.data.streets.palette import Palette, dim
from stpl.data.streets.scene import Body, C, Canvas, plane

REACH = 34.0
"""How far the ground extends to both sides, metres."""
BEHIND = 2.0
"""How far the ground extends behind the camera's start, metres."""


@dataclass(frozen=True)
class Side:
    """Cross-section of one side of the street, distances from the middle of the road in metres.

    Attributes:
        direction: +1 right of the middle, -1 left.
        kerb: end of the road.
        verge: end of the green strip beside the road (= kerb if there is none).
        walk: end of the pavement; beyond lies garden or park (TERRAIN) up to `wall`.
        wall: where the buildings begin.
        kind: "town", "suburb" or "park".
    """

    direction: int
    kerb: float
    verge: float
    walk: float
    wall: float
    kind: str


def make_side(rng: np.random.Generator, direction: int, kerb: float) -> Side:
    """Draw a cross-section beyond the road's edge `kerb`."""
    kind = ("town", "suburb", "park")[int(rng.choice(3, p=[0.42, 0.36, 0.22]))]
    verge = kerb + (rng.uniform(1.0, 1.8) if rng.random() < 0.45 else 0.0)
    walk = verge + rng.uniform(1.8, 3.0)
    garden = 0.0 if kind == "town" else rng.uniform(2.5, 4.5)
    return Side(direction, kerb, verge, walk, walk + garden + (8.0 if kind == "park" else 0.0), kind)


def ground(pal: Palette, sides: tuple[Side, Side], length: float, crossings: list[float]) -> Body:
    """The ground from `BEHIND` the start to `length` metres ahead.

    `sides` are its cross-sections left and right, `crossings` the Z of side streets (7 m wide) with a zebra crossing in
    front.
    """
    c = Canvas((-REACH, -BEHIND, REACH, length), (12, 7), pal.pick("terrain"), int(C.TERRAIN))
    c.grain(pal, "terrain", 0.6)
    for side in sides:
        _pavement(c, pal, side, length)
    road = Canvas((-sides[0].kerb, -BEHIND, sides[1].kerb, length), (12, 7), pal.pick("road"), int(C.ROAD))
    road.grain(pal, "road", 0.8)
    _patches(road, pal, length)
    for z in crossings:
        _side_street(c, road, z)
    _paste(c, road)
    _markings(c, pal, sides, length, crossings)
    return Body([plane(c, (-REACH, 0.0, length), (1, 0, 0), (0, 0, -1))], layer=0)


def _pavement(c: Canvas, pal: Palette, side: Side, length: float) -> None:
    stone, kerb = pal.pick("sidewalk"), pal.pick("kerb")
    end = REACH if side.kind == "town" else side.walk
    strip = Canvas((side.verge, -BEHIND, end, length), (12, 7), stone, int(C.SIDEWALK))
    strip.grain(pal, "sidewalk", 0.5)
    for z in np.arange(0.0, length, 1.5):
        strip.rect((side.verge, z, end, z + 0.15), dim(stone, 0.86))
    for x in np.arange(side.verge, end, 1.2):
        strip.rect((x, -BEHIND, x + 0.09, length), dim(stone, 0.86))
    if side.direction < 0:
        strip.mirror()
    _paste(c, strip)
    c.rect((side.direction * side.kerb, -BEHIND, side.direction * (side.kerb + 0.28), length), kerb, int(C.SIDEWALK))


def _paste(onto: Canvas, part: Canvas) -> None:
    x = round((part.left - onto.left) * onto.scale[0])
    height, width = part.label.shape
    width = min(width, onto.label.shape[1] - x)
    onto.colour[:height, x : x + width] = part.colour[:, :width]
    onto.label[:height, x : x + width] = part.label[:, :width]


def _patches(road: Canvas, pal: Palette, length: float) -> None:
    """Repaired spots and manholes: the road is not one colour."""
    for _ in range(int(length / 7)):
        patch, tone = pal.pick("road", 0.25), pal.pick("metal")
        x, z = pal.rng.uniform(road.left, road.right), pal.rng.uniform(0, length)
        w, d, hole = pal.rng.uniform(0.5, 1.6), pal.rng.uniform(0.8, 4.0), pal.rng.random() < 0.3
        if hole:
            road.disc((x, z), 0.35, dim(tone, 0.5))
        else:
            road.rect((x, z, x + w, z + d), patch)


def _side_street(c: Canvas, road: Canvas, z: float) -> None:
    """Continue the road's own texture across both pavements; it is tiled sideways."""
    rows = slice(round((c.top - z - 7) * c.scale[1]), round((c.top - z) * c.scale[1]))
    width = c.label.shape[1]
    repeat = -(-width // road.label.shape[1])
    c.colour[rows] = np.tile(road.colour[rows], (1, repeat, 1))[:, :width]
    c.label[rows] = int(C.ROAD)


def _markings(c: Canvas, pal: Palette, sides: tuple[Side, Side], length: float, crossings: list[float]) -> None:
    paint, solid = pal.pick("marking"), pal.rng.random() < 0.3
    clear = [(z - 5.0, z + 8.0) for z in crossings]
    for z in np.arange(0.0, length, 5.0):
        if any(a < z < b for a, b in clear):
            continue
        c.rect((-0.09, z, 0.09, z + (5.0 if solid else 2.6)), paint)
        for side in sides:
            edge = side.direction * (side.kerb - 2.3)
            c.rect((edge - 0.07, z, edge + 0.07, z + 5.0), paint)
    for z in crossings:
        for x in np.arange(-sides[0].kerb + 0.3, sides[1].kerb - 0.3, 1.1):
            c.rect((x, z - 4.0, x + 0.6, z - 1.0), paint)
        c.rect((0.1, z - 5.2, sides[1].kerb - 2.3, z - 4.75), paint)
