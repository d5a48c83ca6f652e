"""Any video file, or any folder of images, as unlabelled clips: the camera a user wants to adapt to."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data import flow as optical_flow
from stpl.data.clip import Clip, ClipReader, Wants, stack_frames
from stpl.data.image import read_rgb
from stpl.data.video.content import content_id
from stpl.data.video.scene_cuts import find_cuts, thumbnail
from stpl.data.video.stream import FrameStream, Size, note_missing
from stpl.data.video.video_index import RandomAccess, VideoIndex, open_index
from stpl.errors import DataError

MEMORY_LIMIT = 2**28
"""Most bytes of decoded frames that are kept for random access: 170 frames of 512×1024, or 4,800 of 96×192."""


class VideoFrames(FrameStream):
    """Consecutive frames of a video as clips (previous frame, current frame); a `ClipReader` without labels.

    Two ways of access. `frames()` streams in order and holds one frame at a time. `len` and `read` need random access:
    the first such call looks through the whole video once, and finds its length and where scenes change; no clip
    crosses a change. The index is kept with the flow. Frames are then sought, checked and kept up to `MEMORY_LIMIT`
    bytes.

    Args:
        path: see `FrameStream`.
        size: see `FrameStream`.
        stride: keep every n-th frame. Optical flow and temporal methods want small motion, so mostly 1.
        limit: see `FrameStream`.
        fps: see `FrameStream`.
        flow: where estimated flow is kept; `None` estimates at every read.
        as_first: see `FrameStream`.
        rate: see `FrameStream`.
        cuts: look for changes of the scene.

    Raises:
        ConfigError: an option is out of range.
        DataError: the footage cannot be used; see `FrameStream`.
    """

    def __init__(
        self,
        path: Path,
        size: Size | None = None,
        *,
        stride: int = 1,
        limit: int | None = None,
        fps: float | None = None,
        flow: optical_flow.FlowCache | None = None,
        as_first: bool = False,
        rate: float | None = None,
        cuts: bool = True,
    ) -> None:
        self._flow, self.cuts = flow, cuts
        self._recent: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        super().__init__(path, size, stride=stride, limit=limit, fps=fps, as_first=as_first, rate=rate)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def cost(self) -> float:
        """Frames that were decoded so far for each that was asked for."""
        return self._access.cost if self._images is None else 1.0

    def read(self, index: int, wants: Wants) -> Clip:
        """A clip of two successive kept frames of one scene; see `ClipReader.read`.

        Raises:
            DataError: a label is wanted, or the video changed on disk.
        """
        if wants.label:
            raise DataError("a plain video has no labels", where=self.path, mend="evaluate on a labelled data set")
        return self._read(index, wants, 0, 1)

    def _read(self, index: int, wants: Wants, by: int, previous: int) -> Clip:
        """The frame `by` frames before the current one of a clip, after the one `previous` frames before that.

        Frames beyond the scene's first or last are that frame again.
        """
        current = int(self._pairs[range(len(self))[index]])
        first, last = self._scene(current)
        later, earlier = (min(max(place, first), last) for place in (current - by, current - by - previous))
        pair = [self._frame(earlier), self._frame(later)]
        flow = self._read_flow(later, previous, pair) if wants.flow else None
        return Clip(
            frames=stack_frames(pair),
            flow=None if flow is None else torch.from_numpy(flow).unsqueeze(0),
            visible=self._visible(flow, later, previous, pair) if wants.visible and flow is not None else None,
            key=f"{self.path.name}/{later:06d}",
        )

    def _scene(self, place: int) -> tuple[int, int]:
        """First and last frame of the scene that a kept frame is of."""
        begins = [0, *self.scene_cuts, len(self._kept)]
        number = int(np.searchsorted(begins, place, side="right"))
        return begins[number - 1], begins[number] - 1

    def neighbours(self, by: int, previous: int = 1) -> ClipReader:
        """See `ClipReader.neighbours`."""
        return _Neighbours(self, by, previous)

    def label(self, index: int, before: int = 0) -> Tensor:
        """Raise `DataError`: nobody labelled a video."""
        raise DataError("a video has no labels", where=self.path, mend="take a method that needs none")

    @property
    def name(self) -> str:
        """The identity of its content, and how frames are taken from it."""
        return f"{Path(self._cache_folder).name}-{len(self)}"

    def _read_flow(self, place: int, previous: int, pair: list[NDArray[np.uint8]], way: str = "") -> optical_flow.Flow:
        """Flow from the later of two frames to the earlier, kept under the later one's number."""
        earlier, later = pair
        if self._flow is None:
            return optical_flow.estimate(later, earlier)
        distance = "" if previous == 1 else f"_{previous}"
        return self._flow.get(f"{self._cache_folder}/{place:06d}{distance}{way}", later, earlier)

    def _visible(self, flow: optical_flow.Flow, place: int, previous: int, pair: list[NDArray[np.uint8]]) -> Tensor:
        """Pixels of the later frame whose flow leads to a pixel that leads back."""
        forward = self._read_flow(place, previous, pair[::-1], "_forward")
        return torch.from_numpy(optical_flow.consistent(flow, forward)).unsqueeze(0)

    @cached_property
    def _stamp(self) -> str:
        """Names the content of the footage, and never a file."""
        return content_id(self.path)

    @cached_property
    def _cache_folder(self) -> str:
        """Names this very content at this size and stride, so that an edited or replaced file shares no flow."""
        height, width = self.size
        pace = f"stride{self.stride}" if self.rate is None else f"rate{self.rate:g}"
        whole = "" if self.cuts else "_uncut"  # where a scene ends, flow is that of a frame to itself
        return f"video/{self._stamp}_{height}x{width}_{pace}{whole}"

    @cached_property
    def _index(self) -> VideoIndex:
        """Of a video file."""
        kept = (
            None
            if self._flow is None or self._flow.root is None
            else self._flow.root / "video" / f"{self._stamp}.index.npz"
        )
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

    def _frame(self, place: int) -> NDArray[np.uint8]:
        """A kept frame, at the size that was asked for."""
        if place not in self._recent:
            number = self._kept[place]
            if self._images is None:
                frame = self._fit(self._access(number), self.path)
            else:
                frame = self._fit(read_rgb(self._images[number]), self._images[number])
            self._recent[place] = frame
            while len(self._recent) * frame.nbytes > MEMORY_LIMIT and len(self._recent) > 1:
                self._recent.popitem(last=False)
        self._recent.move_to_end(place)
        return self._recent[place]


class _Neighbours:
    """Clips of a video around those of another reader of it; see `ClipReader.neighbours`."""

    def __init__(self, clips: VideoFrames, by: int, previous: int) -> None:
        self.clips, self.by, self.previous = clips, by, previous

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, wants: Wants) -> Clip:
        """Two frames of the video."""
        return self.clips._read(index, wants, self.by, self.previous)

    def label(self, index: int, before: int = 0) -> Tensor:
        """Raises `DataError`."""
        return self.clips.label(index, before)

    def neighbours(self, by: int, previous: int = 1) -> ClipReader:
        """Neighbours of these."""
        return _Neighbours(self.clips, self.by + by, previous)

    @property
    def name(self) -> str:
        """Of the reader, and which neighbours these are."""
        return f"{self.clips.name}-{self.by}-{self.previous}"
