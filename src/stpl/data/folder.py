"""Any video file, or any folder of images, as unlabelled clips: the camera a user wants to adapt to."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data import flow as optical_flow
from stpl.data.clip import Clip, ClipReader, Wants
from stpl.data.image import image_size, read_rgb, resize_rgb, stack_frames
from stpl.data.scene_cuts import find_cuts, thumbnail
from stpl.data.video_index import RandomAccess, VideoIndex, grabbed, open_index, open_video, retrieved
from stpl.errors import ConfigError, DataError

MEMORY_LIMIT = 2**28
"""Most bytes of decoded frames that are kept for random access: 170 frames of 512×1024, or 4,800 of 96×192."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_FOLDER_FPS = 25.0
_MOST_LETTERS = 80  # of a video's name in that of its flow's folder
_COUNTED = frozenset({".avi", ".mp4", ".m4v", ".mov"})
"""Containers that count their frames; of others OpenCV tells duration times frames a second."""


class VideoFrames:
    """Consecutive frames of a video as clips (previous frame, current frame); a `ClipReader` without labels.

    Two ways of access. `frames()` streams in order and holds one frame at a time. `len` and `read` need random access:
    the first such call looks through the whole video once, and finds its length and where scenes change; no clip
    crosses a change. The index is kept with the flow. Frames are then sought, checked and kept up to `MEMORY_LIMIT`
    bytes. Rotation that the file asks for is applied, and 10 bits become 8, by FFmpeg.

    Args:
        path: a video file that FFmpeg decodes, or a folder of images (natural order: img2 before img10).
        size: (height, width) to resize to; `None` keeps the size of the first frame, which all must have.
        stride: keep every n-th frame. Optical flow and temporal methods want small motion, so mostly 1.
        limit: keep at most this many frames.
        fps: frames a second of the source, for a folder or a file that states it wrongly; `None` asks the file and
            takes 25 for a folder.
        flow: where estimated flow is kept; `None` estimates at every read.
        as_first: where no size is given, resize frames to the first one's size instead of refusing others.
        rate: in place of a stride: frames a second to keep, by the time at which each is shown, so that a variable
            frame rate becomes an even one.
        cuts: look for changes of the scene.

    Raises:
        ConfigError: an option is out of range.
        DataError: the path does not exist, is not UTF-8, is no video, has fewer than two frames, or is a folder whose
            images differ in size.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int] | None = None,
        *,
        stride: int = 1,
        limit: int | None = None,
        fps: float | None = None,
        flow: optical_flow.FlowCache | None = None,
        as_first: bool = False,
        rate: float | None = None,
        cuts: bool = True,
    ) -> None:
        _check_options(size, stride, limit, fps, rate)
        self.path, self.stride, self.limit, self._flow = Path(path), stride, limit, flow
        self.rate, self.cuts = rate, cuts
        check_name(self.path)
        if not self.path.exists():
            raise DataError("there is no such video or folder", where=path, mend="check the path")
        self._images = _list_images(self.path) if self.path.is_dir() else None
        self._source_fps = fps or (_video_fps(self.path) if self._images is None else _FOLDER_FPS)
        self._asked_size = size
        self._recent: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        first = list(islice(self.frames(), 2))
        if len(first) < 2:
            raise DataError(
                f"{len(first) or 'no'} frame found, a clip needs two",
                where=path,
                mend="give a longer video or a folder with more images, a smaller stride or a larger limit",
            )
        self.size: tuple[int, int] = (first[0].shape[0], first[0].shape[1])
        if as_first:
            self._asked_size = self.size
        elif size is None and self._images is not None:
            _check_sizes(self._images[::stride][:limit])

    @property
    def fps(self) -> float:
        """Frames a second of the kept frames: the source's, divided by the stride, or the rate."""
        return min(self.rate, self._source_fps) if self.rate else self._source_fps / self.stride

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """All kept frames in order, uint8 `[H,W,3]` RGB, decoded anew at each call."""
        if self._images is not None:
            for number in islice(self._kept_of(self._image_times()), self.limit):
                yield self._fit(read_rgb(self._images[number]), self._images[number])
            return
        capture = open_video(self.path)
        try:
            promised, found = float(capture.get(cv2.CAP_PROP_FRAME_COUNT)), _Counted(grabbed(capture))
            for _ in islice(self._kept_of(found), self.limit):
                frame = retrieved(capture)
                if frame is None:
                    break
                yield self._fit(frame, self.path)
            if found.ended:
                _tell_missing(self.path, found.count, promised)
        finally:
            capture.release()

    def _image_times(self) -> Iterator[float]:
        return (place / self._source_fps for place in range(len(self._images or ())))

    def _kept_of(self, times: Iterable[float]) -> Iterator[int]:
        """The numbers of the frames to keep, of all by the seconds at which they are shown."""
        due: float | None = None
        for number, seconds in enumerate(times):
            if self.rate is None:
                if number % self.stride == 0:
                    yield number
            elif due is None or seconds >= due - 1e-6:
                step = 1 / self.rate
                due = (seconds if due is None or seconds > due + step else due) + step
                yield number

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
        """The file or folder, a hash of its size and time of writing, and how frames are taken from it."""
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
        """Names these very files."""
        files = [self.path] if self._images is None else self._images
        stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest = hashlib.blake2b(repr(stamps).encode(), digest_size=6).hexdigest()
        name = re.sub(r"[^\w.-]", "_", self.path.stem)[:_MOST_LETTERS]
        return f"{name}-{digest}"

    @cached_property
    def _cache_folder(self) -> str:
        """Names this very video at this size and stride, so that an edited or renamed file shares no flow."""
        height, width = self.size
        pace = f"stride{self.stride}" if self.rate is None else f"rate{self.rate:g}"
        whole = "" if self.cuts else "_uncut"  # where a scene ends, flow is that of a frame to itself
        return f"video/{self._stamp}_{height}x{width}_{pace}{whole}"

    @cached_property
    def _index(self) -> VideoIndex:
        """Of a video file."""
        kept = None if self._flow is None else self._flow.root / "video" / f"{self._stamp}.index.npz"
        index = open_index(self.path, kept)
        _tell_missing(self.path, len(index), _promised(self.path))
        return index

    @cached_property
    def _access(self) -> RandomAccess:
        return RandomAccess(self.path, self._index)

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

    def _fit(self, frame: NDArray[np.uint8], where: Path) -> NDArray[np.uint8]:
        if self._asked_size is not None:
            return resize_rgb(frame, self._asked_size)
        size = getattr(self, "size", frame.shape[:2])
        if frame.shape[:2] != size:
            raise _other_size(where, frame.shape[:2], size)
        return frame


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


