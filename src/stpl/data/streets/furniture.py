"""What stands beside the road: trees, hedges, fences, traffic lights, signs, buildings."""

from __future__ import annotations

import cv2
import numpy as np

from stpl.data.streets.palette import RGB, Palette, dim
from stpl.data.streets.scene import EMPTY, Body, C, Canvas, Surface, Vector, along, noise_tile, plane, upright

_POLE = int(C.POLE)


def foliage(pal: Palette) -> Canvas:
    """A ragged crown of leaves on the canvas x in ±1, y in 0..2, to be stretched over a tree's size."""
    leaf, label = pal.pick("leaf", 0.12), int(C.VEGETATION)
    c = Canvas((-1, 0, 1, 2), 40, leaf, label)
    height, width = c.label.shape
    y, x = np.mgrid[:height, :width]
    oy, ox = pal.rng.integers(0, 512, 2)
    rough = noise_tile()[(y * 2 + oy) % 512, (x * 2 + ox) % 512]
    radius = np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5) * 2
    c.label[radius + 0.09 * rough > 0.86] = EMPTY
    light = 1 + pal.sun(1.3) * 0.35 * (0.5 - y / height) - 0.12 * (x / width - 0.5)
    c.modulate(light.astype(np.float32))
    c.grain(pal, "leaf", 0.35)
    return c


def tree(pal: Palette, crowns: list[Canvas]) -> Body:
    """A street tree of 4 to 8 m: trunk and three planes of foliage at different depths. The trunk is VEGETATION."""
    bark, height, spread = pal.pick("trunk"), pal.rng.uniform(4.2, 7.5), pal.rng.uniform(1.3, 2.1)
    base = height * pal.rng.uniform(0.3, 0.42)
    trunk = Canvas((-0.5, 0, 0.5, base + 1), 24, bark)
    trunk.poly([(-0.2, 0), (0.2, 0), (0.12, base + 1), (-0.12, base + 1)], bark, int(C.VEGETATION))
    trunk.bar((0, base * 0.75), (0.45, base + 0.8), 0.1, bark, int(C.VEGETATION))
    trunk.grain(pal, "trunk", 0.4)
    surfaces = [upright(trunk)]
    for depth in (0.5, 0.0, -0.5):
        crown = crowns[pal.rng.integers(len(crowns))]
        rx, ry = spread * pal.rng.uniform(0.7, 1.0), (height - base) / 2 * pal.rng.uniform(0.75, 1.0)
        x, y = pal.rng.uniform(-0.35, 0.35) * spread, base + pal.rng.uniform(-0.1, 0.5)
        surfaces.append(plane(crown, (x - rx, y + 2 * ry, depth), (rx, 0, 0), (0, -ry, 0), facing=0))
    return Body(surfaces, shadow=(spread * 0.9, spread * 0.7))


def hedge(pal: Palette, length: float, height: float) -> Body:
    """A clipped hedge along the street, from z = 0 to `length`, 0.9 m thick."""
    green, label = pal.pick("hedge", 0.1), int(C.VEGETATION)
    sides = []
    for left, right in ((0.0, length), (-0.45, 0.45)):
        c = Canvas((left, 0, right, height), 16, green, label)
        c.rect((left, 0, right, 0.2 * height), dim(green, 0.6))
        c.grain(pal, "hedge", 0.4)
        sides.append(c)
    lid = Canvas((-0.45, 0, 0.45, length), 10, dim(green, pal.sun(1.25)), label)
    lid.grain(pal, "hedge", 0.4)
    top = plane(lid, (-0.45, height, length), (1, 0, 0), (0, 0, -1), facing=0)
    end = upright(sides[1].tint(pal.sun(0.9)))
    return Body([along(sides[0], 0.45), along(sides[0], -0.45), end, top], layer=4)


