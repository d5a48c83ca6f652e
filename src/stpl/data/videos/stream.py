"""Any video file, or any folder of images, as a stream of frames. Imports no torch; clips are made in `video_clips`."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypedDict, Unpack

from stpl.data.image import image_size, read_rgb, resize_rgb
from stpl.data.paths import check_path
from stpl.data.videos.conversion import Repeats
from stpl.data.videos.decoder import (
    Frame,
    codec_of,
    file_state,
    fingerprint,
    grabbed,
    open_video,
    retrieved,
    video_header,
)
from stpl.data.videos.image_folder import image_endings, list_frames
from stpl.errors import ConfigError, DataError

FOLDER_FPS = 25.0
_JUMP = 0.5  # seconds: time that falls back by more begins anew, by less it is rounding
_LOOKED = 8  # steps of so many frames are decoded to see whether there are two, whatever the header promises

Size = tuple[int, int]


class Pace(TypedDict, total=False):
    """Which frames of a video are kept, and how fast they follow each other.

    Attributes:
        stride: keep every n-th frame.
        rate: in place of a stride: frames a second to keep, by the time at which each is shown, so that a variable
            frame rate becomes an even one.
        limit: keep at most this many frames.
        fps: frames a second of the source, for a folder or a file that states it wrongly; `None` asks the file and
            takes 25 for a folder.
    """

    stride: int
    rate: float | None
    limit: int | None
    fps: float | None


class FrameStream:
    """Frames of a video in order; holds one at a time.

    Rotation that the file asks for is applied, and 10 bits become 8, by FFmpeg.

    Args:
        path: a video file that FFmpeg decodes, or a folder of images (natural order: img2 before img10).
        size: (height, width) to resize to; `None` keeps the size of the first frame, which all must have.
        as_first: where no size is given, resize frames to the first one's size instead of refusing others.
        pace: see `Pace`.

    Raises:
        ConfigError: an option is out of range.
        DataError: the path does not exist, is not UTF-8, is no video, has fewer than two frames, or is a folder whose
            images differ in size.
    """

    def __init__(self, path: Path, size: Size | None = None, *, as_first: bool = False, **pace: Unpack[Pace]) -> None:
        check_pace(size, **pace)
        self.path, self.stride, self.rate = Path(path), pace.get("stride", 1), pace.get("rate")
        self.limit = pace.get("limit")
        check_path(self.path)
        self._images = list_frames(self.path) if self.path.is_dir() else None
        self._state = None if self._images is not None else file_state(self.path)
        self._source_fps = pace.get("fps") or (video_header(self.path).fps if self._images is None else FOLDER_FPS)
        self._asked_size = size
        first = self._first_size()
        self.size: Size = size or first
        if as_first:
            self._asked_size = self.size
        elif size is None and self._images is not None:
            _check_sizes(self._images[:: self.stride][: self.limit])

    def _first_size(self) -> Size:
        """Height and width of the first frame; raises `DataError` if it cannot be decoded, or if no other follows."""
        if self._images is not None:
            found = [frame.shape[:2] for frame in islice(self.frames(), 2)]
        else:
            header, wanted = video_header(self.path), min(self.limit or 2, 2)
            if header.frames > self._step() > _LOOKED:
                found = [header.size] * wanted
            else:
                capture = open_video(self.path)
                found = [header.size for _ in islice(self._kept_of(grabbed(capture)), wanted)]
                capture.release()
        if len(found) < 2:
            alone = self._images is None and self.path.suffix.lower() in image_endings()
            longer = "give a longer video or a folder with more images, a smaller stride or a larger limit"
            mend = "give the folder of the images" if alone else longer
            raise DataError(f"{len(found) or 'no'} frame found, a clip needs two", where=self.path, mend=mend)
        return found[0][0], found[0][1]

    def _step(self) -> int:
        """About how many frames lie from one that is kept to the next."""
        return self.stride if self.rate is None else math.ceil(self._source_fps / self.rate)

    @property
    def fps(self) -> float:
        """Frames a second of the kept frames: the source's, divided by the stride, or the rate."""
        return min(self.rate, self._source_fps) if self.rate else self._source_fps / self.stride

    def frames(self) -> Iterator[Frame]:
        """All kept frames in order, uint8 `[H,W,3]` RGB, decoded anew at each call.

        Raises:
            DataError: a frame cannot be used; or the video changed since it was opened.
        """
        return (self._fit(frame, where) for _, frame, where in self._decoded())

    def views(self, size: Size) -> Iterator[tuple[int, Frame, Frame]]:
        """The number of each kept frame, the frame, and the same as a network of this size sees it."""
        for number, frame, where in self._decoded():
            yield number, self._fit(frame, where), resize_rgb(frame, size)

    def _decoded(self) -> Iterator[tuple[int, Frame, Path]]:
        """Number, frame as it is stored, and file of all kept frames."""
        if self._images is not None:
            for number in islice(self._kept_of(self._image_times()), self.limit):
                yield number, read_rgb(self._images[number]), self._images[number]
            return
        capture = open_video(self.path)
        try:
            found, repeats = _Counted(grabbed(capture)), Repeats(self.path, codec_of(capture))
            for number in islice(self._kept_of(found), self.limit):
                frame = retrieved(capture)
                self._check_unchanged()
                if frame is None:
                    break
                repeats.see(number, fingerprint(frame))
                yield number, frame, self.path
            if found.ended:
                self._check_unchanged()
                note_missing(self.path, found.count, found.last)
        finally:
            capture.release()

    def _check_unchanged(self) -> None:
        """Raise `DataError` if a video is not the file that it was when it was opened."""
        try:
            same = file_state(self.path) == self._state
        except OSError as error:
            raise DataError(f"the video can no longer be read ({error.strerror})", where=self.path) from error
        if not same:
            what = "the video changed while it was read (is it still being written?)"
            raise DataError(what, where=self.path, mend="call again when it is whole")

    def _image_times(self) -> Iterator[float]:
        return (place / self._source_fps for place in range(len(self._images or ())))

    def _kept_of(self, times: Iterable[float]) -> Iterator[int]:
        """The numbers of the frames to keep, of all by the seconds at which they are shown."""
        due: float | None = None
        for number, seconds in enumerate(self._rising(times)):
            if self.rate is None:
                if number % self.stride == 0:
                    yield number
            elif due is None or seconds >= due - 1e-6:
                step = 1 / self.rate
                due = (seconds if due is None or seconds > due + step else due) + step
                yield number

    def _rising(self, times: Iterable[float]) -> Iterator[float]:
        """Times that never fall: where those of a file begin anew, as in pieces that were joined, they go on."""
        last, offset = -math.inf, 0.0
        for seconds in times:
            if seconds + offset < last - _JUMP:
                offset = last + 1 / self._source_fps - seconds
            last = max(last, seconds + offset)
            yield last

    def _fit(self, frame: Frame, where: Path) -> Frame:
        if self._asked_size is not None:
            return resize_rgb(frame, self._asked_size)
        size = getattr(self, "size", frame.shape[:2])
        if frame.shape[:2] != size:
            raise _other_size(where, frame.shape[:2], size)
        return frame


