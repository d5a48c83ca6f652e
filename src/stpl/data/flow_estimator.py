"""Estimators of optical flow that work on batches of frame pairs: OpenCV's DIS, and torchvision's RAFT if installed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stpl.data.flow import Flow, estimate
from stpl.errors import ConfigError

Frame = NDArray[np.uint8]
Estimator = Callable[[Sequence[tuple[Frame, Frame]]], list[Flow]]
"""Backward flow float32 `[2,H,W]` of each pair (later, earlier) of frames uint8 `[H,W,3]` RGB of one size."""
EstimatorName = Literal["dis", "raft", "raft_small"]

_STRIDE, _LEAST = 8, 128  # RAFT halves a frame three times, then its correlation volume three times more


def open_estimator(name: EstimatorName) -> Estimator:
    """The estimator called `name`; may be called in several threads at once.

    Args:
        name: `dis` (Kroeger et al., ECCV 2016; CPU), `raft` or `raft_small` (Teed and Deng, ECCV 2020; on the GPU if
            there is one).

    Raises:
        ConfigError: torchvision is not installed or fits another torch, or RAFT's weights are neither cached nor can be
            downloaded.
    """
    return estimate_all if name == "dis" else Raft.load(name)


def estimate_all(pairs: Sequence[tuple[Frame, Frame]]) -> list[Flow]:
    """DIS for each pair."""
    return [estimate(later, earlier) for later, earlier in pairs]


@dataclass(frozen=True)
class Raft:
    """RAFT as torchvision has it; a batch of pairs is one forward pass, and one thread at a time makes it.

    Attributes:
        network: maps two batches of frames `[B,3,H,W]` to its iterates `[B,2,H,W]`, the best one last.
        normalize: what its weights want done to two uint8 batches first.
        device: where it runs.
    """

    network: Callable[[Tensor, Tensor], list[Tensor]]
    normalize: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    device: torch.device
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def load(cls, name: Literal["raft", "raft_small"]) -> Raft:
        """The large or the small network with torchvision's default weights; raises `ConfigError`."""
        zoo = _torchvision()
        size = "small" if name == "raft_small" else "large"
        weights = getattr(zoo, f"Raft_{size.title()}_Weights").DEFAULT
        try:
            network = getattr(zoo, f"raft_{size}")(weights=weights, progress=False)
        except (OSError, RuntimeError) as error:  # no network, no space; or a download whose hash is wrong
            raise ConfigError(
                f"the weights of {name} cannot be had ({error})",
                where="estimator",
                mend=f"put {weights.url.rpartition('/')[2]} into {torch.hub.get_dir()}/checkpoints, or use dis",
            ) from error
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(network.eval().to(device), weights.transforms(), device)

    def __call__(self, pairs: Sequence[tuple[Frame, Frame]]) -> list[Flow]:
        """Backward flow of each pair: RAFT's first image is the later frame, on whose grid its answer lives."""
        later, earlier = (self._batch([pair[place] for pair in pairs]) for place in (0, 1))
        height, width = later.shape[2:]
        with self._turn, torch.inference_mode():
            padded = self.normalize(_pad(later), _pad(earlier))
            flow = self.network(*padded)[-1][:, :, :height, :width]
        return list(flow.float().cpu().numpy())

    def _batch(self, frames: Sequence[Frame]) -> Tensor:
        return torch.from_numpy(np.stack(frames)).to(self.device).permute(0, 3, 1, 2)


def _pad(frames: Tensor) -> Tensor:
    """Frames `[B,3,H,W]` with the border repeated to the right and below, as large as RAFT needs them."""
    height, width = (max(_LEAST, -(-side // _STRIDE) * _STRIDE) for side in frames.shape[2:])
    edges = (0, width - frames.shape[3], 0, height - frames.shape[2])
    return functional.pad(frames.float(), edges, mode="replicate").to(torch.uint8)


def _torchvision() -> Any:
    try:
        return import_module("torchvision.models.optical_flow")
    except (ImportError, OSError, RuntimeError) as error:  # not there, or built for another torch
        torch_version = torch.__version__.partition("+")[0]
        raise ConfigError(
            f"RAFT needs torchvision, which cannot be imported ({error})",
            where="estimator",
            # Naming torch keeps its version: torchvision alone would bring its newest.
            mend=f"`pip install torchvision torch=={torch_version}`, or use dis",
        ) from error