def fence(pal: Palette, length: float) -> Body:
    """A board fence or, lower, a steel guard rail, along the street from z = 0 to `length`; gaps count as fence."""
    boards = pal.rng.random() < 0.65
    wood, rail = pal.pick("fence", 0.1), pal.pick("rail", 0.1)
    height = pal.rng.uniform(1.15, 1.7) if boards else 0.95
    fill = wood if boards else rail
    c = Canvas((0, 0, length, height), 20, fill, int(C.FENCE))
    if boards:
        for x in np.arange(0, length, 0.3):
            c.rect((x + 0.22, 0, x + 0.3, height), dim(wood, 0.45))
            gap = slice(round((x + 0.22) * c.scale[0]), round((x + 0.3) * c.scale[0]))
            c.label[: max(1, round(0.12 * c.scale[1])), gap] = EMPTY
        for y in (0.25, 0.75):
            c.rect((0, y * height - 0.06, length, y * height + 0.06), dim(wood, 0.8))
    else:
        c.rect((0, 0, length, 0.38), dim(rail, 0.5))
        c.rect((0, 0.62, length, 0.7), dim(rail, 0.6))
        for x in np.arange(0, length, 2.0):
            c.rect((x, 0, x + 0.15, height), dim(rail, 0.75))
    c.grain(pal, "wall", 0.5)
    return Body([along(c)], layer=4)


def _pole(pal: Palette, height: float) -> Surface:
    return upright(Canvas((-0.07, 0, 0.07, height), 24, pal.pick("metal"), _POLE))


def traffic_light(pal: Palette, reach: float) -> Body:
    """A signal head on a pole; with `reach` ≠ 0 a second one hangs from an arm that long (negative: to the left)."""
    housing, label, metal = pal.pick("housing"), int(C.LIGHT), pal.pick("metal")
    lit, height = int(pal.rng.integers(3)), pal.rng.uniform(2.1, 2.6)
    head = Canvas((-0.3, 0, 0.3, 1.35), 44, housing, label)
    for i, name in enumerate(("lamp_red", "lamp_white", "door")):
        glow = pal.pick(name)
        colour = ((236, 52, 40), (250, 190, 50), (60, 220, 130))[i] if i == lit else dim(glow, 0.35)
        head.disc((0, 1.35 - 0.26 - i * 0.41), 0.18, colour)
    surfaces = [_pole(pal, height + (3.0 if reach else 0.3)), upright(head, y=height, z=-0.1)]
    if reach:
        arm = Canvas((min(reach, 0), 0, max(reach, 0), 0.14), 24, metal, _POLE)
        surfaces += [upright(arm, y=height + 2.9), upright(head, x=reach, y=height + 1.75, z=-0.1)]
    return Body(surfaces, shadow=(0.25, 0.25))


def sign(pal: Palette) -> Body:
    """A traffic sign on a pole: round, triangular, square or a direction board."""
    kind, label, height = int(pal.rng.integers(4)), int(C.SIGN), pal.rng.uniform(2.0, 2.5)
    red, blue, white = (pal.pick(f"sign_{name}") for name in ("red", "blue", "white"))
    wide = 1.0 if kind == 3 else 0.5
    c = Canvas((-wide, 0, wide, 1.0), 44, white)
    if kind == 0:
        c.disc((0, 0.5), 0.5, red, label)
        c.disc((0, 0.5), 0.33, white)
    elif kind == 1:
        c.poly([(-0.5, 0.05), (0.5, 0.05), (0, 0.95)], red, label)
        c.poly([(-0.26, 0.19), (0.26, 0.19), (0, 0.66)], white)
    elif kind == 2:
        c.rect((-0.45, 0.05, 0.45, 0.95), blue, label)
        c.poly([(-0.2, 0.25), (0.2, 0.25), (0.2, 0.55), (0, 0.8), (-0.2, 0.55)], white)
    else:
        c.rect((-wide, 0, wide, 1.0), blue, label)
        for y in (0.25, 0.6):
            c.rect((-0.8, y, 0.35, y + 0.16), white)
            c.poly([(0.5, y - 0.02), (0.8, y + 0.08), (0.5, y + 0.18)], white)
    return Body([_pole(pal, height + 0.5), upright(c, y=height, z=-0.06)], shadow=(0.25, 0.2))


