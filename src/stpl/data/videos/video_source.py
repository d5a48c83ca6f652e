"""Is footage fit to be used? Asked before anything heavy is imported, so that a refusal comes at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from stpl.data.videos.stream import FrameStream, Pace, check_pace
from stpl.errors import ConfigError


def check_footage(paths: Sequence[Path | str], **pace: Unpack[Pace]) -> list[FrameStream]:
    """Refuse footage that cannot be used, by the names, headers and first frames of its files.

    Args:
        paths: video files and folders of images.
        pace: see `Pace`.

    Returns:
        The frames of each, at the size of its first.

    Raises:
        ConfigError: no video is named, or an option is out of range.
        DataError: a path is no footage, holds fewer than two frames, or no decoder is there for it.
    """
    check_pace(where=None, **pace)
    if not paths:
        raise ConfigError("no video was named", where="--video", mend="name a file or a folder of images")
    if not all(map(str, paths)):
        raise ConfigError("the name of the video is empty", where="--video", mend="name a file or a folder of images")
    return [FrameStream(Path(path), as_first=True, **pace) for path in paths]


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
