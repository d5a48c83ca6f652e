"""The floors of the house: who may import whom, names that mean one thing, and how much there is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
SOURCE = REPOSITORY / "src" / "stpl"
PROGRAM = [*SOURCE.rglob("*.py"), *(REPOSITORY / "benchmarks").glob("*.py")]
MOST_LINES = 34_600
MOST_IGNORED_TYPES = 12
MOST_LONG_SIGNATURES = 30
"""Functions with more than five arguments (ruff's PLR0913). These three only fall: who makes it less, lowers it."""
FOUNDATION = {"errors", "evaluations", "files", "machine", "progress", "rows", "signals", "yaml_files"}
TENSORS = {"errors", "files", "data.clip", "data.label_space"}
RUNS = {*FOUNDATION, "data", "nn", "training", "methods", "pictures", "runs"}
# A package may import itself, and the packages and modules named here, all of which lie below it.
ALLOWED = {
    "errors": set(),
    "evaluations": set(),
    "files": {"errors"},
    "machine": set(),
    "progress": set(),
    "rows": {"errors", "files"},
    "signals": set(),
    "yaml_files": {"errors"},
    "option_types": {"errors", "yaml_files"},
    "arguments": {"errors", "option_types"},
    "data": FOUNDATION,
    "nn": {*TENSORS, "machine"},
    "losses": TENSORS,
    "metrics": TENSORS,
    "pictures": {"errors", "data.label_space", "data.paths"},
    "training": {
        *TENSORS,
        "evaluations",
        "progress",
        "rows",
        "data.augment",
        "data.augment_device",
        "data.pseudo_labels",
        "nn",
        "losses",
        "metrics",
    },
    "methods": {*TENSORS, "data.augment_device", "nn", "losses", "metrics", "training"},
    "runs": RUNS,
    "sweeps": {*FOUNDATION, "option_types", "runs"},
    "report": {*FOUNDATION, "pictures", "data.label_space", "runs", "sweeps"},
    "apply": {*RUNS, "option_types", "metrics"},
    "testing": {*RUNS, "losses"},
    "commands": {*RUNS, "arguments", "option_types", "apply", "report", "sweeps"},
    "cli": {"errors", "arguments", "commands"},
}
LIGHT = [
    *(f"commands.{path.stem}" for path in sorted((SOURCE / "commands").glob("[!_]*.py"))),
    "cli", "pictures.colours", "report", "report.dashboard", "rows", "runs.artifacts", "runs.charts", "runs.request",
    "sweeps.runner",
]  # fmt: skip
"""What must answer at once, so that importing it, with all that it imports, must not import torch: all verbs' files."""
NO_TRAINER = ("nn", "losses", "metrics")
IN_CIRCLES: set[tuple[str, str]] = set()
"""Imports that close a circle of files, each to go."""
SHARED_MODULES = {"fit", "network", "rows", "weights_statistics"}
"""Names that modules of two rooms have."""
SHARED_CLASSES: set[str] = set()
"""Names that public classes of two modules have, each to go."""


def files(package: str) -> list[Path]:
    single = SOURCE / f"{package}.py"
    return [single] if single.exists() else sorted((SOURCE / package).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
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


def test_light_modules_import_no_torch() -> None:
    """All in one process, which names the first that does."""
    names = ["stpl", *(f"stpl.{name}" for name in LIGHT)]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    if found := {{"torch", "lightning"}} & set(sys.modules):
        sys.exit(f"{{name}} imports {{found}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_predicts_imports_no_lightning() -> None:
    """Nor what only some commands use; Lightning and torchmetrics take three times as long as torch."""
    names = [f"stpl.apply.{name}" for name in ("export", "labelling", "library", "loaded", "resources")]
    heavy = {"lightning", "torchmetrics", "wandb", "optuna", "scipy", "matplotlib", "transformers"}
    code = f"import sys\nfor name in {names}:\n    __import__(name)\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def modules() -> dict[str, ast.Module]:
    """Every file of the package, by its name without `stpl.`; a room's `__init__` has the room's."""
    names = {
        path: path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".") for path in SOURCE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for path, name in names.items()}


def imported_files(node: ast.AST, files: Mapping[str, object]) -> Iterator[str]:
    """Which of the files a piece of code imports, in functions too, but not for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom):
            found = [f"{child.module}.{alias.name}" for alias in child.names]
        else:
            found = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
        for name in (name.removeprefix("stpl.") for name in found if name.startswith("stpl.")):
            yield name if name in files else name.rpartition(".")[0]
        yield from imported_files(child, files)


def test_no_circle_of_files_inside_rooms_or_behind_late_imports() -> None:
    trees = modules()
    graph = {name: set(imported_files(tree, trees)) & trees.keys() - {name} for name, tree in trees.items()}
    for one, other in IN_CIRCLES:
        graph.get(one, set()).discard(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}")


def test_a_name_means_one_thing() -> None:
    classes = defaultdict(set)
    files = defaultdict(set)
    for name, tree in modules().items():
        if not name.startswith("commands."):  # they are called as their verbs
            files[name.rpartition(".")[2]].add(name)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].add(name)
    rooms = set(ALLOWED) | {"__init__", "__main__"}
    for found, known in ((classes, SHARED_CLASSES), (files, SHARED_MODULES)):
        shared = {name for name, places in found.items() if len(places) > 1} - rooms
        assert shared <= known, {name: sorted(found[name]) for name in shared - known}


def test_the_program_gets_no_longer() -> None:
    texts = [path.read_text(encoding="utf-8") for path in PROGRAM]
    assert sum(len(text.splitlines()) for text in texts) <= MOST_LINES
    assert sum(text.count("type: ignore") for text in texts) <= MOST_IGNORED_TYPES
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=PLR0913", "--output-format=concise"]
    done = subprocess.run([*command, *PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.count("PLR0913") <= MOST_LONG_SIGNATURES


def test_every_room_says_what_lives_there() -> None:
    for path in SOURCE.glob("*/__init__.py"):
        said = ast.get_docstring(parsed(path)) or ""
        assert "Begin with" in said, path


def test_files_and_functions_stay_short() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(parsed(path)):
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
