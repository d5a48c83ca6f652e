"""Footage as users have it: cut off, of mixed sizes, under names that mean something else to FFmpeg and YAML."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fakes import MovingShapes
from stpl.apply import adapt as adaptation
from stpl.cli import main
from stpl.data.clip import BACKWARD, Clip, Wants, collate
from stpl.data.flow import FlowCache
from stpl.data.videos.video_clips import VideoFrames
from stpl.errors import ConfigError, DataError
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.pictures.side_by_side import SideBySide
from stpl.runs.request import Request

SCENE, COUNT = MovingShapes(7, (48, 96)), 24


def write_video(path: Path, codec: str = "mp4v", count: int = COUNT) -> Path:
    writer = cv2.VideoWriter(str(path.absolute()), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 12.5, (96, 48))
    assert writer.isOpened()
    for time in range(count):
        writer.write(SCENE.frame(time))
    writer.release()
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = NetworkOptions(DeepLabV2(18, 8, (1, 3)))
    content = {
        "state_dict": build_network(options).state_dict(),
        "stpl": weights.description(options, (32, 64), 0),
    }
    path = tmp_path_factory.mktemp("network: {a}") / "a: b.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Four images, of which the third is higher."""
    folder = tmp_path / "mixed: {sizes}"
    folder.mkdir()
    for time in range(4):
        frame = SCENE.frame(time)
        Image.fromarray(np.vstack([frame, frame[:16]]) if time == 2 else frame).save(folder / f"{time}.png")
    return folder


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv", "a.mov"])
def test_a_whole_video_gives_no_warning(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = VideoFrames(write_video(tmp_path / name))
    assert len(list(source.frames())) == len(source) + 1 == COUNT
    assert len(list(VideoFrames(tmp_path / name, limit=5).frames())) == 5
    assert capsys.readouterr().err == ""


def test_a_video_that_is_cut_off_is_used_with_a_warning_of_both_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = VideoFrames(path)
    frames = list(source.frames())
    assert 5 < len(frames) < COUNT - 5
    assert len(source) == len(frames) - 1
    warning = f"warning: {path}: {len(frames)} frames could be read of {COUNT} that the file promises"
    assert capsys.readouterr().err.count(warning) == 1  # though it was decoded twice


def test_a_video_of_which_one_frame_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its header promises one more than there is, in both places where an AVI counts."""
    path = write_video(tmp_path / "a.avi", "MJPG")
    data = path.read_bytes().replace(struct.pack("<I", COUNT), struct.pack("<I", COUNT + 1), 2)
    path.write_bytes(data)
    assert len(list(VideoFrames(path).frames())) == COUNT
    assert f"{COUNT} frames could be read of {COUNT + 1}" in capsys.readouterr().err


NAMES = ["a:b.avi", "concat:a.avi", "a: b.avi", "{x}.avi", "{a: b}.avi", "[1].avi", "# a.avi", "-x.avi", "%d.avi",
         "null", ".avi", "a\\b.avi", "é 'ü\".avi", "*.avi", "x" * 240 + ".avi"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_video_is_only_a_name(
    name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line into the data module, the run's folder and the flow cache, without a path before it."""
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "whole.avi").rename(name)
    found = []

    def run(cli: object) -> None:
        found.append(cli)
        raise ConfigError("enough")

    monkeypatch.setattr(adaptation, "run", run)
    assert main(["adapt", f"--network={checkpoint}", f"--video={name}"]) == 2
    assert "enough" in capsys.readouterr().err
    assert found[0].datamodule.paths == [tmp_path / name]  # type: ignore[attr-defined]
    assert found[0].recorder.directory.parent.parent == tmp_path / "runs" / "video"  # type: ignore[attr-defined]
    VideoFrames(Path(name), flow=FlowCache(tmp_path / "flow")).read(0, Wants(flows=(BACKWARD,)))


