"""The arrows of the house: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "stpl"
# A package may import itself, the packages named here, and the modules at the top that are named here.
ALLOWED = {
    "errors": set(),
    "machine": set(),
    "record": {"errors"},
    "experiments": {"errors"},
    "data": {"errors", "machine"},
    "nn": {"errors", "data.clip", "data.label_space"},
    "losses": {"errors", "data.clip", "data.label_space"},
    "metrics": {"errors", "data.clip", "data.label_space"},
    "methods": {"errors", "data.clip", "data.label_space", "nn", "losses", "metrics"},
    "sweeps": {"errors", "machine", "record", "experiments"},
    "report": {"errors", "record", "experiments", "data.label_space"},
}
NO_TORCH = (
    "record",
    "experiments",
    "sweeps",
    "report",
    "request",
    "cli",
    "errors",
    "machine",
    "arguments",
    "charts",
    "dashboard",
)
NO_TRAINER = ("nn", "losses", "metrics")


def files(package: str) -> list[Path]:
    single = SOURCE / f"{package}.py"
    return [single] if single.exists() else sorted((SOURCE / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


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


@pytest.mark.parametrize("package", NO_TORCH)
def test_light_modules_import_no_torch(package: str) -> None:
    for path in files(package):
        assert not any(name.split(".")[0] in ("torch", "lightning", "cv2") for name in imports(path)), path


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    assert {path for path, length in lengths.items() if length > 400} == set()
