"""The painting of labels: colours by class, blended over a frame, and a legend of them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, TEXT, GAP = (22, 24, 28), (226, 228, 232), 8
"""Colours of all pictures, and pixels between their parts."""

_SWATCH_EDGE = (90, 94, 102)
_LEGEND_ROW, _LEGEND_SIZE, _SWATCH = 26, 15, 15


def paint(labels: NDArray[np.integer[Any]], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour a label map: uint8 `[H,W,3]`, black where no class is known.

    Args:
        labels: train ids, integers `[H,W]`; every value outside 0..K-1 (255 = ignore) is no class.
        palette: RGB uint8 `[K,3]`, for example `LabelSpace.palette`.
    """
    table = np.vstack([palette, np.zeros((1, 3), np.uint8)])
    known = (labels >= 0) & (labels < len(palette))
    return table[np.where(known, labels, len(palette))]


def overlay(
    frame: NDArray[np.uint8], labels: NDArray[np.integer[Any]], palette: NDArray[np.uint8], alpha: float = 0.55
) -> NDArray[np.uint8]:
    """Blend labels, as `paint` colours them, over a frame uint8 `[H,W,3]` RGB; it shows alone where there is no class.

    `alpha` is the weight of the colours, 0 (frame only) to 1 (colours only).
    """
    known = ((labels >= 0) & (labels < len(palette)))[..., None]
    blend = (1.0 - alpha) * frame + alpha * paint(labels, palette)
    return np.where(known, np.rint(blend), frame).astype(np.uint8)


def legend(classes: Sequence[str], palette: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """A strip of colour swatches with class names, uint8 `[h,width,3]`; as many rows as the names need.

    Names stand in columns of equal width. A class wider than the strip is cut off at its edge.
    """
    font = ImageFont.load_default(_LEGEND_SIZE)
    cell = 2 * GAP + _SWATCH + max((math.ceil(font.getlength(name)) for name in classes), default=0) + GAP
    columns = max(1, min(len(classes), (width - GAP) // cell))
    cell = max(cell, (width - GAP) // columns)
    image = Image.new("RGB", (width, math.ceil(len(classes) / columns) * _LEGEND_ROW + GAP), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for index, (name, colour) in enumerate(zip(classes, palette, strict=True)):
        x, middle = GAP + index % columns * cell, index // columns * _LEGEND_ROW + (GAP + _LEGEND_ROW) // 2
        box = (x, middle - _SWATCH // 2, x + _SWATCH, middle + _SWATCH - _SWATCH // 2)
        draw.rectangle(box, fill=tuple(int(value) for value in colour), outline=_SWATCH_EDGE)
        draw.text((x + _SWATCH + GAP, middle), name, font=font, fill=TEXT, anchor="lm")
    return np.array(image)
