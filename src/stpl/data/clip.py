"""The one object that every data set yields, and the batch of it that every method takes.

Shape legend: B clips in a batch, T frames in a clip, H×W pixels. The current frame t is always the last one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
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
        augmented: uint8 `[T,3,H,W]`, `frames` after the cross-frame augmentation (photometric: pixels stay where they
            are, so `flow` serves both). `None` if not asked for.
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
    """

    target: Clip
    source: Clip | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; see `Clip.to`."""
        return Batch(self.target.to(device), None if self.source is None else self.source.to(device))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self.map(Tensor.pin_memory)

    def clips(self) -> dict[str, Clip]:
        """The clips that are there, by name."""
        return {"target": self.target} | ({} if self.source is None else {"source": self.source})

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
        flow: backward flow between consecutive frames.
        label: the label of the current frame.
        augmented: the frames after cross-frame augmentation (made by the data module, not by readers).
        visible: which pixels the frame before shows too, where the data set knows it.
    """

    flow: bool = False
    label: bool = False
    augmented: bool = False
    visible: bool = False


class ClipReader(Protocol):
    """Random access to the clips of one split of one data set."""

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def read(self, index: int, wants: Wants) -> Clip:
        """The clip at `index` (0 ≤ index < len), with the fields that `wants` names; raises `DataError`."""
        ...

    def label(self, index: int) -> Tensor:
        """The label int64 `[H,W]` of the clip at `index` alone; raises `DataError` if it has none."""
        ...

    @property
    def name(self) -> str:
        """What is read, as the name of a file: two readers of one name yield the same frames and labels."""
        ...
