"""Whether OpenCV can turn the pictures of a video into RGB.

If FFmpeg's conversion of a picture fails (as it does for interlaced ones from FFmpeg 8 on), OpenCV goes on with what
lay in its buffer: the picture before, or memory that nobody wrote. It says so only in FFmpeg's log, whose level is
one for the whole process and which goes past Python to stderr. So a video that gives reason for doubt is asked again in
a process of its own, whose log is read. Imports no torch.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2

from stpl.errors import DataError

_NEAR = 300  # frames, up to which a place is found by counting
_ASKED = 4  # pictures that are converted in the other process
_SECONDS = 60.0
_PATIENCE = 60  # repetitions, after which one is checked again
_PROGRESSIVE = frozenset({"VP80", "VP90"})
"""Codecs that know neither interlacing nor layouts of pixels that cannot be converted."""


class Repeats:
    """Looks for pictures that repeat the one before, as all do whose conversion failed, and has some of them checked.

    Of a still scene, in which pictures repeat too, the first repetition is checked, the fifth, the 25th, and so on, at
    the latest after 60 more: what follows a still beginning may be of another kind.
    """

    def __init__(self, path: Path, codec: str) -> None:
        self.path, self._checked = path, codec not in _PROGRESSIVE
        self._last: int | None = None
        self._count, self._due = 0, 1

    def see(self, number: int, fingerprint: int) -> None:
        """Look at the picture of frame `number`, from 0; raises `DataError` if its conversion failed."""
        if fingerprint == self._last and self._checked:
            self._count += 1
            if self._count >= self._due:
                self._due += min(4 * self._due, _PATIENCE)
                check_conversion(self.path, number)
        self._last = fingerprint


def check_conversion(path: Path, number: int) -> None:
    """Raise `DataError` if the conversion of frame `number` fails; asked once a process for each frame."""
    log = _log(path.absolute(), path.stat().st_mtime_ns, number)
    said = [line for line in log.splitlines() if "swscaler" in line]
    if any("interlaced" in line for line in said):
        what = "the video is interlaced (each frame holds two half pictures), which this OpenCV cannot decode"
        raise DataError(what, where=path, mend="deinterlace it: ffmpeg -i IN -vf yadif -c:v libx264 OUT.mp4")
    if said:
        what = "OpenCV cannot turn the pictures of this video into RGB (its layout of pixels is unusual)"
        raise DataError(what, where=path, mend="convert it: ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4")


@cache
def _log(path: Path, _: int, number: int) -> str:
    """What FFmpeg says is wrong while a frame and those after it are converted; nothing if it cannot be asked."""
    if not sys.executable:
        return ""
    code = f"from stpl.data.videos.conversion import convert; convert({str(path)!r}, {number})"
    places = os.pathsep.join(place or os.curdir for place in sys.path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONPATH": places},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stderr.decode(errors="replace")


def convert(path: str, number: int) -> None:
    """Convert a frame of a video and some after it: what the other process does."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if number > _NEAR:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
    else:
        for _ in range(number):
            capture.grab()
    for _ in range(_ASKED):
        if not capture.grab():
            break
        capture.retrieve()
