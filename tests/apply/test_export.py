"""Exported networks, and footage labelled by a network."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from fakes import MovingShapes
from repository import SUPPORT
from stpl.apply import export as export_module
from stpl.apply.branches import values_read
from stpl.apply.loaded import labelled, open_network
from stpl.apply.origin import NetworkOrigin
from stpl.cli import main
from stpl.commands import export as verb
from stpl.data.clip import collate
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.videos.video_clips import VideoFrames, clips_in_order
from stpl.errors import StplError
from stpl.nn.segmenter import upsample

pytestmark = pytest.mark.slow

SIZE = (64, 96)
OWN = ("Dictionary", "PoolingIndices", "WithoutBatchNorm")
ODD = ("Night", "Scaled", "Checked", "OfTheBatch")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.yaml").write_text("classes: [road, car, tree, sky, other]\n")
    for name in (*OWN, *ODD):
        (tmp_path / f"{name}.yaml").write_text(f"network: own_networks:{name}\nsize: [64, 96]\nclasses: classes.yaml\n")
    return tmp_path


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    frames = tmp_path / "drive"
    frames.mkdir()
    for time in range(4):
        cv2.imwrite(str(frames / f"{time}.png"), MovingShapes(6, (70, 110)).frame(time))
    return frames


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kind", ["onnx", "pt"])
def test_any_network_is_exported(name: str, kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["export", f"--network={name}.yaml", f"--out=net.{kind}"])
    said = capsys.readouterr().err
    assert code == 0, said
    assert "100.00% of the classes are the same" in said
    told = metadata(folder / f"net.{kind}")
    assert json.loads(told["classes"]) == ["road", "car", "tree", "sky", "other"]
    assert json.loads(told["size"]) == list(SIZE)


def metadata(path: Path) -> dict[str, str]:
    if path.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    extra = {"stpl.json": ""}
    load: Any = torch.jit.load
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        load(str(path), _extra_files=extra)
    return json.loads(extra["stpl.json"])  # type: ignore[no-any-return]


def test_the_whole_of_accel_is_exported_and_ids_instead_of_logits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped model was trained with ACCEL: it needs the frame before, and says so if that is left out."""
    assert main(["export", "--network=streets", "--out=net.pt", "--size=64,96", "--output=ids"]) == 0
    assert "frames, previous, flow → ids" in capsys.readouterr().err
    assert main(["export", "--network=streets", "--out=one.onnx", "--size=64,96", "--frames=1"]) == 0
    said = capsys.readouterr().err
    assert "not all that the network predicts with" in said
    assert "frames → logits" in said
    inputs = export_module.examples(open_network(NetworkOrigin(network="streets", size=SIZE)), 1, 3)
    assert export_module._load_onnx(folder / "one.onnx")(*inputs).shape == (3, 15, *SIZE)


