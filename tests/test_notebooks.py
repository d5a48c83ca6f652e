"""The notebooks: committed with the outputs of their code or with none, and run from top to bottom on tiny runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from notebooks.execute import sources
from repository import REPOSITORY
from stpl.cli import main
from waiting import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.docs]

Outputs = list[dict[str, Any]]
MOST_BYTES = 600_000
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_with_the_outputs_of_its_code_and_short(path: Path) -> None:
    """Code that was edited since needs new outputs: `make notebooks`. No output holds a path of one machine.

    A notebook that was never run on the whole has no output at all.
    """
    notebook = read(path)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    whole = "outputs_of" in notebook.metadata
    assert notebook.metadata.get("outputs_of", sources(notebook)) == sources(notebook)
    counts = list(range(1, len(cells) + 1)) if whole else [None] * len(cells)
    assert [cell.execution_count for cell in cells] == counts
    assert bool(outputs) == whole
    for output in outputs:
        assert output.output_type != "error"
        assert not re.search(r"/(home|root|tmp|Users|work)/", said([output]))
    assert path.stat().st_size < MOST_BYTES
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert notebook.cells[0].source.startswith("# ")
    assert max(len(cell.source.splitlines()) for cell in notebook.cells) <= 30


def prepared(name: str, **parameters: object) -> list[nbformat.NotebookNode]:
    """The cells of a notebook with other parameters."""
    cells = list(read(REPOSITORY / "notebooks" / f"{name}.ipynb").cells)
    cell = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    assert all(f"{key} = " in cell.source for key in parameters)
    cell.source += "\n" + "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    for number, cell in enumerate(cells):
        cell.id = f"{name}-{number}"  # of all notebooks of a run, no two may be equal
    return cells


def execute(parts: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Outputs]:
    """Run notebooks one after the other; the outputs of each.

    One kernel serves all, since importing torch takes longest; no name survives from one notebook to the next.
    """
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    fresh = f"%reset -f\nimport os\nos.chdir({str(REPOSITORY / 'notebooks')!r})"
    cells = [[nbformat.v4.new_code_cell(fresh), *prepared(name, **given)] for name, given in parts.items()]  # type: ignore[no-untyped-call]
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
    parts: dict[str, dict[str, object]] = {
        "01_quickstart": {"runs": str(tiny_runs)},
        "02_feature_space": {"runs": str(tiny_runs)},
    }
    quickstart, features = execute(parts, tmp_path, monkeypatch)
    assert kinds(quickstart).count("image/jpeg") == 2
    assert "Table 3. Objective functions" in said(quickstart)
    assert kinds(features).count("image/jpeg") == 4


def test_notebooks_run_without_recorded_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In few steps, on few drives."""
    output = tmp_path / "out"
    parts: dict[str, dict[str, object]] = {
        "03_your_own_network": {"training_steps": 3, "steps": 2, "count": 2, "output": str(output / "own")},
        "04_pieces_in_your_loop": {"training_steps": 3, "steps": 2, "count": 4},
        "05_the_guard": {"steps": 2, "count": 2, "output": str(output / "guard")},
        "06_a_method": {"steps": 2, "drives": 4, "folder": str(output / "method")},
    }
    assert {path.stem for path in NOTEBOOKS} == {"01_quickstart", "02_feature_space", *parts}
    own, pieces, guard, method = execute(parts, tmp_path, monkeypatch)
    assert (output / "own/adapted/adapted.pt").is_file()
    assert "SmallNet" in said(own)
    assert "BatchNorm statistics alone" in said(pieces)
    assert said(guard).count(" * ") == 2
    assert re.search(r"sharper +\d+\.\d mIoU", said(method))
    assert [kinds(one).count("image/jpeg") for one in (own, pieces, guard)] == [1, 1, 1]