def check_name(path: Path) -> None:
    """Raise `DataError` for a path that is not UTF-8: OpenCV takes no other, and configurations hold none."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise DataError("the name is not UTF-8", where=shown, mend="rename the file or folder") from None


def _check_sizes(images: list[Path]) -> None:
    """Raise `DataError` if images differ in size, by their headers: now, and not in the middle of training."""
    sizes = [image_size(image) for image in images]
    odd = [(image, size) for image, size in zip(images, sizes, strict=True) if size != sizes[0]]
    if odd:
        raise _other_size(*odd[0], sizes[0], f"; {len(odd)} of {len(images)} images have another size than it")


def _other_size(where: Path, size: tuple[int, ...], first: tuple[int, ...], more: str = "") -> DataError:
    return DataError(
        f"the frame is {size}, the first one is {first} (height, width){more}",
        where=where,
        mend="set a size (--size=HEIGHT,WIDTH), to which all frames are then resized",
    )


def _check_options(
    size: tuple[int, int] | None, stride: int, limit: int | None, fps: float | None, rate: float | None
) -> None:
    numbers = {"size": min(size or (1, 1)), "stride": stride, "limit": 1 if limit is None else limit}
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}", where="video", mend=f"correct {name}")
    for name, pace in {"fps": fps, "rate": rate}.items():
        if pace is not None and not 0 < pace < 1000:
            raise ConfigError(f"{name} must lie between 0 and 1000, got {pace}", where="video", mend=f"correct {name}")
    if rate is not None and stride != 1:
        raise ConfigError("a stride and a rate exclude each other", where="video", mend="leave one of them out")


def _list_images(folder: Path) -> list[Path]:
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(images, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which runs of digits compare as numbers (and come before letters)."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (2**63, part) for part in parts if part] + [(0, path.name)]


def _video_fps(path: Path) -> float:
    capture = open_video(path)
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return fps if 0 < fps < 1000 else _FOLDER_FPS  # some containers state none, or their clock rate


def _promised(path: Path) -> float:
    capture = open_video(path)
    promised = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return promised


class _Counted:
    """An iterator that counts, and knows whether it came to its end."""

    def __init__(self, items: Iterator[float]) -> None:
        self.items, self.count, self.ended = items, 0, False

    def __iter__(self) -> Iterator[float]:
        for item in self.items:
            self.count += 1
            yield item
        self.ended = True


@cache
def _tell_missing(path: Path, found: int, promised: float) -> None:
    """Warn, once a process, of a video that has fewer frames than its container says."""
    spare = 0 if path.suffix.lower() in _COUNTED else 1 + 0.01 * promised
    if found < promised - spare:
        print(
            f"warning: {path}: {found} frames could be read of {promised:.0f} that the file promises; it is cut off or "
            "damaged there, and the rest is left out",
            file=sys.stderr,
        )
