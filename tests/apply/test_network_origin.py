"""What a user says of a network: taken where its meaning is certain, else refused in a line that names the option."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import own_networks
from refusals import refused
from stpl.apply.loaded import as_checkpoint, open_network
from stpl.apply.origin import NetworkOrigin, read_classes, read_network
from stpl.cli import main
from stpl.errors import StplError
from stpl.nn import normalization
from stpl.nn.own import OwnNetwork, build_module

SIZE = (64, 96)
OWN: dict[str, Any] = {"network": "own_networks:Dictionary", "size": SIZE}
IMAGENET: dict[str, Any] = {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}
NAN = float("nan")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """A YAML file of these lines."""

    def write(*lines: str, name: str = "net.yaml") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


# --- a YAML file, and what is given beside it


def test_what_is_given_beside_a_file_wins(written: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    file = written("network: own_networks:Dictionary", "size: [64, 96]", "features: backbone", "channels: bgr",
                   "mean: [1, 2, 3]", "std: [4, 5, 6]", "arguments: {width: 8}", "classes: viper15")  # fmt: skip
    alone = NetworkOrigin(network=str(file))
    assert (alone.network, alone.size, alone.features, alone.channels) == (OWN["network"], SIZE, "backbone", "bgr")
    assert (alone.mean, alone.std, alone.arguments) == ((1, 2, 3), (4, 5, 6), {"width": 8})
    beside: dict[str, Any] = {
        "size": (32, 48), "features": "x", "logits": "out", "channels": "rgb", "mean": (0.0, 0.0, 0.0),
        "std": (255.0, 255.0, 255.0), "arguments": {"width": 4}, "classes": "cityscapes19", "key": "ema",
        "weights": tmp_path / "w.pth",
    }  # fmt: skip
    both = NetworkOrigin(network=str(file), **beside)
    assert {name: getattr(both, name) for name in beside} == beside
    assert both.network == OWN["network"]


def test_a_file_beside_a_checkpoint_names_the_builder_alone(written: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    file = written("network: own_networks:Dictionary", "size: 64,96", "classes: viper15")
    origin = NetworkOrigin(str(tmp_path / "last.ckpt"), builder=str(file))
    assert (origin.kind, origin.builder, origin.size, origin.classes) == ("checkpoint", OWN["network"], None, None)
    said = refused(lambda: NetworkOrigin(str(tmp_path / "last.ckpt"), builder=str(tmp_path / "other.ckpt")))
    assert "--builder: " in said
    assert "names no callable" in said
    file = written(f"network: {tmp_path / 'last.ckpt'}", "builder: own_networks:Dictionary", "size: 64,96")
    assert NetworkOrigin(str(file)).checkpoint == tmp_path / "last.ckpt"
    assert (
        NetworkOrigin(str(file)).builder == NetworkOrigin(origin.network, builder=str(file)).builder == OWN["network"]
    )


@pytest.mark.parametrize("text", ["64,96", "'64, 96'", "[64, 96]", "[64.0, 96.0]", "['64', '96']", "(64, 96)"])
def test_sizes_in_a_file(text: str, written: Callable[..., Path]) -> None:
    assert read_network(written("network: streets", f"size: {text}"))["size"] == SIZE


@pytest.mark.parametrize(
    "text",
    ["64x96", "64", "[64]", "[64, 96, 3]", "[-64, 96]", "[0, 0]", "{height: 64, width: 96}", "[64.5, 96]", "large",
     "[true, 96]", "[[64], [96]]", "['a', 'b']", "[64, null]", ".nan", "[.inf, 96]", "64;96", "[1_000_000, 1_000_000]",
     "2020-01-01", "''", "[]"],
)  # fmt: skip
def test_sizes_that_are_refused(text: str, written: Callable[..., Path]) -> None:
    said = refused(lambda: read_network(written("network: streets", f"size: {text}")))
    assert "net.yaml: size: " in said


@pytest.mark.parametrize(
    "line",
    ["weights:", "weights: 5", "weights: [a]", "arguments: 5", "arguments: [1]", "arguments: {1: 2}",
     "arguments: {when: 2020-01-01}", "arguments: {a: [[[[1]]]]}", "arguments: {a: {1: 2}}", "mean: 0", "mean: [1, 2]",
     "mean: [null, 1, 1]", "mean: [.nan, 1, 1]", "mean: [.inf, 1, 1]", "mean: [a, b, c]", "mean: text",
     "std: [0, 1, 1]", "std: [-1, 1, 1]", "std: [true, 1, 1]", "features: 1.10", "features: true", "features: [a]",
     "features:",
     "features: ''", "logits: {a: 1}", "key: no", "classes: 19", "classes: [a, b]", "classes: nothing", "channels: hsv",
     "channels: 3", "network: [a]", "network: 3"],
)  # fmt: skip
def test_a_wrong_value_in_a_file_is_refused_by_its_key(line: str, written: Callable[..., Path]) -> None:
    lines = [line] if line.startswith("network") else ["network: own_networks:Dictionary", line]
    said = refused(lambda: NetworkOrigin(network=str(written(*lines, "size: 64,96"))))
    assert f"net.yaml: {line.partition(':')[0]}" in said


def test_arguments_stay_what_they_are(written: Callable[..., Path]) -> None:
    """Where a file holds them, where Python gives them, and where a run's configuration is parsed."""
    from jsonargparse import ArgumentParser

    from stpl.runs.build import SuiteCLI  # noqa: F401 -- what parses it

    text = "{a: '19', b: 'no', c: 'null', d: '1e3', e: '[1,2]', f: 1, g: 1.0, h: true, i: null, k: [1, '2', {l: '3'}]}"
    given = read_network(written("network: a:b", f"arguments: {text}"))["arguments"]
    assert given == {"a": "19", "b": "no", "c": "null", "d": "1e3", "e": "[1,2]", "f": 1, "g": 1.0, "h": True,
                     "i": None, "k": [1, "2", {"l": "3"}]}  # fmt: skip
    assert NetworkOrigin(**OWN, arguments={"a": (1, "2")}).arguments == {"a": [1, "2"]}  # as a checkpoint keeps it
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(OwnNetwork, "own")
    parsed = parser.parse_object({"own": {"builder": "a:b", "arguments": given}}).own.arguments
    assert {name: (type(value), value) for name, value in parsed.items()} == {
        name: (type(value), value) for name, value in given.items()
    }


