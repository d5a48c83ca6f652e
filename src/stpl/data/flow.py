"""Optical flow: estimate, resize, flip, read, write, and keep on disk.

One convention everywhere, the project's and the DA-VSN lineage's: **backward flow on the grid of the later frame**.
Pixel (x, y) of the later frame lies at (x+dx, y+dy) in the earlier one; channel 0 is dx (right), channel 1 is dy
(down), unit pixel. So `later[y, x] ≈ earlier[y + dy, x + dx]`. (STPL §3.1 writes o_{t-1→t}; all released code of the
lineage uses t→t-1 with backward sampling, as here.) In memory a flow is float32 `[2,H,W]`.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.flow_formats import UNKNOWN, Flow, file_bytes, format_of, load_npy, npy_bytes
from stpl.errors import DataError
from stpl.files import write_atomically

__all__ = ["Flow", "FlowCache", "estimate", "flip", "probe", "read", "resize", "unknown_pixels", "write"]

_ESTIMATE_AGAIN = "delete the file; it will be estimated again"
_CHECKSUM_BYTES = 4
_local = threading.local()


def estimate(later: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> Flow:
    """Backward flow from `later` to `earlier`, by dense inverse search (Kroeger et al., ECCV 2016; preset medium).

    Safe in threads and processes: the estimator has state, so each thread has its own.

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
        flow = _estimator(later.shape).calc(grey[0], grey[1], None)  # type: ignore[call-overload]
    except cv2.error as error:
        size = _format(later.shape[:2])
        raise DataError(
            f"optical flow cannot be estimated at {size} ({error.err})", mend="use larger frames"
        ) from error
    return np.ascontiguousarray(flow.transpose(2, 0, 1), dtype=np.float32)


def _estimator(size: tuple[int, ...]) -> cv2.DISOpticalFlow:
    # One for each size: a small frame makes an estimator change its patches and scales, and it does not change back.
    estimators: dict[tuple[int, ...], cv2.DISOpticalFlow] = _local.__dict__.setdefault("estimators", {})
    if size not in estimators:
        estimators[size] = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return estimators[size]


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


