"""The one object that every data set yields, and the batch of it that every method takes.

Shape legend: B clips in a batch, T frames in a clip, H×W pixels. The current frame t is always the last one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data.label_space import IGNORE as IGNORE  # part of this contract; it stands where torch is not needed
from stpl.errors import DataError


@dataclass(frozen=True, slots=True)
class Clip:
    """A short video clip with what is known about its current frame.

    Batched clips (see `collate`) carry a leading B axis on every tensor and `key` is a tuple of B names.

    Attributes:
        frames: uint8 `[T,3,H,W]`, RGB, oldest first, so `frames[-1]` is the current frame t.
        flow: float32 `[T-1,2,H,W]` in pixels, backward flow on the grid of the later frame: pixel (x, y) of frame
            i+1 lies at (x+dx, y+dy) in frame i; channel 0 is dx, channel 1 is dy. `None` if not asked for.
        label: int64 `[H,W]` train ids of the current frame, 255 = ignore. `None` for unlabelled clips.
        augmented: uint8 `[2,3,H,W]`, the last two frames after the cross-frame augmentation (photometric: pixels stay
            where they are, so `flow` serves both). `None` if not asked for.
        previous_label: int64 `[H,W]` train ids of frame t-1, likewise.
        following: uint8 `[3,H,W]`, frame t+1. `None` if not asked for.
        following_flow: float32 `[2,H,W]` on the grid of the current frame: pixel (x, y) of frame t lies at (x+dx, y+dy)
            in frame t+1.
        visible: bool `[T-1,H,W]`, which pixels of frame i+1 show a point that frame i shows too. `None` if not asked
            for, or not known: only a renderer knows it.
        pseudo_label: int64 `[h,w]` train ids that a network gave the current frame, 255 = none, on its logits' grid; a
            method puts them here (`Method.prepare`), no reader does.
        doubt: float32 `[h,w]`, one minus the probability that the network gave them; where there is none, its likeliest
            class.
        key: the clip's stable name.
    """

    frames: Tensor
    flow: Tensor | None = None
    label: Tensor | None = None
    augmented: Tensor | None = None
    previous_label: Tensor | None = None
    following: Tensor | None = None
    following_flow: Tensor | None = None
    visible: Tensor | None = None
    pseudo_label: Tensor | None = None
    doubt: Tensor | None = None
    key: str | tuple[str, ...] = ""

    def to(self, device: torch.device | str) -> Clip:
        """The same clip with all tensors on `device`; what lies in page-locked memory is copied while the host goes on.

        Lightning calls this to move a batch, and says `non_blocking` to tensors only.
        """
        return self.map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Clip:
        """The same clip in page-locked memory (the DataLoader calls this when `pin_memory=True`)."""
        return self.map(Tensor.pin_memory)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, but for the key."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def map(self, function: Callable[[Tensor], Tensor]) -> Clip:
        """The same clip with `function` applied to all tensors."""
        return replace(self, **{name: function(value) for name, value in self.tensors().items()})  # type: ignore[arg-type]


def stack_frames(frames: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Frames uint8 `[H,W,3]`, oldest first, as the tensor uint8 `[T,3,H,W]` of a `Clip`."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2)))


def collate(clips: Sequence[Clip]) -> Clip:
    """Stack clips along a new leading axis B; a field is `None` in the batch if it is `None` in the first clip.

    Raises:
        DataError: the clips differ in size, as labels may that are evaluated as they are stored.
    """
    names = clips[0].tensors()
    for name, tensor in names.items():
        odd = next((clip for clip in clips if getattr(clip, name).shape != tensor.shape), None)
        if odd is not None:
            raise DataError(
                f"{name} {list(getattr(odd, name).shape)} of {odd.key} and {list(tensor.shape)} of {clips[0].key} "
                "make no batch",
                where="data.loading",
                mend="bring the files to one size, or set eval_batch_size to 1",
            )
    stacked = {name: torch.stack([getattr(clip, name) for clip in clips]) for name in names}
    return Clip(**stacked, key=tuple(str(clip.key) for clip in clips))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a training step gets.

    Attributes:
        target: clips of the domain that the run trains and evaluates on.
        source: clips of the source domain, for methods that want any (`Method.source_wants`); they may differ from the
            others in number and size.
        before: the target's clips of the step before, for methods that want any (`Method.before_wants`).
    """

    target: Clip
    source: Clip | None = None
    before: Clip | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; see `Clip.to`."""
        return Batch(**{name: clip.to(device) for name, clip in self.clips().items()})

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self.map(Tensor.pin_memory)

    def clips(self) -> dict[str, Clip]:
        """The clips that are there, by name."""
        found = {"target": self.target, "source": self.source, "before": self.before}
        return {name: clip for name, clip in found.items() if clip is not None}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, as `target.frames`."""
        return {f"{of}.{name}": value for of, clip in self.clips().items() for name, value in clip.tensors().items()}

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `function` applied to all tensors."""
        return Batch(**{name: clip.map(function) for name, clip in self.clips().items()})


def collate_streams(items: Sequence[tuple[str, Clip]]) -> Batch:
    """Clips, each with the name of the domain it is of, as a batch; raises `DataError` as `collate` does."""
    names = dict.fromkeys(name for name, _ in items)
    return Batch(**{name: collate([clip for of, clip in items if of == name]) for name in names})


def clip_seed(seed: int, step: int, position: int) -> int:
    """The seed of one random decision: the project's only way to derive seeds.

    A hash (BLAKE2b) of the three numbers: the same on every machine and in every version of NumPy, and unrelated for
    neighbouring steps or positions, which sums such as `seed + step` are not.

    Args:
        seed: the run's seed.
        step: training step (or any other counter), 64-bit.
        position: place within the step, for example the clip's place in the batch.

    Returns:
        An integer in [0, 2**63), which `numpy.random.default_rng`, `random.Random` and `torch.manual_seed` all take.
    """
    digest = hashlib.blake2b(struct.pack("<3q", seed, step, position), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True, slots=True)
class Wants:
    """What a clip must carry besides its frames. A field that is not wanted is never read, estimated or drawn.

    Attributes:
        frames: how many frames, the current one and those just before it; at least 2. Before the beginning of a video
            its first frame comes again, with flow 0; recorded sets refuse that.
        flow: backward flow between consecutive frames.
        label: the label of the current frame.
        previous_label: the label of the frame before it.
        following: the frame after the current one, and the flow to it. At the end of a video it is the current one.
        augmented: the frames after cross-frame augmentation (made by the data module, not by readers).
        visible: which pixels the frame before shows too, where the data set knows it.
    """

    frames: int = 2
    flow: bool = False
    label: bool = False
    previous_label: bool = False
    following: bool = False
    augmented: bool = False
    visible: bool = False


class ClipReader(Protocol):
    """Random access to the clips of one split of one data set."""

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def read(self, index: int, wants: Wants) -> Clip:
        """The two frames of the clip at `index` (0 ≤ index < len) with the flow, label and visibility that are wanted.

        What more is wanted, `read_clip` asks of the neighbours. Raises `DataError`.
        """
        ...

    def neighbours(self, by: int, previous: int = 1) -> ClipReader:
        """A reader of as many clips, whose current frame is the one `by` frames before this reader's.

        Args:
            by: 0 or more.
            previous: distance of each clip's other frame: 1 for the one before, -1 for the one after it.

        Raises:
            DataError: a frame of a recorded set is missing.
        """
        ...

    def label(self, index: int, before: int = 0) -> Tensor:
        """The label int64 `[H,W]` of the clip at `index` alone; raises `DataError` if it has none.

        Args:
            index: of the clip.
            before: how many frames before the current one the labelled frame is.
        """
        ...

    @property
    def name(self) -> str:
        """What is read, as the name of a file: two readers of one name yield the same frames and labels."""
        ...


def read_clip(reader: ClipReader, index: int, wants: Wants) -> Clip:
    """All that `wants` names of the clip at `index`, but for augmented frames; raises `DataError`."""
    clip = reader.read(index, wants)
    for by in range(1, wants.frames - 1):
        earlier = reader.neighbours(by).read(index, Wants(flow=wants.flow))
        frames = torch.cat([earlier.frames[:1], clip.frames])
        flow = None if clip.flow is None or earlier.flow is None else torch.cat([earlier.flow, clip.flow])
        clip = replace(clip, frames=frames, flow=flow)
    if wants.previous_label:
        clip = replace(clip, previous_label=reader.label(index, 1))
    if wants.following:
        after = reader.neighbours(0, previous=-1).read(index, Wants(flow=True))
        assert after.flow is not None  # wanted
        clip = replace(clip, following=after.frames[0], following_flow=after.flow[0])
    return clip


def require(reader: ClipReader, wants: Wants) -> None:
    """Look for all frames that `wants` needs, now and not hours into a run; raises `DataError` for one missing."""
    for by in range(1, wants.frames - 1):
        reader.neighbours(by).read(0, Wants(flow=wants.flow))
    if wants.previous_label:
        reader.label(0, 1)
    if wants.following:
        reader.neighbours(0, previous=-1).read(0, Wants(flow=True))