# --- mean and std


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "times 255: mean=123.675,116.28,103.53 and std=58.395"),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "times 255: mean=127.5"),
        ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), "times 255"),
        ((0.0, 0.0, 0.0), (1 / 255,) * 3, "times 255"),
        ((0.5, 0.5, 0.5), (58.4, 57.1, 57.4), "mean of no frames in 0…255"),
        ((123.7, 116.3, 103.5), (0.229, 0.224, 0.225), "deviation of no frames in 0…255"),
        ((1e6, 1e6, 1e6), (58.0, 58.0, 58.0), "mean of no frames"),
        ((-20.0, 1.0, 1.0), (58.0, 58.0, 58.0), "mean of no frames"),
        ((123.7, 116.3, 103.5), (1e-9, 1.0, 1.0), "deviation of no frames"),
        ((123.7, 116.3, 103.5), (1e9, 1.0, 1.0), "deviation of no frames"),
    ],
)
def test_scales_that_cannot_be(mean: Any, std: Any, said: str) -> None:
    assert said in refused(lambda: NetworkOrigin(**OWN, mean=mean, std=std))
    assert said in refused(lambda: OwnNetwork("a:b", mean=mean, std=std))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (IMAGENET["mean"], IMAGENET["std"]),
        ((104.0, 116.7, 122.7), (1.0, 1.0, 1.0)),  # Caffe
        ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),  # frames in 0..1
        ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),  # in -1..1
        ((0, 0, 0), (1, 1, 1)),  # as they are
        (np.array([123.7, 116.3, 103.5]), torch.tensor([58.4, 57.1, 57.4])),
        ([np.float32(123), 116, 103], [58, np.int64(57), 57]),
    ],
)
def test_scales_that_are_taken(mean: Any, std: Any) -> None:
    origin = NetworkOrigin(**OWN, mean=mean, std=std)
    assert origin.mean is not None
    assert all(type(value) is float for value in (*origin.mean, *(origin.std or ())))
    assert OwnNetwork("a:b", mean=mean, std=std).mean == origin.mean


@pytest.mark.parametrize("value", [0, 1.5, "1,2,3", (1, 2), (1, 2, NAN), np.zeros((3, 3)), {"r": 1}, (True, 1, 1)])
@pytest.mark.parametrize("name", ["mean", "std"])
def test_what_is_no_three_numbers(name: str, value: Any) -> None:
    assert f"--{name}: " in refused(lambda: NetworkOrigin(**OWN, **{**IMAGENET, name: value}))
    assert f"--{name}: is given without" in refused(lambda: NetworkOrigin(**OWN, **{name: IMAGENET[name]}))


def test_frames_as_they_are_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("classes: [a, b, c, d, e]\n")
    origin = NetworkOrigin(**OWN, classes=str(tmp_path / "c.yaml"), mean=(0, 0, 0), std=(1, 1, 1))
    own = open_network(origin).options.architecture
    assert isinstance(own, OwnNetwork)
    assert (own.mean, own.std) == normalization.AS_THEY_ARE
    assert "note: --std: frames in 0…255 go into the network as they are" in capsys.readouterr().err


