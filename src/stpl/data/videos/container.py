"""What the header of a video file says that OpenCV does not pass on: codecs, brightness curve, what an edit list hides.

Read from MP4 and MOV (ISO 14496-12), Matroska and WebM, and AVI; of any other file nothing is known. Imports no torch.
"""

import contextlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MOST = 2**26
"""Most bytes of a header that are read: the index of an MP4 has about 20 bytes a frame."""

_PARENTS = ("mdia", "minf", "stbl", "stsd")
_ENTRY, _SAMPLE = 8, 86  # bytes of `stsd` before its entries, and of a video's entry before the boxes in it
_CLUSTER = b"\x1f\x43\xb6\x75"  # where Matroska's header ends
_CODEC = re.compile(rb"\x86([\x83-\xff])V_")  # a name of less than 128 letters
_TRANSFER = re.compile(rb"\x55\xba\x81(.)", re.DOTALL)
_AVI_STREAM = re.compile(rb"strh....vids(....)", re.DOTALL)


@dataclass(frozen=True)
class Container:
    """The header of a video file.

    Attributes:
        codecs: of its video streams, in order; FFmpeg decodes the first.
        transfer: the curve of brightness of the first, by the code points of ITU-T H.273 (16: PQ, 18: HLG).
        shown: share of the frames that are counted for the first which are there to be shown.
    """

    codecs: tuple[str, ...] = ()
    transfer: int | None = None
    shown: float = 1.0


def read_container(path: Path) -> Container:
    """The header of the video file at `path`; an empty one if it is torn or of another kind."""
    with contextlib.suppress(OSError, struct.error, ValueError, IndexError), path.open("rb") as file:
        begin = file.read(16)
        if begin[:4] == b"\x1a\x45\xdf\xa3":
            return _matroska(file.read(_MOST).split(_CLUSTER)[0])
        if begin[:4] == b"RIFF":
            return _avi(file, path.stat().st_size)
        place, end = 0, path.stat().st_size
        while place + 16 <= end:
            file.seek(place)
            size, kind, large = struct.unpack(">I4sQ", file.read(16))
            size = large if size == 1 else size or end - place
            if kind == b"moov" and size <= _MOST:
                file.seek(place + 8)
                return _movie(file.read(size - 8))
            if size < 8 or not kind.isalnum():
                break
            place += size
    return Container()


def _name(code: bytes) -> str:
    return code.decode("latin-1").strip(" \0")


def _matroska(header: bytes) -> Container:
    transfer = _TRANSFER.search(header)
    names = [header[found.end() :][: found[1][0] - 0x82] for found in _CODEC.finditer(header)]
    codecs = tuple(_name(name).rsplit("/", 1)[-1] for name in names)
    return Container(codecs, transfer[1][0] if transfer else None)


def _avi(file: BinaryIO, end: int) -> Container:
    """An AVI counts pictures of no bytes, which stand for those that the recorder dropped; its index lists them."""
    file.seek(0)
    codecs = tuple(_name(found) for found in _AVI_STREAM.findall(file.read(2**16)))
    place, sizes = 12, list[int]()
    while place + 8 <= end and not sizes:
        file.seek(place)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind == b"idx1":
            entries = struct.iter_unpack("<4sIII", file.read(min(size, _MOST) // 16 * 16))
            sizes = [length for name, _, _, length in entries if name[2:] in (b"dc", b"db")]
        place += 8 + size + size % 2
    return Container(codecs, shown=sum(map(bool, sizes)) / len(sizes) if len(codecs) == 1 and any(sizes) else 1.0)


def _movie(movie: bytes) -> Container:
    """From an MP4's `moov` box."""
    boxes = list(_boxes(movie))
    header = next((content for kind, content in boxes if kind == "mvhd"), b"")
    videos = [track for kind, track in boxes if kind == "trak" and _find(track, "mdia", "hdlr")[8:12] == b"vide"]
    entries = [_find(track, *_PARENTS) for track in videos]
    codecs = tuple(_name(entry[_ENTRY + 4 : _ENTRY + 8]) for entry in entries)
    if not videos:
        return Container()
    colour = _find(entries[0][_ENTRY + _SAMPLE :], "colr")
    transfer = struct.unpack(">H", colour[6:8])[0] if colour[:4] in (b"nclx", b"nclc") else None
    return Container(codecs, transfer, _shown(videos[0], _clock(header)[0]))


def _boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Kind and content of the boxes of an MP4 that `data` is made of."""
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        begin = place + 8
        if size == 1:
            (size,), begin = struct.unpack(">Q", data[begin : begin + 8]), begin + 8
        if size and size < begin - place:
            return
        end = place + size if size else len(data)
        yield kind.decode("latin-1"), data[begin:end]
        place = end


def _find(data: bytes, *kinds: str) -> bytes:
    """The content of the box that lies deepest of those named, one in another; nothing if it is not there."""
    for kind in kinds:
        data = next((content for found, content in _boxes(data) if found == kind), b"")
    return data


def _clock(header: bytes) -> tuple[int, int]:
    """Ticks a second, and duration in ticks, of an `mvhd` or `mdhd` box."""
    large = header[0] == 1
    scale, duration = struct.unpack(">IQ" if large else ">II", header[20:32] if large else header[12:20])
    return scale, duration


def _shown(track: bytes, ticks: int) -> float:
    """Share of a track that its edit list shows; `ticks` a second are those of the film."""
    edits = _find(track, "edts", "elst")
    if not edits:
        return 1.0
    form = ">QqI" if edits[0] == 1 else ">IiI"
    whole = len(edits[8:]) // struct.calcsize(form) * struct.calcsize(form)
    shown = sum(length for length, start, _ in struct.iter_unpack(form, edits[8 : 8 + whole]) if start >= 0)
    scale, duration = _clock(_find(track, "mdia", "mdhd"))
    return min(1.0, shown * scale / (ticks * duration)) if shown and ticks and duration else 1.0
