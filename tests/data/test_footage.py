"""Footage as it comes: several files, scene cuts, videos that seek badly, rotation, uneven time."""

from __future__ import annotations

import os
import re
import struct
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fakes import MovingShapes
from stpl.cli import main
from stpl.data.clip import BACKWARD, Wants
from stpl.data.datamodule import VideoData
from stpl.data.flow import FlowCache, consistent
from stpl.data.videos import decoder, video_index
from stpl.data.videos import video_clips as folder_module
from stpl.data.videos.scene_cuts import find_cuts, thumbnail
from stpl.data.videos.video_clips import Footage, Spread, VideoFrames, open_footage
from stpl.errors import ConfigError, DataError

SIZE = (48, 96)
Frame = NDArray[np.uint8]


def scene(seed: int, count: int, size: tuple[int, int] = SIZE) -> list[Frame]:
    shapes = MovingShapes(seed, size)
    return [np.asarray(shapes.frame(time), np.uint8) for time in range(count)]


def write(path: Path, frames: Sequence[Frame], codec: str = "FFV1", fps: float = 10.0) -> Path:
    size = frames[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def noise(seed: int, size: tuple[int, int] = SIZE) -> Frame:
    """A still that looks like no other: smooth random blotches."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def thumbnails(frames: Sequence[Frame]) -> NDArray[np.uint8]:
    return np.stack([thumbnail(frame) for frame in frames])


def test_cuts_are_found() -> None:
    frames = [noise(1)] * 5 + [noise(2)] * 6 + [noise(3)] * 4
    jittered = [np.clip(f.astype(int) + np.random.default_rng(i).integers(-6, 7, f.shape), 0, 255).astype(np.uint8)
                for i, f in enumerate(frames)]  # fmt: skip
    assert find_cuts(thumbnails(jittered)) == [5, 11]


@pytest.mark.parametrize("kind", ["pan", "flash", "exposure", "black", "zoom"])
def test_what_is_no_cut(kind: str) -> None:
    wide = np.concatenate([noise(4, (96, 192)), noise(5, (96, 192))], 1)
    makers: dict[str, Callable[[int], Frame]] = {
        "pan": lambda t: wide[:, 14 * t : 14 * t + 192],
        "flash": lambda t: np.minimum(noise(4).astype(int) + (120 if t == 6 else 0), 255).astype(np.uint8),
        "exposure": lambda t: (noise(4) * (1 - 0.05 * t)).astype(np.uint8),
        "black": lambda t: noise(4) * (0 if 4 <= t < 8 else 1),
        "zoom": lambda t: noise(4, (96, 192))[2 * t : 96 - 2 * t, 4 * t : 192 - 4 * t],
    }
    assert find_cuts(thumbnails([makers[kind](t) for t in range(13)])) == []


def test_no_clip_crosses_a_cut(tmp_path: Path) -> None:
    frames = [np.roll(noise(1), t, 1) for t in range(4)] + [np.roll(noise(2), t, 1) for t in range(5)]
    video = VideoFrames(write(tmp_path / "two.mkv", frames))
    assert video.scene_cuts == [4]
    keys = [video.read(index, Wants()).key for index in range(len(video))]
    assert keys == [f"two.mkv/{place:06d}" for place in (1, 2, 3, 5, 6, 7, 8)]
    first = video.read(3, Wants(frames=(-2, -1, 0), flows=((-1, -2),)))  # up to frame 5
    assert first.frame(-2).equal(first.frame(-1)), "a scene begins with itself"
    assert not first.flows[-1, -2].any()
    last = video.read(2, Wants(frames=(0, 1)))  # frame 3, and what follows in its scene
    assert last.frame(0).equal(last.frame(1))
    assert len(VideoFrames(tmp_path / "two.mkv", cuts=False)) == 8


def test_images_of_two_scenes(tmp_path: Path) -> None:
    for number, frame in enumerate([noise(1), noise(1), noise(2), noise(2)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    assert len(VideoFrames(tmp_path)) == 2


def test_several_videos_are_one(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(scene(3, 3)):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    file = write(tmp_path / "drive.mkv", scene(4, 4))
    footage = open_footage([folder, file], None, flow=FlowCache(tmp_path / "flow"))
    keys = [footage.read(index, Wants(flows=(BACKWARD,))).key for index in range(len(footage))]
    assert keys == ["frames/000001", "frames/000002", "drive.mkv/000001", "drive.mkv/000002", "drive.mkv/000003"]
    assert np.array_equal(footage.frame(2, -1), footage.frame(2, -2)), "a video begins with itself"
    assert footage.read(-1, Wants()).key == keys[-1]
    with pytest.raises(DataError, match="no labels"):
        footage.label(0)
    other = write(tmp_path / "wide.mkv", scene(4, 4, (48, 112)))
    with pytest.raises(DataError, match=r"wide\.mkv: the frames are \(48, 112\)[\s\S]*→ set a size"):
        open_footage([file, other], None)
    assert len(open_footage([file, other], (48, 96))) == 6
    with pytest.raises(DataError, match="no video was named"):
        Footage([])


def test_few_clips_of_a_long_video_are_evaluated(tmp_path: Path) -> None:
    file = write(tmp_path / "drive.mkv", [np.roll(noise(2), time, 1) for time in range(40)])
    data = VideoData(file, evaluation_clips=12, flow_cache=tmp_path / "flow")
    kept = data.reader("val")
    assert isinstance(kept, Spread)
    assert kept.places == [0, 1, 2, 3, 18, 19, 20, 21, 35, 36, 37, 38]
    assert np.array_equal(kept.frame(5, -1), kept.frame(4))
    assert kept.read(4, Wants()).key == "drive.mkv/000019"
    assert len(Spread(data.reader("train"), 3)) == 3
    assert len(VideoData(file, flow_cache=tmp_path / "flow").reader("val")) == 39
    with pytest.raises(ConfigError, match="evaluation_clips"):
        VideoData(file, evaluation_clips=0)


class Astray:
    """A decoder that seeks to another place than it was told, as those of some containers do."""

    def __init__(self, capture: cv2.VideoCapture, by: int | None) -> None:
        self.capture, self.by = capture, by

    def __getattr__(self, name: str) -> object:
        return getattr(self.capture, name)

    def set(self, what: int, value: float) -> bool:
        if what == cv2.CAP_PROP_POS_FRAMES:
            value = 10**6 if self.by is None else max(0, value + self.by)
        return self.capture.set(what, value)


@pytest.mark.parametrize("by", [0, 5, -3, -10, None])
def test_a_wrong_seek_is_noticed(
    by: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [np.roll(noise(1), t, 1) for t in range(90)]
    path = write(tmp_path / "drive.mkv", frames)
    opened = decoder.open_video
    monkeypatch.setattr(video_index, "open_video", lambda path: Astray(opened(path), by))
    monkeypatch.setattr(video_index, "_STEPS_BACK", (0, 6, 12, 24))
    monkeypatch.setattr(folder_module, "MEMORY_LIMIT", 1)
    video = VideoFrames(path, cuts=False)
    for number in (80, 3, 50, 51, 50, 79):
        read = video.read(number - 1, Wants()).frames[1].numpy().transpose(1, 2, 0)
        assert np.abs(read.astype(int) - frames[number]).max() <= 3
    assert ("seeking fails" in capsys.readouterr().err) == (by is None)
    assert video.cost < (6 if by == 0 else 60)


def test_damage_that_the_decoder_fills_in_differently_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the beginning a frame is what it is; of a file that was written anew, it is not."""
    path = write(tmp_path / "drive.mkv", [np.roll(noise(1), t, 1) for t in range(12)])
    monkeypatch.setattr(folder_module, "MEMORY_LIMIT", 1)
    video = VideoFrames(path, cuts=False)
    assert video.read(0, Wants()).frames.shape[0] == 2
    prints = video._index.prints.copy()
    video._index.prints[5] = 0  # as if damage had looked otherwise
    read = video.read(4, Wants()).frames[1].numpy().transpose(1, 2, 0)
    assert np.abs(read.astype(int) - np.roll(noise(1), 5, 1)).max() <= 3
    video._index.prints[:] = prints
    os.utime(path, (0, 0))
    video._index.prints[9] = 0
    with pytest.raises(DataError, match="not what it was"):
        video.read(8, Wants())


def test_an_index_is_kept_and_made_again_when_it_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = write(tmp_path / "drive.mkv", scene(2, 6)), FlowCache(tmp_path / "flow")
    assert len(VideoFrames(path, flow=cache)) == 5
    (kept,) = (tmp_path / "flow").rglob("*.index.npz")
    with monkeypatch.context() as patch:
        patch.setattr(video_index, "_scan", lambda path: pytest.fail("looked through again"))
        assert len(VideoFrames(path, flow=cache)) == 5
    kept.write_bytes(kept.read_bytes()[:-50])
    assert len(VideoFrames(path, flow=cache)) == 5
    assert len(VideoFrames(path, flow=cache)) == 5


def test_frames_at_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time of each frame: an uneven video becomes an even one."""
    path = write(tmp_path / "drive.mkv", scene(2, 12), fps=10.0)
    video = VideoFrames(path, rate=5.0)
    assert (len(list(video.frames())), len(video), video.fps) == (6, 5, 5.0)
    assert VideoFrames(path, rate=50.0).fps == 10.0
    uneven = [0.0, 0.05, 0.1, 0.5, 0.52, 0.9, 1.0, 1.1, 1.2, 1.3]
    assert list(video._kept_of(uneven)) == [0, 3, 5, 7, 9]
    with pytest.raises(ConfigError, match="exclude each other"):
        VideoFrames(path, rate=5.0, stride=2)


def test_a_rotated_video_stands_upright(tmp_path: Path) -> None:
    """The display matrix in the track's header says a quarter turn; FFmpeg writes it for a phone held upright."""
    path = write(tmp_path / "phone.mp4", [noise(1)] * 4, "mp4v")
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, volume
    turn = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE[0] << 16, 0, 1 << 30)
    content[place : place + 36] = turn
    path.write_bytes(content)
    video = VideoFrames(path)
    assert video.size == SIZE[::-1]
    upright = np.rot90(noise(1), -1)
    assert np.abs(next(iter(video.frames())).astype(int) - upright).mean() < 12
    np.testing.assert_array_equal(
        video.read(0, Wants()).frames[0].numpy().transpose(1, 2, 0), next(iter(video.frames()))
    )


