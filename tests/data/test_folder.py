import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fakes import MovingShapes
from stpl.data.clip import BACKWARD, ClipReader, Wants
from stpl.data.flow import FlowCache
from stpl.data.videos import video_clips as folder_module
from stpl.data.videos.video_clips import VideoFrames
from stpl.errors import ConfigError, DataError

SCENE = MovingShapes(7, (48, 96))
COUNT = 12


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Frames 0..11 as img0.png … img11.png: alphabetical order is wrong from the third on."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for time in range(COUNT):
        Image.fromarray(SCENE.frame(time)).save(folder / f"img{time}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """The same frames, lossless (FFV1), 12.5 a second."""
    path = tmp_path / "drive.mkv"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), 12.5, (96, 48))
    assert writer.isOpened()
    for time in range(COUNT):
        writer.write(cv2.cvtColor(SCENE.frame(time), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def difference(frame: NDArray[np.uint8], time: int) -> float:
    return float(np.abs(frame.astype(int) - SCENE.frame(time)).max())


def test_folder_gives_its_images_in_natural_order(images: Path) -> None:
    source = VideoFrames(images)
    frames = list(source.frames())
    assert len(frames) == COUNT
    assert all(difference(frame, time) == 0 for time, frame in enumerate(frames))
    assert source.size == (48, 96)
    assert source.fps == 25.0


def test_video_gives_its_frames_in_order(video: Path) -> None:
    source = VideoFrames(video)
    frames = list(source.frames())
    assert len(frames) == COUNT
    assert all(difference(frame, time) <= 3 for time, frame in enumerate(frames))  # RGB to YUV and back
    assert source.fps == pytest.approx(12.5)


def test_clips_are_consecutive_pairs(video: Path) -> None:
    source = VideoFrames(video)
    reader: ClipReader = source
    assert len(reader) == COUNT - 1
    clip = reader.read(4, Wants(flows=(BACKWARD,)))
    frames = list(source.frames())
    assert clip.frames.shape == (2, 3, 48, 96)
    for got, wanted in zip(clip.frames.numpy(), frames[4:6], strict=True):
        np.testing.assert_array_equal(got.transpose(1, 2, 0), wanted)
    assert clip.key == "drive.mkv/000005"
    assert not clip.labels
    facade = clip.flows[BACKWARD][:, SCENE.label(5) == 11]
    np.testing.assert_allclose(facade.median(dim=1).values.numpy(), [1, 0], atol=0.25)
    with pytest.raises(IndexError):
        reader.read(COUNT - 1, Wants())


@pytest.mark.parametrize("kind", ["images", "video"])
def test_stride_and_limit_choose_frames(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    source = VideoFrames(path, stride=3, limit=3)
    assert [min(range(COUNT), key=lambda t: difference(frame, t)) for frame in source.frames()] == [0, 3, 6]
    assert len(source) == 2
    assert source.fps == pytest.approx(VideoFrames(path).fps / 3)
    assert len(list(VideoFrames(path, stride=5).frames())) == 3


def test_frames_are_resized_and_flow_follows(images: Path) -> None:
    source = VideoFrames(images, (24, 96))
    assert source.size == (24, 96)
    assert all(frame.shape == (24, 96, 3) for frame in source.frames())
    clip = source.read(0, Wants(flows=(BACKWARD,)))
    assert clip.flows[BACKWARD].shape == (2, 24, 96)


def test_stated_fps_wins(images: Path) -> None:
    assert VideoFrames(images, fps=17.0, stride=2).fps == 8.5


def test_random_access_agrees_with_the_stream(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, with room for two frames only, and in a copy as a loader process gets it."""
    monkeypatch.setattr(folder_module, "MEMORY_LIMIT", 2 * 48 * 96 * 3)
    source = VideoFrames(video)
    frames = list(source.frames())
    for reader in (source, pickle.loads(pickle.dumps(source))):
        for index in (7, 0, 3, 8, 2, 2):
            pair = reader.read(index, Wants()).frames.numpy().transpose(0, 2, 3, 1)
            np.testing.assert_array_equal(pair, np.stack(frames[index : index + 2]))
    assert len(source._recent) == 2
    assert source.cost >= 1


def test_flow_cache_is_filled_once_and_not_shared_by_other_videos(images: Path, tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "flow")
    first = VideoFrames(images, flow=cache).read(3, Wants(flows=(BACKWARD,))).flows[BACKWARD]
    again = VideoFrames(images, flow=cache).read(3, Wants(flows=(BACKWARD,))).flows[BACKWARD]
    assert first is not None
    assert again is not None
    assert first.equal(again)
    assert len(list((tmp_path / "flow").rglob("*.npy"))) == 1
    Image.fromarray(SCENE.frame(0)).save(images / "img11.png", compress_level=0)
    VideoFrames(images, flow=cache).read(3, Wants(flows=(BACKWARD,)))
    VideoFrames(images, (24, 48), flow=cache).read(3, Wants(flows=(BACKWARD,)))
    assert len(list((tmp_path / "flow").rglob("*.npy"))) == 3


def test_labels_are_refused(images: Path) -> None:
    with pytest.raises(DataError, match=r"drive: a plain video has no labels[\s\S]*→"):
        VideoFrames(images).read(0, Wants(labels=(0,)))


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.mp4: there is no such video[\s\S]*→ check the path"):
        VideoFrames(tmp_path / "none.mp4")


@pytest.mark.parametrize("content", [b"", b"This is a text about a drive.\n" * 50])
def test_what_is_no_video_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"drive\.mp4: this is no video[\s\S]*→ convert it"):
        VideoFrames(path)


def test_too_few_images_are_told(tmp_path: Path) -> None:
    Image.fromarray(SCENE.frame(0)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"1 frame found, a clip needs two[\s\S]*→ give a longer"):
        VideoFrames(tmp_path)


def test_video_of_one_frame_is_told(video: Path) -> None:
    with pytest.raises(DataError, match=r"drive\.mkv: 1 frame found[\s\S]*→"):
        VideoFrames(video, stride=100)


def test_image_of_another_size_is_named(images: Path) -> None:
    Image.fromarray(SCENE.frame(5)[:40]).save(images / "img5.png")
    with pytest.raises(DataError, match=r"img5\.png: the frame is \(40, 96\), the first one is \(48, 96\)[\s\S]*→ set"):
        list(VideoFrames(images).frames())
    assert len(VideoFrames(images, (48, 96))) == COUNT - 1


def test_torn_image_is_named(images: Path) -> None:
    path = images / "img7.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"img7\.png: the image cannot be decoded[\s\S]*→ delete"):
        len(VideoFrames(images))


@pytest.mark.parametrize("option", [{"stride": 0}, {"limit": 0}, {"fps": -1.0}, {"rate": 0.0}, {"size": (0, 5)}])
def test_unfit_option_is_told(option: dict[str, Any], images: Path) -> None:
    with pytest.raises(ConfigError, match=r"video: [\s\S]*→ correct"):
        VideoFrames(images, **option)
