"""Serves drawn drives as clips."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from stpl.data.clip import Clip, ClipReader, Wants
from stpl.data.flow import FlowCache
from stpl.data.label_space import VIPER_15, check_train_ids
from stpl.data.streets.cache import StreetsSplit
from stpl.errors import ConfigError, DataError


class StreetsClips:
    """The clips (frame i - previous, frame i) of every drive of a split; a `ClipReader`.

    Arrays are memory-mapped when a clip first needs them, in the process that needs them: a reader whose labels are
    never wanted never opens the label file.

    Args:
        split: from `open_split`.
        previous: distance of the two frames, ≥ 1. Exact flow exists for 1 only.
        flow: "exact" (the renderer's) or "estimated" (from the frames as the network sees them; kept in the folder
            `flow-estimated-…` inside the split's own).
    """

    def __init__(
        self, split: StreetsSplit, *, previous: int = 1, flow: Literal["exact", "estimated"] = "exact"
    ) -> None:
        if not 1 <= previous < split.shape[1]:
            mend = f"choose 1 to {split.shape[1] - 1}"
            raise ConfigError(f"streets: previous is {previous}, a drive has {split.shape[1]} frames", mend=mend)
        self.split, self.previous, self.flow = split, previous, flow

    def __len__(self) -> int:
        """Number of clips: drives × (frames - previous)."""
        return self.split.shape[0] * (self.split.shape[1] - self.previous)

    def place(self, index: int) -> tuple[int, int]:
        """Drive and current frame of clip `index`."""
        if not 0 <= index < len(self):
            raise DataError(f"there is no clip {index}", where=self.split.folder, mend=f"choose 0 to {len(self) - 1}")
        drive, step = divmod(index, self.split.shape[1] - self.previous)
        return drive, step + self.previous

    def read(self, index: int, wants: Wants) -> Clip:
        """The clip at `index`: two frames, the flow `[1,2,H,W]`, the label `[H,W]` and visibility `[1,H,W]` if wanted.

        Raises:
            DataError: no such clip, torn file, a label outside the label space, or exact flow wanted with
                `previous` > 1.
        """
        return self._read(index, wants, 0, self.previous)

    def _read(self, index: int, wants: Wants, by: int, previous: int) -> Clip:
        """The frame `by` frames before the current one of a clip, after the one `previous` frames before that."""
        drive, current = self.place(index)
        frame, other = (self._inside(place) for place in (current - by, current - by - previous))
        pair = np.stack([self.split.entry("frames", drive, place) for place in (other, frame)])
        flow = self._flow(pair, drive, frame, frame - other, previous) if wants.flow else None
        label = self._label(drive, frame) if wants.label else None
        shown = wants.visible and previous == 1 and frame > 0
        visible = torch.from_numpy(self.split.entry("visible", drive, frame)[None]) if shown else None
        return Clip(torch.from_numpy(pair), flow=flow, label=label, visible=visible, key=self._key(drive, frame))

    def _inside(self, frame: int) -> int:
        return min(max(frame, 0), self.split.shape[1] - 1)

    def neighbours(self, by: int, previous: int = 1) -> ClipReader:
        """See `ClipReader.neighbours`."""
        return _Neighbours(self, by, previous)

    def _key(self, drive: int, frame: int) -> str:
        return f"{self.split.name}/{drive:04d}/{frame:02d}"

    def visible(self, index: int) -> NDArray[np.bool_]:
        """Bool `[H,W]`: which points of the current frame of clip `index` were visible in the frame before it."""
        drive, frame = self.place(index)
        return self.split.entry("visible", drive, frame)

    def label(self, index: int, before: int = 0) -> torch.Tensor:
        """Label int64 `[H,W]` of train ids of the clip at `index`; see `ClipReader.label`."""
        drive, frame = self.place(index)
        return self._label(drive, self._inside(frame - before))

    @property
    def name(self) -> str:
        """The drawn split, which its folder is named after."""
        return f"{self.split.folder.name}-{self.previous}"

    def _label(self, drive: int, frame: int) -> torch.Tensor:
        label = self.split.entry("labels", drive, frame)
        check_train_ids(label, VIPER_15, f"{self.split.folder / 'labels.npy'}")
        return torch.from_numpy(label.astype(np.int64))

    def _flow(self, pair: NDArray[np.uint8], drive: int, frame: int, distance: int, previous: int) -> torch.Tensor:
        """Flow `[1,2,H,W]` of a pair whose other frame is `distance` before, for which `previous` was asked."""
        if distance == 0:  # at the end of a drive
            return torch.zeros(1, 2, *self.split.shape[2:])
        if self.flow == "exact" and distance == 1:
            return torch.from_numpy(self.split.entry("flow", drive, frame).astype(np.float32)[None])
        if self.flow == "exact" and previous > 1:
            mend = "use previous=1, or flow='estimated'"
            raise DataError(f"exact flow with previous={previous}", where=self.split.folder, mend=mend)
        earlier, later = (np.ascontiguousarray(image.transpose(1, 2, 0)) for image in pair)
        cache = FlowCache(self.split.folder / f"flow-estimated-{distance}")
        return torch.from_numpy(cache.get(self._key(drive, frame), later, earlier)[None])


class _Neighbours:
    """Clips of drives around those of another reader of them; see `ClipReader.neighbours`."""

    def __init__(self, clips: StreetsClips, by: int, previous: int) -> None:
        self.clips, self.by, self.previous = clips, by, previous

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, wants: Wants) -> Clip:
        """Two frames of a drive; its first or last one comes again beyond its ends."""
        return self.clips._read(index, wants, self.by, self.previous)

    def label(self, index: int, before: int = 0) -> torch.Tensor:
        """See `ClipReader.label`."""
        return self.clips.label(index, self.by + before)

    def neighbours(self, by: int, previous: int = 1) -> ClipReader:
        """Neighbours of these."""
        return _Neighbours(self.clips, self.by + by, previous)

    @property
    def name(self) -> str:
        """Of the reader, and which neighbours these are."""
        return f"{self.clips.name}-{self.by}-{self.previous}"