def test_sizes_that_are_odd(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), noise(1, (37, 53)))
    clip = VideoFrames(tmp_path).read(0, Wants(flows=(BACKWARD,)))
    assert clip.frames.shape == (2, 3, 37, 53)
    assert clip.flows[BACKWARD].shape == (2, 37, 53)


def test_flow_is_checked_both_ways() -> None:
    """A square that moves 6 to the right hides what is there: there the flows do not lead back."""
    backward, forward = np.zeros((2, 2, 40, 60), np.float32)
    backward[0, 10:30, 26:46], forward[0, 10:30, 20:40] = -6, 6
    visible = consistent(backward, forward)
    assert visible[12:28, 28:44].all()
    assert visible[:8].all()
    assert not visible[10:30, 20:26].any(), "uncovered: the earlier frame shows the square there"
    out = np.zeros((2, 4, 6), np.float32)
    out[0, :, 0] = -1
    assert not consistent(out, np.zeros_like(out))[:, 0].any()


def test_visible_pixels_of_a_video(tmp_path: Path) -> None:
    frames = [np.roll(noise(3), 2 * t, 1) for t in range(3)]
    clip = VideoFrames(write(tmp_path / "drive.mkv", frames), flow=FlowCache(tmp_path / "flow")).read(
        0, Wants(flows=(BACKWARD,), visible=(0,))
    )
    assert clip.visible[0].shape == SIZE
    assert clip.visible[0][8:-8, 12:-12].float().mean() > 0.9


