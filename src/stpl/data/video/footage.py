"""Footage: one or several videos as one stream of clips, of which none pairs frames of two of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from stpl.data.clip import Clip, ClipReader, Wants
from stpl.data.video.video_clips import VideoFrames
from stpl.errors import DataError


def open_footage(paths: Sequence[Path], size: tuple[int, int] | None, **options: Any) -> ClipReader:
    """Videos as one reader.

    Args:
        paths: files and folders of images.
        size: height and width of the frames.
        options: of each, see `VideoFrames`.

    Raises:
        DataError: their frames differ in size, one cannot be read, or no two successive frames are of one scene.
    """
    videos = [VideoFrames(path, size, **options) for path in paths]
    for video in videos:
        if video.size != videos[0].size:
            raise DataError(
                f"the frames are {video.size}, those of {videos[0].path} {videos[0].size} (height, width)",
                where=video.path,
                mend="set a size (--size=HEIGHT,WIDTH), to which all frames are then resized",
            )
    footage = videos[0] if len(videos) == 1 else Footage(videos)
    if not len(footage):
        raise DataError(
            "no two successive frames are of one scene",
            where=", ".join(map(str, paths)),
            mend="use a smaller stride, or footage whose scenes last longer",
        )
    return footage


class Footage:
    """Clips of several readers one after the other; a `ClipReader`.

    Args:
        parts: the readers, of frames of one size.

    Raises:
        DataError: there is none.
    """

    def __init__(self, parts: Sequence[ClipReader]) -> None:
        if not parts:
            raise DataError("no video was named", mend="name a file or a folder of images")
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int, wants: Wants) -> Clip:
        """See `ClipReader.read`."""
        part, inner = self._place(index)
        return part.read(inner, wants)

    def label(self, index: int, before: int = 0) -> Tensor:
        """See `ClipReader.label`."""
        part, inner = self._place(index)
        return part.label(inner, before)

    def neighbours(self, by: int, previous: int = 1) -> ClipReader:
        """See `ClipReader.neighbours`: each within its own video."""
        return Footage([part.neighbours(by, previous) for part in self.parts])

    @property
    def name(self) -> str:
        """The names of the parts."""
        return "+".join(part.name for part in self.parts)

    def _place(self, index: int) -> tuple[ClipReader, int]:
        """The reader that clip `index` is of, and its number there."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)


class Spread:
    """Some clips of a reader: short runs of successive ones, spread evenly; a `ClipReader`.

    Args:
        clips: of which some are taken.
        count: at most so many.
        together: clips of a run, so that what changes over time can be seen.
    """

    def __init__(self, clips: ClipReader, count: int, together: int = 4) -> None:
        self.clips = clips
        self.places = list(spread_places(len(clips), count, together))

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int, wants: Wants) -> Clip:
        """See `ClipReader.read`."""
        return self.clips.read(self.places[index], wants)

    def label(self, index: int, before: int = 0) -> Tensor:
        """See `ClipReader.label`."""
        return self.clips.label(self.places[index], before)

    def neighbours(self, by: int, previous: int = 1) -> ClipReader:
        """See `ClipReader.neighbours`."""
        near = Spread(self.clips.neighbours(by, previous), len(self.clips))
        near.places = self.places
        return near

    @property
    def name(self) -> str:
        """Of the reader, and how many clips are taken."""
        return f"{self.clips.name}-{len(self)}"


def spread_places(total: int, count: int, together: int = 1) -> Iterator[int]:
    """Up to `count` of the numbers below `total`, in runs of `together` that are spread evenly."""
    if total <= count:
        yield from range(total)
        return
    length = min(together, count)
    runs = count // length
    for run in range(runs):
        first = round(run * (total - length) / max(1, runs - 1))
        yield from range(first, first + length)
