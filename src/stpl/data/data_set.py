"""What a recorded data set declares: one `DataSet`, in one file, is all there is of it. Imports no torch."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stpl.data.image import png, read_ids
from stpl.data.label_space import IGNORE, LabelSpace
from stpl.data.patterns import FilePattern, FrameFiles, FrameId
from stpl.errors import ConfigError, DataError

Ids = NDArray[np.integer[Any]]
"""Label ids `[H,W]` as a data set stores them."""


@dataclass(frozen=True)
class LabelFormat:
    """How the label files of one data set become classes.

    Attributes:
        classes: name of the class of each id that has one, as label spaces call it; all other ids are ignored.
        last_id: largest id the data set knows; ids are counted from 0.
        files: which files are meant, for messages.
        void: a further value that means «no id».
        train_ids: largest of the data set's own train ids; those of the label space if it has none.
        read: ids of one file as stored; raises `DataError`.
        write: a file of ids.
        clean: what is done to ids at the size they are used at, before they become train ids.
    """

    classes: Mapping[int, str]
    last_id: int
    files: str
    void: int | None = None
    train_ids: int | None = None
    read: Callable[[Path], Ids] = read_ids
    write: Callable[[NDArray[np.uint8]], bytes] = png
    clean: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None

    def ids(self, path: Path) -> NDArray[np.uint8]:
        """The ids uint8 `[H,W]` of a label file; raises `DataError` for an id that the data set does not know."""
        ids = self.read(path)
        bad = [int(value) for value in np.unique(ids) if not 0 <= value <= self.last_id and value != self.void]
        if bad:
            void = "" if self.void is None else f", {self.void} for none"
            what = f"ids {bad} are no label ids of this data set (0..{self.last_id}{void})"
            raise DataError(what, where=path, mend=f"use the original {self.files} (ids, not instances or colours)")
        return ids.astype(np.uint8)


@dataclass(frozen=True)
class FileLayout:
    """How the files of a data set are named."""

    frames: FilePattern
    labels: FilePattern


@dataclass(frozen=True)
class FakeVideo:
    """One video of a fake.

    Attributes:
        name: two videos of one name show the same drive.
        split: where it is written to.
        frames: what the name of each frame holds besides its number.
        labelled: places (counted from 0) of the frames that have a label.
    """

    name: str
    split: str
    frames: Iterable[Mapping[str, str | int]]
    labelled: Collection[int]


@dataclass(frozen=True)
class Fake:
    """How a tiny data set in the true layout is drawn.

    Attributes:
        videos: what is drawn, from the number of labelled frames a split.
        clips: labelled frames a split, if no number is given.
        domain: of the street renderer: its clean studio for rendered sets, its camera for recorded ones.
        bonnet: the id of the camera's own car, at the bottom centre.
        poles: their id, if they are not of the class pole.
        void: the id of what the data set has no class for.
    """

    videos: Callable[[int], Iterable[FakeVideo]]
    clips: int = 4
    domain: Literal["studio", "camera"] = "camera"
    bonnet: int | None = None
    poles: int | None = None
    void: int = 0


def with_predecessor(frames: Iterable[FrameId], on_disk: Iterable[FrameId]) -> list[FrameId]:
    """`frames` in order, without those at the very start of their video, before which nothing was recorded.

    A frame whose predecessor is missing in the middle of a video stays: that is a hole to be reported.
    """
    first = {frame.sequence: frame.number for frame in sorted(on_disk, reverse=True)}
    return [frame for frame in sorted(frames) if frame.number - 1 >= first.get(frame.sequence, 0)]


def labelled_frames(frames: FrameFiles, labels: FrameFiles) -> list[FrameId]:
    """The labelled frames that have a predecessor; of a split without labels, all frames that have one."""
    return with_predecessor(labels.paths or frames, frames)


@dataclass(frozen=True)
class DataSet:
    """One recorded data set.

    Attributes:
        name: how options, caches and messages call it.
        folder: its folder under the root that holds all data sets.
        splits: the first is trained on.
        layouts: where files lie; of several layouts, the first of which there are any files.
        labels: how label files become classes.
        unpack: what to do if files are missing, e.g. "unpack A.zip"; «into FOLDER» follows.
        native: height and width of the frames on disk.
        size: height and width of frames, flow and training labels; the usual one of published work.
        space: label space of a run that has it as its source.
        fake: how a tiny one is drawn.
        key: template of a clip's name, from the fields of its current frame.
        flow_name: template of the name of a file of flow, from these fields, `key` and `before`, the number of the
            earlier frame.
        flow_folder: template of the folder of such files, beside the data sets or in this one.
        current: chooses the current frames from all frames and labels of a split.
        labelled: whether a split without any label is refused.
        repeats_ends: whether the first or last frame of a recording comes again beyond its ends; else a clip that wants
            a frame there is refused.
        height_kept: share of the height that is used; the rows below it are cut off after the resize.
        published: clips of each split in published work.
    """

    name: str
    folder: str
    splits: tuple[str, ...]
    layouts: Mapping[str, FileLayout]
    labels: LabelFormat
    unpack: str
    native: tuple[int, int]
    size: tuple[int, int]
    space: str
    fake: Fake
    key: str = "{sequence}_{number:06d}"
    flow_name: str = "{key}_{before:06d}_int16_x10.npy"
    flow_folder: str = "optical_flow_{split}"
    current: Callable[[FrameFiles, FrameFiles], list[FrameId]] = labelled_frames
    labelled: bool = True
    repeats_ends: bool = False
    height_kept: float = 1.0
    published: Mapping[str, int] = field(default_factory=dict)

    def scan(self, folder: Path, split: str) -> tuple[FrameFiles, FrameFiles]:
        """The frames and labels of a split below the data set's folder, in the first layout that has any."""

        def first(patterns: Sequence[FilePattern]) -> FrameFiles:
            folders = [os.path.normpath(folder / pattern.folder.format(split=split)) for pattern in patterns]
            found = [FrameFiles.scan(pattern, Path(path)) for pattern, path in zip(patterns, folders, strict=True)]
            return next((files for files in found if files.paths), found[0])

        layouts = self.layouts.values()
        return first([layout.frames for layout in layouts]), first([layout.labels for layout in layouts])

    def table(self, space: LabelSpace) -> NDArray[np.uint8]:
        """Table uint8 `[65536]` from label ids to train ids; raises `ConfigError` if the two share no class."""
        table = space.lookup(self.labels.classes)
        if (table == IGNORE).all():
            names = ", ".join(dict.fromkeys(self.labels.classes.values()))
            what = f"label space '{space.name}' and data set '{self.name}' have no class in common"
            raise ConfigError(what, mend=f"choose a label space with some of: {names}")
        return table
