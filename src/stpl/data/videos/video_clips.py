"""Footage, that is video files and folders of images, as unlabelled clips: the camera a user wants to adapt to."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data.clip import BACKWARD, Clip, ClipReader, Frame, Wants, stack_frames
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.flow.vectors import consistent
from stpl.data.image import Recent, read_rgb
from stpl.data.videos.content import content_id
from stpl.data.videos.scene_cuts import find_cuts, thumbnail
from stpl.data.videos.stream import FrameStream, Pace, Size, note_missing
from stpl.data.videos.video_index import RandomAccess, VideoIndex, open_index
from stpl.errors import DataError

MEMORY_LIMIT = 2**28
"""Most bytes of decoded frames that are kept for random access: 170 frames of 512×1024, or 4,800 of 96×192."""


class VideoFrames(FrameStream, ClipReader):
    """Consecutive frames of a video as clips; a `ClipReader` without labels.

    Two ways of access. `frames()` streams in order and holds one frame at a time. What clips are read by needs random
    access: the first such call looks through the whole video once, and finds its length and where scenes change; no
    clip crosses a change, and beyond the first or last frame of its scene that frame comes again. The index is kept
    with the flow. Frames are then sought, checked and kept up to `MEMORY_LIMIT` bytes.

    Args:
        path: see `FrameStream`, as for what else is not said here.
        size: of the frames.
        flow: estimates flow, and keeps it.
        cuts: look for changes of the scene.
        as_first: of several sizes, that of the first.
        pace: optical flow and temporal methods want small motion, so mostly a stride of 1.
    """

    def __init__(
        self,
        path: Path,
        size: Size | None = None,
        *,
        flow: FlowCache = FlowCache(),  # noqa: B008 (it does not change)
        cuts: bool = True,
        as_first: bool = False,
        **pace: Unpack[Pace],
    ) -> None:
        self._flow, self.cuts, self._recent = flow, cuts, Recent[int](MEMORY_LIMIT)
        super().__init__(path, size, as_first=as_first, **pace)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def name(self) -> str:
        """The identity of its content, and how frames are chosen from it."""
        (height, width), rate = self.size, self.rate
        pace = f"stride{self.stride}" if rate is None else f"rate{rate:g}"
        return f"{self._stamp}_{height}x{width}_{pace}{'' if self.cuts else '_uncut'}-{len(self)}"

    @property
    def cost(self) -> float:
        """Frames that were decoded so far for each that was asked for."""
        return self._access.cost if self._images is None else 1.0

    def key(self, index: int) -> str:
        """The name of the video, and the current frame's number among the kept ones."""
        return f"{self.path.name}/{self._place(index, 0):06d}"

    def frame(self, index: int, offset: int = 0) -> Frame:
        """See `ClipReader.frame`; raises `DataError` if the video changed on disk."""
        return self._frame(self._place(index, offset))

    def flow(self, index: int, of: int = 0, to: int = -1) -> Tensor:
        """See `ClipReader.flow`."""
        return torch.from_numpy(self._read_flow(self._place(index, of), self._place(index, to)))

    def visible(self, index: int, offset: int = 0) -> Tensor:
        """Pixels whose flow leads to a pixel of the frame before that leads back."""
        place, before = self._place(index, offset), self._place(index, offset - 1)
        return torch.from_numpy(consistent(self._read_flow(place, before), self._read_flow(before, place)))

    def label(self, index: int, offset: int = 0) -> Tensor:
        """Raise `DataError`: nobody labelled a video."""
        raise DataError("a plain video has no labels", where=self.path, mend="evaluate on a labelled data set")

    def _place(self, index: int, offset: int) -> int:
        """Which kept frame stands at an offset of a clip, within the scene of its current frame."""
        current = int(self._pairs[range(len(self))[index]])
        begins = [0, *self.scene_cuts, len(self._kept)]
        number = int(np.searchsorted(begins, current, side="right"))
        return min(max(current + offset, begins[number - 1]), begins[number] - 1)

    def _read_flow(self, of: int, to: int) -> NDArray[np.float32]:
        if of == to:
            return np.zeros((2, *self.size), np.float32)
        key = flow_key(self._stamp, self.size, self._kept[of], self._kept[to])
        return self._flow.find(key, self.size, lambda: (self._frame(of), self._frame(to)))

    @cached_property
    def _stamp(self) -> str:
        """Names the content of the footage, and never a file."""
        return content_id(self.path)

    @cached_property
    def _index(self) -> VideoIndex:
        """Of a video file."""
        kept = None if self._flow.root is None else self._flow.root / "video" / f"{self._stamp}.index.npz"
        index = open_index(self.path, kept)
        self._check_unchanged()
        note_missing(self.path, len(index), float(index.times.max(initial=0.0)))
        return index

    @cached_property
    def _access(self) -> RandomAccess:
        index = self._index
        self._check_unchanged()
        return RandomAccess(self.path, index)

    @cached_property
    def _kept(self) -> list[int]:
        """Numbers of the kept frames among all of the source."""
        times = self._index.times.tolist() if self._images is None else self._image_times()
        return list(islice(self._kept_of(times), self.limit))

    @cached_property
    def scene_cuts(self) -> list[int]:
        """Which of the kept frames begin a new scene, the first one left out."""
        if not self.cuts:
            return []
        if self._images is None:
            return find_cuts(self._index.thumbnails[self._kept])
        return find_cuts(np.stack([thumbnail(read_rgb(self._images[number])) for number in self._kept]))

    @cached_property
    def _pairs(self) -> NDArray[np.int64]:
        """The current frame of each clip, among the kept ones."""
        return np.setdiff1d(np.arange(1, len(self._kept)), self.scene_cuts)

    def _frame(self, place: int) -> Frame:
        """A kept frame, at the size that was asked for."""
        return self._recent.get(place, lambda: self._read_frame(self._kept[place]))

    def _read_frame(self, number: int) -> Frame:
        if self._images is None:
            return self._fit(self._access(number), self.path)
        return self._fit(read_rgb(self._images[number]), self._images[number])


