"""Colours of classes in pictures: told apart by eye, and apart from the palette of label images."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stpl.data.label_space import CITYSCAPES_19, PALETTE, own_classes
from stpl.pictures.colours import class_colour, class_rgb, picture_palette
from stpl.pictures.labels import overlay

Lab = NDArray[np.float64]


def lab(colours: NDArray[np.uint8]) -> Lab:
    """CIE L*a*b* `[N,3]` of sRGB colours `[N,3]`."""
    scaled = colours[None].astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB)[0], np.float64)


def ciede2000(one: Lab, other: Lab) -> float:
    """The colour difference ΔE00 (Sharma, Wu, Dalal 2005, equations 2 to 22)."""
    chroma = (np.hypot(*one[1:]) + np.hypot(*other[1:])) / 2
    g = (1 - np.sqrt(chroma**7 / (chroma**7 + 25**7))) / 2
    (l1, c1, h1), (l2, c2, h2) = (
        (light, np.hypot((1 + g) * a, b), np.degrees(np.arctan2(b, (1 + g) * a)) % 360)
        for light, a, b in (one, other)
    )  # fmt: skip
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1 + sum(
        weight * np.cos(np.radians(times * hue + shift))
        for weight, times, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    )
    dl = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    rotation = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    rotation *= -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7))
    return float(np.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh))


def least(palette: NDArray[np.uint8], names: tuple[str, ...], others: tuple[str, ...]) -> float:
    """The smallest difference of a colour of `names` to another one of `names` or `others`."""
    found = dict(zip(CITYSCAPES_19.classes, lab(palette), strict=True))
    pairs = [(a, b) for a, b in itertools.combinations(CITYSCAPES_19.classes, 2) if {a, b} & {*names}]
    return min(ciede2000(found[a], found[b]) for a, b in pairs if {a, b} <= {*names, *others})


def over(grey: int, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What `overlay` makes of each colour on a grey frame."""
    labels = np.arange(len(palette))[None]
    return np.asarray(overlay(np.full((1, len(palette), 3), grey, np.uint8), labels, palette)[0], np.uint8)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ],
)
def test_the_difference_is_that_of_the_published_pairs(
    one: tuple[float, ...], other: tuple[float, ...], difference: float
) -> None:
    """Table 1 of Sharma, Wu, Dalal 2005."""
    assert ciede2000(np.array(one), np.array(other)) == pytest.approx(difference, abs=1e-4)


def test_vehicles_are_told_apart_in_pictures() -> None:
    vehicles, every = ("car", "truck", "bus", "train", "motorcycle"), CITYSCAPES_19.classes
    palette = picture_palette(CITYSCAPES_19)
    assert least(CITYSCAPES_19.palette, vehicles, ()) < 12  # why pictures have other colours
    assert least(palette, vehicles, ()) > 30
    assert least(palette, vehicles, every) > 18
    for grey in (40, 110, 200):  # over dark, middle and bright frames
        assert least(over(grey, palette), vehicles, ()) > 15
        assert least(over(grey, palette), vehicles, every) > 11


def test_all_of_the_pictures_use_the_same_colours() -> None:
    palette = picture_palette(CITYSCAPES_19).tolist()
    assert [list(class_rgb(name)) for name in CITYSCAPES_19.classes] == palette
    assert class_colour("truck") == "#00dcdc"


def test_label_images_keep_the_palette_of_cityscapes() -> None:
    assert CITYSCAPES_19.palette.tolist() == [list(rgb) for rgb in PALETTE.values()]
    assert PALETTE["truck"] == (0, 0, 70)
    assert PALETTE["motorcycle"] == (0, 0, 230)


def test_colours_that_were_given_stay() -> None:
    space = own_classes(["truck", "tree"], [(1, 2, 3), (4, 5, 6)])
    assert picture_palette(space).tolist() == [[1, 2, 3], [4, 5, 6]]
    named = picture_palette(own_classes(["truck", "tree"])).tolist()
    assert named[0] == list(class_rgb("truck"))
    assert named[1] == own_classes(["truck", "tree"]).palette.tolist()[1]
