"""Folders that a command fills: refused before, there at the end, and nothing left of what failed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from stpl.apply.origin import NetworkOrigin
from stpl.apply.out_folder import check_out, filled
from stpl.cli import main
from stpl.commands.predict import predict
from stpl.errors import ConfigError, StplError, Terminated


@pytest.mark.parametrize("kind", ["absent", "deep", "empty", "link", "link to nothing", "left over"])
def test_a_folder_is_filled(kind: str, tmp_path: Path) -> None:
    out = tmp_path / ("a/b/out" if kind == "deep" else "out")
    if kind in ("link", "link to nothing"):
        out.symlink_to("disk")
    if kind in ("empty", "left over", "link"):
        (tmp_path / ("disk" if kind == "link" else "out")).mkdir()
    if kind == "left over":  # by a call that was killed
        (out / ".stpl-1-1.partial").mkdir()
    with filled(out) as folder:
        (folder / "ids").mkdir()
        (folder / "ids" / "0.png").touch()
        assert not (out / "ids").exists()
    assert (out / "ids" / "0.png").is_file()
    assert out.is_symlink() == kind.startswith("link")
    kept = {"disk", "out"} if kind.startswith("link") else {"a" if kind == "deep" else "out"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("kind", ["error", "interrupt", "SIGTERM", "disk"])
def test_nothing_stays_of_what_failed(kind: str, tmp_path: Path) -> None:
    errors = {"error": ValueError, "interrupt": KeyboardInterrupt, "SIGTERM": Terminated}

    def fail() -> None:
        with filled(tmp_path / "a" / "out") as folder:
            (folder / "x").touch()
            if kind == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            raise OSError(28, "No space left on device") if kind == "disk" else errors[kind]()

    with pytest.raises(errors.get(kind, StplError)) as caught:
        fail()
    assert list(tmp_path.iterdir()) == []
    assert kind != "disk" or "free some space" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("full", "something here already"), ("file", "something here already"), ("below", "file is no folder"),
     ("loop", "leads to itself"), ("locked", "permission denied"), ("long", "File name too long")],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before(
    kind: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    names = {"full": "", "file": "file", "below": "file/x", "long": "x" * 300}
    if kind == "locked":
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=said):
        check_out(tmp_path / names.get(kind, kind))


def test_videos_of_two_sizes_are_refused_before_a_network_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, size in (("a.avi", (64, 32)), ("b.avi", (32, 32))):
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"MJPG"), 5.0, size)
        for number in range(3):
            writer.write(np.full((size[1], size[0], 3), 60 * number, np.uint8))
        writer.release()
    videos = [Path("a.avi"), Path("b.avi")]
    with pytest.raises(ConfigError, match=r"b\.avi: its frames are \(32, 32\), .*overlay.*\n.*--overlay=false"):
        predict(video=videos, out=Path("out"), network=NetworkOrigin("streets"))
    with pytest.raises(StplError, match="No module named"):
        predict(video=videos, out=Path("out"), network=NetworkOrigin("no.such:network", size=(32, 32)), overlay=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a.avi", "b.avi"}


@pytest.mark.parametrize("words", [["--video=", "--out=o"], ["--video", "", "--out=o"], ["--video=a.mp4", "--out="]])
def test_an_empty_name_is_not_the_working_directory(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--network=a:b", *words]) == 2
    assert "has no value" in capsys.readouterr().err
