"""Clips of more than two frames, with the frame after and the label before, from every reader."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fakes import FewIds, write_synthia
from stpl.data.cache import CachedClips, open_cache
from stpl.data.clip import ClipReader, Wants, read_clip, require
from stpl.data.flow import FlowCache, estimate
from stpl.data.folder import VideoFrames
from stpl.data.label_space import SYNTHIA_12
from stpl.data.sampling import StepBefore, StepSampler
from stpl.data.sequence import SequenceClips
from stpl.data.sequence_set import open_set
from stpl.data.streets import StreetsClips, StreetsOptions, draw_drive, open_split
from stpl.errors import DataError

EVERYTHING = Wants(frames=4, flow=True, following=True)
SIZE, COUNT = (32, 64), 8


@pytest.fixture(scope="module")
def synthia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 0 to 8; clips end with 3 to 7."""
    root = tmp_path_factory.mktemp("data")
    write_synthia(root / "SynthiaSeq", clips=COUNT)
    (root / "list.txt").write_text("".join(f"{number:06d}.png\n" for number in range(3, COUNT)))
    return root


def sequence(root: Path, listed: bool = True) -> SequenceClips:
    files = open_set(root, "synthia", "train", size=SIZE, frame_list=root / "list.txt" if listed else None)
    return SequenceClips(files, SYNTHIA_12, flow=FlowCache(root / "flow"), label_size="input")


def video(folder: Path) -> VideoFrames:
    """The same frames as a video of which the first three make no clip."""
    for number in range(COUNT + 1):
        frame = cv2.resize(FewIds(COUNT + 1, (76, 128)).frame(number), SIZE[::-1])
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    return VideoFrames(folder)


@pytest.mark.parametrize("kind", ["sequence", "cache", "video"])
def test_every_reader_knows_its_neighbours(kind: str, synthia: Path, tmp_path: Path) -> None:
    reader: ClipReader
    if kind == "video":
        reader, first = video(tmp_path), 2
    else:
        clips = sequence(synthia)
        reader, first = (clips if kind == "sequence" else CachedClips(clips, open_cache(clips.files))), 0
    require(reader, EVERYTHING)
    clip = read_clip(reader, first, EVERYTHING)
    pairs = [reader.read(first + by, Wants(flow=True)) for by in range(2)]
    assert clip.frames.shape == (4, 3, *pairs[0].frames.shape[-2:])
    assert clip.flow is not None
    assert clip.flow.shape[:2] == (3, 2)
    assert torch.equal(clip.frames[2:], pairs[0].frames)
    assert clip.following is not None
    assert torch.equal(clip.following, pairs[1].frames[1])
    images = [np.ascontiguousarray(x.permute(1, 2, 0).numpy()) for x in (*clip.frames, clip.following)]
    for later in range(1, 4):
        expected = torch.from_numpy(estimate(images[later], images[later - 1]))
        torch.testing.assert_close(clip.flow[later - 1], expected, rtol=1e-3, atol=1e-2)
    assert clip.following_flow is not None
    ahead = torch.from_numpy(estimate(images[3], images[4]))
    torch.testing.assert_close(clip.following_flow, ahead, rtol=1e-3, atol=1e-2)
    if kind != "video":
        other = read_clip(reader, 1, Wants(previous_label=True))
        assert other.previous_label is not None
        assert torch.equal(other.previous_label, reader.label(0))


def test_a_recorded_set_names_the_frame_that_is_missing(synthia: Path) -> None:
    clips = sequence(synthia, listed=False)  # from frame 1 on, before which there is only frame 0
    require(clips, Wants(flow=True))
    with pytest.raises(DataError, match=r"no such frame(.|\n)*before it"):
        require(clips, EVERYTHING)
    with pytest.raises(DataError, match=r"no such frame(.|\n)*after it"):
        require(clips, Wants(following=True))


def test_a_video_that_begins_or_ends_stands_still(tmp_path: Path) -> None:
    reader = video(tmp_path)
    first = read_clip(reader, 0, EVERYTHING)
    assert torch.equal(first.frames[0], first.frames[1])
    assert torch.equal(first.frames[1], first.frames[2])
    assert first.flow is not None
    assert first.flow[:2].abs().max() < 0.1
    last = read_clip(reader, len(reader) - 1, EVERYTHING)
    assert last.following is not None
    assert torch.equal(last.following, last.frames[-1])


def test_drives_of_streets(tmp_path: Path) -> None:
    options = StreetsOptions(height=24, width=48, frames=3, train_drives=2, val_drives=1, camera_val_drives=1)
    reader = StreetsClips(open_split(tmp_path, "studio", "train", options, workers=1))
    drive = draw_drive(options, "studio", "train", 1)
    wants = Wants(frames=3, flow=True, previous_label=True, following=True)
    begin, end = (read_clip(reader, index, wants) for index in (2, 3))
    for clip, places in ((begin, [0, 0, 1]), (end, [0, 1, 2])):
        assert torch.equal(clip.frames, torch.from_numpy(drive.frames[places]))
        assert clip.previous_label is not None
        assert torch.equal(clip.previous_label, torch.from_numpy(drive.labels[places[1]]).long())
    assert begin.flow is not None
    assert not begin.flow[0].any()
    assert begin.following is not None
    assert torch.equal(begin.following, torch.from_numpy(drive.frames[2]))
    assert begin.following_flow is not None
    assert begin.following_flow.any()
    assert end.following is not None
    assert torch.equal(end.following, end.frames[-1])
    assert end.following_flow is not None
    assert not end.following_flow.any()


def test_the_step_before_is_the_one_before() -> None:
    options = {"seed": 1, "start": 0, "steps": 6, "batch_size": 2}
    now, before = (list(kind(10, **options)) for kind in (StepSampler, StepBefore))
    assert before[1:] == now[:-1]
    resumed = list(StepBefore(10, **(options | {"start": 3})))
    assert resumed == before[3:]


def test_a_label_of_the_frame_before_makes_no_cache(tmp_path: Path) -> None:
    write_synthia(tmp_path / "SynthiaSeq", clips=COUNT)
    (tmp_path / "list.txt").write_text("000003.png\n000004.png\n")
    clips = sequence(tmp_path)
    reader = CachedClips(clips, open_cache(clips.files))
    assert read_clip(reader, 1, Wants(previous_label=True)).previous_label is not None
    folders = sorted(path.name for path in (tmp_path / "SynthiaSeq" / "cache_32x64").iterdir())
    assert folders == ["train"]
    read_clip(reader, 1, Wants(frames=3))
    assert (tmp_path / "SynthiaSeq" / "cache_32x64" / "train_1_1" / "frames.npy").is_file()