def test_the_folder_one_stands_in_is_a_video(
    mixed: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--video=.` with images of mixed size, through training and film to the end."""
    monkeypatch.setenv("STPL_RUNS", "runs")
    monkeypatch.chdir(mixed)
    options = ["--steps=1", "--batch_size=1", "--size=32,64"]
    assert main(["adapt", f"--network={checkpoint}", "--video=.", "--output=out: {x}", "--film=true", *options]) == 0
    assert len(list(VideoFrames(mixed / "out: {x}" / "side_by_side.webm").frames())) == 3
    capsys.readouterr()
    Path("# here").symlink_to(".")
    assert main(["video", "--video=# here", f"--network=['{checkpoint}']", "--codec=vp8", "--size=32,64"]) == 0
    film = ["video", "--video=.", f"--network=['{checkpoint}']", "--codec=vp8"]
    assert main(film) == 2
    assert "2.png: the frame is (64, 96), the first one is (48, 96)" in capsys.readouterr().err
    assert main([*film, "--size=32,64"]) == 0
    assert len(list(VideoFrames(mixed / "side_by_side.webm").frames())) == 3


def test_images_of_mixed_size_are_refused_at_once_or_resized(mixed: Path) -> None:
    with pytest.raises(DataError, match=r"2\.png: the frame is \(64, 96\).*; 1 of 4 images have another size than it"):
        VideoFrames(mixed)
    assert len(VideoFrames(mixed, limit=2)) == 1
    assert {frame.shape for frame in VideoFrames(mixed, as_first=True).frames()} == {(48, 96, 3)}
    assert {frame.shape for frame in VideoFrames(mixed, (32, 64)).frames()} == {(32, 64, 3)}


def test_photographs_are_compared_the_right_way_up(tmp_path: Path) -> None:
    """Stored on its side with a note to turn it, or stored upright: the same size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SCENE.frame(0)).save(tmp_path / "0.jpg")
    Image.fromarray(np.ascontiguousarray(np.rot90(SCENE.frame(1)))).save(tmp_path / "1.jpg", exif=exif)
    assert VideoFrames(tmp_path).size == (48, 96)


def test_names_that_are_not_utf8_are_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", pytest.fail)
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.avi")
    Path(name).write_bytes(b"")
    with pytest.raises(DataError, match=r"udcff\.avi: the name is not UTF-8\n.*→ rename"):
        VideoFrames(Path(name))
    with pytest.raises(DataError, match="the name is not UTF-8"):
        SideBySide(Path(name).with_suffix(".webm"), 5, ["a"])
    for command in (
        ["adapt", f"--network={checkpoint}", f"--video={name}"],
        ["video", f"--video={name}", f"--network=[{checkpoint}]"],
        ["fit", "--bench=video", "--experiment=stpl", f"--data.path={name}"],
    ):
        assert main(command) == 2
        assert r"\udcff.avi' is not UTF-8" in capsys.readouterr().err


def test_clips_of_different_sizes_make_no_batch() -> None:
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    clips = [Clip(frames, labels={0: torch.zeros(8, width, dtype=torch.int64)}, key=str(width)) for width in (8, 8, 9)]
    with pytest.raises(DataError, match=r"label 0 \[8, 9\] of 9 and \[8, 8\] of 8 make no batch[\s\S]*eval_batch_size"):
        collate(clips)


def test_what_is_there_under_a_name_that_yaml_misreads_stays_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any setting of `stpl fit`; what is not there is YAML as ever."""
    monkeypatch.chdir(tmp_path)
    for name in ("a: b", "# c", "@d", "4"):
        Path(name).touch()
    settings = {"data.path": "a: b", "model.checkpoint": "# c", "x.y": "@d", "x.z": "4", "v": "a: b", "x.w": "{e: 5}"}
    assert Request(overrides=settings).arguments() == [
        '--data={"path": "a: b"}', '--model={"checkpoint": "# c"}', "--x.y=@d", "--x.z=4", "--v=a: b", "--x.w={e: 5}",
    ]  # fmt: skip
