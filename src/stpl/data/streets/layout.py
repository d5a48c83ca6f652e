"""Places everything: one drive's scene as a pure function of its random stream.

Densities are per metre of street, so a drive may have any number of frames. Right-hand traffic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stpl.data.streets.furniture import building, clouds, fence, foliage, hedge, sign, traffic_light, tree
from stpl.data.streets.ground import REACH, Side, ground, make_side
from stpl.data.streets.palette import Palette
from stpl.data.streets.scene import Body, C, Canvas, Path, Scene, along, upright
from stpl.data.streets.traffic import bus, car, person, truck, two_wheeler

_VIEW = 75.0  # metres that the street goes on beyond the camera's last position
_LANE = 1.75


def make_scene(pal: Palette, frames: int) -> Scene:
    """The world of one drive of `frames` frames; the same random stream gives the same geometry for every palette."""
    path = make_path(pal.rng, frames)
    length = float(path.position[-1, 2]) + _VIEW
    kerb = 3.5 + pal.rng.uniform(2.2, 3.2)
    sides = (make_side(pal.rng, -1, kerb), make_side(pal.rng, 1, kerb))
    crossings = list(np.arange(pal.rng.uniform(13, 32), length - 20, pal.rng.uniform(38, 60)))
    sky, road = _sky(pal), ground(pal, sides, length + 12, crossings)
    street = _Street(Scene(path, [sky, road, *_backdrop(pal, length)]), pal, length, crossings)
    crowns = [foliage(pal) for _ in range(5)]
    for side in sides:
        street.roadside(side, crowns)
        street.parked(side)
    for z in crossings:
        street.crossing(z, sides)
    street.traffic()
    return street.scene


def make_path(rng: np.random.Generator, frames: int) -> Path:
    """A car's path: steady speed, slow sway and yaw."""
    t = np.arange(frames, dtype=np.float64)
    speed, sway, period = rng.uniform(0.2, 0.75), rng.uniform(0.02, 0.12), rng.uniform(14, 30)
    phase, turn, drift = rng.uniform(0, 2 * np.pi), rng.uniform(0.004, 0.03), rng.uniform(-0.04, 0.04)
    wave = 2 * np.pi * t / period + phase
    x = _LANE + rng.uniform(-0.3, 0.3) + sway * np.sin(wave)
    y = rng.uniform(1.35, 1.7) + 0.015 * np.sin(2.7 * wave)
    position = np.stack([x, np.broadcast_to(y, t.shape), speed * t], axis=1)
    yaw = drift + turn * np.cos(wave)
    return Path(position, yaw, focal=rng.uniform(0.68, 0.8), horizon=rng.uniform(0.42, 0.5))


def _sky(pal: Palette) -> Body:
    return Body([upright(clouds(pal), z=1.0)], layer=-1, infinite=True)


def _backdrop(pal: Palette, length: float) -> list[Body]:
    """What closes the view: a far row of trees and houses across the street's end and along the side streets."""
    bodies = [Body([upright(_skyline(pal, 2 * REACH))], (0.0, length + 10), layer=2)]
    for x in (-REACH + 0.5, REACH - 0.5):
        row = _skyline(pal, length + 12)
        row.left, row.right = 0.0, length + 12
        bodies.append(Body([along(row, x)], layer=1))
    return bodies


def _skyline(pal: Palette, width: float) -> Canvas:
    green, label = pal.pick("hill"), int(C.VEGETATION)
    c = Canvas((-width / 2, 0, width / 2, 14), 6, green)
    c.rect((-width / 2, 0, width / 2, 3.0), green, label)
    for x in np.arange(-width / 2, width / 2, 2.5):
        shade = pal.pick("hill", 0.15)
        c.disc((x, 2.5), (pal.rng.uniform(1.5, 3), pal.rng.uniform(1.5, 4)), shade, label)
    c.grain(pal, "leaf", 0.8)
    x = -width / 2
    while x < width / 2:
        wall, window = pal.pick("wall"), pal.pick("window")
        wide, tall = pal.rng.uniform(6, 11), pal.rng.uniform(4, 12)
        if pal.rng.random() < 0.5:
            c.rect((x, 0, x + wide, tall), wall, int(C.BUILDING))
            for y in np.arange(1.2, tall - 1.5, 2.8):
                for u in np.arange(x + 0.8, x + wide - 1.2, 2.2):
                    c.rect((u, y, u + 1.1, y + 1.4), window)
        x += wide
    return c


