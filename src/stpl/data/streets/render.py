"""Draws the frames of a scene: colours anti-aliased from a double grid, labels and exact flow at pixel centres.

Every surface is a plane, so one 3×3 matrix `A = [u v p]` per surface and frame (texture step right, step down, first
pixel, in camera coordinates) says everything: `K A` maps texture pixels to the image; row 2 of `(K A)^-1` applied to
an image point is the inverse depth; `K A_{t-1} (K A_t)^-1` is the backward flow of all its pixels.

The fine grid has (2H+1)×(2W+1) samples, two per pixel; sample (2x+1, 2y+1) is the centre of pixel (x, y). Colours are
filtered with the binomial [1 2 1]/4 around the centres; labels and surfaces are read at the centres themselves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.streets.scene import EMPTY, Body, Canvas, Float64, Scene, Surface

_NEAR = 0.35  # metres; nearer parts of a surface are clipped
_NEAREST = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
_LINEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_FINE = np.array([[2.0, 0, 1], [0, 2, 1], [0, 0, 1]])


class Drawn(NamedTuple):
    """Clean frames uint8 `[T,H,W,3]` with what `Drive` has, and depth float32 `[T,H,W]`, metres on the optical axis."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_]
    depth: NDArray[np.float32]


def draw(scene: Scene, height: int, width: int) -> Drawn:
    """Draw all frames of `scene` at height × width pixels."""
    painter = _Painter(scene, height, width)
    count = len(scene.path.yaw)
    images, labels, surfaces = zip(*(painter.frame(t) for t in range(count)), strict=True)
    flow = np.zeros((count, 2, height, width), dtype=np.float32)
    visible = np.zeros((count, height, width), dtype=np.bool_)
    for t in range(1, count):
        flow[t] = painter.flow(t, surfaces[t])
        visible[t] = _seen_before(flow[t], surfaces[t], surfaces[t - 1])
    depth = np.stack([painter.depth(t, surfaces[t]) for t in range(count)])
    return Drawn(np.stack(images), np.stack(labels), flow, visible, depth)


