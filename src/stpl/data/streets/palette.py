"""What things are made of: the colours of every material in the clean studio and in front of the foreign camera.

The palette is the class-conditional part of the domain shift: each material moves its own way (asphalt becomes lighter
while pavements become darker, façades turn from pastel plaster to brick, foliage from green to autumn), which no
re-estimation of channel statistics can undo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RGB = tuple[int, int, int]
"""Red, green, blue in 0..255."""


@dataclass(frozen=True)
class Material:
    """The colours that a material may have in the studio and before the foreign camera.

    `grain` is the strength of its surface texture (relative brightness amplitude) in either.
    """

    studio: tuple[RGB, ...]
    camera: tuple[RGB, ...]
    grain: tuple[float, float] = (0.04, 0.08)


MATERIALS: dict[str, Material] = {
    "road": Material(((72, 73, 80), (80, 80, 84)), ((134, 127, 118), (120, 114, 108), (142, 138, 134)), (0.06, 0.16)),
    "sidewalk": Material(((176, 170, 163), (164, 160, 160)), ((112, 98, 90), (124, 104, 92), (104, 100, 98))),
    "kerb": Material(((206, 206, 202),), ((150, 145, 138),)),
    "marking": Material(((238, 238, 232),), ((186, 180, 164), (196, 170, 96))),
    "terrain": Material(((98, 158, 62), (112, 166, 70)), ((146, 130, 84), (126, 114, 70), (158, 146, 108)), (0.1, 0.2)),
    "wall": Material(
        ((232, 213, 170), (216, 176, 146), (190, 202, 214), (234, 228, 218), (202, 186, 160), (222, 190, 180)),
        ((132, 74, 58), (112, 88, 76), (96, 100, 106), (150, 118, 88), (90, 74, 70), (118, 62, 54)),
        (0.04, 0.13),
    ),
    "roof": Material(((176, 84, 62), (150, 70, 58)), ((74, 70, 74), (92, 84, 80)), (0.12, 0.2)),
    "trim": Material(((246, 244, 238),), ((176, 164, 150), (206, 200, 190))),
    "window": Material(((96, 128, 166), (84, 112, 150)), ((50, 54, 58), (196, 164, 104), (64, 66, 66))),
    "door": Material(((120, 66, 44), (52, 84, 120), (60, 104, 76)), ((60, 52, 48), (86, 60, 46), (70, 74, 78))),
    "leaf": Material(
        ((56, 130, 52), (74, 148, 58), (48, 116, 58)), ((156, 112, 44), (128, 104, 52), (98, 98, 50)), (0.3, 0.5)
    ),
    "hedge": Material(((44, 106, 46), (58, 120, 52)), ((90, 92, 56), (108, 92, 50)), (0.3, 0.5)),
    "trunk": Material(((104, 74, 50),), ((70, 62, 58), (90, 84, 76)), (0.15, 0.3)),
    "fence": Material(
        ((158, 110, 70), (228, 226, 220), (130, 92, 64)), ((112, 112, 108), (86, 74, 64), (140, 132, 120))
    ),
    "rail": Material(((196, 198, 204),), ((128, 128, 126), (140, 122, 104))),
    "sky": Material(((86, 148, 226),), ((172, 178, 186), (190, 190, 190))),
    "horizon": Material(((196, 220, 242),), ((214, 213, 208), (222, 214, 200))),
    "cloud": Material(((250, 251, 253),), ((148, 152, 160), (206, 206, 204))),
    "car": Material(
        ((196, 40, 40), (36, 84, 176), (238, 238, 238), (226, 178, 40), (40, 130, 90), (110, 40, 120)),
        ((56, 58, 62), (156, 160, 164), (222, 222, 218), (92, 96, 100), (70, 76, 92), (104, 44, 42)),
    ),
    "cab": Material(((214, 70, 50), (50, 110, 190), (240, 240, 236)), ((80, 84, 90), (196, 190, 176), (140, 60, 44))),
    "cargo": Material(
        ((236, 236, 240), (196, 200, 206), (90, 150, 190)), ((150, 146, 138), (110, 116, 110), (168, 150, 120))
    ),
    "bus": Material(((244, 196, 40), (222, 60, 46)), ((48, 84, 120), (160, 164, 160), (120, 46, 50))),
    "glass": Material(((58, 80, 104),), ((36, 40, 44), (84, 92, 98))),
    "tyre": Material(((28, 28, 32),), ((36, 34, 32),)),
    "metal": Material(((158, 160, 166),), ((112, 110, 106), (134, 132, 130))),
    "lamp_red": Material(((220, 30, 30),), ((150, 40, 36),)),
    "lamp_white": Material(((252, 250, 224),), ((214, 206, 176),)),
    "skin": Material(((232, 190, 160), (150, 104, 76)), ((196, 154, 130), (112, 80, 62))),
    "hair": Material(((60, 42, 30), (150, 110, 60)), ((40, 36, 34), (96, 90, 84))),
    "coat": Material(
        ((214, 60, 70), (240, 160, 40), (60, 120, 200), (240, 236, 230), (150, 70, 160)),
        ((50, 52, 58), (84, 76, 66), (66, 80, 64), (112, 104, 98), (96, 50, 50)),
    ),
    "trousers": Material(((50, 62, 110), (70, 70, 76), (120, 96, 70)), ((40, 42, 48), (70, 66, 62), (56, 60, 76))),
    "motorcycle": Material(((200, 34, 34), (30, 60, 160), (40, 44, 48)), ((44, 46, 50), (90, 34, 32), (76, 84, 76))),
    "bicycle": Material(((30, 150, 190), (220, 90, 40), (90, 190, 70)), ((70, 72, 76), (124, 60, 48), (50, 70, 92))),
    "spokes": Material(((150, 152, 158),), ((104, 102, 98), (122, 118, 110))),
    "housing": Material(((34, 34, 38),), ((78, 76, 46), (60, 62, 64))),
    "sign_red": Material(((216, 36, 40),), ((158, 58, 50), (176, 84, 66))),
    "sign_blue": Material(((30, 90, 190),), ((58, 92, 112), (36, 90, 70))),
    "sign_white": Material(((248, 248, 246),), ((206, 200, 186), (216, 190, 110))),
    "hill": Material(((110, 146, 126), (96, 136, 104)), ((126, 120, 106), (118, 112, 92)), (0.1, 0.2)),
}


class Palette:
    """Hands out colours on the way from the studio's to the camera's, and holds the source of all a drive's chances.

    Geometry must not depend on the domain, so every method draws the same random numbers whatever the strengths are.

    Args:
        rng: the drive's random stream.
        shift: 0 gives the studio's colours, 1 the camera's; in between they are mixed.
        grain: the same for the strength of surface textures.
        flat: how much of the sun's shading is lost under an overcast sky, 0..1.
    """

    def __init__(self, rng: np.random.Generator, shift: float, grain: float, flat: float) -> None:
        self.rng, self.shift, self.texture, self.flat = rng, shift, grain, flat

    def pick(self, material: str, jitter: float = 0.06) -> RGB:
        """A colour of `material`; `jitter` is the relative variation of its brightness."""
        look = MATERIALS[material]
        which, gain = self.rng.random(), 1 + jitter * self.rng.uniform(-1, 1)
        studio = np.array(look.studio[int(which * len(look.studio))], dtype=np.float64)
        camera = np.array(look.camera[int(which * len(look.camera))], dtype=np.float64)
        mixed = np.clip(((1 - self.shift) * studio + self.shift * camera) * gain, 0, 255)
        return int(mixed[0]), int(mixed[1]), int(mixed[2])

    def grain(self, material: str) -> float:
        """Strength of the surface texture of `material` (relative brightness amplitude)."""
        studio, camera = MATERIALS[material].grain
        return (1 - self.texture) * studio + self.texture * camera

    def sun(self, factor: float) -> float:
        """Brightness `factor` of a face of one orientation, pulled towards 1 when the sky is overcast."""
        return 1 + (factor - 1) * (1 - self.flat)


def dim(rgb: RGB, factor: float) -> RGB:
    """A colour, darker (below 1) or brighter."""
    r, g, b = (min(255, int(value * factor)) for value in rgb)
    return r, g, b
