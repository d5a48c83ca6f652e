"""Footage: one or several videos as one stream of clips, of which none pairs frames of two of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from stpl.data.clip import ClipReader, Frame, Wants
from stpl.data.videos.video_clips import VideoFrames
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


class Footage(ClipReader):
    """Clips of several readers one after the other.

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

    @property
    def name(self) -> str:
        """The names of the parts."""
        return "+".join(part.name for part in self.parts)

    def key(self, index: int) -> str:
        """See `ClipReader.key`."""
        part, inner = self._at(index)
        return part.key(inner)

    def frame(self, index: int, offset: int = 0) -> Frame:
        """See `ClipReader.frame`."""
        part, inner = self._at(index)
        return part.frame(inner, offset)

    def flow(self, index: int, of: int = 0, to: int = -1) -> Tensor:
        """See `ClipReader.flow`."""
        part, inner = self._at(index)
        return part.flow(inner, of, to)

    def label(self, index: int, offset: int = 0) -> Tensor:
        """See `ClipReader.label`."""
        part, inner = self._at(index)
        return part.label(inner, offset)

    def visible(self, index: int, offset: int = 0) -> Tensor | None:
        """See `ClipReader.visible`."""
        part, inner = self._at(index)
        return part.visible(inner, offset)

    def require(self, wants: Wants) -> None:
        """See `ClipReader.require`."""
        for part in self.parts:
            part.require(wants)

    def _at(self, index: int) -> tuple[ClipReader, int]:
        """The reader that clip `index` is of, and its number there."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)


class Spread(Footage):
    """Some clips of a reader: short runs of successive ones, spread evenly.

    Args:
        clips: of which some are chosen.
        count: at most so many.
        together: clips of a run, so that what changes over time can be seen.
    """

    def __init__(self, clips: ClipReader, count: int, together: int = 4) -> None:
        super().__init__([clips])
        self.places = list(spread_places(len(clips), count, together))

    def __len__(self) -> int:
        return len(self.places)

    @property
    def name(self) -> str:
        """Of the reader, and how many clips are chosen."""
        return f"{self.parts[0].name}-{len(self)}"

    def _at(self, index: int) -> tuple[ClipReader, int]:
        return self.parts[0], self.places[index]


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
