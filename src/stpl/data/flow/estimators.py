"""What an estimator of optical flow is, how the setting `flow_estimator` names one, and the one that is the default."""

import os
import threading
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.flow.flow_formats import Flow, sides
from stpl.errors import ConfigError, DataError
from stpl.machine import find_own_modules

Frame = NDArray[np.uint8]
"""A frame `[H,W,3]` RGB."""

KNOWN = {
    "dis": "stpl.data.flow.estimators.DIS",
    "raft": "stpl.data.flow.raft.Raft",
    "raft_small": "stpl.data.flow.raft.RaftSmall",
}
"""The estimators that have a short name: the class of each."""


class FlowEstimator(Protocol):
    """Frames in, flow out. A class of your own is called without arguments, once a process.

    Attributes:
        name: names the folder of what it estimated, so two estimators with one name share their flow.
        batch: how many pairs are best estimated at once.
    """

    name: str
    batch: int

    def __call__(self, pairs: Sequence[tuple[Frame, Frame]]) -> list[Flow]:
        """Flow float32 `[2,H,W]` of each pair (a, b), from a to b on the grid of a; frames of one size.

        May be called in several threads at once.
        """
        ...


def estimator_class(setting: str) -> type[FlowEstimator]:
    """The class that a setting names, a key of `KNOWN` or `package.module.Class`; `ConfigError` if it names none."""
    module, _, name = KNOWN.get(setting, setting).rpartition(".")
    mend = f"choose one of {', '.join(KNOWN)}, or give package.module.Class"
    if not module:
        raise ConfigError(f"there is no flow estimator '{setting}'", where="flow_estimator", mend=mend)
    find_own_modules()
    try:
        found: type[FlowEstimator] = getattr(import_module(module), name)
    except Exception as error:  # whatever its author's code raises
        raise ConfigError(f"'{setting}' cannot be imported ({error})", where="flow_estimator", mend=mend) from error
    title, batch = getattr(found, "name", None), getattr(found, "batch", None)
    if not callable(found) or not isinstance(title, str) or "/" in title or not isinstance(batch, int):
        what = f"'{setting}' is no flow estimator: it needs a name and a batch, and a __call__ of pairs of frames"
        raise ConfigError(what, where="flow_estimator", mend=mend)
    return found


def open_estimator(setting: str) -> FlowEstimator:
    """The estimator that a setting names; raises `ConfigError` if it names none, or one that cannot be opened."""
    return estimator_class(setting)()


def shared_estimator(setting: str) -> FlowEstimator:
    """The same, opened once a process: a device cannot be used after a fork."""
    with _OPENING:
        return _shared(setting, os.getpid())


_OPENING = threading.Lock()


@cache
def _shared(setting: str, process: int) -> FlowEstimator:
    return open_estimator(setting)


_local = threading.local()


class DIS:
    """Dense inverse search (Kroeger et al., ECCV 2016) as OpenCV has it, preset medium; on the CPU.

    Safe in threads and processes: OpenCV's estimator has state, so each thread has its own.
    """

    name = "dis"
    batch = 1

    def __call__(self, pairs: Sequence[tuple[Frame, Frame]]) -> list[Flow]:
        """Flow of each pair (of, to)."""
        return [estimate(of, to) for of, to in pairs]


def estimate(later: Frame, earlier: Frame) -> Flow:
    """Backward flow from `later`, on whose grid it lies, to `earlier`, by `DIS`.

    Raises:
        DataError: the frames differ in shape, are no uint8 RGB images, or are smaller than about 12 pixels.
    """
    if later.shape != earlier.shape or later.dtype != np.uint8 or earlier.dtype != np.uint8 or later.shape[2:] != (3,):
        found = f"{later.dtype} {later.shape} and {earlier.dtype} {earlier.shape}"
        what = f"optical flow needs two uint8 frames [H,W,3] of one size, got {found}"
        raise DataError(what, mend="resize both frames to one size first")
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
