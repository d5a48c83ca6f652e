"""The street seen from above: road, kerbs, pavements, verges, lane markings and crossings, on one texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stpl.data.streets.canvas import Canvas
from stpl.data.streets.palette import Palette
from stpl.data.streets.scene import Body, C, plane

Rng = np.random.Generator
REACH = 34.0
"""How far the ground extends to both sides, metres."""
BEHIND = 2.0
"""How far the ground extends behind the camera's start, metres."""


@dataclass(frozen=True)
class Side:
    """Cross-section of one side of the street, distances from the middle of the road in metres.

    Attributes:
        kerb: end of the road.
        verge: end of the green strip beside the road (= kerb if there is none).
        walk: end of the pavement; beyond lies garden or park (TERRAIN) up to `wall`.
        wall: where the buildings begin.
        kind: "town", "suburb" or "park".
    """

    kerb: float
    verge: float
    walk: float
    wall: float
    kind: str


def make_side(rng: Rng, kerb: float) -> Side:
    """Draw a cross-section beyond the road's edge `kerb`."""
    kind = ("town", "suburb", "park")[int(rng.choice(3, p=[0.42, 0.36, 0.22]))]
    verge = kerb + (float(rng.uniform(1.0, 1.8)) if rng.random() < 0.45 else 0.0)
    walk = verge + float(rng.uniform(1.8, 3.0))
    garden = 0.0 if kind == "town" else float(rng.uniform(2.5, 4.5))
    return Side(kerb, verge, walk, walk + garden + (8.0 if kind == "park" else 0.0), kind)


def ground(pal: Palette, rng: Rng, sides: tuple[Side, Side], length: float, crossings: list[float]) -> Body:
    """The ground from `BEHIND` the start to `length` metres ahead.

    Args:
        pal: the domain's palette.
        rng: source of colours and noise.
        sides: cross-sections left and right.
        length: metres.
        crossings: Z of side streets (7 m wide) with a zebra crossing in front.
    """
    c = Canvas(-REACH, -BEHIND, REACH, length, (12, 7), pal.pick("terrain", rng), int(C.TERRAIN))
    c.grain(pal.grain("terrain"), rng, 0.6)
    for sign, side in zip((-1, 1), sides, strict=True):
        _pavement(c, pal, rng, sign, side, length)
    road = Canvas(-sides[0].kerb, -BEHIND, sides[1].kerb, length, (12, 7), pal.pick("road", rng), int(C.ROAD))
    road.grain(pal.grain("road"), rng, 0.8)
    _patches(road, pal, rng, length)
    for z in crossings:
        _side_street(c, road, z)
    _paste(c, road)
    _markings(c, pal, rng, sides, length, crossings)
    corner = (-REACH, 0.0, length)
    return Body([plane(c, corner, (1, 0, 0), (0, 0, -1))], layer=0)


def _pavement(c: Canvas, pal: Palette, rng: Rng, sign: int, side: Side, length: float) -> None:
    stone, kerb = pal.pick("sidewalk", rng), pal.pick("kerb", rng)
    end = REACH if side.kind == "town" else side.walk
    strip = Canvas(side.verge, -BEHIND, end, length, (12, 7), stone, int(C.SIDEWALK))
    strip.grain(pal.grain("sidewalk"), rng, 0.5)
    seam = (int(stone[0] * 0.86), int(stone[1] * 0.86), int(stone[2] * 0.86))
    for z in np.arange(0.0, length, 1.5):
        strip.rect(side.verge, z, end, z + 0.15, seam)
    for x in np.arange(side.verge, end, 1.2):
        strip.rect(x, -BEHIND, x + 0.09, length, seam)
    if sign < 0:
        strip.left, strip.right = -strip.right, -strip.left
        strip.colour, strip.label = strip.colour[:, ::-1].copy(), strip.label[:, ::-1].copy()
    _paste(c, strip)
    c.rect(sign * side.kerb, -BEHIND, sign * (side.kerb + 0.28), length, kerb, int(C.SIDEWALK))


def _paste(onto: Canvas, part: Canvas) -> None:
    x = round((part.left - onto.left) * onto.scale[0])
    height, width = part.label.shape
    width = min(width, onto.label.shape[1] - x)
    onto.colour[:height, x : x + width] = part.colour[:, :width]
    onto.label[:height, x : x + width] = part.label[:, :width]


def _patches(road: Canvas, pal: Palette, rng: Rng, length: float) -> None:
    """Repaired spots and manholes: the road is not one colour."""
    for _ in range(int(length / 7)):
        patch, tone = pal.pick("road", rng, 0.25), pal.pick("metal", rng)
        x, z = rng.uniform(road.left, road.right), rng.uniform(0, length)
        w, d, hole = rng.uniform(0.5, 1.6), rng.uniform(0.8, 4.0), rng.random() < 0.3
        if hole:
            road.disc(x, z, 0.35, 0.35, (tone[0] // 2, tone[1] // 2, tone[2] // 2))
        else:
            road.rect(x, z, x + w, z + d, patch)


def _side_street(c: Canvas, road: Canvas, z: float) -> None:
    """Continue the road's own texture across both pavements; it is tiled sideways."""
    rows = slice(round((c.top - z - 7) * c.scale[1]), round((c.top - z) * c.scale[1]))
    width = c.label.shape[1]
    repeat = -(-width // road.label.shape[1])
    c.colour[rows] = np.tile(road.colour[rows], (1, repeat, 1))[:, :width]
    c.label[rows] = int(C.ROAD)


def _markings(
    c: Canvas, pal: Palette, rng: Rng, sides: tuple[Side, Side], length: float, crossings: list[float]
) -> None:
    paint, solid = pal.pick("marking", rng), rng.random() < 0.3
    clear = [(z - 5.0, z + 8.0) for z in crossings]
    for z in np.arange(0.0, length, 5.0):
        if any(a < z < b for a, b in clear):
            continue
        c.rect(-0.09, z, 0.09, z + (5.0 if solid else 2.6), paint)
        for sign, side in zip((-1, 1), sides, strict=True):
            edge = sign * (side.kerb - 2.3)
            c.rect(edge - 0.07, z, edge + 0.07, z + 5.0, paint)
    for z in crossings:
        for x in np.arange(-sides[0].kerb + 0.3, sides[1].kerb - 0.3, 1.1):
            c.rect(x, z - 4.0, x + 0.6, z - 1.0, paint)
        c.rect(0.1, z - 5.2, sides[1].kerb - 2.3, z - 4.75, paint)
