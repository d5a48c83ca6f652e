"""Places everything: one drive's scene as a pure function of its random stream.

Densities are per metre of street, so a drive may have any number of frames. Right-hand traffic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stpl.data.streets.canvas import Canvas
from stpl.data.streets.figures import person, two_wheeler
from stpl.data.streets.furniture import building, clouds, fence, foliage, hedge, sign, traffic_light, tree
from stpl.data.streets.ground import REACH, Side, ground, make_side
from stpl.data.streets.palette import Palette
from stpl.data.streets.scene import Body, C, Path, Scene, plane, upright
from stpl.data.streets.vehicles import bus, car, truck

Rng = np.random.Generator
VIEW = 75.0
"""How far the street goes on beyond the camera's last position, metres."""
_LANE = 1.75


def make_scene(rng: Rng, pal: Palette, frames: int) -> Scene:
    """The world of one drive.

    Args:
        rng: the drive's random stream; the same stream gives the same geometry for every palette.
        pal: colours of the domain.
        frames: number of frames T.
    """
    path = make_path(rng, frames)
    length = float(path.position[-1, 2]) + VIEW
    kerb = 3.5 + float(rng.uniform(2.2, 3.2))
    sides = (make_side(rng, kerb), make_side(rng, kerb))
    crossings = list(np.arange(float(rng.uniform(13, 32)), length - 20, float(rng.uniform(38, 60))))
    scene = Scene(path, [_sky(pal, rng), ground(pal, rng, sides, length + 12, crossings), *_backdrop(pal, rng, length)])
    crowns = [foliage(pal, rng) for _ in range(5)]
    for direction, side in zip((-1, 1), sides, strict=True):
        _roadside(scene, pal, rng, direction, side, length, crossings, crowns)
        _parked(scene, pal, rng, direction, side, length, crossings)
    for z in crossings:
        _crossing(scene, pal, rng, z, sides)
    _traffic(scene, pal, rng, length)
    return scene


def make_path(rng: Rng, frames: int) -> Path:
    """A car's path: steady speed, slow sway and yaw."""
    t = np.arange(frames, dtype=np.float64)
    speed, sway, period = rng.uniform(0.2, 0.75), rng.uniform(0.02, 0.12), rng.uniform(14, 30)
    phase, turn, drift = rng.uniform(0, 2 * np.pi), rng.uniform(0.004, 0.03), rng.uniform(-0.04, 0.04)
    wave = 2 * np.pi * t / period + phase
    x = _LANE + rng.uniform(-0.3, 0.3) + sway * np.sin(wave)
    y = rng.uniform(1.35, 1.7) + 0.015 * np.sin(2.7 * wave)
    position = np.stack([x, np.broadcast_to(y, t.shape), speed * t], axis=1)
    yaw = drift + turn * np.cos(wave)
    return Path(position, yaw, float(rng.uniform(0.68, 0.8)), float(rng.uniform(0.42, 0.5)))


def _sky(pal: Palette, rng: Rng) -> Body:
    c = clouds(pal, rng)
    return Body([plane(c, (c.left, c.top, 1.0), (1, 0, 0), (0, -1, 0), facing=0)], layer=-1, infinite=True)


def _backdrop(pal: Palette, rng: Rng, length: float) -> list[Body]:
    """What closes the view: a far row of trees and houses across the street's end and along the side streets."""
    ahead = _skyline(pal, rng, 2 * REACH)
    bodies = [Body([upright(ahead)], (0.0, length + 10), layer=2)]
    for x in (-REACH + 0.5, REACH - 0.5):
        along = _skyline(pal, rng, length + 12)
        bodies.append(Body([plane(along, (x, along.top, 0), (0, 0, 1), (0, -1, 0), facing=0)], layer=1))
        along.left, along.right = 0.0, length + 12
    return bodies


