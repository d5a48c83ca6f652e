"""Tiny data sets in each true layout on disk: for tests, and for a first run before the gigabytes have arrived.

A fake differs from the real thing only in size and content. It is a pure function of its arguments, so that two runs
of a test, or two machines, work on the same bytes. `stpl data fake` fills the layouts with drives of the street
renderer: its clean studio stands for rendered data sets, its camera for recorded ones.
"""

from __future__ import annotations

import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stpl.data.data_set import DataSet, FakeVideo
from stpl.data.image import jpeg, png
from stpl.data.label_space import VIPER_15
from stpl.data.sets import data_set
from stpl.data.streets import StreetsOptions, draw_drive
from stpl.errors import ConfigError, DataError
from stpl.files import write_atomically, writing

Size = tuple[int, int]


class FakeScene(Protocol):
    """A drive to be written as files."""

    def frame(self, time: int) -> NDArray[np.uint8]:
        """The frame uint8 `[H,W,3]` RGB at frame number `time`, counted from 0."""
        ...

    def label(self, time: int) -> NDArray[np.uint8]:
        """Its ids uint8 `[H,W]`, as the data set that is written names them."""
        ...


SceneSource = Callable[[str, int], FakeScene]
"""Makes the scene of a name, e.g. "train/aachen/0", with that many frames."""


def fake(
    dataset: str,
    root: Path = Path("data"),
    size: Size = (128, 256),
    clips: int | None = None,
    seed: int = 0,
    layout: str | None = None,
) -> None:
    """Write a tiny data set in its true layout, drawn by the street renderer, with labels in its own ids.

    Its arguments are the options of `stpl data fake`.
    """
    known = data_set(dataset)
    count = known.fake.clips if clips is None else clips
    if count < 1:
        raise ConfigError(f"clips is {count}", mend="choose 1 or more")
    target = root / known.folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError("this is not empty, and nothing is overwritten", where=target, mend="give another --root")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with writing(target, kind=DataError):
            write_videos(known, partial, known.fake.videos(count), _streets(known, size, seed), layout)
            partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{target}: {sum(path.is_file() for path in target.rglob('*'))} files")


def write_videos(
    known: DataSet, folder: Path, videos: Iterable[FakeVideo], scenes: SceneSource, layout: str | None = None
) -> None:
    """Write videos as a data set has them.

    Args:
        known: the data set.
        folder: its own folder.
        videos: what is written; labels only where a frame is labelled.
        scenes: makes the drives; their labels hold the data set's ids.
        layout: key of `known.layouts`; the first if not given.

    Raises:
        ConfigError: there is no such layout.
    """
    layout = layout or next(iter(known.layouts))
    if layout not in known.layouts:
        mend = f"choose one of: {', '.join(known.layouts)}"
        raise ConfigError(f"{known.name} has no layout '{layout}'", where="layout", mend=mend)
    files = known.layouts[layout]
    for video in videos:
        frames = list(video.frames)
        scene = scenes(video.name, len(frames))
        for time, fields in enumerate(frames):
            path, label = (
                folder / pattern.folder.format(split=video.split) / pattern.write(fields)
                for pattern in (files.frames, files.labels)
            )
            content = (jpeg if path.suffix == ".jpg" else png)(scene.frame(time))
            write_atomically(path, content, kind=DataError, sync=False)
            if time in video.labelled:
                write_atomically(label, known.labels.write(scene.label(time)), kind=DataError, sync=False)


@dataclass(frozen=True)
class FakeDrive:
    """A drive of the street renderer with another data set's ids.

    Attributes:
        frames: uint8 `[T,3,H,W]` RGB.
        ids: uint8 `[T,H,W]`.
        bonnet: the id of the camera's own car, shown at the bottom centre.
    """

    frames: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    bonnet: int | None

    def frame(self, time: int) -> NDArray[np.uint8]:
        """See `FakeScene`."""
        frame = np.ascontiguousarray(self.frames[time].transpose(1, 2, 0))
        shade = np.linspace(60, 24, frame.shape[0], dtype=np.uint8)[:, None, None]
        return frame if self.bonnet is None else np.where(self._own_car[..., None], shade, frame)

    def label(self, time: int) -> NDArray[np.uint8]:
        """See `FakeScene`."""
        return self.ids[time] if self.bonnet is None else np.where(self._own_car, np.uint8(self.bonnet), self.ids[time])

    @cached_property
    def _own_car(self) -> NDArray[np.bool_]:
        height, width = self.ids.shape[1:]
        y, x = np.mgrid[:height, :width]
        return np.asarray(((x - width / 2) / (0.3 * width)) ** 2 + ((y - height) / (0.14 * height)) ** 2 < 1)


def _streets(known: DataSet, size: Size, seed: int) -> SceneSource:
    table = own_ids(known)

    def scene(name: str, frames: int) -> FakeDrive:
        """The drive of this name, in the data set's own ids."""
        options = StreetsOptions(seed=seed, height=size[0], width=size[1], frames=frames)
        drive = draw_drive(options, known.fake.domain, "train", zlib.crc32(f"{known.name}/{name}".encode()))
        return FakeDrive(drive.frames, table[drive.labels], known.fake.bonnet)

    return scene


def own_ids(known: DataSet) -> NDArray[np.uint8]:
    """Table uint8 `[256]` from the renderer's labels (viper15, 255 on poles) to a data set's own ids."""

    def id_of(*names: str) -> int:
        """The id of the first of these classes that the data set knows, or void."""
        return next((own for name in names if (own := known.labels.id_of(name)) is not None), known.fake.void)

    table = np.full(256, known.fake.void, dtype=np.uint8)
    for train_id, name in enumerate(VIPER_15.classes):
        table[train_id] = id_of(name, "vegetation") if name == "terrain" else id_of(name)
    table[255] = id_of("pole") if known.fake.poles is None else known.fake.poles
    return table
