"""SYNTHIA-Seq: one rendered drive of 850 frames at 5 Hz, every frame labelled (Ros et al., CVPR 2016).

Renamed as DA-VSN wants it, or as unpacked from SYNTHIA-SEQS-04-DAWN.rar. Labels are 16-bit RGB with the class in R and
the instance in G. Frames are resized to 760×1280; then the bottom 120 rows, which show the car itself, are cut off:
640×1280 remain. STPL's text speaks of 8,000 frames; the code of the lineage (and its author, DA-VSN issue 4) uses this
one sequence.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.data.data_set import DataSet, Fake, FakeVideo, FileLayout, Ids, LabelFormat
from stpl.data.image import checked_bytes, read_ids
from stpl.data.patterns import FilePattern
from stpl.errors import DataError

_RED = 2  # in OpenCV's channel order
_THINGS = (8, 10)  # cars and people have instances
_SEQUENCE, _VIEW = "SEQS-04-DAWN", "Stereo_Left/Omni_F"


def read_classes(path: Path) -> Ids:
    """Class ids `[H,W]` of a SYNTHIA label: channel R of a 16-bit colour PNG, or the only channel of a grey one.

    OpenCV decodes it, because Pillow keeps the upper byte of 16-bit colours only, where the ids are not; but OpenCV
    may return half of a torn image, so Pillow checks the file first. Raises `DataError` for one that is missing, torn
    or an 8-bit colour image.
    """
    data = checked_bytes(path)
    with Image.open(io.BytesIO(data)) as image:
        if image.mode in ("1", "L", "P", "I;16", "I"):
            return read_ids(path)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        what = "a label must be a 16-bit image with the class in its first channel, this one is an 8-bit colour image"
        raise DataError(what, where=path, mend="give the images of GT/LABELS, not those of GT/COLOR")
    return np.asarray(pixels[:, :, _RED], np.uint16)


def write_classes(ids: NDArray[np.uint8]) -> bytes:
    """A label as SYNTHIA stores it: a 16-bit RGB PNG with the class in R and the number of the instance in G."""
    instances, count = np.zeros(ids.shape, dtype=np.int32), 0
    for thing in _THINGS:
        found, parts = cv2.connectedComponents((ids == thing).astype(np.uint8), connectivity=8)
        instances += np.where(parts > 0, parts + count, 0)
        count += found - 1
    blue_green_red = np.dstack([np.zeros_like(instances), instances, ids]).astype(np.uint16)
    return cv2.imencode(".png", blue_green_red)[1].tobytes()


def videos(clips: int) -> Iterator[FakeVideo]:
    """Frames 000000, 000001, …, every one labelled."""
    yield FakeVideo(_SEQUENCE, "train", [{"number": number} for number in range(clips + 1)], range(clips + 1))


def _files(folder: str) -> FilePattern:
    return FilePattern(f"{_SEQUENCE}/{folder}", r"(?P<number>\d{6})\.png", "{number:06d}.png")


SET = DataSet(
    name="synthia",
    folder="SynthiaSeq",
    splits=("train",),
    layouts={
        "renamed": FileLayout(_files("rgb"), _files("label")),
        "archive": FileLayout(_files(f"RGB/{_VIEW}"), _files(f"GT/LABELS/{_VIEW}")),
    },
    labels=LabelFormat(
        {3: "road", 4: "sidewalk", 2: "building", 5: "fence", 7: "pole", 15: "light", 9: "sign", 6: "vegetation",
         1: "sky", 10: "person", 11: "rider", 8: "car"},
        last_id=15,
        files="label images of GT/LABELS",
        read=read_classes,
        write=write_classes,
    ),
    unpack="unpack SYNTHIA-SEQS-04-DAWN",
    native=(760, 1280),
    size=(640, 1280),
    space="synthia12",
    fake=Fake(videos, clips=6, domain="studio"),
    key="{number:06d}",
    flow_name="{number:06d}_int16_x10.npy",
    flow_folder="Estimated_optical_flow_SynthiaSeq_{split}",
    height_kept=640 / 760,
    published={"train": 849},
)  # fmt: skip