# --- options that would do nothing, and what is not there

EVERY: dict[str, Any] = {
    "builder": "own_networks:Dictionary",
    "weights": "w.pth", "key": "ema", "arguments": {"a": 1}, "features": "x", "logits": "out", "classes": "viper15",
    "mean": IMAGENET["mean"], "std": IMAGENET["std"], "channels": "rgb",
}  # fmt: skip


@pytest.mark.parametrize(
    ("network", "useless"),
    [("streets", {*EVERY} - {"builder"}), ("streets:1", {*EVERY} - {"builder"}),
     ("hf:acme/net", {"builder", "weights", "key", "arguments"}), ("own_networks:Dictionary", {"builder", "key"}),
     (nn.Conv2d(3, 2, 1), {"builder", "arguments", "key"})],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(
    network: Any, useless: set[str], written: Callable[..., Path]
) -> None:
    for name, value in EVERY.items():
        given = {name: value} | ({"mean": IMAGENET["mean"], "std": IMAGENET["std"]} if name in ("mean", "std") else {})
        try:
            NetworkOrigin(network=network, size=SIZE, **given)
            said = ""
        except StplError as error:
            said = str(error)
        assert (": this does nothing here" in said) == (name in useless), (name, said)
        assert not said or f"--{name}" in said or name in ("mean", "std")
    if isinstance(network, str) and "arguments" in useless:
        file = written(f"network: {network}", "size: 64,96", "arguments: {a: 1}")
        assert "net.yaml: arguments: this does nothing here" in refused(lambda: NetworkOrigin(network=str(file)))


@pytest.mark.parametrize(
    "name",
    ["runs/a:b/last.ckpt", "runs/a:b/last", "a:b.ckpt", "C:\\runs\\last.ckpt", "C:/runs/last.ckpt", "last.ckpt",
     "https://host/last.ckpt", "s3://bucket/x", "runs/a:last.ckpt", "nets.build", "nets.py", ":/x", "x" * 200],
)  # fmt: skip
def test_a_checkpoint_that_is_not_there(name: str, here: Path) -> None:
    for given in (Path(name), name):
        said = refused(lambda given=given: NetworkOrigin(given))  # type: ignore[misc]
        assert "no such checkpoint" in said
        assert "size" not in said
    (here / "folder").mkdir()
    assert "is a folder" in refused(lambda: NetworkOrigin("folder"))
    (here / "a:b").write_bytes(b"x")
    assert NetworkOrigin(network="a:b").checkpoint == Path("a:b")  # what is there wins


@pytest.mark.parametrize(
    ("network", "said"),
    [("./nets.py:build", "nets:build"), (".nets:build", "nets:build"), ("sub/nets.py:build", "sub.nets:build"),
     ("nets:", "package.module:callable"), (":build", "package.module:callable"), ("nets:build()", "nets:build"),
     ("/abs/nets.py:build", "package.module:callable"), ("nets::build", "package.module:callable"),
     ("no_such_package:net", "No module named 'no_such_package'"), ("hf:", "hf:FOLDER"), ("hf:./nowhere", "no folder"),
     ("", "is empty"), ("streets:99", "choose one of the seeds")],
)  # fmt: skip
def test_a_name_of_no_network(network: str, said: str) -> None:
    assert said in refused(lambda: NetworkOrigin(network=network, size=SIZE))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for name, value in {"weights": tmp_path / "w.pth", "classes": str(tmp_path / "c.yaml")}.items():
        assert str(value) in refused(lambda name=name, value=value: NetworkOrigin(**OWN, **{name: value}))  # type: ignore[misc]
    assert "is a folder" in refused(lambda: NetworkOrigin(**OWN, weights=tmp_path))
    assert "give a network" in refused(NetworkOrigin)


@pytest.mark.slow
def test_a_refusal_imports_no_torch(written: Callable[..., Path]) -> None:
    file = written("network: streets", "size: [1]")
    code = (f"import sys\nfrom stpl.apply.origin import NetworkOrigin\ntry:\n  NetworkOrigin(network={str(file)!r})\n"
            "except Exception as error:\n  print(error.where, 'torch' in sys.modules)")  # fmt: skip
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == f"{file}: size False\n"


# --- classes and palettes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: [a, b]\npalette: [red, tan]", "'red' is no colour"),
        ("classes: [a, b]\npalette: [abc, tan]", "is no colour"),
        ("classes: [a, b]\npalette: [0, 0, 0, 9, 9, 9]", "6 colours for 2 classes"),
        ("classes: [a, b]\npalette: 5", "no list"),
        ("classes: [a, b]\npalette: {a: [0, 0, 0]}", "no list"),
        ('classes: [a, b]\npalette: [["0", 0, 0], [9, 9, 9]]', "is no colour"),
        ("classes: [a, b]\npalette: [[0, 0, 256], [9, 9, 9]]", "is no colour"),
        ("classes: [a, b]\npalette: [[0, 0, -1], [9, 9, 9]]", "is no colour"),
        ("classes: [a, b]\npalette: [[0, 0, 1.5], [9, 9, 9]]", "is no colour"),
        ("classes: [a, b]\npalette: [[0, 0], [9, 9]]", "is no colour"),
        ("classes: [a, b]\npalette: [[0, 0, 0]]", "1 colours for 2 classes"),
        ("classes: [a, b]\npalette:", "palette"),
        ("classes: [a, b]\npalette: []", "palette"),
        ("classes: [on, off]", "True is no name"),
        ("classes: [1, 2]", "1 is no name"),
        ("classes: [a, null]", "None is no name"),
        ("classes: [a, [b]]", "no name"),
        ("classes: [a, '']", "no name"),
        ("classes: [a, b, a]", "'a' is there twice"),
        ("classes: []", "0 classes"),
        ("classes:", "lacks a list"),
        ("classes: {a: 1}", "lacks a list"),
    ],
)
def test_classes_and_palettes_that_are_refused(text: str, said: str, written: Callable[..., Path]) -> None:
    path = written(text, name="c.yaml")
    told = refused(lambda: read_classes(str(path)))
    assert said in told
    assert str(path) in told


