"""The colour of a class, the same in every picture, figure and page. Imports no torch."""

import zlib

import numpy as np
from numpy.typing import NDArray

from stpl.data.label_space import PALETTE, LabelSpace

_OF_PICTURES = {
    **PALETTE, "truck": (0, 220, 220), "bus": (150, 100, 0), "train": (0, 110, 100), "motorcycle": (200, 150, 255),
}  # fmt: skip
"""Cityscapes paints these four in blues that the eye takes for one another and for cars; label images keep its own."""


def class_rgb(name: str) -> tuple[int, int, int]:
    """The colour of a class in pictures; one made of its name where Cityscapes has no such class."""
    made = zlib.crc32(name.encode())
    return _OF_PICTURES.get(name, (made & 255, made >> 8 & 255, made >> 16 & 255))


def class_colour(name: str) -> str:
    """`class_rgb` as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*class_rgb(name))


def picture_palette(space: LabelSpace) -> NDArray[np.uint8]:
    """RGB colours uint8 `[K,3]` for pictures of a label space in train-id order; those that it was given stay."""
    if space.colours:
        return space.palette
    plain = zip(space.classes, space.palette.tolist(), strict=True)
    return np.array([_OF_PICTURES.get(name, rgb) for name, rgb in plain], np.uint8)
