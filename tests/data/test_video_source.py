"""Footage before it is used: what is refused, what is noted, and what a video is by its content."""

from __future__ import annotations

import base64
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fakes import MovingShapes
from stpl.data.steps import StepSampler
from stpl.data.videos import content, decoder
from stpl.data.videos.container import read_container
from stpl.data.videos.content import content_id
from stpl.data.videos.conversion import check_conversion
from stpl.data.videos.stream import FrameStream, check_footage
from stpl.data.videos.video_clips import VideoFrames, open_footage
from stpl.errors import ConfigError, DataError, StplError

SCENE, COUNT = MovingShapes(7, (48, 96)), 12
INTERLACED = base64.b64decode("""
AAABswIAIBP//+AYAAABtRSCAAEAAAAAAbgACABAAAABAAAP//gAAAG1j//zAAAAAAEB+3zhWz+9TygzmEe5nA9xKxz3cA+5hzh15IYUSjuRDr
2ckIEtb58pOvQpKKNxHqMAl5+7B7ZbWtIHudlhylXvYrbgLLlde5sAAAABAvt8vxItHs+JFo95V2lAOLcH3U9y/dT31OuLEnQAAAEAAFf/+4AA
AAG1gR/zAAAAAAEB+oLAhAA4gDk4jh0ADcA5qEwIPAG8ADsDh0ADoBrAAAABAvqWBoiU2AAAAQAAl//7gAAAAbWBH/MAAAAAAQH6bmwAAAEC+m
5sAAABAADX//uAAAABtYEf8wAAAAABAfpubAAAAQL6bmwAAAEAARf/+4AAAAG1gR/zAAAAAAEB+m5sAAABAvpubA==""")
"""MPEG-2 of 32×32 pixels in two fields a frame."""


@pytest.fixture(autouse=True)
def anew() -> None:
    """Notes are printed once a process."""
    decoder.note_once.cache_clear()


def write(path: Path, codec: str = "mp4v", frames: list[NDArray[np.uint8]] | None = None) -> Path:
    shown = frames or [SCENE.frame(time) for time in range(COUNT)]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 12.5, shown[0].shape[1::-1])
    assert writer.isOpened()
    for frame in shown:
        writer.write(frame)
    writer.release()
    return path


def test_pictures_that_cannot_be_converted_are_found(tmp_path: Path) -> None:
    path = tmp_path / "camcorder.m2v"
    path.write_bytes(INTERLACED)
    if len({frame.tobytes() for _, frame in decoder.decoded(decoder.open_video(path))}) > 1:
        pytest.skip("this OpenCV decodes interlaced video")
    with pytest.raises(DataError, match=r"camcorder\.m2v: the video is interlaced[\s\S]*→ .*yadif"):
        check_footage([path])
    with pytest.raises(DataError, match="interlaced"):
        VideoFrames(path)
    with pytest.raises(DataError, match="interlaced"):
        check_conversion(path, 1)


def test_a_still_video_is_legal(tmp_path: Path) -> None:
    path = write(tmp_path / "parked.mkv", "FFV1", [SCENE.frame(0)] * 4)
    assert len(list(FrameStream(path).frames())) == 4


def test_text_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("FFmpeg draws text as pictures.\n" * 40)
    with pytest.raises(DataError, match=r"notes\.txt: this is no video"):
        check_footage([path])


@pytest.mark.parametrize(
    ("kind", "said"),
    [("pipe", "this is a pipe, not a file"), ("socket", "this is a socket"), ("device", "this is a device"),
     ("loop", "the link leads to itself"), ("lost", r"a link to nowhere\.mp4, which is not there"),
     ("below", "no such video"), ("long", "no such video"),
     ("null", "null character"), ("locked", "permission denied")],
)  # fmt: skip
def test_what_is_no_file_is_told_and_not_opened(
    kind: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("drive.mp4")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind in ("loop", "lost"):
        path.symlink_to(path if kind == "loop" else "nowhere.mp4")
    elif kind == "locked":
        write(path).chmod(0)
        monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))  # root may
    else:
        path.touch()
        path = {"device": Path(os.devnull), "below": path / "x", "long": Path("x" * 300), "null": Path("a\0b")}[kind]
    monkeypatch.setattr(cv2, "VideoCapture", pytest.fail)
    with pytest.raises(DataError, match=said):
        check_footage([path])


