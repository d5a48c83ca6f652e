"""The one reader that serves the clips of recorded data sets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data import flow as optical_flow
from stpl.data.clip import Clip, Wants, stack_frames
from stpl.data.label_space import LabelSpace
from stpl.data.sequence_set import ClipFiles, LabelSize, SequenceSet
from stpl.errors import ConfigError, DataError

FLOW_SUFFIXES = (".npy", ".flo", ".png")
"""Formats of flow files, in the order they are looked for."""
_ASPECT_TOLERANCE = 0.02  # the lineage's SYNTHIA files are 341×683 for 640×1280: sides are rounded to whole pixels


class SequenceClips:
    """The clips (previous frame, current frame) of one split; a `ClipReader`.

    Args:
        files: from `open_set`.
        space: classes to map the label ids to.
        flow: a `FlowCache`; or a folder of flow files under the lineage's names, which are resized to the frames; or
            `None` to estimate at every read.
        label_size: `native` keeps the label as stored (evaluation), `input` resizes it like the frames (training).

    Raises:
        ConfigError: an option is out of range, or `space` has no id map for this data set.
        DataError: a flow file is missing.
    """

    def __init__(
        self,
        files: SequenceSet,
        space: LabelSpace,
        *,
        flow: optical_flow.FlowCache | Path | None = None,
        label_size: LabelSize = "native",
    ) -> None:
        if label_size not in ("native", "input"):
            where = f"data set {files.name}"
            raise ConfigError(f"label_size '{label_size}' is unknown", where=where, mend="choose 'native' or 'input'")
        self.files, self._label_size, self._table = files, label_size, files.data_set.table(space)
        self._space, self._flow_source = space, flow
        self._flow = flow_files(files, flow) if isinstance(flow, Path) else flow
        self._neighbours: dict[tuple[int, int], SequenceClips] = {}

    def __len__(self) -> int:
        return len(self.files.clips)

    def read(self, index: int, wants: Wants) -> Clip:
        """The clip at `index`; see `ClipReader.read`. Without `wants.label` no label file is opened.

        Raises:
            DataError: a file is missing or torn, or a label holds an id that the data set does not know.
        """
        frames = [self.files.read_frame(path) for path in self.files.clips[index].frames]
        return Clip(
            frames=stack_frames(frames),
            flow=self.flow(index, *frames) if wants.flow else None,
            label=self.label(index) if wants.label else None,
            key=self.files.clips[index].key,
        )

    def neighbours(self, by: int, previous: int = 1) -> SequenceClips:
        """See `ClipReader.neighbours`. Flow to a later frame, of which there are no files, is estimated."""
        if (by, previous) not in self._neighbours:
            flow = self._flow_source
            if previous < 0 and isinstance(flow, Path):
                flow = optical_flow.FlowCache(self.files.folder / "flow_dis")
            self._neighbours[by, previous] = SequenceClips(
                self.files.neighbours(by, previous), self._space, flow=flow, label_size=self._label_size
            )
        return self._neighbours[by, previous]

    def flow(self, index: int, earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> Tensor:
        """Backward flow float32 `[1,2,H,W]` of the clip at `index`, whose frames are uint8 `[H,W,3]`."""
        if isinstance(self._flow, list):
            flow = read_scaled(self._flow[index], self.files.size)
        elif self._flow is None:
            flow = optical_flow.estimate(later, earlier)
        else:
            flow = self._flow.get(self._flow_key(index), later, earlier)
        return torch.from_numpy(flow).unsqueeze(0)

    def label(self, index: int, before: int = 0) -> Tensor:
        """Label int64 `[H,W]` of train ids of the clip at `index`; see `ClipReader.label`."""
        clip = self.files.clips[index]
        if before:
            path = self.files.label_path(index, -before)
            if path is None:
                where = self.files.labels.missing(clip.current.before(before))
                mend = "unpack the labels of all frames, or take a method that needs those of the current ones alone"
                raise DataError("there is no label of this frame", where=where, mend=mend)
            label = self.files.read_label(path, self._table, self._label_size)
            return torch.from_numpy(label.astype(np.int64))
        if clip.label is None:
            mend = "unpack the labels of this split, or take a method that needs none"
            raise DataError("there is no label of this frame", where=clip.frames[-1], mend=mend)
        label = self.files.read_label(clip.label, self._table, self._label_size)
        return torch.from_numpy(label.astype(np.int64))

    @property
    def name(self) -> str:
        """The set, split, size and classes, and a hash of which frames they are of."""
        keys = hashlib.blake2b("\n".join(clip.key for clip in self.files.clips).encode(), digest_size=6).hexdigest()
        height, width = self.files.size
        return f"{self.files.name}-{self.files.split}-{self._space.name}-{self._label_size}-{height}x{width}-{keys}"

    def _flow_key(self, index: int) -> str:
        files, (height, width) = self.files, self.files.size
        return f"{files.name}/{files.split}/{files.clips[index].key}_{files.previous}_{height}x{width}"


def find_flow(files: SequenceSet) -> Path:
    """The first of `files.flow_folders()` that is there; raises `DataError` that says how to make one."""
    folders = files.flow_folders()
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError("there is no folder of flow files", where=folders[0], mend=_make_flow(files))
    return found


def flow_files(files: SequenceSet, folder: Path) -> list[Path]:
    """The flow file of every clip, in `folder`, under the lineage's names; .npy wins over .flo and .png.

    Raises:
        DataError: a file is missing; says how to make it.
    """
    there = {path.name for path in folder.glob("*")}
    found = [_flow_file(there, folder, clip) for clip in files.clips]
    missing = [folder / clip.flow_name for clip, path in zip(files.clips, found, strict=True) if path is None]
    if missing:
        count = f"{len(missing)} of {len(found)} are missing"
        raise DataError(f"there is no such flow file ({count})", where=missing[0], mend=_make_flow(files))
    return [path for path in found if path is not None]


def _make_flow(files: SequenceSet) -> str:
    root, split = files.folder.parent, files.split
    return f"make it: stpl data flow {files.name} --root={root} --split={split}; or let a run estimate the flow"


def _flow_file(there: set[str], folder: Path, clip: ClipFiles) -> Path | None:
    names = (f"{clip.flow_name.removesuffix('.npy')}{suffix}" for suffix in FLOW_SUFFIXES)
    return next((folder / name for name in names if name in there), None)


def read_scaled(path: Path, size: tuple[int, int]) -> optical_flow.Flow:
    """The flow of a file at `size` = (height, width), its vectors scaled along.

    Raises:
        DataError: the file is missing or torn, or its height and width are in another ratio than those of `size`, so
            that it was made for frames of another shape.
    """
    flow = optical_flow.read(path)
    height, width = flow.shape[1:]
    if abs(height * size[1] / (width * size[0]) - 1) > _ASPECT_TOLERANCE:
        raise DataError(
            f"the flow is {height}×{width}, frames are {size[0]}×{size[1]}: another ratio of height to width",
            where=path,
            mend="give the flow of these frames, at any scale",
        )
    return optical_flow.resize(flow, size)