def _check_sizes(images: list[Path]) -> None:
    """Raise `DataError` if images differ in size, by their headers: now, and not in the middle of training."""
    sizes = [image_size(image) for image in images]
    odd = [(image, size) for image, size in zip(images, sizes, strict=True) if size != sizes[0]]
    if odd:
        raise _other_size(*odd[0], sizes[0], f"; {len(odd)} of {len(images)} images have another size than it")


def _other_size(where: Path, size: tuple[int, ...], first: tuple[int, ...], more: str = "") -> DataError:
    what = f"the frame is {size}, the first one is {first} (height, width){more}"
    return DataError(what, where=where, mend="set a size (--size=HEIGHT,WIDTH), to which all frames are then resized")


def check_pace(size: Size | None = None, *, where: str | None = "video", **pace: Unpack[Pace]) -> None:
    """Raise `ConfigError` for an option of `FrameStream` that is out of range.

    Messages begin with `where`, or else with the option as the command line has it.
    """

    def refused(name: str, what: str) -> ConfigError:
        return ConfigError(what, where=where or f"--{name}", mend=f"correct {name}")

    stride, limit = pace.get("stride", 1), pace.get("limit")
    for name, value in {"size": min(size or (1, 1)), "stride": stride, "limit": 1 if limit is None else limit}.items():
        if value < 1:
            raise refused(name, f"{name} must be at least 1, got {value}")
    for name, found in {"fps": pace.get("fps"), "rate": pace.get("rate")}.items():
        if found is not None and not 0 < found < 1000:
            raise refused(name, f"{name} must lie between 0 and 1000, got {found}")
    if pace.get("rate") is not None and stride != 1:
        raise refused("rate", "a stride and a rate exclude each other")


class _Counted:
    """An iterator that counts, and knows whether it came to its end."""

    def __init__(self, items: Iterator[float]) -> None:
        self.items, self.count, self.last, self.ended = items, 0, 0.0, False

    def __iter__(self) -> Iterator[float]:
        for item in self.items:
            self.count, self.last = self.count + 1, item
            yield item
        self.ended = True


def note_missing(path: Path, found: int, seconds: float) -> None:
    """Warn, once a process, if a video's container promises more than the `found` frames, the last at `seconds`."""
    header = video_header(path)
    if not header.is_whole(found, seconds):
        read = f"{found} frames could be read of {header.frames} that the file promises"
        _warn(f"{path}: {read}; it is cut off or damaged there, and the rest is left out")


@cache
def _warn(what: str) -> None:
    print(f"warning: {what}", file=sys.stderr)


def check_footage(paths: Sequence[Path | str], **pace: Unpack[Pace]) -> list[FrameStream]:
    """The frames of video files and folders of images, each at the size of its first; see `FrameStream`.

    Asked before anything heavy is imported, so that a refusal, by names, headers and first frames, comes at once.

    Raises:
        ConfigError: no video is named, or an option is out of range.
        DataError: a path is no footage, holds fewer than two frames, or no decoder is there for it.
    """
    check_pace(where=None, **pace)
    if not paths or not all(map(str, paths)):
        what = "the name of the video is empty" if paths else "no video was named"
        raise ConfigError(what, where="--video", mend="name a file or a folder of images")
    return [FrameStream(Path(path), as_first=True, **pace) for path in paths]


def one_size(sources: Sequence[FrameStream], what: str, mend: str) -> None:
    """Raise `ConfigError` if frames differ in size, which `what` cannot take; `mend` says what else to do."""
    for source in sources[1:]:
        if source.size != sources[0].size:
            first = f"those of {sources[0].path} {sources[0].size} (height, width)"
            found = f"its frames are {source.size}, {first}; {what} needs one size"
            raise ConfigError(found, where=source.path, mend=mend)