def images(path: Path, frames: Sequence[Frame]) -> Path:
    path.mkdir()
    for place, frame in enumerate(frames):
        cv2.imwrite(str(path / f"{place}.png"), frame)
    return path


def hostile(kind: str, folder: Path) -> str:
    """A path of what is no footage."""
    whole = write(folder / "whole.mp4", scene(1, 4), "mp4v")
    path = folder / f"{kind}.mp4"
    if kind == "torn":
        (images(path, scene(1, 4)) / "2.png").write_bytes(b"\x89PNG\r\n")
    elif kind in ("no image", "one image"):
        images(path, scene(1, kind == "one image"))
    elif kind == "sound":
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 8000, "NONE", ""))
            sound.writeframes(bytes(16000))
    elif kind == "one frame":
        write(path, scene(1, 1), "mp4v")
    elif kind == "link to nothing":
        path.symlink_to("nowhere.mp4")
    elif kind != "missing":
        content = whole.read_bytes()
        path.write_bytes({"empty": b"", "text": b"a drive", "cut off": content[: len(content) // 2]}[kind])
    return f"[{whole},{path}]" if kind == "cut off" else str(path)


NO_VIDEO = "this is no video that OpenCV's FFmpeg can decode"


@pytest.mark.parametrize(
    ("kind", "said"),
    [("missing", "there is no such video or folder"), ("link to nothing", "there is no such video or folder"),
     ("empty", NO_VIDEO), ("text", NO_VIDEO), ("sound", NO_VIDEO), ("cut off", NO_VIDEO), ("torn", "cannot be decoded"),
     ("one frame", "1 frame found"), ("one image", "1 frame found"),
     ("no image", "no image found in this folder: it is empty")],
)  # fmt: skip
def test_hostile_footage_gets_one_clear_line(
    kind: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And its mend; nothing that FFmpeg or OpenCV writes past Python stands beside it."""
    video, out = hostile(kind, tmp_path), tmp_path / "out"
    assert main(["adapt", "--network=streets", f"--video={video}", "--size=64,96", f"--output={out}"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("estimate: ")]
    assert len(lines) == 2
    assert re.match(rf"stpl adapt: .*{re.escape(f'{kind}.mp4')}.*{said}", lines[0])
    assert lines[1].startswith("  → ")
    assert not (out / "adapted.ckpt").exists()
