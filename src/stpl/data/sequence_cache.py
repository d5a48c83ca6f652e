"""`stpl data cache`: frames and estimated flow at training size, memory-mapped, so that training decodes no image.

    ROOT/Viper/cache_720x1280/train/   frames/frames.npy flow_dis/flow.npy: see `stpl.rows`

A frame is decoded and resized once, even though it is current in one clip and previous in another; frames and flow
further from the current frame come into arrays of their own when a method wants them. Labels are never
kept here: a source-free method reads this folder and must not be able to see one.

Frames are uint8 and flow is float16 (half the size of float32, exact to 1/2048 of its value): the very numbers that
`SequenceClips` with a `FlowCache` yields, so a run gives the same result with and without the cache. Cityscapes at
512×1024 takes 3.1 MB of frames and 2.1 MB of flow a clip (train: 16 GB), VIPER at 720×1280 5.5 and 3.7 MB (123 GB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpl.data.clip import BACKWARD, Frame, Pair
from stpl.data.flow.estimators import estimator_class, shared_estimator
from stpl.data.flow.flow_formats import Flow
from stpl.data.parallel import each
from stpl.data.sequence_set import SequenceSet
from stpl.errors import DataError, note
from stpl.files import locked, writing
from stpl.rows import Rows

_VERSION = 2
_TYPES = {"frames": ("uint8", 3), "flow": ("float16", 2)}  # and channels of a row
_THEN = "call again: it goes on where it stopped; or set data.cache=false"
_BASE = (-1, 0)  # offsets of the frames that share an array


def cache_folder(files: SequenceSet) -> Path:
    """Where a split is kept."""
    return files.folder / f"cache_{files.size[0]}x{files.size[1]}" / files.split


class SequenceCache:
    """The kept arrays of one split, from `open_cache`; what is not there is made when it is first asked for."""

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
        suffix = "" if offsets == _BASE else "_" + "_".join(map(str, offsets))
        names = list(map(self._name, paths))
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
        return path.relative_to(self.files.folder).as_posix()

    def _kept(self, array: str, suffix: str, sources: Sequence[str], make: Callable[[int], NDArray[Any]]) -> Rows:
        """An array, made by one process if it is absent; a whole one may lie on a read-only disk.

        Args:
            array: a key of `_TYPES`.
            suffix: what distinguishes it from other arrays of that type.
            sources: the files that each row comes from; an array made from others is refused.
            make: makes a row; called in several threads at once.
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
                    for _ in each(write, rows.begin(), workers=self._workers, title=title):
                        pass
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
