"""Operations on flow in memory: resize, mirror, compare with the flow in the other direction."""

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.flow.flow_formats import Flow


def resize(flow: Flow, size: tuple[int, int]) -> Flow:
    """The flow at `size` = (height, width): bilinear in space, dx scaled by the width ratio and dy by the height's.

    Pixel centres are at half-integers, as in the resizing of frames; the lineage scaled both components by the height
    ratio, which bends the flow wherever the two ratios differ.
    """
    old_height, old_width = flow.shape[1:]
    height, width = size
    if (old_height, old_width) == size:
        return flow
    dx = cv2.resize(flow[0], (width, height), interpolation=cv2.INTER_LINEAR) * (width / old_width)
    dy = cv2.resize(flow[1], (width, height), interpolation=cv2.INTER_LINEAR) * (height / old_height)
    return np.stack([dx, dy]).astype(np.float32)


def consistent(flow: Flow, back: Flow) -> NDArray[np.bool_]:
    """Which pixels of a flow lead to one that leads back: elsewhere something is hidden, or the flow is wrong.

    |w + w'|² < 0.01·(|w|² + |w'|²) + 0.5 px², where w' is the other flow at the place that w leads to (Sundaram, Brox
    and Keutzer, ECCV 2010, §4).

    Args:
        flow: w, float32 `[2,H,W]`, on the grid that is asked about.
        back: w', on the grid of the other frame, leading to the first.

    Returns:
        Bool `[H,W]`; false where w leaves the image.
    """
    height, width = flow.shape[1:]
    x = np.arange(width, dtype=np.float32) + flow[0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[1]
    found = np.stack([cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for part in back])
    apart = np.square(flow + found).sum(0)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    near = apart < 0.01 * (np.square(flow).sum(0) + np.square(found).sum(0)) + 0.5
    return np.asarray(near & inside, np.bool_)


def flip(flow: Flow) -> Flow:
    """The flow between the two frames mirrored left-right: mirrored itself, with dx negated."""
    mirrored = flow[:, :, ::-1].copy()
    mirrored[0] *= -1
    return mirrored