def flow_key(stamp: str, size: Size, of: int, to: int) -> str:
    """The name in a `FlowCache` of the flow between two frames, by their video's `content_id` and their numbers."""
    return f"video/{stamp}_{size[0]}x{size[1]}/{of:06d}_{to:06d}"


def clips_in_order(stream: FrameStream, size: Size, flow: FlowCache | None) -> Iterator[tuple[Frame, Clip]]:
    """Every frame of a stream, and its clip as a network of this size sees it.

    The first frame comes after itself, with flow 0. Without a `flow`, each clip is a frame by itself.
    """
    stamp = "" if flow is None or flow.root is None else content_id(stream.path)
    before: tuple[int, Frame] | None = None
    for number, shown, seen in stream.views(size):
        earlier = before or (number, seen)
        yield shown, pair_clip(earlier[1], seen, flow, flow_key(stamp, size, number, earlier[0]))
        before = number, seen


def pair_clip(earlier: Frame, later: Frame, flow: FlowCache | None, key: str = "") -> Clip:
    """The clip of two frames of one size; the same one twice has flow 0. The key names their flow.

    Without a `flow`, it is that of the later frame by itself.
    """
    if flow is None:
        return Clip(stack_frames([later]))
    same = earlier is later
    found = np.zeros((2, *later.shape[:2]), np.float32) if same else flow.get(key, later, earlier)
    return Clip(stack_frames([earlier, later]), {BACKWARD: torch.from_numpy(found)})


def open_footage(paths: Sequence[Path], size: tuple[int, int] | None, **options: Any) -> ClipReader:
    """Videos as one reader; for size and options see `VideoFrames`.

    Raises:
        DataError: their frames differ in size, one cannot be read, or no two successive frames are of one scene.
    """
    videos = [VideoFrames(path, size, **options) for path in paths]
    for video in videos:
        if video.size != videos[0].size:
            what = f"the frames are {video.size}, those of {videos[0].path} {videos[0].size} (height, width)"
            mend = "set a size (--size=HEIGHT,WIDTH), to which all frames are then resized"
            raise DataError(what, where=video.path, mend=mend)
    footage = videos[0] if len(videos) == 1 else Footage(videos)
    if not len(footage):
        mend = "use a smaller stride, or footage whose scenes last longer"
        raise DataError("no two successive frames are of one scene", where=", ".join(map(str, paths)), mend=mend)
    return footage


class Footage(ClipReader):
    """Clips of several readers, of frames of one size, one after the other; `DataError` if there is none."""

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
    """At most `count` clips of a reader: runs of 4, so that change over time can be seen, spread evenly."""

    def __init__(self, clips: ClipReader, count: int) -> None:
        super().__init__([clips])
        self.places = list(spread_places(len(clips), count, together=4))

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
