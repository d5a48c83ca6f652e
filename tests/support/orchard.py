"""An invented data set: numbers of any width, folders of days and cameras, few classes, lower rows that are cut off.

frames/2024-05-03/left/f9.png       masks/left@2024-05-03#9.png
"""

from __future__ import annotations

from collections.abc import Iterator

from stpl.data.data_set import DataSet, Fake, FakeVideo, FileLayout, LabelFormat
from stpl.data.patterns import FilePattern


def videos(clips: int) -> Iterator[FakeVideo]:
    """One video, every frame labelled; both splits are the same files."""
    video: dict[str, str | int] = {"day": "2024-05-03", "sequence": "left"}
    frames = [video | {"number": 8 + time} for time in range(clips + 2)]
    yield FakeVideo("left", "train", frames, range(2, clips + 2))


_DAY = r"(?P<day>\d{4}-\d\d-\d\d)"
SET = DataSet(
    name="orchard",
    folder="Orchard",
    splits=("train", "val"),
    layouts={
        "files": FileLayout(
            FilePattern(
                "frames", rf"{_DAY}/(?P<sequence>[a-z]+)/f(?P<number>\d+)\.png", "{day}/{sequence}/f{number}.png"
            ),
            FilePattern("masks", rf"(?P<sequence>[a-z]+)@{_DAY}#(?P<number>\d+)\.png", "{sequence}@{day}#{number}.png"),
        )
    },
    labels=LabelFormat(
        {10: "road", 20: "vegetation", 21: "vegetation", 30: "sky", 40: "person", 50: "car", 60: "building"},
        last_id=60,
        files="masks",
    ),
    unpack="copy frames and masks",
    native=(480, 640),
    size=(216, 320),
    space="viper15",
    fake=Fake(videos),
    key="{day}-{sequence}-{number}",
    height_kept=0.9,
)
