"""What the readers of recorded data sets share: which files make a clip, and how these files become arrays.

A data set says where its files lie (`FilePattern`) and what its pixels mean (`SequenceSet`'s fields); choosing the
current frames, pairing each with the frame before it and looking for what is missing are written here once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stpl.data.image import read_ids, read_rgb, resize_ids, resize_rgb
from stpl.errors import ConfigError, DataError

Ids = NDArray[np.integer[Any]]
"""Label ids `[H,W]` as a data set stores them."""
LabelSize = Literal["native", "input"]
"""`native`: as stored, for evaluation; `input`: at the size of the frames, for training."""


@dataclass(frozen=True, order=True)
class FrameId:
    """The name of one frame.

    Attributes:
        sequence: name of its video, e.g. "aachen_000000" or "001"; empty where a data set has one video.
        number: of the frame in it.
    """

    sequence: str
    number: int

    def before(self, distance: int = 1) -> FrameId:
        """The frame `distance` frames earlier."""
        return FrameId(self.sequence, self.number - distance)


@dataclass(frozen=True)
class FilePattern:
    """Names of files of one kind: from a frame to its file and back.

    Attributes:
        folder: the paths are relative to it.
        template: relative path with the fields `sequence`, `number` and `city` (the sequence's name up to the first
            underscore), e.g. "{sequence}/{sequence}_{number:05d}.jpg".
        sequence: regular expression of the sequence's name; it must not match a dot or a slash, so that no name can
            lead out of the folder.
    """

    folder: Path
    template: str
    sequence: str = ""

    def path(self, frame: FrameId) -> Path:
        """Where the frame's file lies."""
        return self.folder / self._relative(frame)

    def parse(self, relative: str) -> FrameId | None:
        """The frame that a relative path names; `None` for any other path."""
        match = re.fullmatch(rf"(?:.*/)?(?:(?P<sequence>{self.sequence})_)?(?P<number>\d+)\D.*", relative)
        if match is None or (self.sequence and match["sequence"] is None):
            return None
        frame = FrameId(match["sequence"] or "", int(match["number"]))
        return frame if self._relative(frame) == relative else None  # put together again: nothing else is accepted

    def scan(self) -> set[FrameId]:
        """The frames whose files lie in the folder; no file is opened."""
        nested = "/" in self.template
        folders = sorted(path for path in self.folder.glob("*") if path.is_dir()) if nested else [self.folder]
        names = (
            f"{folder.name}/{path.name}" if nested else path.name
            for folder in folders
            if folder.is_dir()
            for path in folder.iterdir()
        )
        return {frame for name in names if (frame := self.parse(name)) is not None}

    def _relative(self, frame: FrameId) -> str:
        city = frame.sequence.partition("_")[0]
        return self.template.format(sequence=frame.sequence, number=frame.number, city=city)


@dataclass(frozen=True)
class ClipFiles:
    """One clip on disk.

    Attributes:
        key: stable name, e.g. "frankfurt_000000_000294", "001_00010" or "000001".
        frames: oldest first: `frames[-1]` is the current frame t, `frames[-2]` the one before it.
        label: label of the current frame; `None` where there is none.
        flow_name: file name of the lineage's flow t → t-1, e.g. "001_0001000009_int16_x10.npy".
        current: the name of the current frame.
    """

    key: str
    frames: tuple[Path, ...]
    label: Path | None
    flow_name: str
    current: FrameId


@dataclass(frozen=True)
class LabelFormat:
    """How the label files of one data set become ids.

    Attributes:
        last_id: largest id the data set knows; ids are counted from 0.
        files: which files are meant, for messages.
        void: a further value that means «no id».
        read: ids of one file as stored; raises `DataError`.
        clean: what is done to ids at the size they are used at, before they are mapped to train ids.
    """

    last_id: int
    files: str
    void: int | None = None
    read: Callable[[Path], Ids] = read_ids
    clean: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None

    def ids(self, path: Path) -> NDArray[np.uint8]:
        """The ids uint8 `[H,W]` of a label file; raises `DataError` for an id that the data set does not know."""
        ids = self.read(path)
        bad = [int(value) for value in np.unique(ids) if not 0 <= value <= self.last_id and value != self.void]
        if bad:
            void = "" if self.void is None else f", {self.void} for none"
            raise DataError(
                f"ids {bad} are no label ids of this data set (0..{self.last_id}{void})",
                where=path,
                mend=f"use the original {self.files} (ids, not instances or colours)",
            )
        return ids.astype(np.uint8)