def _skyline(pal: Palette, rng: Rng, width: float) -> Canvas:
    green, label = pal.pick("hill", rng), int(C.VEGETATION)
    c = Canvas(-width / 2, 0, width / 2, 14, 6, green)
    c.rect(-width / 2, 0, width / 2, 3.0, green, label)
    for x in np.arange(-width / 2, width / 2, 2.5):
        shade = pal.pick("hill", rng, 0.15)
        c.disc(x, 2.5, rng.uniform(1.5, 3), rng.uniform(1.5, 4), shade, label)
    c.grain(pal.grain("leaf"), rng, 0.8)
    x = -width / 2
    while x < width / 2:
        wall, window, wide, tall = (
            pal.pick("wall", rng),
            pal.pick("window", rng),
            rng.uniform(6, 11),
            rng.uniform(4, 12),
        )
        if rng.random() < 0.5:
            c.rect(x, 0, x + wide, tall, wall, int(C.BUILDING))
            for y in np.arange(1.2, tall - 1.5, 2.8):
                for u in np.arange(x + 0.8, x + wide - 1.2, 2.2):
                    c.rect(u, y, u + 1.1, y + 1.4, window)
        x += wide
    return c


def _free(z0: float, z1: float, crossings: list[float]) -> bool:
    """Whether [z0, z1] stays clear of the side streets."""
    return all(z1 < z - 0.5 or z0 > z + 7.5 for z in crossings)


def _roadside(scene: Scene, pal: Palette, rng: Rng, direction: int, side: Side, length: float, crossings: list[float],
              crowns: list[Canvas]) -> None:  # fmt: skip
    def put(body: Body, x: float, z: float) -> None:
        """Add a body at x metres beside the road's middle, z metres along it."""
        body.position = (direction * x, z)
        scene.bodies.append(body)

    z = float(rng.uniform(-4, 2))
    while z < length and side.kind != "park":
        long = float(rng.uniform(8, 14))
        if _free(z, z + long, crossings):
            put(building(pal, rng, long, side.kind == "suburb", direction), side.wall, z)
        z += long + (float(rng.uniform(2, 5)) if side.kind == "suburb" else 0.0)
    if side.kind != "town":
        _borders(put, pal, rng, side, length, crossings)
    spacing = 6.0 if side.kind == "park" else 11.0
    row = side.walk + 1.5 if side.kind == "park" else (side.verge - 0.6 if side.verge > side.kerb else side.walk - 0.4)
    for z in np.arange(float(rng.uniform(5, 9)), length, spacing):
        keep, shift = rng.random() < 0.7, float(rng.uniform(-1.5, 1.5))
        if keep and side.kind != "town" and _free(z + shift, z + shift, crossings):
            put(tree(pal, rng, crowns), row + (float(rng.uniform(0, 6)) if side.kind == "park" else 0.0), z + shift)
    for z in np.arange(float(rng.uniform(6, 12)), length, 15.0):
        if rng.random() < 0.6 and _free(z, z, crossings):
            put(sign(pal, rng), side.kerb + 0.55, z)
    for z in np.arange(float(rng.uniform(4, 8)), length * 0.7, 6.5):
        _walker(scene, pal, rng, direction, side, float(z))


def _borders(put: Callable[[Body, float, float], None], pal: Palette, rng: Rng, side: Side, length: float,
             crossings: list[float]) -> None:  # fmt: skip
    """Fences and hedges between pavement and garden."""
    z = float(rng.uniform(-2, 2))
    while z < length:
        long = float(rng.uniform(7, 13))
        kind = rng.random()
        if _free(z, z + long, crossings) and kind < 0.85:
            body = fence(pal, rng, long) if kind < 0.5 else hedge(pal, rng, long, float(rng.uniform(0.8, 1.6)))
            put(body, side.walk + 0.5, z)
        z += long + 0.8


