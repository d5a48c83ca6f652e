"""Operations on flow in memory: resize, mirror, compare with the flow in the other direction."""

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.flow.flow_formats import Flow, sides
from stpl.errors import DataError


def resize(flow: Flow, size: tuple[int, int]) -> Flow:
    """The flow at `size` = (height, width): bilinear in space, dx scaled by the width ratio and dy by the height's.

    Pixel centres are at half-integers, as in the resizing of frames; the lineage scaled both components by the height
    ratio, which bends the flow wherever the two ratios differ.

    Raises:
        DataError: it is no flow `[2,H,W]`; so for the other functions here.

    Examples:
        >>> resize(np.full((2, 4, 8), 6, np.float32), (4, 4))[:, 0, 0].tolist()
        [3.0, 6.0]
    """
    flow = checked(flow)
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

    Examples:
        >>> flow = np.zeros((2, 1, 4), np.float32)
        >>> flow[0] = 1
        >>> consistent(flow, -flow).tolist()
        [[True, True, True, False]]
    """
    flow, back = checked(flow), checked(back)
    if flow.shape != back.shape:
        what = f"the flows are {sides(flow.shape[1:])} and {sides(back.shape[1:])}"
        raise DataError(what, mend="give flows between two frames of one size (`resize`)")
    height, width = flow.shape[1:]
    x = np.arange(width, dtype=np.float32) + flow[0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[1]
    found = np.stack([cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for part in back])
    apart = np.square(flow + found).sum(0)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    near = apart < 0.01 * (np.square(flow).sum(0) + np.square(found).sum(0)) + 0.5
    return np.asarray(near & inside, np.bool_)


def flip(flow: Flow) -> Flow:
    """The flow between the two frames mirrored left-right: mirrored itself, with dx negated.

    Examples:
        >>> flip(np.array([[[1, 2]], [[3, 4]]], np.float32)).tolist()
        [[[-2.0, -1.0]], [[4.0, 3.0]]]
    """
    mirrored = checked(flow)[:, :, ::-1].copy()
    mirrored[0] *= -1
    return mirrored


def checked(flow: Flow) -> Flow:
    """The flow as float32; raises `DataError` for what is no array `[2,H,W]`."""
    if not isinstance(flow, np.ndarray) or flow.ndim != 3 or len(flow) != 2:
        found = " ".join([type(flow).__name__, str(list(getattr(flow, "shape", ())))])
        raise DataError(f"a flow is an array [2,H,W], got {found}", mend="give one pair's flow, dx before dy")
    return flow.astype(np.float32, copy=False)
