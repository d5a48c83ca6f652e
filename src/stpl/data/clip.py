"""The one object that every data set yields, the batch of it that every method takes, and who reads it.

All is named by its offset from the current frame t: frame 0 is t, frame -1 the one before it, and the flow (0, -1), the
«backward flow», lies on the grid of t and leads to t-1.

Shape legend: B clips in a batch, T frames in a clip, H×W pixels. A clip by itself has no axis B.

    frames     uint8   [B,T,3,H,W]  RGB, oldest first, at the offsets `offsets`
    flows      float32 [B,2,H,W]    by pair (a, b), pixels: pixel (x, y) of frame a lies at (x+dx, y+dy) in frame b
    labels     int64   [B,H,W]      by offset, train ids, 255 = ignore; none in unlabelled clips
    visible    bool    [B,H,W]      by offset: which pixels show a point that the frame before shows too, where the
                                    data set knows it
    augmented  uint8   [B,2,3,H,W]  frames -1 and 0 after the cross-frame augmentation (photometric: pixels stay where
                                    they are, so flow and labels serve both)
"""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data.label_space import IGNORE as IGNORE  # part of this contract; it stands where torch is not needed
from stpl.errors import DataError

Frame = NDArray[np.uint8]
"""A frame `[H,W,3]` RGB as readers give it; perhaps a view of memory in another order."""
Pair = tuple[int, int]
"""The offsets of two frames (a, b) with flow from a to b."""
BACKWARD: Pair = (0, -1)
"""The backward flow: from the current frame to the one before it."""
_SOURCE = -2  # no step has this number, so the source's seed is that of no clip


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of a video with what is known about them, by offset from the current one; see the legend above.

    What a clip carries is what was wanted (`Wants`), and no more. Batched clips (see `collate`) carry a leading B axis
    on every tensor and `key` is a tuple of B names.

    Attributes:
        offsets: of the frames; those of successive frames that end with the current one if not given.
        key: the clip's stable name.
    """

    frames: Tensor
    flows: Mapping[Pair, Tensor] = field(default_factory=dict)
    labels: Mapping[int, Tensor] = field(default_factory=dict)
    visible: Mapping[int, Tensor] = field(default_factory=dict)
    augmented: Tensor | None = None
    offsets: tuple[int, ...] = ()
    key: str | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        if not self.offsets:
            object.__setattr__(self, "offsets", tuple(range(1 - self.frames.shape[-4], 1)))

    def frame(self, offset: int = 0) -> Tensor:
        """The frames `[B,3,H,W]` at an offset that was wanted."""
        return self.frames.select(-4, self.offsets.index(offset))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.frames.shape[-2], self.frames.shape[-1]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, as `flow 0,-1`."""
        found = {"frames": self.frames}
        found |= {f"flow {of},{to}": flow for (of, to), flow in self.flows.items()}
        found |= {f"label {offset}": label for offset, label in self.labels.items()}
        found |= {f"visible {offset}": mask for offset, mask in self.visible.items()}
        return found if self.augmented is None else {**found, "augmented": self.augmented}

    def map(self, function: Callable[[Tensor], Tensor]) -> Clip:
        """The same clip with `function` applied to all tensors, in the order of `tensors`."""
        return replace(
            self,
            frames=function(self.frames),
            flows={pair: function(flow) for pair, flow in self.flows.items()},
            labels={offset: function(label) for offset, label in self.labels.items()},
            visible={offset: function(mask) for offset, mask in self.visible.items()},
            augmented=None if self.augmented is None else function(self.augmented),
        )

    def to(self, device: torch.device | str) -> Clip:
        """The same clip with all tensors on `device`; what lies in page-locked memory is copied while the host goes on.

        Lightning calls this to move a batch, and says `non_blocking` to tensors only.
        """
        return self.map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Clip:
        """The same clip in page-locked memory (the DataLoader calls this when `pin_memory=True`)."""
        return self.map(Tensor.pin_memory)


def stack_frames(frames: Sequence[Frame]) -> Tensor:
    """Frames uint8 `[H,W,3]`, oldest first, as the tensor uint8 `[T,3,H,W]` of a `Clip`: one copy."""
    return torch.from_numpy(np.ascontiguousarray(np.stack([frame.transpose(2, 0, 1) for frame in frames])))