def _walker(scene: Scene, pal: Palette, rng: Rng, direction: int, side: Side, z: float) -> None:
    """Someone on the pavement: a pedestrian, a bicycle or motorcycle parked or being ridden."""
    kind, x = rng.random(), direction * float(rng.uniform(side.verge + 0.4, side.walk - 0.3))
    if kind < 0.5:
        body = person(pal, rng)
        body.velocity = (0.0, float(rng.uniform(-0.08, 0.08)))
    elif kind < 0.78:
        body = two_wheeler(pal, rng, motor=kind < 0.63, sideways=True, ridden=rng.random() < 0.3)
        body.heading = float(rng.uniform(-0.5, 0.5))
    else:
        return
    body.position = (x, z)
    scene.bodies.append(body)


def _parked(
    scene: Scene, pal: Palette, rng: Rng, direction: int, side: Side, length: float, crossings: list[float]
) -> None:
    z, x = float(rng.uniform(5, 14)), direction * (side.kerb - 1.1)
    while z < length * 0.85:
        kind = rng.random()
        if kind < 0.55:
            body, long = _any_vehicle(pal, rng, (0.8, 0.9))
            if _free(z - 5, z + long + 1, crossings):
                body.position, body.heading = (x, z + long / 2), 0.0 if direction > 0 else np.pi
                scene.bodies.append(body)
            z += long + float(rng.uniform(1.0, 4.0))
        else:
            z += float(rng.uniform(3, 9))


def _any_vehicle(pal: Palette, rng: Rng, shares: tuple[float, float]) -> tuple[Body, float]:
    """A car, truck or bus with its length; `shares` are the cumulated probabilities of car and truck."""
    kind = rng.random()
    if kind < shares[0]:
        return car(pal, rng), 4.6
    return (truck(pal, rng), 9.0) if kind < shares[1] else (bus(pal, rng), 11.0)


def _traffic(scene: Scene, pal: Palette, rng: Rng, length: float) -> None:
    """Moving traffic: one lane ahead of the camera, one coming towards it."""
    own = (scene.path.position[-1, 2] - scene.path.position[0, 2]) / max(1, len(scene.path.yaw) - 1)
    z = float(rng.uniform(8, 17))
    while z < length * 0.8:
        pace = own * float(rng.uniform(0.75, 1.15))
        if rng.random() < 0.35:
            body, long = two_wheeler(pal, rng, motor=rng.random() < 0.5, sideways=False), 2.0
        else:
            body, long = _any_vehicle(pal, rng, (0.4, 0.7))
        body.position, body.velocity = (_LANE + float(rng.uniform(-0.3, 0.9)), z + long / 2), (0.0, pace)
        scene.bodies.append(body)
        z += long + float(rng.uniform(7, 20))
    z = float(rng.uniform(12, 26))
    last = length * 0.8 + 0.5 * len(scene.path.yaw)
    while z < last:
        body, long = _any_vehicle(pal, rng, (0.45, 0.72))
        body.position, body.velocity = (-_LANE + float(rng.uniform(-0.3, 0.2)), z + long / 2), (0.0, -0.45)
        body.heading = np.pi
        scene.bodies.append(body)
        z += long + float(rng.uniform(8, 24))


def _crossing(scene: Scene, pal: Palette, rng: Rng, z: float, sides: tuple[Side, Side]) -> None:
    """Traffic lights before a side street, and those who use its zebra crossing."""
    for direction, side in zip((-1, 1), sides, strict=True):
        reach = -direction * float(rng.uniform(2.6, 4.2)) if rng.random() < 0.6 else 0.0
        light = traffic_light(pal, rng, reach)
        light.position = (direction * (side.kerb + 0.4), z - 4.6 if direction > 0 else z + 7.4)
        scene.bodies.append(light)
    for _ in range(int(rng.integers(2, 5))):
        kind = rng.random()
        body = person(pal, rng) if kind < 0.5 else two_wheeler(pal, rng, motor=kind < 0.72, sideways=True)
        x, pace = float(rng.uniform(-sides[0].kerb, sides[1].kerb)), float(rng.uniform(-0.12, 0.12))
        body.position, body.velocity = (x, z - float(rng.uniform(1.2, 3.6))), (pace, 0.0)
        scene.bodies.append(body)
