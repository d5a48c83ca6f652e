"""Flow files: how each format is probed, read and written.

Each reader gives the flow and which of its pixels the file knows. Files have several ways to say «unknown»: KITTI has a
mark, Middlebury writes values beyond 1e9, and programs leave NaN or infinity where they found no match.
"""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.image import checked_bytes
from stpl.errors import DataError
from stpl.files import write_atomically

Flow = NDArray[np.float32]
"""Backward flow float32 `[2,H,W]` in pixels."""

UNKNOWN = 1e9
"""Pixels: a component beyond it means that the flow is unknown there (Middlebury's `flowIO`)."""

_STEPS_PER_PIXEL = 10  # the lineage's files count tenths of a pixel
_FLO_MAGIC = 202021.25  # exact in float32; reads as the letters PIEH
_FLO_HEADER = 12
_PNG_STEPS_PER_PIXEL, _PNG_ZERO = 64, 1 << 15
_PNG_HEAD, _PNG_END = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\0\0\0\0IEND\xaeB`\x82"
_NPY_MEND = "unpack or make it again; .npy flow files are int16 [H,W,2], 10 steps a pixel"
_PNG_MEND = "make or download it again; KITTI flow files are 16-bit RGB PNG"


def _read_npy(path: Path) -> tuple[Flow, NDArray[np.bool_]]:
    steps = load_npy(file_bytes(path), np.int16, path, _NPY_MEND)
    flow = np.ascontiguousarray(steps.transpose(2, 0, 1), dtype=np.float32) / np.float32(_STEPS_PER_PIXEL)
    return flow, np.ones(flow.shape[1:], bool)


def _encode_npy(flow_HW2: NDArray[np.float32], path: Path) -> bytes:
    # float32 on purpose: there k/10·10 is k again for every int16 k (in float64 truncation would lose 40 % of them).
    steps = np.trunc(flow_HW2.astype(np.float32) * np.float32(_STEPS_PER_PIXEL))
    if np.abs(steps).max(initial=0) > np.iinfo(np.int16).max:
        raise _too_far(flow_HW2, path, "int16 tenths")
    return npy_bytes(steps.astype(np.int16))


def _probe_npy(path: Path) -> tuple[int, int]:
    try:
        array = np.load(path, mmap_mode="r")  # fails if the file is shorter than its header says
    except Exception as error:  # as in `load_npy`
        what = f"the flow file is missing, torn or no .npy file ({error})"
        raise DataError(what, where=path, mend=_NPY_MEND) from None
    height, width = _check_array(array, np.int16, path, _NPY_MEND).shape[:2]
    return height, width


def _read_flo(path: Path) -> tuple[Flow, NDArray[np.bool_]]:
    data = file_bytes(path)
    height, width = _flo_size(data[:_FLO_HEADER], len(data), path)
    values = np.frombuffer(data, "<f4", offset=_FLO_HEADER).reshape(height, width, 2)
    flow = np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)
    return flow, np.abs(flow).max(axis=0) <= UNKNOWN  # a maximum with NaN is NaN, which compares false


def _probe_flo(path: Path) -> tuple[int, int]:
    head, _, length = _ends(path)
    return _flo_size(head[:_FLO_HEADER], length, path)


def _flo_size(header: bytes, length: int, path: Path) -> tuple[int, int]:
    if len(header) < _FLO_HEADER or np.frombuffer(header[:4], "<f4")[0] != _FLO_MAGIC:
        raise DataError("this is no Middlebury .flo file", where=path, mend="make or download the file again")
    width, height = map(int, np.frombuffer(header[4:], "<i4"))
    wanted = _FLO_HEADER + 8 * width * height
    if width < 1 or height < 1 or length != wanted:
        what = f"the file holds {length} bytes, its header ({height}×{width}) asks for {wanted}"
        raise DataError(what, where=path, mend="the file is torn: make or download it again")
    return height, width


def _encode_flo(flow_HW2: NDArray[np.float32], path: Path) -> bytes:
    height, width = flow_HW2.shape[:2]
    header = np.array([width, height], "<i4").tobytes()
    return b"".join([np.array(_FLO_MAGIC, "<f4").tobytes(), header, flow_HW2.astype("<f4").tobytes()])


def _read_png(path: Path) -> tuple[Flow, NDArray[np.bool_]]:
    data = checked_bytes(path, "the flow file", _PNG_MEND)
    # OpenCV, for Pillow reads only 8 of the 16 bits; its channels are in the order B, G, R.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[2:] != (3,):
        found = "nothing" if pixels is None else f"{pixels.dtype} {list(pixels.shape)}"
        raise DataError(f"expected 16-bit RGB, found {found}", where=path, mend=_PNG_MEND)
    steps = np.stack([pixels[..., 2], pixels[..., 1]]).astype(np.float32)
    return (steps - _PNG_ZERO) / np.float32(_PNG_STEPS_PER_PIXEL), pixels[..., 0] > 0


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
        raise _too_far(flow_HW2, path, "16-bit 64ths")
    blue_green_red = np.dstack([np.ones(steps.shape[:2]), steps[..., 1], steps[..., 0]]).astype(np.uint16)
    return cv2.imencode(".png", blue_green_red)[1].tobytes()


def _too_far(flow: NDArray[np.float32], path: Path, steps: str) -> DataError:
    what = f"flow of {np.abs(flow).max():.1f} px does not fit {steps}"
    return DataError(what, where=path, mend="write a .flo file")


class Format(NamedTuple):
    """One format of flow files.

    Attributes:
        probe: (height, width) from the header, the length and (PNG) the end alone.
        read: the flow float32 `[2,H,W]`, and bool `[H,W]`: where it is known.
        encode: the bytes of a flow `[H,W,2]`; the path is for messages.
        has_unknown: whether a file can say that a pixel's flow is unknown.
    """

    probe: Callable[[Path], tuple[int, int]]
    read: Callable[[Path], tuple[Flow, NDArray[np.bool_]]]
    encode: Callable[[NDArray[np.float32], Path], bytes]
    has_unknown: bool


_FORMATS = {
    ".npy": Format(_probe_npy, _read_npy, _encode_npy, has_unknown=False),
    ".flo": Format(_probe_flo, _read_flo, _encode_flo, has_unknown=True),
    ".png": Format(_probe_png, _read_png, _encode_png, has_unknown=True),
}
SUFFIXES = tuple(_FORMATS)
"""Of flow files, in the order they are looked for."""


def format_of(path: Path) -> Format:
    """The format that the suffix of a path names; raises `DataError` for another suffix."""
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        mend = "use .npy (int16, ×10), .flo or .png (KITTI)"
        raise DataError(f"unknown flow format '{path.suffix}'", where=path, mend=mend)
    return _FORMATS[suffix]


def file_bytes(path: Path) -> bytes:
    """The content of a flow file; raises `DataError`."""
    with _reading(path) as file:
        return file.read()


def _ends(path: Path) -> tuple[bytes, bytes, int]:
    """The first 32 bytes, the last 12 and the length of a file."""
    with _reading(path) as file:
        head, length = file.read(32), file.seek(0, io.SEEK_END)
        file.seek(max(0, length - len(_PNG_END)))
        return head, file.read(), length


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        mend = "check the path, or leave flow files out and let the flow be estimated"
        raise DataError(f"the flow file cannot be read ({error.strerror})", where=path, mend=mend) from None


def load_npy(data: bytes, dtype: type[np.generic], path: Path, mend: str) -> NDArray[Any]:
    """The array `[H,W,2]` in the bytes of a .npy file; raises `DataError` for another type or shape, or torn bytes."""
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header is parsed as Python, and asks for whatever it says
        raise DataError(f"the flow file is torn or no .npy file ({error})", where=path, mend=mend) from error
    return _check_array(array, dtype, path, mend)


def _check_array(array: NDArray[Any], dtype: type[np.generic], path: Path, mend: str) -> NDArray[Any]:
    if array.dtype != dtype or array.ndim != 3 or array.shape[2] != 2:
        found = f"{array.dtype} {list(array.shape)}"
        raise DataError(f"expected {dtype.__name__} [H,W,2], found {found}", where=path, mend=mend)
    return array


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def read(path: str | Path, expected_size: tuple[int, int] | None = None) -> Flow:
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
    path = Path(path)
    flow, known = format_of(path).read(path)
    if not known.any():
        what = "no pixel of this flow is known: none is marked valid, or none is finite and below 1e9"
        raise DataError(what, where=path, mend="make or download the file again")
    if not known.all():
        flow[:, ~known] = 0
    if expected_size is not None and flow.shape[1:] != tuple(expected_size):
        what = f"the flow is {sides(flow.shape[1:])}, expected {sides(expected_size)} (height×width)"
        mend = "give the flow made for this frame size, or resize it (stpl.data.flow.resize scales the vectors too)"
        raise DataError(what, where=path, mend=mend)
    return flow


def probe(path: str | Path) -> tuple[int, int]:
    """The (height, width) of a flow file, from its header, its length and (PNG) its end alone; raises as `read`.

    Quick enough to ask of thousands of files; finds a file that is missing, cut short or of another format, but not
    one with flipped bits.
    """
    path = Path(path)
    return format_of(path).probe(path)


def unknown_pixels(path: str | Path) -> int:
    """How many pixels of a flow file get zero flow because theirs is unknown; reads no file that cannot say so."""
    path = Path(path)
    kind = format_of(path)
    return int((~kind.read(path)[1]).sum()) if kind.has_unknown else 0


def write(path: str | Path, flow: Flow) -> None:
    """Write a flow file, whole or not at all; the suffix chooses the format as in `read`.

    `.flo` is exact. `.npy` keeps tenths of a pixel, **truncated towards zero** as the lineage's generator does, so a
    component loses less than 0.1 px. `.png` keeps 64ths of a pixel, rounded, every pixel marked valid. Reading and
    writing a `.npy` or `.png` again changes nothing.

    Raises:
        DataError: the suffix is unknown, a value is not finite or beyond 1e9, or |flow| exceeds 3276.7 px (`.npy`) or
            511.9 (`.png`).
    """
    path = Path(path)
    encode = format_of(path).encode
    if not isinstance(flow, np.ndarray) or flow.ndim != 3 or flow.shape[0] != 2 or not (np.abs(flow) <= UNKNOWN).all():
        mend = "check how the flow was made"
        raise DataError(
            f"a flow must be finite and [2,H,W], got {type(flow).__name__} {tuple(flow.shape)}", where=path, mend=mend
        )
    write_atomically(path, encode(flow.transpose(1, 2, 0), path), kind=DataError, sync=False)


def sides(size: tuple[int, ...]) -> str:
    """A size in words: «54×128»."""
    return "×".join(str(length) for length in size)
