"""Makes frame lists: text files with one current frame a line, as `stpl.data.sequence_set.open_set` reads them."""

from collections.abc import Iterable
from pathlib import Path

from stpl.data.patterns import FrameFiles, FrameId, text_lines
from stpl.data.sequence_set import SequenceSet
from stpl.errors import DataError, did_you_mean
from stpl.files import write_atomically


def chosen_frames(files: SequenceSet, videos: Path | None = None, *, every: bool = False) -> list[FrameId]:
    """Current frames of a split, in order.

    Args:
        files: the split.
        videos: text file with the videos to keep, one a line.
        every: take every frame with a predecessor from the recordings that the current frames are of.

    Raises:
        DataError: the file cannot be read, or names a video that the split does not have.
    """
    frames = recordings(files.frames, files.current) if every else list(files.current)
    if videos is None:
        return frames
    known = {frame.sequence for frame in files.current}
    kept = set()
    for number, name in text_lines(videos, "the list of videos"):
        if name not in known:
            mend = did_you_mean(name, known).rstrip() or f"write names such as {min(known)}"
            raise DataError(f"line {number} is no video of this split: '{name}'", where=videos, mend=mend)
        kept.add(name)
    if not kept:
        raise DataError("the list of videos is empty", where=videos, mend=f"write names such as {min(known)}")
    return [frame for frame in frames if frame.sequence in kept]


def recordings(frames: FrameFiles, current: Iterable[FrameId]) -> list[FrameId]:
    """The frames with a predecessor, in order, of all uninterrupted recordings that a current frame is of."""
    wanted, found = set(current), list[list[FrameId]]()
    for frame in frames:
        if not found or frame.before() != found[-1][-1]:
            found.append([])
        found[-1].append(frame)
    return [frame for recording in found if wanted.intersection(recording) for frame in recording[1:]]


def write_list(files: SequenceSet, frames: Iterable[FrameId], path: Path) -> None:
    """Write a frame list as a whole."""
    text = "".join(f"{files.frames.paths[frame]}\n" for frame in frames)
    write_atomically(path, text, kind=DataError)
