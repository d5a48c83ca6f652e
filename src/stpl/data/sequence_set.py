"""One split of a recorded data set: what is on disk, which frames make a clip, how its files become arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stpl.data.data_set import DataSet
from stpl.data.image import read_rgb, resize_ids, resize_rgb
from stpl.data.patterns import FrameFiles, FrameId, text_lines
from stpl.data.sets import data_set
from stpl.errors import ConfigError, DataError

LabelSize = Literal["native", "input"]
"""`native`: as stored, for evaluation; `input`: at the size of the frames, for training."""


@dataclass(frozen=True)
class SequenceSet:
    """One split of one data set.

    Attributes:
        folder: the data set's own folder, e.g. `ROOT/Viper`.
        size: (height, width) of frames, flow and training labels.
        current: the current frame of each clip, in order.
    """

    data_set: DataSet
    split: str
    folder: Path
    size: tuple[int, int]
    frames: FrameFiles
    labels: FrameFiles
    current: tuple[FrameId, ...]

    def __len__(self) -> int:
        return len(self.current)

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.data_set.name

    def key(self, index: int) -> str:
        """Stable name of a clip, e.g. "frankfurt_000000_000294", "001_00010" or "000001"."""
        return self.data_set.key.format(**self.frames.fields(self.current[index]))

    def keys(self) -> list[str]:
        """All names, in order."""
        return [self.key(index) for index in range(len(self))]

    def frame_path(self, index: int, offset: int = 0) -> Path:
        """The file of the frame `offset` frames after the current one; raises `DataError` if there is none."""
        frame = self._shown(self.current[index], offset)
        if frame not in self.frames:
            raise self._no_frame([frame], offset)
        return self.frames.path(frame)

    def _shown(self, current: FrameId, offset: int) -> FrameId:
        """The frame at an offset, or the last one before it where the recording ends and its ends come again."""
        frame, step = current.before(-offset), 1 if offset > 0 else -1
        if frame in self.frames or not self.data_set.repeats_ends or frame.before(-step) in self.frames:
            return frame
        return self._shown(current, offset - step) if offset else frame

    def frame_pair(self, index: int) -> tuple[Path, Path]:
        """The files of the frame before the current one, and of this one."""
        return self.frame_path(index, -1), self.frame_path(index)

    def label_path(self, index: int, offset: int = 0) -> Path | None:
        """The file of its label; `None` if there is none."""
        frame = self.current[index].before(-offset)
        return self.labels.path(frame) if frame in self.labels else None

    def flow_name(self, index: int, of: int = 0, to: int = -1) -> str:
        """Name of a file of flow from one frame to an earlier one, e.g. "001_0001000009_int16_x10.npy".

        Raises:
            ConfigError: the data set's files of flow are named by one frame, and lead to the one before it.
        """
        template, fields = self.data_set.flow_name, self.frames.fields(self.current[index].before(-of))
        if to != of - 1 and "{before" not in template:
            what = f"files of flow of {self.name} lead to the frame before, not from t{of:+d} to t{to:+d}"
            raise ConfigError(what, where="data.flow", mend="let the run estimate the flow: data.flow=estimated")
        key = self.data_set.key.format(**fields)
        return template.format(**fields, key=key, before=self.current[index].number + to)

    def require(self, offsets: Iterable[int]) -> None:
        """Look for the frames at these offsets from every current one; raises `DataError` naming the first missing."""
        for offset in offsets:
            wanted = [self._shown(frame, offset) for frame in self.current]
            missing = [frame for frame in wanted if frame not in self.frames]
            if missing:
                raise self._no_frame(missing, offset)

    def _no_frame(self, missing: Sequence[FrameId], offset: int) -> DataError:
        more = f" ({len(missing)} frames are missing in all)" if len(missing) > 1 else ""
        distance = "" if abs(offset) == 1 else f"{abs(offset)} "
        needed = f"; a clip is a current frame and the one {distance}{'before' if offset < 0 else 'after'} it"
        mend = f"{self._unpack}{needed if offset else ''}"
        return DataError(f"there is no such frame{more}", where=self.frames.missing(missing[0]), mend=mend)

    def absent(self, what: str, where: Path) -> DataError:
        """The error for what the data set lacks."""
        return DataError(what, where=where, mend=f"{self._unpack}, or correct the root or split")

    @property
    def _unpack(self) -> str:
        return f"{self.data_set.unpack} into {self.folder}"

    def read_frame(self, path: Path) -> NDArray[np.uint8]:
        """A frame uint8 `[H,W,3]` RGB at `size`: Pillow's bicubic filter, then the crop; raises `DataError`."""
        return resize_rgb(read_rgb(path), self._resized)[: self.size[0]]

    def read_ids(self, path: Path, size: LabelSize = "native") -> NDArray[np.uint8]:
        """Label ids uint8 `[H,W]` as the data set names them, cropped and cleaned; raises `DataError` for others."""
        labels = self.data_set.labels
        ids = labels.ids(path)
        if size == "input":
            ids = resize_ids(ids, self._resized)[: self.size[0]]
        else:
            ids = ids[: round(ids.shape[0] * self.data_set.height_kept)]
        return ids if labels.clean is None else labels.clean(ids)

    def flow_folders(self) -> tuple[Path, ...]:
        """Where flow files are looked for: beside the data sets or inside this one, in DA-VSN's or TPS's spelling."""
        names = (self.flow_folder, self.flow_folder.lower().replace("-", "_"))
        return tuple(parent / name for parent in (self.folder.parent, self.folder) for name in names)

    @property
    def flow_folder(self) -> str:
        """Name of the folder of flow files that are written."""
        return self.data_set.flow_folder.format(split=self.split)

    @property
    def _resized(self) -> tuple[int, int]:
        return round(self.size[0] / self.data_set.height_kept), self.size[1]


