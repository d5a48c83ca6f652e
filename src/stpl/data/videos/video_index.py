"""One pass over a video file: how many frames it has, when each is shown, what it looks like; and reading any of them.

Seeking in video files is not to be trusted: containers without an index, variable frame rates and open groups of
pictures make a decoder land elsewhere. So every frame has a fingerprint in the index, a frame that was sought is known
by its fingerprint, and from wherever the decoder landed before it, it decodes on. OpenCV's own index does not do that;
PyAV seeks to key frames by their times, so it would need this index too, and brings a second FFmpeg.
"""

from __future__ import annotations

import contextlib
import io
import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.videos.conversion import Repeats
from stpl.data.videos.decoder import Frame, codec_of, decoded, file_state, fingerprint, open_video
from stpl.data.videos.scene_cuts import THUMBNAIL, thumbnail
from stpl.errors import DataError, note
from stpl.files import write_atomically
from stpl.progress import Progress

_SCHEMA = 1
_STEPS_BACK = (0, 12, 48, 192)  # frames before the wanted one at which a seek is tried; then from the beginning
_KEPT = 3  # decoded frames that are kept: a seek may bring more than was asked for
_LONG = 2000  # frames, from which on progress is shown


@dataclass(frozen=True)
class VideoIndex:
    """What one pass over a video file found.

    Attributes:
        prints: fingerprint of each frame, uint32 `[N]`.
        times: when it is shown, in seconds, float64 `[N]`.
        thumbnails: uint8 `[N,18,32,3]`.
    """

    prints: NDArray[np.uint32]
    times: NDArray[np.float64]
    thumbnails: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.prints)


def open_index(path: Path, kept: Path | None) -> VideoIndex:
    """The index of a video file: the one that an earlier pass left at `kept`, or that of a pass that is made now.

    Where `kept` is `None`, nothing is kept; what is there and cannot be read is made again.
    """
    found = None if kept is None else _read(kept)
    if found is None:
        found = _scan(path)
        if kept is not None:
            content = io.BytesIO()
            np.savez_compressed(content, schema=np.array(_SCHEMA), **vars(found))
            write_atomically(kept, content.getvalue(), kind=DataError, sync=False)
    return found


def _read(path: Path) -> VideoIndex | None:
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zlib.error, BadZipFile):
        content = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        index = VideoIndex(content["prints"], content["times"], content["thumbnails"])
        if int(content["schema"]) == _SCHEMA and len(index.prints) == len(index.times) == len(index.thumbnails):
            return index
    return None


def _scan(path: Path) -> VideoIndex:
    prints, times, thumbnails = list[int](), list[float](), list[Frame]()
    capture = open_video(path)
    try:
        expected = int(max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        progress = Progress(f"{path.name}: looking through", expected) if expected > _LONG else None
        repeats = Repeats(path, codec_of(capture))
        for seconds, frame in decoded(capture):
            prints.append(fingerprint(frame))
            repeats.see(len(times), prints[-1])
            times.append(seconds)
            thumbnails.append(thumbnail(frame))
            if progress is not None and len(prints) <= expected:
                progress.add()
    finally:
        capture.release()
    images = np.stack(thumbnails) if thumbnails else np.zeros((0, *THUMBNAIL, 3), np.uint8)
    return VideoIndex(np.array(prints, np.uint32), np.array(times, np.float64), images)


class RandomAccess:
    """Any frame of a video file by its number, checked by its fingerprint; the index is of that very file."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self.path, self.index = path, index
        self.read = self.passed = 0
        self._told = False
        self._file = file_state(path)
        self._begin()

    def _begin(self) -> None:
        self._capture: cv2.VideoCapture | None = None
        self._place = -1  # of the frame that was decoded last
        self._process = os.getpid()
        self._recent: OrderedDict[int, Frame] = OrderedDict()

    def __reduce__(self) -> tuple[type[RandomAccess], tuple[Path, VideoIndex]]:
        """All but the decoder, which no other process can use."""
        return RandomAccess, (self.path, self.index)

    @property
    def cost(self) -> float:
        """Frames that were decoded for each that was asked for."""
        return self.passed / max(1, self.read)

    def __call__(self, number: int) -> Frame:
        """Frame `number`, from 0, RGB uint8 `[H,W,3]`.

        Raises:
            DataError: the file changed since it was indexed.
        """
        if self._process != os.getpid():
            self._begin()  # a fork shares the decoder's place in the file with its parent
        if number not in self._recent:
            self.read += 1
            self._keep(number, self._decode(number))
        self._recent.move_to_end(number)
        return self._recent[number]

    def _keep(self, number: int, frame: Frame) -> None:
        self._recent[number] = frame
        while len(self._recent) > _KEPT:
            self._recent.popitem(last=False)

    def _decode(self, number: int) -> Frame:
        if self._capture is not None and 0 <= number - self._place - 1 <= _STEPS_BACK[1]:
            frame = self._on(number)
            if frame is not None:
                return frame
        for back in _STEPS_BACK:
            if number - back > 0 and self._seek(number - back, number):
                frame = self._on(number)
                if frame is not None:
                    return frame
        self._reopen()
        frame = self._forward(number)  # by count: what is damaged need not be filled in twice in the same way
        if frame is None or file_state(self.path) != self._file:
            what = "the video is not what it was when it was looked through"
            raise DataError(what, where=self.path, mend="call again")
        if not self._told and self._place > _STEPS_BACK[-1]:
            self._told = True
            quicker = "quicker after ffmpeg -i IN -c:v libx264 -g 15 OUT.mp4"
            note(f"seeking fails, so frames are decoded from the beginning; {quicker}", self.path)
        return frame

    def _seek(self, target: int, number: int) -> bool:
        """Have the decoder stand before `target`, or somewhere before `number` that the fingerprint shows."""
        if self._capture is None:
            self._reopen()
        assert self._capture is not None
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, target)
        found = next(decoded(self._capture), None)
        if found is None:
            self._capture = None
            return False
        self.passed += 1
        places = np.flatnonzero(self.index.prints == fingerprint(found[1]))
        if not len(places):
            return False
        self._place = int(places[np.abs(places - target).argmin()])  # a wrong guess in a still scene shows at `number`
        if self._place > number:
            return False
        self._keep(self._place, found[1])
        return number - self._place <= _STEPS_BACK[-1]

    def _on(self, number: int) -> Frame | None:
        """Decode on to `number`; `None` if what comes is not that."""
        if self._place == number and number in self._recent:
            return self._recent[number]
        frame = self._forward(number)
        return frame if frame is not None and fingerprint(frame) == self.index.prints[number] else None

    def _forward(self, number: int) -> Frame | None:
        """The frame that comes as `number` if the decoder stands where it seems to; `None` if the video ends before."""
        assert self._capture is not None
        for _, frame in decoded(self._capture):
            self.passed += 1
            self._place += 1
            if self._place == number:
                return frame
        self._capture = None
        return None

    def _reopen(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture, self._place = open_video(self.path), -1
