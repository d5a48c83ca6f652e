"""Cityscapes-Seq: 30-frame snippets of which one frame each is labelled (Cordts et al., CVPR 2016).

Layout under the root, as unpacked from `leftImg8bit_sequence_trainvaltest.zip` and `gtFine_trainvaltest.zip`:

    leftImg8bit_sequence/{split}/{city}/{city}_{sequence:06}_{frame:06}_leftImg8bit.png    1024×2048 RGB
    gtFine/{split}/{city}/{city}_{sequence:06}_{frame:06}_gtFine_labelIds.png              ids 0..33

The labelled frame is the 20th of its snippet, but its *number* is 000019 in only 1877 of 2975 training and 233 of 500
validation snippets: numbers are always read from file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.data import flow as optical_flow
from stpl.data.clip import Clip, Wants
from stpl.data.image import read_ids, read_rgb, resize_ids, resize_rgb, stack_frames
from stpl.data.label_space import LabelSpace
from stpl.errors import ConfigError, DataError

SNIPPET_LENGTH, LABELLED_POSITION = 30, 19
"""Frames in a snippet, and the place (counted from 0) of the labelled one."""

_FRAMES, _LABELS = "leftImg8bit_sequence", "gtFine"
_FRAME_SUFFIX, _LABEL_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"
_STEM = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<number>\d{6})")
_LAST_ID = 33
_NO_ID = 255  # id -1 (licence plate) where a tool drew it into 8 bits


@dataclass(frozen=True, order=True)
class FrameId:
    """The name of one frame: `{city}_{sequence}_{number:06}`."""

    city: str
    sequence: str
    number: int

    def __str__(self) -> str:
        return f"{self.city}_{self.sequence}_{self.number:06d}"

    def path(self, folder: Path, suffix: str) -> Path:
        """Where the frame's file with this suffix lies in the folder of its split."""
        return folder / self.city / f"{self}{suffix}"

    @classmethod
    def parse(cls, name: str, suffix: str) -> FrameId | None:
        """The frame that a file name with this suffix names; `None` for any other name."""
        match = _STEM.fullmatch(name.removesuffix(suffix)) if name.endswith(suffix) else None
        return None if match is None else cls(match["city"], match["sequence"], int(match["number"]))