def test_whole_numbers_of_a_palette_are_colours(written: Callable[..., Path]) -> None:
    path = written("classes: [a, b]", "palette: [[0, 0.0, 255], [9, 9, 9]]", name="c.yaml")
    assert read_classes(str(path)).palette.tolist() == [[0, 0, 255], [9, 9, 9]]


# --- modules of somebody else's


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def build(:\n", "bad.py:1: invalid syntax"),
        ("def build():\n\tpass\n        pass\n", "bad.py:3: "),
        ("\nraise ValueError('at import')\n", "bad.py:2: importing bad fails: at import (ValueError)"),
        ("import no_such_thing\n", "bad.py:1: importing bad fails: No module named 'no_such_thing'"),
        ("import sys\nsys.exit(5)\n", "bad.py:2: importing bad calls sys.exit(5)"),
        ("import sys\ndef build():\n    sys.exit()\n", "bad.py:3: bad:build calls sys.exit()"),
        ("class Stop(BaseException): pass\ndef build():\n    raise Stop\n", "bad.py:3: bad:build fails: Stop"),
        ("def build():\n    raise KeyError('x')\n", "bad.py:2: bad:build fails: 'x' (KeyError)"),
        ("def build(a): pass\n", "bad:build fails: build() missing 1 required"),
        ("build = 3\n", "bad:build is of the type int, which cannot be called"),
        ("def built(): pass\n", "did you mean 'built'?"),
        ("def build(): pass\n", "gives a NoneType, no nn.Module"),
        ("from torch import nn\nbuild = lambda: nn.Conv2d\n", "no nn.Module"),
        ("from torch import nn\nbuild = lambda: nn.Conv2d(3, 2, 1, device='meta')\n", "2 tensors hold no numbers"),
        ("\0", "importing bad fails"),
    ],
)
def test_what_a_module_does_wrong_is_one_line(
    text: str, said: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.py").write_text(text)
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    assert main(["export", "--size=64,96", "--network=bad:build", "--out=n.pt"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 2
    assert not (here / "n.pt").exists()


def test_an_interruption_is_no_fault_of_a_module(here: Path) -> None:
    (here / "slow.py").write_text("def build():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        build_module(OwnNetwork("slow:build"))


def test_classes_and_partials_are_called(here: Path) -> None:
    (here / "parts.py").write_text("from functools import partial\nfrom torch import nn\n"
                                   "build = partial(nn.Conv2d, 3, 2, 1)\n")  # fmt: skip
    assert isinstance(build_module(OwnNetwork("parts:build")), nn.Conv2d)
    assert isinstance(build_module(OwnNetwork("own_networks:Dictionary")), own_networks.Dictionary)


def test_networks_options_without_a_network_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", "--size=8,8"]) == 2
    assert "--network: is missing\n  → give it, or leave --size out" in capsys.readouterr().err


def test_a_benchmark_is_given_the_flow_estimator() -> None:
    with as_checkpoint(NetworkOrigin("streets", flow_estimator="raft")) as named:
        assert named == ["--network=streets", "--data.flow_estimator=raft"]
