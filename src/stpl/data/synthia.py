"""SYNTHIA-Seq: one rendered drive of 850 frames at 5 Hz, every frame labelled (Ros et al., CVPR 2016).

Layout under `ROOT/SynthiaSeq/SEQS-04-DAWN`, renamed as DA-VSN wants it, or as unpacked from SYNTHIA-SEQS-04-DAWN.rar:

    rgb/{frame:06}.png      RGB/Stereo_Left/Omni_F/{frame:06}.png          760×1280 RGB
    label/{frame:06}.png    GT/LABELS/Stereo_Left/Omni_F/{frame:06}.png    16-bit RGB: class 0..15 in R, instance in G

Frames are resized to 760×1280; then the bottom 120 rows, which show the car itself, are cut off: 640×1280 remain.
STPL's text speaks of 8,000 frames; the code of the lineage (and its author, DA-VSN issue 4) uses this one sequence.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.data.image import checked_bytes, read_ids
from stpl.data.layout import (
    FilePattern,
    Ids,
    LabelFormat,
    Layout,
    SequenceSet,
    check_options,
    with_predecessor,
)
from stpl.errors import DataError

NAME, FOLDER, SPLITS = "synthia", "SynthiaSeq", ("train",)
SEQUENCE = "SEQS-04-DAWN"
SIZE = (640, 1280)
"""Training size (height, width), after the crop."""
HEIGHT_KEPT = 640 / 760
"""Share of the height that is left after the crop."""

_FRAMES = ("rgb", "RGB/Stereo_Left/Omni_F")
_LABELS = ("label", "GT/LABELS/Stereo_Left/Omni_F")
_LAST_ID = 15
_RED = 2  # in OpenCV's channel order


def open_split(
    root: Path, split: str = "train", *, frame_list: Path | None = None, size: tuple[int, int] = SIZE, previous: int = 1
) -> SequenceSet:
    """The clips of the one split: all labelled frames but the first (000000), which has no predecessor.

    Args:
        root: folder that holds `SynthiaSeq`.
        split: `train`.
        frame_list: text file with one current frame a line, `000001.png` (the lineage's `SynthiaSeq_list/train.txt`).
        size: (height, width) of frames and training labels after the crop.
        previous: distance of the previous frame, in frames.

    Raises:
        ConfigError: an option is out of range.
        DataError: a folder, frame or line of the list is missing or malformed.
    """
    check_options(NAME, split, SPLITS, size, previous)
    folder = Path(root) / FOLDER
    layout = Layout(
        _pattern(folder / SEQUENCE, _FRAMES),
        _pattern(folder / SEQUENCE, _LABELS),
        key="{number:06d}",
        flow_name="{number:06d}_int16_x10.npy",
        line="000001.png",
        mend=f"unpack SYNTHIA-SEQS-04-DAWN into {folder / SEQUENCE}, or correct the root",
    )
    on_disk, listed = layout.on_disk(), layout.listed(frame_list)
    labelled = layout.labelled(listed)
    current = listed or with_predecessor(labelled, on_disk, previous)
    return SequenceSet(
        NAME,
        split,
        layout.clips(current, on_disk, labelled, previous),
        folder,
        "Estimated_optical_flow_SynthiaSeq_train",
        size,
        LabelFormat(_LAST_ID, "label images of GT/LABELS", read=read_classes),
        layout,
        height_kept=HEIGHT_KEPT,
        previous=previous,
    )


def _pattern(folder: Path, places: tuple[str, str]) -> FilePattern:
    """The files of one kind where they are: under the renamed folder if it holds any, else under the official one."""
    patterns = [FilePattern(folder / place, "{number:06d}.png") for place in places]
    return next((pattern for pattern in patterns if any(pattern.folder.glob("*.png"))), patterns[0])


def read_classes(path: Path) -> Ids:
    """Class ids `[H,W]` of a SYNTHIA label: channel R of a 16-bit colour PNG, or the only channel of a grey one.

    OpenCV decodes it, because Pillow keeps the upper byte of 16-bit colours only, where the ids are not; but OpenCV
    may return half of a torn image, so Pillow checks the file first.

    Raises:
        DataError: the file is missing or torn, or an 8-bit colour image.
    """
    data = checked_bytes(path)
    with Image.open(io.BytesIO(data)) as image:
        grey = image.mode in ("1", "L", "P", "I;16", "I")
    return read_ids(path) if grey else _red(data, path)


def _red(data: bytes, path: Path) -> NDArray[np.uint16]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise DataError(
            "a label must be a 16-bit image with the class in its first channel, this one is an 8-bit colour image",
            where=path,
            mend="give the images of GT/LABELS, not those of GT/COLOR",
        )
    return np.asarray(pixels[:, :, _RED], np.uint16)
