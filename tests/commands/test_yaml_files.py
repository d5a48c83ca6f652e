"""YAML files of a user's: one door, which nothing can hold open, and typed access to what they hold."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from stpl.errors import ConfigError
from stpl.runs.experiments import Catalogue, load_catalogue
from stpl.runs.request import Request
from stpl.yaml_files import load_yaml

LAUGHS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))
MERGED = "\n".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}" for i in range(1, 60))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x: 1\nmodel: &m {init_args: *m}\n", ":2: an anchor (&name) holds itself"),
        ("classes: &c [a, *c]\n", "holds itself"),
        ("a: &a {b: &b [1, {c: *a}], d: *b}\n", "holds itself"),
        ("a: &a\n  <<: *a\n  b: 1\n", "holds itself"),
        ("? &k [*k]\n: 1\n", "holds itself"),
        (f"a0: &a0 [1, 2]\n{LAUGHS}\n", ":5: aliases (*name) repeat more than 10,000 values"),
        (f"m0: &m0 {{k: 1}}\n{MERGED}\n", "aliases (*name) repeat more than 10,000 values"),
        ("a: " + "[" * 1000 + "]" * 1000 + "\n", "is nested too deeply"),
        ("a: 1\nb: 2020-13-45\n", ":2: '2020-13-45' is not a value of YAML's type timestamp"),
        ("a: !!int abc\n", ":1: 'abc' is not a value of YAML's type int"),
        ("a: !!bool maybe\n", "type bool"),
        ("a: !!binary ä\n", ":1: "),
        (f"a: {'9' * 5000}\n", ":1: '999"),
        (f"a: 0x{'f' * 3000}\n", "is too large a number"),
        ("? [a, b]\n: 1\n", ":1: "),
        ("? {a: b}\n: 1\n", ":1: "),
    ],
)
def test_what_nobody_could_read_is_refused_at_once(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert time.process_time() - began < 2
    assert fault in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count("\n") == 1
    assert len(str(caught.value)) < 500


def test_anchors_of_use_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "a: &a [1, 2]\nb: [*a, *a]\nc: {<<: &d {e: 1}, f: 2}\n" + "".join(f"n{i}: 1\n" for i in range(2000))
    )
    content = load_yaml(path)
    assert content["b"] == [[1, 2], [1, 2]]
    assert content["c"] == {"e": 1, "f": 2}


def test_what_is_no_file_of_settings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**30)
    (tmp_path / "loop").symlink_to("loop")
    told = {
        ".": "is a folder",
        "pipe": "is not a regular file",
        "/dev/zero": "is not a regular file",
        "picture.png": "not text in UTF-8",
        "large": "1,024 MiB",
        "loop": "cannot be read: ",
        "none.yaml": "cannot be read: No such file",
        "picture.png/x": "cannot be read: Not a directory",
    }
    for name, fault in told.items():
        with pytest.raises(ConfigError) as caught:
            load_yaml(tmp_path / name)
        assert fault in str(caught.value)
        assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "files", "where"),
    [
        (["--model=&m {init_args: *m}"], {}, "--model:1"),
        (["--optimizer.lr=&m [*m]"], {}, "--optimizer.lr:1"),
        (["--optimizer=a.yaml"], {"a.yaml": "x: &x [*x]\n"}, "a.yaml:1"),
        (["--optimizer=plain"], {"plain": "x: &x [*x]\n"}, "plain:1"),
        (["--trainer.callbacks=a.yml"], {"a.yml": "- &x [*x]\n"}, "a.yml:1"),
        (["-c", "a.yaml"], {"a.yaml": "x: &x [*x]\n"}, "a.yaml:1"),
        (["-c", "a.yaml"], {"a.yaml": "optimizer: b.yaml\n", "b.yaml": "\nx: &x [*x]\n"}, "b.yaml:2"),
        (["-c", "a.yaml"], {"a.yaml": "optimizer: a.yaml\nx: [\n"}, "a.yaml:3"),
    ],
)
def test_what_the_parser_would_follow_is_read_here_first(
    settings: list[str], files: dict[str, str], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        Request.parse(settings).arguments()
    assert str(caught.value.where) == where


def test_settings_that_only_look_like_anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("optimizer: a.yaml\n")  # which the parser tells of
    words = ["--run.tag=a & b * c", "--run.note=*x &y", f"--run.long={'&*' * 3000}", "-c", "a.yaml"]
    assert Request.parse(words).arguments()[-3:] == words[:3]


# --- tables.yaml ------------------------------------------------------------------------------------------------------

TABLES: dict[str, Any] = {
    "benchmarks": {"viper": "VIPER"},
    "paper_classes": {"viper": ["road", "sky"]},
    "experiments": {"source": {"overlays": ["method/source"]}},
    "tables": [
        {
            "id": "table9",
            "title": "Title",
            "citation": "a paper",
            "benchmark": "viper",
            "reference": "source",
            "bounds": ["source"],
            "controls": ["source"],
            "optional": True,
            "elsewhere": ["streets"],
            "rows": [
                {
                    "row": "Mine",
                    "experiment": "mine",
                    "overlays": ["method/mine"],
                    "needs": ["source"],
                    "paper": {"viper": 1.0},
                    "paper_iou": {"viper": [1.0, 2]},
                }
            ],
        }
    ],
}
WRONG: list[Any] = [
    None,
    True,
    5,
    1.5,
    float("nan"),
    float("inf"),
    "text",
    "",
    "a/b",
    [],
    ["x"],
    [["x"]],
    [None],
    [5],
    {},
]
WRONG += [{"x": "y"}, {5: "x"}, {None: []}, date(2020, 1, 1), {"a"}, b"bytes", 10**300]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*path, key))


def _read(folder: Path) -> Catalogue | str:
    """The catalogue, or why it is refused."""
    try:
        return load_catalogue([folder])
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("place", [place for place in _places(TABLES) if place], ids=str)
def test_a_wrong_type_anywhere_in_the_catalogue_is_one_line(tmp_path: Path, place: tuple[Any, ...]) -> None:
    """Each key in turn with a value of each wrong type: it is refused with the file, unless it is right after all."""
    path = tmp_path / "tables.yaml"
    for wrong in WRONG:
        content = copy.deepcopy(TABLES)
        parent: Any = content
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = wrong
        path.write_text(yaml.safe_dump(content))
        found = _read(tmp_path)
        if isinstance(found, str):
            assert str(path) in found
            assert found.count("\n") == 1
        else:
            texts = [*found.experiments, *found.benchmarks.values(), *(table.id for table in found.tables)]
            texts += [name for names in (*found.experiments.values(), *found.paper_classes.values()) for name in names]
            assert all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tables:\n  - {id: [a], rows: []}\n", "table ['a'], 'id': ['a'] is not a text"),
        ("paper_classes: {streets: 5}\ntables: []\n", "'paper_classes.streets': 5 is not a list"),
        ("experiments:\n  5: {overlays: [a]}\n", "'experiments': the key 5 is not a text\n  → write it in quotes: '5'"),
        ("experiments:\ntables: []\n", "'experiments': null is not a mapping"),
        ("tables: []\nexperiments: {a: {overlays: b}}\n", "experiments.a, 'overlays': 'b' is not a list"),
        ("tables: []\nexperiments: {a: [x]}\n", "experiments.a: ['x'] is not a mapping"),
        ("tables: []\nexperiments: {a: {overlays: [yes]}}\n", "True is not a text\n  → write it in quotes: 'true'"),
        ("tables: [{id: a, rows: [mine]}]\n", "table a, row '?': 'mine' is not a mapping"),
        ("tables: [{id: a, rows: [{row: x, paper: {viper: '5'}}]}]\n", "'5' is not a number, in 'paper.viper'"),
        ("tables: [{id: a, rows: [{row: x, paper: {viper: true}}]}]\n", "True is not a number, in 'paper.viper'"),
        ("tables: [{id: a, rows: [{row: x, paper: {viper: .nan}}]}]\n", "nan is not a number"),
        ("tables: [{id: a, rows: [{row: x, paper_iou: {viper: 5}}]}]\n", "'paper_iou.viper': 5 is not a list"),
        ("tables: [{id: ../a, rows: []}]\n", "'../a' cannot name a file"),
    ],
)  # fmt: skip
def test_a_wrong_type_names_its_key(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "tables.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_catalogue([tmp_path])
    assert fault in str(caught.value)
