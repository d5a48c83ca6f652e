"""VIPER: recorded in a game, every frame labelled (Richter et al., ICCV 2017, "Playing for Benchmarks").

As unpacked from the JPG images of all frames and the semantic class labels of frames *0, with ids 0..31. Frames are
resized to 720×1280 as all released code of the lineage does (the STPL paper's text says 760×1280, which is SYNTHIA's
height). The player's own car is removed from the labels: see `without_own_car`.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.data_set import DataSet, Fake, FakeVideo, FileLayout, LabelFormat, with_predecessor
from stpl.data.patterns import FilePattern, FrameFiles, FrameId

_CAR, _UNLABELLED, _INFRASTRUCTURE = 24, 0, 10
_STEP = 10


def every_tenth(frames: FrameFiles, labels: FrameFiles) -> list[FrameId]:
    """The labelled frames whose number ends in 0, which is what the lineage's list holds (13,367 frames).

    VIPER labels every frame, but consecutive ones are near copies of each other. The first frame of a video, which has
    no predecessor, is left out.
    """
    return with_predecessor((frame for frame in labels if frame.number % _STEP == 0), frames)


def without_own_car(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """VIPER ids uint8 `[H,W]` with the car that the camera is mounted on made unlabelled.

    It is the 8-connected region of the class car that covers the bottom-centre pixel, if that pixel is a car at all.
    The lineage looks for it after the resize (DA-VSN, `dataset/Viper.py`), and so do the callers here.
    """
    height, width = ids.shape
    _, regions = cv2.connectedComponents((ids == _CAR).astype(np.uint8), connectivity=8)
    own = regions[height - 1, width // 2]
    return ids if own == 0 else np.where(regions == own, np.uint8(_UNLABELLED), ids)


def videos(clips: int, sequences: int = 2) -> Iterator[FakeVideo]:
    """Sequences 001, 002, … of consecutive frames from 00009 on; frames *0 are labelled, and *9 (TPS, CMOM)."""
    sequences = min(clips, sequences)
    numbers = range(_STEP - 1, _STEP * -(-clips // sequences) + 1)
    labelled = [place for place, number in enumerate(numbers) if number % _STEP in (0, _STEP - 1)]
    for sequence in range(1, sequences + 1):
        video: dict[str, str | int] = {"sequence": f"{sequence:03d}"}
        frames = [video | {"number": number} for number in numbers]
        yield FakeVideo(f"train/{sequence}", "train", frames, labelled)


_STEM = r"(?P<sequence>\d{3})/(?P=sequence)_(?P<number>\d{5})"
SET = DataSet(
    name="viper",
    folder="Viper",
    splits=("train", "val"),
    layouts={
        "archive": FileLayout(
            FilePattern("{split}/img", rf"{_STEM}\.jpg", "{sequence}/{sequence}_{number:05d}.jpg"),
            FilePattern("{split}/cls", rf"{_STEM}\.png", "{sequence}/{sequence}_{number:05d}.png"),
        )
    },
    labels=LabelFormat(
        # Van 25, train 29 and the rest count for nothing in the lineage; infrastructure neither, which has poles.
        {3: "road", 4: "sidewalk", 9: "building", 10: "infrastructure", 11: "fence", 13: "light", 14: "sign",
         7: "vegetation", 8: "vegetation", 6: "terrain", 2: "sky", 20: "person", 24: "car", 27: "truck", 26: "bus",
         23: "motorcycle", 22: "bicycle"},
        last_id=31,
        files="class images of the folder cls",
        clean=without_own_car,
    ),
    unpack="unpack VIPER's JPG images of all frames and its class labels",
    native=(1080, 1920),
    size=(720, 1280),
    space="viper15",
    fake=Fake(videos, clips=4, domain="studio", bonnet=_CAR, poles=_INFRASTRUCTURE),
    key="{sequence}_{number:05d}",
    flow_name="{sequence}_{number:05d}{before:05d}_int16_x10.npy",
    flow_folder="Estimated_optical_flow_Viper_{split}",
    current=every_tenth,
    published={"train": 13367},
)  # fmt: skip
