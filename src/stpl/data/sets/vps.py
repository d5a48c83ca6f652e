"""Cityscapes-VPS: the 500 validation snippets of Cityscapes-Seq, every fifth frame labelled (Kim et al., CVPR 2020).

Six frames a snippet have a label, the 5th, 10th, … 30th; the 20th has that of Cityscapes. Labels are read in any form
that the authors' archive and scripts have them in: `labelmap` (ids), `panoptic_inst` (ids and instances) or `cls`
(colours). Their names begin with the number of the video and that of the label. Frames are those that their script
copies to `img_all`, or Cityscapes' own beside the data set; they have no such numbers. Labels decide which snippets
form a split: 400 and 50 of them in the archive and in VAT-VST's text, 400 and 100 in the authors' older documentation.
"""

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.data.data_set import DataSet, Fake, FakeVideo, FileLayout, Ids, LabelFormat, with_predecessor
from stpl.data.image import checked_bytes, read_ids
from stpl.data.label_space import CITYSCAPES_19, IGNORE, PALETTE
from stpl.data.patterns import FilePattern, FrameFiles, FrameId
from stpl.errors import DataError

_LENGTH, _STEP, _OWN = 30, 5, 19  # frames of a snippet; from label to label; place (from 0) of the one of Cityscapes
_INSTANCES = 1000  # what ids are multiplied by where instances are counted
_FIRST, _NEXT = 275, 131  # number of a snippet's first frame in frankfurt_000000, and from there to the next


def read_classes(path: Path) -> Ids:
    """Class ids `[H,W]` of a label in any of its forms; a colour of no class is 255.

    Raises:
        DataError: as `stpl.data.image.read_ids`, except for colours.
    """
    with Image.open(io.BytesIO(checked_bytes(path))) as image:
        if image.mode in ("RGB", "RGBA"):
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int32), 2, 0)
            return np.asarray(_ids_of_colours()[(red << 16) + (green << 8) + blue])
    ids = read_ids(path).astype(np.int32)
    return np.where(ids >= _INSTANCES, ids // _INSTANCES, ids)


@cache
def _ids_of_colours() -> NDArray[np.uint8]:
    """The class of every colour, uint8 `[2**24]`."""
    table = np.full(2**24, IGNORE, np.uint8)
    for place, (red, green, blue) in enumerate(PALETTE.values()):
        table[(red << 16) + (green << 8) + blue] = place
    return table


def videos(clips: int) -> Iterator[FakeVideo]:
    """Snippets of frankfurt_000000, those of the validation split after those of the training split."""
    count = -(-clips // (_LENGTH // _STEP))
    labelled = range(_STEP - 1, _LENGTH, _STEP)
    for place, split in enumerate(("train", "val")):
        for video in range(place * count, (place + 1) * count):
            fields: dict[str, str | int] = {"video": f"{video + 1:04d}", "sequence": "frankfurt_000000"}
            names = [
                fields
                | {
                    "number": _FIRST + _NEXT * video + time,
                    "label": f"{video * len(labelled) + time // _STEP + 1:04d}",
                    "kind": "gtFine_color" if time == _OWN else "final_mask",
                }
                for time in range(_LENGTH)
            ]
            yield FakeVideo(f"{split}/{video}", split, names, labelled)


def labelled_ones(frames: FrameFiles, labels: FrameFiles) -> list[FrameId]:
    """The labelled frames; raises `DataError` without any, for they say which snippets the split consists of."""
    if not labels.paths:
        mend = "unpack Cityscapes-VPS: its labels say which snippets of Cityscapes the split consists of"
        raise DataError("there are no labels of this data set here", where=labels.folder, mend=mend)
    return with_predecessor(labels, frames)


_FRAME = r"(?P<sequence>[A-Za-z-]+_\d{6})_(?P<number>\d{6})"


def _labels(folder: str) -> FilePattern:
    name = rf"(?P<video>\d{{4}})_(?P<label>\d{{4}})_{_FRAME}_(?P<kind>final_mask|gtFine_color)\.png"
    return FilePattern(f"{{split}}/{folder}", name, "{video}_{label}_{sequence}_{number:06d}_{kind}.png")


_COPIED = FilePattern("{split}/img_all", rf"{_FRAME}_leftImg8bit\.png", "{sequence}_{number:06d}_leftImg8bit.png")
_CITYSCAPES = FilePattern(
    "../Cityscapes/leftImg8bit_sequence/val",
    r"(?P<city>[A-Za-z-]+)/(?P<sequence>(?P=city)_\d{6})_(?P<number>\d{6})_leftImg8bit\.png",
    "{city}/{sequence}_{number:06d}_leftImg8bit.png",
)
SET = DataSet(
    name="vps",
    folder="cityscapes_vps",
    splits=("train", "val"),
    layouts={
        "prepared": FileLayout(_COPIED, _labels("labelmap")),
        "instances": FileLayout(_COPIED, _labels("panoptic_inst")),
        "archive": FileLayout(_CITYSCAPES, _labels("cls")),
    },
    labels=LabelFormat(
        dict(enumerate(CITYSCAPES_19.classes)),
        last_id=18,
        files="labels of labelmap, panoptic_inst or cls",
        void=255,
        read=read_classes,
    ),
    unpack="unpack Cityscapes-VPS (frames: img_all, or Cityscapes-Seq beside it)",
    native=(1024, 2048),
    size=(512, 1024),
    space="vps15",
    fake=Fake(videos, clips=6, void=255),
    current=labelled_ones,
    labelled=False,
    repeats_ends=True,  # the last frame of a snippet has a label, and VST wants the one after it
    flow_folder="Estimated_optical_flow_Cityscapes-VPS_{split}",
    published={"train": 2400, "val": 300},
)
