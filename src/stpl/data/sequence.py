"""The one reader that serves the clips of recorded data sets, and the arrays that `stpl data cache` keeps of them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data.clip import BACKWARD, ClipReader, Frame, Pair, Wants
from stpl.data.flow.estimators import estimator_class, shared_estimator
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.flow.flow_formats import SUFFIXES, Flow, read, sides
from stpl.data.flow.vectors import resize
from stpl.data.image import Recent
from stpl.data.label_space import LabelSpace
from stpl.data.parallel import each
from stpl.data.sequence_set import LabelSize, SequenceSet
from stpl.errors import ConfigError, DataError, note
from stpl.files import locked, writing
from stpl.rows import Rows

_ASPECT_TOLERANCE = 0.02  # the lineage's SYNTHIA files are 341×683 for 640×1280: sides are rounded to whole pixels
_MEMORY = 2**25  # bytes of decoded frames that are kept: flow is estimated from those that were just read
_VERSION = 2
_TYPES = {"frames": ("uint8", 3), "flow": ("float16", 2)}  # and channels of a row
_THEN = "call again: it goes on where it stopped; or set data.cache=false"
_BASE = (-1, 0)  # offsets of the frames that share an array


def cache_folder(files: SequenceSet) -> Path:
    """Where a split is kept."""
    return files.folder / f"cache_{files.size[0]}x{files.size[1]}" / files.split


class SequenceCache:
    """Frames and estimated flow at training size, memory-mapped, from `open_cache`; what lacks is made when asked for.

        ROOT/Viper/cache_720x1280/train/   frames/frames.npy flow_dis/flow.npy: see `stpl.rows`

    A frame is decoded and resized once, even though it is current in one clip and previous in another; frames and flow
    further from the current frame come into arrays of their own when a method wants them. Labels are never kept here:
    a source-free method reads this folder and must not be able to see one.

    Frames are uint8 and flow is float16 (half the size of float32, exact to 1/2048 of its value): the very numbers that
    a `FlowCache` yields, so a run gives the same result with and without this one. Cityscapes at 512×1024 takes 3.1 MB
    of frames and 2.1 MB of flow a clip (train: 16 GB), VIPER at 720×1280 5.5 and 3.7 MB (123 GB).
    """

    def __init__(self, files: SequenceSet, estimator: str | None, workers: int) -> None:
        self.files, self.estimator, self._workers = files, estimator, workers
        self._rows: dict[Path, tuple[Rows, int]] = {}
        self._flows: dict[Pair, Rows] = {}

    def frame(self, index: int, offset: int = 0) -> Frame:
        """A frame uint8 `[H,W,3]` RGB."""
        path = self.files.frame_path(index, offset)
        if path not in self._rows:
            self._keep_frames((offset,))
        rows, row = self._rows[path]
        frame: Frame = rows.row("frames", row).transpose(1, 2, 0)
        return frame

    def flow(self, index: int, of: int = 0, to: int = -1) -> Flow:
        """Flow float32 `[2,H,W]` from one frame to another, by the estimator."""
        self.require((), [(of, to)])
        return self._flows[of, to].row("flow", index).astype(np.float32)

    def require(self, offsets: Iterable[int], pairs: Iterable[Pair] = ()) -> None:
        """Have what lacks of the frames at some offsets and the flow of some pairs."""
        for offset in offsets:
            if not self._paths((offset,)).keys() <= self._rows.keys():
                self._keep_frames(_BASE if offset in _BASE else (offset,))
        for pair in pairs:
            if self.estimator is not None and pair not in self._flows:
                self._keep_flow(pair, self.estimator)

    def _paths(self, offsets: tuple[int, ...]) -> dict[Path, None]:
        """The files of frames at some offsets of all clips, in order, each once."""
        return dict.fromkeys(self.files.frame_path(index, at) for index in range(len(self.files)) for at in offsets)

    def _keep_frames(self, offsets: tuple[int, ...]) -> None:
        """Have the frames at some offsets of all clips, but for those that others share an array with."""
        elsewhere = set() if offsets == _BASE else self._paths(_BASE).keys()  # whatever else was kept before this call
        paths = [path for path in self._paths(offsets) if path not in elsewhere]
        suffix, names = "" if offsets == _BASE else f"_{offsets[0]}", list(map(self._name, paths))
        rows = self._kept("frames", suffix, names, lambda row: self.files.read_frame(paths[row]).transpose(2, 0, 1))
        self._rows |= {path: (rows, row) for row, path in enumerate(paths)}

    def _keep_flow(self, pair: Pair, estimator: str) -> None:
        """Have the flow of a pair of offsets in all clips, from the frames that are kept."""
        self.require(pair)

        def flow_of(index: int) -> NDArray[np.float16]:
            of, to = (np.ascontiguousarray(self.frame(index, offset)) for offset in pair)
            return shared_estimator(estimator)([(of, to)])[0].astype(np.float16)

        ends = [[self.files.frame_path(index, offset) for offset in sorted(pair)] for index in range(len(self.files))]
        names = [" ".join(map(self._name, paths)) for paths in ends]
        suffix = f"_{estimator_class(estimator).name}" + ("" if pair == BACKWARD else f"_{pair[0]}_{pair[1]}")
        self._flows[pair] = self._kept("flow", suffix, names, flow_of)

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.files.folder)).as_posix()  # frames may be another data set's

    def _kept(self, array: str, suffix: str, sources: Sequence[str], make: Callable[[int], NDArray[Any]]) -> Rows:
        """An array, made by one process if it is absent; a whole one may lie on a read-only disk.

        Its `sources` are the files that each row comes from; an array made from others is refused.
        """
        folder, (dtype, channels) = cache_folder(self.files), _TYPES[array]
        about = {"version": _VERSION, "sources": hashlib.sha256("\n".join(sources).encode()).hexdigest()}
        kept = folder / f"{array}{suffix}"
        rows = Rows(kept, {array: (dtype, (channels, *self.files.size))}, len(sources), about)

        def write(row: int) -> None:
            rows.write(row, {array: make(row)})

        if not rows.finished:
            on_busy = partial(note, f"another process makes the cache {folder}: waiting")
            lock = locked(folder / ".lock", on_busy, kind=DataError, then=_THEN)
            title = f"{self.files.name} {self.files.split}: keeping {kept.name}"
            with writing(folder, kind=DataError, then=_THEN), lock:
                if not rows.finished:  # another process may have made it while this one waited
                    each(write, rows.begin(), workers=self._workers, title=title)
                    rows.finish()
        rows.check()
        return rows


def open_cache(files: SequenceSet, estimator: str | None = "dis", workers: int = 0) -> SequenceCache:
    """Open the cache of a split with the frames -1 and 0 and the backward flow; what is not there is made first.

    Args:
        files: the split, at its training size.
        estimator: of the flow; `None` keeps none.
        workers: threads that make it; 0 for one a core.

    Raises:
        DataError: the cache is torn or was made for other frames, the disk is full, or a frame cannot be read.
    """
    cache = SequenceCache(files, estimator, workers)
    cache.require(_BASE, [BACKWARD])
    return cache


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
        DataError: the file is missing or torn, or made for frames of another shape.
    """
    flow = read(path)
    height, width = flow.shape[1:]
    if abs(height * size[1] / (width * size[0]) - 1) > _ASPECT_TOLERANCE:
        what = f"the flow is {sides((height, width))}, frames are {sides(size)}: another ratio of height to width"
        raise DataError(what, where=path, mend="give the flow of these frames, at any scale")
    return resize(flow, size)
