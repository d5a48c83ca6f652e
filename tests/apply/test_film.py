"""`stpl video`: side-by-side videos of recorded runs and of checkpoints on a video file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import MovingShapes
from repository import REPOSITORY
from stpl.apply.loaded import labelled, open_network
from stpl.apply.origin import NetworkOrigin
from stpl.cli import main
from stpl.data.flow import FlowCache
from stpl.data.image import write_png
from stpl.data.videos.stream import FrameStream
from stpl.data.videos.video_clips import VideoFrames
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from suite_writer import SIZE, write_suite

pytestmark = pytest.mark.slow

EXPERIMENTS = f"--experiments={REPOSITORY / 'experiments'}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("film")
    write_suite(root, {"source_only": 0.5, "naive": 0.35, "stpl": 0.3}, seeds=1)
    write_suite(root / "bare", {"source_only": 0.5, "stpl": 0.3}, seeds=1, artifacts=False)
    return root


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two untrained networks of one label space, and one of another."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = []
    for name, space in (("a", "viper15"), ("b", "viper15"), ("other", "synthia12")):
        options = NetworkOptions(DeepLabV2(18, 8, (1, 3)), label_space=space)
        entry = weights.description(options, (32, 64), 2)
        paths.append(folder / f"{name}.ckpt")
        torch.save({"state_dict": build_network(options).state_dict(), "stpl": entry}, paths[-1])
    return paths


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    scene = MovingShapes(4, SIZE)
    for index in range(4):
        write_png(folder / f"{index:03d}.png", scene.frame(index))
    return folder


def test_runs_side_by_side(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", "source_only", "naive", "stpl", f"--runs={runs}", EXPERIMENTS, "--fps=4"]) == 0
    path = runs / "streets/report/side_by_side.webm"
    assert str(path) in capsys.readouterr().out
    assert b"V_VP9" in path.read_bytes()[:1000]
    video = VideoFrames(path)
    assert video.fps == pytest.approx(4)
    shown = list(video.frames())
    assert len(shown) == 4
    with np.load(runs / "streets/stpl/seed0/samples.npz") as arrays:
        frame = arrays["frames"][0]
    factor = 640 // SIZE[1]  # small panels are enlarged by a whole number
    panel = shown[0][30 : 30 + SIZE[0] * factor, 8 : 8 + SIZE[1] * factor]  # below the title, right of the gap
    middle = panel[factor // 2 :: factor, factor // 2 :: factor].astype(int)
    assert np.abs(middle - frame).mean() < 12


def test_checkpoints_on_a_video(checkpoints: list[Path], frames: Path, tmp_path: Path) -> None:
    named = ",".join(map(str, checkpoints[:2]))
    output = tmp_path / "deep" / "v.webm"
    assert main(["video", f"--video={frames}", f"--network=[{named}]", f"--output={output}", "--codec=vp8"]) == 0
    assert len(list(VideoFrames(output).frames())) == 3  # the first frame has none before it


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stlp"], "did you mean 'stpl'?"),
        (["oracle"], "kept no samples.npz"),
        (["stpl", "--seed=7"], "--seed_everything=7"),
        (["stpl", "--runs={runs}/bare"], "kept no samples.npz"),
        (["--bench=street"], "did you mean 'streets'?"),
        (["--video=drive.mp4"], "belong together"),
        (["stpl", "--video=drive.mp4", "--network=[streets]"], "belong together"),
        (["--output=v.mp4"], "name it *.webm"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], expected: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = [argument.replace("{runs}", str(runs)) for argument in arguments]
    folder = [] if any(argument.startswith("--runs") for argument in given) else [f"--runs={runs}"]
    assert main(["video", *given, *folder, EXPERIMENTS]) == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_on_different_clips_are_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(tmp_path, {"source_only": 0.5, "stpl": 0.3}, seeds=1)
    path = tmp_path / "streets/stpl/seed0/samples.npz"
    with np.load(path) as arrays:
        changed = {**arrays, "keys": arrays["keys"][::-1]}
    np.savez(path, **changed)
    assert main(["video", f"--runs={tmp_path}", EXPERIMENTS]) == 2
    assert "kept different clips" in capsys.readouterr().err


def test_networks_of_different_classes_are_refused(
    checkpoints: list[Path], frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ",".join(map(str, checkpoints[1:]))
    assert main(["video", f"--video={frames}", f"--network=[{named}]", f"--output={tmp_path / 'v.webm'}"]) == 2
    assert "viper15, synthia12" in capsys.readouterr().err


def test_each_network_sees_its_own_size_and_flow(drive: Path) -> None:
    origins = [NetworkOrigin("streets", size=(32, 64)), NetworkOrigin("streets:1", size=(64, 96))]
    networks = [open_network(origin) for origin in (*origins, origins[0])]
    stream = FrameStream(drive)
    shown = [labels for _, labels in labelled(networks, stream, FlowCache(), first=1)]
    alone = [list(network.predict(stream.frames()))[1:] for network in networks]
    assert len(shown) == len(alone[0]) == 5
    for labels, expected in zip(shown, zip(*alone, strict=True), strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(labels, expected, strict=True))
