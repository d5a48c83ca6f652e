"""What an estimator of optical flow is, and how the setting `flow_estimator` names one."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stpl.data.flow.flow_formats import Flow
from stpl.errors import ConfigError
from stpl.machine import find_own_modules

Frame = NDArray[np.uint8]
"""A frame `[H,W,3]` RGB."""

KNOWN = {
    "dis": "stpl.data.flow.dis.DIS",
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
    """The class that a setting names; raises `ConfigError` if it names none.

    Args:
        setting: a key of `KNOWN`, or `package.module.Class`.
    """
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
    """The estimator that a setting names.

    Raises:
        ConfigError: it names none, or it cannot be opened: torchvision is not installed or fits another torch, or
            RAFT's weights are neither cached nor can be downloaded.
    """
    return estimator_class(setting)()


def shared_estimator(setting: str) -> FlowEstimator:
    """The same, opened once a process: a device cannot be used after a fork."""
    with _OPENING:
        return _shared(setting, os.getpid())


_OPENING = threading.Lock()


@cache
def _shared(setting: str, process: int) -> FlowEstimator:
    return open_estimator(setting)
