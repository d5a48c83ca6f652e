"""What `stpl.load` and `stpl.adapt` accept: natural types; a line that names the option refuses others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import own_networks
import stpl
from refusals import refused
from stpl.errors import shown

SIZE = (64, 96)
OWN: dict[str, Any] = {"network": "own_networks:Dictionary", "size": SIZE}
NAN = float("nan")


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"size": (64.0, 96.0)}, "--size"), ({"size": 64}, "--size"), ({"size": "64,96"}, "--size"),
        ({"size": (-64, 96)}, "--size"), ({"size": (1, 64, 96)}, "--size"), ({"size": (0, 0)}, "--size"),
        ({"size": (True, 96)}, "--size"), ({"size": {64, 96}}, "--size"), ({"size": (200000, 200000)}, "--size"),
        ({"classes": ["a", "b"]}, "--classes"), ({"classes": 19}, "--classes"), ({"mean": 0}, "--mean"),
        ({"mean": np.zeros(3)}, "--mean"), ({"std": ("a", "b", "c")}, "--std"), ({"std": (NAN,) * 3}, "--std"),
        ({"features": 1.5}, "--features"), ({"features": nn.ReLU()}, "--features"), ({"logits": ["out"]}, "--logits"),
        ({"logits": ""}, "--logits"), ({"weights": {"a": 1}}, "--weights"), ({"weights": b"w.pth"}, "--weights"),
        ({"arguments": [1]}, "--arguments"), ({"arguments": {"net": nn.ReLU()}}, "--arguments.net"),
        ({"arguments": {"n": np.int64(3)}}, "--arguments.n"), ({"channels": "RGB"}, "--channels"),
        ({"channels": 3}, "--channels"), ({"channels": np.zeros(3)}, "--channels"), ({"key": "ema"}, "--key"),
        ({"network": own_networks.Dictionary}, "--network"),
        ({"network": 3}, "--network"), ({"network": b"nets:build"}, "--network"), ({"network": None}, "--network"),
        ({"network": [own_networks.Dictionary()]}, "--network"), ({"size": None}, "--size"),
    ],
)  # fmt: skip
def test_wrong_types_from_python(given: dict[str, Any], option: str) -> None:
    given = OWN | given
    assert option in refused(lambda: stpl.load(given.pop("network"), **given))


def test_natural_types_from_python(tmp_path: Path) -> None:
    """A path as one, places as numbers, arrays of whole numbers."""
    (tmp_path / "c.yaml").write_text("classes: [a, b, c, d, e]\n")
    net = stpl.load("own_networks:pair", size=np.array(SIZE), logits=1, classes=tmp_path / "c.yaml")  # type: ignore[arg-type]
    assert net.frame_size == SIZE
    assert net.classes == ("a", "b", "c", "d", "e")
    assert stpl.load("streets", size=torch.Size(SIZE)).frame_size == SIZE  # type: ignore[arg-type]
    assert "hold no numbers" in refused(lambda: stpl.load(own_networks.Dictionary().to("meta"), size=SIZE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"video": [np.zeros((4, 4, 3), np.uint8)]}, "video"), ({"video": np.zeros((2, 4, 4, 3))}, "video"),
        ({"video": []}, "video"), ({"video": ""}, "video"), ({"video": None}, "video"), ({"video": [None]}, "video"),
        ({"video": {"a": 1}}, "video"), ({"steps": "2"}, "steps"), ({"steps": 2.5}, "steps"), ({"steps": -1}, "steps"),
        ({"steps": True}, "steps"), ({"lr": "1e-3"}, "lr"), ({"lr": -1.0}, "lr"), ({"lr": NAN}, "lr"),
        ({"batch_size": 0}, "batch_size"), ({"batch_size": "4"}, "batch_size"), ({"stride": 0}, "stride"),
        ({"stride": None}, "stride"), ({"seed": -1}, "seed"), ({"seed": 2**32}, "seed"), ({"seed": 0.5}, "seed"),
        ({"experiment": 3.5}, "experiment"), ({"experiment": ""}, "experiment"), ({"progress": 3}, "progress"),
        ({"output": 3}, "output"), ({"output": ""}, "output"), ({"network": 3}, "--network"),
    ],
)  # fmt: skip
def test_wrong_types_of_an_adaptation(given: dict[str, Any], option: str, here: Path) -> None:
    given = {"network": "streets", "video": "v.mp4"} | given
    said = refused(lambda: stpl.adapt(given.pop("network"), given.pop("video"), **given))
    assert said.startswith(f"{option}: ")
    assert not list(here.iterdir())  # nothing is begun


def test_a_missing_video_is_refused_before_the_network_is_opened(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpl.apply.library.open_network", pytest.fail)
    assert "no such video" in refused(lambda: stpl.adapt("streets", "missing.mp4"))
    assert not list(here.iterdir())


def test_what_is_shown_of_a_value_is_short() -> None:
    assert shown("x" * 1000).endswith("…")
    assert shown(None) == "nothing"
    assert shown(nn.ReLU()) == "a ReLU"
