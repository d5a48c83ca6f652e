"""Tiny data sets in each true layout on disk: for tests, and for a first run before the gigabytes have arrived.

A fake differs from the real thing only in size and content. It is a pure function of its arguments, so that two runs
of a test, or two machines, work on the same bytes. `stpl data fake` fills the layouts with drives of the street
renderer: its clean studio stands for the games VIPER and SYNTHIA, its camera for Cityscapes.
"""

from __future__ import annotations

import io
import shutil
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.data.cityscapes import LABELLED_POSITION, SNIPPET_LENGTH
from stpl.data.image import write_png
from stpl.data.label_space import SYNTHIA_12, VIPER_15, LabelSpace
from stpl.data.sequence import SETS
from stpl.data.streets import StreetsOptions, draw_drive
from stpl.errors import ConfigError, DataError, cannot_write
from stpl.files import write_atomically

Size = tuple[int, int]

_ROAD, _SIDEWALK, _BUILDING, _SKY, _PERSON, _CAR, _EGO = 7, 8, 11, 23, 24, 26, 1  # Cityscapes label ids
_COLOURS = {
    _ROAD: (96, 92, 96),
    _SIDEWALK: (150, 140, 145),
    _BUILDING: (120, 95, 80),
    _SKY: (165, 190, 215),
    _PERSON: (190, 60, 70),
    _CAR: (40, 60, 150),
    _EGO: (30, 30, 32),
}
_FIRST_RUNNING, _RUNNING_STEP = 275, 131  # frankfurt_000000_000294 is the true set's first such label
_CITIES = ("aachen", "ulm")
_VIPER_CAR, _SYNTHIA_THINGS = 24, (8, 10)  # own car; cars and people have instances
_POLES = {"viper": 10, "synthia": 7, "cityscapes": 17}  # VIPER calls poles infrastructure
_CLIPS = {"viper": 4, "synthia": 6, "cityscapes": 2}

Layout = Literal["renamed", "archive"]


class Scene(Protocol):
    """A drive to be written as files."""

    def frame(self, time: int) -> NDArray[np.uint8]:
        """The frame uint8 `[H,W,3]` RGB at frame number `time`, counted from 0."""
        ...

    def label(self, time: int) -> NDArray[np.uint8]:
        """Its ids uint8 `[H,W]`, as the data set that is written names them."""
        ...


SceneSource = Callable[[str, int], Scene]
"""Makes the scene of a name, e.g. "train/aachen/0", with that many frames."""


def fake(
    dataset: str,
    root: Path = Path("data"),
    size: Size = (128, 256),
    clips: int | None = None,
    seed: int = 0,
    layout: Layout = "renamed",
) -> None:
    """Write a tiny data set in its true layout, drawn by the street renderer, with labels in its own ids.

    VIPER shows the player's own car; Cityscapes the bonnet of its own. There are no riders (the renderer counts them
    as people), and in SYNTHIA, which knows no trucks, buses and bicycles, those are void.

    Args:
        dataset: viper, synthia or cityscapes.
        root: folder that holds the data sets' own folders; this one's must not exist yet, or be empty.
        size: height and width of the frames.
        clips: labelled frames a split, rounded up to the same number in both cities or sequences; a few if not given.
        seed: another seed draws other drives.
        layout: of SYNTHIA: renamed as DA-VSN wants it (rgb, label), or as its archive unpacks.
    """
    if dataset not in SETS:
        raise ConfigError(f"there is no data set '{dataset}'", mend=f"choose one of: {', '.join(SETS)}")
    count = _CLIPS[dataset] if clips is None else clips
    if count < 1:
        raise ConfigError(f"clips is {count}", mend="choose 1 or more")
    target = root / SETS[dataset].folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError("this is not empty, and nothing is overwritten", where=target, mend="give another --root")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        _write(dataset, partial, _streets(dataset, size, seed), count, layout)
        partial.replace(target)
    except OSError as error:
        raise cannot_write(target, error, kind=DataError) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{target}: {sum(path.is_file() for path in target.rglob('*'))} files")