def test_footage_must_be_named() -> None:
    with pytest.raises(ConfigError, match="no video was named"):
        check_footage([])
    with pytest.raises(ConfigError, match="the name of the video is empty"):
        check_footage([""])
    with pytest.raises(ConfigError, match="--stride: stride must be at least 1"):
        check_footage(["a.mp4"], stride=0)
    with pytest.raises(ConfigError, match="--rate: rate must lie between"):
        check_footage(["a.mp4"], rate=0.0)


@pytest.mark.slow
def test_a_refusal_comes_before_torch(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cam.mp4")
    code = (
        "import sys; from stpl.cli import main; path = sys.argv[1]\n"
        "for words in (['predict', '--network=streets', '--out=o'], ['video', '--network=[streets]']):\n"
        "    assert main([*words, f'--video={path}']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    call = [sys.executable, "-c", code, str(tmp_path / "cam.mp4")]
    found = subprocess.run(call, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("this is a pipe") == 2


def test_content_is_the_same_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "drive.mp4")
    known, data = content_id(path), path.read_bytes()
    (tmp_path / "far").mkdir()
    copy, link = tmp_path / "far" / "other.avi", tmp_path / "link.mp4"
    copy.write_bytes(data)
    link.symlink_to(path)
    os.utime(copy, (0, 0))
    assert {content_id(copy), content_id(link)} == {known}
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    others = [bytes(changed), data[:-1], data + b"\0"]
    for other in others:
        copy.write_bytes(other)
        assert content_id(copy) != known
    monkeypatch.setattr(content, "_MOST", 4)  # of what is larger, blocks
    found = set()
    for number, other in enumerate(others):
        copy.with_name(str(number)).write_bytes(other)
        found.add(content_id(copy.with_name(str(number))))
    assert len(found) == 3
    with pytest.raises(DataError, match="cannot be read"):
        content_id(tmp_path / "none.mp4")


def test_content_of_a_folder_is_its_frames_in_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for time in range(3):
            Image.fromarray(SCENE.frame(time)).save(tmp_path / name / f"{time}.png")
    assert content_id(tmp_path / "a") == content_id(tmp_path / "b")
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "00.png")
    assert content_id(tmp_path / "a") != content_id(tmp_path / "b")


def test_footage_without_a_clip(tmp_path: Path) -> None:
    half = np.zeros((48, 96, 3), np.uint8)
    half[:24] = 255
    for name, frame in (("0.png", half), ("1.png", half[::-1])):
        Image.fromarray(np.ascontiguousarray(frame)).save(tmp_path / name)
    with pytest.raises(DataError, match="no two successive frames are of one scene"):
        open_footage([tmp_path], None)
    with pytest.raises(DataError, match="no clip to train on"):
        StepSampler(0, seed=0, start=0, steps=2, batch_size=1)


def test_time_that_falls_goes_on(tmp_path: Path) -> None:
    """As where pieces were joined; and rounding is none."""
    video = FrameStream(write(tmp_path / "a.mkv", "FFV1"), rate=5.0)
    joined = [t / 10 for t in (*range(10), *range(10))]
    assert len(list(video._kept_of(joined))) == 10
    assert list(video._kept_of([0.0, 0.1, 0.2, 0.19, 0.3, 0.4])) == [0, 2, 5]


def test_a_video_that_grows_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "live.avi", "MJPG")
    frames = FrameStream(path).frames()
    next(frames)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"live\.avi: the video changed while it was read"):
        list(frames)


