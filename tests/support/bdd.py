"""BDD10k video as a data set of one's own: hyphens in the names of frames, and no number in those of labels.

images/val/0000f77c-6257be58-0000307.jpg          frames of ten seconds
labels/val/0000f77c-6257be58_train_id.png         the label of frame 307
"""

from __future__ import annotations

from collections.abc import Iterator

from stpl.data.data_set import DataSet, Fake, FakeVideo, FileLayout, LabelFormat
from stpl.data.label_space import CITYSCAPES_19
from stpl.data.patterns import FilePattern

_LABELLED, _BEFORE = 307, 4


def videos(clips: int) -> Iterator[FakeVideo]:
    """One label a video."""
    for split in ("train", "val"):
        for video in range(clips):
            fields: dict[str, str | int] = {"sequence": f"{video:04x}f77c-6257be58"}
            frames = [fields | {"number": _LABELLED - _BEFORE + time} for time in range(_BEFORE + 2)]
            yield FakeVideo(f"{split}/{video}", split, frames, [_BEFORE])


_VIDEO = r"(?P<sequence>[0-9a-f]{8}-[0-9a-f]{8})"
SET = DataSet(
    name="bdd",
    folder="bdd",
    splits=("train", "val"),
    layouts={
        "archive": FileLayout(
            FilePattern("images/{split}", rf"{_VIDEO}-(?P<number>\d{{7}})\.jpg", "{sequence}-{number:07d}.jpg"),
            FilePattern("labels/{split}", rf"{_VIDEO}_train_id\.png", "{sequence}_train_id.png", number=_LABELLED),
        )
    },
    labels=LabelFormat(dict(enumerate(CITYSCAPES_19.classes)), last_id=18, files="*_train_id.png", void=255),
    unpack="unpack BDD10k's labels and the frames of its videos",
    native=(720, 1280),
    size=(720, 1280),
    space="cityscapes19",
    fake=Fake(videos, clips=2, void=255),
    key="{sequence}-{number:07d}",
    published={"train": 2999, "val": 430},
)
