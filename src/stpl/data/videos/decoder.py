"""A video file as OpenCV's FFmpeg decodes it, frame after frame. Imports no torch."""

import os
import zlib
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.videos.container import read_container
from stpl.data.videos.conversion import Repeats
from stpl.errors import DataError, note

Frame = NDArray[np.uint8]

_AV1, _TEXT = "av01", "ansi"
_CURVES = {16: "PQ", 18: "HLG"}  # ITU-T H.273
_SQUARE = 0.02  # a pixel is called square if its sides differ by less
_LOOKED = 3  # frames that are decoded before a video is used
_COUNTED = frozenset({".avi", ".mp4", ".m4v", ".mov"})
"""Containers that count their frames; of others OpenCV reports duration times frames a second."""
_HIDING = 2  # frames that may be hidden more or less than times say
_NEAR_END = 0.03  # of the duration, which may be that of the sound
_FPS = 25.0

# What FFmpeg and OpenCV have to say of a file goes to stderr past Python, many lines for one fault. What matters of it
# is reported in our words: what cannot be decoded, and how many frames are missing.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@cache
def note_once(what: str, where: Path) -> None:
    """A note that is printed once a process, however often the footage is opened."""
    note(what, where)


def file_state(path: Path) -> tuple[int, int]:
    """Identity of a file's content: its size and the time of its last change."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def open_video(path: Path) -> cv2.VideoCapture:
    """A decoder at the beginning of a video file; raises `DataError` if there is none for it."""
    # Absolute, for FFmpeg takes what stands before a colon for a protocol.
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened() or codec_of(capture) == _TEXT:
        codec = next(iter(read_container(path).codecs), None)
        what = "this is no video that OpenCV's FFmpeg can decode" + (f" (its codec is {codec})" if codec else "")
        mend = (
            "convert it (ffmpeg -i IN -c:v libx264 OUT.mp4), or give a folder of images; an .mp4 that was cut off "
            "has lost the index at its end, and needs a repairing program"
        )
        raise DataError(what, where=path, mend=mend)
    return capture


def codec_of(capture: cv2.VideoCapture) -> str:
    """The four letters of a decoder's codec."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    return (code & 2**32 - 1).to_bytes(4, "little").decode("latin-1").strip(" \0")


def grabbed(capture: cv2.VideoCapture) -> Iterator[float]:
    """Go from frame to frame from where a decoder stands: the second at which each is shown. See `retrieved`."""
    while capture.grab():
        yield float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000


def retrieved(capture: cv2.VideoCapture) -> Frame | None:
    """The frame at which a decoder stands, RGB uint8 `[H,W,3]`; `None` if it is damaged."""
    whole, frame = capture.retrieve()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False) if whole else None


def decoded(capture: cv2.VideoCapture) -> Iterator[tuple[float, Frame]]:
    """The frames from where a decoder stands, up to one that is damaged, with their seconds."""
    for seconds in grabbed(capture):
        frame = retrieved(capture)
        if frame is None:
            return
        yield seconds, frame


def fingerprint(frame: Frame) -> int:
    """A number that distinguishes frames of one video: the CRC-32 of every fourth pixel of every fourth line."""
    return zlib.crc32(np.ascontiguousarray(frame[::4, ::4]).tobytes())


class VideoHeader(NamedTuple):
    """What a video is by its header and its first frames.

    Attributes:
        size: height and width of its first frame.
        fps: frames a second; 25 if it states none, or the rate of its clock.
        frames: how many it promises, less those that are hidden: by the edit list of a piece that was cut from a film
            without encoding it again, or as empty pictures of an AVI.
        least: fewest frames that still are the whole video, as far as the header can know.
        seconds: when the last of them ends, if frames are counted by this; else `None`.
    """

    size: tuple[int, int]
    fps: float
    frames: int
    least: float
    seconds: float | None

    def is_whole(self, found: int, seconds: float) -> bool:
        """Whether `found` frames, the last of which is shown at `seconds`, are all."""
        late = self.seconds is not None and seconds >= (1 - _NEAR_END) * self.seconds - _HIDING / _FPS
        return found >= self.least or late


def video_header(path: Path) -> VideoHeader:
    """What a video is; it is looked at once a process for each state of the file.

    Notes pixels that are not square, a high dynamic range, and a second video stream.

    Raises:
        DataError: there is no decoder for its codec, or its pictures cannot be converted.
    """
    return _video_header(path, file_state(path))


@cache
def _video_header(path: Path, state: tuple[int, int]) -> VideoHeader:
    capture, container = open_video(path), read_container(path)
    count, fps = (float(capture.get(what)) for what in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
    repeats, first = Repeats(path, codec_of(capture)), None
    for number, (_, frame) in enumerate(islice(decoded(capture), _LOOKED)):
        first = frame if first is None else first
        repeats.see(number, fingerprint(frame))
    if first is None:
        raise _no_frame(path, codec_of(capture) or next(iter(container.codecs), "unknown"))
    _note_format(path, capture, container.transfer, container.codecs)
    capture.release()
    frames = max(0.0, count) * container.shown
    least, seconds = frames - (_HIDING if container.shown < 1 else 0), None
    if path.suffix.lower() not in _COUNTED:
        least, seconds = least - 1 - 0.01 * frames, frames / fps if fps > 0 else None
    return VideoHeader((first.shape[0], first.shape[1]), fps if 0 < fps < 1000 else _FPS, round(frames), least, seconds)


def _no_frame(path: Path, codec: str) -> DataError:
    what = f"no frame can be decoded (its codec is {codec}): it is damaged, or there is no decoder for it"
    if codec.lower() == _AV1:
        what = "OpenCV's FFmpeg has no decoder for its codec, AV1"
    return DataError(what, where=path, mend="convert it: ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4")


def _note_format(path: Path, capture: cv2.VideoCapture, transfer: int | None, codecs: tuple[str, ...]) -> None:
    """Say what frames are used as they are stored, though players show them otherwise."""
    across, down = (capture.get(what) for what in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
    if across > 0 and down > 0 and abs(across / down - 1) > _SQUARE:
        note_once(
            f"its pixels are not square ({across:.0f}:{down:.0f}); frames are used as they are stored; for square ones "
            "ffmpeg -i IN -vf scale=iw*sar:ih,setsar=1 OUT.mp4",
            path,
        )
    if transfer in _CURVES:
        note_once(
            f"it has a high dynamic range ({_CURVES[transfer]}), and frames are used as OpenCV brings them to 8 bits, "
            "not as players show them; an editor, or ffmpeg with the filters zscale and tonemap, makes a plain video",
            path,
        )
    if len(codecs) > 1:
        note_once(f"it holds {len(codecs)} video streams ({', '.join(codecs)}); the first is used", path)
