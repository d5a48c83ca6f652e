"""Estimated flow, kept on disk: the one place where readers, `predict`, page and film get it."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from stpl.data.flow.estimators import Frame, estimator_class, shared_estimator
from stpl.data.flow.flow_formats import Flow, file_bytes, load_npy, npy_bytes, sides
from stpl.errors import DataError
from stpl.files import write_atomically

_ESTIMATE_AGAIN = "delete the file; it will be estimated again"
_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class FlowCache:
    """The flow that an estimator finds, kept so that each pair of frames is estimated once.

    Files are float16 `[H,W,2]` in pixels: the error is at most |flow|/2048, below 0.01 px for motions up to 16 px. The
    first call returns the rounded values too, and so does a cache without a folder: a run gives the same numbers with a
    warm, with a cold and without a cache. Any number of processes may share one. A file ends in the CRC-32 of what
    stands before, which is compared at every reading; one without (an older version's) is made again.

    Attributes:
        root: what is kept lies in its folder `flow_<estimator's name>`, made when first needed; `None` keeps nothing.
        estimator: see `estimator_class`.
    """

    root: Path | None = None
    estimator: str = "dis"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", None if self.root is None else Path(self.root))  # given as text, perhaps

    @property
    def folder(self) -> Path | None:
        """Where this estimator's flow lies."""
        return None if self.root is None else self.root / f"flow_{estimator_class(self.estimator).name}"

    def get(self, key: str, of: Frame, to: Frame) -> Flow:
        """Flow float32 `[2,H,W]` from the frame `of` to the frame `to`; see `find`."""
        return self.find(key, of.shape[:2], lambda: (of, to))

    def find(self, key: str, size: tuple[int, ...], frames: Callable[[], tuple[Frame, Frame]]) -> Flow:
        """Flow float32 `[2,H,W]` between two frames, estimated at the first call with this key.

        Args:
            key: names the pair, its order and the frame size; may contain "/".
            size: height and width of the frames.
            frames: reads them, uint8 `[H,W,3]` RGB: the one on whose grid the flow lies, then the one it leads to.

        Raises:
            DataError: the key leaves the cache's folder, or the file is torn or was made at another size.
        """
        path = self._path(key)
        kept = self._read(path, size) if path is not None and path.exists() else None
        if kept is not None:
            return kept
        of, to = (np.ascontiguousarray(frame) for frame in frames())
        flow_HW2 = shared_estimator(self.estimator)([(of, to)])[0].transpose(1, 2, 0).astype(np.float16)
        if path is not None:
            data = npy_bytes(flow_HW2)
            write_atomically(path, data + _checksum(data), kind=DataError, sync=False)
        return _channels_first(flow_HW2)

    def _path(self, key: str) -> Path | None:
        if self.folder is None:
            return None
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or key.endswith("/") or "\\" in key or ".." in parts:
            mend = "use a relative key without '..'"
            raise DataError(f"flow key '{key}' would leave the cache", where=self.root, mend=mend)
        return Path(self.folder, *parts[:-1], parts[-1] + ".npy")

    def _read(self, path: Path, size: tuple[int, ...]) -> Flow | None:
        """The flow in a file; `None` if the file has no checksum."""
        stored = file_bytes(path)
        data, found = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
        whole = found == _checksum(data)
        flow_HW2 = load_npy(data if whole else stored, np.float16, path, _ESTIMATE_AGAIN)
        if flow_HW2.shape[:2] != size:
            what = f"the cached flow is {sides(flow_HW2.shape[:2])}, the frames are {sides(size)}"
            raise DataError(what, where=path, mend=_ESTIMATE_AGAIN)
        if not whole and len(stored) == len(npy_bytes(flow_HW2)):
            return None
        if not whole:
            raise DataError("the cached flow is torn: it is not what was written", where=path, mend=_ESTIMATE_AGAIN)
        return _channels_first(flow_HW2)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def _channels_first(flow_HW2: NDArray[np.float16]) -> Flow:
    return np.ascontiguousarray(flow_HW2.transpose(2, 0, 1), dtype=np.float32)
