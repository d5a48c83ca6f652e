"""Optical flow: estimate, resize, flip, read, write, and keep on disk.

One convention everywhere, the project's and the DA-VSN lineage's: **backward flow on the grid of the later frame**.
Pixel (x, y) of the later frame lies at (x+dx, y+dy) in the earlier one; channel 0 is dx (right), channel 1 is dy
(down), unit pixel. So `later[y, x] ≈ earlier[y + dy, x + dx]`. (STPL §3.1 writes o_{t-1→t}; all released code of the
lineage uses t→t-1 with backward sampling, as here.) In memory a flow is float32 `[2,H,W]`.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.data.image import write_atomically
from stpl.errors import DataError

Flow = NDArray[np.float32]
"""Backward flow float32 `[2,H,W]` in pixels."""

_STEPS_PER_PIXEL = 10  # the lineage's files count tenths of a pixel
_FLO_MAGIC = 202021.25  # exact in float32; reads as the letters PIEH
_FLO_HEADER = 12
_PNG_STEPS_PER_PIXEL, _PNG_ZERO = 64, 1 << 15
_PNG_HEAD, _PNG_END = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\0\0\0\0IEND\xaeB`\x82"
_NPY_MEND = "unpack or make it again; .npy flow files are int16 [H,W,2], 10 steps a pixel"
_PNG_MEND = "make or download it again; KITTI flow files are 16-bit RGB PNG"
_ESTIMATE_AGAIN = "delete the file; it will be estimated again"
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


def flip(flow: Flow) -> Flow:
    """The flow between the two frames mirrored left-right: mirrored itself, with dx negated."""
    mirrored = flow[:, :, ::-1].copy()
    mirrored[0] *= -1
    return mirrored


def read(path: Path, expected_size: tuple[int, int] | None = None) -> Flow:
    """Read a flow file.

    Args:
        path: `.npy`, int16 `[H,W,2]` in tenths of a pixel (what DA-VSN, TPS and CMOM load); `.flo` (Middlebury); or
            `.png` (KITTI: 16-bit RGB, R = 64·dx + 2^15, G = 64·dy + 2^15, B = valid), where pixels that are not valid
            get zero flow, so that they are compared with themselves: every user of a flow needs a number there.
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


def probe(path: Path) -> tuple[int, int]:
    """The (height, width) of a flow file, from its header, its length and (PNG) its end alone.

    Quick enough to ask of thousands of files; finds a file that is missing, cut short or of another format, but not
    one with flipped bits.

    Raises:
        DataError: as `read`.
    """
    return _PROBES[_suffix(path)](path)


def write(path: Path, flow: Flow) -> None:
    """Write a flow file, whole or not at all; the suffix chooses the format as in `read`.

    `.flo` is exact. `.npy` keeps tenths of a pixel, **truncated towards zero** as the lineage's generator does, so a
    component loses less than 0.1 px. `.png` keeps 64ths of a pixel, rounded, every pixel marked valid. Reading and
    writing a `.npy` or `.png` again changes nothing.

    Raises:
        DataError: the suffix is unknown, a value is not finite, or |flow| exceeds 3276.7 px (`.npy`) or 511.9 (`.png`).
    """
    encode = _WRITERS[_suffix(path)]
    if flow.ndim != 3 or flow.shape[0] != 2 or not np.isfinite(flow).all():
        raise DataError(
            f"a flow must be finite and [2,H,W], got {flow.shape}", where=path, mend="check how the flow was made"
        )
    write_atomically(path, encode(flow.transpose(1, 2, 0), path))


def _read_npy(path: Path) -> Flow:
    steps = _load_npy(path, np.int16, _NPY_MEND)
    return np.ascontiguousarray(steps.transpose(2, 0, 1), dtype=np.float32) / np.float32(_STEPS_PER_PIXEL)


def _encode_npy(flow_HW2: NDArray[np.float32], path: Path) -> bytes:
    # float32 on purpose: there k/10·10 is k again for every int16 k (in float64 truncation would lose 40 % of them).
    steps = np.trunc(flow_HW2.astype(np.float32) * np.float32(_STEPS_PER_PIXEL))
    if np.abs(steps).max(initial=0) > np.iinfo(np.int16).max:
        raise DataError(
            f"flow of {np.abs(flow_HW2).max():.1f} px does not fit int16 tenths", where=path, mend="write a .flo file"
        )
    return _npy_bytes(steps.astype(np.int16))


def _probe_npy(path: Path) -> tuple[int, int]:
    try:
        array = np.load(path, mmap_mode="r")  # fails if the file is shorter than its header says
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(
            f"the flow file is missing, torn or no .npy file ({error})", where=path, mend=_NPY_MEND
        ) from None
    height, width = _check_array(array, np.int16, path, _NPY_MEND).shape[:2]
    return height, width


def _read_flo(path: Path) -> Flow:
    data = _file_bytes(path)
    height, width = _flo_size(data[:_FLO_HEADER], len(data), path)
    values = np.frombuffer(data, "<f4", offset=_FLO_HEADER).reshape(height, width, 2)
    return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)


