"""`stpl data cache`: frames and estimated flow at training size, memory-mapped, so that training decodes no image.

    ROOT/Viper/cache_720x1280/train/   frames.npy flow_dis.npy, each with a .json that says what it holds

A frame is decoded and resized once, even though it is current in one clip and previous in another; frames and flow
further from the current frame come into arrays of their own when a method wants them. Labels are never
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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpl.data.clip import BACKWARD, Frame, Pair
from stpl.data.flow.estimators import estimator_class, shared_estimator
from stpl.data.flow.flow_formats import Flow
from stpl.data.parallel import each
from stpl.data.sequence_set import SequenceSet, open_set
from stpl.errors import DataError, note
from stpl.files import locked, write_atomically, writing

_VERSION = 1
_THEN = "call again: it goes on where it stopped; or set data.cache=false"


def cache(
    dataset: str,
    root: Path = Path("data"),
    split: str = "train",
    size: tuple[int, int] | None = None,
    frame_list: Path | None = None,
    flow: bool = True,
    estimator: str = "dis",
    workers: int = 0,
) -> None:
    """Keep frames and estimated flow of one split at training size.

    A run with `data.init_args.cache: true` reads them (and makes what is missing). Call again to go on after a stop.

    Args:
        dataset: viper, synthia or cityscapes.
        root: folder that holds Viper, SynthiaSeq and Cityscapes.
        split: train or val.
        size: height and width; the data set's training size if not given.
        frame_list: text file that names the current frames, for a run that uses one.
        flow: keep estimated flow, too.
        estimator: of the flow, as `data.flow_estimator` of a run: dis, raft, raft_small, or package.module.Class.
        workers: threads; 0 for one a core.
    """
    files = open_set(root, dataset, split, frame_list=frame_list, size=size)
    open_cache(files, estimator if flow else None, workers)
    print(f"{len(files)} clips are kept in {cache_folder(files)}")


def cache_folder(files: SequenceSet) -> Path:
    """Where a split is kept."""
    return files.folder / f"cache_{files.size[0]}x{files.size[1]}" / files.split


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


class SequenceCache:
    """The kept arrays of one split; what is not there is made when it is first asked for.

    Args:
        files: the split, at its training size.
        estimator: of the flow; `None` keeps none.
        workers: threads that make an array; 0 for one a core.
    """

    def __init__(self, files: SequenceSet, estimator: str | None, workers: int = 0) -> None:
        self.files, self.estimator, self._workers = files, estimator, workers
        self._rows: dict[Path, tuple[KeptArray, int]] = {}
        self._flows: dict[Pair, KeptArray] = {}

    def frame(self, index: int, offset: int = 0) -> Frame:
        """A frame uint8 `[H,W,3]` RGB."""
        path = self.files.frame_path(index, offset)
        if path not in self._rows:
            self.keep_frames((offset,))
        array, row = self._rows[path]
        frame: Frame = array.row(row).transpose(1, 2, 0)
        return frame

    def flow(self, index: int, of: int = 0, to: int = -1) -> Flow:
        """Flow float32 `[2,H,W]` from one frame to another, by the estimator."""
        if (of, to) not in self._flows:
            self.keep_flow((of, to))
        return self._flows[of, to].row(index).astype(np.float32)

    def require(self, offsets: Iterable[int], pairs: Iterable[Pair] = ()) -> None:
        """Have what lacks of the frames at some offsets and the flow of some pairs."""
        for offset in offsets:
            if any(self.files.frame_path(index, offset) not in self._rows for index in range(len(self.files))):
                self.keep_frames((offset,))
        for pair in pairs:
            if self.estimator is not None and pair not in self._flows:
                self.keep_flow(pair)

    def keep_frames(self, offsets: tuple[int, ...] = BACKWARD[::-1]) -> None:
        """Have the frames at some offsets of all clips, each once; those of -1 and 0 share an array."""
        wanted = dict.fromkeys(self.files.frame_path(index, at) for index in range(len(self.files)) for at in offsets)
        paths = [path for path in wanted if path not in self._rows]
        names = [path.relative_to(self.files.folder).as_posix() for path in paths]
        kind = "frames" + ("" if offsets == BACKWARD[::-1] else "_" + "_".join(map(str, offsets)))
        found = self._array(kind, 3, "uint8", names, lambda row: self.files.read_frame(paths[row]).transpose(2, 0, 1))
        self._rows |= {path: (found, row) for row, path in enumerate(paths)}

    def keep_flow(self, pair: Pair = BACKWARD) -> None:
        """Have the flow of a pair of offsets in all clips, from the frames that are kept."""
        assert self.estimator is not None
        estimator = self.estimator
        self.require(pair)

        def flow_of(index: int) -> NDArray[np.float16]:
            """The flow of a clip, pixels."""
            of, to = (np.ascontiguousarray(self.frame(index, offset)) for offset in pair)
            return shared_estimator(estimator)([(of, to)])[0].astype(np.float16)

        names = [" ".join(self._name(index, offset) for offset in sorted(pair)) for index in range(len(self.files))]
        kind = f"flow_{estimator_class(estimator).name}" + ("" if pair == BACKWARD else f"_{pair[0]}_{pair[1]}")
        self._flows[pair] = self._array(kind, 2, "float16", names, flow_of)

    def _name(self, index: int, offset: int) -> str:
        return self.files.frame_path(index, offset).relative_to(self.files.folder).as_posix()

    def _array(
        self, kind: str, channels: int, dtype: str, names: Sequence[str], row: Callable[[int], NDArray[Any]]
    ) -> KeptArray:
        """An array, made by one process if it is absent; a whole one may lie on a read-only disk."""
        array, folder = _Array(self.files, kind, dtype, channels, names), cache_folder(self.files)
        on_busy = partial(note, f"another process makes the cache {folder}: waiting")
        lock = locked(folder / ".lock", on_busy, kind=DataError, then=_THEN)
        with contextlib.nullcontext() if array.file.exists() else lock:
            return array.open(row, self._workers)


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
    cache.keep_frames()
    if estimator is not None:
        cache.keep_flow()
    return cache


class _Array:
    """One array of a cache: what it must hold, whether it does, and how it is made.

    Args:
        files: the split.
        kind: its name.
        dtype: of its numbers.
        channels: of one row `[C,H,W]`.
        names: where each row comes from; a cache made from others is refused.
    """

    def __init__(self, files: SequenceSet, kind: str, dtype: str, channels: int, names: Sequence[str]) -> None:
        self.folder, self.title = cache_folder(files), f"{files.name} {files.split}: keeping {kind}"
        self.file, self.manifest = self.folder / f"{kind}.npy", self.folder / f"{kind}.json"
        self.growing, self.journal = self.folder / f"{kind}.npy.partial", self.folder / f"{kind}.journal"
        self.shape, self.dtype = (len(names), channels, *files.size), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self.header = _npy_header(self.shape, self.dtype)
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        self.content = {"version": _VERSION, "shape": list(self.shape), "dtype": dtype, "sources": digest}

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
