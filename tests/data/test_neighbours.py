"""Clips of more than two frames, with the frame after and the label before, from every reader."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fakes import FewIds, write_synthia
from stpl.data.clip import BACKWARD, ClipReader, Wants
from stpl.data.flow import FlowCache, estimate
from stpl.data.label_space import SYNTHIA_12
from stpl.data.sequence import SequenceClips, open_cache
from stpl.data.sequence_set import open_set
from stpl.data.steps import StepBefore, StepSampler
from stpl.data.streets import StreetsOptions, draw_drive, open_split
from stpl.data.streets.reader import StreetsClips
from stpl.data.videos.video_clips import VideoFrames
from stpl.errors import DataError

EVERYTHING = Wants(frames=(-3, -2, -1, 0, 1), flows=(BACKWARD, (-1, -2), (-2, -3), (0, 1)))
SIZE, COUNT = (32, 64), 8


@pytest.fixture(scope="module")
def synthia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 0 to 8; clips end with 3 to 7."""
    root = tmp_path_factory.mktemp("data")
    write_synthia(root / "SynthiaSeq", clips=COUNT)
    (root / "list.txt").write_text("".join(f"{number:06d}.png\n" for number in range(3, COUNT)))
    return root


def sequence(root: Path, listed: bool = True, kept: bool = False) -> SequenceClips:
    files = open_set(root, "synthia", "train", size=SIZE, frame_list=root / "list.txt" if listed else None)
    cache = open_cache(files) if kept else None
    return SequenceClips(files, SYNTHIA_12, flow=FlowCache(root / "flow"), label_size="input", cache=cache)


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
        reader, first = sequence(synthia, kept=kind == "cache"), 0
    reader.require(EVERYTHING)
    clip = reader.read(first, EVERYTHING)
    pairs = [reader.read(first + by, Wants(flows=(BACKWARD,))) for by in range(2)]
    assert clip.frames.shape == (5, 3, *pairs[0].frames.shape[-2:])
    assert torch.equal(clip.frames[2:4], pairs[0].frames)
    assert torch.equal(clip.frame(1), pairs[1].frames[1])
    images = {at: np.ascontiguousarray(clip.frame(at).permute(1, 2, 0).numpy()) for at in clip.offsets}
    for (of, to), flow in clip.flows.items():
        expected = torch.from_numpy(estimate(images[of], images[to]))
        torch.testing.assert_close(flow, expected, rtol=1e-3, atol=1e-2)
    if kind != "video":
        assert torch.equal(reader.read(1, Wants(labels=(-1,))).labels[-1], reader.label(0))


def test_a_recorded_set_names_the_frame_that_is_missing(synthia: Path) -> None:
    clips = sequence(synthia, listed=False)  # from frame 1 on, before which there is only frame 0
    clips.require(Wants(flows=(BACKWARD,)))
    with pytest.raises(DataError, match=r"no such frame(.|\n)*before it"):
        clips.require(EVERYTHING)
    with pytest.raises(DataError, match=r"no such frame(.|\n)*after it"):
        clips.require(Wants(frames=(-1, 0, 1)))


def test_a_video_that_begins_or_ends_stands_still(tmp_path: Path) -> None:
    reader = video(tmp_path)
    first = reader.read(0, EVERYTHING)
    assert torch.equal(first.frames[0], first.frames[1])
    assert torch.equal(first.frames[1], first.frames[2])
    assert not first.flows[-1, -2].any()
    assert not first.flows[-2, -3].any()
    last = reader.read(len(reader) - 1, EVERYTHING)
    assert torch.equal(last.frame(1), last.frame())


def test_drives_of_streets(tmp_path: Path) -> None:
    options = StreetsOptions(height=24, width=48, frames=3, train_drives=2, val_drives=1, camera_val_drives=1)
    reader = StreetsClips(open_split(tmp_path, "studio", "train", options, workers=1))
    drive = draw_drive(options, "studio", "train", 1)
    wants = Wants(frames=(-2, -1, 0, 1), flows=(BACKWARD, (-1, -2), (0, 1)), labels=(-1,))
    begin, end = (reader.read(index, wants) for index in (2, 3))
    for clip, places in ((begin, [0, 0, 1, 2]), (end, [0, 1, 2, 2])):
        assert torch.equal(clip.frames, torch.from_numpy(drive.frames[places]))
        assert torch.equal(clip.labels[-1], torch.from_numpy(drive.labels[places[1]]).long())
    assert not begin.flows[-1, -2].any()
    assert begin.flows[0, 1].any()
    assert not end.flows[0, 1].any()


def test_the_step_before_is_the_one_before() -> None:
    options = {"seed": 1, "start": 0, "steps": 6, "batch_size": 2}
    now, before = (list(kind(10, **options)) for kind in (StepSampler, StepBefore))
    assert before[1:] == now[:-1]
    resumed = list(StepBefore(10, **(options | {"start": 3})))
    assert resumed == before[3:]


def test_a_label_of_the_frame_before_makes_no_cache(tmp_path: Path) -> None:
    write_synthia(tmp_path / "SynthiaSeq", clips=COUNT)
    (tmp_path / "list.txt").write_text("000003.png\n000004.png\n")
    reader, folder = sequence(tmp_path, kept=True), tmp_path / "SynthiaSeq" / "cache_32x64" / "train"
    before = sorted(folder.iterdir())
    assert reader.read(1, Wants(labels=(-1,))).labels
    assert sorted(folder.iterdir()) == before
    reader.require(Wants(frames=(-2, -1, 0)))
    assert (folder / "frames_-2").is_dir()
