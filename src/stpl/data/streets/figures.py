"""Flat figures: people, motorcycles and bicycles with their riders. All face the camera or are seen from the side."""

from __future__ import annotations

import numpy as np

from stpl.data.streets.canvas import Canvas
from stpl.data.streets.palette import RGB, Palette
from stpl.data.streets.scene import Body, C, upright

Rng = np.random.Generator
_DENSITY = 44.0  # texture pixels per metre
_P = int(C.PERSON)


def person(pal: Palette, rng: Rng) -> Body:
    """A pedestrian of 1.5 to 1.9 m in mid-stride."""
    coat, legs = pal.pick("coat", rng, 0.15), pal.pick("trousers", rng, 0.15)
    skin, hair, bag = pal.pick("skin", rng), pal.pick("hair", rng), pal.pick("door", rng)
    stride, long_coat, with_bag = float(rng.uniform(0.1, 0.3)), rng.random() < 0.35, rng.random() < 0.4
    k = float(rng.uniform(0.88, 1.06))
    c = Canvas(-0.5 * k, 0, 0.5 * k, 1.8 * k, _DENSITY / k, coat)
    for side in (-1, 1):
        c.bar((0.07 * side, 0.92 * k), ((0.07 + stride * 0.7) * side, 0.04), 0.19 * k, legs, _P)
        c.bar((0.2 * side * k, 1.42 * k), ((0.26 + stride * 0.5) * side * k, 0.85 * k), 0.13 * k, coat, _P)
        c.disc((0.26 + stride * 0.5) * side * k, 0.82 * k, 0.06, 0.06, skin, _P)
    hem = 0.55 if long_coat else 0.85
    c.poly([(-0.24 * k, 1.48 * k), (0.24 * k, 1.48 * k), (0.25 * k, hem * k), (-0.25 * k, hem * k)], coat, _P)
    if with_bag:
        c.rect(0.16, 0.75 * k, 0.42, 1.05 * k, bag, _P)
    _head(c, 0, 1.64 * k, k, skin, hair)
    return Body([upright(c)], shadow=(0.4, 0.3))


def _head(c: Canvas, x: float, y: float, k: float, skin: RGB, hair: RGB) -> None:
    c.rect(x - 0.06, y - 0.2 * k, x + 0.06, y, skin, _P)
    c.disc(x, y, 0.125 * k, 0.155 * k, skin, _P)
    c.disc(x, y + 0.07 * k, 0.135 * k, 0.1 * k, hair, _P)


def two_wheeler(pal: Palette, rng: Rng, motor: bool, sideways: bool, ridden: bool = True) -> Body:
    """A motorcycle (`motor`) or bicycle, seen from the side or from ahead/behind, with or without its rider."""
    make = _side_view if sideways else _end_view
    canvas = make(pal, rng, motor, ridden)
    if sideways and rng.random() < 0.5:  # the other way round
        canvas.colour[:] = canvas.colour[:, ::-1].copy()
        canvas.label[:] = canvas.label[:, ::-1].copy()
    return Body([upright(canvas)], shadow=(0.9, 0.3) if sideways else (0.35, 0.9))


