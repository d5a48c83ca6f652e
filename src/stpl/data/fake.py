"""Tiny data sets in each true layout on disk: for tests, and for a first run before the gigabytes have arrived.

A fake differs from the real thing only in size and content. It is a pure function of its arguments, so that two runs
of a test, or two machines, work on the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.image import write_png

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
_SNIPPET, _LABELLED = 30, 19
_FIRST_RUNNING, _RUNNING_STEP = 275, 131  # frankfurt_000000_000294 is the true set's first such label


@dataclass(frozen=True)
class MovingShapes:
    """A toy street: bands and a textured facade that pan one pixel a frame, a car that gains, a person.

    Attributes:
        seed: chooses textures and places.
        size: (height, width), at least 32×64.
    """

    seed: int
    size: tuple[int, int]

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
        noise = np.random.default_rng(self.seed).normal(0.0, 90.0, (height, width + _SNIPPET))
        return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5)).astype(np.int16)


def write_cityscapes(
    root: Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    cities: Sequence[str] = ("aachen", "ulm"),
    snippets: int = 2,
    size: tuple[int, int] = (64, 128),
    labels: bool = True,
) -> Path:
    """Write a Cityscapes-Seq of moving shapes: whole 30-frame snippets, and label ids of the 20th frame of each.

    As in the true set, some cities count every snippet from 000000 under a sequence number of its own (the first, third
    … city here) and some number all frames of one sequence, so that the labelled frame is 000294, 000425, …

    Args:
        root: folder to write `leftImg8bit_sequence` and `gtFine` into.
        splits: splits to write, each with the same city names but other content.
        cities: city names.
        snippets: snippets a city.
        size: (height, width) of frames and labels; the true one is 1024×2048.
        labels: write `gtFine`; an unlabelled target has none.

    Returns:
        `root`.
    """
    root = Path(root)
    for split in splits:
        for place, city in enumerate(cities):
            for snippet in range(snippets):
                scene = MovingShapes(zlib.crc32(f"{split}/{city}/{snippet}".encode()) % 1000, size)
                sequence, first = (0, _FIRST_RUNNING + _RUNNING_STEP * snippet) if place % 2 else (snippet, 0)
                stems = [f"{split}/{city}/{city}_{sequence:06d}_{first + time:06d}" for time in range(_SNIPPET)]
                _write_snippet(root, stems, scene, labels)
    return root


def _write_snippet(root: Path, stems: list[str], scene: MovingShapes, labels: bool) -> None:
    for time, stem in enumerate(stems):
        write_png(root / "leftImg8bit_sequence" / f"{stem}_leftImg8bit.png", scene.frame(time))
    if labels:
        write_png(root / "gtFine" / f"{stems[_LABELLED]}_gtFine_labelIds.png", scene.label(_LABELLED))
