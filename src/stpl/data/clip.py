"""The one object that every data set yields and every method takes.

Shape legend: B clips in a batch, T frames in a clip, H×W pixels. The current frame t is always the last one.
"""

from __future__ import annotations

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
        key: the clip's stable name.
    """

    frames: Tensor
    flow: Tensor | None = None
    label: Tensor | None = None
    augmented: Tensor | None = None
    visible: Tensor | None = None
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
