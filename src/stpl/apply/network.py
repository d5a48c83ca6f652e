"""Segment frames with a trained network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray

from stpl.data.clip import Clip, collate
from stpl.errors import DataError, DivergedError
from stpl.nn import weights
from stpl.nn.accel import Accel
from stpl.nn.network import build_network
from stpl.nn.segmenter import upsample

Frame = NDArray[np.uint8]


def load_network(checkpoint: Path, builder: str | None = None) -> Accel:
    """The network a checkpoint describes, with its weights, ready to predict; `builder` as for `weights.describe`."""
    with weights.read_once(checkpoint):
        options = weights.describe(checkpoint, builder)
        with isolate_rng():  # fresh weights, which the checkpoint's replace, are drawn
            network = build_network(options)
        weights.load(checkpoint, network, options=options)
    return network.eval().to(device())


def device() -> str:
    """Where networks predict."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames that Python code gives; raises `DataError` for whatever is no uint8 `[H,W,3]`."""
    if not isinstance(frames, Iterable):
        raise _no_frames(f"this is a {type(frames).__name__}")
    for place, frame in enumerate(frames):
        dtype, shape = getattr(frame, "dtype", ""), tuple(getattr(frame, "shape", ()))
        fits = dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and min(shape) > 0
        if not (isinstance(frame, np.ndarray) and fits):
            kind = " ".join(filter(None, (type(frame).__name__, str(dtype), str(list(shape)) if shape else "")))
            raise _no_frames(f"frame {place} is a {kind}")
        yield frame


def _no_frames(what: str) -> DataError:
    return DataError(what, where="predict", mend="give NumPy arrays uint8 [H,W,3], RGB in 0…255, one a frame")


@torch.inference_mode()
def predict(networks: Sequence[Accel], clip: Clip, shape: tuple[int, ...]) -> list[Frame]:
    """What each network says of a clip's current frame: labels uint8 `[H,W]` (train ids).

    Args:
        networks: in evaluation mode.
        clip: by itself, its frames at the size the networks see, with the backward flow.
        shape: height and width of the labels, and what follows them, as of the frame that they are shown with.

    Raises:
        DivergedError: a network gives no finite numbers.
    """
    batch = collate([clip]).to(next(networks[0].parameters()).device)
    logits = [upsample(network(batch), (shape[0], shape[1])) for network in networks]
    if not all(bool(x.isfinite().all()) for x in logits):
        raise DivergedError("the network's output is not finite", mend="use another checkpoint")
    return [x.argmax(1)[0].to(torch.uint8).cpu().numpy() for x in logits]