def box(kind: bytes, *parts: bytes) -> bytes:
    whole = b"".join(parts)
    return struct.pack(">I4s", 8 + len(whole), kind) + whole


def film(*codecs: bytes, transfer: int = 1) -> bytes:
    """The header of an MP4 of 4 s, of which an edit list shows 3."""
    colour = box(b"colr", b"nclx", struct.pack(">HHHB", 1, transfer, 1, 0))
    tracks = [
        box(
            b"trak",
            box(b"edts", box(b"elst", struct.pack(">II", 0, 1), struct.pack(">IiI", 3000, 512, 1 << 16))),
            box(
                b"mdia",
                box(b"mdhd", struct.pack(">IIIIII", 0, 0, 0, 512, 2048, 0)),
                box(b"hdlr", bytes(8), b"vide", bytes(12)),
                box(b"minf", box(b"stbl", box(b"stsd", bytes(8), box(codec, bytes(78), colour)))),
            ),
        )
        for codec in codecs
    ]
    header = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, 4000))
    return box(b"ftyp", b"isom", bytes(12)) + box(b"mdat", bytes(99)) + box(b"moov", header, *tracks)


def test_headers_of_containers(tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(film(b"hvc1", b"jpeg", transfer=16))
    header = read_container(path)
    assert (header.codecs, header.transfer, header.shown) == (("hvc1", "jpeg"), 16, 0.75)
    tracks, cluster = b"\x86\x85V_AV1\x55\xba\x81\x12", b"\x1f\x43\xb6\x75"
    path.write_bytes(b"\x1a\x45\xdf\xa3" + bytes(20) + tracks + cluster + tracks)
    assert (read_container(path).codecs, read_container(path).transfer) == (("AV1",), 18)
    stream = b"LIST" + struct.pack("<I", 16) + b"strh" + bytes(4) + b"vidsH264"
    index = b"".join(struct.pack("<4sIII", b"00dc", 0, 0, size) for size in (9, 0, 9, 9))
    path.write_bytes(b"RIFF" + bytes(8) + stream + b"idx1" + struct.pack("<I", len(index)) + index)
    assert (read_container(path).codecs, read_container(path).shown) == (("H264",), 0.75)
    for torn in (b"", b"\0" * 40, film(b"avc1")[:-60], b"RIFF", b"\1\0\0\0moovxxxxxxxxxxxxxxxxx"):
        path.write_bytes(torn)
        assert read_container(path).shown <= 1


def test_what_an_edit_list_hides_is_not_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "piece.mp4")
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    (length,) = struct.unpack(">I", data[place : place + 4])
    data[place : place + 4] = struct.pack(">I", length // 2)
    path.write_bytes(data)
    assert len(list(FrameStream(path).frames())) < COUNT
    assert capsys.readouterr().err == ""


class Told:
    """A decoder that says what pixels look like."""

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_SAR_NUM: 64.0, cv2.CAP_PROP_SAR_DEN: 45.0}[what]


def test_formats_that_players_show_otherwise_are_noted_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        decoder._note_format(Path("a.mp4"), Told(), 18, ("hvc1", "hvc1"))  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line, words in zip(lines, ("64:45", "HLG", "2 video streams"), strict=True):
        assert line.startswith("note: a.mp4: ")
        assert words in line


def test_a_codec_without_a_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "screen.mp4"
    path.write_bytes(film(b"vvc1"))
    with pytest.raises(DataError, match=r"this is no video .* \(its codec is vvc1\)"):
        check_footage([path])
    monkeypatch.setattr(decoder, "decoded", lambda capture: iter(()))
    monkeypatch.setattr(decoder, "codec_of", lambda capture: "av01")
    with pytest.raises(StplError, match=r"no decoder for its codec, AV1\n  → convert it: ffmpeg"):
        check_footage([write(tmp_path / "real.mp4")])
