"""Optical flow: estimate, resize, flip, read, write, and keep on disk.

One convention everywhere, the project's and the DA-VSN lineage's: **backward flow on the grid of the later frame**.
Pixel (x, y) of the later frame lies at (x+dx, y+dy) in the earlier one; channel 0 is dx (right), channel 1 is dy
(down), unit pixel. So `later[y, x] ≈ earlier[y + dy, x + dx]`. (STPL §3.1 writes o_{t-1→t}; all released code of the
lineage uses t→t-1 with backward sampling, as here.) In memory a flow is float32 `[2,H,W]`.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.image import write_atomically
from stpl.errors import DataError

Flow = NDArray[np.float32]
"""Backward flow float32 `[2,H,W]` in pixels."""

_STEPS_PER_PIXEL = 10  # the lineage's files count tenths of a pixel
_FLO_MAGIC = 202021.25  # exact in float32; reads as the letters PIEH
_ESTIMATE_AGAIN = "delete the file; it will be estimated again"
_local = threading.local()


def estimate(later: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> Flow:
    """Backward flow from `later` to `earlier`, by dense inverse search (Kroeger et al., ECCV 2016; preset medium).

    Safe in threads and processes: the estimator has state, so each thread has one of its own.

    Args:
        later: frame uint8 `[H,W,3]` RGB on whose grid the flow lives.
        earlier: frame of the same shape.

    Raises:
        DataError: the frames differ in shape, are no uint8 RGB images, or are smaller than about 12 pixels.
    """
    if later.shape != earlier.shape or later.dtype != np.uint8 or earlier.dtype != np.uint8 or later.shape[2:] != (3,):
        raise DataError(
            f"optical flow needs two uint8 frames [H,W,3] of one size, got {later.dtype} {later.shape} "
            f"and {earlier.dtype} {earlier.shape}",
            mend="resize both frames to one size first",
        )
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (later, earlier)]
    try:
        flow = _estimator().calc(grey[0], grey[1], None)  # type: ignore[call-overload]
    except cv2.error as error:
        size = _format(later.shape[:2])
        raise DataError(
            f"optical flow cannot be estimated at {size} ({error.err})", mend="use larger frames"
        ) from error
    return np.ascontiguousarray(flow.transpose(2, 0, 1), dtype=np.float32)


def _estimator() -> cv2.DISOpticalFlow:
    if not hasattr(_local, "estimator"):
        _local.estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    estimator: cv2.DISOpticalFlow = _local.estimator
    return estimator


def resize(flow: Flow, size: tuple[int, int]) -> Flow:
    """The flow at `size` = (height, width): bilinear in space, dx scaled by the width ratio and dy by the height's.

    Pixel centres are at half-integers, as in the resizing of frames; the lineage scaled both components by the height
    ratio, which bends the flow wherever the two ratios differ.
    """
    old_height, old_width = flow.shape[1:]
    height, width = size
    if (old_height, old_width) == size:
        return flow
    dx = cv2.resize(flow[0], (width, height), interpolation=cv2.INTER_LINEAR) * (width / old_width)
    dy = cv2.resize(flow[1], (width, height), interpolation=cv2.INTER_LINEAR) * (height / old_height)
    return np.stack([dx, dy]).astype(np.float32)


def flip(flow: Flow) -> Flow:
    """The flow between the two frames mirrored left-right: mirrored itself, with dx negated."""
    mirrored = flow[:, :, ::-1].copy()
    mirrored[0] *= -1
    return mirrored


def read(path: Path, expected_size: tuple[int, int] | None = None) -> Flow:
    """Read a flow file.

    Args:
        path: `.npy`, int16 `[H,W,2]` in tenths of a pixel (what DA-VSN, TPS and CMOM load), or `.flo` (Middlebury).
        expected_size: (height, width) the file must have; `None` accepts any.

    Raises:
        DataError: the file is missing, torn, of another format or of another size.
    """
    flow = _READERS[_suffix(path)](path)
    if expected_size is not None and flow.shape[1:] != tuple(expected_size):
        raise DataError(
            f"the flow is {_format(flow.shape[1:])}, expected {_format(expected_size)} (height×width)",
            where=path,
            mend="give the flow made for this frame size, or resize it (stpl.data.flow.resize scales the vectors too)",
        )
    return flow


def write(path: Path, flow: Flow) -> None:
    """Write a flow file, whole or not at all; the suffix chooses the format as in `read`.

    `.flo` is exact. `.npy` keeps tenths of a pixel, **truncated towards zero** as the lineage's generator does, so a
    component loses less than 0.1 px; reading and writing such a file again changes nothing.

    Raises:
        DataError: the suffix is unknown, a value is not finite, or |flow| exceeds 3276.7 px (`.npy`).
    """
    encode = _WRITERS[_suffix(path)]
    if flow.ndim != 3 or flow.shape[0] != 2 or not np.isfinite(flow).all():
        raise DataError(
            f"a flow must be finite and [2,H,W], got {flow.shape}", where=path, mend="check how the flow was made"
        )
    write_atomically(path, encode(flow.transpose(1, 2, 0), path))


def _read_npy(path: Path) -> Flow:
    steps = _load_npy(path, np.int16, "unpack or make it again; .npy flow files are int16 [H,W,2], 10 steps a pixel")
    return np.ascontiguousarray(steps.transpose(2, 0, 1), dtype=np.float32) / np.float32(_STEPS_PER_PIXEL)


def _encode_npy(flow_HW2: NDArray[np.float32], path: Path) -> bytes:
    # float32 on purpose: there k/10·10 is k again for every int16 k (in float64 truncation would lose 40 % of them).
    steps = np.trunc(flow_HW2.astype(np.float32) * np.float32(_STEPS_PER_PIXEL))
    if np.abs(steps).max(initial=0) > np.iinfo(np.int16).max:
        raise DataError(
            f"flow of {np.abs(flow_HW2).max():.1f} px does not fit int16 tenths", where=path, mend="write a .flo file"
        )
    return _npy_bytes(steps.astype(np.int16))


def _read_flo(path: Path) -> Flow:
    data = _file_bytes(path)
    if len(data) < 12 or np.frombuffer(data[:4], "<f4")[0] != _FLO_MAGIC:
        raise DataError("this is no Middlebury .flo file", where=path, mend="make or download the file again")
    width, height = (int(side) for side in np.frombuffer(data[4:12], "<i4"))
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise DataError(
            f"the file holds {len(data)} bytes, its header ({height}×{width}) asks for {12 + 8 * width * height}",
            where=path,
            mend="the file is torn: make or download it again",
        )
    values = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)
    return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)


def _encode_flo(flow_HW2: NDArray[np.float32], path: Path) -> bytes:
    height, width = flow_HW2.shape[:2]
    header = np.array([width, height], "<i4").tobytes()
    return b"".join([np.array(_FLO_MAGIC, "<f4").tobytes(), header, flow_HW2.astype("<f4").tobytes()])


_READERS: dict[str, Callable[[Path], Flow]] = {".npy": _read_npy, ".flo": _read_flo}
_WRITERS: dict[str, Callable[[NDArray[np.float32], Path], bytes]] = {".npy": _encode_npy, ".flo": _encode_flo}


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(f"unknown flow format '{path.suffix}'", where=path, mend="use .npy (int16, ×10) or .flo")
    return suffix


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the flow file cannot be read ({error.strerror})",
            where=path,
            mend="check the path, or leave flow files out and let the flow be estimated",
        ) from None


def _load_npy(path: Path, dtype: type[np.generic], mend: str) -> NDArray[Any]:
    try:
        array = np.lib.format.read_array(io.BytesIO(_file_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"the flow file is torn or no .npy file ({error})", where=path, mend=mend) from error
    if array.dtype != dtype or array.ndim != 3 or array.shape[2] != 2:
        found = f"{array.dtype} {list(array.shape)}"
        raise DataError(f"expected {dtype.__name__} [H,W,2], found {found}", where=path, mend=mend)
    return array


def _npy_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _format(size: tuple[int, ...]) -> str:
    return "×".join(str(length) for length in size)


@dataclass(frozen=True)
class FlowCache:
    """Estimated flow kept on disk, so that each pair of frames is estimated once.

    Files are float16 `[H,W,2]` in pixels (half the size; near-exact: the error is at most |flow|/2048, that is below
    0.01 px for motions up to 16 px, less than the estimator's own). The first call returns the rounded values too, so
    a run gives the same numbers with a warm and with a cold cache. Any number of processes may share a cache: a file
    appears whole or not at all, and two processes that estimate the same pair write the same bytes.

    Attributes:
        root: folder of the cache; made when first needed.
    """

    root: Path

    def get(self, key: str, later: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> Flow:
        """Backward flow float32 `[2,H,W]` of a pair of frames, estimated at the first call with this key.

        Args:
            key: names the pair, its order and the frame size; may contain "/".
            later: frame uint8 `[H,W,3]` RGB on whose grid the flow lives.
            earlier: frame of the same shape.

        Raises:
            DataError: the key leaves the cache's folder, or the file is torn or was made at another size.
        """
        path = self._path(key)
        if path.exists():
            return self._read(path, later.shape[:2])
        flow_HW2 = estimate(later, earlier).transpose(1, 2, 0).astype(np.float16)
        write_atomically(path, _npy_bytes(flow_HW2))
        return _channels_first(flow_HW2)

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or key.endswith("/") or "\\" in key or ".." in parts:
            raise DataError(
                f"flow key '{key}' would leave the cache", where=self.root, mend="use a relative key without '..'"
            )
        return Path(self.root, *parts[:-1], parts[-1] + ".npy")

    def _read(self, path: Path, size: tuple[int, ...]) -> Flow:
        flow_HW2 = _load_npy(path, np.float16, _ESTIMATE_AGAIN)
        if flow_HW2.shape[:2] != size:
            raise DataError(
                f"the cached flow is {_format(flow_HW2.shape[:2])}, the frames are {_format(size)}",
                where=path,
                mend=_ESTIMATE_AGAIN,
            )
        return _channels_first(flow_HW2)


def _channels_first(flow_HW2: NDArray[np.float16]) -> Flow:
    return np.ascontiguousarray(flow_HW2.transpose(2, 0, 1), dtype=np.float32)
