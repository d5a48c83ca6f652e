"""The floors of the house: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "stpl"
FOUNDATION = {"errors", "files", "machine", "progress", "signals", "yaml_files"}
TENSORS = {"errors", "files", "data.clip", "data.label_space"}
RUNS = {*FOUNDATION, "data", "nn", "training", "methods", "pictures", "runs"}
# A package may import itself, and the packages and modules named here, all of which lie below it.
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "machine": set(),
    "progress": set(),
    "signals": set(),
    "yaml_files": {"errors"},
    "option_types": {"errors", "yaml_files"},
    "arguments": {"errors", "option_types"},
    "data": FOUNDATION,
    "nn": TENSORS,
    "losses": TENSORS,
    "metrics": TENSORS,
    "pictures": {"errors", "data.label_space", "data.paths"},
    "training": {*TENSORS, "progress", "data.pseudo_labels", "nn", "losses", "metrics"},
    "methods": {*TENSORS, "data.augment_device", "nn", "losses", "metrics", "training"},
    "runs": RUNS,
    "sweeps": {*FOUNDATION, "runs"},
    "report": {*FOUNDATION, "pictures", "data.label_space", "runs", "sweeps"},
    "apply": {*RUNS, "option_types", "metrics"},
    "testing": {*RUNS, "losses"},
    "commands": {*RUNS, "arguments", "option_types", "apply", "report", "sweeps"},
    "cli": {"errors", "arguments", "commands"},
}
LIGHT = [
    *(f"commands.{path.stem}" for path in sorted((SOURCE / "commands").glob("[!_]*.py"))),
    "cli", "pictures.colours", "report", "report.dashboard", "runs.artifacts", "runs.charts", "runs.request",
    "sweeps.worker",
]  # fmt: skip
"""What must answer at once, so that importing it, with all that it imports, must not import torch: all verbs' files."""
NO_TRAINER = ("nn", "losses", "metrics")


def files(package: str) -> list[Path]:
    single = SOURCE / f"{package}.py"
    return [single] if single.exists() else sorted((SOURCE / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"stpl.{alias.name}" for alias in node.names] if node.module == "stpl" else [node.module]
            yield from (name for name in names if name != "stpl.__version__")


def test_every_room_has_its_floor() -> None:
    rooms = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert rooms - {"__init__", "__main__"} == set(ALLOWED)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below(package: str) -> None:
    for path in files(package):
        for name in imports(path):
            if name.startswith("stpl."):
                inner = name.removeprefix("stpl.")
                allowed = {package, *ALLOWED[package]}
                assert any(inner == a or inner.startswith(f"{a}.") for a in allowed), f"{path} imports {name}"


@pytest.mark.parametrize("package", NO_TRAINER)
def test_torch_code_knows_no_lightning(package: str) -> None:
    for path in files(package):
        assert not any(name.split(".")[0] in ("lightning", "wandb") for name in imports(path)), path


@pytest.mark.parametrize("name", ["", *LIGHT])
def test_light_modules_import_no_torch(name: str) -> None:
    module = f"stpl.{name}".rstrip(".")
    code = f"import sys, {module}\nprint(sorted({{'torch', 'lightning'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_room_says_what_lives_there() -> None:
    for path in SOURCE.glob("*/__init__.py"):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert "Begin with" in said, path


def test_files_and_functions_stay_short() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.body[0].lineno + 1  # without signature
                if ast.get_docstring(node):
                    length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
                assert length <= 50, f"{path}: {node.name} has {length} lines"


def test_what_options_and_footage_decide_is_refused_without_torch(tmp_path: Path) -> None:
    calls = [
        ["adapt", "--network=streets", "--video=nothing.mp4"],
        ["adapt", "--network=nothing.ckpt", "--video=nothing.mp4"],
        ["adapt", "--network=streets", "--video=nothing.mp4", "--experiment=nothing"],
        ["predict", "--network=streets", "--video=nothing.mp4", "--out=labels"],
        ["export", "--network=nothing.ckpt", "--out=net.pt"],
        ["video", "--video=nothing.mp4", "--network=[streets]"],
        ["report", "--only=nothing"],
        ["sweep", "check", "nothing.yaml"],
    ]
    code = f"import sys\nfrom stpl.cli import main\nprint([main(call) for call in {calls}], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{[2] * len(calls)} False\n", done.stderr
    assert list(tmp_path.iterdir()) == []