@dataclass(frozen=True)
class _Street:
    """A street while things are put on it.

    Attributes:
        scene: what is there.
        pal: the domain's palette.
        length: metres.
        crossings: Z of its side streets.
    """

    scene: Scene
    pal: Palette
    length: float
    crossings: list[float]

    def _free(self, z0: float, z1: float) -> bool:
        """Whether [z0, z1] stays clear of the side streets."""
        return all(z1 < z - 0.5 or z0 > z + 7.5 for z in self.crossings)

    def roadside(self, side: Side, crowns: list[Canvas]) -> None:
        """Buildings, borders of gardens, trees, signs and people of one side; `crowns` are those of trees."""
        pal, rng, park = self.pal, self.pal.rng, side.kind == "park"
        z = rng.uniform(-4, 2)
        while z < self.length and not park:
            long = rng.uniform(8, 14)
            if self._free(z, z + long):
                house = building(pal, long, side.kind == "suburb", side.direction)
                self.scene.put(house, (side.direction * side.wall, z))
            z += long + (rng.uniform(2, 5) if side.kind == "suburb" else 0.0)
        if side.kind != "town":
            self._borders(side)
        row = side.walk + 1.5 if park else (side.verge - 0.6 if side.verge > side.kerb else side.walk - 0.4)
        for z in np.arange(rng.uniform(5, 9), self.length, 6.0 if park else 11.0):
            keep, shift = rng.random() < 0.7, rng.uniform(-1.5, 1.5)
            if keep and side.kind != "town" and self._free(z + shift, z + shift):
                body, beyond = tree(pal, crowns), rng.uniform(0, 6) if park else 0.0
                self.scene.put(body, (side.direction * (row + beyond), z + shift))
        for z in np.arange(rng.uniform(6, 12), self.length, 15.0):
            if rng.random() < 0.6 and self._free(z, z):
                self.scene.put(sign(pal), (side.direction * (side.kerb + 0.55), z))
        for z in np.arange(rng.uniform(4, 8), self.length * 0.7, 6.5):
            self._walker(side, float(z))

    def _borders(self, side: Side) -> None:
        """Fences and hedges between pavement and garden."""
        pal, rng = self.pal, self.pal.rng
        z = rng.uniform(-2, 2)
        while z < self.length:
            long = rng.uniform(7, 13)
            kind = rng.random()
            if self._free(z, z + long) and kind < 0.85:
                body = fence(pal, long) if kind < 0.5 else hedge(pal, long, rng.uniform(0.8, 1.6))
                self.scene.put(body, (side.direction * (side.walk + 0.5), z))
            z += long + 0.8

    def _walker(self, side: Side, z: float) -> None:
        """Someone on the pavement: a pedestrian, a bicycle or motorcycle parked or being ridden."""
        pal, rng = self.pal, self.pal.rng
        kind, x = rng.random(), side.direction * rng.uniform(side.verge + 0.4, side.walk - 0.3)
        if kind < 0.5:
            self.scene.put(person(pal), (x, z), velocity=(0.0, rng.uniform(-0.08, 0.08)))
        elif kind < 0.78:
            body = two_wheeler(pal, motor=kind < 0.63, sideways=True, ridden=rng.random() < 0.3)
            self.scene.put(body, (x, z), heading=rng.uniform(-0.5, 0.5))

    def parked(self, side: Side) -> None:
        """Vehicles that stand at the kerb."""
        rng = self.pal.rng
        z, x = rng.uniform(5, 14), side.direction * (side.kerb - 1.1)
        while z < self.length * 0.85:
            if rng.random() < 0.55:
                body, long = self._vehicle(0.8, 0.9)
                if self._free(z - 5, z + long + 1):
                    self.scene.put(body, (x, z + long / 2), heading=0.0 if side.direction > 0 else np.pi)
                z += long + rng.uniform(1.0, 4.0)
            else:
                z += rng.uniform(3, 9)

    def _vehicle(self, cars: float, trucks: float) -> tuple[Body, float]:
        """A car, truck or bus with its length; `cars` and `trucks` are their cumulated probabilities."""
        kind = self.pal.rng.random()
        if kind < cars:
            return car(self.pal), 4.6
        return (truck(self.pal), 9.0) if kind < trucks else (bus(self.pal), 11.0)

    def traffic(self) -> None:
        """Moving traffic: one lane ahead of the camera, one coming towards it."""
        rng, path = self.pal.rng, self.scene.path
        own = (path.position[-1, 2] - path.position[0, 2]) / max(1, len(path.yaw) - 1)
        z = rng.uniform(8, 17)
        while z < self.length * 0.8:
            pace = own * rng.uniform(0.75, 1.15)
            if rng.random() < 0.35:
                body, long = two_wheeler(self.pal, motor=rng.random() < 0.5, sideways=False), 2.0
            else:
                body, long = self._vehicle(0.4, 0.7)
            self.scene.put(body, (_LANE + rng.uniform(-0.3, 0.9), z + long / 2), velocity=(0.0, pace))
            z += long + rng.uniform(7, 20)
        z = rng.uniform(12, 26)
        while z < self.length * 0.8 + 0.5 * len(path.yaw):
            body, long = self._vehicle(0.45, 0.72)
            position = (-_LANE + rng.uniform(-0.3, 0.2), z + long / 2)
            self.scene.put(body, position, velocity=(0.0, -0.45), heading=np.pi)
            z += long + rng.uniform(8, 24)

    def crossing(self, z: float, sides: tuple[Side, Side]) -> None:
        """Traffic lights before a side street, and those who use its zebra crossing."""
        pal, rng = self.pal, self.pal.rng
        for side in sides:
            reach = -side.direction * rng.uniform(2.6, 4.2) if rng.random() < 0.6 else 0.0
            position = (side.direction * (side.kerb + 0.4), z - 4.6 if side.direction > 0 else z + 7.4)
            self.scene.put(traffic_light(pal, reach), position)
        for _ in range(int(rng.integers(2, 5))):
            kind = rng.random()
            body = person(pal) if kind < 0.5 else two_wheeler(pal, motor=kind < 0.72, sideways=True)
            x, pace = rng.uniform(-sides[0].kerb, sides[1].kerb), rng.uniform(-0.12, 0.12)
            self.scene.put(body, (x, z - rng.uniform(1.2, 3.6)), velocity=(pace, 0.0))
