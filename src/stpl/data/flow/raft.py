"""RAFT (Teed and Deng, ECCV 2020) as torchvision has it, if that is installed; on the GPU if there is one."""

import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import get_worker_info

from stpl.data.flow.estimators import Frame
from stpl.data.flow.flow_formats import Flow
from stpl.errors import ConfigError

_STRIDE, _LEAST = 8, 128  # RAFT halves a frame three times, then its correlation volume three times more


class Raft:
    """The large network with torchvision's default weights; `ConfigError` where either cannot be had.

    A batch of pairs is one forward pass, and one thread at a time makes it.
    """

    name, size = "raft", "large"
    batch = 4  # its correlation volume takes 1.1 GB a pair at 720×1280

    def __init__(self) -> None:
        zoo = _torchvision()
        weights = getattr(zoo, f"Raft_{self.size.title()}_Weights").DEFAULT
        try:
            network = getattr(zoo, f"raft_{self.size}")(weights=weights, progress=False)
        except (OSError, RuntimeError) as error:  # no network, no space; or a download whose hash is wrong
            what = f"the weights of {self.name} cannot be had ({error})"
            mend = f"put {weights.url.rpartition('/')[2]} into {torch.hub.get_dir()}/checkpoints, or use dis"
            raise ConfigError(what, where="flow_estimator", mend=mend) from error
        forked = get_worker_info() is not None  # a loader's process cannot use its parent's GPU
        self.device = torch.device("cuda" if torch.cuda.is_available() and not forked else "cpu")
        self.network: Callable[[Tensor, Tensor], list[Tensor]] = network.eval().to(self.device)
        self.normalize: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = weights.transforms()
        self._turn = threading.Lock()

    def __call__(self, pairs: Sequence[tuple[Frame, Frame]]) -> list[Flow]:
        """Flow of each pair (a, b): RAFT's first image is a, on whose grid its answer lies."""
        of, to = (self._batch([pair[place] for pair in pairs]) for place in (0, 1))
        height, width = of.shape[2:]
        with self._turn, torch.inference_mode():
            flow = self.network(*self.normalize(_pad(of), _pad(to)))[-1][:, :, :height, :width]
        return list(flow.float().cpu().numpy())

    def _batch(self, frames: Sequence[Frame]) -> Tensor:
        return torch.from_numpy(np.stack(frames)).to(self.device).permute(0, 3, 1, 2)


class RaftSmall(Raft):
    """The small network."""

    name, size = "raft_small", "small"


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
            where="flow_estimator",
            # Naming torch keeps its version: torchvision alone would bring its newest.
            mend=f"`pip install torchvision torch=={torch_version}`, or use dis",
        ) from error
