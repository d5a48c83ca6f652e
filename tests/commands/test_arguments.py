"""Options of a verb: what a text means depends on the option's type alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from stpl.arguments import Command
from stpl.errors import ConfigError
from stpl.option_types import Amount, Count, Natural, Size


def verb(
    words: list[Path] | None = None,
    *,
    video: Path | list[Path] | None = None,
    only: list[str] | None = None,
    output: Path | None = None,
    name: str | None = None,
    size: Size | None = None,
    mean: tuple[float, float, float] | None = None,
    arguments: dict[str, Any] | None = None,
    steps: Natural = 80,
    stride: Count = 1,
    seed: Natural = 0,
    batch_size: Count | None = None,
    lr: Amount | None = None,
    ids: bool = True,
    kind: Literal["dis", "raft"] | None = None,
) -> dict[str, Any]:
    """Take options.

    Args:
        words: text.
        video: text.
        only: text.
        output: text.
        name: text.
        size: text.
        mean: text.
        arguments: text.
        steps: text.
        stride: text.
        seed: text.
        batch_size: text.
        lr: text.
        ids: text.
        kind: text.
    """
    return {name: value for name, value in locals().items() if value is not None}


def given(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = Command(verb, "stpl verb").run(args)
    usual = {"steps": 80, "stride": 1, "seed": 0, "ids": True}
    return {name: value for name, value in found.items() if usual.get(name) != value}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--output=10,20"], {"output": Path("10,20")}),
        (["--output", "1"], {"output": Path("1")}),
        (["--output=#1: a"], {"output": Path("#1: a")}),
        (["--output=null"], {}),
        (["--name=1e3"], {"name": "1e3"}),
        (["--name=[a]"], {"name": "[a]"}),
        (["--video=0001"], {"video": Path("0001")}),
        (["--video=[0001,0002]"], {"video": [Path("0001"), Path("0002")]}),
        (["--video=[0x10, no]"], {"video": [Path("0x10"), Path("no")]}),
        (["--video=a", "--video", "b"], {"video": [Path("a"), Path("b")]}),
        (["--video=[]"], {"video": []}),
        (["--only=table3"], {"only": ["table3"]}),
        (["1", "2,3"], {"words": [Path("1"), Path("2,3")]}),
        (["--size=128,256"], {"size": (128, 256)}),
        (["--size=[128, 256]"], {"size": (128, 256)}),
        (["--mean=0,0,0"], {"mean": (0, 0, 0)}),
        (["--mean=0.485,1e1,.406"], {"mean": (0.485, 10.0, 0.406)}),
        (['--arguments={"a": "19", "b": "no", "c": null}'], {"arguments": {"a": "19", "b": "no", "c": None}}),
        (["--arguments={classes: 3}"], {"arguments": {"classes": 3}}),
        (["--steps=0", "--lr=1e-4", "--seed=3"], {"steps": 0, "lr": 1e-4, "seed": 3}),
        (["--ids", "false"], {"ids": False}),
        (["--steps=010"], {"steps": 10}),
        (["--size=null", "--arguments=null", "--video=null"], {}),
        (["--ids=false"], {"ids": False}),
        (["--ids=false", "a", "--stride=2", "b"], {"ids": False, "stride": 2, "words": [Path("a"), Path("b")]}),
        (["--batch-size=2", "--kind=raft"], {"batch_size": 2, "kind": "raft"}),
        (["--mean=-1,0,2"], {"mean": (-1, 0, 2)}),
    ],
)
def test_a_text_is_what_its_option_takes(args: list[str], expected: dict[str, Any]) -> None:
    assert given(*args) == expected


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--video="], "--video: has no value"),
        (["--output", ""], "--output: has no value"),
        (["--lr"], "--lr: has no value"),
        (["--output=a", "--output=b"], "--output: is given twice"),
        (["--video=[{a: 1}]"], "--video: '[{a: 1}]' is no list of names"),
        (["--video=[a, '']"], "is no list of names"),
        (["--arguments=5"], "--arguments: '5' is no mapping"),
        (["--arguments={1: 2}"], "is no mapping"),
        (["--size=64x96"], "size"),
        (["--size=-64,96"], "--size: -64 is not 1 or more"),
        (["--size=0,96"], "--size: 0 is not 1 or more"),
        (["--stride=0"], "--stride: 0 is not 1 or more"),
        (["--stride=-1"], "--stride: -1 is not 1 or more"),
        (["--batch_size=0"], "--batch_size: 0 is not 1 or more"),
        (["--steps=-1"], "--steps: -1 is not 0 or more"),
        (["--lr=-1"], "--lr: -1 is not 0 or more"),
        (["--lr=inf"], "--lr: inf is not finite"),
        (["--sead=1"], "did you mean --seed?"),
        (["--kind=rafd"], "--kind: unknown value 'rafd'\n  → did you mean 'raft'?"),
        (["--steps=1:30"], "steps"),
        (["--steps=2024-13-45"], "steps"),
        ([f"--steps={'[' * 5000}"], "steps"),
        (["a.yaml", "--words=b.yaml"], "--words: is given twice"),
        (['--arguments={"a": 1, "a": 2}'], "given twice"),
    ],
)
def test_what_an_option_does_not_take_is_refused_by_its_name(args: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        given(*args)
    assert said in str(error.value)


def test_a_file_whose_name_looks_like_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("[a,b]").mkdir()
    assert given("--video=[a,b]") == {"video": Path("[a,b]")}
