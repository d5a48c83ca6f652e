"""Cityscapes-Seq: 30-frame snippets of which one frame each is labelled (Cordts et al., CVPR 2016).

As unpacked from `leftImg8bit_sequence_trainvaltest.zip` and `gtFine_trainvaltest.zip`, with label ids 0..33. The
labelled frame is the 20th of its snippet, but its *number* is 000019 in only 1877 of 2975 training and 233 of 500
validation snippets: numbers are always read from file names.
"""

from collections.abc import Iterator, Sequence

from stpl.data.data_set import DataSet, Fake, FakeVideo, FileLayout, LabelFormat
from stpl.data.patterns import FilePattern, FrameFiles, FrameId
from stpl.errors import DataError

_LENGTH, _LABELLED = 30, 19  # frames of a snippet, and the place (counted from 0) of the labelled one
_FIRST_RUNNING, _RUNNING_STEP = 275, 131  # frankfurt_000000_000294 is the first label that is no 20th frame by number


def labelled_or_twentieth(frames: FrameFiles, labels: FrameFiles) -> list[FrameId]:
    """The labelled frames; without any, the 20th of each snippet: of 30 frames with consecutive numbers."""
    return list(labels) or list(_twentieth(frames))


def _twentieth(frames: FrameFiles) -> Iterator[FrameId]:
    for snippet in _snippets(frames):
        if len(snippet) != _LENGTH:
            first, last = snippet[0], snippet[-1]
            name = f"{first.sequence}_{first.number:06d} … {last.number:06d}"
            what = f"the snippet {name} has {len(snippet)} of {_LENGTH} frames, so its 20th frame is unknown"
            mend = "unpack the whole snippet, or name the current frames in a frame list"
            raise DataError(what, where=frames.folder, mend=mend)
        yield snippet[_LABELLED]


def _snippets(frames: FrameFiles) -> Iterator[list[FrameId]]:
    """Frames cut at every gap in numbering and after every 30."""
    snippet: list[FrameId] = []
    for frame in frames:
        if snippet and (frame.before() != snippet[-1] or len(snippet) == _LENGTH):
            yield snippet
            snippet = []
        snippet.append(frame)
    yield snippet


def videos(
    clips: int, cities: Sequence[str] = ("aachen", "ulm"), splits: Sequence[str] = ("train", "val")
) -> Iterator[FakeVideo]:
    """Whole snippets of as many cities as there are clips, labelled in their 20th frame.

    As in the true set, some cities count every snippet from 000000 under a sequence number of its own (the first, third
    … city here) and some number all frames of one sequence, so that the labelled frame is 000294, 000425, …
    """
    cities = cities[:clips]
    for split in splits:
        for place, city in enumerate(cities):
            for snippet in range(-(-clips // len(cities))):
                sequence, first = (0, _FIRST_RUNNING + _RUNNING_STEP * snippet) if place % 2 else (snippet, 0)
                video = {"city": city, "sequence": f"{city}_{sequence:06d}"}
                frames = [video | {"number": first + time} for time in range(_LENGTH)]
                yield FakeVideo(f"{split}/{city}/{snippet}", split, frames, [_LABELLED])


_STEM = r"(?P<city>[A-Za-z0-9-]+)/(?P<sequence>(?P=city)_\d{6})_(?P<number>\d{6})"
SET = DataSet(
    name="cityscapes",
    folder="Cityscapes",
    splits=("train", "val", "test"),
    layouts={
        "archive": FileLayout(
            FilePattern("leftImg8bit_sequence/{split}", rf"{_STEM}_leftImg8bit\.png",
                        "{city}/{sequence}_{number:06d}_leftImg8bit.png"),
            FilePattern("gtFine/{split}", rf"{_STEM}_gtFine_labelIds\.png",
                        "{city}/{sequence}_{number:06d}_gtFine_labelIds.png"),
        )
    },
    labels=LabelFormat(
        {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "light", 20: "sign",
         21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus",
         31: "train", 32: "motorcycle", 33: "bicycle"},
        last_id=33,
        files="*_gtFine_labelIds.png",
        void=255,  # id -1 (licence plate) where a tool drew it into 8 bits
        train_ids=18,
    ),
    unpack="unpack leftImg8bit_sequence_trainvaltest.zip",
    native=(1024, 2048),
    size=(512, 1024),
    space="cityscapes19",
    fake=Fake(videos, clips=2, bonnet=1),
    flow_folder="Estimated_optical_flow_Cityscapes-Seq_{split}",
    current=labelled_or_twentieth,
    labelled=False,
    published={"train": 2975, "val": 500},
)  # fmt: skip
