import re
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fakes import write_cityscapes
from stpl.cli import main
from stpl.commands.data import SplitOptions
from stpl.commands.data import data_flow as flow
from stpl.data import flow as fl
from stpl.data.fake import fake
from stpl.data.flow.estimators import open_estimator
from stpl.data.sequence_set import SequenceSet, open_set
from stpl.errors import ConfigError, DataError

SIZE = (54, 128)
FOLDER = "Estimated_optical_flow_SynthiaSeq_train"
NAMES = [f"{number:06d}_int16_x10.npy" for number in range(1, 5)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    fake("synthia", root, (64, 128), clips=4)
    return root


def dis(root: Path) -> list[fl.Flow]:
    """What the files must hold, clip by clip, made without the code under test."""
    files: SequenceSet = open_set(root, "synthia", "train", size=SIZE)
    frames = [[files.read_frame(path) for path in files.frame_pair(index)] for index in range(len(files))]
    return [fl.estimate(later, earlier) for earlier, later in frames]


@pytest.mark.parametrize(("suffix", "error"), [("npy", 0.1), ("flo", 0.0), ("png", 1 / 128)])
def test_every_clip_gets_its_flow_in_each_format(suffix: str, error: float, root: Path, tmp_path: Path) -> None:
    arguments = ["synthia", f"--root={root}", "--size=54,128", f"--format={suffix}", f"--out={tmp_path}"]
    assert main(["data", "flow", *arguments]) == 0
    names = [name.replace("npy", suffix) for name in NAMES]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name, wanted in zip(names, dis(root), strict=True):
        assert np.abs(fl.read(tmp_path / name, SIZE) - wanted).max() <= error + 1e-5


def test_names_and_folders_are_the_lineages(tmp_path: Path) -> None:
    size = (32, 64)
    fake("viper", tmp_path, size, clips=1)
    write_cityscapes(tmp_path / "Cityscapes", splits=("val",), cities=("aachen",), snippets=1, size=size)
    for dataset, split, folder, name in (
        ("viper", "train", "Viper_train", "001_0001000009_int16_x10.npy"),
        ("cityscapes", "val", "Cityscapes-Seq_val", "aachen_000000_000019_000018_int16_x10.npy"),
    ):
        flow(SplitOptions(dataset, tmp_path, split, size))
        path = tmp_path / f"Estimated_optical_flow_{folder}" / name
        assert list(path.parent.iterdir()) == [path]
        stored = np.load(path)
        assert stored.dtype == np.int16
        assert stored.shape == (*size, 2)


def test_what_is_there_is_kept_and_what_is_torn_is_made_again(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow(SplitOptions("synthia", root, size=SIZE, workers=2), out=tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in NAMES}
    (tmp_path / NAMES[0]).unlink()
    (tmp_path / NAMES[1]).write_bytes(whole[NAMES[1]][:1000])
    old = (tmp_path / NAMES[2]).stat().st_mtime_ns
    capsys.readouterr()
    flow(SplitOptions("synthia", root, size=SIZE), out=tmp_path)
    assert "2 flow files written, 2 were there already" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert (tmp_path / NAMES[2]).stat().st_mtime_ns == old


def test_flow_of_another_size_is_not_mixed_in(root: Path, tmp_path: Path) -> None:
    flow(SplitOptions("synthia", root, size=SIZE), out=tmp_path)
    with pytest.raises(DataError, match=r"000001_int16_x10\.npy: this flow is 54×128, asked for is 27×64[\s\S]*→"):
        flow(SplitOptions("synthia", root, size=(27, 64)), out=tmp_path)


def test_a_torn_frame_is_named_and_the_rest_is_kept(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "SynthiaSeq", tmp_path / "SynthiaSeq")
    frame = tmp_path / "SynthiaSeq/SEQS-04-DAWN/rgb/000004.png"
    frame.write_bytes(frame.read_bytes()[:500])
    with pytest.raises(DataError, match=r"000004\.png: the image cannot be decoded"):
        flow(SplitOptions("synthia", tmp_path, size=SIZE, workers=1))
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == NAMES[:3]


def test_interrupting_leaves_whole_files_and_the_next_call_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "flow", "synthia", f"--root={root}", "--size=54,128", f"--out={tmp_path}", "--workers=1"]
    calls: list[int] = []
    press_ctrl_c, estimate = threading.main_thread().ident, fl.estimate
    assert press_ctrl_c is not None

    def interrupted(later: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> fl.Flow:
        calls.append(1)
        if len(calls) == 2:
            signal.pthread_kill(press_ctrl_c, signal.SIGINT)
            time.sleep(0.3)
        return estimate(later, earlier)

    monkeypatch.setattr("stpl.data.flow.estimators.estimate", interrupted)
    assert main(arguments) == 130
    assert "interrupted; call again to go on" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES[:2]
    assert all(fl.probe(tmp_path / name) == SIZE for name in NAMES[:2])
    assert main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert len(calls) == 4


def torchvision(monkeypatch: pytest.MonkeyPatch, raft: Callable[..., Any], calls: list[str]) -> None:
    """A stand-in for `torchvision.models.optical_flow` with the signatures of 0.22 and later."""

    class Weights:
        url = "somewhere/models/raft_any.pth"

        def transforms(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
            def transform(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
                assert first.dtype == second.dtype == torch.uint8
                return first.float() / 127.5 - 1, second.float() / 127.5 - 1

            return transform

    def builder(size: str) -> Callable[..., Any]:
        def build(*, weights: Any = None, progress: bool = True, **options: Any) -> Any:
            assert isinstance(weights, Weights)
            assert not progress
            assert not options
            calls.append(size)
            return raft()

        return build

    module = types.ModuleType("torchvision.models.optical_flow")
    for size in ("large", "small"):
        setattr(module, f"raft_{size}", builder(size))
        setattr(module, f"Raft_{size.title()}_Weights", types.SimpleNamespace(DEFAULT=Weights()))
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


class TellingRaft(torch.nn.Module):
    """Refuses what RAFT refuses; as flow it answers with red of its first image and green of its second, in pixels."""

    batches: list[int]

    def forward(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 12) -> list[Tensor]:
        assert image1.shape == image2.shape
        assert image1.shape[2] % 8 == image1.shape[3] % 8 == 0
        assert min(image1.shape[2:]) >= 128
        assert not self.training
        assert not torch.is_grad_enabled()
        type(self).batches.append(image1.shape[0])
        last = torch.stack([image1[:, 0], image2[:, 1]], dim=1) * 127.5 + 127.5
        return [*[torch.zeros_like(last)] * (num_flow_updates - 1), last]


def pictures(count: int, size: tuple[int, int]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    values = np.random.default_rng(0).integers(0, 256, (count, 2, *size, 3), dtype=np.uint8)
    return [(pair[0], pair[1]) for pair in values]


@pytest.mark.parametrize("size", [(64, 131), (128, 136), (150, 40)])
def test_raft_gets_padded_pairs_later_frame_first(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    TellingRaft.batches = []
    torchvision(monkeypatch, TellingRaft, calls)
    pairs = pictures(3, size)
    for flow_2HW, (later, earlier) in zip(open_estimator("raft")(pairs), pairs, strict=True):
        assert flow_2HW.dtype == np.float32
        assert flow_2HW.shape == (2, *size)
        np.testing.assert_allclose(flow_2HW, [later[..., 0], earlier[..., 1]], atol=1e-3)
    assert TellingRaft.batches == [3]
    open_estimator("raft_small")
    assert calls == ["large", "small"]


def test_raft_from_the_command_line_works_in_batches(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TellingRaft.batches = []
    torchvision(monkeypatch, TellingRaft, [])
    clips = SplitOptions("synthia", root, size=SIZE, workers=3)
    flow(clips, estimator="raft", format="flo", out=tmp_path)
    assert sum(TellingRaft.batches) == 4
    assert max(TellingRaft.batches) == 4
    files = open_set(root, "synthia", "train", size=SIZE)
    for index, name in enumerate(NAMES):
        earlier, later = (files.read_frame(path) for path in files.frame_pair(index))
        found = fl.read(tmp_path / name.replace("npy", "flo"))
        np.testing.assert_allclose(found, [later[..., 0], earlier[..., 1]], atol=1e-3)


def test_without_torchvision_it_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    out = tmp_path / "out"
    assert main(["data", "flow", "synthia", f"--root={root}", "--estimator=raft", f"--out={out}"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"RAFT needs torchvision[\s\S]*→ `pip install torchvision torch==\d+\.\d+\.\d+`, or use dis", said)
    assert not out.exists()


def test_torchvision_of_another_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("stpl.data.flow.raft.import_module", broken)
    with pytest.raises(ConfigError, match=r"cannot be imported \(operator torchvision::nms[\s\S]*→ `pip install"):
        open_estimator("raft_small")


def test_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> None:
        raise OSError("no route to host")

    torchvision(monkeypatch, offline, [])
    with pytest.raises(
        ConfigError, match=r"weights of raft cannot be had[\s\S]*→ put raft_any\.pth into .*checkpoints"
    ):
        open_estimator("raft")


@pytest.mark.parametrize(
    ("option", "message"),
    [("--estimator=farneback", "estimator"), ("--format=exr", "format"), ("--split=test", "no split 'test'"),
     ("--size=0,64", "--size: 0 is not 1 or more"), ("--size=64", "size")],
)  # fmt: skip
def test_wrong_options_are_told(
    option: str, message: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "flow", "synthia", f"--root={root}", f"--out={tmp_path}", option]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "→" in said
    assert not list(tmp_path.iterdir())
