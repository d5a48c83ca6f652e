"""The one reader that serves the clips of recorded data sets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, ClipReader, Frame, Pair, Wants
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.flow.flow_formats import SUFFIXES, Flow, read, sides
from stpl.data.flow.vectors import resize
from stpl.data.image import Recent
from stpl.data.label_space import LabelSpace
from stpl.data.sequence_cache import SequenceCache
from stpl.data.sequence_set import LabelSize, SequenceSet
from stpl.errors import ConfigError, DataError

_ASPECT_TOLERANCE = 0.02  # the lineage's SYNTHIA files are 341×683 for 640×1280: sides are rounded to whole pixels
_MEMORY = 2**25  # bytes of decoded frames that are kept: flow is estimated from those that were just read


class SequenceClips(ClipReader):
    """The clips of one split.

    Args:
        files: from `open_set`.
        space: classes to map the label ids to.
        flow: estimates flow.
        flow_folder: flow files under the lineage's names, which are resized to the frames; of flow to a later frame
            there are none, it is estimated.
        label_size: `native` keeps the label as stored (evaluation), `input` resizes it like the frames (training).
        cache: holds frames, and flow if it keeps any; of the same files.

    Raises:
        ConfigError: an option is out of range, or `space` has no id map for this data set.
        DataError: a file of the backward flow is missing.
    """

    def __init__(
        self,
        files: SequenceSet,
        space: LabelSpace,
        *,
        flow: FlowCache = FlowCache(),  # noqa: B008 (it does not change)
        flow_folder: Path | None = None,
        label_size: LabelSize = "native",
        cache: SequenceCache | None = None,
    ) -> None:
        if label_size not in ("native", "input"):
            where = f"data set {files.name}"
            raise ConfigError(f"label_size '{label_size}' is unknown", where=where, mend="choose 'native' or 'input'")
        self.files, self._label_size, self._table = files, label_size, files.data_set.table(space)
        self._space, self._cache, self._recent = space, cache, Recent[Path](_MEMORY)
        self._estimates, self._flow_folder = flow, flow_folder
        self._flow_paths: dict[Pair, list[Path]] = {}
        self._flow_files(BACKWARD)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def name(self) -> str:
        """The set, split, size and classes, and a hash of which frames they are of."""
        digest = hashlib.blake2b("\n".join(self.files.keys()).encode(), digest_size=6).hexdigest()
        height, width = self.files.size
        return f"{self.files.name}-{self.files.split}-{self._space.name}-{self._label_size}-{height}x{width}-{digest}"

    def key(self, index: int) -> str:
        """See `SequenceSet.key`."""
        return self.files.key(index)

    def frame(self, index: int, offset: int = 0) -> Frame:
        """See `ClipReader.frame`."""
        if self._cache is not None:
            return self._cache.frame(index, offset)
        path = self.files.frame_path(index, offset)
        return self._recent.get(path, lambda: self.files.read_frame(path))

    def flow(self, index: int, of: int = 0, to: int = -1) -> Tensor:
        """See `ClipReader.flow`."""
        paths, size = self._flow_files((of, to)), self.files.size
        if paths is not None:
            return torch.from_numpy(read_scaled(paths[index], size))
        if self._cache is not None and self._cache.estimator is not None:
            return torch.from_numpy(self._cache.flow(index, of, to))
        key = f"{self.files.name}/{self.files.split}/{self.key(index)}_{of}_{to}_{size[0]}x{size[1]}"
        found = self._estimates.find(key, size, lambda: (self.frame(index, of), self.frame(index, to)))
        return torch.from_numpy(found)

    def label(self, index: int, offset: int = 0) -> Tensor:
        """See `ClipReader.label`; raises `DataError` if an id is none of this data set."""
        path = self.files.label_path(index, offset)
        if path is None:
            where = self.files.frame_path(index, offset)
            mend = "unpack the labels of this split, or take a method that needs none"
            if offset:
                mend = "unpack the labels of all frames, or take a method that needs those of the current ones alone"
                where = self.files.labels.missing(self.files.current[index].before(-offset))
            raise DataError("there is no label of this frame", where=where, mend=mend)
        return torch.from_numpy(self._table[self.files.read_ids(path, self._label_size)].astype(np.int64))

    def require(self, wants: Wants) -> None:
        """Look for all frames, all files of flow and the first labels."""
        self.files.require(wants.offsets())
        for pair in wants.flows:
            self._flow_files(pair)
        if self._cache is not None:
            self._cache.require(wants.frames, wants.flows)
        super().require(wants)

    def _flow_files(self, pair: Pair) -> list[Path] | None:
        """The files of all clips' flow of a pair; `None` where it is estimated."""
        if self._flow_folder is None or pair[1] >= pair[0]:
            return None
        if pair not in self._flow_paths:
            self._flow_paths[pair] = _find_flow_files(self.files, self._flow_folder, pair)
        return self._flow_paths[pair]


def find_flow(files: SequenceSet) -> Path:
    """The first of `files.flow_folders()` that is there; raises `DataError` that says how to make one."""
    folders = files.flow_folders()
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError("there is no folder of flow files", where=folders[0], mend=_make_flow(files))
    return found


def _find_flow_files(files: SequenceSet, folder: Path, pair: Pair) -> list[Path]:
    """The flow file of every clip, under the lineage's names; .npy wins over .flo and .png. All are there."""
    there = set(folder.glob("*"))
    wanted = [folder / files.flow_name(index, *pair) for index in range(len(files))]
    found = [next((file for end in SUFFIXES if (file := path.with_suffix(end)) in there), None) for path in wanted]
    missing = [path for path, file in zip(wanted, found, strict=True) if file is None]
    if missing:
        count = f"{len(missing)} of {len(found)} are missing"
        raise DataError(f"there is no such flow file ({count})", where=missing[0], mend=_make_flow(files))
    return [file for file in found if file is not None]


def _make_flow(files: SequenceSet) -> str:
    root, split = files.folder.parent, files.split
    return f"make it: stpl data flow {files.name} --root={root} --split={split}; or let a run estimate the flow"


def read_scaled(path: Path, size: tuple[int, int]) -> Flow:
    """The flow of a file at `size` = (height, width), its vectors scaled along.

    Raises:
        DataError: the file is missing or torn, or its height and width are in another ratio than those of `size`, so
            that it was made for frames of another shape.
    """
    flow = read(path)
    height, width = flow.shape[1:]
    if abs(height * size[1] / (width * size[0]) - 1) > _ASPECT_TOLERANCE:
        what = f"the flow is {sides((height, width))}, frames are {sides(size)}: another ratio of height to width"
        raise DataError(what, where=path, mend="give the flow of these frames, at any scale")
    return resize(flow, size)