def collate(clips: Sequence[Clip]) -> Clip:
    """Stack clips along a new leading axis B; all carry what the first one does.

    Raises:
        DataError: the clips differ in size, as labels may that are evaluated as they are stored.
    """
    parts = [clip.tensors() for clip in clips]
    for name, tensor in parts[0].items():
        odd = next((place for place, one in enumerate(parts) if one[name].shape != tensor.shape), None)
        if odd is not None:
            one, other = (f"{list(parts[place][name].shape)} of {clips[place].key}" for place in (odd, 0))
            mend = "bring the files to one size, or set eval_batch_size to 1"
            raise DataError(f"{name} {one} and {other} make no batch", where="data.loading", mend=mend)
    stacked = iter([torch.stack([one[name] for one in parts]) for name in parts[0]])
    return replace(clips[0].map(lambda _: next(stacked)), key=tuple(str(clip.key) for clip in clips))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a training step gets.

    Attributes:
        target: clips of the domain that the run trains and evaluates on.
        source: clips of the source domain, for methods that want any (`Method.source_wants`); they may differ from the
            others in number and size.
        before: the target's clips of the step before, for methods that want any (`Method.before_wants`).
        prepared: what the method itself adds to a batch (`Method.prepare`), by names of its own, such as pseudo-labels.
    """

    target: Clip
    source: Clip | None = None
    before: Clip | None = None
    prepared: Mapping[str, Tensor] = field(default_factory=dict)

    def clips(self) -> dict[str, Clip]:
        """The clips that are there, by name."""
        found = {"target": self.target, "source": self.source, "before": self.before}
        return {name: clip for name, clip in found.items() if clip is not None}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, as `target.frames`."""
        found = {f"{of}.{name}": value for of, clip in self.clips().items() for name, value in clip.tensors().items()}
        return found | {f"prepared.{name}": value for name, value in self.prepared.items()}

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `function` applied to all tensors."""
        clips: dict[str, Any] = {name: clip.map(function) for name, clip in self.clips().items()}
        return replace(self, **clips, prepared={name: function(x) for name, x in self.prepared.items()})

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; see `Clip.to`."""
        clips: dict[str, Any] = {name: clip.to(device) for name, clip in self.clips().items()}
        return replace(self, **clips)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self.map(Tensor.pin_memory)


def collate_streams(items: Sequence[tuple[str, Clip]]) -> Batch:
    """Clips, each with the name of the domain it is of, as a batch; raises `DataError` as `collate` does."""
    names = dict.fromkeys(name for name, _ in items)
    clips: dict[str, Any] = {name: collate([clip for of, clip in items if of == name]) for name in names}
    return Batch(**clips)


def clip_seed(seed: int, step: int, position: int) -> int:
    """The seed of one random decision: the project's only way to derive seeds.

    A hash (BLAKE2b) of three numbers of 64 bits, those of the run, of the training step or another counter, and of the
    place within it: the same on every machine and in every version of NumPy, and unrelated for neighbouring steps or
    positions, which sums such as `seed + step` are not. It lies in [0, 2**63), which `numpy.random.default_rng`,
    `random.Random` and `torch.manual_seed` all take.
    """
    digest = hashlib.blake2b(struct.pack("<3q", seed, step, position), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream_seed(seed: int, stream: str) -> int:
    """What decides the order and the augmentation of a stream's clips (target, source, before) in a run with `seed`."""
    return clip_seed(seed, _SOURCE, 0) if stream == "source" else seed


@dataclass(frozen=True, slots=True)
class Wants:
    """What a clip must carry, by offset. What is not wanted is never read, estimated or drawn; see `Clip`.

    Attributes:
        frames: oldest first, the current one (0) among them. Beyond the beginning or end of a video its first or last
            frame comes again, with flow 0; recorded sets refuse that.
        augmented: made by the data module, not by readers.
    """

    frames: tuple[int, ...] = (-1, 0)
    flows: tuple[Pair, ...] = ()
    labels: tuple[int, ...] = ()
    visible: tuple[int, ...] = ()
    augmented: bool = False

    def offsets(self) -> list[int]:
        """Of all frames that are read for them, rising."""
        seen = {offset - back for offset in self.visible for back in (0, 1)}
        return sorted({*self.frames, *(offset for pair in self.flows for offset in pair), *seen})


class ClipReader(ABC):
    """Random access to the clips of one split of one data set, by index (0 ≤ index < len) and offset.

    Any method raises `DataError` for what is missing or torn.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of clips."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What is read, as the name of a file: two readers of one name yield the same frames and labels."""

    @abstractmethod
    def key(self, index: int) -> str:
        """The stable name of a clip."""

    @abstractmethod
    def frame(self, index: int, offset: int = 0) -> Frame:
        """A frame uint8 `[H,W,3]` RGB, not to be written to."""

    @abstractmethod
    def flow(self, index: int, of: int = 0, to: int = -1) -> Tensor:
        """Flow float32 `[2,H,W]` from frame `of` to frame `to`, pixels, on the grid of `of`."""

    @abstractmethod
    def label(self, index: int, offset: int = 0) -> Tensor:
        """Label int64 `[H,W]` of train ids; no other file is opened."""

    def visible(self, index: int, offset: int = 0) -> Tensor | None:
        """Bool `[H,W]`: which pixels show a point that the frame before shows too; `None` where that is not known."""
        return None

    def require(self, wants: Wants) -> None:
        """Look for what all clips need, now and not hours into a run; raises `DataError` for what is missing."""
        for offset in wants.labels if len(self) else ():
            self.label(0, offset)

    def read(self, index: int, wants: Wants, augment: Callable[[Frame], Frame] | None = None) -> Clip:
        """All that is wanted of a clip; `augment` makes the augmented frames uint8 `[2,H,W,3]` of those at -1 and 0."""
        images = {offset: self.frame(index, offset) for offset in wants.frames}
        visible = {offset: self.visible(index, offset) for offset in wants.visible}
        view = None if augment is None else augment(np.ascontiguousarray(np.stack([images[-1], images[0]])))
        return Clip(
            stack_frames(list(images.values())),
            {(of, to): self.flow(index, of, to) for of, to in wants.flows},
            {offset: self.label(index, offset) for offset in wants.labels},
            {offset: mask for offset, mask in visible.items() if mask is not None},
            None if view is None else stack_frames(list(view)),
            wants.frames,
            self.key(index),
        )
