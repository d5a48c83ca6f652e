"""Serves drawn drives as clips."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data.clip import ClipReader, Frame, Wants
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.label_space import VIPER_15, check_train_ids
from stpl.data.streets.cache import StreetsSplit
from stpl.errors import DataError


class StreetsClips(ClipReader):
    """The clips of every drive of a split, one a frame but the first, or a few of these.

    Beyond a drive's ends its first or last frame comes again. A reader whose labels are never wanted never opens the
    label file.

    Args:
        split: from `open_split`.
        flow: "exact" (the renderer's, of a frame to the one before) or "estimated" (from the frames as the network sees
            them; kept in the split's own folder).
        estimator: of the estimated flow.
        every: from a clip of a drive to the next, in frames.
    """

    def __init__(
        self,
        split: StreetsSplit,
        *,
        flow: Literal["exact", "estimated"] = "exact",
        estimator: str = "dis",
        every: int = 1,
    ) -> None:
        self.split, self.estimates = split, flow
        self.flows = FlowCache(split.folder, estimator)
        self._current = range(1, split.shape[1], every)

    def __len__(self) -> int:
        return self.split.shape[0] * len(self._current)

    @property
    def name(self) -> str:
        """The drawn split, which its folder is named after."""
        return self.split.folder.name

    def place(self, index: int, offset: int = 0) -> tuple[int, int]:
        """Drive, and number of the frame at an offset of clip `index`."""
        if not 0 <= index < len(self):
            raise DataError(f"there is no clip {index}", where=self.split.folder, mend=f"choose 0 to {len(self) - 1}")
        drive, place = divmod(index, len(self._current))
        return drive, min(max(self._current[place] + offset, 0), self.split.shape[1] - 1)

    def key(self, index: int) -> str:
        """The split, the drive and the frame."""
        drive, frame = self.place(index)
        return f"{self.split.name}/{drive:04d}/{frame:02d}"

    def frame(self, index: int, offset: int = 0) -> Frame:
        """See `ClipReader.frame`."""
        frame: Frame = self._entry("frames", index, offset).transpose(1, 2, 0)
        return frame

    def flow(self, index: int, of: int = 0, to: int = -1) -> Tensor:
        """See `ClipReader.flow`; exact flow leads to the frame before, and is estimated to a later one."""
        (drive, frame), (_, other) = self.place(index, of), self.place(index, to)
        if frame == other:
            return torch.zeros(2, *self.split.shape[2:])
        if self.estimates == "exact" and frame - other == 1:
            return torch.from_numpy(self._entry("flow", index, of).astype(np.float32))
        if self.estimates == "exact" and of - to > 1:
            mend = "follow the flow from frame to frame, or use flow='estimated'"
            raise DataError(f"exact flow over {of - to} frames", where=self.split.folder, mend=mend)
        key = f"{self.split.name}/{drive:04d}/{frame:02d}_{other:02d}"
        size = self.split.shape[2:]
        return torch.from_numpy(self.flows.find(key, size, lambda: (self.frame(index, of), self.frame(index, to))))

    def label(self, index: int, offset: int = 0) -> Tensor:
        """See `ClipReader.label`."""
        label = self._entry("labels", index, offset)
        check_train_ids(label, VIPER_15, f"{self.split.folder / 'labels.npy'}")
        return torch.from_numpy(label.astype(np.int64))

    def visible(self, index: int, offset: int = 0) -> Tensor | None:
        """See `ClipReader.visible`; of a drive's first frame nothing is known."""
        _, frame = self.place(index, offset)
        return torch.from_numpy(self._entry("visible", index, offset)) if frame else None

    def require(self, wants: Wants) -> None:
        """Raise `DataError` for exact flow that is not there."""
        super().require(wants)
        for of, to in wants.flows:
            self.flow(0, of, to)

    def _entry(self, kind: str, index: int, offset: int) -> NDArray[Any]:
        """A copy of what an array holds of one frame, compared with its checksum."""
        return self.split.entry(kind, *self.place(index, offset))
