"""A method of the user's own that cannot be imported or built, and settings without a class: one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stpl.cli import main

pytestmark = pytest.mark.slow

Arguments = Callable[..., list[str]]

METHOD = """
from stpl.methods import SelfTraining


class Mine(SelfTraining):
    def __init__(self, network=None, **options):
        {body}
"""


@pytest.fixture
def refused(
    tmp_path: Path, tiny_run: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], str]:
    """Writes overlays of one's own and a module; what `stpl fit` says of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(overlay: str, module: str = "") -> str:
        (tmp_path / "experiments/method").mkdir(parents=True)
        (tmp_path / "experiments/tables.yaml").write_text("experiments: {mine: {overlays: [method/mine]}}\n")
        (tmp_path / "experiments/method/mine.yaml").write_text(overlay)
        name = f"module_of_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(module)
        (tmp_path / "experiments/method/mine.yaml").write_text(overlay.replace("MODULE", name))
        assert main(["fit", *tiny_run("mine")]) == 2
        said = capsys.readouterr().err.replace(name, "MODULE")
        assert said.count("\n") == 2
        assert not list(tmp_path.rglob("result.json"))
        return said

    return run


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise KeyError('my own mistake')", "MODULE.py:7: Mine.__init__ raised KeyError: 'my own mistake'"),
        ("raise ValueError", "MODULE.py:7: Mine.__init__ raised ValueError: without a word"),
        (
            "super().__init__(network=network, optimizer=None, nonsense=1)",
            "raised TypeError: Method.__init__() got an unexpected keyword argument 'nonsense'",
        ),
        ("assert not options", "MODULE.py:7: Mine.__init__ raised AssertionError: without a word"),
        ("raise SystemExit(3)", "MODULE.py:7: Mine.__init__ ended the program with SystemExit: 3"),
    ],
)
def test_what_a_constructor_raises_is_said(refused: Callable[[str, str], str], body: str, told: str) -> None:
    assert told in refused("start_from: source\nmodel: {class_path: MODULE.Mine}\n", METHOD.format(body=body))


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("class Mine(:\n", "MODULE.py:1: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(0)\n", "MODULE.py:2: the module ended the program with SystemExit: 0"),
        (
            "import nonsense_package\n",
            "MODULE.py:1: the module raised ModuleNotFoundError: No module named 'nonsense_pa",
        ),
        ("{}['a']\n", "MODULE.py:1: the module raised KeyError: 'a'"),
        ("", "module 'MODULE' has no attribute 'Mine'"),
        ("Mine = dict\n", "MODULE.Mine does not correspond to a subclass of Method"),
    ],
)
def test_a_module_that_cannot_be_imported(refused: Callable[[str, str], str], module: str, told: str) -> None:
    assert told in refused("model: {class_path: MODULE.Mine}\n", module)


@pytest.mark.parametrize(
    ("overlay", "told"),
    [
        ("optimizer: {lr: 0.1}\n", "experiment mine: model: no class is named"),
        ("model: {init_args: {confident_proportion: 0.5}}\n", "experiment mine: model: no subclass of Method is named"),
    ],
)
def test_a_model_without_a_class(refused: Callable[..., str], overlay: str, told: str) -> None:
    said = refused(overlay)
    assert told in said
    assert "methods: " in said
    assert "SelfTraining" in said


@pytest.mark.parametrize(
    ("option", "name"), [("ensemble_from: [source]", "ensemble"), ("start_from: source", "checkpoint")]
)
def test_a_beginning_that_the_method_does_not_take(refused: Callable[..., str], option: str, name: str) -> None:
    body = "class Mine(SelfTraining):\n    def __init__(self, network=None):\n        super().__init__(network)\n"
    said = refused(f"{option}\nmodel: {{class_path: MODULE.Mine}}\n", f"from stpl.methods import SelfTraining\n{body}")
    assert f"{option.split(':')[0]}: MODULE.Mine takes no '{name}'" in said
