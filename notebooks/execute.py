"""Runs notebooks from top to bottom and keeps their outputs in them: `python notebooks/execute.py [NAME …]`.

What they write to stderr is left out: progress and warnings with paths of one machine.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def sources(notebook: nbformat.NotebookNode) -> str:
    """A hash of the code of a notebook: outputs that were kept with another one are not of this code."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def execute(path: Path) -> None:
    """Run a notebook and write it with its outputs; raises nbclient's `CellExecutionError`."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=place, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["outputs_of"] = sources(notebook)
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


def main(names: Sequence[str]) -> None:
    """Run the notebooks of these names, or all."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            print(path.name, flush=True)
            execute(path)


if __name__ == "__main__":
    main(sys.argv[1:])
