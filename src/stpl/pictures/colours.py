"""The colour of a class, the same in every picture, figure and page. Imports no torch."""

import zlib

from stpl.data.label_space import PALETTE


def class_rgb(name: str) -> tuple[int, int, int]:
    """The colour of a class as Cityscapes paints it; one made of its name where Cityscapes has no such class."""
    made = zlib.crc32(name.encode())
    return PALETTE.get(name, (made & 255, made >> 8 & 255, made >> 16 & 255))


def class_colour(name: str) -> str:
    """`class_rgb` as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*class_rgb(name))