def test_an_operator_that_cannot_be_exported_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("No ONNX function found for aten.odd\nand much more")

    monkeypatch.setitem(export_module._WRITERS, "onnx", refuse)
    assert main(["export", "--network=Dictionary.yaml", "--out=net.onnx"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "cannot be exported as onnx: No ONNX function found for aten.odd\n" in said
    assert not list(folder.glob("*net*"))


def test_a_file_that_differs_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = export_module._load_torchscript
    monkeypatch.setitem(export_module._LOADERS, "torchscript", lambda path: lambda *x: load(path)(*x) + 0.5)
    assert main(["export", "--network=Dictionary.yaml", "--out=net.pt"]) == 2
    assert "no file is kept" in capsys.readouterr().err
    assert not list(folder.glob("*net*"))


@pytest.mark.parametrize(("name", "kind"), [("Night", "onnx"), ("Night", "pt"), ("Scaled", "pt")])
def test_a_network_that_reads_values_is_exported_right_or_not_at_all(
    name: str, kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trace keeps one side of a branch; TorchScript keeps both where it can be made from the source."""
    code = main(["export", f"--network={name}.yaml", f"--out=net.{kind}"])
    said = capsys.readouterr().err
    if (name, kind) != ("Night", "pt"):
        assert code == 2
        assert re.search(r"reads values of the frame at own_networks\.py:\d+ \(`", said)
        assert said.count("\n") == 2
        assert not list(folder.glob("*net*"))
        return
    assert code == 0, said
    network, loaded = (
        open_network(NetworkOrigin(network="Night.yaml")),
        export_module._load_torchscript(folder / "net.pt"),
    )
    own = export_module.OneFrame(network.accel).eval()
    own.load_state_dict({f"segmenter.{name}": value for name, value in _state(folder / "net.pt").items()})
    for values in ((0, 30), (0, 256)):
        inputs = export_module.examples(network, 1, 3, values)
        with torch.no_grad():
            torch.testing.assert_close(loaded(*inputs), own(*inputs))


def _state(path: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        load: Any = torch.jit.load
        return {name.removeprefix("segmenter."): value for name, value in load(str(path)).state_dict().items()}


def test_checks_shapes_and_weights_are_no_values_of_the_frame() -> None:
    network = open_network(NetworkOrigin(network="Checked.yaml"))
    assert values_read(export_module.OneFrame(network.accel), export_module.examples(network, 1, 2)) is None
    assert main(["export", "--network=Checked.yaml", "--out=net.pt"]) == 0


def test_a_difference_on_dark_frames_alone_is_found(folder: Path) -> None:
    network = open_network(NetworkOrigin(network="Night.yaml"))
    net = export_module.OneFrame(network.accel).eval()
    export = export_module.Export(net, network, folder / "net.pt", "torchscript", 1, None)
    with pytest.raises(StplError, match="on dark frames by"):
        export_module._kept(export, net)
    assert not list(folder.glob("*net*"))


def test_a_batch_that_a_file_would_fix_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["export", "--network=OfTheBatch.yaml"]
    assert main([*options, "--out=net.pt"]) == 2
    said = capsys.readouterr().err
    assert "batch" in said
    assert said.endswith("→ try --format=onnx\n")


def test_a_module_that_torch_cannot_name_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (SUPPORT / "own_networks.py").read_text()
    (folder / "2net.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "net.yaml").write_text("network: 2net:Dictionary\nsize: [64, 96]\nclasses: classes.yaml\n")
    assert main(["export", "--network=net.yaml", "--out=net.pt"]) == 2
    assert "cannot read the name of the module '2net' again\n  → try --format=onnx" in capsys.readouterr().err
    assert not (folder / "net.pt").exists()


def test_an_output_that_cannot_be_is_refused_before_a_network_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stpl.apply.loaded.open_network", pytest.fail)
    (folder / "dir.pt").mkdir()
    (folder / "file").touch()
    for out, said in {
        "dir.pt": "a folder stands",
        "file/net.pt": "a file stands",
        f"{300 * 'x'}.pt": "shorter",
    }.items():
        assert main(["export", "--network=streets", f"--out={out}"]) == 2
        assert said in capsys.readouterr().err
    assert main(["export", "--network=streets", "--format=onnx", "--out=/dev/null"]) == 2
    assert "no ordinary file" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".yaml") == ["dir.pt", "file"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--network=streets", "--out=net.pt", "--frames=0"], "choose 1 or more"),
        (["--network=streets", "--out=net.pt", "--size=999999999,999999999"], "GiB at the least"),
        (["--network=streets", "--out=net.pt", "--size=0,64"], "0 is not 1 or more"),
        (["--network=Dictionary.yaml", "--out=net.bin"], "names no format"),
        (["--out=net.pt"], "give a network"),
        (["--network=Dictionary.yaml", "--out=net.pt", "--frames=3"], "choose 1 or 2"),
        (["--network=none.ckpt", "--out=net.pt"], "no such checkpoint"),
    ],
)
def test_what_cannot_be_exported_is_told(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(verb, "import_module", absent)
    assert main(["export", "--network=Dictionary.yaml", "--out=net.onnx"]) == 2
    assert "pip install 'stpl[export]'" in capsys.readouterr().err


def test_footage_is_labelled(drive: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids are what the network predicts, the palette's images hold the same, and nothing is half written."""
    assert main(["predict", f"--video={drive}", "--network=streets", "--out=found"]) == 0
    assert "wrote 4 frames to found" in capsys.readouterr().err
    model = open_network(NetworkOrigin(network="streets"))
    expected = list(model.predict(VideoFrames(drive).frames()))
    for number, labels in enumerate(expected):
        name = f"{number:06d}.png"
        np.testing.assert_array_equal(cv2.imread(str(folder / "found/ids" / name), cv2.IMREAD_UNCHANGED), labels)
        with Image.open(folder / "found/colors" / name) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), labels)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), model.options.space.palette[labels])
    assert len(list(VideoFrames(folder / "found" / "overlay.webm").frames())) == 4
    classes = json.loads((folder / "found" / "classes.json").read_text())
    assert [row["name"] for row in classes] == list(model.classes)
    assert main(["predict", f"--video={drive}", "--network=streets", "--out=found"]) == 2
    assert "there is something here already" in capsys.readouterr().err
    assert not list(folder.glob(".found*"))


@pytest.mark.parametrize("name", ["WithoutBatchNorm.yaml", "streets"])
def test_flow_and_the_frame_before_are_used_where_the_fusion_is_learned(
    name: str, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of one's own sees each frame once; its labels are those of both frames and flow, to the bit."""
    model, stream = open_network(NetworkOrigin(network=name)), VideoFrames(drive)
    clips = list(clips_in_order(stream, model.frame_size, FlowCache()))
    by_both = []
    for frame, clip in clips:
        with torch.no_grad():
            logits = model.accel(collate([clip]))
        by_both.append(upsample(logits, frame.shape[:2]).argmax(1)[0].numpy())
    assert len(np.unique(by_both)) > 1
    passes: list[int] = []
    flows: list[str] = []
    model.accel.segmenter.register_forward_hook(lambda *_: passes.append(1))
    estimate = FlowCache.find

    def find(self: FlowCache, key: str, *given: Any) -> Any:
        flows.append(key)
        return estimate(self, key, *given)

    monkeypatch.setattr(FlowCache, "find", find)
    for _, (labels,) in labelled([model], stream, FlowCache()):
        np.testing.assert_array_equal(labels, by_both.pop(0))
    learned = name == "streets"
    assert (len(passes), len(flows)) == ((8, 3) if learned else (4, 0))
    assert len(list(model.predict(stream.frames()))) == 4
    assert (len(passes), len(flows)) == ((16, 6) if learned else (8, 0))


def test_only_what_is_asked_for_is_written(drive: Path, folder: Path) -> None:
    options = ["--ids=false", "--overlay=false", "--stride=2", "--network=WithoutBatchNorm.yaml"]
    assert main(["predict", f"--video=[{drive},{drive}]", *options, "--out=found"]) == 0
    assert sorted(path.name for path in (folder / "found").iterdir()) == ["classes.json", "colors"]
    assert len(list((folder / "found" / "colors").iterdir())) == 4


def test_predict_names_what_is_missing(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", f"--video={drive}", "--out=found"]) == 2
    assert "give a network" in capsys.readouterr().err
    assert main(["predict", f"--video={drive}", "--bench=streets", "--network=streets", "--out=found"]) == 2
    assert "unknown option --bench" in capsys.readouterr().err