def _probe_flo(path: Path) -> tuple[int, int]:
    head, _, length = _ends(path)
    return _flo_size(head[:_FLO_HEADER], length, path)


def _flo_size(header: bytes, length: int, path: Path) -> tuple[int, int]:
    if len(header) < _FLO_HEADER or np.frombuffer(header[:4], "<f4")[0] != _FLO_MAGIC:
        raise DataError("this is no Middlebury .flo file", where=path, mend="make or download the file again")
    width, height = (int(side) for side in np.frombuffer(header[4:], "<i4"))
    wanted = _FLO_HEADER + 8 * width * height
    if width < 1 or height < 1 or length != wanted:
        raise DataError(
            f"the file holds {length} bytes, its header ({height}×{width}) asks for {wanted}",
            where=path,
            mend="the file is torn: make or download it again",
        )
    return height, width


def _encode_flo(flow_HW2: NDArray[np.float32], path: Path) -> bytes:
    height, width = flow_HW2.shape[:2]
    header = np.array([width, height], "<i4").tobytes()
    return b"".join([np.array(_FLO_MAGIC, "<f4").tobytes(), header, flow_HW2.astype("<f4").tobytes()])


def _read_png(path: Path) -> Flow:
    data = _file_bytes(path)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.verify()  # checks every chunk's sum: OpenCV may return half of a torn image
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"the flow file is torn or no PNG ({error})", where=path, mend=_PNG_MEND) from error
    # OpenCV, for Pillow reads only 8 of the 16 bits; its channels are in the order B, G, R.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[2:] != (3,):
        found = "nothing" if pixels is None else f"{pixels.dtype} {list(pixels.shape)}"
        raise DataError(f"expected 16-bit RGB, found {found}", where=path, mend=_PNG_MEND)
    valid, steps = pixels[..., 0] > 0, np.stack([pixels[..., 2], pixels[..., 1]]).astype(np.float32)
    if not valid.any():
        raise DataError("no pixel of this flow is marked valid (blue channel)", where=path, mend=_PNG_MEND)
    return np.where(valid, (steps - _PNG_ZERO) / np.float32(_PNG_STEPS_PER_PIXEL), np.float32(0))


def _probe_png(path: Path) -> tuple[int, int]:
    head, end, _ = _ends(path)
    if not head.startswith(_PNG_HEAD) or end != _PNG_END:
        raise DataError("the flow file is torn or no PNG", where=path, mend=_PNG_MEND)
    width, height, bits, colour = struct.unpack(">IIBB", head[len(_PNG_HEAD) : len(_PNG_HEAD) + 10])
    if (bits, colour) != (16, 2):
        raise DataError(f"expected 16-bit RGB, found {bits} bits, PNG colour type {colour}", where=path, mend=_PNG_MEND)
    return height, width


def _encode_png(flow_HW2: NDArray[np.float32], path: Path) -> bytes:
    steps = np.rint(flow_HW2.astype(np.float32) * np.float32(_PNG_STEPS_PER_PIXEL)) + _PNG_ZERO
    if steps.min(initial=0) < 0 or steps.max(initial=0) > np.iinfo(np.uint16).max:
        raise DataError(
            f"flow of {np.abs(flow_HW2).max():.1f} px does not fit 16-bit 64ths", where=path, mend="write a .flo file"
        )
    blue_green_red = np.dstack([np.ones(steps.shape[:2]), steps[..., 1], steps[..., 0]]).astype(np.uint16)
    return cv2.imencode(".png", blue_green_red)[1].tobytes()


_READERS: dict[str, Callable[[Path], Flow]] = {".npy": _read_npy, ".flo": _read_flo, ".png": _read_png}
_PROBES: dict[str, Callable[[Path], tuple[int, int]]] = {".npy": _probe_npy, ".flo": _probe_flo, ".png": _probe_png}
_WRITERS: dict[str, Callable[[NDArray[np.float32], Path], bytes]] = {
    ".npy": _encode_npy,
    ".flo": _encode_flo,
    ".png": _encode_png,
}


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(
            f"unknown flow format '{path.suffix}'", where=path, mend="use .npy (int16, ×10), .flo or .png (KITTI)"
        )
    return suffix


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _ends(path: Path) -> tuple[bytes, bytes, int]:
    """The first 32 bytes, the last 12 and the length of a file."""
    try:
        with path.open("rb") as file:
            head, length = file.read(32), file.seek(0, io.SEEK_END)
            file.seek(max(0, length - len(_PNG_END)))
            return head, file.read(), length
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"the flow file cannot be read ({error.strerror})",
        where=path,
        mend="check the path, or leave flow files out and let the flow be estimated",
    )


def _load_npy(path: Path, dtype: type[np.generic], mend: str) -> NDArray[Any]:
    try:
        array = np.lib.format.read_array(io.BytesIO(_file_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"the flow file is torn or no .npy file ({error})", where=path, mend=mend) from error
    return _check_array(array, dtype, path, mend)


def _check_array(array: NDArray[Any], dtype: type[np.generic], path: Path, mend: str) -> NDArray[Any]:
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
