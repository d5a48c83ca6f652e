"""`stpl data cache`: frames and estimated flow at training size, memory-mapped, so that training decodes no image.

    ROOT/Viper/cache_720x1280/train/   frames.npy flow.npy, each with a .json that says what it holds

A frame is decoded and resized once, even though it is current in one clip and previous in another. Labels are never
kept here: a source-free method reads this folder and must not be able to see one.

Frames are uint8 and flow is float16 (half the size of float32, exact to 1/2048 of its value): the very numbers that
`SequenceClips` with a `FlowCache` yields, so a run gives the same result with and without the cache. Cityscapes at
512×1024 takes 3.1 MB of frames and 2.1 MB of flow a clip (train: 16 GB), VIPER at 720×1280 5.5 and 3.7 MB (123 GB).

An array is complete or absent: it grows in `….partial`, with a journal of the rows that are done, from which a call
that was stopped goes on. Every row has a checksum that is compared at every reading.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
from stpl.files import locked, write_atomically, writing

_VERSION = 1
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
class KeptArray:
    """One complete array on disk, opened on first use in the process that uses it.

    Attributes:
        file: the .npy file.
        checksums: CRC-32 of every row.
    """

    file: Path
    checksums: tuple[int, ...]

    def row(self, index: int) -> NDArray[Any]:
        """A copy of one row; raises `DataError` if the disk does not hold what was written."""
        row = np.array(self._array[index])
        if zlib.crc32(row.data) != self.checksums[index]:
            raise _torn(self.file, f"row {index} is not what was written")
        return row

    @cached_property
    def _array(self) -> NDArray[Any]:
        try:
            return np.load(self.file, mmap_mode="r")  # type: ignore[no-any-return]
        except Exception as error:  # a damaged header is parsed as Python
            raise _torn(self.file, str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "checksums": self.checksums}  # a memory map would be pickled as all it maps


@dataclass(frozen=True)
class SequenceCache:
    """The kept arrays of one split.

    Attributes:
        frames: uint8 `[N,3,H,W]` RGB, every frame once.
        flow: float16 `[clips,2,H,W]` in pixels; `None` if it is not kept.
        rows: for each clip the rows of its frames, oldest first.
    """

    frames: KeptArray
    flow: KeptArray | None
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
        frames = np.stack([self.cache.frames.row(row) for row in self.cache.rows[index]])
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
            return torch.from_numpy(self.cache.flow.row(index).astype(np.float32)).unsqueeze(0)
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
    frame_array, flow_array = _Array(files, "frames", 3, names), _Array(files, "flow", 2, pairs)

    def frame(row: int) -> NDArray[np.uint8]:
        """A frame `[3,H,W]` at training size."""
        return files.read_frame(paths[row]).transpose(2, 0, 1)

    def flow_of(clip: int) -> NDArray[np.float16]:
        """The backward flow `[2,H,W]` of a clip, pixels, from the frames that are kept already."""
        earlier, later = (_channels_last(frames.row(row)) for row in rows[clip])
        return optical_flow.estimate(later, earlier).astype(np.float16)

    whole = frame_array.file.exists() and (flow_array.file.exists() or not flow)
    folder = cache_folder(files)
    on_busy = partial(note, f"another process makes the cache {folder}: waiting")
    lock = locked(folder / ".lock", on_busy, kind=DataError, then=_THEN)
    with contextlib.nullcontext() if whole else lock:  # a whole one may lie on a read-only disk
        frames = frame_array.open(frame, workers)
        flows = flow_array.open(flow_of, workers) if flow else None
    return SequenceCache(frames, flows, rows)


def _channels_last(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(frame.transpose(1, 2, 0))


class _Array:
    """One array of a cache: what it must hold, whether it does, and how it is made.

    Args:
        files: the split.
        kind: key of `DTYPES`.
        channels: of one row `[C,H,W]`.
        names: where each row comes from; a cache made from others is refused.
    """

    def __init__(self, files: SequenceSet, kind: str, channels: int, names: Sequence[str]) -> None:
        self.folder, self.title = cache_folder(files), f"{files.name} {files.split}: keeping {kind}"
        self.file, self.manifest = self.folder / f"{kind}.npy", self.folder / f"{kind}.json"
        self.growing, self.journal = self.folder / f"{kind}.npy.partial", self.folder / f"{kind}.journal"
        self.shape, self.dtype = (len(names), channels, *files.size), np.dtype(DTYPES[kind])
        self.row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self.header = _npy_header(self.shape, self.dtype)
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        self.content = {"version": _VERSION, "shape": list(self.shape), "dtype": DTYPES[kind], "sources": digest}

    def open(self, row: Callable[[int], NDArray[Any]], workers: int) -> KeptArray:
        """The array, made first if it is absent; `row` computes one row and is called in several threads at once."""
        with writing(self.folder, kind=DataError, then=_THEN):
            if not self.file.exists():
                self._make(row, workers)
        return self._check()

    def _check(self) -> KeptArray:
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
            checksums = tuple(int(checksum) for checksum in manifest.pop("checksums"))
            found_bytes = self.file.stat().st_size
            with self.file.open("rb") as file:
                header = file.read(len(self.header))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _torn(self.manifest, repr(error)) from error
        if manifest != self.content:
            found, wanted = manifest.get("shape"), self.content["shape"]
            raise DataError(
                f"this cache was made for other frames (it holds {found}, wanted are {wanted})",
                where=self.file,
                mend=f"delete the folder {self.folder}; it will be made again",
            )
        if found_bytes != self._offset(len(checksums)) or len(checksums) != len(self):
            raise _torn(self.file, f"{found_bytes} bytes, {self._offset(len(self))} were written")
        if header != self.header:
            raise _torn(self.file, "its header is not what was written")
        return KeptArray(self.file, checksums)

    def _make(self, row: Callable[[int], NDArray[Any]], workers: int) -> None:
        done = self._done_before()
        rest = [index for index in range(len(self)) if index not in done]
        need, free = len(rest) * self.row_bytes, shutil.disk_usage(self.folder).free
        if free < need:
            raise OSError(errno.ENOSPC, f"{need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
        with self.journal.open("a", encoding="utf-8") as journal:
            written = each(
                lambda index: (index, self._write(index, row(index))), rest, workers=workers, title=self.title
            )
            for index, checksum in written:
                journal.write(f"{index} {checksum}\n")
                journal.flush()
                done[index] = checksum
        self._complete(done)

    def _write(self, index: int, row: NDArray[Any]) -> int:
        """Write a row and give its checksum; not through a memory map, where a full disk kills the process."""
        data = np.ascontiguousarray(row).tobytes()
        with self.growing.open("r+b") as file:
            file.seek(self._offset(index))
            file.write(data)
        return zlib.crc32(data)

    def _done_before(self) -> dict[int, int]:
        """Rows and checksums of a call that was stopped; begins a new file if there is none for these frames."""
        header = json.dumps(self.content)
        if self.growing.exists() and self.journal.exists():
            first, *lines = self.journal.read_text(encoding="utf-8").split("\n")
            if first == header:
                whole = lines[:-1]  # what follows the last line break is half a line, or nothing
                return {int(index): int(checksum) for index, checksum in map(str.split, whole)}
        self.journal.unlink(missing_ok=True)
        with self.growing.open("wb") as file:
            file.write(self.header)
            file.truncate(self._offset(len(self)))
        self.journal.write_text(f"{header}\n", encoding="utf-8")
        return {}

    def _complete(self, done: dict[int, int]) -> None:
        with self.growing.open("r+b") as file:
            os.fsync(file.fileno())
        manifest = {**self.content, "checksums": [done[index] for index in range(len(self))]}
        write_atomically(self.manifest, json.dumps(manifest), kind=DataError)
        self.growing.replace(self.file)  # last: the array is there if and only if it is complete
        self.journal.unlink()

    def __len__(self) -> int:
        return self.shape[0]

    def _offset(self, index: int) -> int:
        return len(self.header) + index * self.row_bytes


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _torn(path: Path, why: str) -> DataError:
    return DataError(
        f"the cache is torn ({why})", where=path, mend=f"delete the folder {path.parent}; it will be made again"
    )