def building(pal: Palette, length: float, house: bool, side: int) -> Body:
    """A town building (flat roof) or a suburban `house` (gabled), from z = 0 to `length`.

    Its façade lies in the plane x = 0; `side` is +1 right of the street, -1 left.
    """
    floors = int(pal.rng.integers(1, 3)) if house else int(pal.rng.integers(2, 6))
    storey, depth = 2.9, pal.rng.uniform(7, 10)
    height = floors * storey + 0.5
    wall, roof = pal.pick("wall", 0.12), pal.pick("roof", 0.12)
    look = tuple(pal.pick(name) for name in ("window", "trim", "door"))
    front = _facade(pal, (length, height, height), wall, look, shop=not house)
    front.tint(pal.sun(1.0 if side < 0 else 0.84))
    ridge = height + (depth * 0.42 if house else 0.5)
    gable = _facade(pal, (depth, height, ridge), wall, look, shop=False).tint(pal.sun(0.93))
    tiles = Canvas((0, 0, length, float(np.hypot(depth / 2, ridge - height))), 10, roof, int(C.BUILDING))
    for y in np.arange(0, tiles.top, 0.5):
        tiles.rect((0, y, length, y + 0.12), dim(roof, 0.8))
    tiles.grain(pal, "roof", 0.6)
    surfaces = [upright(gable, x=0 if side > 0 else -depth), along(front)]
    if house:
        slope = np.array([side * depth / 2, ridge - height, 0]) / tiles.top
        down = (-float(slope[0]), -float(slope[1]), 0.0)
        surfaces.insert(0, plane(tiles, (side * depth / 2, ridge, 0), (0, 0, 1), down, facing=0))
    return Body(surfaces, layer=3)


def _facade(pal: Palette, size: Vector, wall: RGB, look: tuple[RGB, ...], shop: bool) -> Canvas:
    """A wall with windows and a door; those of a `shop` reach further down.

    `size` is its length, the height of the eaves, and of the gable (or parapet) to which it narrows above them; `look`
    the colours of windows, their trim and the door.
    """
    (length, eaves, top), (window, trim, door) = size, look
    c = Canvas((0, 0, length, top), 12, wall)
    c.rect((0, 0, length, eaves), wall, int(C.BUILDING))
    if top - eaves > 1:
        lap = eaves + 0.15  # reaches a little under the roof, so that no sky shows between
        gable = [(0, eaves - 0.2), (0, lap), (length / 2, top), (length, lap), (length, eaves - 0.2)]
        c.poly(gable, wall, int(C.BUILDING))
    else:
        c.rect((0, eaves - 0.3, length, top), trim, int(C.BUILDING))
    c.grain(pal, "wall", 0.8)
    c.rect((0, 0, length, 0.45), dim(wall, 0.72))
    wide, gap = pal.rng.uniform(0.9, 1.4), pal.rng.uniform(0.9, 1.6)
    count = max(1, int((length - 0.6) / (wide + gap)))
    pitch = length / count
    for floor in range(round((eaves - 0.5) / 2.9)):
        y = floor * 2.9 + (1.0 if floor or not shop else 0.5)
        for i in range(count):
            x = (i + 0.5) * pitch
            lit = dim(window, pal.rng.uniform(0.75, 1.25))
            c.rect((x - wide / 2 - 0.12, y - 0.14, x + wide / 2 + 0.12, y + 1.6), trim)
            c.rect((x - wide / 2, y, x + wide / 2, y + 1.48), lit)
            c.rect((x - 0.05, y, x + 0.05, y + 1.48), trim)
    x = (pal.rng.integers(count) + 0.5) * pitch
    c.rect((x - 0.65, 0, x + 0.65, 2.4), trim)
    c.rect((x - 0.5, 0, x + 0.5, 2.25), door)
    return c


def clouds(pal: Palette) -> Canvas:
    """The sky on the plane z = 1: x in ±1.6, y in -0.08..0.9, gradient and clouds."""
    zenith, horizon, cloud = (np.array(pal.pick(name), np.float64) for name in ("sky", "horizon", "cloud"))
    c = Canvas((-1.6, -0.08, 1.6, 0.9), 160, (255, 255, 255), int(C.SKY))
    height, width = c.label.shape
    rise = np.clip(np.linspace(0.9, -0.08, height)[:, None, None] / 0.6, 0, 1)
    oy, ox = pal.rng.integers(0, 512, 2)
    patch = cv2.GaussianBlur(np.roll(noise_tile(), (int(oy), int(ox)), (0, 1))[:70, :100], (0, 0), 1.6)
    wisps = np.asarray(cv2.resize(patch, (width, height), interpolation=cv2.INTER_CUBIC))
    cover = np.clip((wisps - 0.2) * 1.1, 0, 0.85)[..., None]
    base = horizon + (zenith - horizon) * rise
    c.colour[:] = np.clip(base + (cloud - base) * cover, 0, 255).astype(np.uint8)
    return c
