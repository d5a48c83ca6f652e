"""Is footage fit to be used? Asked before anything heavy is imported, so that a refusal comes at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stpl.data.video.stream import FrameStream, check_pace
from stpl.errors import ConfigError

__all__ = ["check_footage", "one_size", "streams"]


def check_footage(
    paths: Sequence[Path | str], *, stride: int = 1, rate: float | None = None, limit: int | None = None
) -> None:
    """Refuse footage that cannot be used, by the names, headers and first frames of its files.

    Args:
        paths: video files and folders of images.
        stride: take every stride-th frame.
        rate: in place of a stride: frames a second to take.
        limit: take at most this many frames of each.

    Raises:
        ConfigError: no video is named, or an option is out of range.
        DataError: a path is no footage, holds fewer than two frames, or no decoder is there for it.
    """
    streams(paths, stride=stride, rate=rate, limit=limit)


def streams(
    paths: Sequence[Path | str], *, stride: int = 1, rate: float | None = None, limit: int | None = None
) -> list[FrameStream]:
    """The frames of footage, checked as by `check_footage`; frames of one source have the size of its first.

    Args:
        paths: see `check_footage`.
        stride: see `check_footage`.
        rate: see `check_footage`.
        limit: see `check_footage`.
    """
    check_pace(None, stride, limit, None, rate, where=None)
    if not paths:
        raise ConfigError("no video was named", where="--video", mend="name a file or a folder of images")
    if not all(map(str, paths)):
        raise ConfigError("the name of the video is empty", where="--video", mend="name a file or a folder of images")
    return [FrameStream(Path(path), stride=stride, rate=rate, limit=limit, as_first=True) for path in paths]


def one_size(sources: Sequence[FrameStream], what: str, mend: str) -> None:
    """Refuse sources whose frames differ in size.

    Args:
        sources: of frames.
        what: needs one size.
        mend: what else to do.

    Raises:
        ConfigError: they differ.
    """
    for source in sources[1:]:
        if source.size != sources[0].size:
            raise ConfigError(
                f"its frames are {source.size}, those of {sources[0].path} {sources[0].size} (height, width); {what} "
                "needs one size",
                where=source.path,
                mend=mend,
            )
