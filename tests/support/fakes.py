"""Tiny data sets of moving shapes: quicker to draw than streets, with a motion that is known."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.fake import FakeScene, SceneSource, Size, write_videos
from stpl.data.sets import cityscapes, synthia, viper

_ROAD, _SIDEWALK, _BUILDING, _SKY, _PERSON, _CAR, _EGO = 7, 8, 11, 23, 24, 26, 1  # Cityscapes label ids
_COLOURS = {
    _ROAD: (96, 92, 96),
    _SIDEWALK: (150, 140, 145),
    _BUILDING: (120, 95, 80),
    _SKY: (165, 190, 215),
    _PERSON: (190, 60, 70),
    _CAR: (40, 60, 150),
    _EGO: (30, 30, 32),
}
_LONGEST = 30  # frames that the texture pans over


@dataclass(frozen=True)
class MovingShapes:
    """A toy street: bands and a textured facade that pan one pixel a frame, a car that gains, a person.

    Attributes:
        seed: chooses textures and places.
        size: (height, width), at least 32×64.
    """

    seed: int
    size: Size

    def label(self, time: int) -> NDArray[np.uint8]:
        """Cityscapes label ids uint8 `[H,W]` at frame number `time` (counted from 0)."""
        height, width = self.size
        ids = np.full(self.size, _SKY, dtype=np.uint8)
        ids[int(0.2 * height) : int(0.5 * height)] = _BUILDING
        ids[int(0.5 * height) : int(0.6 * height)] = _SIDEWALK
        ids[int(0.6 * height) :] = _ROAD
        self._block(ids, _PERSON, 0.4, 0.62, (width // 4 + self.seed - time) % width, width // 16)
        self._block(ids, _CAR, 0.55, 0.8, (width // 2 + self.seed + 2 * time) % width, width // 4)
        ids[int(0.92 * height) :, width // 4 : 3 * width // 4] = _EGO
        return ids

    def frame(self, time: int) -> NDArray[np.uint8]:
        """The frame uint8 `[H,W,3]` RGB that `label(time)` describes; moving things carry their texture along."""
        ids = self.label(time)
        table = np.zeros((256, 3), dtype=np.int16)
        for value, colour in _COLOURS.items():
            table[value] = colour
        width = self.size[1]
        pan, drive = self._texture[:, time : time + width], np.roll(self._texture[:, :width], 2 * time, axis=1)
        texture = np.where(ids == _CAR, drive, np.where(ids == _EGO, 0, pan))
        return np.clip(table[ids] + texture[..., None], 0, 255).astype(np.uint8)

    def _block(self, ids: NDArray[np.uint8], value: int, top: float, bottom: float, left: int, width: int) -> None:
        height = self.size[0]
        ids[int(top * height) : int(bottom * height), left : left + width] = value

    @cached_property
    def _texture(self) -> NDArray[np.int16]:
        height, width = self.size
        noise = np.random.default_rng(self.seed).normal(0.0, 90.0, (height, width + _LONGEST))
        return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5)).astype(np.int16)


class FewIds(MovingShapes):
    """Moving shapes with ids that SYNTHIA and VIPER know, too."""

    def label(self, time: int) -> NDArray[np.uint8]:
        return super().label(time) % 16


def drawn(scene: MovingShapes, frames: int) -> FakeScene:
    """The first frames of a scene, with their labels."""
    return ((scene.frame(time), scene.label(time)) for time in range(frames))


def few_ids(name: str, frames: int) -> FakeScene:
    """The same scene for any name."""
    return drawn(FewIds(frames, (76, 128)), frames)


def write_viper(root: Path, scenes: SceneSource = few_ids, *, sequences: int = 2, clips: int = 2) -> None:
    """Write a VIPER with so many clips in each sequence."""
    write_videos(viper.SET, root, viper.videos(sequences * clips, sequences), scenes)


def write_synthia(root: Path, scenes: SceneSource = few_ids, *, clips: int = 4) -> None:
    """Write a SYNTHIA-Seq."""
    write_videos(synthia.SET, root, synthia.videos(clips), scenes)


def write_cityscapes(
    root: Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    cities: Sequence[str] = ("aachen", "ulm"),
    snippets: int = 2,
    size: Size = (64, 128),
    labels: bool = True,
) -> None:
    """Write a Cityscapes-Seq with so many snippets in each city."""
    videos = cityscapes.videos(snippets * len(cities), cities, splits)
    if not labels:
        videos = (replace(video, labelled=()) for video in videos)

    def scene(name: str, frames: int) -> FakeScene:
        return drawn(MovingShapes(zlib.crc32(name.encode()) % 1000, size), frames)

    write_videos(cityscapes.SET, root, videos, scene)
