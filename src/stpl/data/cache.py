"""`stpl data cache`: frames and estimated flow at training size, memory-mapped, so that training decodes no image.

    ROOT/Viper/cache_720x1280/train/   frames/ and flow/, folders of `Rows`

A frame is decoded and resized once, even though it is current in one clip and previous in another. Labels are never
kept here: a source-free method reads this folder and must not be able to see one.

Frames are uint8 and flow is float16 (half the size of float32, exact to 1/2048 of its value): the very numbers that
`SequenceClips` with a `FlowCache` yields, so a run gives the same result with and without the cache. Cityscapes at
512×1024 takes 3.1 MB of frames and 2.1 MB of flow a clip (train: 16 GB), VIPER at 720×1280 5.5 and 3.7 MB (123 GB).

Each is complete or absent (`stpl.rows`); a call that was stopped goes on, and checksums are compared at every reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stpl.data import flow as optical_flow
from stpl.data.clip import Clip, Wants
from stpl.data.parallel import each
from stpl.data.sequence import SequenceClips
from stpl.data.sequence_set import SequenceSet, open_set
from stpl.errors import DataError, note
from stpl.files import locked, writing
from stpl.rows import Rows

_VERSION = 2
_THEN = "call again: it goes on where it stopped; or set data.cache=false"
DTYPES = {"frames": "uint8", "flow": "float16"}
"""The kept arrays and what they are made of."""


def cache(
    dataset: str,
    root: Path = Path("data"),
    split: str = "train",
    size: tuple[int, int] | None = None,
    frame_list: Path | None = None,
    flow: bool = True,
    workers: int = 0,
) -> None:
    """Keep frames and estimated flow of one split at training size.

    A run with `data.init_args.cache: true` reads them (and makes what is missing). Call again to go on after a stop.

    Args:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders.
        split: one of the data set's splits, e.g. train or val.
        size: height and width; the data set's training size if not given.
        frame_list: text file that names the current frames, for a run that uses one.
        flow: keep estimated flow, too.
        workers: threads; 0 for one a core.
    """
    files = open_set(root, dataset, split, frame_list=frame_list, size=size)
    open_cache(files, flow=flow, workers=workers)
    print(f"{len(files.clips)} clips are kept in {cache_folder(files)}")


def cache_folder(files: SequenceSet) -> Path:
    """Where a split is kept."""
    part = "" if (files.shift, files.previous) == (0, 1) else f"_{files.shift}_{files.previous}"
    return files.folder / f"cache_{files.size[0]}x{files.size[1]}" / f"{files.split}{part}"


@dataclass(frozen=True)
class SequenceCache:
    """The kept arrays of one split.

    Attributes:
        frames: uint8 `[N,3,H,W]` RGB, every frame once.
        flow: float16 `[clips,2,H,W]` in pixels; `None` if it is not kept.
        rows: for each clip the rows of its frames, oldest first.
    """

    frames: Rows
    flow: Rows | None
    rows: tuple[tuple[int, ...], ...]


class CachedClips:
    """The clips of a `SequenceClips`, with frames and (where it is kept) flow from a cache; a `ClipReader`.

    Args:
        clips: what is read where the cache holds nothing: labels, and flow from files.
        cache: from `open_cache` for the same files; if not given, it is opened when the first frame is read.
        flow: whether flow is kept in it then.
    """

    def __init__(self, clips: SequenceClips, cache: SequenceCache | None = None, *, flow: bool = True) -> None:
        self.clips, self._cache, self._keeps_flow = clips, cache, flow
        self._neighbours: dict[tuple[int, int], CachedClips] = {}

    @property
    def cache(self) -> SequenceCache:
        """The cache, open."""
        if self._cache is None:
            self._cache = open_cache(self.clips.files, flow=self._keeps_flow)
        return self._cache

    def neighbours(self, by: int, previous: int = 1) -> CachedClips:
        """See `ClipReader.neighbours`; they have a cache of their own."""
        if (by, previous) not in self._neighbours:
            clips = self.clips.neighbours(by, previous)
            self._neighbours[by, previous] = CachedClips(clips, flow=self.cache.flow is not None)
        return self._neighbours[by, previous]

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, wants: Wants) -> Clip:
        """The clip at `index`; see `ClipReader.read`. Without `wants.label` no label file is opened.

        Raises:
            DataError: the cache is torn, or as `SequenceClips.read`.
        """
        frames = np.stack([self.cache.frames.row("frames", row) for row in self.cache.rows[index]])
        return Clip(
            frames=torch.from_numpy(frames),
            flow=self._flow(index, frames) if wants.flow else None,
            label=self.clips.label(index) if wants.label else None,
            key=self.clips.files.clips[index].key,
        )

    def label(self, index: int, before: int = 0) -> torch.Tensor:
        """Label int64 `[H,W]` of train ids of the clip at `index`; see `ClipReader.label`."""
        return self.clips.label(index, before)

    @property
    def name(self) -> str:
        """As that of the clips that are cached."""
        return self.clips.name

    def _flow(self, index: int, frames: NDArray[np.uint8]) -> torch.Tensor:
        if self.cache.flow is not None:
            return torch.from_numpy(self.cache.flow.row("flow", index).astype(np.float32)).unsqueeze(0)
        return self.clips.flow(index, *map(_channels_last, frames))


def open_cache(files: SequenceSet, *, flow: bool = True, workers: int = 0) -> SequenceCache:
    """Open the cache of a split; what is not there is made first.

    Args:
        files: the split, at its training size.
        flow: with estimated flow.
        workers: threads that make it; 0 for one a core.

    Raises:
        DataError: the cache is torn or was made for other frames, the disk is full, or a frame cannot be read.
    """
    paths = list(dict.fromkeys(path for clip in files.clips for path in clip.frames))
    place = {path: row for row, path in enumerate(paths)}
    rows = tuple(tuple(place[path] for path in clip.frames) for clip in files.clips)
    names = [path.relative_to(files.folder).as_posix() for path in paths]

    pairs = [" ".join(names[row] for row in clip) for clip in rows]
    frames, flows = _rows(files, "frames", 3, names), _rows(files, "flow", 2, pairs)

    def frame(row: int) -> NDArray[np.uint8]:
        """A frame `[3,H,W]` at training size."""
        return files.read_frame(paths[row]).transpose(2, 0, 1)

    def flow_of(clip: int) -> NDArray[np.float16]:
        """The backward flow `[2,H,W]` of a clip, pixels, from the frames that are kept already."""
        earlier, later = (_channels_last(frames.row("frames", row)) for row in rows[clip])
        return optical_flow.estimate(later, earlier).astype(np.float16)

    parts: list[tuple[Rows, Callable[[int], NDArray[Any]]]] = [(frames, frame)]
    if flow:
        parts.append((flows, flow_of))
    if not all(part.finished for part, _ in parts):  # whole ones may lie on a read-only disk
        folder = cache_folder(files)
        on_busy = partial(note, f"another process makes the cache {folder}: waiting")
        lock = locked(folder / ".lock", on_busy, kind=DataError, then=_THEN)
        with writing(folder, kind=DataError, then=_THEN), lock:
            for part, make in parts:
                _complete(part, make, workers, f"{files.name} {files.split}: keeping {part.folder.name}")
    for part, _ in parts:
        part.check()
    return SequenceCache(frames, flows if flow else None, rows)


def _rows(files: SequenceSet, kind: str, channels: int, sources: Sequence[str]) -> Rows:
    """What is to be kept; what was made from other files is refused.

    Args:
        files: the split.
        kind: key of `DTYPES`.
        channels: of one row `[C,H,W]`.
        sources: the files that each row comes from.
    """
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    arrays = {kind: (DTYPES[kind], (channels, *files.size))}
    return Rows(cache_folder(files) / kind, arrays, len(sources), {"version": _VERSION, "sources": digest})


def _complete(rows: Rows, make: Callable[[int], NDArray[Any]], workers: int, title: str) -> None:
    """Make the rows that are not there; `make` is called in several threads at once."""

    def write(index: int) -> None:
        """Make one row."""
        rows.write(index, {rows.folder.name: make(index)})

    if not rows.finished:
        for _ in each(write, rows.begin(), workers=workers, title=title):
            pass
        rows.finish()


def _channels_last(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(frame.transpose(1, 2, 0))