def _write(dataset: str, folder: Path, scenes: SceneSource, clips: int, layout: Layout) -> None:
    halves = min(clips, 2)
    if dataset == "viper":
        write_viper(folder, scenes, sequences=halves, clips=-(-clips // halves))
    elif dataset == "synthia":
        write_synthia(folder, scenes, clips=clips, layout=layout)
    else:
        write_cityscapes(folder, cities=_CITIES[:halves], snippets=-(-clips // halves), scenes=scenes)


@dataclass(frozen=True)
class Drive:
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
        """See `Scene`."""
        frame = np.ascontiguousarray(self.frames[time].transpose(1, 2, 0))
        shade = np.linspace(60, 24, frame.shape[0], dtype=np.uint8)[:, None, None]
        return frame if self.bonnet is None else np.where(self._own_car[..., None], shade, frame)

    def label(self, time: int) -> NDArray[np.uint8]:
        """See `Scene`."""
        return self.ids[time] if self.bonnet is None else np.where(self._own_car, np.uint8(self.bonnet), self.ids[time])

    @cached_property
    def _own_car(self) -> NDArray[np.bool_]:
        height, width = self.ids.shape[1:]
        y, x = np.mgrid[:height, :width]
        return np.asarray(((x - width / 2) / (0.3 * width)) ** 2 + ((y - height) / (0.14 * height)) ** 2 < 1)


def _streets(dataset: str, size: Size, seed: int) -> SceneSource:
    domain = "camera" if dataset == "cityscapes" else "studio"
    bonnet = {"viper": _VIPER_CAR, "cityscapes": _EGO}.get(dataset)
    table = _own_ids(dataset)

    def scene(name: str, frames: int) -> Drive:
        """The drive of this name, in the data set's own ids."""
        options = StreetsOptions(seed=seed, height=size[0], width=size[1], frames=frames)
        drive = draw_drive(options, domain, "train", zlib.crc32(f"{dataset}/{name}".encode()))
        return Drive(drive.frames, table[drive.labels], bonnet)

    return scene


def _own_ids(dataset: str) -> NDArray[np.uint8]:
    """Table uint8 `[256]` from the renderer's labels (viper15, 255 on poles) to a data set's own ids."""
    space = SYNTHIA_12 if dataset == "synthia" else VIPER_15
    table = np.zeros(256, dtype=np.uint8)
    for train_id, name in enumerate(VIPER_15.classes):
        name = "vegetation" if name == "terrain" and name not in space.classes else name
        if name in space.classes:
            table[train_id] = _first_id(space, dataset, name)
    table[255] = _POLES[dataset]
    return table


def _first_id(space: LabelSpace, dataset: str, name: str) -> int:
    return next(own for own, train_id in space.remaps[dataset].items() if space.classes[train_id] == name)


def write_viper(root: Path, scenes: SceneSource, *, sequences: int = 2, clips: int = 2, split: str = "train") -> Path:
    """Write a VIPER: sequences 001, 002, … of consecutive frames from 00009 on.

    Labels are those of the frames *0 and of the frames *9 before them, which TPS and CMOM read.

    Args:
        root: folder to write `{split}/img` and `{split}/cls` into.
        scenes: makes the drives; their labels hold VIPER's ids.
        sequences: number of sequences.
        clips: frames *0 a sequence.
        split: the split.

    Returns:
        `root`.
    """
    first, last = 9, 10 * clips
    for sequence in range(1, sequences + 1):
        scene = scenes(f"{split}/{sequence}", last - first + 1)
        for time in range(last - first + 1):
            number = first + time
            stem = f"{sequence:03d}/{sequence:03d}_{number:05d}"
            _write_jpeg(root / split / "img" / f"{stem}.jpg", scene.frame(time))
            if number % 10 in (0, 9):
                write_png(root / split / "cls" / f"{stem}.png", scene.label(time))
    return root


def write_synthia(root: Path, scenes: SceneSource, *, clips: int = 4, layout: Layout = "renamed") -> Path:
    """Write a SYNTHIA-Seq: frames 000000, 000001, … of SEQS-04-DAWN, every one labelled.

    Args:
        root: folder to write `SEQS-04-DAWN` into.
        scenes: makes the drive; its labels hold SYNTHIA's ids.
        clips: frames that have a predecessor.
        layout: `renamed` or `archive`.

    Returns:
        `root`.
    """
    scene, folder = scenes("SEQS-04-DAWN", clips + 1), root / "SEQS-04-DAWN"
    view = "Stereo_Left/Omni_F"
    frames, labels = (f"RGB/{view}", f"GT/LABELS/{view}") if layout == "archive" else ("rgb", "label")
    for time in range(clips + 1):
        write_png(folder / frames / f"{time:06d}.png", scene.frame(time))
        _write_classes(folder / labels / f"{time:06d}.png", scene.label(time))
    return root


def write_cityscapes(
    root: Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    cities: Sequence[str] = ("aachen", "ulm"),
    snippets: int = 2,
    size: Size = (64, 128),
    labels: bool = True,
    scenes: SceneSource | None = None,
) -> Path:
    """Write a Cityscapes-Seq: whole 30-frame snippets, and label ids of the 20th frame of each.

    As in the true set, some cities count every snippet from 000000 under a sequence number of its own (the first, third
    … city here) and some number all frames of one sequence, so that the labelled frame is 000294, 000425, …

    Args:
        root: folder to write `leftImg8bit_sequence` and `gtFine` into.
        splits: splits to write, each with the same city names but other content.
        cities: city names.
        snippets: snippets a city.
        size: (height, width) of frames and labels, unless `scenes` says; the true one is 1024×2048.
        labels: write `gtFine`; an unlabelled target has none.
        scenes: makes the drives; moving shapes if not given.

    Returns:
        `root`.
    """
    root = Path(root)
    scenes = scenes or (lambda name, _: MovingShapes(zlib.crc32(name.encode()) % 1000, size))
    for split in splits:
        for place, city in enumerate(cities):
            for snippet in range(snippets):
                scene = scenes(f"{split}/{city}/{snippet}", SNIPPET_LENGTH)
                sequence, first = (0, _FIRST_RUNNING + _RUNNING_STEP * snippet) if place % 2 else (snippet, 0)
                stems = [f"{split}/{city}/{city}_{sequence:06d}_{first + time:06d}" for time in range(SNIPPET_LENGTH)]
                _write_snippet(root, stems, scene, labels)
    return root


def _write_snippet(root: Path, stems: list[str], scene: Scene, labels: bool) -> None:
    for time, stem in enumerate(stems):
        write_png(root / "leftImg8bit_sequence" / f"{stem}_leftImg8bit.png", scene.frame(time))
    if labels:
        label = scene.label(LABELLED_POSITION)
        write_png(root / "gtFine" / f"{stems[LABELLED_POSITION]}_gtFine_labelIds.png", label)


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=95)
    write_atomically(path, buffer.getvalue(), kind=DataError, sync=False)


def _write_classes(path: Path, ids: NDArray[np.uint8]) -> None:
    """A label as SYNTHIA stores it: a 16-bit RGB PNG with the class in R and the number of the instance in G."""
    instances, count = np.zeros(ids.shape, dtype=np.int32), 0
    for thing in _SYNTHIA_THINGS:
        found, parts = cv2.connectedComponents((ids == thing).astype(np.uint8), connectivity=8)
        instances += np.where(parts > 0, parts + count, 0)
        count += found - 1
    blue_green_red = np.dstack([np.zeros_like(instances), instances, ids]).astype(np.uint16)
    write_atomically(path, cv2.imencode(".png", blue_green_red)[1].tobytes(), kind=DataError, sync=False)


@dataclass(frozen=True)
class MovingShapes:
    """A toy street: bands and a textured facade that pan one pixel a frame, a car that gains, a person.

    Attributes:
        seed: chooses textures and places.
        size: (height, width), at least 32×64.
    """

    seed: int
    size: Size

    def label(self, time: int) -> NDArray[np.uint8]:
        """Cityscapes label ids uint8 `[H,W]` at frame number `time` (counted from 0)."""
        height, width = self.size
        ids = np.full(self.size, _SKY, dtype=np.uint8)
        ids[int(0.2 * height) : int(0.5 * height)] = _BUILDING
        ids[int(0.5 * height) : int(0.6 * height)] = _SIDEWALK
        ids[int(0.6 * height) :] = _ROAD
        self._block(ids, _PERSON, 0.4, 0.62, (width // 4 + self.seed - time) % width, width // 16)
        self._block(ids, _CAR, 0.55, 0.8, (width // 2 + self.seed + 2 * time) % width, width // 4)
        ids[int(0.92 * height) :, width // 4 : 3 * width // 4] = _EGO
        return ids

    def frame(self, time: int) -> NDArray[np.uint8]:
        """The frame uint8 `[H,W,3]` RGB that `label(time)` describes; moving things carry their texture along."""
        ids = self.label(time)
        table = np.zeros((256, 3), dtype=np.int16)
        for value, colour in _COLOURS.items():
            table[value] = colour
        width = self.size[1]
        pan, drive = self._texture[:, time : time + width], np.roll(self._texture[:, :width], 2 * time, axis=1)
        texture = np.where(ids == _CAR, drive, np.where(ids == _EGO, 0, pan))
        return np.clip(table[ids] + texture[..., None], 0, 255).astype(np.uint8)

    def _block(self, ids: NDArray[np.uint8], value: int, top: float, bottom: float, left: int, width: int) -> None:
        height = self.size[0]
        ids[int(top * height) : int(bottom * height), left : left + width] = value

    @cached_property
    def _texture(self) -> NDArray[np.int16]:
        height, width = self.size
        noise = np.random.default_rng(self.seed).normal(0.0, 90.0, (height, width + SNIPPET_LENGTH))
        return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5)).astype(np.int16)