def _seen_before(flow: NDArray[np.float32], now: NDArray[np.int16], before: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Whether the pixel nearest to the flow's end in the previous frame shows the same surface."""
    height, width = now.shape
    x = np.rint(np.arange(width)[None] + flow[0]).astype(np.int64)
    y = np.rint(np.arange(height)[:, None] + flow[1]).astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    same = before[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] == now
    return np.asarray(inside & same, dtype=np.bool_)


class _Painter:
    """All surfaces of a scene with their matrices in every frame."""

    def __init__(self, scene: Scene, height: int, width: int) -> None:
        self.size = (height, width)
        self.bodies = scene.bodies
        self.surfaces = [surface for body in scene.bodies for surface in body.surfaces]
        self.mips = [_Pyramid(surface.canvas) for surface in self.surfaces]
        path = scene.path
        focal = path.focal * width
        self.k = np.array([[focal, 0, (width - 1) / 2], [0, focal, path.horizon * height - 0.5], [0, 0, 1.0]])
        self.world = np.array([_in_world(body, surface) for body in self.bodies for surface in body.surfaces])
        speeds = [(body.velocity[0], 0.0, body.velocity[1]) for body in self.bodies for _ in body.surfaces]
        self.speed = np.array(speeds)
        self.still = np.array([body.infinite for body in self.bodies for _ in body.surfaces])
        self.path = path
        self.matrices = np.stack([self._matrices(t) for t in range(len(path.yaw))])  # [T,N,3,3] = K A
        self.inverses = np.linalg.inv(self.matrices)

    def _camera(self, t: int) -> Float64:
        """World axes to camera axes (x right, y down, z forward)."""
        c, s = np.cos(self.path.yaw[t]), np.sin(self.path.yaw[t])
        return np.array([[c, 0, -s], [0, -1, 0], [s, 0, c]])

    def _matrices(self, t: int) -> Float64:
        world = self.world.copy()
        world[:, :, 2] += self.speed * t - np.where(self.still[:, None], 0.0, self.path.position[t])
        return np.asarray(self.k @ self._camera(t) @ world, dtype=np.float64)

    def frame(self, t: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int16]]:
        """Colour `[H,W,3]`, label `[H,W]` and surface number `[H,W]` of frame t."""
        height, width = self.size
        colour = np.empty((2 * height + 1, 2 * width + 1, 3), dtype=np.uint8)
        colour[:] = self.surfaces[0].canvas.colour[0, 0]  # the scene's first body is the sky: all that nothing hides
        label = np.full(colour.shape[:2], self.surfaces[0].canvas.label[0, 0])
        number = np.zeros(colour.shape[:2], dtype=np.int16)
        first = np.cumsum([0, *(len(body.surfaces) for body in self.bodies)])
        shadowed = False
        for index in self._order(t):
            body = self.bodies[index]
            if body.layer > 0 and not shadowed:
                self._shadows(t, colour)
                shadowed = True
            for n in range(first[index], first[index + 1]):
                self._paint(t, n, colour, label, number)
        kernel = np.array([0.25, 0.5, 0.25])
        smooth = cv2.sepFilter2D(colour, -1, kernel, kernel)
        return np.asarray(smooth[1::2, 1::2], dtype=np.uint8), label[1::2, 1::2], number[1::2, 1::2]

    def _order(self, t: int) -> list[int]:
        """Bodies by layer, far ones first."""
        camera, ahead = self.path.position[t], self._camera(t)[2]

        def key(index: int) -> tuple[int, float]:
            """Layer, then distance ahead of the camera in metres, negative."""
            body = self.bodies[index]
            x, z = (body.position[i] + body.velocity[i] * t for i in (0, 1))
            return body.layer, -float(ahead[0] * (x - camera[0]) + ahead[2] * (z - camera[2]))

        return sorted(range(len(self.bodies)), key=key)

    def _paint(
        self, t: int, n: int, colour: NDArray[np.uint8], label: NDArray[np.uint8], number: NDArray[np.int16]
    ) -> None:
        surface, matrix = self.surfaces[n], _FINE @ self.matrices[t, n]
        if surface.facing * np.linalg.det(self.matrices[t, n]) < 0:
            return
        box = _box(surface.canvas.label.shape, matrix, label.shape)
        if box is None:
            return
        for x0, y0, x1, y1, level in self.mips[n].parts(box, matrix):
            shift = np.array([[1.0, 0, x0], [0, 1, y0], [0, 0, 1]])
            back = np.linalg.inv(matrix) @ shift
            size, area = (x1 - x0, y1 - y0), (slice(y0, y1), slice(x0, x1))
            marks = cv2.warpPerspective(surface.canvas.label, back, size, flags=_NEAREST, borderValue=(EMPTY,))
            mask = np.not_equal(marks, EMPTY)
            texture, scale = self.mips[n].level(level)
            tones = cv2.warpPerspective(texture, scale @ back, size, flags=_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            cv2.copyTo(tones, mask.view(np.uint8), colour[area])
            np.copyto(label[area], marks, where=mask, casting="unsafe")
            np.copyto(number[area], n, where=mask)

    def _shadows(self, t: int, colour: NDArray[np.uint8]) -> None:
        """Darken the ground under every body that casts a shadow."""
        for body in self.bodies:
            if body.shadow is None:
                continue
            outline = _ring(body, t) - self.path.position[t]
            seen = outline @ self._camera(t).T
            if (seen[:, 2] < _NEAR).any():
                continue
            image = seen @ (_FINE @ self.k).T
            points = np.round(image[:, :2] / image[:, 2:] * 8).astype(np.int64)
            if np.abs(points).max() > 2**20:
                continue
            _darken(colour, points.astype(np.int32))

    def flow(self, t: int, surface: NDArray[np.int16]) -> NDArray[np.float32]:
        """Backward flow `[2,H,W]` of frame t in pixels."""
        maps = (self.matrices[t - 1] @ self.inverses[t])[surface]  # [H,W,3,3]
        height, width = self.size
        x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        before = maps[..., 0] * x[..., None] + maps[..., 1] * y[..., None] + maps[..., 2]
        flow = before[..., :2] / before[..., 2:] - np.stack([x, y], axis=-1)
        return np.ascontiguousarray(flow.transpose(2, 0, 1), dtype=np.float32)

    def depth(self, t: int, surface: NDArray[np.int16]) -> NDArray[np.float32]:
        """Depth `[H,W]` of frame t in metres."""
        row = np.where(self.still[:, None], 0.0, self.inverses[t][:, 2])[surface]
        height, width = self.size
        inverse = row[..., 0] * np.arange(width) + row[..., 1] * np.arange(height)[:, None] + row[..., 2]
        return (1 / np.maximum(inverse, 1e-6)).astype(np.float32)


def _in_world(body: Body, surface: Surface) -> Float64:
    """Matrix `[3,3]` of a surface in world coordinates at frame 0."""
    matrix: Float64 = _turn(body.heading) @ surface.frame
    matrix[[0, 2], 2] += body.position
    return matrix


def _turn(heading: float) -> Float64:
    c, s = np.cos(heading), np.sin(heading)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _ring(body: Body, t: int) -> Float64:
    """Outline `[16,3]` of a body's shadow on the ground at frame t: a rounded rectangle."""
    assert body.shadow is not None
    angle = np.arange(16) * np.pi / 8
    c, s = np.cos(angle), np.sin(angle)
    x, z = np.sign(c) * np.abs(c) ** 0.5 * body.shadow[0], np.sign(s) * np.abs(s) ** 0.5 * body.shadow[1]
    ring = np.stack([x, np.zeros(16), z], axis=1) @ _turn(body.heading).T
    ring[:, 0] += body.position[0] + body.velocity[0] * t
    ring[:, 2] += body.position[1] + body.velocity[1] * t
    return ring


def _darken(colour: NDArray[np.uint8], points: NDArray[np.int32]) -> None:
    x0, y0 = np.maximum(points.min(0) // 8 - 1, 0)
    x1, y1 = np.minimum(points.max(0) // 8 + 2, [colour.shape[1], colour.shape[0]])
    if x1 <= x0 or y1 <= y0:
        return
    mask = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    cv2.fillPoly(mask, [points - np.array([x0, y0], dtype=np.int32) * 8], (255,), shift=3)
    area = colour[y0:y1, x0:x1]
    cv2.copyTo(cv2.convertScaleAbs(area, None, 0.55, 0), mask, area)


def _box(shape: tuple[int, ...], matrix: Float64, limit: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Bounding box (x0, y0, x1, y1) on the fine grid of a texture's part in front of the camera; None if off-image."""
    height, width = shape[0] - 0.5, shape[1] - 0.5
    corners = np.array([[-0.5, -0.5, 1], [width, -0.5, 1], [width, height, 1], [-0.5, height, 1]]) @ matrix.T
    depth = corners[:, 2]
    if depth.max() < _NEAR:
        return None
    if depth.min() < _NEAR:
        corners = _clipped(corners)
    points = corners[:, :2] / corners[:, 2:]
    (x0, y0), (x1, y1) = np.floor(points.min(0)), np.ceil(points.max(0)) + 1
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, limit[1]), min(y1, limit[0])
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None
    return int(x0), int(y0), int(x1), int(y1)


def _clipped(corners: Float64) -> Float64:
    """Corners of the polygon cut at the near plane."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if a[2] >= _NEAR:
            kept.append(a)
        if (a[2] >= _NEAR) != (b[2] >= _NEAR):
            kept.append(a + (b - a) * (_NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept)


class _Pyramid:
    """A texture at reduced sizes, made when first needed. A level is (log2 of the reduction along u, along v)."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.made: dict[tuple[int, int], tuple[NDArray[np.uint8], Float64]] = {}

    def level(self, level: tuple[int, int]) -> tuple[NDArray[np.uint8], Float64]:
        """The reduced colours and the map from full-size texture pixels to its pixels."""
        if level not in self.made:
            height, width = self.canvas.label.shape
            size = (max(1, width >> level[0]), max(1, height >> level[1]))
            small = self.canvas.colour
            if level != (0, 0):
                small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            sx, sy = size[0] / width, size[1] / height
            self.made[level] = small, np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])
        return self.made[level]

    def parts(
        self, box: tuple[int, int, int, int], matrix: Float64
    ) -> list[tuple[int, int, int, int, tuple[int, int]]]:
        """Cut the box into bands of similar reduction, along the direction in which depth changes most."""
        x0, y0, x1, y1 = box
        inverse: Float64 = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        bands = []
        rows = abs(inverse[2, 1]) * (y1 - y0) > abs(inverse[2, 0]) * (x1 - x0)
        for a, b in _cuts((y0, y1) if rows else (x0, x1), inverse, rows, (x0 + x1) / 2, (y0 + y1) / 2):
            part = (x0, a, x1, b) if rows else (a, y0, b, y1)
            bands.append((*part, _reduction(inverse, (part[0] + part[2]) / 2, (part[1] + part[3]) / 2)))
        return bands


def _cuts(span: tuple[int, int], inverse: Float64, rows: bool, x: float, y: float) -> list[tuple[int, int]]:
    """Split a span of rows or columns wherever depth has doubled; at most 6 parts."""
    ends = [(x, span[0]), (x, span[1] - 1)] if rows else [(span[0], y), (span[1] - 1, y)]
    near, far = (float(inverse[2] @ (px, py, 1)) for px, py in ends)
    ratio = max(near, far) / max(min(near, far), 1e-3 * max(near, far), 1e-9)
    count = int(np.clip(np.log2(max(ratio, 1)), 0, 5)) + 1
    if count == 1 or span[1] - span[0] < 8:
        return [span]
    steps = np.linspace(0, 1, count + 1)
    depth = near * (far / near) ** steps if near > 0 and far > 0 else near + (far - near) * steps
    where = span[0] + (span[1] - span[0]) * (depth - near) / (far - near)
    edges = np.unique(np.clip(np.rint(where), *span).astype(int))
    return [(int(a), int(b)) for a, b in pairwise(edges)]


def _reduction(inverse: Float64, x: float, y: float) -> tuple[int, int]:
    """How many halvings of u and v match one fine sample at (x, y)."""
    point = inverse @ (x, y, 1)
    if point[2] <= 0:
        return 0, 0
    slope = (inverse[:2, :2] - point[:2, None] / point[2] * inverse[2, :2]) / point[2]
    steps = np.clip(np.floor(np.log2(np.maximum(np.abs(slope).max(axis=1), 1e-6)) + 0.3), 0, 6)
    return int(steps[0]), int(steps[1])
