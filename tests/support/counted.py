"""A data set of one's own in whose names a second number changes from frame to frame, and another from label to label.

val/img_all/0005_0121_frankfurt_000000_001736_newImg8bit.png    frames, counted over the whole split
val/cls/0005_0025_frankfurt_000000_001736_final_mask.png        every fifth has a label; those are counted too
"""

from __future__ import annotations

from collections.abc import Iterator

from stpl.data.data_set import DataSet, Fake, FakeVideo, FileLayout, LabelFormat
from stpl.data.label_space import CITYSCAPES_19
from stpl.data.patterns import FilePattern

_LENGTH, _STEP = 11, 5


def videos(clips: int) -> Iterator[FakeVideo]:
    """Two clips a video; the first labelled frame has none before it."""
    labelled = range(0, _LENGTH, _STEP)
    for split in ("train", "val"):
        for video in range(-(-clips // 2)):
            fields = {"sequence": f"{video:04d}", "place": "frankfurt_000000"}
            frames: list[dict[str, str | int]] = [
                {
                    **fields,
                    "number": 1736 + 100 * video + time,
                    "count": f"{video * _LENGTH + time + 1:04d}",
                    "labels": f"{video * len(labelled) + time // _STEP + 1:04d}",
                }
                for time in range(_LENGTH)
            ]
            yield FakeVideo(f"{split}/{video}", split, frames, labelled)


_REST = r"(?P<place>[a-z-]+_\d{6})_(?P<number>\d{6})"
SET = DataSet(
    name="counted",
    folder="counted",
    splits=("train", "val"),
    layouts={
        "archive": FileLayout(
            FilePattern(
                "{split}/img_all",
                rf"(?P<sequence>\d{{4}})_(?P<count>\d{{4}})_{_REST}_newImg8bit\.png",
                "{sequence}_{count}_{place}_{number:06d}_newImg8bit.png",
            ),
            FilePattern(
                "{split}/cls",
                rf"(?P<sequence>\d{{4}})_(?P<labels>\d{{4}})_{_REST}_final_mask\.png",
                "{sequence}_{labels}_{place}_{number:06d}_final_mask.png",
            ),
        )
    },
    labels=LabelFormat(dict(enumerate(CITYSCAPES_19.classes)), last_id=18, files="masks of the folder cls", void=255),
    unpack="unpack Cityscapes-VPS",
    native=(1024, 2048),
    size=(512, 1024),
    space="cityscapes19",
    fake=Fake(videos, void=255),
    key="{sequence}_{place}_{number:06d}",
)