class CityscapesSequence:
    """Clips (previous frame, current frame) of one split of Cityscapes-Seq; a `ClipReader`.

    The current frames are, in order of precedence: those of `frame_list`; those with a label under `gtFine/{split}`
    (file names are listed, no label is opened); the 20th frame of each snippet, where a snippet is a stretch of 30
    frames with consecutive numbers. Every frame that will be needed is looked for at construction, so a missing file
    shows before training and not hours into it.

    Frames are resized by Pillow's bicubic filter, the labels by nearest neighbour, as in the DA-VSN lineage.

    Args:
        root: folder that holds `leftImg8bit_sequence` and, where there are labels, `gtFine`.
        split: `train`, `val` or `test`.
        space: classes to map the label ids to.
        size: (height, width) of frames and flow; the lineage uses 512×1024.
        frame_list: text file with one current frame a line, `{city}/{city}_{sequence}_{frame}_leftImg8bit.png` (the
            lineage's `CityscapesSeq_list/*.txt`).
        flow: a `FlowCache`; or a folder of the lineage's files `{city}_{seq}_{t:06}_{t-1:06}_int16_x10.npy`, which are
            resized to `size`; or `None` to estimate at every read.
        previous: distance of the previous frame, in frames (17 a second).
        label_size: `native` keeps the label as stored (evaluation), `input` resizes it to `size` (training).

    Raises:
        ConfigError: an option is out of range, or `space` knows no Cityscapes ids.
        DataError: a folder, frame or line of the list is missing or malformed.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        space: LabelSpace,
        size: tuple[int, int] = (512, 1024),
        *,
        frame_list: Path | None = None,
        flow: optical_flow.FlowCache | Path | None = None,
        previous: int = 1,
        label_size: Literal["native", "input"] = "native",
    ) -> None:
        _check_options(size, previous, label_size)
        self.root, self.split, self.size, self.previous = Path(root), split, size, previous
        self._flow, self._label_size, self._table = flow, label_size, space.lookup("cityscapes")
        self._frame_folder, self._label_folder = self.root / _FRAMES / split, self.root / _LABELS / split
        on_disk = _list_ids(self._frame_folder, _FRAME_SUFFIX)
        if not on_disk:
            raise DataError(
                "there are no Cityscapes-Seq frames here",
                where=self._frame_folder,
                mend="unpack leftImg8bit_sequence_trainvaltest.zip under the root, or correct the root or split",
            )
        self._current = self._choose(on_disk, frame_list)
        self._require(self._current, on_disk)
        self._require([self._before(frame) for frame in self._current], on_disk)

    def _choose(self, on_disk: set[FrameId], frame_list: Path | None) -> list[FrameId]:
        if frame_list is not None:
            return list(_read_list(Path(frame_list)))
        labelled = _list_ids(self._label_folder, _LABEL_SUFFIX)
        return sorted(labelled) if labelled else list(_twentieth_frames(on_disk, self._frame_folder))

    def _require(self, frames: Iterable[FrameId], on_disk: set[FrameId]) -> None:
        missing = [frame for frame in frames if frame not in on_disk]
        if missing:
            more = f" ({len(missing)} frames are missing in all)" if len(missing) > 1 else ""
            raise DataError(
                f"there is no such frame{more}",
                where=missing[0].path(self._frame_folder, _FRAME_SUFFIX),
                mend=f"unpack the whole sequence package; each current frame needs the one {self.previous} before it",
            )

    def _before(self, frame: FrameId) -> FrameId:
        return replace(frame, number=frame.number - self.previous)

    def __len__(self) -> int:
        return len(self._current)

    def read(self, index: int, wants: Wants) -> Clip:
        """The clip at `index`; see `ClipReader.read`. Without `wants.label` no file under `gtFine` is opened.

        Raises:
            DataError: a file is missing or torn, a label holds an id outside 0..33 (255 stands for -1).
        """
        current = self._current[index]
        frames = [self._frame(self._before(current)), self._frame(current)]
        return Clip(
            frames=stack_frames(frames),
            flow=self._read_flow(current, frames) if wants.flow else None,
            label=self._label(current) if wants.label else None,
            key=f"{self.split}/{current.city}/{current}",
        )

    def _frame(self, frame: FrameId) -> NDArray[np.uint8]:
        return resize_rgb(read_rgb(frame.path(self._frame_folder, _FRAME_SUFFIX)), self.size)

    def _read_flow(self, current: FrameId, frames: list[NDArray[np.uint8]]) -> Tensor:
        earlier, later = frames
        pair = f"{current}_{self._before(current).number:06d}"
        if self._flow is None:
            flow = optical_flow.estimate(later, earlier)
        elif isinstance(self._flow, optical_flow.FlowCache):
            height, width = self.size
            flow = self._flow.get(f"cityscapes/{self.split}/{current.city}/{pair}_{height}x{width}", later, earlier)
        else:
            flow = optical_flow.resize(optical_flow.read(Path(self._flow) / f"{pair}_int16_x10.npy"), self.size)
        return torch.from_numpy(flow).unsqueeze(0)

    def _label(self, frame: FrameId) -> Tensor:
        path = frame.path(self._label_folder, _LABEL_SUFFIX)
        ids = read_ids(path)
        _check_ids(ids, path)
        label = self._table[ids]
        if self._label_size == "input":
            label = resize_ids(label, self.size)
        return torch.from_numpy(label.astype(np.int64))


def _check_options(size: tuple[int, int], previous: int, label_size: str) -> None:
    where = "data set cityscapes"
    if min(size) < 1 or previous < 1:
        raise ConfigError(
            f"size {size} and previous {previous} must be positive", where=where, mend="give size as height, width"
        )
    if label_size not in ("native", "input"):
        raise ConfigError(f"label_size '{label_size}' is unknown", where=where, mend="choose 'native' or 'input'")


def _check_ids(ids: NDArray[np.integer[Any]], path: Path) -> None:
    bad = [int(value) for value in np.unique(ids) if not 0 <= value <= _LAST_ID and value != _NO_ID]
    if bad:
        raise DataError(
            f"ids {bad} are no Cityscapes label ids (0..{_LAST_ID}, 255 for -1)",
            where=path,
            mend="use the original *_gtFine_labelIds.png (not instance or colour images)",
        )


def _list_ids(folder: Path, suffix: str) -> set[FrameId]:
    """The frames whose files lie in `folder/{city}/`; no file is opened."""
    names = (path.name for path in folder.glob("*/*.png"))
    return {frame for name in names if (frame := FrameId.parse(name, suffix)) is not None}


def _read_list(path: Path) -> Iterator[FrameId]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the frame list cannot be read ({error})", where=path, mend="check the path") from error
    entries = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not entries:
        raise DataError("the frame list is empty", where=path, mend="give one frame a line")
    for number, line in entries:
        city, _, name = line.partition("/")
        frame = FrameId.parse(name, _FRAME_SUFFIX)
        # The name is parsed and put together again, so that no line can lead out of the root.
        if frame is None or frame.city != city or "/" in frame.city or city in ("", ".", ".."):
            raise DataError(
                f"line {number} is no frame of this data set: '{line}'",
                where=path,
                mend="write {city}/{city}_{sequence}_{frame}_leftImg8bit.png, relative to the folder of the split",
            )
        yield frame


def _twentieth_frames(frames: set[FrameId], folder: Path) -> Iterator[FrameId]:
    for snippet in _snippets(sorted(frames)):
        if len(snippet) != SNIPPET_LENGTH:
            raise DataError(
                f"the snippet {snippet[0]} … {snippet[-1].number:06d} has {len(snippet)} of {SNIPPET_LENGTH} frames, "
                "so its 20th frame is unknown",
                where=folder,
                mend="unpack the whole snippet, or name the current frames in a frame_list",
            )
        yield snippet[LABELLED_POSITION]


def _snippets(frames: list[FrameId]) -> Iterator[list[FrameId]]:
    """Cut sorted frames at every gap in numbering and after every 30 frames."""
    snippet: list[FrameId] = []
    for frame in frames:
        continues = snippet and frame == replace(snippet[-1], number=snippet[-1].number + 1)
        if snippet and (not continues or len(snippet) == SNIPPET_LENGTH):
            yield snippet
            snippet = []
        snippet.append(frame)
    yield snippet