@dataclass(frozen=True)
class SequenceSet:
    """One split of one data set: what is on disk, and how its files become arrays.

    Attributes:
        name: "viper", "synthia" or "cityscapes": the id map in `LabelSpace.remaps`.
        split: its name on disk.
        clips: the clips, in order.
        folder: the data set's own folder, e.g. `ROOT/Viper`.
        flow_folder: the lineage's folder of flow files, e.g. "Estimated_optical_flow_Viper_train".
        size: (height, width) of frames, flow and training labels.
        label_format: how label files become ids.
        layout: where frames and labels lie.
        height_kept: share of the height that is used; the rows below it are cut off after the resize.
        previous: distance of the two frames of a clip, in frames.
        shift: how many frames before those of the split the current frames are.
    """

    name: str
    split: str
    clips: tuple[ClipFiles, ...]
    folder: Path
    flow_folder: str
    size: tuple[int, int]
    label_format: LabelFormat
    layout: Layout
    height_kept: float = 1.0
    previous: int = 1
    shift: int = 0

    def neighbours(self, by: int, previous: int) -> SequenceSet:
        """The set whose current frames lie `by` frames earlier, each with the one `previous` frames before it.

        Raises:
            DataError: such a frame is missing.
        """
        current = [clip.current.before(by) for clip in self.clips]
        clips = self.layout.clips(current, self.layout.on_disk(), self.layout.labels.scan(), previous)
        return replace(self, clips=clips, previous=previous, shift=self.shift + by)

    def read_frame(self, path: Path) -> NDArray[np.uint8]:
        """A frame uint8 `[H,W,3]` RGB at `size`: Pillow's bicubic filter, then the crop; raises `DataError`."""
        return resize_rgb(read_rgb(path), self._resized)[: self.size[0]]

    def read_ids(self, path: Path, size: LabelSize = "native") -> NDArray[np.uint8]:
        """Label ids uint8 `[H,W]` as the data set names them, cropped and cleaned; resized to nearest neighbours.

        Raises:
            DataError: the file is missing or torn, or holds what is no id of this data set.
        """
        ids = self.label_format.ids(path)
        if size == "input":
            ids = resize_ids(ids, self._resized)[: self.size[0]]
        else:
            ids = ids[: round(ids.shape[0] * self.height_kept)]
        return ids if self.label_format.clean is None else self.label_format.clean(ids)

    def read_label(self, path: Path, table: NDArray[np.uint8], size: LabelSize = "native") -> NDArray[np.uint8]:
        """A label uint8 `[H,W]` of train ids.

        Args:
            path: the label file.
            table: from `LabelSpace.lookup(self.name)`.
            size: `native` keeps the label as stored (evaluation), `input` resizes it like the frames (training).

        Raises:
            DataError: as `read_ids`.
        """
        return table[self.read_ids(path, size)]

    def flow_folders(self) -> tuple[Path, ...]:
        """Where flow files are looked for: beside the data sets or inside this one, in DA-VSN's or TPS's spelling."""
        names = (self.flow_folder, self.flow_folder.lower().replace("-", "_"))
        return tuple(parent / name for parent in (self.folder.parent, self.folder) for name in names)

    @property
    def _resized(self) -> tuple[int, int]:
        return round(self.size[0] / self.height_kept), self.size[1]


