"""The benchmark `streets` as clips: what the reader serves, and what it never opens."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stpl.data.clip import BACKWARD, ClipReader, Wants
from stpl.data.streets.cache import StreetsSplit, open_split
from stpl.data.streets.drive import StreetsOptions, draw_drive
from stpl.data.streets.reader import StreetsClips
from stpl.errors import DataError

TINY = StreetsOptions(height=24, width=48, frames=3, train_drives=4, val_drives=2, camera_val_drives=2)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> StreetsSplit:
    return open_split(tmp_path_factory.mktemp("streets"), "camera", "train", TINY, workers=1)


def test_clips_are_pairs_of_frames_with_flow_and_label(split: StreetsSplit) -> None:
    reader: ClipReader = StreetsClips(split)
    assert len(reader) == 4 * 2
    clip = reader.read(5, Wants(flows=(BACKWARD,), labels=(0,)))
    assert clip.key == "camera-train/0002/02"
    drive = draw_drive(TINY, "camera", "train", 2)
    assert torch.equal(clip.frames, torch.from_numpy(drive.frames[1:3]))
    assert clip.labels[0].dtype == torch.int64
    assert torch.equal(clip.labels[0], torch.from_numpy(drive.labels[2]).long())
    assert clip.flows[BACKWARD].shape == (2, 24, 48)
    torch.testing.assert_close(clip.flows[BACKWARD], torch.from_numpy(drive.flow[2]), rtol=1e-3, atol=1e-5)
    visible = reader.visible(5)
    assert visible is not None
    assert np.array_equal(visible, drive.visible[2])


def test_label_file_is_never_opened_unless_wanted(split: StreetsSplit, tmp_path: Path) -> None:
    folder = tmp_path / "unlabelled"
    shutil.copytree(split.folder, folder, ignore=shutil.ignore_patterns("labels.npy"))
    reader = StreetsClips(replace(split, folder=folder))
    for index in range(len(reader)):
        assert not reader.read(index, Wants(flows=(BACKWARD,))).labels
    with pytest.raises(DataError, match=r"labels\.npy"):
        reader.read(0, Wants(labels=(0,)))


def test_reader_travels_to_workers(split: StreetsSplit) -> None:
    reader = StreetsClips(split)
    reader.read(0, Wants())
    assert torch.equal(pickle.loads(pickle.dumps(reader)).read(3, Wants()).frames, reader.read(3, Wants()).frames)


def test_distant_pairs_have_no_exact_flow(split: StreetsSplit) -> None:
    reader, wants = StreetsClips(split), Wants(frames=(-2, 0), flows=((0, -2),))
    assert torch.equal(reader.read(3, Wants(frames=(-2, 0))).frames[0], torch.from_numpy(split.entry("frames", 1, 0)))
    with pytest.raises(DataError, match="exact flow over 2 frames"):
        reader.read(3, wants)
    with pytest.raises(DataError, match="no clip 8"):
        reader.read(8, Wants())


def test_estimated_flow_is_kept_and_agrees_with_the_exact_one(tmp_path: Path) -> None:
    options = replace(StreetsOptions(), height=96, width=192, frames=2, val_drives=2)
    split = open_split(tmp_path, "studio", "val", options, workers=1)
    exact, estimated = StreetsClips(split), StreetsClips(split, flow="estimated")
    for index in range(2):
        error, visible = (exact.flow(index) - estimated.flow(index)).norm(dim=0), exact.visible(index)
        assert visible is not None
        error = error[visible]
        assert error.median() < 0.5  # pixels
    assert len(list(split.folder.glob("flow_dis/**/*.npy"))) == 2
    assert open_split(tmp_path, "studio", "val", options) == split


@pytest.mark.parametrize("kind", ["frames", "labels", "flow", "visible"])
@pytest.mark.parametrize("length", [1, 4096])
def test_a_damaged_frame_is_named_when_it_is_read(kind: str, length: int, split: StreetsSplit, tmp_path: Path) -> None:
    """One changed byte, and a block of zeros as a power cut leaves it, far from the head that every opening checks."""
    folder = tmp_path / "damaged"
    shutil.copytree(split.folder, folder)
    path = folder / f"{kind}.npy"
    data = bytearray(path.read_bytes())
    data[-length:] = bytes(length) if length > 1 else bytes([data[-1] ^ 1])
    path.write_bytes(data)
    reader = StreetsClips(replace(split, folder=folder))
    everything = Wants(flows=(BACKWARD,), labels=(0,), visible=(0,))
    reader.read(0, everything)
    with pytest.raises(DataError, match=rf"{kind}\.npy: the drawn split is torn \(row \d+ is not what was written\)"):
        reader.read(len(reader) - 1, everything)


def test_clips_that_lie_apart_are_those_of_all_frames(tmp_path: Path) -> None:
    long = open_split(tmp_path, "camera", "val", replace(TINY, frames=8), workers=1)
    every, some = StreetsClips(long), StreetsClips(long, every=3)
    assert [some.key(index)[-7:] for index in range(len(some))] == [
        "0000/01", "0000/04", "0000/07", "0001/01", "0001/04", "0001/07"
    ]  # fmt: skip
    names = [every.key(index) for index in range(len(every))]
    for index in range(len(some)):
        clip, same = (reader.read(at, Wants(flows=(BACKWARD,), labels=(0,))) for reader, at in (
            (some, index), (every, names.index(some.key(index)))
        ))  # fmt: skip
        assert clip.frames.equal(same.frames)
        assert clip.labels[0].equal(same.labels[0])
        assert clip.flows[BACKWARD].equal(same.flows[BACKWARD])
    with pytest.raises(DataError, match="choose 0 to 5"):
        some.place(6)
