"""Any video file, or any folder of images, as unlabelled clips: the camera a user wants to adapt to."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
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
from stpl.errors import ConfigError, DataError

MEMORY_LIMIT = 4 * 2**30
"""Most bytes of decoded frames kept for random access: 2,730 frames of 512×1024, or 77,600 of 96×192."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_FOLDER_FPS = 25.0
_MOST_LETTERS = 80  # of a video's name in that of its flow's folder
_COUNTED = frozenset({".avi", ".mp4", ".m4v", ".mov"})
"""Containers that count their frames; of others OpenCV tells duration times frames a second."""


class VideoFrames:
    """Consecutive frames of a video as clips (previous frame, current frame); a `ClipReader` without labels.

    Two ways of access. `frames()` streams in order and holds one frame at a time, for prediction on videos of any
    length. `len` and `read` need random access, which video files do not offer: the first such call decodes everything
    once and keeps it at `size`, up to `MEMORY_LIMIT` bytes.

    Args:
        path: a video file that FFmpeg decodes, or a folder of images (natural order: img2 before img10).
        size: (height, width) to resize to; `None` keeps the size of the first frame, which all must have.
        stride: keep every n-th frame. Optical flow and temporal methods want small motion, so mostly 1.
        limit: keep at most this many frames.
        fps: frames a second of the source, for a folder or a file that states it wrongly; `None` asks the file and
            takes 25 for a folder.
        flow: where estimated flow is kept; `None` estimates at every read.
        as_first: where no size is given, resize frames to the first one's size instead of refusing others.

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
    ) -> None:
        _check_options(size, stride, limit, fps)
        self.path, self.stride, self.limit, self._flow = Path(path), stride, limit, flow
        check_name(self.path)
        if not self.path.exists():
            raise DataError("there is no such video or folder", where=path, mend="check the path")
        self._images = _list_images(self.path) if self.path.is_dir() else None
        self._source_fps = fps or (_video_fps(self.path) if self._images is None else _FOLDER_FPS)
        self._asked_size = size
        first = list(islice(self._decode(), 2))
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
        """Frames a second of the kept frames: the source's, divided by the stride."""
        return self._source_fps / self.stride

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """All kept frames in order, uint8 `[H,W,3]` RGB; decoded anew at each call unless already in memory."""
        return iter(self._memory) if "_memory" in self.__dict__ else self._decode()

    def __len__(self) -> int:
        return len(self._memory) - 1

    def read(self, index: int, wants: Wants) -> Clip:
        """The clip of kept frames `index` and `index + 1`; see `ClipReader.read`.

        Raises:
            DataError: a label is wanted, or the frames do not fit in memory.
        """
        if wants.label:
            raise DataError("a plain video has no labels", where=self.path, mend="evaluate on a labelled data set")
        return self._read(index, wants, 0, 1)

    def _read(self, index: int, wants: Wants, by: int, previous: int) -> Clip:
        """The frame `by` frames before the current one of a clip, after the one `previous` frames before that."""
        current = range(len(self))[index] + 1
        last = len(self._memory) - 1
        later, earlier = (min(max(place, 0), last) for place in (current - by, current - by - previous))
        pair = [self._memory[earlier], self._memory[later]]
        return Clip(
            frames=stack_frames(pair),
            flow=self._read_flow(later, previous, pair) if wants.flow else None,
            key=f"{self.path.name}/{later:06d}",
        )

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

    def _read_flow(self, place: int, previous: int, pair: list[NDArray[np.uint8]]) -> Tensor:
        earlier, later = pair
        if self._flow is None:
            flow = optical_flow.estimate(later, earlier)
        else:
            way = "" if previous == 1 else f"_{previous}"
            flow = self._flow.get(f"{self._cache_folder}/{place:06d}{way}", later, earlier)
        return torch.from_numpy(flow).unsqueeze(0)

    @cached_property
    def _cache_folder(self) -> str:
        """Names this very video at this size and stride, so that an edited or renamed file shares no flow."""
        height, width = self.size
        files = [self.path] if self._images is None else self._images
        stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest = hashlib.blake2b(repr(stamps).encode(), digest_size=6).hexdigest()
        name = re.sub(r"[^\w.-]", "_", self.path.stem)[:_MOST_LETTERS]
        return f"video/{name}-{digest}_{height}x{width}_stride{self.stride}"

    @cached_property
    def _memory(self) -> list[NDArray[np.uint8]]:
        kept: list[NDArray[np.uint8]] = []
        room = MEMORY_LIMIT
        for frame in self._decode():
            room -= frame.nbytes
            if room < 0:
                raise DataError(
                    f"the frames need more than {MEMORY_LIMIT / 2**30:.2g} GiB of memory (stopped after {len(kept)})",
                    where=self.path,
                    mend="set a smaller size, a larger stride, or a limit on the number of frames",
                )
            kept.append(frame)
        return kept

    def _decode(self) -> Iterator[NDArray[np.uint8]]:
        if self._images is None:
            frames = islice(_decode_video(self.path, self.stride), self.limit)
            return (self._fit(frame, self.path) for frame in frames)
        kept = self._images[:: self.stride][: self.limit]
        return (self._fit(read_rgb(image), image) for image in kept)

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


def _check_options(size: tuple[int, int] | None, stride: int, limit: int | None, fps: float | None) -> None:
    numbers = {"size": min(size or (1, 1)), "stride": stride, "limit": 1 if limit is None else limit}
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}", where="video", mend=f"correct {name}")
    if fps is not None and not 0 < fps < 1000:
        raise ConfigError(f"fps must lie between 0 and 1000, got {fps}", where="video", mend="correct fps")


def _list_images(folder: Path) -> list[Path]:
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(images, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which runs of digits compare as numbers (and come before letters)."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (2**63, part) for part in parts if part] + [(0, path.name)]


def _open_video(path: Path) -> cv2.VideoCapture:
    # Absolute, for FFmpeg takes what stands before a colon for a protocol.
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise DataError(
            "this is no video that OpenCV's FFmpeg can decode",
            where=path,
            mend="convert it (ffmpeg -i IN -c:v libx264 OUT.mp4), or give a folder of images; an .mp4 that was cut off "
            "has lost the index at its end, and needs a repairing program",
        )
    return capture


def _video_fps(path: Path) -> float:
    capture = _open_video(path)
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return fps if 0 < fps < 1000 else _FOLDER_FPS  # some containers state none, or their clock rate


def _decode_video(path: Path, stride: int) -> Iterator[NDArray[np.uint8]]:
    capture = _open_video(path)
    promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    try:
        position = 0
        while capture.grab():
            if position % stride == 0:
                decoded, frame = capture.retrieve()
                if not decoded:
                    break
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            position += 1
        _tell_missing(path, position, promised)
    finally:
        capture.release()


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
