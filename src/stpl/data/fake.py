"""Tiny data sets in each true layout on disk: for tests, and for a first run before the gigabytes have arrived.

A fake differs from the real thing only in size and content. It is a pure function of its arguments. `stpl data fake`
fills the layouts with drives of the street renderer: its clean studio stands for rendered data sets, its camera for
recorded ones.
"""

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpl.data.data_set import DataSet, FakeVideo
from stpl.data.image import jpeg, png
from stpl.data.label_space import VIPER_15
from stpl.data.sets import data_set
from stpl.data.streets import StreetsOptions, draw_drive
from stpl.errors import ConfigError, DataError
from stpl.files import half_written, write_atomically, writing

Size = tuple[int, int]


FakeScene = Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Frames uint8 `[H,W,3]` RGB in order, each with its ids uint8 `[H,W]`, as the data set that is written names them."""
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
    """Write a tiny data set in its true layout, drawn by the street renderer; see the options of `stpl data fake`."""
    known = data_set(dataset)
    videos = known.fake.videos(known.fake.clips if clips is None else clips)
    target = root / known.folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError("this is not empty, and nothing is overwritten", where=target, mend="give another --root")
    with writing(target, kind=DataError), half_written(target.parent) as partial:
        write_videos(known, partial, videos, _streets(known, size, seed), layout)
        partial.replace(target)
    print(f"{target}: {sum(path.is_file() for path in target.rglob('*'))} files")


def write_videos(
    known: DataSet, folder: Path, videos: Iterable[FakeVideo], scenes: SceneSource, layout: str | None = None
) -> None:
    """Write videos as a data set has them: into its own folder, in one of its layouts, the first if none is given."""
    layout = layout or next(iter(known.layouts))
    if layout not in known.layouts:
        mend = f"choose one of: {', '.join(known.layouts)}"
        raise ConfigError(f"{known.name} has no layout '{layout}'", where="layout", mend=mend)
    files = known.layouts[layout]
    if ".." in Path(files.frames.folder).parts:
        mend = f"choose another one, or draw that data set: its frames lie in {files.frames.folder}"
        raise ConfigError(f"the layout {layout} of {known.name} has the frames of another data set", mend=mend)
    for video in videos:
        names = list(video.frames)
        for time, (fields, (frame, ids)) in enumerate(zip(names, scenes(video.name, len(names)), strict=True)):
            path, label = (
                folder / pattern.folder.format(split=video.split) / pattern.write(fields)
                for pattern in (files.frames, files.labels)
            )
            content = (jpeg if path.suffix == ".jpg" else png)(frame)
            write_atomically(path, content, kind=DataError, sync=False)
            if time in video.labelled:
                write_atomically(label, known.labels.write(ids), kind=DataError, sync=False)


def _streets(known: DataSet, size: Size, seed: int) -> SceneSource:
    """Drives of the street renderer with the data set's own ids, and its own car where it shows one."""
    table, (height, width), bonnet = own_ids(known), size, known.fake.bonnet
    y, x = np.mgrid[:height, :width]
    own_car = ((x - width / 2) / (0.3 * width)) ** 2 + ((y - height) / (0.14 * height)) ** 2 < 1
    shade = np.linspace(60, 24, height, dtype=np.uint8)[:, None, None]

    def scene(name: str, frames: int) -> FakeScene:
        options = StreetsOptions(seed=seed, height=height, width=width, frames=frames)
        drive = draw_drive(options, known.fake.domain, "train", zlib.crc32(f"{known.name}/{name}".encode()))
        for frame, label in zip(drive.frames.transpose(0, 2, 3, 1), drive.labels, strict=True):
            if bonnet is None:
                yield np.ascontiguousarray(frame), table[label]
            else:
                yield np.where(own_car[..., None], shade, frame), np.where(own_car, np.uint8(bonnet), table[label])

    return scene


def own_ids(known: DataSet) -> NDArray[np.uint8]:
    """Table uint8 `[256]` from the renderer's labels (viper15, 255 on poles) to a data set's own ids."""
    void, poles = known.fake.void, known.fake.poles
    ids = {name: label_id for label_id, name in reversed(list(known.labels.classes.items()))}  # the first of several
    ids.setdefault("terrain", ids.get("vegetation", void))
    table = np.full(256, void, dtype=np.uint8)
    table[: VIPER_15.num_classes] = [ids.get(name, void) for name in VIPER_15.classes]
    table[255] = ids.get("pole", void) if poles is None else poles
    return table
