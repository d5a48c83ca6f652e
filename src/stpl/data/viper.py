"""VIPER: recorded in a game, every frame labelled (Richter et al., ICCV 2017, "Playing for Benchmarks").

Layout under `ROOT/Viper`, as unpacked from the JPG images of all frames and the semantic class labels of frames *0:

    {split}/img/{sequence:03}/{sequence:03}_{frame:05}.jpg    1080×1920 RGB
    {split}/cls/{sequence:03}/{sequence:03}_{frame:05}.png    ids 0..31

Frames are resized to 720×1280 as all released code of the lineage does (the STPL paper's text says 760×1280, which is
SYNTHIA's height). The player's own car is taken out of the labels: see `without_own_car`.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.layout import (
    FilePattern,
    LabelFormat,
    Layout,
    SequenceSet,
    check_options,
    with_predecessor,
)

NAME, FOLDER, SPLITS = "viper", "Viper", ("train", "val")
SIZE = (720, 1280)
"""Training size (height, width)."""

_CAR, _UNLABELLED, _LAST_ID = 24, 0, 31
_STEP = 10


def open_split(
    root: Path, split: str, *, frame_list: Path | None = None, size: tuple[int, int] = SIZE, previous: int = 1
) -> SequenceSet:
    """The clips of one split.

    Without a list the current frames are the labelled ones whose number ends in 0, which is what the lineage's list
    holds (13,367 frames): VIPER labels every frame, but consecutive ones are near copies of each other. The first
    frames of a video, which have no predecessor, are left out.

    Args:
        root: folder that holds `Viper`.
        split: `train` or `val`.
        frame_list: text file with one current frame a line, `001/001_00010.jpg` (the lineage's `Viper_list/train.txt`).
        size: (height, width) of frames and training labels.
        previous: distance of the previous frame, in frames.

    Raises:
        ConfigError: an option is out of range.
        DataError: a folder, frame or line of the list is missing or malformed.
    """
    check_options(NAME, split, SPLITS, size, previous)
    folder, stem = Path(root) / FOLDER, "{sequence}/{sequence}_{number:05d}"
    layout = Layout(
        FilePattern(folder / split / "img", f"{stem}.jpg", r"\d{3}"),
        FilePattern(folder / split / "cls", f"{stem}.png", r"\d{3}"),
        key="{sequence}_{number:05d}",
        flow_name="{sequence}_{number:05d}{before:05d}_int16_x10.npy",
        line="001/001_00010.jpg",
        mend=f"unpack VIPER's JPG images of all frames and its class labels into {folder}, or correct the root",
    )
    on_disk, listed = layout.on_disk(), layout.listed(frame_list)
    labelled = layout.labelled(listed)
    tenth = (frame for frame in labelled if frame.number % _STEP == 0)
    current = listed or with_predecessor(tenth, on_disk, previous)
    return SequenceSet(
        NAME,
        split,
        layout.clips(current, on_disk, labelled, previous),
        folder,
        f"Estimated_optical_flow_Viper_{split}",
        size,
        LabelFormat(_LAST_ID, "class images of the folder cls", clean=without_own_car),
        layout,
        previous=previous,
    )


def without_own_car(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """VIPER ids uint8 `[H,W]` with the car that the camera is mounted on made unlabelled.

    It is the 8-connected region of the class car that covers the bottom-centre pixel, if that pixel is a car at all.
    The lineage looks for it after the resize (DA-VSN, `dataset/Viper.py`), and so do the callers here.
    """
    height, width = ids.shape
    _, regions = cv2.connectedComponents((ids == _CAR).astype(np.uint8), connectivity=8)
    own = regions[height - 1, width // 2]
    return ids if own == 0 else np.where(regions == own, np.uint8(_UNLABELLED), ids)