def open_set(
    root: Path, name: str, split: str, *, frame_list: Path | None = None, size: tuple[int, int] | None = None
) -> SequenceSet:
    """What one split holds. Every frame that will be needed is looked for now, and not hours into a training run.

    Args:
        root: folder that holds the data sets' own folders.
        name: of a data set, or of a module of your own: see `stpl.data.sets.data_set`.
        split: one of the set's splits.
        frame_list: text file with one current frame a line, as its path below the folder of frames; if not given, the
            data set chooses them.
        size: (height, width) of frames and training labels; the set's usual one if not given.

    Raises:
        ConfigError: there is no such set or split, or an option is out of range.
        DataError: a folder, frame or line of the list is missing or malformed.
    """
    known = data_set(name)
    where, size = f"data set {known.name}", size or known.size
    if split not in known.splits:
        raise ConfigError(f"there is no split '{split}'", where=where, mend=f"choose one of: {', '.join(known.splits)}")
    if min(size) < 1:
        raise ConfigError(f"size {size} must be positive", where=where, mend="give size as height, width")
    folder = Path(root) / known.folder
    frames, labels = known.scan(folder, split)
    files = SequenceSet(known, split, folder, size, frames, labels, ())
    if not frames.paths:
        raise files.absent("there are no frames of this data set here", frames.folder)
    if known.labelled and not labels.paths:
        raise files.absent("there are no labels of this data set here", labels.folder)
    current = _listed(frame_list, files) if frame_list else known.current(frames, labels)
    files = replace(files, current=tuple(current))
    files.require((0, -1))
    if len(set(files.keys())) < len(set(current)):
        mend = f"let its key '{known.key}' name each frame differently"
        raise ConfigError("different clips have one name", where=where, mend=mend)
    return files


def _listed(path: Path, files: SequenceSet) -> list[FrameId]:
    """The current frames that a text file names, one a line as the lineage's lists do.

    All are there, with the label that the data set must have; no name leads out of the folder.
    """
    frames = []
    for number, line in text_lines(path, "the frame list"):
        frame = files.frames.pattern.frame(line)
        if frame is None:
            mend = f"write one frame a line, such as {next(iter(files.frames.paths.values()))}"
            raise DataError(f"line {number} is no frame of this data set: '{line}'", where=path, mend=mend)
        if files.frames.paths.get(frame) != line:
            raise files.absent("there is no such frame", files.frames.folder / line)
        frames.append(frame)
    if not frames:
        raise DataError("the frame list is empty", where=path, mend="give one frame a line")
    without = [frame for frame in frames if frame not in files.labels]
    if files.data_set.labelled and without:
        what = f"there is no such label ({len(without)} of the listed frames have none)"
        raise files.absent(what, files.labels.missing(without[0], files.frames.fields(without[0])))
    return frames