def _side_view(pal: Palette, rng: Rng, motor: bool, ridden: bool) -> Canvas:
    label = int(C.MOTORCYCLE if motor else C.BICYCLE)
    paint = pal.pick("motorcycle" if motor else "bicycle", rng, 0.12)
    tyre, spokes, metal = pal.pick("tyre", rng), pal.pick("spokes", rng), pal.pick("metal", rng)
    c = Canvas(-1.1, 0, 1.1, 1.85, _DENSITY, tyre)
    for z in (-0.68, 0.68):
        c.disc(z, 0.36, 0.36, 0.36, tyre, label)
        rim = 0.2 if motor else 0.28
        c.disc(z, 0.36, rim, rim, spokes, label)
    width = 0.13 if motor else 0.09
    frame = [((-0.68, 0.36), (-0.05, 0.38)), ((-0.05, 0.38), (-0.25, 0.95)), ((-0.25, 0.85), (0.5, 0.9)),
             ((-0.05, 0.38), (0.5, 0.85)), ((0.68, 0.36), (0.48, 1.08)), ((-0.68, 0.36), (-0.25, 0.85))]  # fmt: skip
    for a, b in frame:
        c.bar(a, b, width, paint, label)
    if motor:
        c.poly([(-0.9, 0.78), (-0.3, 0.92), (0.45, 1.02), (0.62, 0.7), (0.25, 0.3), (-0.45, 0.3)], paint, label)
        c.poly([(-0.3, 0.25), (0.3, 0.25), (0.25, 0.55), (-0.25, 0.55)], metal, label)
        c.poly([(0.4, 0.95), (0.62, 1.25), (0.7, 1.2), (0.66, 0.85)], spokes, label)
        c.rect(-0.85, 0.86, -0.1, 0.96, tyre, label)
        c.bar((-0.9, 0.3), (-0.1, 0.28), 0.12, metal, label)
    else:
        c.rect(-0.4, 0.93, -0.12, 1.02, tyre, label)
    c.bar((0.36, 1.1), (0.56, 1.12), 0.09, tyre, label)
    _side_rider(c, pal, rng, motor, ridden)
    return c


def _side_rider(c: Canvas, pal: Palette, rng: Rng, motor: bool, ridden: bool) -> None:
    coat, legs = pal.pick("coat", rng, 0.15), pal.pick("trousers", rng, 0.15)
    skin, hair, helmet = pal.pick("skin", rng), pal.pick("hair", rng), pal.pick("sign_red", rng)
    if not ridden:
        return
    c.bar((-0.25, 0.98), (0.15, 0.72), 0.17, legs, _P)
    c.bar((0.15, 0.72), (-0.02, 0.32), 0.14, legs, _P)
    c.bar((-0.24, 0.95), (0.08, 1.45), 0.3, coat, _P)
    c.bar((0.08, 1.4), (0.42, 1.12), 0.11, coat, _P)
    _head(c, 0.16, 1.62, 1.0, skin, helmet if motor else hair)
    if motor:
        c.disc(0.16, 1.64, 0.17, 0.18, helmet, _P)


def _end_view(pal: Palette, rng: Rng, motor: bool, ridden: bool) -> Canvas:
    label = int(C.MOTORCYCLE if motor else C.BICYCLE)
    paint = pal.pick("motorcycle" if motor else "bicycle", rng, 0.12)
    tyre, lamp = pal.pick("tyre", rng), pal.pick("lamp_red", rng)
    coat, legs = pal.pick("coat", rng, 0.15), pal.pick("trousers", rng, 0.15)
    skin, hair, helmet = pal.pick("skin", rng), pal.pick("hair", rng), pal.pick("sign_red", rng)
    c = Canvas(-0.5, 0, 0.5, 1.85, _DENSITY, tyre)
    if ridden:
        for side in (-1, 1):
            c.bar((0.12 * side, 1.0), (0.2 * side, 0.4), 0.16, legs, _P)
    wheel = 0.13 if motor else 0.08
    c.rect(-wheel, 0, wheel, 0.7, tyre, label)
    c.rect(-wheel - 0.04, 0.45, wheel + 0.04, 0.95, paint, label)
    if motor:
        c.poly([(-0.24, 0.45), (0.24, 0.45), (0.2, 0.98), (-0.2, 0.98)], paint, label)
        c.rect(-wheel, 0, wheel, 0.5, tyre, label)
    c.rect(-0.08, 0.68, 0.08, 0.8, lamp, label)
    c.bar((-0.4, 1.08), (0.4, 1.08), 0.09, tyre, label)
    if ridden:
        c.poly([(-0.24, 1.46), (0.24, 1.46), (0.2, 0.92), (-0.2, 0.92)], coat, _P)
        for side in (-1, 1):
            c.bar((0.22 * side, 1.4), (0.36 * side, 1.1), 0.11, coat, _P)
        _head(c, 0, 1.64, 1.0, skin, hair)
        if motor:
            c.disc(0, 1.65, 0.16, 0.18, helmet, _P)
    return c
