"""Dense inverse search (Kroeger et al., ECCV 2016) as OpenCV has it, preset medium; on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from stpl.data.flow.estimators import Frame
from stpl.data.flow.flow_formats import Flow, sides
from stpl.errors import DataError

_local = threading.local()


class DIS:
    """See `FlowEstimator`. Safe in threads and processes: OpenCV's estimator has state, so each thread has its own."""

    name = "dis"
    batch = 1

    def __call__(self, pairs: Sequence[tuple[Frame, Frame]]) -> list[Flow]:
        """Flow of each pair (of, to)."""
        return [estimate(of, to) for of, to in pairs]


def estimate(later: Frame, earlier: Frame) -> Flow:
    """Backward flow from `later` to `earlier`.

    Args:
        later: frame uint8 `[H,W,3]` RGB on whose grid the flow lives.
        earlier: frame of the same shape.

    Raises:
        DataError: the frames differ in shape, are no uint8 RGB images, or are smaller than about 12 pixels.
    """
    if later.shape != earlier.shape or later.dtype != np.uint8 or earlier.dtype != np.uint8 or later.shape[2:] != (3,):
        raise DataError(
            f"optical flow needs two uint8 frames [H,W,3] of one size, got {later.dtype} {later.shape} "
            f"and {earlier.dtype} {earlier.shape}",
            mend="resize both frames to one size first",
        )
    no_start: Any = None
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (later, earlier)]
    try:
        flow = _estimator(later.shape).calc(grey[0], grey[1], no_start)
    except cv2.error as error:
        what = f"optical flow cannot be estimated at {sides(later.shape[:2])} ({error.err})"
        raise DataError(what, mend="use larger frames") from error
    return np.ascontiguousarray(flow.transpose(2, 0, 1), dtype=np.float32)


def _estimator(size: tuple[int, ...]) -> cv2.DISOpticalFlow:
    # One for each size: a small frame makes an estimator change its patches and scales, and it does not change back.
    estimators: dict[tuple[int, ...], cv2.DISOpticalFlow] = _local.__dict__.setdefault("estimators", {})
    if size not in estimators:
        estimators[size] = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return estimators[size]
