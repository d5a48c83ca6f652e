"""Cityscapes-Seq: 30-frame snippets of which one frame each is labelled (Cordts et al., CVPR 2016).

Layout under `ROOT/Cityscapes`, as unpacked from `leftImg8bit_sequence_trainvaltest.zip` and
`gtFine_trainvaltest.zip`:

    leftImg8bit_sequence/{split}/{city}/{city}_{sequence:06}_{frame:06}_leftImg8bit.png    1024×2048 RGB
    gtFine/{split}/{city}/{city}_{sequence:06}_{frame:06}_gtFine_labelIds.png              ids 0..33

The labelled frame is the 20th of its snippet, but its *number* is 000019 in only 1877 of 2975 training and 233 of 500
validation snippets: numbers are always read from file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stpl.data.layout import FilePattern, FrameId, LabelFormat, Layout, SequenceSet, check_options
from stpl.errors import DataError

NAME, FOLDER, SPLITS = "cityscapes", "Cityscapes", ("train", "val", "test")
SIZE = (512, 1024)
"""Input size (height, width) of the lineage."""
SNIPPET_LENGTH, LABELLED_POSITION = 30, 19
"""Frames in a snippet, and the place (counted from 0) of the labelled one."""

_SEQUENCE = r"[A-Za-z0-9-]+_\d{6}"
_LAST_ID = 33
_NO_ID = 255  # id -1 (licence plate) where a tool drew it into 8 bits


def open_split(
    root: Path, split: str, *, frame_list: Path | None = None, size: tuple[int, int] = SIZE, previous: int = 1
) -> SequenceSet:
    """The clips of one split.

    The current frames are, in order of precedence: those of `frame_list`; those with a label under `gtFine/{split}`
    (file names are listed, no label is opened); the 20th frame of each snippet, where a snippet is a stretch of 30
    frames with consecutive numbers.

    Args:
        root: folder that holds `Cityscapes`.
        split: `train`, `val` or `test`.
        frame_list: text file with one current frame a line, `{city}/{city}_{sequence}_{frame}_leftImg8bit.png` (the
            lineage's `CityscapesSeq_list/*.txt`).
        size: (height, width) of frames and training labels.
        previous: distance of the previous frame, in frames (17 a second).

    Raises:
        ConfigError: an option is out of range.
        DataError: a folder, frame or line of the list is missing or malformed.
    """
    check_options(NAME, split, SPLITS, size, previous)
    folder, stem = Path(root) / FOLDER, "{city}/{sequence}_{number:06d}"
    layout = Layout(
        FilePattern(folder / "leftImg8bit_sequence" / split, f"{stem}_leftImg8bit.png", _SEQUENCE),
        FilePattern(folder / "gtFine" / split, f"{stem}_gtFine_labelIds.png", _SEQUENCE),
        key="{sequence}_{number:06d}",
        flow_name="{sequence}_{number:06d}_{before:06d}_int16_x10.npy",
        line="aachen/aachen_000000_000019_leftImg8bit.png",
        mend=f"unpack leftImg8bit_sequence_trainvaltest.zip into {folder}, or correct the root or split",
    )
    on_disk, labelled = layout.on_disk(), layout.labels.scan()
    listed = layout.listed(frame_list)
    current = listed or sorted(labelled) or list(_twentieth_frames(on_disk, layout.frames.folder))
    return SequenceSet(
        NAME,
        split,
        layout.clips(current, on_disk, labelled, previous),
        folder,
        f"Estimated_optical_flow_Cityscapes-Seq_{split}",
        size,
        LabelFormat(_LAST_ID, "*_gtFine_labelIds.png", void=_NO_ID),
        layout,
        previous=previous,
    )


def _twentieth_frames(frames: set[FrameId], folder: Path) -> Iterator[FrameId]:
    for snippet in _snippets(sorted(frames)):
        if len(snippet) != SNIPPET_LENGTH:
            first, last = snippet[0], snippet[-1]
            raise DataError(
                f"the snippet {first.sequence}_{first.number:06d} … {last.number:06d} has {len(snippet)} of "
                f"{SNIPPET_LENGTH} frames, so its 20th frame is unknown",
                where=folder,
                mend="unpack the whole snippet, or name the current frames in a frame list",
            )
        yield snippet[LABELLED_POSITION]


def _snippets(frames: list[FrameId]) -> Iterator[list[FrameId]]:
    """Cut sorted frames at every gap in numbering and after every 30 frames."""
    snippet: list[FrameId] = []
    for frame in frames:
        continues = snippet and frame.before() == snippet[-1]
        if snippet and (not continues or len(snippet) == SNIPPET_LENGTH):
            yield snippet
            snippet = []
        snippet.append(frame)
    yield snippet
