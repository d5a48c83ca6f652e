"""The notebooks: committed clean, and run from top to bottom on tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from repository import REPOSITORY
from stpl.cli import main
from waiting import PATIENCE

pytestmark = pytest.mark.slow

Outputs = list[dict[str, Any]]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs_and_short(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert notebook.cells[0].source.startswith("# ")
    assert max(len(cell.source.splitlines()) for cell in notebook.cells) <= 30


def prepared(name: str, **parameters: object) -> list[nbformat.NotebookNode]:
    """The cells of a notebook with other parameters."""
    cells = list(read(REPOSITORY / "notebooks" / f"{name}.ipynb").cells)
    cell = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    assert all(f"{key} = " in cell.source for key in parameters)
    cell.source += "\n" + "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    return cells


def execute(parts: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Outputs]:
    """Run notebooks one after the other; the outputs of each.

    One kernel serves all, since importing torch takes longest; no name survives from one notebook to the next.
    """
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = [[nbformat.v4.new_code_cell("%reset -f"), *prepared(name, **given)] for name, given in parts.items()]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=[cell for part in cells for cell in part])  # type: ignore[no-untyped-call]
    place = {"metadata": {"path": str(REPOSITORY / "notebooks")}}
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=place).execute()
    return [[output for cell in part if cell.cell_type == "code" for output in cell.outputs] for part in cells]


def kinds(outputs: Outputs) -> list[str]:
    return [kind for output in outputs for kind in output.get("data", {})]


def said(outputs: Outputs) -> str:
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.fixture
def tiny_runs(tiny_run: Callable[..., list[str]], tmp_path: Path) -> Path:
    """Recorded runs of seconds under the experiments' own names."""
    assert main(["fit", *tiny_run("source", steps=2)]) == 0
    for experiment in ("source_only", "batchnorm_statistics", "stpl"):
        assert main(["fit", *tiny_run(experiment, steps=2)]) == 0
    return tmp_path / "runs"


def test_notebooks_run_on_recorded_runs(tiny_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, output = tiny_runs / "streets/source/seed0/checkpoints/last.ckpt", tmp_path / "adapted"
    parts: dict[str, dict[str, object]] = {
        "01_quickstart": {"runs": str(tiny_runs)},
        "02_feature_space": {"runs": str(tiny_runs)},
        "03_your_own_video": {"checkpoint": str(checkpoint), "output": str(output), "steps": 2},
    }
    assert list(parts) == [path.stem for path in NOTEBOOKS]
    quickstart, features, adapted = execute(parts, tmp_path, monkeypatch)
    assert kinds(quickstart).count("image/png") == 2
    assert "Table 3. Objective functions" in said(quickstart)
    assert kinds(features).count("image/png") == 4
    assert (output / "adapted.ckpt").stat().st_size > 0
    assert "returned" in said(adapted)
    assert kinds(adapted).count("image/png") == 1