def consistent(flow: Flow, back: Flow) -> NDArray[np.bool_]:
    """Which pixels of a flow lead to one that leads back: elsewhere something is hidden, or the flow is wrong.

    |w + w'|² < 0.01·(|w|² + |w'|²) + 0.5 px², where w' is the other flow at the place that w leads to (Sundaram, Brox
    and Keutzer, ECCV 2010, §4).

    Args:
        flow: w, float32 `[2,H,W]`, on the grid that is asked about.
        back: w', on the grid of the other frame, leading to the first.

    Returns:
        Bool `[H,W]`; false where w leaves the image.
    """
    height, width = flow.shape[1:]
    x = np.arange(width, dtype=np.float32) + flow[0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[1]
    found = np.stack([cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for part in back])
    apart = np.square(flow + found).sum(0)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    near = apart < 0.01 * (np.square(flow).sum(0) + np.square(found).sum(0)) + 0.5
    found_at: NDArray[np.bool_] = np.logical_and(near, inside)
    return found_at


def flip(flow: Flow) -> Flow:
    """The flow between the two frames mirrored left-right: mirrored itself, with dx negated."""
    mirrored = flow[:, :, ::-1].copy()
    mirrored[0] *= -1
    return mirrored


def read(path: Path, expected_size: tuple[int, int] | None = None) -> Flow:
    """Read a flow file.

    Args:
        path: `.npy`, int16 `[H,W,2]` in tenths of a pixel (what DA-VSN, TPS and CMOM load); `.flo` (Middlebury); or
            `.png` (KITTI: 16-bit RGB, R = 64·dx + 2^15, G = 64·dy + 2^15, B = valid). Pixels whose flow is unknown
            (KITTI's that are not valid, Middlebury's beyond 1e9, NaN and infinity) get zero flow, so that they are
            compared with themselves: every user of a flow needs a number there.
        expected_size: (height, width) the file must have; `None` accepts any.

    Raises:
        DataError: the file is missing, torn, of another format or of another size, or knows no pixel's flow.
    """
    flow, known = format_of(path).read(path)
    if not known.any():
        what = "no pixel of this flow is known: none is marked valid, or none is finite and below 1e9"
        raise DataError(what, where=path, mend="make or download the file again")
    if not known.all():
        flow[:, ~known] = 0
    if expected_size is not None and flow.shape[1:] != tuple(expected_size):
        raise DataError(
            f"the flow is {_format(flow.shape[1:])}, expected {_format(expected_size)} (height×width)",
            where=path,
            mend="give the flow made for this frame size, or resize it (stpl.data.flow.resize scales the vectors too)",
        )
    return flow


def probe(path: Path) -> tuple[int, int]:
    """The (height, width) of a flow file, from its header, its length and (PNG) its end alone.

    Quick enough to ask of thousands of files; finds a file that is missing, cut short or of another format, but not
    one with flipped bits.

    Raises:
        DataError: as `read`.
    """
    return format_of(path).probe(path)


def unknown_pixels(path: Path) -> int:
    """How many pixels of a flow file get zero flow because theirs is unknown; reads no file that cannot say so.

    Raises:
        DataError: as `read`.
    """
    kind = format_of(path)
    return int((~kind.read(path)[1]).sum()) if kind.has_unknown else 0


def write(path: Path, flow: Flow) -> None:
    """Write a flow file, whole or not at all; the suffix chooses the format as in `read`.

    `.flo` is exact. `.npy` keeps tenths of a pixel, **truncated towards zero** as the lineage's generator does, so a
    component loses less than 0.1 px. `.png` keeps 64ths of a pixel, rounded, every pixel marked valid. Reading and
    writing a `.npy` or `.png` again changes nothing.

    Raises:
        DataError: the suffix is unknown, a value is not finite or beyond 1e9, or |flow| exceeds 3276.7 px (`.npy`) or
            511.9 (`.png`).
    """
    encode = format_of(path).encode
    if flow.ndim != 3 or flow.shape[0] != 2 or not (np.abs(flow) <= UNKNOWN).all():
        raise DataError(
            f"a flow must be finite and [2,H,W], got {flow.shape}", where=path, mend="check how the flow was made"
        )
    write_atomically(path, encode(flow.transpose(1, 2, 0), path), kind=DataError, sync=False)


@dataclass(frozen=True)
class FlowCache:
    """Estimated flow kept on disk, so that each pair of frames is estimated once.

    Files are float16 `[H,W,2]` in pixels (half the size; near-exact: the error is at most |flow|/2048, that is below
    0.01 px for motions up to 16 px, less than the estimator's own). The first call returns the rounded values too, so
    a run gives the same numbers with a warm and with a cold cache. Any number of processes may share a cache: a file
    appears whole or not at all, and two processes that estimate the same pair write the same bytes. A file ends in the
    CRC-32 of what stands before, which is compared at every reading; one without (an older version's) is made again.

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
        kept = self._read(path, later.shape[:2]) if path.exists() else None
        if kept is not None:
            return kept
        flow_HW2 = estimate(later, earlier).transpose(1, 2, 0).astype(np.float16)
        data = npy_bytes(flow_HW2)
        write_atomically(path, data + _checksum(data), kind=DataError, sync=False)
        return _channels_first(flow_HW2)

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or key.endswith("/") or "\\" in key or ".." in parts:
            raise DataError(
                f"flow key '{key}' would leave the cache", where=self.root, mend="use a relative key without '..'"
            )
        return Path(self.root, *parts[:-1], parts[-1] + ".npy")

    def _read(self, path: Path, size: tuple[int, ...]) -> Flow | None:
        """The flow in a file; `None` if the file has no checksum."""
        stored = file_bytes(path)
        data, found = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
        whole = found == _checksum(data)
        flow_HW2 = load_npy(data if whole else stored, np.float16, path, _ESTIMATE_AGAIN)
        if flow_HW2.shape[:2] != size:
            raise DataError(
                f"the cached flow is {_format(flow_HW2.shape[:2])}, the frames are {_format(size)}",
                where=path,
                mend=_ESTIMATE_AGAIN,
            )
        if not whole and len(stored) == len(npy_bytes(flow_HW2)):
            return None
        if not whole:
            raise DataError("the cached flow is torn: it is not what was written", where=path, mend=_ESTIMATE_AGAIN)
        return _channels_first(flow_HW2)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def _format(size: tuple[int, ...]) -> str:
    return "×".join(str(length) for length in size)


def _channels_first(flow_HW2: NDArray[np.float16]) -> Flow:
    return np.ascontiguousarray(flow_HW2.transpose(2, 0, 1), dtype=np.float32)