@dataclass(frozen=True)
class Layout:
    """Where the files of one split lie, how they are named, and which frames make a clip.

    Attributes:
        frames: names of frames.
        labels: names of labels.
        key: template of a clip's key, e.g. "{sequence}_{number:05d}".
        flow_name: template of a flow file's name; `before` is the number of the earlier frame.
        line: what a line of a frame list looks like.
        mend: what to unpack if frames are missing.
    """

    frames: FilePattern
    labels: FilePattern
    key: str
    flow_name: str
    line: str
    mend: str

    def on_disk(self) -> set[FrameId]:
        """All frames of the split; raises `DataError` if there are none."""
        found = self.frames.scan()
        if not found:
            raise DataError("there are no frames of this data set here", where=self.frames.folder, mend=self.mend)
        return found

    def clips(
        self, current: Sequence[FrameId], on_disk: Collection[FrameId], labelled: Collection[FrameId], previous: int
    ) -> tuple[ClipFiles, ...]:
        """Each current frame with the one before it; raises `DataError` naming the first frame that is missing.

        Args:
            current: the current frames, in order.
            on_disk: all frames there are.
            labelled: all frames that have a label file.
            previous: distance of the earlier frame; below 0 for a later one.
        """
        self._require(current, on_disk, previous)
        self._require([frame.before(previous) for frame in current], on_disk, previous)
        return tuple(self._clip(frame, frame.before(previous), frame in labelled) for frame in current)

    def _require(self, frames: Iterable[FrameId], on_disk: Collection[FrameId], previous: int) -> None:
        missing = [frame for frame in frames if frame not in on_disk]
        if missing:
            more = f" ({len(missing)} frames are missing in all)" if len(missing) > 1 else ""
            distance = "" if abs(previous) == 1 else f"{abs(previous)} "
            side = "before" if previous > 0 else "after"
            raise DataError(
                f"there is no such frame{more}",
                where=self.frames.path(missing[0]),
                mend=f"{self.mend}; a clip is a current frame and the one {distance}{side} it",
            )

    def _clip(self, frame: FrameId, before: FrameId, labelled: bool) -> ClipFiles:
        names = {"sequence": frame.sequence, "number": frame.number, "before": before.number}
        return ClipFiles(
            key=self.key.format(**names),
            frames=(self.frames.path(before), self.frames.path(frame)),
            label=self.labels.path(frame) if labelled else None,
            flow_name=self.flow_name.format(**names),
            current=frame,
        )

    def listed(self, path: Path | None) -> list[FrameId]:
        """The current frames that a text file names, one a line as the lineage's lists do; none without a file.

        Raises:
            DataError: the file cannot be read or is empty, or a line is no name of a frame (nothing that leads out of
                the folder is one).
        """
        if path is None:
            return []
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows' editors put a mark in front
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the frame list cannot be read ({error})", where=path, mend="check the path") from error
        entries = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
        if not entries:
            raise DataError("the frame list is empty", where=path, mend="give one frame a line")
        return [self._line(path, number, line) for number, line in entries]

    def _line(self, path: Path, number: int, line: str) -> FrameId:
        frame = self.frames.parse(line)
        if frame is None:
            raise DataError(
                f"line {number} is no frame of this data set: '{line}'",
                where=path,
                mend=f"write one frame a line, such as {self.line}",
            )
        return frame

    def labelled(self, listed: Iterable[FrameId] = ()) -> set[FrameId]:
        """The frames that have a label file, for a set whose labels are always needed. No label is opened.

        Raises:
            DataError: there are none, or one of `listed` is not among them.
        """
        found = self.labels.scan()
        if not found:
            raise DataError("there are no labels of this data set here", where=self.labels.folder, mend=self.mend)
        without = [frame for frame in listed if frame not in found]
        if without:
            raise DataError(
                f"there is no such label ({len(without)} of the listed frames have none)",
                where=self.labels.path(without[0]),
                mend=self.mend,
            )
        return found


def with_predecessor(frames: Iterable[FrameId], on_disk: Iterable[FrameId], previous: int) -> list[FrameId]:
    """`frames` in order, without those at the very start of their video, before which nothing was recorded.

    A frame whose predecessor is missing in the middle of a video stays: that is a hole to be reported.
    """
    first = {frame.sequence: frame.number for frame in sorted(on_disk, reverse=True)}
    return [frame for frame in sorted(frames) if frame.number - previous >= first.get(frame.sequence, 0)]


def check_options(name: str, split: str, splits: Sequence[str], size: tuple[int, int], previous: int) -> None:
    """Raise `ConfigError` for a split that a data set does not have, or a size or distance out of range."""
    where = f"data set {name}"
    if split not in splits:
        raise ConfigError(f"there is no split '{split}'", where=where, mend=f"choose one of: {', '.join(splits)}")
    if min(size) < 1 or previous < 1:
        raise ConfigError(
            f"size {size} and previous {previous} must be positive", where=where, mend="give size as height, width"
        )
